"""The headline: leaves and held-out hypernyms of every cell, in F1 and AUC (with Qwen3-8B: Table 5 of the paper)."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.beside_paper import References, references
from analysis.cells import Names, condition_of, lines_of, parts, setup_of, shown_runs
from analysis.figures.style import (
    DOUBLE,
    GREY,
    PERMUTED,
    SINGLE,
    Drawn,
    Look,
    grid,
    legend,
    level_lines,
    look_of,
    paper_keys,
    permuted_key,
    plot_published,
    row_title,
    style,
)
from analysis.published import published_rows
from analysis.study import Study
from analysis.words import number

BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.2}  # keeps numbers readable on lines
HALF = 0.26  # of a cell's bar, in cells
FEWEST = 3.2  # cells that a panel is wide, however few it has


@dataclass(frozen=True)
class Dots:
    """The runs of one cell. permuted, published: NaN where there is none."""

    name: str
    look: Look
    values: pd.Series  # per run
    permuted: float = np.nan
    published: float = np.nan


def strip(ax: Axes, cells: Sequence[Dots], number: str, lift: float, places: Sequence[float] | None = None) -> None:
    """Draw `cells` from left to right, at `places` on the x axis if given; `number` formats the means.

    `lift`: how far above the dots the number stands, in units of the y axis.
    """
    places = range(len(cells)) if places is None else places
    if all(cell.values.isna().all() for cell in cells):
        ax.text(0.5, 0.9, "no such questions", transform=ax.transAxes, ha="center", color=GREY)
    for x, cell in zip(places, cells, strict=True):
        values = cell.values.dropna().to_numpy(float)
        look = cell.look
        ax.hlines(cell.permuted, x - HALF, x + HALF, color=PERMUTED, lw=2.6, zorder=1)
        if np.isfinite(cell.published):
            plot_published(ax, [x], [cell.published], look, cell.name)
        if len(values) == 0:
            continue
        aside = np.linspace(-0.13, 0.13, len(values)) if len(values) > 1 else np.zeros(1)
        ax.hlines(values.mean(), x - HALF, x + HALF, color=look.colour, lw=1.6, zorder=3)
        ax.plot(x + aside, values, look.marker, color=look.colour, mec=look.ink, mew=0.5, zorder=4, label=cell.name)
        ax.text(
            x, np.nanmax([values.max(), cell.published]) + lift, number.format(values.mean()), color=look.ink,
            ha="center", va="bottom", fontweight="bold", bbox=BEHIND,
        )  # fmt: skip
    ax.set_xticks(list(places), [cell.name for cell in cells])
    middle, half = (min(places) + max(places)) / 2, max((max(places) - min(places)) / 2 + 0.6, FEWEST / 2)
    ax.set_xlim(middle - half, middle + half)
    ax.tick_params(axis="x", length=0)


def cells_text(what: str, cells: Sequence[Dots], decimals: int) -> str:
    """The means of `cells` in one sentence."""
    known = [cell for cell in cells if cell.values.notna().any()]
    means = [f"{' '.join(cell.name.split())} {number(cell.values.mean(), decimals)}" for cell in known]
    return f"{what}: {', '.join(means) if means else 'no such questions'}."


def f1_limits(cells: Sequence[Dots], lines: Iterable[float]) -> tuple[float, float]:
    """Limits of a y axis in points of F1: from 20 if nothing lies near it, with space for the numbers above."""
    low = [value for cell in cells for value in (cell.values.min(), cell.permuted, cell.published)]
    return 20.0 if np.nanmin([*low, *lines, 100]) > 24 else 0.0, 109.0


PANELS = (("leaf", "Leaves (trained)"), ("heldout", "Held-out hypernyms"))
LIFT = 4  # of the numbers above the dots, in points of F1
HEIGHT = 1.9  # inches per row
SCORED = {"verify": "p(yes)", "name": "names’ scores"}

Panel = Callable[[Axes, list[Dots], pd.DataFrame], None]


def main_figure(study: Study, panels: Sequence[tuple[str, str]] = PANELS) -> Drawn:
    """Macro F1 of leaves and held-out hypernyms: a panel each, a row per setup."""
    runs = shown_runs(study.runs)
    beside = references(runs, study.categories)

    def panel(ax: Axes, cells: list[Dots], scores: pd.DataFrame) -> None:
        lines = {"fair coin": scores["coin_f1"].mean(), "majority": scores["majority_f1"].mean()}
        level_lines(ax, lines, gap=8)
        strip(ax, cells, "{:.0f}", LIFT)
        ax.set_ylim(*f1_limits(cells, lines.values()))

    figure, alt = _rows(study, runs, "macro_f1", "macro F1 (test)", panel, beside, panels)
    caption = (
        "Macro F1 on test images, mean over categories, by the labels of the images; the LM is pretrained unless named "
        "otherwise. One dot per run, bar and number at their mean. Grey bars: the same runs’ answers permuted within "
        "each category. Lines: a fair coin, and the more frequent answer of each category, on these very questions."
    )
    return Drawn(figure, "Macro F1 of leaves and held-out hypernyms", caption + beside.caption, alt)


def headline_figure(study: Study) -> Drawn:
    """The held-out half of the main figure, as narrow as a phone or one column."""
    drawn = main_figure(study, PANELS[1:])
    return replace(drawn, title="Macro F1 of held-out hypernyms")


def auc_figure(study: Study) -> Drawn:
    """AUC of p(yes), or of a name's score, which a bias to one answer does not move; drawn like the main figure."""
    runs = shown_runs(study.runs)
    what = " and ".join(said for task, said in SCORED.items() if (runs["task"] == task).any())

    def panel(ax: Axes, cells: list[Dots], scores: pd.DataFrame) -> None:
        level_lines(ax, {"chance": 0.5}, gap=0.06)
        strip(ax, cells, "{:.2f}", 0.018)
        ax.set_ylim(np.nanmin([0.38, scores["auc"].min() - 0.05]), 1.07)

    figure, alt = _rows(study, runs, "auc", f"AUC of {what} (test)", panel, References({}))
    caption = (
        f"Area under the ROC curve of {what}, mean over categories, by the labels of the images; the LM is pretrained "
        "unless named otherwise. One dot per run, bar and number at their mean. A model that says “no” too often loses "
        "F1 but not AUC."
    )
    return Drawn(figure, "AUC of leaves and held-out hypernyms", caption, alt)


