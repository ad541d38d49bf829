"""Held-out scores of the runs beside the yardsticks on the same questions, one row per name."""

import textwrap
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.cells import LM_NAMES, Labels, parts, shown_runs
from analysis.figures.style import (
    COIN_DASH,
    DOUBLE,
    GREY,
    INIT_LOOKS,
    INK,
    SMALL,
    Drawn,
    Look,
    NotDrawnError,
    look_of,
    style,
)
from analysis.study import Study
from analysis.words import YARDSTICKS, number

LOOKS = {  # of the yardsticks: no conditions, so without colour
    "knn": Look(INK, INK, "<"),
    "knn_whitened": Look(INK, INK, ">"),
    "composition": Look(GREY, GREY, "p"),
    "oracle": Look("#a8a8a8", GREY, "h"),
}
PANELS = {"macro_f1": ("held-out macro F1", 0), "auc": ("held-out AUC", 2)}  # label, decimals
ROW = 0.165  # inches


class _Row(NamedTuple):
    name: str
    look: Look
    values: pd.DataFrame  # one row per run (of the LM) or per different value (of a yardstick): macro_f1, auc


def yardstick_figure(study: Study) -> Drawn:
    """A block per setup and labels: its LMs, a dot per run, then the yardsticks. Raises NotDrawnError without any."""
    scores = study.yardstick_scores
    runs = shown_runs(study.runs)
    own = study.test("heldout")
    names = study.names
    blocks: list[tuple[str, list[_Row]]] = []
    found = parts(runs, lambda cell: (cell.setup, cell.labels)) if len(scores) else {}
    for (setup, labels), here in found.items():
        rows = _rows(here, labels, own, scores)
        if rows:
            blocks.append((", ".join(filter(None, [names.labels(labels), names.setup(setup)])), rows))
    if not blocks:
        raise NotDrawnError("The yardsticks need the feature store and the dataset of the runs, or a text probe.")
    height = ROW * sum(len(rows) + 1.6 for _, rows in blocks) + 0.6
    with style({"axes.grid.axis": "x", "axes.spines.left": False}):
        figure = Figure(figsize=(DOUBLE, height), layout="constrained")
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for ax, (score, (label, decimals)) in zip(axes, PANELS.items(), strict=True):
            _panel(ax, blocks, score, decimals, named=ax is axes[0])
            ax.set_xlabel(label)
            ax.patch.set_visible(False)
        axes[0].set_zorder(1)  # a long title on the left lies over the panel on the right
    caption = (
        "Held-out test questions, means over hypernyms. One dot per run, or per set of questions for the yardsticks; "
        "numbers are means. Dashed: chance."
    )
    return Drawn(figure, "Runs beside yardsticks", caption, _text(blocks))


def _text(blocks: list[tuple[str, list[_Row]]]) -> str:
    said = []
    for title, rows in blocks:
        means = [f"{row.name} {number(row.values['macro_f1'].mean())}" for row in rows]
        said.append(f"{title[0].upper()}{title[1:]}, held-out macro F1: {', '.join(means)}.")
    return " ".join(said)


def _rows(runs: pd.DataFrame, labels: Labels, own: pd.DataFrame, scores: pd.DataFrame) -> list[_Row]:
    rows = []
    here = scores[scores["run_id"].isin(runs.index) & (scores["group"] == "heldout")]
    for lm_init in INIT_LOOKS:
        values = own.loc[runs.index[runs["lm_init"] == lm_init], ["macro_f1", "auc"]].dropna(how="all")
        if len(values):
            rows.append(_Row(LM_NAMES[lm_init], look_of(lm_init, labels), values))
    lm_of = here["run_id"].map(runs["lm_init"])
    for name, look in LOOKS.items():
        # Only the composition differs between LMs; the others are one and the same for all runs with equal questions.
        lms = [(lm_of == lm_init, lm_init) for lm_init in INIT_LOOKS] if name == "composition" else [(lm_of != "", "")]
        for chosen, lm_init in lms:
            values = here.loc[chosen & (here["yardstick"] == name), ["macro_f1", "auc"]].drop_duplicates()
            if len(values):
                random = f", {LM_NAMES[lm_init]}" if lm_init == "random" else ""
                rows.append(_Row(YARDSTICKS[name] + random, look, values))
    return rows if len(here) else []


def _panel(ax: Axes, blocks: list[tuple[str, list[_Row]]], score: str, decimals: int, named: bool) -> None:
    place = 0.0
    ticks: dict[float, _Row] = {}
    for title, rows in blocks:
        if named:
            # Long names of setups must not squeeze the panels.
            ax.text(
                0, place, textwrap.shorten(title, 100, placeholder=" ..."), transform=ax.get_yaxis_transform(),
                fontweight="bold", color=INK, va="center", in_layout=False,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        for row in rows:
            place += 1
            values = row.values[score].dropna()
            ticks[place] = row
            if values.empty:
                continue
            look = row.look
            ax.plot(values, [place] * len(values), look.marker, color=look.colour, mec=look.ink, mew=0.5, zorder=3)
            ax.annotate(
                number(values.mean(), decimals), (1, place), xycoords=ax.get_yaxis_transform(), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=SMALL, color=look.ink,
            )  # fmt: skip
        place += 1.6
    if score == "auc":
        ax.axvline(0.5, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
    if named:  # the panels share this axis
        ax.set_yticks(list(ticks), [row.name for row in ticks.values()])
        for label, row in zip(ax.get_yticklabels(), ticks.values(), strict=True):
            label.set_color(row.look.ink)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(place - 0.9, -0.8)
