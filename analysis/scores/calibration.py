"""How the answers are given, beside whether they are right: probability off yes and no, ties, bias, calibration.

Calibration compares p(yes | yes or no) with the share of questions whose right answer is yes, in ten bins of equal
width; the expected calibration error (ECE) is the mean distance of the two over questions. It is measured for each run
and then averaged: answers of several runs pooled would look calibrated where single runs err in both directions. ECE
is never below zero, so few questions alone make it positive.
"""

import numpy as np
import pandas as pd

from analysis.cells import CELL
from analysis.scores.f1 import GROUPS

BINS = 10
LOW_MASS = 0.5  # below it, other tokens are together more probable than the two answers
SHARES = ["yes_share", "gold_yes_share", "tie_share"]
RELIABILITY_COLUMNS = [*CELL, "group", "p_low", "p_high", "n", "mean_p", "yes_share"]
ANSWERS_COLUMNS = [
    *(*CELL, "group", "n_runs", "n_questions", *SHARES, "off_mass", "off_mass_worst", "low_mass_share"),
    *("ece", "ece_low", "ece_high"),
]


def answer_bins(answers: pd.DataFrame) -> pd.DataFrame:
    """Test answers of one run in bins of p(yes | yes or no): one row per group that occurs and bin, empty ones too.

    Columns: group, bin (0..9: from bin / 10 on), n, p_sum (sum of p), n_yes (gold), off_sum (sum of the probability on
    tokens that are neither answer), n_low (questions on which that is more than half).
    """
    test = answers.loc[answers["split"] == "test", ["group", "answer", "p_yes", "mass"]]
    p = test["p_yes"].to_numpy(float)
    off = np.maximum(1 - test["mass"].to_numpy(float), 0)
    group = pd.Index(GROUPS).get_indexer(pd.Index(test["group"]))
    place = group * BINS + np.minimum((p * BINS).astype(np.int64), BINS - 1)
    size = len(GROUPS) * BINS
    table = pd.DataFrame(
        {
            "group": np.repeat(np.array(GROUPS, dtype=object), BINS),
            "bin": np.tile(np.arange(BINS), len(GROUPS)),
            "n": np.bincount(place, minlength=size),
            "p_sum": np.bincount(place, p, size),
            "n_yes": np.bincount(place[test["answer"].to_numpy(bool)], minlength=size),
            "off_sum": np.bincount(place, off, size),
            "n_low": np.bincount(place[off > 1 - LOW_MASS], minlength=size),
        }
    )
    occurs = np.repeat(np.bincount(group, minlength=len(GROUPS)) > 0, BINS)
    return table[occurs].reset_index(drop=True)


def reliability_table(runs: pd.DataFrame, bins: pd.DataFrame) -> pd.DataFrame:
    """The reliability diagram of every cell and group as a table, from the `answer_bins` of its runs (with run_id).

    Columns: setup, arm, lm_init, group, p_low, p_high (ends of the bin), n (questions, all runs), mean_p, yes_share
    (gold), both 0..1.
    """
    rows = bins.merge(runs[CELL], left_on="run_id", right_index=True)
    sums = rows.groupby([*CELL, "group", "bin"], sort=False)[["n", "p_sum", "n_yes"]].sum().reset_index()
    sums = sums[sums["n"] > 0]
    table = sums.assign(
        p_low=sums["bin"] / BINS,
        p_high=(sums["bin"] + 1) / BINS,
        mean_p=sums["p_sum"] / sums["n"],
        yes_share=sums["n_yes"] / sums["n"],
    )
    return table[RELIABILITY_COLUMNS].reset_index(drop=True)


def answers_table(runs: pd.DataFrame, bins: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """How each cell answers, one row per cell and group of test questions; means over runs.

    Columns: setup, arm, lm_init, group, n_runs, n_questions (of one run), yes_share (answers), gold_yes_share,
    tie_share (yes and no equally probable; counted as yes), off_mass (mean probability on tokens that are neither
    answer), off_mass_worst (of the worst run), low_mass_share (questions on which that is more than half), ece,
    ece_low, ece_high (expected calibration error, mean and extremes of the runs). All shares and errors in 0..1.
    """
    bins = bins.assign(distance=(bins["p_sum"] - bins["n_yes"]).abs())
    sums = bins.groupby(["run_id", "group"], sort=False)[["n", "off_sum", "n_low", "distance"]].sum()
    of_run = sums[["off_sum", "n_low", "distance"]].div(sums["n"], axis=0)
    of_run = of_run.set_axis(["off_mass", "low_mass_share", "ece"], axis=1).assign(n_questions=sums["n"])
    asked = scores[scores["split"] == "test"].set_index(["run_id", "group"])
    rows = of_run.join(asked[SHARES]).reset_index().merge(runs[CELL], left_on="run_id", right_index=True)
    cells = rows.groupby([*CELL, "group"], sort=False)
    means = cells[["n_questions", *SHARES, "off_mass", "low_mass_share", "ece"]].mean()
    ends = {"off_mass_worst": cells["off_mass"].max(), "ece_low": cells["ece"].min(), "ece_high": cells["ece"].max()}
    return means.assign(n_runs=cells.size(), **ends).reset_index()[ANSWERS_COLUMNS]
