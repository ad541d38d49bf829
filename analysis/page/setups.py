"""One cell in two setups: another encoder (paper figures 3 and 10), another LM, other training."""

from analysis.comparisons import compare_setups
from analysis.page.contrasts import BOOTSTRAP, FILE
from analysis.page.page import Data, Page
from analysis.page.table import Column, table


def setups(page: Page) -> Data | None:
    """Differences between setups; None where nothing can be compared."""
    gaps = compare_setups(page.study.runs, page.study.categories)
    if not gaps:
        return None
    known = page.study.contrasts
    tested = known[known["kind"] == "setup"].set_index(["above", "below"]).to_dict("index")
    rows = [
        {
            **tested[f"{gap.cell}, {gap.one}", f"{gap.cell}, {gap.other}"],
            "cell": gap.cell,
            "one": gap.one,
            "other": gap.other,
            "f1": (gap.f1, gap.other_f1),
            "auc_gap": gap.auc_gap,
        }
        for gap in gaps
    ]
    columns = [
        Column("condition", "cell", "text"),
        Column("setups", lambda row: (page.short(row["one"]), f"minus {page.short(row['other'])}"), "noted"),
        Column("F1", lambda row: row["f1"][0]),
        Column("the other’s F1", lambda row: row["f1"][1]),
        Column("F1 difference", lambda row: (row["difference"], row["low"], row["high"]), "interval", sign=True),
        BOOTSTRAP,
        Column("AUC difference", "auc_gap", "interval", digits=2, sign=True),
        Column("hypernyms", "n_hypernyms", digits=0),
        Column("verdict on F1", "verdict", "prose"),
    ]
    caption = (
        "Exploratory: held-out macro F1 of the first setup and of another one with the same hypernyms, and their "
        "difference, paired by hypernym, with its 95 % interval over hypernyms and that of a bootstrap that draws "
        "hypernyms and seeds."
    )
    return {"gaps": table("setups", caption, rows, columns, FILE)}
