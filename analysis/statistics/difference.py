"""The one way to compare: from two tables of seeds x hypernyms to a difference, its tests and one decision.

Seeds and hypernyms are both samples. The mean over a table d[s, h] = mean + a[s] + b[h] + e[s, h] has the variance
a2 / S + b2 / H + e2 / (S H), which mean squares estimate: MS_s / (S H) and MS_h / (S H), in which the residual is
counted twice, less MS_e / (S H). Two cells with the same seeds are compared seed by seed, that is as one table of
differences. With other seeds the two have their own seeds and residuals, and hypernyms are paired.

With three seeds the textbook intervals are too narrow where seeds differ (Satterthwaite's and REML's cover 93 %). Here
each factor brings its own t quantile, as in the Behrens-Fisher problem: half-width^2 = t_s^2 V_s + t_h^2 V_h, with the
residual taken off V_s where that is less than half of V_h, else off V_h. Of the rules that were tried this one keeps
both kinds of error nearest to 5 % (`analysis.statistics.simulate`; docs/statistics.md). The width is reported as a
standard error and the degrees of freedom of a t with that width, and all tests follow from these two.

Legend: S, T seeds of the two sides, H hypernyms; leading dimensions (...) are many tables at once.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import nctdtrinc, stdtr, stdtridf, stdtrit
from statsmodels.stats.multitest import multipletests

from analysis.statistics.intervals import percentiles, resampled_difference, resampled_means
from analysis.words import number
from cachegen.common.errors import CrosstaxError

Array = NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
# Differences that do not matter: of F1, of AUC, and of d' and criterion (d' of .2 is an AUC of .55, near chance).
MARGINS = {"points": 5.0, "AUC": 0.05, "d′": 0.2, "criterion": 0.2}
EQUIVALENCE_MARGIN = MARGINS["points"]
OVER_BOTH, THESE_SEEDS, ONE_HYPERNYM = "seeds and hypernyms", "these seeds only", "this hypernym only"
FILLS = 50  # rounds that fill gaps; they settle within a dozen


class Decision(StrEnum):
    """What a difference lets one say: the only rule there is, see `Difference.decision`."""

    ABOVE = "above"
    BELOW = "below"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Difference:
    """A difference with its tests; made by `difference`, or by `judged` from an estimate.

    Attributes:
        estimate: The difference, in `unit`, as are se, margin and all ends of intervals.
        se: Standard error.
        df: Degrees of freedom of the t distribution that intervals and tests use.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        low90: Lower end of the 90 % interval, whose place inside the margin is the equivalence test.
        high90: Upper end of the 90 % interval.
        p: Two-sided, of no difference.
        p_equivalence: Of a difference outside the margin: the larger of two one-sided tests (TOST).
        margin: The largest difference that does not matter.
        unit: "points" (of F1), "AUC", "d′", "criterion", or another.
        basis: What was treated as a sample: "seeds and hypernyms" or "these seeds only".
        n_seeds: Seeds of either side; (0, 0) for an estimate that came without a table.
        n_hypernyms: Hypernyms that both sides have.
        paired: The two sides have the same seeds and were compared seed by seed.
        boot_low: Lower end of the 95 % interval of the crossed bootstrap.
        boot_high: Upper end of the same.
        worst: Lowest seed of the one side less highest seed of the other.
        standardised: `estimate` in standard deviations of the first side's single values (seed, hypernym).
        detectable: The true difference that a study of this size and spread would show with 80 % probability.
        p_adjusted: `p` after Holm's adjustment over its family, see `adjusted`; missing for an exploratory one.
        p_equivalence_adjusted: `p_equivalence` likewise.
    """

    estimate: float
    se: float
    df: float
    low: float
    high: float
    low90: float
    high90: float
    p: float
    p_equivalence: float
    margin: float
    unit: str = "points"
    basis: str = OVER_BOTH
    n_seeds: tuple[int, int] = (0, 0)
    n_hypernyms: int = 0
    paired: bool = False
    boot_low: float = np.nan
    boot_high: float = np.nan
    worst: float = np.nan
    standardised: float = np.nan
    detectable: float = np.nan
    p_adjusted: float = np.nan
    p_equivalence_adjusted: float = np.nan

    @property
    def different(self) -> bool:
        """The test of no difference rejects, after adjustment where there is one."""
        return bool(_first(self.p_adjusted, self.p) < ALPHA)

    @property
    def equivalent(self) -> bool:
        """Both one-sided tests reject, after adjustment where there is one."""
        return bool(_first(self.p_equivalence_adjusted, self.p_equivalence) < ALPHA)

    @property
    def decision(self) -> Decision:
        """above or below: different from zero, however small; equivalent: else, and shown to be within the margin."""
        if self.different:
            return Decision.ABOVE if self.estimate > 0 else Decision.BELOW
        return Decision.EQUIVALENT if self.equivalent else Decision.UNDECIDED

    @property
    def verdict(self) -> str:
        """The decision in words, as every table and sentence has it."""
        within = f"within {self.margin:g}{self._unit}"
        if self.decision in (Decision.ABOVE, Decision.BELOW):
            said = f"{self.decision} by {self._number(abs(self.estimate))}{self._unit}"
            said += f", though {within}" * self.equivalent
        elif self.decision is Decision.EQUIVALENT:
            said = f"equivalent {within}"
        elif np.isfinite(self.p):
            said = f"undecided at {self._number(self.estimate, sign=True)}{self._unit}"
        else:
            said = f"undecided at {self._number(self.estimate, sign=True)}{self._unit}, too few values for a test"
        return said if self.basis == OVER_BOTH else f"{said} ({self.basis})"

    @property
    def _unit(self) -> str:
        return " points" if self.unit == "points" else ""

    def _number(self, value: float, sign: bool = False) -> str:
        return number(value, 1 if self.unit == "points" else 3, sign=sign)


def judged(
    estimate: float, se: float, df: float, *, margin: float = EQUIVALENCE_MARGIN, unit: str = "points", **about: Any
) -> Difference:
    """The tests of an estimate with a standard error and degrees of freedom (`inf` for normal tests).

    Missing input gives missing tests and no decision. `about`: the other fields of `Difference`.

    Raises:
        CrosstaxError: The margin is not positive and finite, or `se` is negative.
    """
    if se < 0 or not 0 < margin < np.inf:
        raise CrosstaxError(
            f"se is {se:g} and the equivalence margin {margin:g}; give an se of at least 0, and a margin above 0"
        )
    apart, above, below = (_t(gap, se) for gap in (estimate, estimate + margin, estimate - margin))
    half, half90 = (float(stdtrit(df, level)) * se for level in (0.975, 0.95))
    with np.errstate(invalid="ignore"):
        p_equivalence = float(np.maximum(stdtr(df, -above), stdtr(df, below)))
    return Difference(
        estimate=estimate,
        se=se,
        df=df,
        low=estimate - half,
        high=estimate + half,
        low90=estimate - half90,
        high90=estimate + half90,
        p=float(2 * stdtr(df, -abs(apart))),
        p_equivalence=p_equivalence,
        margin=margin,
        unit=unit,
        detectable=_detectable(se, df),
        **about,
    )


def difference(one: pd.DataFrame, other: pd.DataFrame | None = None, *, unit: str = "points") -> Difference:
    """`one` less `other`, or `one` itself, on the hypernyms that both have.

    Args:
        one: Scores, one row per seed (index: its label) and one column per hypernym; gaps are NaN. For a baseline or
            control of the same runs give one row per seed too, with the same labels.
        other: The same of the other side. With the labels of `one` the two are compared seed by seed.
        unit: A key of `MARGINS`.
    """
    one, other, paired = _aligned(one, other)
    if other is None or paired:
        table = one if other is None else one - other
        filled, boot_B = [_filled(table)], resampled_means(table.to_numpy(float))
    else:
        filled = [_filled(one), _filled(other)]
        boot_B = resampled_difference(one.to_numpy(float), other.to_numpy(float))
    means = [float(values.mean()) if values.size else np.nan for values, _ in filled]
    se, df, basis = _standard_error(filled)
    estimate = means[0] - sum(means[1:])
    worst = _ends(one)[0] - (0.0 if other is None else _ends(other)[1])
    boot_low, boot_high = percentiles(boot_B)
    spread = float(pd.Series(one.to_numpy(float).ravel()).std())
    return judged(
        estimate,
        se,
        df,
        margin=MARGINS[unit],
        unit=unit,
        basis=basis,
        n_seeds=(len(one), 0 if other is None else len(other)),
        n_hypernyms=one.shape[1],
        paired=paired,
        boot_low=boot_low,
        boot_high=boot_high,
        worst=worst,
        standardised=estimate / spread if spread > 0 else np.nan,
    )


def seeds_by_hypernyms(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Means of `value`, one row per seed and one column per category; `rows`: columns seed, category and `value`."""
    return rows.groupby(["seed", "category"])[value].mean().astype(float).unstack()


