"""Are the residuals of the mixed models normal? A Q-Q plot of each."""

import numpy as np

from analysis.figures.style import COIN_DASH, GREY, LOOKS, Drawn, NotDrawnError, style, wrapped
from analysis.statistics.residuals import check_residuals, normal_quantiles
from analysis.study import Study
from analysis.words import number

POINTS = 200  # of one plot
MODELS = 12  # drawn; the table model_checks has all


def residual_figure(study: Study) -> Drawn:
    """One panel per model, confirmatory ones first. Raises NotDrawnError where no model was fitted."""
    models = [
        (fitted.about, fitted.model, check_residuals(fitted.model))
        for fitted in study.fitted
        if fitted.model is not None
    ]
    if not models:
        raise NotDrawnError("The residuals need a mixed model, which takes runs of two conditions with several seeds.")
    shown, said, look = models[:MODELS], [], LOOKS["original"]
    with style():
        figure, axes = wrapped(len(shown), 1.7, "residual, in SDs")
        for place, (ax, (about, model, checks)) in enumerate(zip(axes, shown, strict=True), start=1):
            points = normal_quantiles(model, POINTS)
            end = float(np.abs(points["normal"]).max())
            ax.plot([-end, end], [-end, end], color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
            ax.plot(points["normal"], points["found"], color=look.colour, ls="", marker=look.marker, ms=2, mew=0)
            ax.set_title(f"{place} {about['question']}")
            ax.set_xlabel("normal quantile")
            name = ", ".join(filter(None, (about["comparison"], about["setup"])))
            shape = f"skewness {number(checks.skewness, 2)}, excess {number(checks.kurtosis, 2)}"
            said.append(f"{place}: {name}; {shape}.")
    caption = "Residuals of each mixed model against a normal distribution’s quantiles; on the dashed line if normal. "
    caption += " ".join(said)
    if len(models) > len(shown):
        caption += f" Of {len(models)} models the first {len(shown)}; the table model_checks has all."
    far = [100 * checks.far_share for _, _, checks in shown]
    alt = f"Beyond three SDs lie {number(min(far))} to {number(max(far))} % of the residuals (normal: 0.3 %)."
    return Drawn(figure, "Residuals of the mixed models", caption, alt)
