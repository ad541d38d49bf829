"""The crossed bootstrap, and the intervals of a mean and a correlation."""

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import intervals
from analysis.statistics.intervals import (
    correlation,
    crossed_bootstrap,
    percentiles,
    resampled_difference,
    resampled_means,
)


def table(rng: np.random.Generator, shape: tuple[int, int], seed: float, category: float, rest: float) -> np.ndarray:
    """F1 around 70 of S seeds x C categories with crossed effects of these standard deviations."""
    effects = seed * rng.normal(size=(shape[0], 1)) + category * rng.normal(size=(1, shape[1]))
    return 70 + effects + rest * rng.normal(size=shape)


def rows_only(f1_SC: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """What must not be done: resample single values as if none shared a seed or a category."""
    values = f1_SC.ravel()
    return percentiles(values[rng.integers(values.size, size=(500, values.size))].mean(axis=1))


def test_coverage_of_the_bootstrap() -> None:
    rng, naive = np.random.default_rng(1), np.random.default_rng(2)
    hits = {"bootstrap": 0, "rows only": 0}
    for _ in range(300):
        f1_SC = table(rng, (8, 30), 3, 8, 5)
        for name, (low, high) in zip(hits, (crossed_bootstrap(f1_SC), rows_only(f1_SC, naive)), strict=True):
            hits[name] += low < 70 < high
    assert 0.91 <= hits["bootstrap"] / 300 <= 0.985
    assert hits["rows only"] / 300 < 0.75  # the negative control: far too narrow


def test_bootstrap_has_the_variance_of_the_unbiased_estimate() -> None:
    """With categories alike, that of the seeds' mean: s2 / 3; plain resampling of three would give two thirds of it."""
    f1_SC = np.array([[60.0], [66.0], [75.0]]) + np.zeros((3, 40))
    assert resampled_means(f1_SC).var() == pytest.approx(np.var([60, 66, 75], ddof=1) / 3, rel=0.05)
    f1_SC = np.linspace(50, 90, 9)[None] + np.zeros((2, 9))
    assert resampled_means(f1_SC).var() == pytest.approx(np.var(np.linspace(50, 90, 9), ddof=1) / 9, rel=0.05)


def test_the_same_table_gives_the_same_interval() -> None:
    f1_SC = table(np.random.default_rng(3), (3, 20), 2, 8, 4)
    first = crossed_bootstrap(f1_SC)
    intervals._draws.cache_clear()
    assert crossed_bootstrap(f1_SC) == first
    assert first[0] < f1_SC.mean() < first[1]
    inner = crossed_bootstrap(f1_SC, 0.5)
    assert first[0] < inner[0] < inner[1] < first[1]


def test_differences_are_paired_by_category_and_not_by_seed() -> None:
    rng = np.random.default_rng(4)
    one = table(rng, (3, 30), 0, 12, 1)
    draws = resampled_difference(one + 4, one)
    assert draws.mean() == pytest.approx(4, abs=0.1)
    assert percentiles(draws)[1] - percentiles(draws)[0] < 1.5  # categories cancel, 12 points apart as they are
    lifted = np.array([[0.0], [6.0], [12.0]]) + np.zeros((3, 30))
    assert resampled_difference(lifted, lifted).std() > 3  # seeds do not


def test_values_that_are_all_alike() -> None:
    assert crossed_bootstrap(np.full((3, 5), 50.0)) == (50, 50)


@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3, 0), (2, 2)])
def test_one_value_or_none_has_no_interval(shape: tuple[int, int]) -> None:
    table = np.full(shape, np.nan)
    if table.size:
        table[0, 0] = 50
    assert np.isnan(crossed_bootstrap(table)).all()


def test_correlation_equals_scipy() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    expected = stats.pearsonr(x, y)
    r, low, high, n = correlation(np.r_[x, np.nan], np.r_[y, 1.0])
    assert (r, n) == (pytest.approx(expected.statistic), 12)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert np.isnan(correlation(x, np.ones(12))[0])
    assert np.isnan(correlation(x[:3], y[:3])[1])


@pytest.mark.parametrize("level", [0.1, 33.3, -1e9])
def test_values_that_are_equal_but_for_rounding_have_no_correlation(level: float) -> None:
    rounded = np.array([level, level * 3 / 3, level + level / 10 - level / 10, np.nextafter(level, 0), level])
    assert np.ptp(rounded) > 0
    assert np.isnan(correlation(np.arange(5.0), rounded)[:3]).all()
