"""A dot per hypernym: held-out F1 against something known of the hypernym, a panel per arm."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.conditions import shuffle_of
from analysis.contrasts import correlation
from analysis.drawing import ARM_COLOURS, ARM_MARKERS, GREY, STYLE, arm_grid, as_svg, padded

FEW_LABELS = 14  # with more hypernyms only the extremes are named


def scatter_figure(points: pd.DataFrame, runs: pd.DataFrame, x: str, xlabel: str) -> str:
    """SVG of `points` (columns setup, arm, category, f1 and `x`): rows are setups, columns arms, all on one scale."""
    with matplotlib.rc_context(STYLE):
        figure, panels = arm_grid(points, runs, 9.2, xlabel, "held-out macro F1")
        shown = [points[(points["setup"] == setup) & (points["arm"] == arm)] for _, setup, arm in panels]
        for (ax, _, arm), here in zip(panels, shown, strict=True):
            shuffle = shuffle_of(arm)
            ax.plot(here[x], here["f1"], ARM_MARKERS[shuffle], color=ARM_COLOURS[shuffle], mec="white")
            r, _, _, n = correlation(here[x].to_numpy(float), here["f1"].to_numpy(float))
            ax.set_title(arm, color=ARM_COLOURS[shuffle])
            if np.isfinite(r):
                text = f"r = {r:.2f}, n = {n}".replace("-", "−")
                ax.set_title(text, loc="right", fontsize=9, fontweight="normal", color=GREY)
        panels[0][0].set_xlim(*padded(points[x], 0.14))
        panels[0][0].set_ylim(*padded(points["f1"], 0.07))
        for (ax, _, _), here in zip(panels, shown, strict=True):  # names need the final limits
            _name_points(ax, here, x)
        return as_svg(figure)


def _name_points(ax: Axes, points: pd.DataFrame, x: str) -> None:
    """Name each dot, or the lowest and highest few where there are many, where the name covers least."""
    named = points.sort_values("f1", kind="stable")
    if len(named) > FEW_LABELS:
        named = pd.concat([named.head(4), named.tail(4)])
    place = ax.transLimits.transform  # data to axes fraction; a panel is about 190 x 200 points
    taken = [(1.0, -1.0, 9.0, 9.0), (-9.0, -1.0, 0.0, 9.0)]  # beyond the panel's sides
    taken += [(a - 0.02, b - 0.02, a + 0.02, b + 0.02) for a, b in place(points[[x, "f1"]].to_numpy(float))]
    for name, along, up in named[["category", x, "f1"]].itertuples(index=False):
        fx, fy = place((along, up))
        width = 0.023 * len(name)
        spots = [(fx + 0.03, fy), (fx - 0.03 - width, fy), (fx - width / 2, fy + 0.05), (fx - width / 2, fy - 0.05)]
        spots += [(fx + 0.02, fy + 0.045), (fx + 0.02, fy - 0.045), (fx - 0.02 - width, fy - 0.045)]
        boxes = [(left, middle - 0.022, left + width, middle + 0.022) for left, middle in spots]
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = boxes[int(np.argmin(covered))]
        taken.append(best)
        ax.text(
            best[0], (best[1] + best[3]) / 2, name, transform=ax.transAxes, va="center", fontsize=8, color="#444444"
        )  # fmt: skip


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Area shared by two boxes (left, bottom, right, top)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
