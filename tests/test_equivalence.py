"""TOST against its definition and a second implementation; Holm against statsmodels."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from analysis.statistics.contrasts import EQUIVALENCE_MARGIN, mean_interval
from analysis.statistics.equivalence import holm, tost
from cachegen.common.errors import CrosstaxError


def test_tost_equals_statsmodels_and_the_interval_rule() -> None:
    rng = np.random.default_rng(0)
    verdicts = set()
    for mean, spread in [(0, 0.05), (0.03, 0.02), (0.05, 0.1), (0.2, 0.1), (-0.06, 0.01), (-0.02, 0.2)]:
        values = rng.normal(mean, spread, 25)
        found = tost(values.mean(), stats.sem(values), 24)
        assert found.p == pytest.approx(DescrStatsW(values).ttost_mean(-0.05, 0.05)[0])
        assert (found.low, found.high) == pytest.approx(mean_interval(values, 0.90)[1:])
        assert found.equivalent == (found.low > -0.05 and found.high < 0.05)
        assert found.different == (stats.ttest_1samp(values, 0).pvalue < 0.05)
        verdicts.add((found.equivalent, found.different, found.verdict.split()[0]))
    assert verdicts >= {(True, True, "equivalent"), (False, True, "different"), (False, False, "undecided")}


def test_a_null_with_two_degrees_of_freedom_is_not_equivalence() -> None:
    """The published encoder test (beta .0196, se .0215, df 2.1): p = .45 shows nothing either way."""
    found = tost(2 * 0.01957, 2 * 0.02154, 2.125)
    assert not found.equivalent
    assert not found.different
    assert found.verdict.startswith("undecided")
    assert tost(0.01, 0.01, np.inf).equivalent  # the same kind of null, measured well
    assert tost(0.01, 0.01, np.inf).p == pytest.approx(stats.norm.sf(4))


def test_points_and_shares_agree_when_the_margin_is_given_in_the_same_unit() -> None:
    share, points = tost(0.012, 0.02, 9), tost(1.2, 2.0, 9, margin=EQUIVALENCE_MARGIN)
    assert points.p == pytest.approx(share.p)
    assert tost(1.2, 2.0, 9).p > 0.5  # points against the margin for shares: never equivalent by accident


def test_missing_numbers_are_never_equivalent_and_a_margin_must_be_positive() -> None:
    missing = tost(np.nan, 0.01, 5)
    assert np.isnan(missing.p)
    assert not missing.equivalent
    with pytest.raises(CrosstaxError, match="margin is 0"):
        tost(0.1, 0.1, 5, margin=0)
    with pytest.raises(CrosstaxError, match="margin is inf"):  # everything would be equivalent
        tost(0.1, 0.1, 5, margin=np.inf)


@pytest.mark.parametrize(("se", "alpha"), [(-1.0, 0.05), (0.1, 0.0), (0.1, 0.5), (0.1, 2.0), (0.1, np.nan)])
def test_no_interval_is_turned_round(se: float, alpha: float) -> None:
    with pytest.raises(CrosstaxError, match=r"se is .* and alpha"):
        tost(0.01, se, 9, alpha=alpha)


def test_holm_equals_statsmodels() -> None:
    p = pd.Series([0.01, 0.04, np.nan, 0.03, 0.005, 0.5, 0.9], index=list("abcdefg"))
    adjusted = holm(p)
    assert list(adjusted.index) == list("abcdefg")
    assert np.isnan(adjusted["c"])
    expected = multipletests(p.dropna(), method="holm")[1]
    np.testing.assert_allclose(adjusted.dropna(), expected)
    assert holm(pd.Series([0.02])).tolist() == [0.02]
    assert holm(pd.Series([], dtype=float)).empty


@pytest.mark.parametrize("kind", [float, np.float64, int])
@pytest.mark.parametrize("df", [2, 52, np.inf])
def test_without_spread_the_difference_itself_decides(kind: type, df: float) -> None:
    inside, on_it, outside, none = (tost(d, kind(0), df, margin=2) for d in (1.0, -2.0, 3.0, 0.0))
    assert (inside.p, on_it.p, outside.p, none.p) == (0, 0.5, 1, 0)
    assert [test.equivalent for test in (inside, on_it, outside, none)] == [True, False, False, True]
    assert [test.different for test in (inside, on_it, outside, none)] == [True, True, True, False]
    assert (inside.low, inside.high) == (1, 1)
    tiny = tost(1.0, 1e-12, df, margin=2)  # and it is the limit
    assert (tiny.equivalent, tiny.different) == (inside.equivalent, inside.different)


@pytest.mark.parametrize("difference", [0.0, 0.1, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("se", [0.0, 1e-320, 1.0, np.inf, np.nan])
@pytest.mark.parametrize("df", [0.0, 1.0, np.inf, np.nan])
def test_no_numbers_raise_or_are_equivalent_without_a_p(difference: float, se: float, df: float) -> None:
    with np.errstate(all="ignore"):
        test = tost(difference, se, df)
    assert np.isnan(test.p) or 0 <= test.p <= 1
    assert test.equivalent <= (abs(difference) < test.margin)
    assert test.verdict
