"""The training loss of every run."""

import numpy as np
import pandas as pd

from analysis.cells import setup_names, setups_of, shown_runs
from analysis.figures.style import Drawn, Look, NotDrawnError, cell_name, key, legend, look_of, style, wrapped
from analysis.study import Study
from analysis.words import number

LOSS_POINTS = 160  # points drawn per loss curve


def loss_figure(study: Study) -> Drawn:
    """Block means, a line per run and a look per cell; a panel per setup. Raises NotDrawnError without logs."""
    runs = shown_runs(study.runs)
    losses = {run_id: study.sweep.losses(str(run_id)) for run_id in runs.index}
    if all(table.empty for table in losses.values()):
        raise NotDrawnError("The loss curves need the runs' metrics.jsonl, which none of them kept.")
    setups, names = setups_of(runs), setup_names(runs)
    said, looks = [], dict[str, Look]()
    with style():
        figure, axes = wrapped(len(setups), 1.9, "training loss")
        for ax, setup in zip(axes, setups, strict=True):
            lasts = []
            for (arm, lm_init), cell in runs[runs["setup"] == setup].groupby(["arm", "lm_init"], sort=False):
                look = look_of(str(lm_init), str(arm))
                curves = [_thin(losses[run_id]) for run_id in cell.index if len(losses[run_id])]
                for curve in curves:
                    ax.plot(curve["step"], curve["loss"], color=look.colour, ls=look.dash, lw=0.9, alpha=0.8)
                if curves:
                    name = cell_name(str(lm_init), str(arm))
                    looks[name] = look
                    lasts.append(f"{name} {number(np.mean([curve['loss'].iloc[-1] for curve in curves]), 3)}")
            ax.set_ylim(bottom=0)
            ax.set_title(names[setup])
            ax.set_xlabel("step")
            if lasts:
                said.append(f"{names[setup] or 'Last values'}: {', '.join(lasts)}.")
        legend(figure, [key(name, look, marker="") for name, look in looks.items()])
    caption = "Training loss of every run, averaged in blocks of steps; the LM is pretrained unless named otherwise."
    return Drawn(figure, "Training loss", caption, " ".join(said))


def _thin(curve: pd.DataFrame) -> pd.DataFrame:
    """Block means, so that a curve has at most LOSS_POINTS points."""
    block = np.arange(len(curve)) // -(-len(curve) // LOSS_POINTS)
    return curve.groupby(block).mean()