def adjusted(differences: Sequence[Difference], planned: Sequence[str]) -> list[Difference]:
    """One family of confirmatory tests, Holm-adjusted: of each difference the test it was `planned` for.

    `planned`: "p" or "p_equivalence". The other test of a difference stays as it is.
    """
    p = holm(pd.Series([getattr(d, name) for d, name in zip(differences, planned, strict=True)], dtype=float))
    return [
        replace(d, p_adjusted=float(value)) if name == "p" else replace(d, p_equivalence_adjusted=float(value))
        for d, name, value in zip(differences, planned, p, strict=True)
    ]


def holm(p: pd.Series) -> pd.Series:
    """Holm's adjusted p of one family of tests. The index is kept; missing values stay missing and do not count."""
    known = p.dropna()
    if known.empty:
        return p
    frozen = gc.get_freeze_count() > 0  # by somebody else, whose choice stays
    if not frozen:
        gc.freeze()  # `multipletests` collects garbage first, which takes a second where a study is in memory
    try:
        p_adjusted = multipletests(known, method="holm")[1]
    finally:
        if not frozen:
            gc.unfreeze()
    return pd.Series(p_adjusted, index=known.index).reindex(p.index)


@dataclass(frozen=True, eq=False)
class Spread:
    """What the variance of a mean is made of, each with its degrees of freedom; of one table, or of many (...).

    seeds, hypernyms: mean squares over S H, the residual in both; residual: its own mean square over S H.
    """

    seeds: Any
    df_seeds: Any
    hypernyms: Any
    df_hypernyms: Any
    residual: Any

    @classmethod
    def of(cls, d: Array, gaps: int = 0) -> "Spread":
        """Of tables (..., S, H); `gaps`: how many of S H values were filled in, and so bear no residual."""
        S, H = d.shape[-2:]
        mean_S, mean_H = d.mean(axis=-1), d.mean(axis=-2)
        left = d - mean_S[..., :, None] - mean_H[..., None, :] + d.mean(axis=(-2, -1))[..., None, None]
        residual = (left**2).sum(axis=(-2, -1)) / (((S - 1) * (H - 1) - gaps) * S * H)
        return cls(mean_S.var(axis=-1, ddof=1) / S, S - 1.0, mean_H.var(axis=-1, ddof=1) / H, H - 1.0, residual)

    def less(self, other: "Spread", mine: Array, theirs: Array) -> "Spread":
        """Of the differences of tables (..., S, H) and (..., T, H) whose seeds are not shared; `other`: of `theirs`."""
        seeds, df = self.seeds + other.seeds, self.df_seeds + other.df_seeds
        with np.errstate(invalid="ignore", divide="ignore"):
            own = seeds**2 / (self.seeds**2 / self.df_seeds + other.seeds**2 / other.df_seeds)
        gap_H = mine.mean(axis=-2) - theirs.mean(axis=-2)
        hypernyms = gap_H.var(axis=-1, ddof=1) / gap_H.shape[-1]
        residual = self.residual + other.residual
        return Spread(seeds, np.where(seeds > 0, own, df), hypernyms, self.df_hypernyms, residual)

    def standard_error(self) -> tuple[Any, Any]:
        """Standard error and degrees of freedom (...), as the module says."""
        t2_seeds, t2_hypernyms = (stdtrit(df, 0.975) ** 2 for df in (self.df_seeds, self.df_hypernyms))
        clear = self.seeds < self.hypernyms / 2  # seeds matter so little that the residual is taken off their share
        seeds = np.where(clear, np.maximum(self.seeds - self.residual, 0), self.seeds)
        hypernyms = np.where(clear, self.hypernyms, np.maximum(self.hypernyms - self.residual, 0))
        variance = seeds + hypernyms
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.sqrt((t2_seeds * seeds + t2_hypernyms * hypernyms) / variance)
        few = np.minimum(self.df_seeds, self.df_hypernyms)
        return np.sqrt(variance), np.where(variance > 0, stdtridf(0.975, t), few)


