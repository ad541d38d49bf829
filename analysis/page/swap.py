"""The hypernym-level swap against its control."""

from analysis.contrasts import EQUIVALENCE_MARGIN
from analysis.page.page import Data, Page
from analysis.page.table import Column, table


def swap(page: Page) -> Data | None:
    """Control minus swap by several tests; None where either was not run."""
    tests = page.study.swap
    columns = [
        page.setup,
        Column("LM weights", "lm_init", "text"),
        Column("test", "test", "text"),
        Column("control", "control"),
        Column("swapped", "swapped"),
        Column("difference", lambda row: (row["difference"], row["low"], row["high"]), "interval", sign=True),
        Column("t", "statistic", digits=2),
        Column("df", "df"),
        Column("p", "p", "p"),
        Column("p of equivalence", "tost_p", "p"),
        Column("verdict", "verdict", "prose"),
    ]
    caption = (
        "Exploratory: held-out macro F1, control minus swap in points with its 95 % interval, by tests that differ in "
        f"what they take to be a sample. Equivalence: two one-sided tests at ±{EQUIVALENCE_MARGIN:g} points."
    )
    if tests.empty:
        return None
    notes = dict(zip(tests["test"], tests["differs"], strict=True))
    return {"tests": table("swap", caption, tests.to_dict("records"), columns, "swap.csv"), "notes": notes}
