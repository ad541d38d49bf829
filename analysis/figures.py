"""The report's figures as SVG text. No pyplot, no global state; equal inputs give equal bytes.

Colours are Okabe and Ito's, told apart with any colour vision, and marker shapes repeat what colour says.
"""

import io
from collections.abc import Callable
from itertools import pairwise, product

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from analysis.conditions import LM_NAMES, arms_of, setups_of
from analysis.contrasts import correlation
from analysis.study import Study, coherence_points

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
ARM_COLOURS = {"original": "#0072B2", "across": "#D55E00", "within": "#009E73"}
MARKERS = {"pretrained": "o", "random": "D"}
ARM_MARKERS = {"original": "o", "across": "s", "within": "^"}
GREY = "#6b6b6b"
PERMUTED = "#b4b4b4"
OUTLINE = [withStroke(linewidth=3, foreground="white")]  # keeps numbers readable on lines
PANEL_HEIGHT = 3.3  # inches per row of panels
FEW_LABELS = 14  # with more hypernyms only the extremes are named
LOSS_POINTS = 160  # points drawn per loss curve

MAIN_PANELS = (("leaf", "Leaves (trained)"), ("heldout", "Held-out hypernyms"))


def draw_figures(study: Study) -> dict[str, str]:
    """All figures of a study: file name -> SVG. A figure without data is left out."""
    figures = {
        "main.svg": main_figure(study),
        "auc.svg": auc_figure(study),
        "coherence.svg": coherence_figure(study),
        "loss.svg": loss_figure(study),
    }
    return {name: svg for name, svg in figures.items() if svg is not None}


def main_figure(study: Study) -> str:
    """Macro F1 of leaves and held-out hypernyms: arms x LM, a dot per run, a bar at the mean, baselines in grey."""

    def panel(ax: Axes, runs: pd.DataFrame, group: str) -> None:
        scores = study.test(group).loc[runs.index]
        _strip(ax, runs, scores["macro_f1"], "{:.0f}", 3.2, permuted=scores["permuted_f1"])
        lines = {"fair coin": scores["coin_f1"].mean(), "majority": scores["majority_f1"].mean()}
        _chance_lines(ax, lines, gap=5)
        low = np.nanmin([scores["macro_f1"].min(), *lines.values(), scores["permuted_f1"].min(), 100])
        ax.set_ylim(20 if low > 24 else 0, 106)

    return _strip_figure(study, "macro F1 (test)", panel, permuted=True)


def auc_figure(study: Study) -> str:
    """AUC of p(yes), which a bias to one answer does not move; drawn like the main figure."""

    def panel(ax: Axes, runs: pd.DataFrame, group: str) -> None:
        scores = study.test(group).loc[runs.index, "auc"]
        _strip(ax, runs, scores, "{:.2f}", 0.02)
        _chance_lines(ax, {"chance": 0.5}, gap=0.05)
        ax.set_ylim(min(0.38, scores.min() - 0.05) if scores.notna().any() else 0.38, 1.06)

    return _strip_figure(study, "AUC of p(yes) (test)", panel, permuted=False)


