"""Equivalence tests and adjustment for many tests.

"Not significant" is not "equivalent": a null is stated with two one-sided tests (TOST; Schuirmann 1987) at a margin.
Both reject at `alpha` exactly when the 1 - 2 alpha interval lies inside the margin, the rule of `contrasts`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from analysis.statistics.contrasts import EQUIVALENCE_MARGIN
from cachegen.common.errors import CrosstaxError

MARGIN = EQUIVALENCE_MARGIN / 100  # F1 in 0..1


@dataclass(frozen=True)
class Equivalence:
    """The result of two one-sided t tests of |difference| < margin; made by `tost`.

    A difference can be both equivalent and different (real but small), or neither.

    Attributes:
        difference: The difference that was tested, in its own unit, as are margin, low and high.
        margin: The largest difference that does not matter.
        alpha: Level of each test.
        low: Lower end of the 1 - 2 alpha interval (90 % for alpha .05).
        high: Upper end of that interval.
        p: The larger of the two one-sided p values.
        different: The two-sided test against zero rejects at alpha.
    """

    difference: float
    margin: float
    alpha: float
    low: float
    high: float
    p: float
    different: bool

    @property
    def equivalent(self) -> bool:
        return self.p < self.alpha

    @property
    def verdict(self) -> str:
        """The decision in words."""
        if self.equivalent:
            small = f"equivalent within {self.margin:g}"
            return f"{small}, though different from zero" if self.different else small
        if self.different:
            return f"different from zero, and not shown to lie within {self.margin:g}"
        return "undecided (neither a difference nor equivalence is shown)"


def tost(difference: float, se: float, df: float, *, margin: float = MARGIN, alpha: float = 0.05) -> Equivalence:
    """Test whether a difference lies within plus or minus `margin`, by two one-sided t tests.

    Args:
        difference: Estimated difference. A slope on a -1/+1 code is half the difference between its levels: double it
            and its standard error first.
        se: Standard error. If it is 0, p is 0 or 1, and .5 on the margin.
        df: Degrees of freedom; `inf` for a normal test.
        margin: Largest difference that does not matter. The default is for F1 in 0..1.
        alpha: Level of each test.

    Returns:
        The decision with its interval. Missing input gives a missing p and no equivalence.

    Raises:
        CrosstaxError: The margin is not positive and finite, `se` is negative, or `alpha` is not between 0 and .5.
    """
    if se < 0 or not 0 < alpha < 0.5:
        raise CrosstaxError(
            f"se is {se:g} and alpha {alpha:g}; give an se of at least 0, and an alpha between 0 and .5"
        )
    if not 0 < margin < np.inf:
        raise CrosstaxError(
            f"equivalence margin is {margin:g}; give the largest difference that does not matter, above 0"
        )
    above, below, apart = (_t(gap, se) for gap in (difference + margin, difference - margin, difference))
    half = float(stdtrit(df, 1 - alpha)) * se
    p = float(np.maximum(stdtr(df, -above), stdtr(df, below)))
    different = bool(2 * stdtr(df, -abs(apart)) < alpha)
    return Equivalence(difference, margin, alpha, difference - half, difference + half, p, different)


def _t(difference: float, se: float) -> float:
    """`difference / se`; without spread a difference is infinitely many standard errors, and none is none."""
    if se == 0:
        return difference * np.inf if difference else 0.0
    return difference / se


def holm(p: pd.Series) -> pd.Series:
    """Holm's adjusted p of one family of tests. The index is kept; missing values stay missing and do not count."""
    ordered = p.dropna().sort_values(kind="stable")
    factors = np.arange(len(ordered), 0, -1)
    adjusted = (ordered * factors).cummax().clip(upper=1)
    return adjusted.reindex(p.index)
