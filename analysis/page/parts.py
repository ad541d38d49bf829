"""Held-out means over parts of the hypernyms, and against the truth about the image instead of the label."""

from analysis.conditions import LM_NAMES
from analysis.page.page import Data, Page
from analysis.page.table import Column, table

LABELS = {"gold": "as labelled", "veridical": "as pictured"}


def parts(page: Page) -> Data | None:
    """One row per cell, kind of answer and part; None without held-out questions."""
    rows = page.study.heldout.to_dict("records")
    columns = [
        page.setup,
        Column("condition", lambda row: f"{LM_NAMES[row['lm_init']]}, {row['arm']}", "text"),
        Column("right answer", lambda row: LABELS[row["labels"]], "text"),
        Column("hypernyms", "over", "text"),
        Column("their number", "n_categories", digits=0),
        Column("seeds", "n_seeds", digits=0),
        Column("F1", "f1"),
        Column("bootstrap", lambda row: (row["boot_low"], row["boot_high"]), "between"),
        Column("mixed model", lambda row: (row["model_low"], row["model_high"]), "between"),
        Column("seeds, lowest to highest", lambda row: (row["seed_lowest"], row["seed_highest"]), "between"),
        Column("permuted", "permuted_f1"),
    ]
    caption = (
        "Held-out macro F1 with two 95 % intervals that take both seeds and hypernyms for samples: a bootstrap that "
        "draws both, and the mixed model f1 ~ 1 + (1 | seed) + (1 | category). “No homonyms”: hypernyms whose name no "
        "leaf has, so that no trained question names them."
    )
    return {"means": table("parts", caption, rows, columns, "heldout.csv")} if rows else None
