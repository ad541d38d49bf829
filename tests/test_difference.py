"""The one comparison: its tests against other implementations, its interval against simulated truth, its decision."""

import gc

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from analysis.statistics.difference import (
    ONE_HYPERNYM,
    OVER_BOTH,
    THESE_SEEDS,
    Decision,
    Spread,
    adjusted,
    difference,
    holm,
    judged,
)
from analysis.statistics.simulate import CELL, OTHER, SHARED, calibrate
from cachegen.common.errors import CrosstaxError


def table(
    rng: np.random.Generator, sds: tuple[float, float, float] = (4, 14, 9), S: int = 3, H: int = 20, seeds: str = "run"
) -> pd.DataFrame:
    seed, hypernym, rest = sds
    shared_H = hypernym * np.random.default_rng(1).normal(size=H)
    values = 60 + seed * rng.normal(size=(S, 1)) + shared_H + rest * rng.normal(size=(S, H))
    return pd.DataFrame(values, [f"{seeds} {s}" for s in range(S)], [f"hypernym {h:02d}" for h in range(H)])


def test_tests_equal_statsmodels_and_the_intervals() -> None:
    rng = np.random.default_rng(0)
    decisions = set()
    for mean, spread in [(0, 5), (3, 2), (5, 10), (20, 10), (-6, 1), (-2, 20)]:
        values = rng.normal(mean, spread, 25)
        found = judged(values.mean(), stats.sem(values), 24)
        assert found.p_equivalence == pytest.approx(DescrStatsW(values).ttost_mean(-5, 5)[0])
        assert (found.low90, found.high90) == pytest.approx(DescrStatsW(values).tconfint_mean(0.1))
        assert found.equivalent == (found.low90 > -5 and found.high90 < 5)
        assert found.different == (stats.ttest_1samp(values, 0).pvalue < 0.05) == (not found.low <= 0 <= found.high)
        power = TTestPower().power(found.detectable / values.std(ddof=1), 25, 0.05)
        assert power == pytest.approx(0.8, abs=0.001)
        decisions.add(found.decision)
    assert decisions == set(Decision)


@pytest.mark.parametrize(
    ("estimate", "se", "decision", "equivalent"),
    [
        (8, 1, Decision.ABOVE, False),
        (-8, 1, Decision.BELOW, False),
        (2, 0.1, Decision.ABOVE, True),  # small and real: the difference is said first
        (0.1, 1, Decision.EQUIVALENT, True),
        (3, 3, Decision.UNDECIDED, False),
        (np.nan, 1, Decision.UNDECIDED, False),
        (1, np.nan, Decision.UNDECIDED, False),
    ],
)
def test_one_rule_decides(estimate: float, se: float, decision: Decision, equivalent: bool) -> None:
    found = judged(estimate, se, 30)
    assert (found.decision, found.equivalent) == (decision, equivalent)
    assert found.verdict.startswith(str(decision))
    assert "these seeds only" in judged(estimate, se, 30, basis=THESE_SEEDS).verdict


def test_a_null_with_two_degrees_of_freedom_is_not_equivalence() -> None:
    """The published encoder test (beta .0196, se .0215, df 2.1): p = .45 shows nothing either way."""
    assert judged(2 * 1.957, 2 * 2.154, 2.125).decision is Decision.UNDECIDED
    assert judged(1, 1, np.inf).decision is Decision.EQUIVALENT  # the same kind of null, measured well


def test_bounds_of_what_can_be_tested() -> None:
    for se, margin in ((-1.0, 5.0), (0.1, 0.0), (0.1, np.inf)):
        with pytest.raises(CrosstaxError, match=r"se is .* and the equivalence margin"):
            judged(1, se, 5, margin=margin)
    inside, on_it, outside, none = (judged(d, 0, 52, margin=2) for d in (1.0, -2.0, 3.0, 0.0))
    assert [d.p_equivalence for d in (inside, on_it, outside, none)] == [0, 0.5, 1, 0]
    assert [d.different for d in (inside, on_it, outside, none)] == [True, True, True, False]


