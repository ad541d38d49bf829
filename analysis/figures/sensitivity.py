"""Do conditions differ in what they know, or in how readily they say yes? Sensitivity beside the criterion."""

import numpy as np

from analysis.cells import condition_of, lines_of, parts, setup_of, shown_runs
from analysis.figures.style import COIN_DASH, GREY, Drawn, NotDrawnError, key, legend, look_of, style, wrapped
from analysis.statistics.contrasts import CRITERION, D_PRIME, SCORES, Cells
from analysis.statistics.difference import difference
from analysis.study import Study
from analysis.words import number


def sensitivity_figure(study: Study) -> Drawn:
    """A panel per setup: d' over the criterion, a dot per run and a cross of 95 % intervals per condition."""
    cells = Cells(study.runs, study.categories)
    runs = shown_runs(study.runs)
    panels = [(setup, here) for setup, here in parts(runs, setup_of).items() if set(here["cell"]) & set(cells.rows)]
    if not panels:
        raise NotDrawnError("Sensitivity and criterion need held-out test questions.")
    said = []
    with style():
        figure, axes = wrapped(len(panels), 2.4, "sensitivity d′")
        for ax, (setup, here) in zip(axes, panels, strict=True):
            named = study.names.setup(setup)
            ax.axhline(0, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
            ax.axvline(0, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
            for cell in dict.fromkeys(here["cell"]):
                if cell not in cells.rows:
                    continue
                look = look_of(*condition_of(cell))
                of_run = cells.rows[cell].groupby("run_id")[["d_prime", "criterion"]].mean()
                d, c = (
                    difference(cells.scores(cell, SCORES[measure]), unit=measure) for measure in (D_PRIME, CRITERION)
                )
                ends = [np.abs([[one.low - one.estimate], [one.high - one.estimate]]) for one in (c, d)]
                ax.plot(of_run["criterion"], of_run["d_prime"], look.marker, color=look.colour, ms=2.5, mew=0)
                ax.errorbar(
                    c.estimate, d.estimate, xerr=ends[0], yerr=ends[1], fmt=look.marker, color=look.colour,
                    mec=look.ink, mew=0.5, lw=0.8,
                )  # fmt: skip
                name = ", ".join(filter(None, [study.names.key(*condition_of(cell)), named]))
                said.append(f"{name}: d′ {number(d.estimate, 2)}, criterion {number(c.estimate, 2, sign=True)}.")
            ax.set_title(named)
            ax.set_xlabel("criterion (right: says “no”)")
        legend(figure, [key(study.names.key(*line), look_of(*line), ls="") for line in lines_of(runs)])
    caption = (
        "Signal detection on held-out test questions, mean over hypernyms: height is what a condition can tell apart, "
        "the horizontal place is its bias. Small dots: runs; crosses: means with 95 % intervals over seeds and "
        "hypernyms. Dashed: no sensitivity, no bias."
    )
    return Drawn(figure, "Sensitivity and bias", caption, " ".join(said))