def _aligned(one: pd.DataFrame, other: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame | None, bool]:
    """Both sides on the hypernyms they share, seeds sorted; and whether they have the same seeds."""
    one = _known(one)
    if other is None:
        return one, None, False
    other = _known(other)
    if not one.columns.equals(other.columns):
        shared = one.columns.intersection(other.columns)
        one, other = one[shared], other[shared]
    return one, other, bool(one.index.equals(other.index))


def _known(table: pd.DataFrame) -> pd.DataFrame:
    """Without seeds and hypernyms that have no score at all, seeds sorted."""
    if table.empty or np.isnan(table.to_numpy(float)).any():
        table = table.dropna(axis=1, how="all").dropna(axis=0, how="all")
    return table if table.index.is_monotonic_increasing else table.sort_index()


def _standard_error(tables: Sequence[tuple[Array, int]]) -> tuple[float, float, str]:
    """Standard error, degrees of freedom and basis of the mean of one filled table, or of the difference of two."""
    shapes = [values_SH.shape for values_SH, _ in tables]
    S, H = min(shapes)
    if S > 1 and H > 1 and all(gaps < (len(values) - 1) * (H - 1) for values, gaps in tables):
        spreads = [Spread.of(*table) for table in tables]
        spread = spreads[0] if len(tables) == 1 else spreads[0].less(spreads[1], *(values for values, _ in tables))
        se, df = spread.standard_error()
        return float(se), float(df), OVER_BOTH
    if H > 1:
        by_H = [values_SH.mean(axis=0) for values_SH, _ in tables]
        gaps_H = by_H[0] - by_H[1] if len(by_H) > 1 else by_H[0]
        return float(np.std(gaps_H, ddof=1) / H**0.5), H - 1.0, THESE_SEEDS
    if H == 1 and S > 1:
        parts = [(float(values_SH.var(ddof=1)) / len(values_SH), len(values_SH) - 1) for values_SH, _ in tables]
        variance, squares = sum(part for part, _ in parts), sum(part**2 / df for part, df in parts)
        return variance**0.5, variance**2 / squares if squares > 0 else float(sum(df for _, df in parts)), ONE_HYPERNYM
    return np.nan, np.nan, THESE_SEEDS