@pytest.mark.parametrize("estimate", [0.0, 0.1, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("se", [0.0, 1e-320, 1.0, np.inf, np.nan])
@pytest.mark.parametrize("df", [0.0, 1.0, np.inf, np.nan])
def test_no_numbers_raise_or_decide_without_a_p(estimate: float, se: float, df: float) -> None:
    with np.errstate(all="ignore"):
        found = judged(estimate, se, df)
    for p in (found.p, found.p_equivalence):
        assert np.isnan(p) or 0 <= p <= 1
    assert found.equivalent <= (abs(estimate) < found.margin)
    assert found.verdict


@pytest.mark.parametrize("frozen", [False, True])
def test_holm_leaves_the_heap_frozen_or_not(frozen: bool) -> None:
    gc.unfreeze()
    if frozen:
        gc.freeze()
    try:
        holm(pd.Series([0.01, 0.5]))
        assert (gc.get_freeze_count() > 0) == frozen
    finally:
        gc.freeze()  # as conftest.py left it


def test_the_family_is_adjusted_by_holm() -> None:
    p = pd.Series([0.01, 0.04, np.nan, 0.03, 0.005, 0.5, 0.9], index=list("abcdefg"))
    assert list(holm(p).index) == list("abcdefg")
    np.testing.assert_allclose(holm(p).dropna(), multipletests(p.dropna(), method="holm")[1])
    assert holm(pd.Series([], dtype=float)).empty
    one, other, null = (judged(estimate, 1, 60) for estimate in (2.1, 9, 0))
    family = adjusted([one, other, null], ["p", "p", "p_equivalence"])
    planned = [one.p, other.p, null.p_equivalence]
    own = [family[0].p_adjusted, family[1].p_adjusted, family[2].p_equivalence_adjusted]
    assert own == pytest.approx(list(multipletests(planned, method="holm")[1]))
    assert np.isnan([family[0].p_equivalence_adjusted, family[2].p_adjusted]).all()
    assert (one.decision, adjusted([one] * 3, ["p"] * 3)[0].decision) == (Decision.ABOVE, Decision.EQUIVALENT)


def test_seeds_that_are_shared_are_paired() -> None:
    rng = np.random.default_rng(3)
    one, other = table(rng, (9, 14, 1)), table(rng, (0, 14, 1))
    other = other + (one.mean(axis=1) - 60).to_numpy()[:, None]  # the same seeds, good and bad in both
    paired = difference(one + 2, other)
    apart = difference(one + 2, other.rename(index=lambda seed: f"{seed}'"))
    assert (paired.paired, apart.paired) == (True, False)
    assert paired.estimate == pytest.approx(apart.estimate)
    assert paired.se < apart.se / 3
    shuffled = other.iloc[::-1, ::-1]
    assert difference(one + 2, shuffled) == paired  # by labels, whatever the order
    assert difference(other, one + 2).estimate == pytest.approx(-paired.estimate)
    assert paired.worst == pytest.approx((one + 2).mean(axis=1).min() - other.mean(axis=1).max())


def test_few_of_either_is_said() -> None:
    one, other = table(np.random.default_rng(4)), table(np.random.default_rng(5), seeds="other")
    single = difference(one.iloc[:1], other)
    gaps = one.iloc[0] - other.mean()
    assert single.basis == THESE_SEEDS
    assert (single.low, single.high) == pytest.approx(DescrStatsW(gaps).tconfint_mean())
    lone = difference(one.iloc[:, :1], other.iloc[:, :1])
    expected = stats.ttest_ind(one.iloc[:, 0], other.iloc[:, 0], equal_var=False)
    assert (lone.basis, lone.p, lone.df) == (ONE_HYPERNYM, pytest.approx(expected.pvalue), pytest.approx(expected.df))
    for few in (one.iloc[:1, :1], one.iloc[:0], one * np.nan, one.iloc[:, :0]):
        found = difference(few)
        assert np.isnan([found.low, found.p, found.boot_low]).all()
        assert found.decision is Decision.UNDECIDED
    assert difference(one, other).basis == OVER_BOTH
    assert difference(one, other[[]]).n_hypernyms == 0


def test_gaps_change_little() -> None:
    one, other = table(np.random.default_rng(6)), table(np.random.default_rng(7))
    whole, holed = difference(one, other), one.copy()
    holed.iloc[0, 3] = holed.iloc[2, 7] = np.nan
    found = difference(holed, other)
    assert (found.estimate, found.se, found.df) == (
        pytest.approx(whole.estimate, abs=2),
        pytest.approx(whole.se, rel=0.15),
        pytest.approx(whole.df, rel=0.3),
    )
    additive = one * 0 + np.add.outer([0.0, 5, 9], np.arange(20))  # no residual: gaps are known
    gapped = additive.copy()
    gapped.iloc[1, 1] = np.nan
    assert difference(gapped).estimate == pytest.approx(additive.to_numpy().mean())


def test_without_residual_it_is_the_behrens_fisher_half_width() -> None:
    values = np.add.outer([0.0, 6, 15], np.linspace(0, 60, 13))
    spread = Spread.of(values)
    se, df = spread.standard_error()
    half = stats.t.ppf(0.975, 2) ** 2 * np.var([0, 6, 15], ddof=1) / 3
    half += stats.t.ppf(0.975, 12) ** 2 * np.var(np.linspace(0, 60, 13), ddof=1) / 13
    assert stats.t.ppf(0.975, df) * se == pytest.approx(half**0.5)


def test_simulated_rates_with_negative_controls() -> None:
    """A quick look at what docs/statistics.md shows at length; t over hypernyms is what must fail."""
    found = calibrate(studies=1500, bootstrapped=0, seeds=(3,), hypernyms=(53,))
    assert found["covers"].min() > 93
    assert found["different"].max() < 7
    assert found["equivalent"].max() < 7
    assert found.loc[found["sd_seeds"] == 4, "t_covers"].max() < 85


@pytest.mark.slow
def test_simulated_rates_at_length() -> None:
    found = calibrate(bootstrapped=0)
    assert set(found["kind"]) == {CELL, SHARED, OTHER}
    assert found["covers"].min() > 94
    typical = found[(found["sd_hypernyms"] >= 12) | (found["seeds"] == 10)]
    assert typical["covers"].max() < 97.6
    assert found["different"].max() < 6
    assert found["equivalent"].max() < 5.8