def coherence_figure(study: Study) -> str | None:
    """Held-out F1 of the pretrained LM against coherence, a dot per hypernym, a panel per arm; None if unknown.

    Coherence is centred: where all embeddings share one large direction, plain cosines are all close to 1.
    """
    points = coherence_points(study)
    if points.empty:
        return None
    arms = [arm for arm in arms_of(study.runs) if (points["arm"] == arm).any()]
    setups = [setup for setup in setups_of(study.runs) if (points["setup"] == setup).any()]
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(setups), len(arms), 9.2, shared=True)
        for row, setup in zip(axes, setups, strict=True):
            for ax, arm in zip(row, arms, strict=True):
                here = points[(points["setup"] == setup) & (points["arm"] == arm)]
                shuffle = arm.split(" ")[0]
                ax.plot(here["centred"], here["f1"], ARM_MARKERS[shuffle], color=ARM_COLOURS[shuffle], mec="white")
                r, _, _, n = correlation(here["centred"].to_numpy(float), here["f1"].to_numpy(float))
                ax.set_title(arm, color=ARM_COLOURS[shuffle])
                if np.isfinite(r):
                    text = f"r = {r:.2f}, n = {n}".replace("-", "−")
                    ax.set_title(text, loc="right", fontsize=9, fontweight="normal", color=GREY)
            row[0].set_ylabel("held-out macro F1" + (f"\n{setup}" if setup else ""))
        axes[0, 0].set_xlim(*_padded(points["centred"], 0.14))
        axes[0, 0].set_ylim(*_padded(points["f1"], 0.07))
        for ax, (setup, arm) in zip(axes.flat, product(setups, arms), strict=True):  # names need the final limits
            _name_points(ax, points[(points["setup"] == setup) & (points["arm"] == arm)])
        for ax in axes[-1]:
            ax.set_xlabel("visual coherence, centred")
        return _svg(figure)


def loss_figure(study: Study) -> str | None:
    """Training loss of every run (block means), one colour per cell, named at its end; None without logs."""
    losses = {run_id: study.sweep.losses(str(run_id)) for run_id in study.runs.index}
    if all(table.empty for table in losses.values()):
        return None
    setups = setups_of(study.runs)
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(setups), 1, 7.4)
        for ax, setup in zip(axes[:, 0], setups, strict=True):
            ends: list[tuple[float, float, str, str]] = []
            for (arm, lm_init), cell in study.runs[study.runs["setup"] == setup].groupby(
                ["arm", "lm_init"], sort=False
            ):
                colour = ARM_COLOURS[str(arm).split(" ")[0]]
                dashes = "-" if lm_init == "pretrained" else (0, (4, 2))
                curves = [_thin(losses[run_id]) for run_id in cell.index if len(losses[run_id])]
                for curve in curves:
                    ax.plot(curve["step"], curve["loss"], color=colour, ls=dashes, lw=1.2, alpha=0.75)
                if curves:
                    last = np.mean([curve["loss"].iloc[-1] for curve in curves])
                    ends.append((curves[0]["step"].iloc[-1], float(last), f"{LM_NAMES[str(lm_init)]}, {arm}", colour))
            ax.set_ylim(bottom=0)
            ax.set_ylabel("training loss" + (f"\n{setup}" if setup else ""))
            heights = _spread([end[1] for end in ends], 0.065 * ax.get_ylim()[1])
            for (step, _, text, colour), height in zip(ends, heights, strict=True):
                ax.annotate(
                    text,
                    (step, height),
                    xytext=(6, 0),
                    textcoords="offset points",
                    color=colour,
                    va="center",
                    fontsize=9,
                )
        axes[-1, 0].set_xlabel("step")
        return _svg(figure)


def _strip_figure(study: Study, ylabel: str, panel: Callable[[Axes, pd.DataFrame, str], None], permuted: bool) -> str:
    """A row per setup, leaves on the left and held-out hypernyms on the right."""
    setups = setups_of(study.runs)
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(setups), len(MAIN_PANELS), 9.6)
        for row, setup in zip(axes, setups, strict=True):
            runs = study.runs[study.runs["setup"] == setup]
            for ax, (group, title) in zip(row, MAIN_PANELS, strict=True):
                panel(ax, runs, group)
                ax.set_title(title, pad=10)
                ax.set_ylabel(ylabel)
            if setup:
                row[0].annotate(
                    setup, (0, 1), xytext=(-42, 30), xycoords="axes fraction", textcoords="offset points",
                    fontsize=9.5, color=GREY,
                )  # fmt: skip
        _legend(figure, study.runs, permuted)
        return _svg(figure)


