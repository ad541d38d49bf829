"""Held-out scores by depth of the hypernym (paper figure 12): depth 1 is directly above the leaves.

Depth is data, an optional column of the taxonomy: the authors' parent links are not published.
"""

import pandas as pd

from analysis.cells import CELL, seed_units
from analysis.statistics.difference import difference, seeds_by_hypernyms


def depth_scores(runs: pd.DataFrame, categories: pd.DataFrame, depths: pd.DataFrame) -> pd.DataFrame:
    """Held-out test scores per cell of `runs` and depth; empty unless some dataset has hypernyms of two depths.

    `depths`: columns dataset_path, category, depth. Columns: setup, arm, lm_init, depth, n_hypernyms, f1 (mean over
    hypernyms of the mean over runs), f1_sd, f1_low, f1_high (95 % interval over seeds and hypernyms), auc, permuted_f1.
    """
    test = categories[(categories["split"] == "test") & (categories["group"] == "heldout")]
    about = runs[[*CELL, "dataset_path"]].assign(seed=seed_units(runs))
    rows = test.merge(about, left_on="run_id", right_index=True)
    rows = rows.merge(depths, on=["dataset_path", "category"])
    if rows.empty or rows.groupby("setup")["depth"].nunique().max() < 2:
        return pd.DataFrame(columns=[*CELL, "depth"])
    hypernyms = rows.groupby([*CELL, "depth", "category"], sort=True)[["f1", "auc", "permuted_f1"]].mean()
    cells = hypernyms.groupby([*CELL, "depth"], sort=True)
    means = [difference(seeds_by_hypernyms(cell, "f1")) for _, cell in rows.groupby([*CELL, "depth"], sort=True)]
    return (
        cells.mean()
        .assign(n_hypernyms=cells.size(), f1_sd=cells["f1"].std())
        .assign(f1_low=[mean.low for mean in means], f1_high=[mean.high for mean in means])
        .reset_index()
    )
