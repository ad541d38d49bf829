"""Held-out scores by depth of the hypernym (paper figure 12): depth 1 is directly above the leaves.

Depth is data, an optional column of the taxonomy: the authors' parent links are not published.
"""

import numpy as np
import pandas as pd

from analysis.cells import CELL, KEYED, parts, setup_of
from analysis.statistics.contrasts import mean_interval


def depth_scores(runs: pd.DataFrame, categories: pd.DataFrame, depths: pd.DataFrame) -> pd.DataFrame:
    """Held-out test scores per cell of `runs` and depth; empty unless some dataset has hypernyms of two depths.

    `depths`: columns dataset_path, category, depth. Columns: cell and its words, depth, n_hypernyms, f1 (mean over
    hypernyms of the mean over runs), f1_sd, f1_low, f1_high (95 % interval over hypernyms), auc, permuted_f1.
    """
    test = categories[(categories["split"] == "test") & (categories["group"] == "heldout")]
    rows = test.merge(runs[[*KEYED, "dataset_path"]], left_on="run_id", right_index=True)
    rows = rows.merge(depths, on=["dataset_path", "category"])
    if rows.empty or max(own["depth"].nunique() for own in parts(rows, setup_of).values()) < 2:
        return pd.DataFrame(columns=[*KEYED, "depth"])
    hypernyms = rows.groupby([*KEYED, "depth", "category"], sort=False)[["f1", "auc", "permuted_f1"]].mean()
    cells = hypernyms.groupby([*KEYED, "depth"], sort=False)
    intervals = [mean_interval(cell["f1"].to_numpy(float), 0.95)[1:] for _, cell in cells]
    return (
        cells.mean()
        .assign(n_hypernyms=cells.size(), f1_sd=cells["f1"].std())
        .assign(**dict(zip(("f1_low", "f1_high"), np.array(intervals).T, strict=True)))
        .reset_index()
        .sort_values([*CELL, "depth"], ignore_index=True)
    )
