"""The runs beside what can be had without a language model, or by putting their halves together."""

from analysis.comparisons import yardstick_sentences
from analysis.conditions import short_name
from analysis.neighbours import NEIGHBOURS
from analysis.page.contrasts import BOOTSTRAP, FILE
from analysis.page.page import Data, Page
from analysis.page.table import Column, Table, table
from analysis.yardsticks import YARDSTICKS


def yardsticks(page: Page) -> Data | None:
    """Every cell of the headline minus every yardstick; None where features are gone."""
    if not page.comparisons:
        return None
    return {
        "composed": any(c.yardstick == "composition" for c in page.comparisons),
        "gaps": _gaps(page),
        "neighbours": NEIGHBOURS,
        "purity": _purity(page),
        "sentences": yardstick_sentences(page.comparisons),
    }


def _gaps(page: Page) -> Table:
    known = page.study.contrasts
    tested = known[known["kind"] == "yardstick"].set_index(["setup", "above", "below"]).to_dict("index")
    rows = [
        {
            **tested[c.setup, c.cell, YARDSTICKS[c.yardstick]],
            "setup": c.setup,
            "cell": c.cell,
            "yardstick": YARDSTICKS[c.yardstick],
            "f1": c.other_f1,
            "auc": c.other_auc[0],
            "auc_gap": c.auc_gap,
        }
        for c in page.comparisons
    ]
    columns = [
        page.setup,
        Column("condition", lambda row: (row["cell"], f"minus {row['yardstick']}"), "noted"),
        Column("its F1", "f1"),
        Column("F1 difference", lambda row: (row["difference"], row["low"], row["high"]), "interval", sign=True),
        BOOTSTRAP,
        Column("its AUC", "auc", digits=2),
        Column("AUC difference", "auc_gap", "interval", digits=2, sign=True),
        Column("verdict on F1", "verdict", "prose"),
    ]
    caption = (
        "Exploratory: each condition minus each yardstick on the same held-out questions, mean of the differences over "
        "hypernyms, with its 95 % interval over hypernyms and, for F1, that of a bootstrap that draws hypernyms and "
        "seeds."
    )
    return table("yardsticks", caption, rows, columns, FILE)


def _purity(page: Page) -> Table | None:
    """Mean (SD) over hypernyms of neighbourhood purity per encoder, arm and space, with what chance gives."""
    known = page.study.purity
    known = known[known["map"].isin(page.shown["map"]) & (known["kind"] == "hypernym")]
    if known.empty:
        return None
    many = page.shown["setup"].nunique() > 1
    rows = []
    for (encoder, arm, space), here in known.groupby(["encoder", "arm", "space"], sort=False):
        row = {"arm": arm, "encoder": short_name(encoder) if many else "", "space": space}
        for name in ("purity", "purity_other_leaves"):
            row[name] = (float(here[name].mean()), float(here[name].std()))
            row[name.replace("purity", "chance")] = float(here[name.replace("purity", "chance")].mean())
        rows.append(row)
    columns = [
        Column("labels", lambda row: (row["arm"], row["encoder"]), "noted"),
        Column("features", "space", "text"),
        Column("all images", "purity", "bracketed", digits=2),
        Column("chance", "chance", digits=2),
        Column("other leaves only", "purity_other_leaves", "bracketed", digits=2),
        Column("chance, other leaves", "chance_other_leaves", digits=2),
    ]
    caption = (
        f"Share of an image’s {NEIGHBOURS} nearest training images that are of its hypernym, mean (SD) over hypernyms, "
        "and the share chance gives."
    )
    return table("purity", caption, rows, columns, "purity.csv")
