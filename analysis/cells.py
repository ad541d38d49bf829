"""Scores of every cell of a study: one row per setup, arm and LM, over runs that differ in their seeds only."""

from typing import Any

import pandas as pd

from analysis.conditions import CELL, LM_NAMES, SEEDS
from analysis.study import Study

CELL_SCORES = [
    *("macro_f1", "auc", "majority_f1", "coin_f1", "permuted_f1", "macro_f1_min10", "macro_f1_no_homonyms"),
    *("n_homonyms", "tie_share", "yes_share", "by_vision", "n_categories", "n_categories_min10", "auc_undefined"),
    *("n_yes", "n_no"),
]

Row = dict[str, Any]


def cell_rows(study: Study, chosen: pd.DataFrame) -> list[Row]:
    """Of the `chosen` runs, one row per cell: seeds, and mean, lowest and highest of each test score.

    Keys: setup, arm, lm_init, name, encoder, lm, series, kind, ablation, asked, n (runs), seeds (seed -> its values as
    text), and leaf, seen, heldout: score -> {"mean", "low", "high"}, F1 in 0..100, shares and AUC in 0..1.
    """
    groups = {name: study.test(name) for name in ("leaf", "seen", "heldout")}
    rows = []
    for (setup, arm, lm_init), runs in chosen.groupby(CELL, sort=False):
        row: Row = {
            "setup": setup,
            "arm": arm,
            "lm_init": lm_init,
            "name": f"{LM_NAMES[str(lm_init)]}, {arm}",
            **{name: runs[name].iloc[0] for name in ("encoder", "lm", "series", "kind", "ablation", "asked")},
            "n": len(runs),
            "seeds": {seed: ", ".join(map(str, sorted(runs[seed].dropna().unique()))) for seed in SEEDS},
        }
        for group, table in groups.items():
            scores = table.loc[runs.index, CELL_SCORES]
            summary = zip(CELL_SCORES, scores.mean(), scores.min(), scores.max(), strict=True)
            row[group] = {name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in summary}
        rows.append(row)
    return rows
