"""Held-out scores of the runs beside the yardsticks on the same questions, one row per name."""

import textwrap
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.conditions import LM_NAMES, arms_of, setups_of, shown_runs
from analysis.drawing import COLOURS, GREY, INK, MARKERS, STYLE, as_svg
from analysis.study import Study
from analysis.yardsticks import YARDSTICKS

SIGHT = "#009E73"
LOOKS = {  # yardstick: colour, marker
    "knn": (SIGHT, "^"),
    "knn_whitened": (SIGHT, "v"),
    "composition": ("#7a5195", "P"),
    "oracle": (GREY, "s"),
}
PANELS = (("macro_f1", "held-out macro F1", "{:.0f}"), ("auc", "held-out AUC", "{:.2f}"))
ROW = 0.235  # inches


class _Row(NamedTuple):
    name: str
    colour: str
    marker: str
    values: pd.DataFrame  # one row per run (of the LM) or per different value (of a yardstick): macro_f1, auc


def yardstick_figure(study: Study) -> str | None:
    """A block per setup and arm: its LMs, a dot per run, then the yardsticks; None where there is no yardstick."""
    scores = study.yardstick_scores
    if scores.empty:
        return None
    runs = shown_runs(study.runs)
    own = study.test("heldout")
    blocks: list[tuple[str, list[_Row]]] = []
    for setup in setups_of(runs):
        here = runs[runs["setup"] == setup]
        for arm in arms_of(here):
            rows = _rows(here[here["arm"] == arm], own, scores)
            if rows:
                blocks.append((", ".join(filter(None, [arm, setup])), rows))
    if not blocks:
        return None
    height = ROW * sum(len(rows) + 1.6 for _, rows in blocks) + 0.75
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x", "axes.spines.left": False}):
        figure = Figure(figsize=(9.6, height), layout="constrained")
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for ax, (score, label, number) in zip(axes, PANELS, strict=True):
            _panel(ax, blocks, score, number, named=score == PANELS[0][0])
            ax.set_xlabel(label)
            ax.patch.set_visible(False)  # a long title on the left reaches below the panel on the right
        return as_svg(figure)


def _rows(runs: pd.DataFrame, own: pd.DataFrame, scores: pd.DataFrame) -> list[_Row]:
    rows = []
    here = scores[scores["run_id"].isin(runs.index) & (scores["group"] == "heldout")]
    for lm_init, colour in COLOURS.items():
        values = own.loc[runs.index[runs["lm_init"] == lm_init], ["macro_f1", "auc"]].dropna(how="all")
        if len(values):
            rows.append(_Row(LM_NAMES[lm_init], colour, MARKERS[lm_init], values))
    lm_of = here["run_id"].map(runs["lm_init"])
    for name, (colour, marker) in LOOKS.items():
        # Only the composition differs between LMs; the others are one and the same for all runs with equal questions.
        lms = [(lm_of == lm_init, lm_init) for lm_init in COLOURS] if name == "composition" else [(lm_of != "", "")]
        for chosen, lm_init in lms:
            values = here.loc[chosen & (here["yardstick"] == name), ["macro_f1", "auc"]].drop_duplicates()
            if len(values):
                random = f", {LM_NAMES[lm_init]}" if lm_init == "random" else ""
                rows.append(_Row(YARDSTICKS[name] + random, colour, marker, values))
    return rows if len(here) else []


def _panel(ax: Axes, blocks: list[tuple[str, list[_Row]]], score: str, number: str, named: bool) -> None:
    place = 0.0
    ticks: list[float] = []
    names: list[str] = []
    colours: list[str] = []
    for title, rows in blocks:
        if named:
            # Long names of setups must not squeeze the panels.
            ax.text(
                0, place, textwrap.shorten(title, 100, placeholder=" ..."), transform=ax.get_yaxis_transform(),
                fontweight="bold", color=INK, va="center", in_layout=False,
            )  # fmt: skip
        for row in rows:
            place += 1
            values = row.values[score].dropna()
            ticks.append(place)
            names.append(row.name)
            colours.append(row.colour)
            if values.empty:
                continue
            ax.plot(values, [place] * len(values), row.marker, color=row.colour, mec="white", ms=6.5, zorder=3)
            ax.annotate(
                number.format(values.mean()), (1, place), xycoords=ax.get_yaxis_transform(), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=9, color=row.colour,
            )  # fmt: skip
        place += 1.6
    if score == "auc":
        ax.axvline(0.5, color=GREY, lw=1.1, ls=(0, (5, 3)), zorder=0)
    if named:  # the panels share this axis
        ax.set_yticks(ticks, names)
        for label, colour in zip(ax.get_yticklabels(), colours, strict=True):
            label.set_color(colour)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(place - 0.9, -0.8)
