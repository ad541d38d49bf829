"""Figure 7 of the paper: held-out F1 against visual coherence, by hypernym; and against the LM's text probe."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from analysis.beside_paper import references
from analysis.cells import Names, Setup, parts, setup_of, shown_runs, where
from analysis.figures.style import (
    GREY,
    LOOKS,
    SMALL,
    STYLE,
    Drawn,
    Look,
    NotDrawnError,
    key,
    labels_grid,
    legend,
    padded,
    paper_keys,
    plot_published,
    row_title,
    settle,
    style,
    wrapped,
)
from analysis.probes import first_method
from analysis.published import published_hypernyms
from analysis.statistics.intervals import correlation
from analysis.study import Study, coherence_points
from analysis.words import number

YLABEL = "held-out macro F1"
Box = tuple[float, float, float, float]  # left, bottom, right, top, in points of the page


def labels_scatter(points: pd.DataFrame, names: Names, x: str, xlabel: str) -> Figure:
    """Rows are setups, columns labels, all on one scale; `points`: columns cell, category, f1 and `x`."""
    named = set[Setup]()
    with style():
        figure, panels = labels_grid(points, xlabel, YLABEL)
        for ax, setup, labels, here in panels:
            look = LOOKS[labels.shuffle]
            _dots(ax, here, x, look)
            ax.set_title(names.labels(labels), color=look.ink)
            if names.setup(setup) and setup not in named:
                named.add(setup)
                row_title(ax, names.setup(setup))
        _limits(panels[0][0], points, x)
        settle(figure)  # names need the final places
        for ax, _, _, here in panels:
            _name_points(figure, ax, here, x)
    return figure


def setup_scatter(
    points: pd.DataFrame, names: Names, x: str, xlabel: str, published: dict[Setup, pd.DataFrame]
) -> Figure:
    """A panel per setup, all on one scale; `points`: columns cell, category, f1 and `x`.

    `published`: the latter three for some setups; open markers with a dotted line.
    """
    setups, look = parts(points, setup_of), LOOKS["original"]
    with style():
        figure, axes = wrapped(len(setups), 2.3, YLABEL)
        for ax, (setup, here) in zip(axes, setups.items(), strict=True):
            _dots(ax, here, x, look)
            rings = published.get(setup)
            if rings is not None:
                plot_published(ax, rings[x], rings["f1"], look, "hypernyms", ms=4)
                _fitted(ax, rings, x, look, ":")
            ax.set_title(names.setup(setup))
            ax.set_xlabel(xlabel)
        if published:
            legend(figure, [key("this study", look, ls="-"), *paper_keys("paper")])
        _limits(
            axes[0],
            pd.concat([points[[x, "f1"]], *(rings[[x, "f1"]].astype(float) for rings in published.values())]),
            x,
        )
        settle(figure)
        for ax, (setup, here) in zip(axes, setups.items(), strict=True):
            _name_points(figure, ax, here, x, published.get(setup))
    return figure


def scatter_text(points: pd.DataFrame, names: Names, x: str) -> str:
    """Correlation, and the lowest and the highest hypernym of each panel, in sentences."""
    said = []
    for cell, here in parts(points, lambda cell: cell).items():
        ordered = here.sort_values("f1", kind="stable")
        low, high = ordered.iloc[0], ordered.iloc[-1]
        name = ", ".join(filter(None, [names.labels(cell.labels), names.setup(cell.setup)]))
        said.append(
            f"{name[0].upper()}{name[1:]}: {_r(here, x) or f'{len(here)} hypernyms'}; held-out F1 from "
            f"{number(low['f1'])} ({low['category']}) to {number(high['f1'])} ({high['category']})."
        )
    return " ".join(said)


def _dots(ax: Axes, points: pd.DataFrame, x: str, look: Look) -> None:
    ax.plot(points[x], points["f1"], look.marker, color=look.colour, mec=look.ink, mew=0.4, ms=3.5)
    _fitted(ax, points, x, look, "-")
    if text := _r(points, x):
        ax.text(0.98, 0.02, text, transform=ax.transAxes, ha="right", fontsize=SMALL, color=GREY)


def _r(points: pd.DataFrame, x: str) -> str:
    r, _, _, n = correlation(points[x].to_numpy(float), points["f1"].to_numpy(float))
    return f"r = {number(r, 2)}, n = {n}" if np.isfinite(r) else ""


def _fitted(ax: Axes, points: pd.DataFrame, x: str, look: Look, dash: str) -> None:
    """The least-squares line over the range of the dots."""
    known = points[[x, "f1"]].astype(float).dropna()
    if len(known) > 2 and np.ptp(known[x]) > 0:
        slope, start = np.polyfit(known[x], known["f1"], 1)
        ends = np.array([known[x].min(), known[x].max()])
        ax.plot(ends, start + slope * ends, color=look.ink, ls=dash, lw=0.9, zorder=1.5)


def _limits(ax: Axes, points: pd.DataFrame, x: str) -> None:
    ax.set_xlim(*padded(points[x].astype(float), 0.12))
    low, high = padded(points["f1"].astype(float), 0.06)
    ax.set_ylim(low - 0.1 * (high - low), high)  # space for r


def _name_points(figure: Figure, ax: Axes, points: pd.DataFrame, x: str, others: pd.DataFrame | None = None) -> None:
    """Name the dots that stand out most in F1 first, then others that fit: no name covers a dot or a name."""
    width, height = ax.get_position().size * figure.get_size_inches() * 72
    font = FontProperties(STYLE["font.family"], size=SMALL)

    def place(table: pd.DataFrame) -> NDArray[np.float64]:
        return np.asarray(ax.transLimits.transform(table[[x, "f1"]].to_numpy(float))) * (width, height)

    taken: list[Box] = [(a - 2.5, b - 2.5, a + 2.5, b + 2.5) for a, b in place(points)]
    if others is not None and len(others):
        taken += [(a - 3, b - 3, a + 3, b + 3) for a, b in place(others)]
    taken.append((width - 72, 0, width, 12))  # r
    taken += [(a - 1, b - 1, a + 1, b + 1) for line in ax.lines for a, b in _along(line, ax) * (width, height)]
    order = (points["f1"] - points["f1"].median()).abs().sort_values(ascending=False, kind="stable").index
    for name, (px, py) in zip(points.loc[order, "category"], place(points.loc[order]), strict=True):
        long = text_to_path.get_text_width_height_descent(name, font, ismath=False)[0] + 1
        sides = [(px + 4.5, py), (px - 4.5 - long, py), (px - long / 2, py + 8), (px - long / 2, py - 8)]
        sides += [(px + 3, py + 6), (px + 3, py - 6), (px - 3 - long, py + 6), (px - 3 - long, py - 6)]
        boxes = [(left, middle - 4.5, left + long, middle + 4.5) for left, middle in sides]
        inside = [box for box in boxes if box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height]
        free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
        if free:
            left, bottom, _, top = free[0]
            taken.append(free[0])
            at = (left / width, (bottom + top) / 2 / height)
            ax.text(*at, name, transform=ax.transAxes, va="center", fontsize=SMALL, color="#444444")


def _along(line: Line2D, ax: Axes) -> NDArray[np.float64]:
    """Places along a fitted line, as shares of the panel; none for dots."""
    ends = np.asarray(ax.transLimits.transform(line.get_xydata()))
    fitted = len(ends) == 2 and line.get_marker() == "None"
    return np.linspace(ends[0], ends[1], 80) if fitted else ends[:0]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


DOTS = "One dot per held-out hypernym, pretrained LM, mean over runs; the line is fitted by least squares."


def coherence_figure(study: Study, centred: bool = True) -> Drawn:
    """Held-out F1 of the pretrained LM against coherence, a dot per hypernym, a panel for each kind of labels.

    Centred, or as the paper defines it (Figure 7). Where all embeddings share one large direction cosines are
    all close to 1 whatever the images show. Raises NotDrawnError without coherence.
    """
    points = coherence_points(study)
    if points.empty:
        raise NotDrawnError("Figure 7 needs the feature store and the dataset of the runs, for visual coherence.")
    if centred:
        figure = labels_scatter(points, study.names, "centred", "visual coherence, centred")
        caption = f"{DOTS} Coherence is centred: the mean of all training images is subtracted first."
        alt = scatter_text(points, study.names, "centred")
        return Drawn(figure, "Held-out F1 against visual coherence, centred", caption, alt)
    points = where(points, lambda cell: cell.labels.shuffle == "original")
    if points.empty:
        raise NotDrawnError("Figure 7 needs runs on original labels.")
    rings = _published(shown_runs(study.runs), study.categories)
    figure = setup_scatter(points, study.names, "all_pairs", "visual coherence (mean cosine)", rings)
    caption = f"Original labels. {DOTS} Coherence is the mean cosine of all pairs of a hypernym’s training images."
    if rings:
        caption += " Open markers: the paper’s hypernyms, means of three seeds; dotted: the line fitted to them."
    alt = scatter_text(points, study.names, "all_pairs")
    return Drawn(figure, "Held-out F1 against visual coherence", caption, alt, "Figure 7")


def text_figure(study: Study) -> Drawn:
    """Held-out F1 of the pretrained LM against its text probe's, drawn like coherence.

    Raises NotDrawnError without probes.
    """
    points = first_method(study.text)
    points = points[points["lm_init"] == "pretrained"]
    if points.empty:
        raise NotDrawnError("Held-out F1 against text knowledge needs the text probes of the runs' LMs (--probe).")
    figure = labels_scatter(points, study.names, "text_f1", "text probe, macro F1")
    caption = f"{DOTS} Text: macro F1 of the probe, mean over phrasings."
    alt = scatter_text(points, study.names, "text_f1")
    return Drawn(figure, "Held-out F1 against what the LM knows in text", caption, alt)


def _published(runs: pd.DataFrame, categories: pd.DataFrame) -> dict[Setup, pd.DataFrame]:
    """The paper's hypernyms beside our original labels at 100 %: columns category, all_pairs, f1 by setup.

    Only beside runs of the paper's own models and images: coherence has another scale with others.
    """
    table, beside = published_hypernyms(), references(runs, categories).only_same
    full = runs[(runs["shuffle"] == "original") & (runs["ablation_kind"] == "random") & (runs["ablation"] == 100)]
    found = {}
    for setup, own in parts(full, setup_of).items():
        reference = beside.of(own.iloc[0])
        if reference and reference.encoder == "DINOv2" and reference.lm in table:
            rows = table.rename(columns={"coherence": "all_pairs", reference.lm: "f1"})[["all_pairs", "f1"]]
            found[setup] = rows.rename_axis("category").reset_index()
    return found
