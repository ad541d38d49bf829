"""All comparisons of means on held-out hypernyms as one table: those fixed in advance first, then the exploratory.

Every row is a paired difference over hypernyms (F1 in points) with the interval of `statistics.contrasts`, the crossed
bootstrap's beside it, and two tests: of no difference, and of equivalence within 5 points (TOST). Holm's adjustment is
over the contrasts fixed in advance. The runs are those of the headline.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from analysis.cells import CELL, LM_NAMES, seed_units, shown_runs
from analysis.scores.means import seed_table
from analysis.scores.yardsticks import YARDSTICKS
from analysis.statistics.comparisons import compare_setups, compare_swap, compare_yardsticks
from analysis.statistics.contrasts import (
    CONFIRMATORY,
    EQUIVALENCE_MARGIN,
    EXPLORATORY,
    Contrast,
    chance_checks,
    confirmatory_contrasts,
    exploratory_contrasts,
)
from analysis.statistics.equivalence import Equivalence, holm, tost
from analysis.statistics.intervals import percentiles, resampled_difference, resampled_means
from analysis.words import points

COLUMNS = [
    *("status", "kind", "setup", "above", "below", "difference", "low", "high", "boot_low", "boot_high", "worst"),
    *("t", "df", "p", "p_holm", "tost_p", "equivalent", "boot_equivalent", "verdict"),
    *("n_hypernyms", "n_runs_above", "n_runs_below"),
]
ONLY_THESE_SEEDS = "with these seeds, not shown over seeds"
Row = dict[str, Any]
Array = NDArray[np.float64]


def contrast_table(runs: pd.DataFrame, categories: pd.DataFrame, yardsticks: pd.DataFrame) -> pd.DataFrame:
    """One row per comparison, see `COLUMNS`.

    status: confirmatory (fixed before any result) | exploratory. kind: contrast; chance (a cell that should be at
    chance against its own answers permuted); yardstick; setup (another encoder, LM or training); swap. difference =
    mean over hypernyms of above - below, in points; low, high: 95 % t interval over hypernyms; boot_low, boot_high: 95
    % crossed bootstrap; worst: lowest run above less highest run below (contrasts only); t, df, p: paired test over
    hypernyms; p_holm: adjusted over the confirmatory contrasts; tost_p, equivalent: equivalence within 5 points by the
    same test; boot_equivalent: the bootstrap's 90 % interval lies within 5 points too. The test over hypernyms takes
    the seeds as they are; the verdict of a chance check or an exploratory row says so where the bootstrap, which draws
    seeds too, does not agree.
    """
    shown = shown_runs(runs)
    cells = _Cells(shown, categories)
    rows = [_contrast(c, CONFIRMATORY, cells) for c in confirmatory_contrasts(categories, shown)]
    for null in chance_checks(categories, shown):
        draws = cells.own(null.setup, null.key, "permuted_f1")
        row: Row = {"status": CONFIRMATORY, "kind": "chance", "setup": null.setup, "above": null.cell}
        row |= {"below": "its own answers, permuted", "n_runs_above": null.n_runs, "n_runs_below": null.n_runs}
        row = _tested(row, null.difference, (null.low, null.high), null.n_hypernyms, 0.90, draws, null.verdict)
        held = row["boot_equivalent"] if null.equivalent else row["boot_low"] > 0 or row["boot_high"] < 0
        if not (held or null.undecided):
            row["verdict"] += f"; {ONLY_THESE_SEEDS}"
        rows.append(row)
    rows += [_contrast(c, EXPLORATORY, cells) for c in exploratory_contrasts(categories, shown)]
    rows += _against_yardsticks(runs, categories, yardsticks, cells)
    rows += _setups_and_swaps(runs, categories, cells)
    table = pd.DataFrame(rows, columns=COLUMNS)
    fixed = (table["status"] == CONFIRMATORY) & (table["kind"] == "contrast")
    return table.assign(p_holm=holm(table.loc[fixed, "p"].astype(float)).reindex(table.index))


class _Cells:
    """Held-out F1 and baselines of every cell, with each run's seed unit."""

    def __init__(self, runs: pd.DataFrame, categories: pd.DataFrame) -> None:
        heldout = categories[(categories["split"] == "test") & (categories["group"] == "heldout")]
        about = runs[CELL].assign(seed=seed_units(runs))
        rows = heldout.merge(about, left_on="run_id", right_index=True)
        self._rows = dict(iter(rows.groupby(CELL)))
        self.n_runs = {key: rows["run_id"].nunique() for key, rows in self._rows.items()}

    def own(self, setup: str, key: tuple[str, str], baseline: str) -> Array:
        """Draws of a cell's F1 less one of its baselines."""
        rows = self._rows[setup, *key]
        return resampled_means(seed_table(rows.assign(gap=rows["f1"] - rows[baseline]), "gap"))

    def between(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> Array:
        """Draws of the F1 of one cell less another's, on the hypernyms that both have."""
        mine, theirs = self._rows[one], self._rows[other]
        shared = pd.Index(sorted(set(mine["category"]) & set(theirs["category"])))
        return resampled_difference(*(seed_table(rows, "f1", shared) for rows in (mine, theirs)))

    def less(self, key: tuple[str, str, str], yardstick: pd.DataFrame) -> Array:
        """Draws of a cell's F1 less a yardstick's on the same questions."""
        other = yardstick[["run_id", "category", "f1"]].rename(columns={"f1": "other"})
        rows = self._rows[key].merge(other, on=["run_id", "category"])
        return resampled_means(seed_table(rows.assign(gap=rows["f1"] - rows["other"]), "gap"))


def _contrast(c: Contrast, status: str, cells: _Cells) -> Row:
    if isinstance(c.other, str):
        draws = cells.own(c.setup, c.key, c.other)
    else:
        draws = cells.between((c.setup, *c.key), (c.setup, *c.other))
    row: Row = {"status": status, "kind": "contrast", "setup": c.setup, "worst": c.worst}
    row |= {"above": c.above, "below": c.below}
    row |= {"n_runs_above": c.n_runs[0], "n_runs_below": c.n_runs[1]}
    verdict = c.verdict if status == CONFIRMATORY else ""
    return _tested(row, c.difference, (c.low, c.high), c.n_hypernyms, 0.95, draws, verdict)


def _against_yardsticks(
    runs: pd.DataFrame, categories: pd.DataFrame, yardsticks: pd.DataFrame, cells: _Cells
) -> Iterator[Row]:
    named: dict[Any, pd.DataFrame] = {} if yardsticks.empty else dict(iter(yardsticks.groupby("yardstick")))
    for c in compare_yardsticks(runs, categories, yardsticks):
        key = (c.setup, c.arm, c.lm_init)
        row: Row = {"status": EXPLORATORY, "kind": "yardstick", "setup": c.setup, "above": c.cell}
        row |= {"below": YARDSTICKS[c.yardstick], "n_runs_above": cells.n_runs[key], "n_runs_below": cells.n_runs[key]}
        heldout = named[c.yardstick][named[c.yardstick]["group"] == "heldout"]
        yield _tested(row, c.f1_gap[0], c.f1_gap[1:], c.n_hypernyms, 0.95, cells.less(key, heldout))


def _setups_and_swaps(runs: pd.DataFrame, categories: pd.DataFrame, cells: _Cells) -> Iterator[Row]:
    for gap in compare_setups(runs, categories):
        one, other = ((setup, *gap.key) for setup in (gap.one, gap.other))
        row: Row = {"status": EXPLORATORY, "kind": "setup", "setup": f"{gap.one} against {gap.other}"}
        row |= {"above": f"{gap.cell}, {gap.one}", "below": f"{gap.cell}, {gap.other}"}
        row |= {"n_runs_above": cells.n_runs[one], "n_runs_below": cells.n_runs[other]}
        yield _tested(row, gap.f1_gap[0], gap.f1_gap[1:], gap.n_hypernyms, 0.95, cells.between(one, other))
    for swap in compare_swap(runs, categories):
        control, swapped = ((swap.setup, arm, swap.lm_init) for arm in ("original", "swap"))
        row = {"status": EXPLORATORY, "kind": "swap", "setup": swap.setup}
        row |= {"above": f"{LM_NAMES[swap.lm_init]}, original", "below": f"{LM_NAMES[swap.lm_init]}, swap"}
        row |= {"n_runs_above": cells.n_runs[control], "n_runs_below": cells.n_runs[swapped]}
        yield _tested(row, swap.gap[0], swap.gap[1:], swap.n_hypernyms, 0.95, cells.between(control, swapped))


def _tested(
    row: Row,
    difference: float,
    interval: tuple[float, float],
    n: int,
    level: float,
    draws_B: Array,
    verdict: str = "",
) -> Row:
    """The row with its tests; `interval` is Student's t at `level` over `n` hypernyms, `draws_B` the bootstrap's."""
    df = n - 1
    se = (interval[1] - interval[0]) / 2 / stdtrit(df, 0.5 + level / 2) if n > 1 else np.nan
    half = stdtrit(df, 0.975) * se
    with np.errstate(invalid="ignore", divide="ignore"):
        t = difference / se
        test = tost(difference, se, df, margin=EQUIVALENCE_MARGIN)
    boot_low, boot_high = percentiles(draws_B)
    inner_low, inner_high = percentiles(draws_B, 0.90)
    within = bool(inner_low > -EQUIVALENCE_MARGIN and inner_high < EQUIVALENCE_MARGIN)
    return row | {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "boot_low": boot_low,
        "boot_high": boot_high,
        "t": t,
        "df": df,
        "p": float(2 * stdtr(df, -abs(t))),
        "tost_p": test.p,
        "equivalent": test.equivalent,
        "boot_equivalent": within,
        "verdict": verdict or _verdict(test, within, boot_low > 0 or boot_high < 0),
        "n_hypernyms": n,
    }


def _verdict(test: Equivalence, within: bool, apart: bool) -> str:
    """Plain words of an exploratory row; `within`, `apart`: the bootstrap says equivalent, or different from zero."""
    if test.equivalent and within:
        small = f"equivalent within {EQUIVALENCE_MARGIN:g} points"
        return f"{small}, though different from zero" if test.different and apart else small
    if test.different and apart:
        return f"different from zero: {points(test.difference)}"
    if test.different:
        return f"different {ONLY_THESE_SEEDS}"
    if test.equivalent:
        return f"within {EQUIVALENCE_MARGIN:g} points {ONLY_THESE_SEEDS}"
    return "undecided (neither a difference nor equivalence is shown)"
