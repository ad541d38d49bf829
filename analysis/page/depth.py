"""Scores by how far a hypernym is above the leaves (paper figure 12)."""

from analysis.conditions import LM_NAMES
from analysis.page.page import Data, Page
from analysis.page.table import Column, table


def depth(page: Page) -> Data | None:
    """Means by depth; None unless the taxonomy has two depths."""
    if page.study.depth.empty:
        return None
    columns = [
        page.setup,
        Column("condition", lambda row: f"{LM_NAMES[row['lm_init']]}, {row['arm']}", "text"),
        Column("depth", "depth", digits=0),
        Column("hypernyms", "n_hypernyms", digits=0),
        Column("F1", "f1"),
        Column("SD", "f1_sd"),
        Column("95 % interval", lambda row: (row["f1_low"], row["f1_high"]), "between"),
        Column("AUC", "auc", digits=2),
        Column("permuted", "permuted_f1"),
    ]
    caption = "Held-out test scores by depth; SD and 95 % interval over hypernyms."
    return {
        "means": table("depth", caption, page.study.depth.to_dict("records"), columns, "depth.csv"),
        "narrow": page.study.depth["arm"].nunique() < 2,
    }
