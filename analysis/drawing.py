"""What all figures share: style, colours, grids and grey lines. No pyplot, no global state; equal inputs, equal bytes.

Colours are Okabe and Ito's, told apart with any colour vision, and marker shapes repeat what colour says.
"""

import io
import textwrap
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from analysis.conditions import LM_NAMES, arms_of, setups_of

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so text has the same width everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": "#333333",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "svg.hashsalt": "crosstax",
}
COLOURS = {"pretrained": "#0072B2", "random": "#D55E00"}
ARM_COLOURS = {"original": "#0072B2", "across": "#D55E00", "within": "#009E73", "swap": "#CC79A7"}
MARKERS = {"pretrained": "o", "random": "D"}
ARM_MARKERS = {"original": "o", "across": "s", "within": "^", "swap": "v"}
GREY = "#6b6b6b"
PERMUTED = "#b4b4b4"
INK = "#333333"
OUTLINE = [withStroke(linewidth=3, foreground="white")]  # keeps numbers readable on lines
PANEL_HEIGHT = 3.3  # inches per row of panels


def chance_lines(ax: Axes, lines: dict[str, float], gap: float) -> None:
    """Grey lines across the panel, named at its right edge."""
    known = {name: value for name, value in lines.items() if np.isfinite(value)}
    styles = [(0, (5, 3)), (0, (1, 2))]
    for (name, value), height, style in zip(known.items(), spread(list(known.values()), gap), styles, strict=False):
        ax.axhline(value, color=GREY, lw=1.1, ls=style, zorder=0)
        ax.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=9, color=GREY,
        )  # fmt: skip


def lm_legend(figure: Figure, runs: pd.DataFrame, permuted: bool) -> None:
    """Which colour is which LM, above the panels."""
    handles = [
        Line2D([], [], marker=MARKERS[name], color=colour, mec="white", ms=8, lw=2.2, label=LM_NAMES[name])
        for name, colour in COLOURS.items()
        if (runs["lm_init"] == name).any()
    ]
    if permuted:
        handles.append(Line2D([], [], color=PERMUTED, lw=3.5, label="the same runs' answers, permuted"))
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=2.2)
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        text.set_color(GREY if handle.get_color() == PERMUTED else handle.get_color())


def spread(heights: list[float], gap: float) -> list[float]:
    """Heights moved apart to at least `gap`, in their order, for labels."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, float)
    for lower, upper in pairwise(order):
        placed[upper] = max(placed[upper], placed[lower] + gap)
    return list(placed)


def padded(values: pd.Series, share: float) -> tuple[float, float]:
    """Axis limits around `values`."""
    pad = share * float(values.max() - values.min()) or 1.0
    return float(values.min()) - pad, float(values.max()) + pad


def grid(rows: int, columns: int, width: float, shared: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns panels, `width` inches wide, and its axes (rows, columns)."""
    figure = Figure(figsize=(width, PANEL_HEIGHT * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)


def arm_grid(
    cells: pd.DataFrame, runs: pd.DataFrame, width: float, xlabel: str, ylabel: str
) -> tuple[Figure, list[tuple[Axes, str, str]]]:
    """A row of panels per setup, one for each arm that `cells` (columns setup, arm) has there: (axes, setup, arm).

    All panels are on one scale. Setups and arms stand in the order of `runs`.
    """
    present = set(cells[["setup", "arm"]].itertuples(index=False, name=None))
    rows = {setup: [arm for arm in arms_of(runs) if (setup, arm) in present] for setup in setups_of(runs)}
    rows = {setup: arms for setup, arms in rows.items() if arms}
    columns = max(map(len, rows.values()))
    figure, axes = grid(len(rows), columns, width, shared=True)
    panels = []
    for row, (setup, arms) in zip(axes, rows.items(), strict=True):
        panels += [(ax, setup, arm) for ax, arm in zip(row, arms, strict=False)]
        row[0].set_ylabel(beside_axis(ylabel, setup))
        for ax in row[len(arms) :]:
            ax.set_axis_off()
    for column in range(columns):
        lowest = [row[column] for row, arms in zip(axes, rows.values(), strict=True) if len(arms) > column][-1]
        lowest.set_xlabel(xlabel)
        lowest.tick_params(labelbottom=True)
    return figure, panels


def beside_axis(label: str, setup: str, width: int = 40) -> str:
    """An axis label with the setup below it, in lines that fit beside a panel."""
    return "\n".join([label, *textwrap.wrap(setup, width)])


def as_svg(figure: Figure) -> str:
    """The figure as SVG text without a date."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
