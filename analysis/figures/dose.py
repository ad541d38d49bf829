"""Not in the paper: held-out scores against the shuffled share of leaves and the visual coherence that remains."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.cells import LM_NAMES
from analysis.figures.style import (
    COIN_DASH,
    DOUBLE,
    GREY,
    LOOKS,
    PERMUTED,
    SINGLE,
    SMALL,
    Drawn,
    NotDrawnError,
    coin_key,
    grid,
    key,
    legend,
    permuted_key,
    row_title,
    style,
)
from analysis.scores.dose import RESPONSE, dose_sentences, dose_table
from analysis.study import Study

SCORES = {"f1": "held-out macro F1", "auc": "held-out AUC"}
AXES = {
    "dose": "leaves shuffled across categories (%)",
    "coherence_centred": "visual coherence, centred",
    "coherence": "visual coherence, the paper's",
}
DOSE_LOOKS = {"pretrained": LOOKS["across"], "random": LOOKS["random"]}


def dose_figure(study: Study) -> Drawn:
    """A row of panels per score, and per setup and rule of the shuffle; small dots are runs, lines means.

    Raises NotDrawnError where no shuffle was partial.
    """
    if study.dose.empty:
        raise NotDrawnError("A dose-response needs runs with a part of the leaves shuffled (shuffled=20, 40, ...).")
    responses = list(study.dose[["setup", "rule"]].drop_duplicates().itertuples(index=False, name=None))
    shown = {name: label for name, label in AXES.items() if study.dose[name].notna().any()}
    with style():
        width = DOUBLE if len(shown) > 1 else SINGLE
        figure, axes = grid(len(responses) * len(SCORES), len(shown), width, height=1.9)
        for number, (setup, rule) in enumerate(responses):
            points = study.dose[(study.dose["setup"] == setup) & (study.dose["rule"] == rule)]
            rows = axes[number * len(SCORES) : (number + 1) * len(SCORES)]
            for row, (score, label) in zip(rows, SCORES.items(), strict=True):
                for ax, x in zip(row, shown, strict=True):
                    _panel(ax, points, x, score)
                row[0].set_ylabel(label)
                _one_scale(row)
            for ax, label in zip(rows[-1], shown.values(), strict=True):
                ax.set_xlabel(label)
            _name_doses(rows[0], points, list(shown))
            if len(responses) > 1:
                row_title(rows[0][0], ", ".join(filter(None, [setup, f"{rule} rule"])))
        present = [name for name in DOSE_LOOKS if (study.dose["lm_init"] == name).any()]
        legend(figure, [*(key(LM_NAMES[name], DOSE_LOOKS[name]) for name in present), permuted_key(), coin_key()])
    caption = (
        "Held-out scores against the share of leaves shuffled across categories and the visual coherence that is left: "
        "that of each run’s own label map, mean over hypernyms. Small dots are runs, large ones means per dose. Light "
        "grey: the runs’ answers permuted; dashed: a fair coin, or chance."
    )
    return Drawn(figure, "Dose and response", caption, " ".join(dose_sentences(study.dose)))


def _panel(ax: Axes, points: pd.DataFrame, x: str, score: str) -> None:
    means = dose_table(points)
    if x != "dose":
        ax.margins(x=0.2)  # room for the names of the doses
    for lm_init, look in DOSE_LOOKS.items():
        here = points[points["lm_init"] == lm_init]
        curve = means[means["lm_init"] == lm_init].sort_values("dose")
        ax.plot(here[x], here[score], look.marker, color=look.colour, ms=2, mec="none", alpha=0.6)
        ax.plot(curve[x], curve[score], look.marker, color=look.colour, ls=look.dash, mec=look.ink, mew=0.5)
        if score == "f1":
            ax.plot(curve[x], curve["permuted_f1"], color=PERMUTED, lw=1.6, zorder=1)
    if score == "f1":
        coin = means.drop(columns=RESPONSE).groupby("dose").mean()
        ax.plot(coin.get(x, coin.index), coin["coin_f1"], color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
    else:
        ax.axhline(0.5, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)


def _name_doses(axes: np.ndarray, points: pd.DataFrame, shown: list[str]) -> None:
    """Doses beside the means where the x axis is not the dose."""
    means = dose_table(points)
    means = means[means["lm_init"] == means["lm_init"].iloc[0]]
    for ax, x in zip(axes, shown, strict=True):
        if x != "dose":
            middle = (means[x].min() + means[x].max()) / 2
            for row in means.itertuples():
                at = (getattr(row, x), row.f1)
                side = -1 if at[0] > middle else 1  # inside the panel, and beside the line
                up = 6 if side < 0 or row.f1 == means["f1"].min() else -6
                ax.annotate(
                    f"{row.dose} %", at, xytext=(5 * side, up), textcoords="offset points", va="center",
                    ha="right" if side < 0 else "left", fontsize=SMALL, color=GREY,
                )  # fmt: skip


def _one_scale(axes: np.ndarray) -> None:
    """One y scale for the panels of a row."""
    limits = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
