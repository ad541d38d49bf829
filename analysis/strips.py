"""Panels of dots: one dot per run, a bar and a number at the mean of each cell, the paper's value as an open ring."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing import GREY, PERMUTED, Look, plain, plot_published

BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.2}  # keeps numbers readable on lines
HALF = 0.26  # of a cell's bar, in cells
FEWEST = 3.2  # cells that a panel is wide, however few it has


@dataclass(frozen=True)
class Cell:
    """Runs that differ in seeds only. permuted, published: NaN where there is none."""

    name: str
    look: Look
    values: pd.Series  # per run
    permuted: float = np.nan
    published: float = np.nan


def strip(ax: Axes, cells: Sequence[Cell], number: str, lift: float, places: Sequence[float] | None = None) -> None:
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


def cells_text(what: str, cells: Sequence[Cell], decimals: int) -> str:
    """The means of `cells` in one sentence."""
    known = [cell for cell in cells if cell.values.notna().any()]
    means = [f"{' '.join(cell.name.split())} {plain(cell.values.mean(), decimals)}" for cell in known]
    return f"{what}: {', '.join(means) if means else 'no such questions'}."


def f1_limits(cells: Sequence[Cell], lines: Iterable[float]) -> tuple[float, float]:
    """Limits of a y axis in points of F1: from 20 if nothing lies near it, with room for the numbers above."""
    low = [value for cell in cells for value in (cell.values.min(), cell.permuted, cell.published)]
    return 20.0 if np.nanmin([*low, *lines, 100]) > 24 else 0.0, 109.0
