"""Do a mixed model's residuals look as it assumes: normal, and as wide at every fitted value?

F1 lies between 0 and 100, so both must fail somewhat where scores come near an end. Estimates bear that well;
intervals and p less so, hence the bootstrap beside them (`analysis.statistics.intervals`), which assumes neither.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.mixed_effects import MixedModel
from analysis.statistics.models import ABOUT, Fitted

FAR = 3.0  # residual sds; of a normal distribution 0.3 % lie beyond
ENDS = (0.0, 100.0)  # of F1


@dataclass(frozen=True)
class Residuals:
    """What to look at in the residuals of one model, conditional on its random effects.

    skewness, kurtosis (in excess of the normal distribution's): 0 if normal. far_share: beyond 3 sds, 0..1 (normal:
    .003). largest: in sds, with its sign. sd_low, sd_high: of the rows with the lowest and the highest third of fitted
    values, in points. outside_share: fitted values below 0 or above 100, 0..1.
    """

    skewness: float
    kurtosis: float
    far_share: float
    largest: float
    sd_low: float
    sd_high: float
    outside_share: float


def check_residuals(model: MixedModel) -> Residuals:
    """The numbers of `Residuals` for a model of F1 in points."""
    residual, fitted = model.rows["residual"].to_numpy(float), model.rows["fitted"].to_numpy(float)
    scaled = residual / model.sigma
    low, high = np.quantile(fitted, [1 / 3, 2 / 3])
    return Residuals(
        skewness=float(stats.skew(residual)),
        kurtosis=float(stats.kurtosis(residual)),
        far_share=float((np.abs(scaled) > FAR).mean()),
        largest=float(scaled[np.abs(scaled).argmax()]),
        sd_low=float(residual[fitted <= low].std()),
        sd_high=float(residual[fitted >= high].std()),
        outside_share=float(((fitted < ENDS[0]) | (fitted > ENDS[1])).mean()),
    )


def normal_quantiles(model: MixedModel, points: int) -> pd.DataFrame:
    """Q-Q plot of the residuals in sds: columns normal, found; at most `points` rows, among them both extremes."""
    found = np.sort(model.rows["residual"].to_numpy(float)) / model.sigma
    normal = stats.norm.ppf((np.arange(len(found)) + 0.5) / len(found))
    kept = np.unique(np.round(np.linspace(0, len(found) - 1, min(points, len(found)))).astype(int))
    return pd.DataFrame({"normal": normal[kept], "found": found[kept]})


def checks_table(models: Sequence[Fitted]) -> pd.DataFrame:
    """One row per model that was fitted: which one, n (rows), and its `Residuals`."""
    rows = [
        {**fitted.about, "n": fitted.model.n, **asdict(check_residuals(fitted.model))}
        for fitted in models
        if fitted.model is not None
    ]
    return pd.DataFrame(rows, columns=[*ABOUT, "n", *(field.name for field in fields(Residuals))])
