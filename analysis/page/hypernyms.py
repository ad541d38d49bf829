"""Held-out scores of every hypernym in every cell of the headline, and for how many of them something is shown."""

from collections.abc import Callable

from analysis.conditions import CELL, LM_NAMES
from analysis.page.page import Data, Page
from analysis.page.table import Column, Table, table

LEVEL = 0.05


def hypernyms(page: Page) -> Data | None:
    """One row per hypernym, and one per comparison; None without held-out questions."""
    test = page.study.categories
    test = test[(test["split"] == "test") & (test["group"] == "heldout")]
    test = test.merge(page.shown[CELL], left_on="run_id", right_index=True)
    if test.empty:
        return None
    means = test.groupby([*CELL, "category"])[["f1", "n_yes", "n_no"]].mean()
    known = {key: (row["f1"], row["n_yes"], row["n_no"]) for key, row in means.to_dict("index").items()}
    asked = set(test[CELL].itertuples(index=False, name=None))
    cells = page.shown[CELL].drop_duplicates().itertuples(index=False, name=None)

    def scores(cell: tuple[str, ...]) -> Callable[[str], tuple[float, float, float] | None]:
        return lambda name: known.get((*cell, name))

    columns = [Column(page.short(_header(*cell)), scores(cell), "counted") for cell in cells if cell in asked]
    caption = "Test macro F1 (mean over runs), with the numbers of yes / no questions below it."
    names = sorted(test["category"].unique())
    return {
        "scores": table("hypernyms", caption, names, [Column("hypernym", str, "text"), *columns], "categories.csv"),
        "tests": _tests(page),
    }


def _header(setup: str, arm: str, lm_init: str) -> str:
    return ", ".join(filter(None, (LM_NAMES[lm_init], arm, setup)))


def _tests(page: Page) -> Table:
    """For how many hypernyms a comparison shows a difference once adjusted for their number."""
    rows = []
    for (setup, above, below), here in page.study.hypernyms.groupby(["setup", "above", "below"], sort=False):
        found = here[here["p_holm"] < LEVEL]
        lower = sorted(found.loc[found["difference"] < 0, "category"])
        row = {"setup": setup, "above": above, "below": below, "n": len(here), "tested": int(here["p"].notna().sum())}
        rows.append(
            row | {"higher": int((found["difference"] > 0).sum()), "lower": len(lower), "names": ", ".join(lower)}
        )
    columns = [
        page.setup,
        Column("comparison", lambda row: (row["above"], f"with {row['below']}"), "noted"),
        Column("hypernyms", "n", digits=0),
        Column("tested", "tested", digits=0),
        Column("higher", "higher", digits=0),
        Column("lower", "lower", digits=0),
        Column("lower for", "names", "prose"),
    ]
    caption = (
        f"Exploratory: number of hypernyms for which a difference is shown at {LEVEL:g} after Holm’s adjustment for "
        "their number. With its own permuted answers: exact permutation; between conditions: Welch’s t over seeds, "
        "which with three seeds shows large differences only."
    )
    return table("hypernym-tests", caption, rows, columns, "hypernym_tests.csv")
