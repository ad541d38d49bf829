"""Figures 8 and 9 of the paper: how many hypernyms a leaf has, and how many leaves a hypernym has."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import INK, LOOKS, SINGLE, SMALL, Drawn, Look, NotDrawnError, plot_published, style
from analysis.published import HYPERNYMS_PER_LEAF, published_hypernyms
from analysis.study import Study
from engine.design.stats import distributions

BAR = LOOKS["original"].colour
RING = Look(INK, INK, "o")
RINGS = " Open markers: the paper’s counts."


def write_data_figures(out: Path, counted: Mapping[str, pd.DataFrame]) -> None:
    """Write both figures as SVG, PDF and PNG into `out`; `counted` as from `crosstax stats`."""
    hypernyms = counted["leaves_per_hypernym"]
    beside = same_hypernyms(hypernyms["hypernym"])
    hypernyms_per_leaf_figure(counted["hypernyms_per_leaf"], beside).write(out, "hypernyms_per_leaf")
    leaves_per_hypernym_figure(hypernyms, beside).write(out, "leaves_per_hypernym")


def same_hypernyms(names: pd.Series) -> bool:
    """Whether a taxonomy has the paper's hypernyms, all of them and no others."""
    return set(names) == set(published_hypernyms().index)


def hypernyms_per_leaf_figure(table: pd.DataFrame, beside: bool = False) -> Drawn:
    """Bars of how many leaves (columns hypernyms, leaves) have one hypernym, two, ...; `beside` the paper's counts."""
    with style():
        figure = Figure(figsize=(SINGLE, 2.3), layout="constrained")
        ax = figure.subplots()
        ax.bar(table["hypernyms"], table["leaves"], color=BAR, width=0.7)
        ends = table["leaves"]
        if beside:
            plot_published(ax, list(HYPERNYMS_PER_LEAF), list(HYPERNYMS_PER_LEAF.values()), RING, "leaves", ms=5)
            ends = ends.clip(lower=table["hypernyms"].map(HYPERNYMS_PER_LEAF).fillna(0))
        for place, number, end in zip(table["hypernyms"], table["leaves"], ends, strict=True):
            _number(ax, number, (place, end), (0, 5 if beside else 1), "center", "bottom")
        ax.set_xticks(table["hypernyms"])
        ax.set_xlabel("hypernyms of a leaf")
        ax.set_ylabel("leaves")
        ax.margins(y=0.12)
    counts = ", ".join(f"{row.leaves:,} with {row.hypernyms}" for row in table.itertuples())
    caption = "Number of leaves by how many hypernyms they have." + RINGS * beside
    return Drawn(figure, "Hypernyms per leaf", caption, f"Leaves by number of hypernyms: {counts}.", "Figure 8")


def leaves_per_hypernym_figure(table: pd.DataFrame, beside: bool = False) -> Drawn:
    """One bar per hypernym (columns hypernym, leaves), most leaves on top; `beside` the paper's counts."""
    with style({"axes.grid.axis": "x"}):
        figure = Figure(figsize=(SINGLE, 0.6 + 0.135 * len(table)), layout="constrained")
        ax = figure.subplots()
        places = range(len(table))
        ax.barh(places, table["leaves"], color=BAR, height=0.7)
        ends = table["leaves"]
        if beside:
            paper = table["hypernym"].map(published_hypernyms()["leaves"])
            plot_published(ax, paper, places, RING, "leaves", ms=5)
            ends = ends.clip(lower=paper)
        for place, number, end in zip(places, table["leaves"], ends, strict=True):
            _number(ax, number, (end, place), (6 if beside else 2, 0), "left", "center")
        ax.set_yticks(places, table["hypernym"])
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("leaves of a hypernym")
        ax.margins(x=0.1, y=0.01)
    most, least = table.iloc[0], table.iloc[-1]
    alt = (
        f"Leaves of {len(table)} hypernyms, from {most['leaves']:,} ({most['hypernym']}) to {least['leaves']:,} "
        f"({least['hypernym']})."
    )
    return Drawn(figure, "Leaves per hypernym", "Number of leaves of each hypernym." + RINGS * beside, alt, "Figure 9")


def _number(
    ax: Axes, number: int, at: tuple[float, float], aside: tuple[float, float], across: str, along: str
) -> None:
    """The height of a bar beside its end."""
    ax.annotate(
        f"{number:,}", at, xytext=aside, textcoords="offset points", ha=across, va=along, fontsize=SMALL, color=INK
    )  # fmt: skip


def hypernyms_figure(study: Study) -> Drawn:
    """Figure 8 of the first dataset of a study. Raises NotDrawnError where it cannot be found any more."""
    counted = _counted(study, "Figure 8")
    beside = same_hypernyms(counted["leaves_per_hypernym"]["hypernym"])
    return hypernyms_per_leaf_figure(counted["hypernyms_per_leaf"], beside)


def leaves_figure(study: Study) -> Drawn:
    """Figure 9 of the first dataset of a study. Raises NotDrawnError where it cannot be found any more."""
    table = _counted(study, "Figure 9")["leaves_per_hypernym"]
    return leaves_per_hypernym_figure(table, same_hypernyms(table["hypernym"]))


def _counted(study: Study, figure: str) -> dict[str, pd.DataFrame]:
    found = study.sweep.inputs.dataset(study.sweep.opened[str(study.runs.index[0])])
    if found is None:
        raise NotDrawnError(f"{figure} needs the dataset of the runs, which is not where they found it.")
    return distributions(found[1])