def _filled(table: pd.DataFrame) -> tuple[Array, int]:
    """The table (S, H) with its gaps at what seed and hypernym, added, suggest (Yates 1933), and how many."""
    values_SH = table.to_numpy(float)
    gaps_SH = ~np.isfinite(values_SH)
    if not gaps_SH.any() or gaps_SH.all():
        return values_SH, int(gaps_SH.sum())
    values_SH = np.where(gaps_SH, np.nanmean(values_SH), values_SH)
    for _ in range(FILLS):
        expected_SH = values_SH.mean(axis=1)[:, None] + values_SH.mean(axis=0) - values_SH.mean()
        values_SH = np.where(gaps_SH, expected_SH, values_SH)
    return values_SH, int(gaps_SH.sum())


def _ends(table: pd.DataFrame) -> tuple[float, float]:
    """Lowest and highest mean of a seed."""
    mean_S = table.mean(axis=1)
    return float(mean_S.min()), float(mean_S.max())


def _t(gap: float, se: float) -> float:
    """`gap / se`; without spread a difference is infinitely many standard errors, and none is none."""
    if se == 0:
        return gap * np.inf if gap else 0.0
    return gap / se


def _detectable(se: float, df: float) -> float:
    if not (np.isfinite(se) and df > 0):
        return np.nan
    return se * float(nctdtrinc(min(df, 1e6), 1 - POWER, stdtrit(df, 1 - ALPHA / 2)))


def _first(adjusted_p: float, p: float) -> float:
    return adjusted_p if np.isfinite(adjusted_p) else p
