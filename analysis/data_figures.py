"""Figures 8 and 9 of the paper: how many hypernyms a leaf has, and how many leaves a hypernym has."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing import STYLE, as_svg
from cachegen.files import write_text

BAR = "#0072B2"


def write_data_figures(out: Path, counted: Mapping[str, pd.DataFrame]) -> None:
    """Write both figures as SVG into `out`; `counted` as from `crosstax stats`."""
    write_text(out / "hypernyms_per_leaf.svg", hypernyms_per_leaf_figure(counted["hypernyms_per_leaf"]))
    write_text(out / "leaves_per_hypernym.svg", leaves_per_hypernym_figure(counted["leaves_per_hypernym"]))


def hypernyms_per_leaf_figure(table: pd.DataFrame) -> str:
    """Bars of how many leaves (columns hypernyms, leaves) have one hypernym, two, ...; SVG text."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        ax = figure.subplots()
        bars = ax.bar(table["hypernyms"], table["leaves"], color=BAR, width=0.7)
        ax.bar_label(bars, fmt="{:,.0f}", fontsize=9, padding=2)
        ax.set_xticks(table["hypernyms"])
        ax.set_xlabel("hypernyms of a leaf")
        ax.set_ylabel("leaves")
        ax.margins(y=0.1)
        return as_svg(figure)


def leaves_per_hypernym_figure(table: pd.DataFrame) -> str:
    """One bar per hypernym (columns hypernym, leaves), most leaves on top; SVG text."""
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(6.4, 1.0 + 0.17 * len(table)), layout="constrained")
        ax = figure.subplots()
        bars = ax.barh(table["hypernym"], table["leaves"], color=BAR, height=0.7)
        ax.bar_label(bars, fontsize=8, padding=2)
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0, labelsize=8)
        ax.set_xlabel("leaves of a hypernym")
        ax.margins(x=0.06, y=0.01)
        return as_svg(figure)
