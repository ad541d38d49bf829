"""The headline figures as SVG text: scores of leaves and held-out hypernyms, coherence, loss.

They show the strongest ablation of each series and whole shuffles; `analysis.curves` draws the rest.
"""

import textwrap
from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.conditions import LM_NAMES, arms_of, setups_of, shown_runs, shuffle_of
from analysis.curves import curve_figures
from analysis.drawing import (
    ARM_COLOURS,
    COLOURS,
    GREY,
    MARKERS,
    OUTLINE,
    PERMUTED,
    STYLE,
    as_svg,
    beside_axis,
    chance_lines,
    grid,
    lm_legend,
    spread,
)
from analysis.scatter import scatter_figure
from analysis.study import Study, coherence_points
from analysis.yardstick_figure import yardstick_figure

LOSS_POINTS = 160  # points drawn per loss curve

MAIN_PANELS = (("leaf", "Leaves (trained)"), ("heldout", "Held-out hypernyms"))


def draw_figures(study: Study) -> dict[str, str]:
    """All figures of a study: file name -> SVG. A figure without data is left out."""
    figures = {
        "main.svg": main_figure(study),
        "auc.svg": auc_figure(study),
        "yardsticks.svg": yardstick_figure(study),
        "coherence.svg": coherence_figure(study),
        "text.svg": text_figure(study),
        **curve_figures(study),
        "loss.svg": loss_figure(study),
    }
    return {name: svg for name, svg in figures.items() if svg is not None}


def main_figure(study: Study) -> str:
    """Macro F1 of leaves and held-out hypernyms: arms x LM, a dot per run, a bar at the mean, baselines in grey."""

    def panel(ax: Axes, runs: pd.DataFrame, group: str) -> None:
        scores = study.test(group).loc[runs.index]
        _strip(ax, runs, scores["macro_f1"], "{:.0f}", 3.2, permuted=scores["permuted_f1"])
        lines = {"fair coin": scores["coin_f1"].mean(), "majority": scores["majority_f1"].mean()}
        chance_lines(ax, lines, gap=5)
        low = np.nanmin([scores["macro_f1"].min(), *lines.values(), scores["permuted_f1"].min(), 100])
        ax.set_ylim(20 if low > 24 else 0, 106)

    return _strip_figure(study, "macro F1 (test)", panel, permuted=True)


def auc_figure(study: Study) -> str:
    """AUC of p(yes), which a bias to one answer does not move; drawn like the main figure."""

    def panel(ax: Axes, runs: pd.DataFrame, group: str) -> None:
        scores = study.test(group).loc[runs.index, "auc"]
        _strip(ax, runs, scores, "{:.2f}", 0.02)
        chance_lines(ax, {"chance": 0.5}, gap=0.05)
        ax.set_ylim(min(0.38, scores.min() - 0.05) if scores.notna().any() else 0.38, 1.06)

    return _strip_figure(study, "AUC of p(yes) (test)", panel, permuted=False)


def coherence_figure(study: Study) -> str | None:
    """Held-out F1 of the pretrained LM against coherence, a dot per hypernym, a panel per arm; None if unknown.

    Coherence is centred: where all embeddings share one large direction, plain cosines are all close to 1.
    """
    points = coherence_points(study)
    return (
        None if points.empty else scatter_figure(points, shown_runs(study.runs), "centred", "visual coherence, centred")
    )


def text_figure(study: Study) -> str | None:
    """Held-out F1 of the pretrained LM against its text probe's, drawn like coherence; None without probes."""
    points = study.text[study.text["lm_init"] == "pretrained"]
    return None if points.empty else scatter_figure(points, shown_runs(study.runs), "text_f1", "text probe, macro F1")


def loss_figure(study: Study) -> str | None:
    """Training loss of every run (block means), one colour per cell, named at its end; None without logs."""
    runs = shown_runs(study.runs)
    losses = {run_id: study.sweep.losses(str(run_id)) for run_id in runs.index}
    if all(table.empty for table in losses.values()):
        return None
    setups = setups_of(runs)
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(setups), 1, 7.4)
        for ax, setup in zip(axes[:, 0], setups, strict=True):
            ends: list[tuple[float, float, str, str]] = []
            for (arm, lm_init), cell in runs[runs["setup"] == setup].groupby(["arm", "lm_init"], sort=False):
                colour = ARM_COLOURS[shuffle_of(str(arm))]
                dashes = "-" if lm_init == "pretrained" else (0, (4, 2))
                curves = [_thin(losses[run_id]) for run_id in cell.index if len(losses[run_id])]
                for curve in curves:
                    ax.plot(curve["step"], curve["loss"], color=colour, ls=dashes, lw=1.2, alpha=0.75)
                if curves:
                    last = np.mean([curve["loss"].iloc[-1] for curve in curves])
                    ends.append((curves[0]["step"].iloc[-1], float(last), f"{LM_NAMES[str(lm_init)]}, {arm}", colour))
            ax.set_ylim(bottom=0)
            ax.set_ylabel(beside_axis("training loss", setup))
            heights = spread([end[1] for end in ends], 0.065 * ax.get_ylim()[1])
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
        return as_svg(figure)


def _strip_figure(study: Study, ylabel: str, panel: Callable[[Axes, pd.DataFrame, str], None], permuted: bool) -> str:
    """A row per setup, leaves on the left and held-out hypernyms on the right."""
    runs = shown_runs(study.runs)
    setups = setups_of(runs)
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(setups), len(MAIN_PANELS), 9.6)
        for row, setup in zip(axes, setups, strict=True):
            for ax, (group, title) in zip(row, MAIN_PANELS, strict=True):
                panel(ax, runs[runs["setup"] == setup], group)
                ax.set_title(title, pad=10)
                ax.set_ylabel(ylabel)
            if setup:
                row[0].annotate(
                    textwrap.fill(setup, 120), (0, 1), xytext=(-42, 30), xycoords="axes fraction",
                    textcoords="offset points", va="bottom", fontsize=9.5, color=GREY,
                )  # fmt: skip
        lm_legend(figure, runs, permuted)
        return as_svg(figure)


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


def _thin(curve: pd.DataFrame) -> pd.DataFrame:
    """Block means, so that a curve has at most LOSS_POINTS points."""
    block = np.arange(len(curve)) // -(-len(curve) // LOSS_POINTS)
    return curve.groupby(block).mean()
