"""The crossed bootstrap: a robust second interval beside that of `statistics.difference`.

A cell's F1 is a table seeds x categories with crossed effects: a seed moves all categories at once, a category all
seeds. Resampling single values would treat them as independent and give far too narrow an interval. So seeds and
categories are each resampled with replacement, independently of the other, and the mean is taken over the table they
span (McCullagh 2000; Owen 2007, "The pigeonhole bootstrap", who shows that it errs on the wide side where seeds and
categories interact). S - 1 of S seeds and C - 1 of C categories are drawn: for a mean this makes the variance that of
the unbiased estimate, where S of S with S = 3 would lose a third. Percentile intervals, not BCa: the statistic is a
mean, so there is next to no bias or skew to correct, and the acceleration of BCa would have to be guessed from three
seeds. It assumes no normal distribution, yet with three seeds percentiles cannot reach as far as t does: 90 % coverage
where seeds differ much.
Legend: S seeds, C categories, B draws.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cachegen.common.rng import generator

Array = NDArray[np.float64]

DRAWS = 4000


def crossed_bootstrap(f1_SC: Array, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a mean, with seeds and categories both resampled (4,000 draws).

    Args:
        f1_SC: Scores, seeds x categories, in any unit. Gaps are NaN.
        level: Level of the interval.

    Returns:
        Lower and upper end; NaN for a single value.
    """
    return percentiles(resampled_means(f1_SC), level)


def percentiles(draws_B: Array, level: float = 0.95) -> tuple[float, float]:
    """The interval that holds the middle `level` of the draws; missing where there are none."""
    known = draws_B[np.isfinite(draws_B)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def resampled_means(f1_SC: Array, seeds: str = "seed") -> Array:
    """Mean over categories, then seeds, in each draw (B,); a seed without any category of a draw is left out of it.

    Tables with as many categories share their draws, so that differences of two tables are paired by category; seeds
    are drawn apart for another name `seeds`. Missing for a single value, which is all that could be drawn.
    """
    known_SC = np.isfinite(f1_SC)
    if known_SC.sum() < 2:
        return np.full(DRAWS, np.nan)
    weight_BS, weight_BC = _draws(f1_SC.shape[0], seeds), _draws(f1_SC.shape[1], "category")
    with np.errstate(invalid="ignore"):
        mean_SB = (np.where(known_SC, f1_SC, 0) @ weight_BC.T) / (known_SC.astype(float) @ weight_BC.T)
        weight_SB = weight_BS.T * np.isfinite(mean_SB)
        found: Array = np.nansum(mean_SB * weight_SB, axis=0) / weight_SB.sum(axis=0)
    return found


def resampled_difference(one_SC: Array, other_TC: Array) -> Array:
    """Mean of one table less that of another with the same categories, in each draw (B,); their seeds drawn apart."""
    return resampled_means(one_SC) - resampled_means(other_TC, "other seed")


@lru_cache(maxsize=32)
def _draws(size: int, what: str) -> Array:
    """How often each of `size` is drawn (B, size) when all but one are drawn with replacement."""
    drawn = generator(0, "intervals", what, size).integers(size, size=(DRAWS, max(size - 1, 1)))
    place = drawn + size * np.arange(DRAWS)[:, None]
    return np.bincount(place.ravel(), minlength=DRAWS * size).reshape(DRAWS, size).astype(float)


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float, int]:
    """Pearson r, its 95 % interval (Fisher's z; NaN with fewer than four points) and n, over complete pairs."""
    complete = np.isfinite(x) & np.isfinite(y)
    x, y, n = x[complete], y[complete], int(complete.sum())
    if n < 2 or any(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in (x, y)):  # constant but for rounding
        return np.nan, np.nan, np.nan, n
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if n < 4 or abs(r) == 1:
        return r, np.nan, np.nan, n
    z, half = np.arctanh(r), 1.959964 / np.sqrt(n - 3)
    return r, float(np.tanh(z - half)), float(np.tanh(z + half)), n
