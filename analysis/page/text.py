"""What the LM knows in text beside what it answers about images."""

from analysis.conditions import CELL, LM_NAMES
from analysis.contrasts import correlation
from analysis.page.page import Data, Page
from analysis.page.table import Column, table

MEANS = ("text_f1", "text_item_f1", "text_auc", "f1")
FITTED = ("text_f1", "text_item_f1")


def text(page: Page) -> Data | None:
    """Means and correlations per cell with a probe; None without probes."""
    cells = dict(iter(page.study.text.groupby(CELL)))
    rows = []
    for key in page.shown[CELL].drop_duplicates().itertuples(index=False, name=None):
        if key in cells:
            setup, arm, lm_init = key
            here = cells[key]
            fits = {f"r_{name}": correlation(here[name].to_numpy(float), here["f1"].to_numpy(float)) for name in FITTED}
            means = {name: float(here[name].mean()) for name in MEANS}
            rows.append({"setup": setup, "name": f"{LM_NAMES[lm_init]}, {arm}", **means, **fits})
    columns = [
        page.setup,
        Column("condition", "name", "text"),
        Column("text F1", "text_f1"),
        Column("text F1, items", "text_item_f1"),
        Column("text AUC", "text_auc", digits=2),
        Column("held-out F1", "f1"),
        Column("hypernyms", lambda row: row["r_text_f1"][3], digits=0),
        Column("r with text F1", lambda row: row["r_text_f1"][:3], "interval", digits=2),
        Column("r with items", lambda row: row["r_text_item_f1"][:3], "interval", digits=2),
    ]
    caption = (
        "Means over held-out hypernyms, and Pearson r over hypernyms with its 95 % interval. “Items”: each hypernym "
        "scored on its leaves’ questions, as the paper relates text to images."
    )
    return {"means": table("text", caption, rows, columns, "probe.csv")} if rows else None
