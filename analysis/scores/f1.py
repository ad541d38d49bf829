"""Macro F1 and AUC per category, all categories at once (no loop over categories or questions).

Legend: C = categories. The rule of F1 is `engine.runs.f1`'s; AUC does not move with a bias to one answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.predictions import derive_answers
from analysis.words import BASELINES
from engine.runs.f1 import auc, confusion_counts, macro_f1

Array = NDArray[np.float64]

FEW = 10  # means are also given over categories with at least this many questions of each answer
GROUPS = ("leaf", "seen", "heldout")
CATEGORY_KEYS = ["split", "group", "category"]
MEANS = [
    *("macro_f1", "macro_f1_min10", "macro_f1_no_homonyms", "macro_f1_removed", "veridical_f1"),
    *("auc", "auc_no_homonyms", "auc_removed"),
]
DISAGREEMENTS = [f"disagree_{kind}{how}" for kind in ("yes", "no") for how in ("", "_by_vision")]


def homonyms(answers: pd.DataFrame) -> frozenset[str]:
    """Hypernyms whose name or phrase is also a leaf's: their question was trained on as a leaf question."""
    names = answers[["group", "category", "phrase"]].drop_duplicates()
    leaves, names = names[names["group"] == "leaf"], names[names["group"] != "leaf"]
    shared = names["category"].isin(leaves["category"]) | names["phrase"].isin(leaves["phrase"])
    return frozenset(names.loc[shared, "category"])


@dataclass(frozen=True, eq=False)
class Numbered:
    """The categories of a table of questions: `table`, its split, group and category, sorted; `codes`, each question's
    row of it; `twins`, see `homonyms`. The same for all runs that ask the same questions."""

    table: pd.DataFrame
    codes: NDArray[np.int64]
    twins: frozenset[str]

    @classmethod
    def of(cls, questions: pd.DataFrame, twins: frozenset[str] | None = None) -> "Numbered":
        """`twins`: when `questions` lack the leaf questions that tell."""
        grouped = questions.groupby(CATEGORY_KEYS, sort=True, observed=True)
        codes = np.asarray(grouped.ngroup(), np.int64)
        table = grouped.size().reset_index()[CATEGORY_KEYS]
        return cls(table, codes, homonyms(questions) if twins is None else twins)


def measure_categories(answers: pd.DataFrame, numbered: Numbered | None = None) -> pd.DataFrame:
    """One row per split, group and category of `SavedRuns.answers`, sorted. `numbered`: theirs, when already known.

    Columns: split, group (leaf | seen | heldout), category, homonym (see `homonyms`), removed (by a systematic
    ablation), n_yes, n_no (gold), n_veridical_yes (the image's own leaf is of the category), said_yes (answers),
    f1, veridical_f1 (answers held against gold, and against the truth about the image; 0..100), auc (0..1 or missing),
    ties, right, agrees (answers equal to the veridical one). Questions on which the label map and the image disagree:
    disagree_yes (veridical yes, gold no) and disagree_no (the reverse), and of these the number answered as the image
    says, disagree_yes_by_vision and disagree_no_by_vision.
    """
    numbered = Numbered.of(answers) if numbered is None else numbered
    codes, table = numbered.codes, numbered.table
    size = len(table)
    gold, predicted, veridical = (answers[name].to_numpy(bool) for name in ("answer", "predicted", "veridical"))
    counts = confusion_counts(codes, gold, predicted, size)
    counts_veridical = confusion_counts(codes, veridical, predicted, size)

    def total(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(codes[mask], minlength=size)

    return table.assign(
        homonym=(table["group"] != "leaf") & table["category"].isin(numbered.twins),
        removed=total(answers["removed"].to_numpy(bool)) > 0,
        n_yes=counts[:, 1].sum(axis=1),
        n_no=counts[:, 0].sum(axis=1),
        n_veridical_yes=counts_veridical[:, 1].sum(axis=1),
        said_yes=counts[:, :, 1].sum(axis=1),
        f1=100 * macro_f1(counts),
        veridical_f1=100 * macro_f1(counts_veridical),
        auc=auc(codes, gold, answers["margin"].to_numpy(float), size),
        ties=total(answers["tie"].to_numpy(bool)),
        right=counts[:, 0, 0] + counts[:, 1, 1],
        agrees=total(predicted == veridical),
        disagree_yes=total(veridical & ~gold),
        disagree_yes_by_vision=total(veridical & ~gold & predicted),
        disagree_no=total(~veridical & gold),
        disagree_no_by_vision=total(~veridical & gold & ~predicted),
    )


def mean_macro_f1(table: pd.DataFrame) -> dict[str, float]:
    """Mean macro F1 over categories (0..100) of leaf, seen and heldout questions, from questions with logits."""
    categories = measure_categories(derive_answers(table).assign(split="all", removed=False))
    return {str(group): float(mean) for group, mean in categories.groupby("group")["f1"].mean().items()}


def summarise(categories: pd.DataFrame, within: Sequence[str] = ()) -> pd.DataFrame:
    """Means over categories: one row per split and group (and per value of the columns `within`).

    Means named `_no_homonyms` and `_removed` are over those hypernyms only.

    Shares are in 0..1. `by_vision` is the share of the questions on which map and image disagree that were answered
    as the image says, averaged over the two kinds of disagreement so that a bias to "no" counts nothing: 0.5 is
    guessing, 1 is answering by sight, 0 by the label map. Missing where no question disagrees.
    """
    enough = categories[["n_yes", "n_no"]].min(axis=1) >= FEW
    clean, removed = ~categories["homonym"], categories["removed"]
    wide = categories.assign(
        macro_f1=categories["f1"],
        macro_f1_min10=categories["f1"].where(enough),
        macro_f1_no_homonyms=categories["f1"].where(clean),
        macro_f1_removed=categories["f1"].where(removed),
        auc_no_homonyms=categories["auc"].where(clean),
        auc_removed=categories["auc"].where(removed),
        auc_undefined=categories["auc"].isna(),
        n_categories=1,
        n_categories_min10=enough,
        n_homonyms=~clean,
        n_removed=removed,
    )
    groups = wide.groupby([*within, "split", "group"], sort=True)
    means = [*MEANS, *(column for column in BASELINES if column in wide)]
    counted = ["n_categories", "n_categories_min10", "n_homonyms", "n_removed", "auc_undefined", "n_yes", "n_no"]
    sums = groups[["said_yes", "ties", "right", "agrees", *DISAGREEMENTS]].sum()
    out = groups[means].mean().join(groups[counted].sum())
    n = out["n_yes"] + out["n_no"]
    by_vision = 0.5 * sum(
        sums[f"disagree_{kind}_by_vision"] / sums[f"disagree_{kind}"].where(sums[f"disagree_{kind}"] > 0)
        for kind in ("yes", "no")
    )
    return out.assign(
        accuracy=sums["right"] / n,
        yes_share=sums["said_yes"] / n,
        gold_yes_share=out["n_yes"] / n,
        tie_share=sums["ties"] / n,
        veridical_agreement=sums["agrees"] / n,
        n_disagree=sums["disagree_yes"] + sums["disagree_no"],
        by_vision=by_vision,
    ).reset_index()
