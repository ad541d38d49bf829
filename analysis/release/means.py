"""Means behind the figures: macro F1 of each cell over its runs and categories (Figures 3, 4, 6, 10, 11, Table 5)."""

import math
from collections.abc import Iterable

import pandas as pd

from analysis.release.files import EXPERIMENTS, AbsentError
from analysis.release.scores import Release

CELL = ["lm", "encoder", "random_lm", "shuffle", "ablation", "amount"]
COLUMNS = [*CELL, "experiment", "n", "mean", "sd"]


def mean_and_sd(values: Iterable[float]) -> tuple[int, float, float]:
    """n, mean and standard deviation (n - 1; missing for one value), from correctly rounded sums in any order."""
    found = list(values)
    n = len(found)
    mean = math.fsum(found) / n
    return n, mean, math.sqrt(math.fsum((x - mean) ** 2 for x in found) / (n - 1)) if n > 1 else math.nan


def cell_means(release: Release) -> pd.DataFrame:
    """Every cell of the main experiments, in 0..1; n counts runs x categories.

    Columns: lm, encoder, random_lm, shuffle (Original | Across-category | Within-category), ablation (Full | Random |
    Systematic), amount (percent of leaves or number of hypernyms), experiment (Held-Out Hypernyms | Seen Hypernyms |
    Leaves), n, mean, sd (over runs and categories together, as the figures' bands have it).
    """
    rows = []
    for experiment in EXPERIMENTS:
        try:
            scores = release.runs(experiment)
        except AbsentError:
            continue
        for cell, group in scores.groupby(CELL, sort=True):
            rows.append((*cell, experiment, *mean_and_sd(group["f1"])))
    return pd.DataFrame(rows, columns=COLUMNS)
