"""Ablation curves (paper figure 4): scores against how much was withheld, random and systematic ablation apart.

A systematic ablation by leaf withholds *all* hypernym questions of every leaf that has a removed hypernym, so the
published "held-out" mean also averages hypernyms that were kept. Hence three means: over all hypernyms, over those
without a leaf of the same name, and over the removed ones only.
"""

from collections import Counter

import numpy as np
import pandas as pd

from analysis.cells import LM_NAMES, Curve, parts, where
from analysis.words import BASELINES

CURVE = ["series", "arm", "lm_init", "kind"]  # a curve in words
HYPERNYMS = ("all", "no homonyms", "removed only")
SCORES = ["f1", "auc", *BASELINES]


def ablation_curves(runs: pd.DataFrame, categories: pd.DataFrame) -> pd.DataFrame:
    """Test scores of every curve with at least two levels (see `levels_of`), one row per level, group and mean.

    Columns: cell, and in words series, arm, lm_init, kind; ablation, group (leaf | seen | heldout), over (which
    categories, see `HYPERNYMS`), n_runs, n_categories (mean over runs), f1, f1_low, f1_high, auc, auc_low, auc_high,
    and the baselines on the same categories. Means over categories, then runs; low and high: extremes of the runs.
    """
    levels = levels_of(runs)
    runs = where(runs, lambda cell: levels[cell.curve] > 1)
    test = categories[(categories["split"] == "test") & categories["run_id"].isin(runs.index)]
    hypernym = test["group"] != "leaf"
    parts = {
        "all": test,
        "no homonyms": test[hypernym & ~test["homonym"]] if test["homonym"].any() else test.iloc[:0],
        "removed only": test[(test["group"] == "heldout") & test["removed"]],
    }
    per_run = pd.concat([_run_means(part).assign(over=name) for name, part in parts.items()], ignore_index=True)
    per_run = per_run.merge(runs[["cell", *CURVE, "ablation"]], left_on="run_id", right_index=True)
    return level_means(per_run, ["cell", *CURVE, "ablation", "group", "over"]).assign(
        over=lambda table: pd.Categorical(table["over"], HYPERNYMS)
    ).sort_values([*CURVE, "ablation", "group", "over"], ignore_index=True)  # fmt: skip


def levels_of(runs: pd.DataFrame) -> Counter[Curve]:
    """Number of ablation levels of each curve."""
    return Counter(cell.curve for cell in set(runs["cell"]))


def level_means(per_run: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over the runs of each cell `keys`, with the runs' extremes of f1 and auc."""
    cells = per_run.groupby(keys, sort=False, observed=True)
    table = cells[[*SCORES, "n_categories"]].mean()
    extremes = {f"{name}_{end}": getattr(cells[name], how)() for name in ("f1", "auc") for end, how in ENDS}
    return table.assign(n_runs=cells.size(), **extremes).reset_index()[
        [*keys, "n_runs", "n_categories", "f1", "f1_low", "f1_high", "auc", "auc_low", "auc_high", *BASELINES]
    ]


ENDS = (("low", "min"), ("high", "max"))


def ablation_sentences(curves: pd.DataFrame) -> list[str]:
    """What the curves say, in sentences chosen by the numbers."""
    sentences = []
    several = curves["series"].nunique() > 1
    for (_, _, lm_init, method), curve in parts(curves, lambda cell: cell.curve).items():
        series, arm, kind = curve[["series", "arm", "kind"]].iloc[0]
        heldout = curve[(curve["group"] == "heldout") & (curve["over"] == "all")].set_index("ablation")["f1"]
        if len(heldout) < 2:
            continue
        unit = "%" if method.kind == "random" else "hypernyms"
        least, most = heldout.index.min(), heldout.index.max()
        name = ", ".join(filter(None, [LM_NAMES[str(lm_init)], str(arm), str(series) if several else ""]))
        text = (
            f"{kind} ablation, {name}: held-out F1 {heldout[least]:.1f} with {least} {unit} withheld, "
            f"{heldout[most]:.1f} with {most} {unit}"
        )
        removed = curve[curve["over"] == "removed only"].set_index("ablation")["f1"]
        if len(removed):
            gap = (heldout.reindex(removed.index) - removed).abs()
            level = gap.index[int(np.argmax(gap))]
            text += f"; on removed hypernyms only {removed[level]:.1f} where all held-out questions give "
            text += f"{heldout[level]:.1f} ({level} removed, the widest gap)"
        sentences.append(text[0].upper() + text[1:] + ".")
    return sentences


def _run_means(categories: pd.DataFrame) -> pd.DataFrame:
    """Means over categories, one row per run and group."""
    cells = categories.groupby(["run_id", "group"], sort=True)
    return cells[SCORES].mean().assign(n_categories=cells.size()).reset_index()
