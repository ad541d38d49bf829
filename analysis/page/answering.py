"""How answers are given, beside whether they are right: probability off yes and no, ties, bias, calibration."""

from analysis.conditions import LM_NAMES
from analysis.page.main_result import GROUPS
from analysis.page.page import Data, Page
from analysis.page.table import Column, table


def answering(page: Page) -> Data | None:
    """One row per cell and group of questions; None where nothing was answered."""
    rows = page.study.answering.to_dict("records")
    columns = [
        page.setup,
        Column("condition", lambda row: f"{LM_NAMES[row['lm_init']]}, {row['arm']}", "text"),
        Column("questions", lambda row: GROUPS[row["group"]].lower(), "text"),
        Column("number", "n_questions", digits=0),
        Column("said yes", "yes_share", "percent", digits=0),
        Column("right answer is yes", "gold_yes_share", "percent", digits=0),
        Column("ties", "tie_share", "percent"),
        Column("probability off yes and no", "off_mass", "percent"),
        Column("in the worst run", "off_mass_worst", "percent"),
        Column("mostly off", "low_mass_share", "percent"),
        Column("calibration error", lambda row: (row["ece"], row["ece_low"], row["ece_high"]), "range", digits=3),
    ]
    caption = (
        "Test questions, means over runs. “Mostly off”: questions on which yes and no together have less than half of "
        "the probability. Calibration error: expected distance, over questions, of p(yes) among yes and no from the "
        "share whose right answer is yes, in ten bins; mean over runs, lowest–highest."
    )
    return {"cells": table("answering", caption, rows, columns, "answers.csv")} if rows else None
