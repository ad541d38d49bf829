"""The hypernym-level swap against its control: this study's decision, and four other tests beside it.

The paper's conclusion depends on which test one takes. The decision is that of `statistics.contrasts`, over seeds and
hypernyms, as for every comparison here; the others are shown with their numbers and decide nothing.

The paper tests unpaired (Welch), as if a hypernym's F1 with and without the swap had nothing to do with each other.
Positive differences: the swap costs points of held-out F1.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.cells import Cell, shown_runs
from analysis.statistics.contrasts import EXPLORATORY, Contrast
from analysis.statistics.difference import judged
from analysis.statistics.models import difference, model_rows

COLUMNS = [
    *("status", "setup", "lm_init", "test", "n_control", "n_swapped", "control", "swapped"),
    *("difference", "low", "high", "statistic", "df", "p", "tost_p", "verdict", "differs"),
]
DECIDES = "seeds and hypernyms: decides"
WELCH, PAIRED, HYPERNYMS, MIXED = "Welch, unpaired", "paired by seed and hypernym", "paired by hypernym", "mixed model"
DIFFERS = {
    DECIDES: "Seeds and hypernyms are samples, and what holds for them is what is said of the swap everywhere here.",
    WELCH: "As published: every run and hypernym counts as independent, so differences between hypernyms are noise.",
    PAIRED: "The same hypernym and seed with and without the swap: differences between hypernyms cancel, but the seeds "
    "of a hypernym still count as independent.",
    HYPERNYMS: "Seeds averaged first, so that each hypernym counts once; says nothing about other seeds.",
    MIXED: "Hypernyms and seeds are samples, and the swap may cost each a different amount.",
}
Row = dict[str, Any]
Array = NDArray[np.float64]


def swap_tests(runs: pd.DataFrame, categories: pd.DataFrame, contrasts: list[Contrast]) -> pd.DataFrame:
    """One row per setup, LM weights and test, where swap and control were both run; F1 in points.

    Columns: status, setup, lm_init, test, n_control, n_swapped (values that enter), control, swapped (means),
    difference (control - swapped), low, high (95 %), statistic (t), df, p (two-sided), tost_p (5 points), verdict (of
    the test that decides), differs (what sets the test apart; with what could not be computed, and why).
    """
    rows = model_rows(shown_runs(runs), categories)
    found: list[Row] = []
    for c in contrasts:
        if c.kind == "swap" and isinstance(c.other, Cell):
            control, swapped = (rows[rows["cell"] == cell] for cell in (c.one, c.other))
            about = {"status": EXPLORATORY, "setup": c.setup, "lm_init": c.one.lm_init}
            found += [about | row for row in [_decides(c, control, swapped), *side_by_side(control, swapped, c.setup)]]
    return pd.DataFrame(found, columns=COLUMNS)


def _decides(c: Contrast, control: pd.DataFrame, swapped: pd.DataFrame) -> Row:
    one, other = (arm["f1"].to_numpy(float) for arm in (control, swapped))
    return _row(DECIDES, one, other, c.f1.estimate, c.f1.se, c.f1.df) | {"verdict": c.f1.verdict}


def side_by_side(control: pd.DataFrame, swapped: pd.DataFrame, setup: str) -> list[Row]:
    """The four other tests of two sets of `model_rows`."""
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
        return [*rows, {"test": MIXED, "differs": f"{DIFFERS[MIXED]} {fitted.note}"}]
    effect = fitted.model.effect("labels")
    notes = [DIFFERS[MIXED], f"{fitted.formula}.", fitted.note, *fitted.model.notes]
    row = _row(MIXED, one, other, effect.estimate, effect.se, effect.df)
    return [*rows, row | {"differs": " ".join(filter(None, notes))}]


def _welch(one: Array, other: Array) -> tuple[float, float, float]:
    """Difference of the means, its standard error and Welch's degrees of freedom."""
    if min(len(one), len(other)) < 2:
        return float(one.mean() - other.mean()), np.nan, np.nan
    parts = [(float(np.var(values, ddof=1)) / len(values), len(values) - 1) for values in (one, other)]
    variance, spread = sum(v for v, _ in parts), sum(v**2 / n for v, n in parts)
    df = variance**2 / spread if spread > 0 else float(len(one) + len(other) - 2)  # all alike: as if of one variance
    return float(one.mean() - other.mean()), variance**0.5, df


def _row(test_name: str, control: Array, swapped: Array, gap: float, se: float, df: float) -> Row:
    test = judged(gap, se, df)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = float(np.divide(gap, se))
    return {
        "test": test_name,
        "n_control": len(control),
        "n_swapped": len(swapped),
        "control": float(control.mean()) if len(control) else np.nan,
        "swapped": float(swapped.mean()) if len(swapped) else np.nan,
        "difference": gap,
        "low": test.low,
        "high": test.high,
        "statistic": t,
        "df": df,
        "p": test.p,
        "tost_p": test.p_equivalence,
        "verdict": "",
        "differs": DIFFERS[test_name],
    }
