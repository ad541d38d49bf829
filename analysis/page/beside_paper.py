"""The paper's numbers beside this study's, and what was found again."""

from analysis.beside_paper import Pair, replication
from analysis.page.page import Data, Page
from analysis.page.table import Column, table
from analysis.published import COIN, MAJORITY, PAPER, SEED_SPREAD

YARDSTICKS = [
    {"name": "majority answer", "paper_leaf": MAJORITY["leaf"], "paper_heldout": MAJORITY["heldout"]},
    {"name": "fair coin", "paper_heldout": COIN},
]


def beside_paper(page: Page) -> Data:
    """Sentences and table; the paper's cells that were not run here stay empty."""
    rows = [*map(_row, page.pairs), *YARDSTICKS]
    columns = [
        Column("condition", "name", "text"),
        Column("paper’s LM", lambda row: row.get("model", ""), "text"),
        Column("paper: leaves", lambda row: row.get("paper_leaf")),
        Column("paper: held-out", lambda row: row["paper_heldout"]),
        Column("ours: leaves", lambda row: row.get("leaf")),
        Column("ours: held-out", lambda row: row.get("heldout")),
    ]
    same = bool(page.pairs and page.pairs[0].same)
    caption = (
        f"The paper’s numbers ({PAPER}; DINOv2-L where no encoder is named, 100 % of hypernym questions withheld, "
        f"THINGS images, three-seed means, spread about {SEED_SPREAD:g} points) beside ours."
    )
    if not same:
        caption += " They come from other images and other models: compare the pattern, not the digits."
    return {"sentences": replication(page.pairs), "values": table("paper", caption, rows, columns)}


def _row(pair: Pair) -> Data:
    row: Data = {
        "name": pair.name,
        "model": pair.paper.model,
        "paper_leaf": pair.paper.leaf,
        "paper_heldout": pair.paper.heldout,
    }
    if pair.ours:
        row |= {group: pair.ours[group]["macro_f1"]["mean"] for group in ("leaf", "heldout")}
    return row
