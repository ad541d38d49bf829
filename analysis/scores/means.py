"""Macro F1 of every cell with 95 % intervals over seeds and categories: by group, by parts of the hypernyms, by depth.

Means are over categories, then seeds; `cells.seed_units` says what counts as a seed, `statistics.difference` how the
intervals are made. All F1 in 0..100.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import CELL, KEYED, parts, seed_units, setup_of
from analysis.scores.ablation import HYPERNYMS
from analysis.scores.baselines import permuted_macro_f1
from analysis.scores.f1 import FEW, GROUPS
from analysis.statistics.difference import OVER_BOTH, difference, seeds_by_hypernyms
from analysis.words import BASELINES

FEW_EACH = f"at least {FEW} of each answer"
OVER = (*HYPERNYMS[:2], FEW_EACH, HYPERNYMS[2])
INTERVAL = [
    *("n_runs", "n_seeds", "n_categories", "f1", "low", "high", "df", "boot_low", "boot_high"),
    *("seed_lowest", "seed_highest"),
]
F1_COLUMNS = [*KEYED, "shown", "group", *INTERVAL, "auc", *BASELINES, "basis", "note"]
HELDOUT_COLUMNS = [*KEYED, "shown", "labels", "over", *INTERVAL, "permuted_f1", "basis", "note"]


def f1_means(runs: pd.DataFrame, categories: pd.DataFrame) -> pd.DataFrame:
    """Test F1 of leaves, seen and held-out hypernyms: one row per cell of `runs` and group, in their order.

    Columns: cell and its words (setup, arm, lm_init), shown (whether of the headline), group (leaf | seen | heldout),
    n_runs, n_seeds, n_categories, f1, low, high, df (`statistics.difference`), boot_low, boot_high (crossed bootstrap),
    seed_lowest, seed_highest (means of single seeds), auc (0..1, mean over categories and runs), majority_f1, coin_f1,
    permuted_f1 (on the same questions), basis (what the interval holds over), note.
    """
    rows = []
    for key, cell in _cells(runs, categories):
        for group in GROUPS:
            part = cell[cell["group"] == group]
            if len(part):
                means = part[["auc", *BASELINES]].mean()
                rows.append({**key, "group": group, **mean_row(part), **dict(zip(means.index, means, strict=True))})
    return pd.DataFrame(rows, columns=F1_COLUMNS)


def heldout_means(runs: pd.DataFrame, categories: pd.DataFrame) -> pd.DataFrame:
    """Held-out test F1 of each cell over parts of the hypernyms, against the map's answers and against the truth.

    labels: gold (the answer under the label map, as trained) or veridical (the truth about the image shown), the
    latter where the two differ. over: all; no homonyms (no leaf carries the hypernym's name, so that no question about
    it was trained on: 42 of the 53 of THINGS); at least 10 of each answer (gold); removed only (by a systematic
    ablation). Parts that hold all hypernyms or none are left out. Other columns as in `f1_means`.
    """
    heldout = categories[categories["group"] == "heldout"]
    n, n_veridical = heldout["n_yes"] + heldout["n_no"], heldout["n_veridical_yes"]
    permuted, _ = permuted_macro_f1(n_veridical, n - n_veridical, heldout["said_yes"])
    heldout = heldout.assign(permuted_veridical_f1=100 * permuted, enough=heldout[["n_yes", "n_no"]].min(axis=1) >= FEW)
    rows = []
    for key, cell in _cells(runs, heldout):
        masks = (np.ones(len(cell), dtype=bool), ~cell["homonym"], cell["enough"], cell["removed"])
        moved = bool((cell["disagree_yes"] + cell["disagree_no"]).sum())
        for prefix, labels in (("", "gold"), ("veridical_", "veridical")):
            if prefix and not moved:
                continue
            for over, mask in zip(OVER, masks, strict=True):
                part = cell[np.asarray(mask, dtype=bool)]
                if len(part) and (over == "all" or len(part) < len(cell)):
                    permuted_f1 = part[f"permuted_{prefix}f1"].mean()
                    row = {**key, "labels": labels, "over": over, **mean_row(part, f"{prefix}f1")}
                    rows.append({**row, "permuted_f1": permuted_f1})
    return pd.DataFrame(rows, columns=HELDOUT_COLUMNS)


def mean_row(rows: pd.DataFrame, value: str = "f1") -> dict[str, Any]:
    """Mean of `value` with both intervals; `rows`: columns run_id, seed, category and `value`, one cell and group."""
    table = seeds_by_hypernyms(rows, value)
    mean, mean_S = difference(table), table.mean(axis=1)
    return {
        "n_runs": rows["run_id"].nunique(),
        "n_seeds": mean.n_seeds[0],
        "n_categories": mean.n_hypernyms,
        "f1": mean.estimate,
        "boot_low": mean.boot_low,
        "boot_high": mean.boot_high,
        "low": mean.low,
        "high": mean.high,
        "df": mean.df,
        "seed_lowest": float(mean_S.min()),
        "seed_highest": float(mean_S.max()),
        "basis": mean.basis,
        "note": "" if mean.basis == OVER_BOTH else f"intervals: {mean.basis}",
    }


def _cells(runs: pd.DataFrame, categories: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Test categories of each cell, with each run's seed unit, in the order of `runs`."""
    about = runs[[*KEYED, "shown"]].assign(seed=seed_units(runs))
    test = categories[categories["split"] == "test"].merge(about, left_on="run_id", right_index=True)
    of_cell = dict(iter(test.groupby("cell", sort=False)))
    for key in runs[KEYED].drop_duplicates("cell").to_dict("records"):
        if (rows := of_cell.get(key["cell"])) is not None:
            yield {str(name): value for name, value in key.items()} | {"shown": bool(rows["shown"].all())}, rows


def depth_scores(runs: pd.DataFrame, categories: pd.DataFrame, depths: pd.DataFrame) -> pd.DataFrame:
    """Held-out test scores per cell of `runs` and depth of the hypernym (paper figure 12; 1: right above the leaves).

    Empty unless some dataset has hypernyms of two depths: an optional column of the taxonomy, since the authors' parent
    links are not published.

    `depths`: columns dataset_path, category, depth. Columns: cell and its words, depth, n_hypernyms, f1 (mean over
    hypernyms of the mean over runs), f1_sd, f1_low, f1_high (95 % interval over seeds and hypernyms), auc, permuted_f1.
    """
    test = categories[(categories["split"] == "test") & (categories["group"] == "heldout")]
    about = runs[[*KEYED, "dataset_path"]].assign(seed=seed_units(runs))
    rows = test.merge(about, left_on="run_id", right_index=True)
    rows = rows.merge(depths, on=["dataset_path", "category"])
    if rows.empty or max(own["depth"].nunique() for own in parts(rows, setup_of).values()) < 2:
        return pd.DataFrame(columns=[*KEYED, "depth"])
    hypernyms = rows.groupby([*KEYED, "depth", "category"], sort=True)[["f1", "auc", "permuted_f1"]].mean()
    cells = hypernyms.groupby([*KEYED, "depth"], sort=True)
    means = [difference(seeds_by_hypernyms(cell, "f1")) for _, cell in rows.groupby([*KEYED, "depth"], sort=True)]
    return (
        cells.mean()
        .assign(n_hypernyms=cells.size(), f1_sd=cells["f1"].std())
        .assign(f1_low=[mean.low for mean in means], f1_high=[mean.high for mean in means])
        .reset_index()
        .sort_values([*CELL, "depth"], ignore_index=True)
    )
