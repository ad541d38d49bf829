"""Scores against the share of leaves whose labels were dealt to other categories."""

from analysis.dose import dose_sentences, dose_table
from analysis.page.page import Data, Page
from analysis.page.table import Column, table


def dose(page: Page) -> Data | None:
    """Dose-responses; None without a partial shuffle."""
    rows = dose_table(page.study.dose).to_dict("records")
    if not rows:
        return None
    columns = [
        page.setup,
        Column("rule", "rule", "text"),
        Column("LM weights", "lm_init", "text"),
        Column("shuffled", lambda row: row["dose"] / 100, "percent", digits=0),
        Column("runs", "n_runs", digits=0),
        Column("coherence, centred", "coherence_centred", digits=3),
        Column("coherence", "coherence", digits=3),
        Column("pairs kept", "pairs_kept", "percent", digits=0),
        Column("F1", lambda row: (row["f1"], row["f1_low"], row["f1_high"]), "range"),
        Column("AUC", lambda row: (row["auc"], row["auc_low"], row["auc_high"]), "range", digits=2),
        Column("permuted", "permuted_f1"),
        Column("coin", "coin_f1"),
    ]
    caption = "Held-out test scores by dose: mean over runs, lowest–highest where they differ."
    return {
        "points": table("dose", caption, rows, columns, "dose.csv"),
        "sentences": dose_sentences(page.study.dose),
    }
