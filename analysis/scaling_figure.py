"""How cost grows, as one figure: the engine against the naive loop along each axis, and steps that were timed."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.drawing import GREY, INK, as_svg, grid, style

SERIES = {  # colour, marker, name
    "images": ("#0072B2", "o", "engine, questions of an image together"),
    "pairs": ("#009E73", "^", "engine, questions in any order"),
    "naive": ("#D55E00", "s", "naive loop"),
}
GROWING = {  # what a measured step has more of: colour, marker
    "images": ("#0072B2", "o"),
    "questions": ("#CC79A7", "v"),
    "runs": ("#E69F00", "D"),
}
TITLES = {
    "images": "Images",
    "questions": "Questions an image",
    "leaves": "Leaves",
    "runs": "Runs",
    "lm": "Size of the LM",
}
COLUMNS, WIDTH = 3, 11.0
PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")


def scaling_figure(result: dict[str, Any]) -> str:
    """SVG of what `crosstax bench --scaling` measured and predicted: all axes logarithmic, dots at the numbers."""
    curves, measured, speed = result["curves"], result["measured"], result["speed"]
    with style({"axes.grid.axis": "both", "axes.titlesize": 10}):
        figure, axes = grid(-(-(len(curves) + 1) // COLUMNS), COLUMNS, WIDTH)
        panels = list(axes.flat)
        for (axis, curve), ax in zip(curves.items(), panels, strict=False):
            _curve(ax, axis, curve)
        _measured(panels[len(curves)], measured)
        for ax in panels[len(curves) + 1 :]:
            ax.set_axis_off()
        for row in axes:
            row[0].set_ylabel("hours, predicted")
        handles = [
            Line2D([], [], color=colour, marker=marker, mec="white", ms=8, lw=2, label=name)
            for colour, marker, name in SERIES.values()
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), labelcolor="linecolor")
        note = (
            f"Hours at {speed['flops_per_second'] / 1e12:.3g} TFLOP/s for all three, {speed['efficiency']:.0%} of the "
            f"rate of matrix products on {speed['device']} in {speed['dtype']} ({speed['basis']})."
        )
        figure.supxlabel("\n".join(textwrap.wrap(note, 150)), fontsize=9, color=GREY).set_parse_math(False)
        return as_svg(figure)


def _curve(ax: Axes, axis: str, curve: dict[str, Any]) -> None:
    _logarithmic(ax)
    for series, (colour, marker, _) in SERIES.items():
        x, hours = ([row[name] / per for row in curve[series]] for name, per in (("x", 1), ("seconds", 3600)))
        ax.plot(x, hours, marker=marker, color=colour, mec="white", ms=6.5, lw=2)
    ax.set_title(TITLES[axis])
    ratio = [naive["flops"] / own["flops"] for naive, own in zip(curve["naive"], curve["images"], strict=True)]
    low, high = f"{min(ratio):.1f}", f"{max(ratio):.1f}"
    _corner(ax, f"naive / engine: {low if low == high else f'{low} to {high}'}")
    places = [row["x"] for row in curve["naive"]]
    if axis == "lm":
        names = [row["lm"].rsplit("/", 1)[-1] for row in curve["naive"]]
        ax.set_xticks(places, names, rotation=35, ha="right", rotation_mode="anchor", parse_math=False)
    else:
        ax.set_xticks(places, [f"{place:,}" for place in places])
    ax.xaxis.set_minor_locator(NullLocator())


def _measured(ax: Axes, measured: dict[str, Any]) -> None:
    """Timed steps over their operations, and the line that they should be on."""
    _logarithmic(ax)
    for one in (ax.xaxis, ax.yaxis):
        one.set_major_locator(LogLocator(subs=(1, 2, 5)))
    points = measured["points"]
    flops = np.array([point["flops"] for point in points])
    line = np.geomspace(flops.min(), flops.max())
    ax.plot(line / 1e9, 1e3 * (measured["start"] + line / measured["flops_per_second"]), color=INK, lw=1.2)
    for axis, (colour, marker) in GROWING.items():
        here = [point for point in points if point["axis"] == axis]
        ax.plot(
            [point["flops"] / 1e9 for point in here], [1e3 * point["seconds"] for point in here], marker,
            color=colour, mec="white", ms=7.5, label=f"more {axis}",
        )  # fmt: skip
    off = max(abs(point["deviation"]) for point in points)
    ax.set_title("Measured steps")
    _corner(ax, f"at most {off:.0%} off the line")
    ax.set_xlabel("GFLOP of a step")
    ax.set_ylabel("ms")
    ax.legend(loc="upper left", fontsize=9, labelcolor="linecolor", handletextpad=0.2)


def _logarithmic(ax: Axes) -> None:
    """Both axes, with plain numbers."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    for one in (ax.xaxis, ax.yaxis):
        one.set_major_formatter(PLAIN)
        one.set_minor_formatter(NullFormatter())


def _corner(ax: Axes, text: str) -> None:
    ax.text(0.98, 0.04, text, transform=ax.transAxes, ha="right", fontsize=9, color=GREY)
