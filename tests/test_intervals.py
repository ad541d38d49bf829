"""Intervals over seeds and categories: equal to the mixed model, and with the coverage they promise."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import intervals
from analysis.statistics.intervals import (
    MODEL,
    crossed_bootstrap,
    crossed_interval,
    interval_note,
    percentiles,
    resampled_difference,
    resampled_means,
)
from analysis.statistics.mixed_effects import mixed_model


def table(rng: np.random.Generator, shape: tuple[int, int], seed: float, category: float, rest: float) -> np.ndarray:
    """F1 around 70 of S seeds x C categories with crossed effects of these standard deviations."""
    effects = seed * rng.normal(size=(shape[0], 1)) + category * rng.normal(size=(1, shape[1]))
    return 70 + effects + rest * rng.normal(size=shape)


def long(f1_SC: np.ndarray) -> pd.DataFrame:
    seed, category = np.nonzero(np.isfinite(f1_SC))
    return pd.DataFrame({"f1": f1_SC[seed, category], "seed": seed.astype(str), "category": category.astype(str)})


def rows_only(f1_SC: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """What must not be done: resample single values as if none shared a seed or a category."""
    values = f1_SC.ravel()
    return percentiles(values[rng.integers(values.size, size=(500, values.size))].mean(axis=1))


def coverage(shape: tuple[int, int], sds: tuple[float, float, float], n: int) -> dict[str, float]:
    """Share of `n` simulated tables whose 95 % interval holds the true mean."""
    rng, naive = np.random.default_rng(1), np.random.default_rng(2)
    hits = dict.fromkeys(("bootstrap", "model", "rows only"), 0)
    for _ in range(n):
        f1_SC = table(rng, shape, *sds)
        ends = (crossed_bootstrap(f1_SC), crossed_interval(f1_SC)[:2], rows_only(f1_SC, naive))
        for name, (low, high) in zip(hits, ends, strict=True):
            hits[name] += low < 70 < high
    return {name: count / n for name, count in hits.items()}


def test_closed_form_equals_the_mixed_model() -> None:
    """Interior optima and those where REML puts one variance or both at zero."""
    rng = np.random.default_rng(0)
    singular = set()
    for number in range(24):
        shape = (int(rng.integers(2, 6)), int(rng.integers(3, 12)))
        f1_SC = table(rng, shape, rng.choice([0, 0.5, 3]), rng.choice([0, 1, 6]), 5)
        model = mixed_model(MODEL, long(f1_SC))
        row = model.fixed.iloc[0]
        low, high, df, said = crossed_interval(f1_SC)
        assert (low, high, df) == pytest.approx((row["low"], row["high"], row["df"]), rel=1e-5), number
        assert said == MODEL
        singular.add(model.singular)
    assert singular == {True, False}


def test_coverage_where_seeds_and_categories_vary() -> None:
    found = coverage((8, 30), (3, 8, 5), 400)
    assert 0.91 <= found["bootstrap"] <= 0.985
    assert 0.91 <= found["model"] <= 0.985
    assert found["rows only"] < 0.75  # the negative control: far too narrow


def test_coverage_with_three_seeds() -> None:
    found = coverage((3, 53), (2, 10, 6), 400)
    assert 0.90 <= found["bootstrap"] <= 0.985
    assert 0.91 <= found["model"] <= 0.985
    assert found["rows only"] < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 53), (6, 53), (20, 20)])
@pytest.mark.parametrize("seed", [0.0, 2.0, 4.0])
def test_coverage_at_length(shape: tuple[int, int], seed: float) -> None:
    found = coverage(shape, (seed, 10, 6), 2000)
    # Percentiles of three seeds cannot reach as far as t with two degrees of freedom does; that is nearly far enough.
    least = {"bootstrap": 0.87, "model": 0.91} if shape[0] == 3 else {"bootstrap": 0.925, "model": 0.93}
    assert least["bootstrap"] <= found["bootstrap"] <= 0.975
    assert least["model"] <= found["model"] <= 0.975
    assert found["rows only"] < 0.85


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


def test_a_table_with_gaps() -> None:
    rng = np.random.default_rng(5)
    f1_SC = table(rng, (3, 25), 2, 8, 4)
    f1_SC[0, :4] = f1_SC[2, 7] = np.nan
    row = mixed_model(MODEL, long(f1_SC)).fixed.iloc[0]
    low, high, df, said = crossed_interval(f1_SC)
    assert (low, high, df) == pytest.approx((row["low"], row["high"], row["df"]))
    assert said == MODEL
    mean = np.nanmean(f1_SC, axis=1).mean()
    low, high = crossed_bootstrap(f1_SC)
    assert low < mean < high
    f1_SC = table(rng, (2, 300), 2, 8, 4)
    f1_SC[0, 0] = np.nan
    low, _, _, said = crossed_interval(f1_SC)
    assert np.isnan(low)
    assert said == "not fitted: 300 categories that not all seeds have"


def test_one_seed_or_one_category_is_student_s_t_over_the_other() -> None:
    f1_SC = table(np.random.default_rng(6), (1, 20), 0, 8, 4)
    low, high, df, said = crossed_interval(f1_SC)
    expected = stats.t.interval(0.95, 19, f1_SC.mean(), stats.sem(f1_SC.ravel()))
    assert (low, high) == pytest.approx(expected)
    assert (df, said) == (19, "Student's t over categories")
    assert crossed_interval(f1_SC.T)[3] == "Student's t over seeds"
    assert np.isnan(crossed_interval(f1_SC[:, :1])[0])
    assert np.isnan(crossed_bootstrap(np.full((3, 4), np.nan))).all()


def test_values_that_are_all_alike() -> None:
    assert crossed_interval(np.full((3, 5), 50.0))[:2] == (50, 50)
    assert crossed_bootstrap(np.full((3, 5), 50.0)) == (50, 50)


def test_the_note_says_what_few_seeds_mean() -> None:
    assert "about categories only" in interval_note(1)
    assert interval_note(3).startswith("3 seeds: their variance can barely be estimated")
    assert interval_note(10) == ""


@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3, 0), (2, 2)])
def test_one_value_or_none_has_no_interval(shape: tuple[int, int]) -> None:
    table = np.full(shape, np.nan)
    if table.size:
        table[0, 0] = 50
    assert np.isnan(crossed_bootstrap(table)).all()
    assert np.isnan(crossed_interval(table)[:2]).all()
