"""What all figures share: style, sizes, looks, grids, legends, and how they become files. No pyplot, no global state.

A figure is made at the width it is printed at, one column or two, so that font sizes are those on paper. Colours are
Okabe and Ito's, told apart with any colour vision; markers and dashes say the same again, so grey print works too. One
thing has one look in every figure: the paper's base condition (pretrained LM, original labels, DINOv2) is blue.
Equal inputs give equal bytes.
"""

import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from analysis.cells import Labels, Setup, parts, setup_of
from cachegen.common.files import write_atomically, write_text

SINGLE, DOUBLE = 8.5 / 2.54, 17.5 / 2.54  # inches: one and two columns of a page
SMALL = 7.0  # points; no text is smaller
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so text has the same width everywhere
    "font.size": 8,
    "text.parse_math": False,  # names of models and categories are text, dollar signs included
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a",
    "axes.labelcolor": "#333333",
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.6,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "svg.hashsalt": "crosstax",
    "pdf.fonttype": 42,  # outlines as fonts that journals and editors accept
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class Look:
    """How one thing looks in every figure; `ink` is its colour, dark enough for text and outlines."""

    colour: str
    ink: str
    marker: str
    dash: Any = "-"


LOOKS = {
    "original": Look("#0072B2", "#0072B2", "o"),
    "across": Look("#CC79A7", "#9E4477", "s", (0, (5, 1.2, 1.2, 1.2))),
    "within": Look("#009E73", "#00735A", "^", (0, (3, 1))),
    "swap": Look("#E69F00", "#8F6200", "v", (0, (1, 1))),
    "random": Look("#D55E00", "#B54F00", "D", (0, (6, 2))),  # a random-init LM, whatever the labels
}
ENCODER_LOOKS = {
    "DINOv2": LOOKS["original"],
    "SigLIP": Look("#56B4E9", "#1B6E9E", "P", (0, (4, 1, 1, 1, 1, 1))),
    "DINOv2+SigLIP": Look("#000000", "#000000", "X", (0, (2, 2))),
}
INIT_LOOKS = {"pretrained": LOOKS["original"], "random": LOOKS["random"]}
GREY = "#6b6b6b"
PERMUTED = "#b4b4b4"
INK = "#333333"
COIN_DASH = (0, (5, 3))
PANEL_HEIGHT = 3.3  # inches per row of panels


def look_of(lm_init: str, labels: Labels) -> Look:
    """The look of a cell: by the LM's weights, and by the labels where they are pretrained."""
    return LOOKS["random" if lm_init == "random" else labels.shuffle]


def style(changes: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """Draw in our style, and in nothing of the user's own: a matplotlibrc may ask for LaTeX, or for other sizes."""
    return matplotlib.style.context(["default", STYLE | dict(changes or {})])


class NotDrawnError(Exception):
    """A figure whose runs are absent; the message is a sentence that says which. Never a user's error."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure with its texts, ready for a page and for files. All texts are plain text.

    Attributes:
        figure: The matplotlib figure.
        title: What it shows.
        caption: How to read it.
        alt: What it says, in words and numbers, for readers who cannot see it.
        paper: The paper's figure that it repeats ("Figure 4"); empty if there is none.
    """

    figure: Figure
    title: str
    caption: str
    alt: str
    paper: str = ""

    def __post_init__(self) -> None:
        with style():
            settle(self.figure)

    def said(self, wording: Callable[[str], str]) -> "Drawn":
        """The figure with every text put through `wording`."""
        for text in self.figure.findobj(Text):
            assert isinstance(text, Text)
            text.set_text(wording(text.get_text()))
        return replace(self, title=wording(self.title), caption=wording(self.caption), alt=wording(self.alt))

    def svg(self) -> str:
        """SVG text; glyphs are outlines, so it needs no font."""
        return self._rendered("svg", {"Title": self.title, "Description": self._about, "Date": None}).decode()

    def pdf(self) -> bytes:
        """PDF with its fonts in it (Type 42)."""
        about = {"Title": self.title, "Subject": self._about, "CreationDate": None}
        return self._rendered("pdf", about)

    def png(self) -> bytes:
        """PNG, 300 dots an inch."""
        return self._rendered("png", {"Title": self.title, "Description": self._about})

    def write(self, folder: Path, name: str) -> str:
        """Write `folder`/`name`.svg, .pdf and .png; return the SVG text."""
        svg = self.svg()
        write_text(folder / f"{name}.svg", svg)
        for kind, content in (("pdf", self.pdf()), ("png", self.png())):
            write_atomically(folder / f"{name}.{kind}", partial(Path.write_bytes, data=content))
        return svg

    @property
    def _about(self) -> str:
        return f"{self.caption} {self.alt}"

    def _rendered(self, kind: str, about: dict[str, Any]) -> bytes:
        with style():
            return _rendered(self.figure, kind, about)


def _rendered(figure: Figure, kind: str, about: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=kind, metadata=about)
    return out.getvalue()


# --- What is drawn


def plot_line(ax: Axes, x: pd.Series, y: pd.Series, look: Look, **style: Any) -> None:
    """Our values: a line with filled markers."""
    style = {"color": look.colour, "ls": look.dash, "marker": look.marker, "mec": look.ink, "mew": 0.5} | style
    ax.plot(x, y, **style)


def plot_published(ax: Axes, x: Any, y: Any, look: Look, name: str, ms: float = 6, ls: Any = "") -> None:
    """The paper's values: open markers behind ours, labelled "published {name}" among the artists."""
    ax.plot(
        x, y, color=look.ink, ls=ls, lw=0.6, marker=look.marker, ms=ms, mfc="none", mec=look.ink, mew=0.8, zorder=1.8,
        label=f"published {name}",
    )  # fmt: skip


def level_lines(ax: Axes, lines: Mapping[str, float], gap: float) -> None:
    """Grey lines across the panel, named at its right edge."""
    known = {name: value for name, value in lines.items() if np.isfinite(value)}
    styles = [COIN_DASH, (0, (1, 2))]
    for (name, value), height, style in zip(known.items(), spread(list(known.values()), gap), styles, strict=False):
        ax.axhline(value, color=GREY, lw=0.8, ls=style, zorder=0)
        ax.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=SMALL, color=GREY,
        )  # fmt: skip


