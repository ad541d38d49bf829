"""New here: a tuning study trial by trial, what mattered in it, and every searched field against what decided."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from analysis.figures.style import DOUBLE, GREY, INK, LOOKS, Drawn, Look, NotDrawnError, key, legend, style
from analysis.tuning import EXPLORATORY, Tuning
from analysis.words import number

if TYPE_CHECKING:
    from analysis.study import Study  # imports all of analysis, which `crosstax tune` does without

LOOK_OF = {
    "complete": LOOKS["original"],
    "pruned": Look("#b4b4b4", GREY, "v"),
    "best": LOOKS["random"],
}
PANEL = 1.75  # inches
COLUMNS = 3
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def tuning_figure(study: "Study") -> Drawn:
    """The study that the runs were tuned in. Raises NotDrawnError where there is none."""
    if study.tuning is None:
        raise NotDrawnError("The history of a search needs a tuning study (crosstax tune).")
    return draw_tuning(study.tuning)


def draw_tuning(tuning: Tuning) -> Drawn:
    """History and importance, then a panel per searched field. Raises NotDrawnError without a complete trial."""
    if tuning.best is None:
        raise NotDrawnError("The history of a search needs a trial that is complete.")
    rows = 1 + -(-len(tuning.searched) // COLUMNS)
    with style():
        figure = Figure(figsize=(DOUBLE, PANEL * rows + 0.4), layout="constrained")
        cells = figure.add_gridspec(rows, COLUMNS)
        _history(figure.add_subplot(cells[0, :2]), tuning)
        _importance(figure.add_subplot(cells[0, 2]), tuning)
        for place, name in enumerate(tuning.searched):
            ax = figure.add_subplot(cells[1 + place // COLUMNS, place % COLUMNS])
            _field(ax, tuning, name)
            if place % COLUMNS == 0:
                ax.set_ylabel("validation F1")
        present = [state for state in LOOK_OF if state == "best" or (tuning.trials["state"] == state).any()]
        legend(figure, [key(state, LOOK_OF[state], ls="") for state in present])
    title = "Tuning" + (" (EXPLORATORY)" if tuning.exploratory else "")
    caption = (
        f"Every trial’s macro F1 on {tuning.decided}, averaged over its runs: in the order of trials, with the best so "
        "far as a line; and against each searched field. A pruned trial is shown with the F1 of its shorter training. "
        "Importance: the share of each field in what sets the best quarter of the complete trials apart (PED-ANOVA). "
        + (EXPLORATORY if tuning.exploratory else "No answer on an unseen hypernym and no test question had a part.")
    )
    return Drawn(figure, title, caption, _said(tuning))


def _dots(ax: Axes, tuning: Tuning, x: pd.Series) -> None:
    """Every trial with a score, in the look of its state; the best one on top."""
    trials = tuning.trials
    for state in ("pruned", "complete"):
        look, rows = LOOK_OF[state], trials["state"] == state
        ax.plot(x[rows], trials.loc[rows, "score"].astype(float), look.marker, color=look.colour, mec=look.ink, mew=0.5)
    assert tuning.best is not None
    look, rows = LOOK_OF["best"], trials["number"] == tuning.best["number"]
    ax.plot(x[rows], trials.loc[rows, "score"].astype(float), look.marker, color=look.colour, mec=look.ink, ms=6)
    ax.margins(x=0.08, y=0.15)


def _history(ax: Axes, tuning: Tuning) -> None:
    complete = tuning.complete
    best = complete["score"].astype(float).cummax()
    ax.step(complete["number"], best, where="post", color=LOOK_OF["complete"].colour, lw=1)
    _dots(ax, tuning, tuning.trials["number"])
    ax.set_title("history")
    failed = tuning.trials.loc[tuning.trials["state"] == "failed", "number"]
    if len(failed):
        ax.plot(failed, np.zeros(len(failed)), "x", color=INK, clip_on=False, transform=ax.get_xaxis_transform())
        ax.set_title("history (×: failed)")
    ax.set_xlabel("trial")
    ax.set_ylabel("validation F1")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _importance(ax: Axes, tuning: Tuning) -> None:
    shares = tuning.importance
    ax.set_title("importance")
    if not shares:
        ax.set_axis_off()
        ax.text(0, 0.5, "too few complete trials", color=GREY, transform=ax.transAxes)
        return
    names = list(shares)[::-1]
    ax.barh(names, [shares[name] for name in names], color=LOOK_OF["complete"].colour, height=0.6)
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("share")


def _field(ax: Axes, tuning: Tuning, name: str) -> None:
    """Scores against a searched field: a number on a line, other values side by side."""
    values = tuning.trials[name]
    spec = tuning.record["table"]["space"][name]
    if isinstance(spec, dict):
        if spec["log"]:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(PLAIN)
            ax.xaxis.set_minor_formatter(NullFormatter())
        _dots(ax, tuning, values.astype(float))
    else:
        places = {repr(value): place for place, value in enumerate(spec)}
        _dots(ax, tuning, values.map(lambda value: places[repr(value)]))
        ax.set_xticks(range(len(spec)), [str(value)[-14:] for value in spec])
        ax.set_xlim(-0.5, len(spec) - 0.5)
    ax.set_title(name)


def _said(tuning: Tuning) -> str:
    shares = ", ".join(f"{name} {number(100 * share, 0)} %" for name, share in tuning.importance.items())
    return tuning.verdict + (f" Importance: {shares}." if shares else "")
