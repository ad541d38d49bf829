"""The hypernym-level swap of the release against its control: means, and three tests of their difference."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from analysis.release.claims import Claim, Found, Said, Statement, check
from analysis.release.files import MACRO, AbsentError, find, read_f1
from analysis.release.means import mean_and_sd
from analysis.release.models import null_sentence
from analysis.release.scores import HELDOUT, LEAVES, TOY_HYPERNYMS, Release
from analysis.words import p_text

MAJORITY = f"{MACRO}/catwise_hyp_guess_f1_scores.csv"

SAID = Said("Hypernym-level swap", "Exchanging the labels of whole hypernyms that look equally alike costs nothing.")
TESTS = (
    Statement("swap/welch/t", 1.30, 2, "control against swap, unpaired: t", SAID),
    Statement("swap/welch/p", 0.19, 2, "control against swap, unpaired: p", SAID),
    Statement("swap/paired/t", 1.30, 2, "control against swap, paired by seed and hypernym: t", SAID, other=True),
    Statement("swap/paired/p", 0.19, 2, "control against swap, paired by seed and hypernym: p", SAID, other=True),
)
CHANCE = Statement("swap/majority", 34.7, 1, "majority answer on the ten hypernyms, F1", SAID)
MEANS = (
    (HELDOUT, "Original", Statement("swap/heldout/control", 57.5, 1, "control: held-out hypernyms, F1", SAID)),
    (HELDOUT, "Swap", Statement("swap/heldout/swapped", 51.5, 1, "swap: held-out hypernyms, F1", SAID)),
    (LEAVES, "Original", Statement("swap/leaves/control", 93.8, 1, "control: leaves, F1", SAID)),
    (LEAVES, "Swap", Statement("swap/leaves/swapped", 95.2, 1, "swap: leaves, F1", SAID)),
)


def swap_claims(release: Release) -> list[Claim]:
    """Control and swapped runs of Qwen3-0.6B on the ten hypernyms, F1 in points."""
    claims = check(TESTS, lambda: _tests(release))
    for experiment, shuffle, statement in MEANS:
        claims += check([statement], partial(_mean, release, experiment, shuffle))
    return [*claims, *check([CHANCE], lambda: [_majority(release)])]


def swap_pairs(release: Release) -> pd.DataFrame:
    """Control and swapped macro F1 (0..1), by seed and hypernym (index)."""
    arms = [_arm(release, HELDOUT, shuffle).set_index(["seed", "category"])["f1"] for shuffle in ("Original", "Swap")]
    pairs = pd.concat(arms, axis=1, keys=["control", "swapped"], join="inner")
    if len(pairs) < 3:
        raise AbsentError("no runs of the same seed with and without the swap")
    return pairs


def _tests(release: Release) -> Sequence[Found]:
    control, swapped = (_arm(release, HELDOUT, shuffle)["f1"].to_numpy() for shuffle in ("Original", "Swap"))
    welch = stats.ttest_ind(control, swapped, equal_var=False)
    gap = 100 * (control.mean() - swapped.mean())
    pairs = swap_pairs(release)
    differences = 100 * (pairs["control"] - pairs["swapped"])
    paired = stats.ttest_1samp(differences, 0)
    by_hypernym = differences.groupby("category").mean()
    averaged = stats.ttest_1samp(by_hypernym, 0)
    se = 100 * float(np.sqrt(control.var(ddof=1) / len(control) + swapped.var(ddof=1) / len(swapped)))
    null = null_sentence("Control minus swapped", gap, se, welch.df)
    se, mean = float(differences.std(ddof=1) / np.sqrt(len(differences))), float(differences.mean())
    again = null_sentence("Paired by seed and hypernym: control minus swapped", mean, se, len(differences) - 1)
    other = (welch.pvalue < 0.05) != (paired.pvalue < 0.05)
    units = (
        f"{'The same values as in the unpaired test lead to another conclusion. ' if other else ''}By hypernym, seeds "
        f"averaged (n = {len(by_hypernym)}): t = {averaged.statistic:.2f}, {p_text(averaged.pvalue)}."
    )
    return [
        Found(welch.statistic, len(control) + len(swapped), f"Welch, unpaired. {null}"),
        Found(welch.pvalue, len(control) + len(swapped)),
        Found(paired.statistic, len(pairs), f"{again} {units}"),
        Found(paired.pvalue, len(pairs), "Paired by seed and hypernym; the paper's test is unpaired."),
    ]


def _mean(release: Release, experiment: str, shuffle: str) -> list[Found]:
    n, mean, _ = mean_and_sd(_arm(release, experiment, shuffle)["f1"])
    return [Found(100 * mean, n)]


def _majority(release: Release) -> Found:
    table = read_f1(find(release.root, MAJORITY), TOY_HYPERNYMS)
    n, mean, _ = mean_and_sd(table.to_numpy().ravel())
    return Found(100 * mean, n, "Majority answer, mean over both conditions and ten hypernyms.")


def _arm(release: Release, experiment: str, shuffle: str) -> pd.DataFrame:
    return release.runs(experiment, toy=True, shuffle=shuffle)
