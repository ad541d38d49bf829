"""The contrasts fixed in advance, whether the other cells are at chance, and contrasts that were not fixed."""

import pandas as pd

from analysis.contrasts import EQUIVALENCE_MARGIN, EXPLORATORY
from analysis.page.page import Data, Page
from analysis.page.table import Column, Table, table

FILE = "contrasts.csv"
BOOTSTRAP = Column("bootstrap", lambda row: (row["boot_low"], row["boot_high"]), "between", sign=True)


def contrasts(page: Page) -> Data:
    """Tables of differences; each can be empty."""
    known = page.study.contrasts
    of_kind = {kind: known[known["kind"] == kind] for kind in ("contrast", "chance")}
    exploratory = of_kind["contrast"]["status"] == EXPLORATORY
    return {
        "confirmatory": _contrasts(page, "contrasts", _CONFIRMATORY, of_kind["contrast"][~exploratory]),
        "chance": _chance(page, of_kind["chance"]),
        "exploratory": _contrasts(page, "exploratory", _EXPLORATORY, of_kind["contrast"][exploratory]),
    }


_CONFIRMATORY = (
    "Confirmatory: difference in held-out macro F1 (points), mean over hypernyms of run averages, with two 95 % "
    "intervals: Student’s t over hypernyms, and a bootstrap that draws hypernyms and seeds. p: over hypernyms, "
    "Holm-adjusted. “Worst runs”: the lowest run of the first minus the highest of the second."
)
_EXPLORATORY = "Exploratory: contrasts that were not fixed in advance, in the same way, p not adjusted."


def _contrasts(page: Page, name: str, caption: str, rows: pd.DataFrame) -> Table:
    columns = [
        page.setup,
        Column("contrast", lambda row: (row["above"], f"minus {row['below']}"), "noted"),
        Column("difference", "difference", sign=True),
        Column("95 % interval", lambda row: (row["low"], row["high"]), "between", sign=True),
        BOOTSTRAP,
        Column("p", lambda row: row["p"] if row["status"] == EXPLORATORY else row["p_holm"], "p"),
        Column("worst runs", "worst", sign=True),
        Column("hypernyms", "n_hypernyms", digits=0),
        Column("verdict", lambda row: (row["verdict"], bool(row["low"] > 0)), "verdict"),
    ]
    return table(name, caption, rows.to_dict("records"), columns, FILE)


def _chance(page: Page, rows: pd.DataFrame) -> Table:
    columns = [
        page.setup,
        Column("condition", "above", "text"),
        Column("difference", "difference", sign=True),
        Column("95 % interval", lambda row: (row["low"], row["high"]), "between", sign=True),
        BOOTSTRAP,
        Column("p of equivalence", "tost_p", "p"),
        Column("hypernyms", "n_hypernyms", digits=0),
        Column("verdict", "verdict", "prose"),
    ]
    caption = (
        "Confirmatory: held-out macro F1 minus the same runs’ permuted answers, with two 95 % intervals as above. "
        f"Equivalence: two one-sided tests at ±{EQUIVALENCE_MARGIN:g} points; a large p-value alone would not say it."
    )
    return table("chance", caption, rows.to_dict("records"), columns, FILE)