# --- Legends


def key(name: str, look: Look, **style: Any) -> Line2D:
    """Legend entry of a line or of dots (`ls=""`)."""
    style = {"color": look.colour, "ls": look.dash, "marker": look.marker, "mec": look.ink, "mew": 0.5} | style
    return Line2D([], [], label=name, **style)


def paper_keys(name: str) -> list[Line2D]:
    """Legend entry of the paper's values, if they have a name."""
    return [Line2D([], [], ls="", marker="o", ms=6, mfc="none", mec=INK, mew=0.8, label=name)] * bool(name)


def coin_key(name: str = "fair coin") -> Line2D:
    """Legend entry of the fair coin, or of chance."""
    return Line2D([], [], color=GREY, lw=0.8, ls=COIN_DASH, label=name)


def permuted_key() -> Line2D:
    """Legend entry of the permuted answers."""
    return Line2D([], [], color=PERMUTED, lw=2.2, label="answers permuted")


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend above all panels, in as few rows as its names allow."""
    room = figure.get_figwidth() * 72
    wide = [32 + 4.6 * len(str(handle.get_label())) for handle in handles]  # points: handle, gaps, letters
    columns = next(
        count
        for count in range(len(handles), 0, -1)
        if count == 1 or sum(max(column) for column in _columns(wide, count)) < room
    )
    figure.legend(
        handles=list(handles), loc="outside upper left", ncols=columns, columnspacing=1.4, handlelength=2.2,
        borderpad=0.1,
    )  # fmt: skip


def _columns(values: list[float], count: int) -> list[list[float]]:
    """`values` in `count` columns as a legend fills them: downwards, the first columns longer."""
    short, longer = divmod(len(values), count)
    starts = np.cumsum([0, *([short + 1] * longer), *([short] * (count - longer))])
    return [values[start:end] for start, end in pairwise(starts)]


# --- Places


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


def ticks_apart(levels: Iterable[float], share: float) -> list[float]:
    """Those of `levels` whose labels fit: at least `share` of the whole range apart, the last one always."""
    ordered = sorted(levels, reverse=True)
    room = share * (ordered[0] - ordered[-1])
    chosen = ordered[:1]
    for level in ordered[1:]:
        if chosen[-1] - level >= room:
            chosen.append(level)
    return chosen[::-1]


def grid(
    rows: int, columns: int, width: float, shared: bool = False, height: float = PANEL_HEIGHT
) -> tuple[Figure, np.ndarray]:
    """Rows x columns panels, the figure `width` inches wide, each row `height` inches; and its axes (rows, columns)."""
    figure = Figure(figsize=(width, height * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)


def wrapped(panels: int, height: float, ylabel: str) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels on one scale, up to three in a row, and their axes."""
    columns = min(panels, 3)
    figure, axes = grid(-(-panels // columns), columns, SINGLE if columns == 1 else DOUBLE, shared=True, height=height)
    for ax in axes.flat[panels:]:
        ax.set_axis_off()
    for ax in axes.flat[:panels]:
        ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return figure, list(axes.flat[:panels])


def labels_grid(
    cells: pd.DataFrame, xlabel: str, ylabel: str
) -> tuple[Figure, list[tuple[Axes, Setup, Labels, pd.DataFrame]]]:
    """A row of panels per setup of `cells`, one for each of its labels: (axes, setup, labels, rows). On one scale."""
    rows = {setup: parts(here, lambda cell: cell.labels) for setup, here in parts(cells, setup_of).items()}
    columns = max(map(len, rows.values()))
    figure, axes = grid(len(rows), columns, DOUBLE if columns > 1 else SINGLE, shared=True, height=2.2)
    panels = []
    for row, (setup, found) in zip(axes, rows.items(), strict=True):
        panels += [(ax, setup, labels, found[labels]) for ax, labels in zip(row, sorted(found), strict=False)]
        row[0].set_ylabel(ylabel)
        for ax in row[len(found) :]:
            ax.set_axis_off()
    for column in range(columns):
        lowest = [row[column] for row, found in zip(axes, rows.values(), strict=True) if len(found) > column][-1]
        lowest.set_xlabel(xlabel)
        lowest.tick_params(labelbottom=True)
    return figure, panels


def row_title(ax: Axes, text: str) -> None:
    """The name of a row of panels, above the title of its first one; call it when that stands."""
    lines = textwrap.wrap(text, 120)
    ax.set_title("\n" * len(lines) + ax.get_title(loc="left"))
    ax.annotate(
        "\n".join(lines), (0, 1), xytext=(-24, 15), xycoords="axes fraction", textcoords="offset points", va="bottom",
        color=GREY, in_layout=False,
    )  # fmt: skip


def settle(figure: Figure) -> None:
    """Lay the figure out for good: once for all formats, and before names are placed by what is around them."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
