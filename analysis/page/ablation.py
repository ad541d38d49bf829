"""Scores against how much was withheld (paper figure 4)."""

from analysis.ablation import ablation_sentences
from analysis.conditions import LM_NAMES
from analysis.page.page import Data, Page
from analysis.page.table import Column, table

QUESTIONS = {"leaf": "leaves", "seen": "seen", "heldout": "held-out"}


def ablation(page: Page) -> Data | None:
    """Ablation curves; None without two levels of one series."""
    curves = page.study.ablation
    if curves.empty:
        return None
    columns = [
        Column("setup", lambda row: page.short(row["series"]), "text"),
        Column("ablation", "kind", "text"),
        Column("level", "ablation", digits=0),
        Column("condition", lambda row: f"{LM_NAMES[row['lm_init']]}, {row['arm']}", "text"),
        Column("questions", lambda row: QUESTIONS[row["group"]], "text"),
        Column("over", "over", "text"),
        Column("runs", "n_runs", digits=0),
        Column("categories", "n_categories", digits=0),
        Column("F1", lambda row: (row["f1"], row["f1_low"], row["f1_high"]), "range"),
        Column("AUC", lambda row: (row["auc"], row["auc_low"], row["auc_high"]), "range", digits=2),
        Column("permuted", "permuted_f1"),
        Column("coin", "coin_f1"),
    ]
    caption = (
        "Test scores by level (percent of each hypernym’s leaves for random ablation, number of hypernyms for "
        "systematic ablation), mean over runs, lowest–highest where they differ. “No homonyms”: without hypernyms "
        "whose name a leaf has."
    )
    return {
        "points": table("ablation", caption, curves.to_dict("records"), columns, "ablation.csv"),
        "sentences": ablation_sentences(curves),
    }