def _strip(
    ax: Axes, runs: pd.DataFrame, values: pd.Series, number: str, lift: float, permuted: pd.Series | None = None
) -> None:
    """Dots per run and a bar at the mean of each cell; `permuted` adds a grey bar per cell."""
    arms = arms_of(runs)
    if values.isna().all():
        ax.text(0.5, 0.9, "no such questions", transform=ax.transAxes, ha="center", color=GREY)
    for x, arm in enumerate(arms):
        present = [lm_init for lm_init in COLOURS if ((runs["arm"] == arm) & (runs["lm_init"] == lm_init)).any()]
        for place, lm_init in enumerate(present):
            cell = values[(runs["arm"] == arm) & (runs["lm_init"] == lm_init)].dropna()
            if cell.empty:
                continue
            centre = x + 0.42 * (place - (len(present) - 1) / 2)
            colour = COLOURS[lm_init]
            if permuted is not None:
                ax.hlines(permuted[cell.index].mean(), centre - 0.16, centre + 0.16, color=PERMUTED, lw=3.5, zorder=1)
            spread = np.linspace(-0.07, 0.07, len(cell)) if len(cell) > 1 else np.zeros(1)
            ax.hlines(cell.mean(), centre - 0.14, centre + 0.14, color=colour, lw=2.2, zorder=3)
            ax.plot(centre + spread, cell.to_numpy(), MARKERS[lm_init], color=colour, mec="white", ms=5.5, zorder=4)
            top = cell.max() + lift
            label = number.format(cell.mean())
            ax.text(
                centre, top, label, color=colour, ha="center", va="bottom", fontweight="bold", path_effects=OUTLINE
            )  # fmt: skip
    ax.set_xticks(range(len(arms)), arms)
    ax.set_xlim(-0.6, len(arms) - 0.4)
    ax.tick_params(axis="x", length=0)


def _chance_lines(ax: Axes, lines: dict[str, float], gap: float) -> None:
    """Grey lines across the panel, named at its right edge."""
    known = {name: value for name, value in lines.items() if np.isfinite(value)}
    styles = [(0, (5, 3)), (0, (1, 2))]
    for (name, value), height, style in zip(known.items(), _spread(list(known.values()), gap), styles, strict=False):
        ax.axhline(value, color=GREY, lw=1.1, ls=style, zorder=0)
        ax.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=9, color=GREY,
        )  # fmt: skip


def _legend(figure: Figure, runs: pd.DataFrame, permuted: bool) -> None:
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


def _name_points(ax: Axes, points: pd.DataFrame) -> None:
    """Name each dot, or the lowest and highest few where there are many, where the name covers least."""
    named = points.sort_values("f1", kind="stable")
    if len(named) > FEW_LABELS:
        named = pd.concat([named.head(4), named.tail(4)])
    place = ax.transLimits.transform  # data to axes fraction; a panel is about 190 x 200 points
    taken = [(1.0, -1.0, 9.0, 9.0), (-9.0, -1.0, 0.0, 9.0)]  # beyond the panel's sides
    taken += [(x - 0.02, y - 0.02, x + 0.02, y + 0.02) for x, y in place(points[["centred", "f1"]].to_numpy(float))]
    for name, x, y in named[["category", "centred", "f1"]].itertuples(index=False):
        fx, fy = place((x, y))
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


def _thin(curve: pd.DataFrame) -> pd.DataFrame:
    """Block means, so that a curve has at most LOSS_POINTS points."""
    block = np.arange(len(curve)) // -(-len(curve) // LOSS_POINTS)
    return curve.groupby(block).mean()


def _spread(heights: list[float], gap: float) -> list[float]:
    """Heights moved apart to at least `gap`, in their order, for labels."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, float)
    for lower, upper in pairwise(order):
        placed[upper] = max(placed[upper], placed[lower] + gap)
    return list(placed)


def _padded(values: pd.Series, share: float) -> tuple[float, float]:
    """Axis limits around `values`."""
    pad = share * float(values.max() - values.min()) or 1.0
    return float(values.min()) - pad, float(values.max()) + pad


def _grid(rows: int, columns: int, width: float, shared: bool = False) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, PANEL_HEIGHT * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