def _rows(
    study: Study,
    runs: pd.DataFrame,
    score: str,
    ylabel: str,
    panel: Panel,
    beside: References,
    panels: Sequence[tuple[str, str]] = PANELS,
) -> tuple[Figure, str]:
    """A row per setup, leaves on the left and held-out hypernyms on the right; and what it shows in words."""
    setups, said = parts(runs, setup_of), []
    with style():
        figure, axes = grid(len(setups), len(panels), DOUBLE if len(panels) > 1 else SINGLE, height=HEIGHT)
        for row, (setup, here) in zip(axes, setups.items(), strict=True):
            named = study.names.setup(setup)
            for ax, (group, title) in zip(row, panels, strict=True):
                scores = study.test(group).loc[here.index]
                cells = _cells(study.names, here, scores, score, group, beside)
                panel(ax, cells, scores)
                ax.set_title(title)
                ax.set_ylabel(ylabel)
                name = ", ".join(filter(None, [title, named]))
                said.append(cells_text(name, cells, 1 if score == "macro_f1" else 2))
            if named:
                row_title(row[0], named)
        handles = [permuted_key()] * (score == "macro_f1") + paper_keys(beside.name)
        if handles:
            legend(figure, handles)
    return figure, " ".join(said)


def _cells(
    names: Names,
    runs: pd.DataFrame,
    scores: pd.DataFrame,
    score: str,
    group: str,
    beside: References,
) -> list[Dots]:
    cells = []
    found = parts(runs, condition_of)
    for line in lines_of(runs):
        own = found[line]
        name = textwrap.fill(names.key(*line), 13)
        permuted = float(scores.loc[own.index, "permuted_f1"].mean()) if score == "macro_f1" else np.nan
        published = published_f1(own, group, beside)
        cells.append(Dots(name, look_of(*line), scores.loc[own.index, score], permuted, published))
    return cells


def published_f1(cell: pd.DataFrame, group: str, beside: References) -> float:
    """The paper's macro F1 (points) beside the runs of one cell; NaN where it has none."""
    run = cell.iloc[0]
    reference = beside.of(run)
    if reference is None or run["cell"].labels.partial:
        return np.nan
    found = published_rows(
        lm=reference.lm, encoder=reference.encoder, lm_init=run["lm_init"], shuffle=run["shuffle"],
        kind=run["ablation_kind"], ablation=run["ablation"], group=group, over="all",
    )  # fmt: skip
    return float(found["f1"].iloc[0]) if len(found) else np.nan
