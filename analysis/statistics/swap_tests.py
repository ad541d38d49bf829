"""The hypernym-level swap against its control by four tests side by side: the paper's conclusion depends on which.

The paper tests unpaired (Welch), as if a hypernym's F1 with and without the swap had nothing to do with each other.
Positive differences: the swap costs points of held-out F1.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.cells import shown_runs
from analysis.statistics.contrasts import EQUIVALENCE_MARGIN, EXPLORATORY
from analysis.statistics.equivalence import tost
from analysis.statistics.models import difference, in_points, model_rows

COLUMNS = [
    *("status", "setup", "lm_init", "test", "n_control", "n_swapped", "control", "swapped"),
    *("difference", "low", "high", "statistic", "df", "p", "tost_p", "equivalent", "verdict", "differs"),
]
WELCH, PAIRED, HYPERNYMS, MIXED = "Welch, unpaired", "paired by seed and hypernym", "paired by hypernym", "mixed model"
DIFFERS = {
    WELCH: "As published: every run and hypernym counts as independent, so differences between hypernyms are noise.",
    PAIRED: "The same hypernym and seed with and without the swap: differences between hypernyms cancel, but the seeds "
    "of a hypernym still count as independent.",
    HYPERNYMS: "Seeds averaged first, so that each hypernym counts once; says nothing about other seeds.",
    MIXED: "Hypernyms and seeds are samples, and the swap may cost each a different amount.",
}
Row = dict[str, Any]
Array = NDArray[np.float64]


def swap_tests(runs: pd.DataFrame, categories: pd.DataFrame) -> pd.DataFrame:
    """One row per setup, LM weights and test, where swap and control were both run; F1 in points.

    Columns: status, setup, lm_init, test, n_control, n_swapped (values that enter), control, swapped (means),
    difference (control - swapped), low, high (95 %), statistic (t), df, p (two-sided), tost_p, equivalent (within 5
    points), verdict, differs (what sets the test apart; with what could not be computed, and why).
    """
    rows = model_rows(shown_runs(runs), categories)
    found: list[Row] = []
    for (setup, lm_init), here in rows.groupby(["setup", "lm_init"], sort=False):
        arms = dict(iter(here.groupby("arm")))
        if {"original", "swap"} <= set(arms):
            about = {"status": EXPLORATORY, "setup": setup, "lm_init": lm_init}
            found += [about | row for row in _tests(arms["original"], arms["swap"], str(setup))]
    return pd.DataFrame(found, columns=COLUMNS)


def _tests(control: pd.DataFrame, swapped: pd.DataFrame, setup: str) -> list[Row]:
    shared = set(control["category"]) & set(swapped["category"])
    control, swapped = (arm[arm["category"].isin(shared)] for arm in (control, swapped))
    one, other = (arm["f1"].to_numpy(float) for arm in (control, swapped))
    rows = [_row(WELCH, one, other, *_welch(one, other))]
    for test, keys in ((PAIRED, ["seed", "category"]), (HYPERNYMS, ["category"])):
        pairs = pd.concat([arm.groupby(keys)["f1"].mean() for arm in (control, swapped)], axis=1, join="inner")
        one_paired, other_paired = pairs.to_numpy(float).T
        gaps = one_paired - other_paired
        se = float(stats.sem(gaps)) if len(gaps) > 1 else np.nan
        mean = float(gaps.mean()) if len(gaps) else np.nan
        rows.append(_row(test, one_paired, other_paired, mean, se, len(gaps) - 1))
    about = {"status": EXPLORATORY, "question": "swap", "setup": setup, "comparison": "control − swap"}
    fitted = difference(about, "labels", control, swapped)
    if fitted.model is None:
        return [*rows, {"test": MIXED, "equivalent": False, "differs": f"{DIFFERS[MIXED]} {fitted.note}"}]
    effect = fitted.fixed("labels")
    notes = [DIFFERS[MIXED], f"{fitted.formula}.", fitted.note, *fitted.model.notes]
    row = _row(MIXED, one, other, effect["estimate"], effect["se"], effect["df"])
    return [*rows, row | {"differs": " ".join(filter(None, notes))}]


def _welch(one: Array, other: Array) -> tuple[float, float, float]:
    """Difference of the means, its standard error and Welch's degrees of freedom."""
    if min(len(one), len(other)) < 2:
        return float(one.mean() - other.mean()), np.nan, np.nan
    parts = [(float(np.var(values, ddof=1)) / len(values), len(values) - 1) for values in (one, other)]
    variance, spread = sum(v for v, _ in parts), sum(v**2 / n for v, n in parts)
    df = variance**2 / spread if spread > 0 else float(len(one) + len(other) - 2)  # all alike: as if of one variance
    return float(one.mean() - other.mean()), variance**0.5, df


def _row(test: str, control: Array, swapped: Array, gap: float, se: float, df: float) -> Row:
    half = float(stats.t.ppf(0.975, df)) * se
    with np.errstate(invalid="ignore", divide="ignore"):
        equivalence = tost(gap, se, df, margin=EQUIVALENCE_MARGIN)
        t = float(np.divide(gap, se))
    return {
        "test": test,
        "n_control": len(control),
        "n_swapped": len(swapped),
        "control": float(control.mean()) if len(control) else np.nan,
        "swapped": float(swapped.mean()) if len(swapped) else np.nan,
        "difference": gap,
        "low": gap - half,
        "high": gap + half,
        "statistic": t,
        "df": df,
        "p": float(2 * stats.t.sf(abs(t), df)),
        "tost_p": equivalence.p,
        "equivalent": equivalence.equivalent,
        "verdict": in_points(equivalence),
        "differs": DIFFERS[test],
    }
