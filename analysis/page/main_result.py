"""Leaves and held-out hypernyms in every cell of the headline, and every other score of every cell."""

from collections.abc import Callable

from analysis.cells import Row
from analysis.conditions import CELL
from analysis.means import f1_means
from analysis.page.page import Data, Page
from analysis.page.table import Column, Table, table

GROUPS = {"leaf": "Leaves", "seen": "Seen hypernyms", "heldout": "Held-out hypernyms"}


def main_result(page: Page) -> Data:
    """The headline's scores, and details."""
    shown = ", ".join(dict.fromkeys(page.shown["withheld"]))
    return {
        "scores": _headline_table(page),
        "details": [_details(page, group) for group in GROUPS if _has(page.every_cell, group)],
        "shown": shown if len(page.every_cell) > len(page.cells) else "",
    }


def score(group: str, name: str) -> Callable[[Row], float]:
    """Getter of a cell's mean of one score."""
    return lambda row: float(row[group][name]["mean"])


def spread(group: str, name: str) -> Callable[[Row], tuple[float, float, float]]:
    """Getter of a cell's mean, lowest and highest run."""
    return lambda row: (row[group][name]["mean"], row[group][name]["low"], row[group][name]["high"])


def _headline_table(page: Page) -> Table:
    means = f1_means(page.shown, page.study.categories)
    means = means[means["group"] == "heldout"].set_index(CELL)[["boot_low", "boot_high"]]
    intervals = {key: (row["boot_low"], row["boot_high"]) for key, row in means.to_dict("index").items()}
    columns = [
        page.setup,
        Column("condition", "name", "text"),
        Column("runs", "n", digits=0),
        Column("leaves F1", spread("leaf", "macro_f1"), "range"),
        Column("held-out F1", spread("heldout", "macro_f1"), "range"),
        Column("95 % interval", lambda row: intervals.get((row["setup"], row["arm"], row["lm_init"])), "between"),
        Column("held-out AUC", spread("heldout", "auc"), "range", digits=2),
        *(Column(name, score("heldout", f"{name}_f1")) for name in ("permuted", "coin", "majority")),
    ]
    caption = (
        "Test scores: mean over runs, lowest–highest where runs differ; F1 in 0–100. The interval of held-out F1 is "
        "that of a bootstrap that draws both seeds and hypernyms."
    )
    return table("scores", caption, page.cells, columns, "results.csv")


def _has(cells: list[Row], group: str) -> bool:
    return any(row[group]["n_categories"]["mean"] >= 1 for row in cells)


def _details(page: Page, group: str) -> Table:
    columns = [
        page.setup,
        Column("condition", "name", "text"),
        Column("categories", score(group, "n_categories"), digits=0),
        Column("questions, yes / no", lambda row: _pair(row, group, "n_yes", "n_no"), "counts", digits=0),
        Column("F1", score(group, "macro_f1")),
        Column("F1, ≥ 10", lambda row: _pair(row, group, "macro_f1_min10", "n_categories_min10"), "bracketed"),
        Column("F1, no homonyms", score(group, "macro_f1_no_homonyms")),
        Column("AUC", score(group, "auc"), digits=3),
        Column("AUC undefined", score(group, "auc_undefined"), digits=0),
        Column("said yes", score(group, "yes_share"), "percent", digits=0),
        Column("ties", score(group, "tie_share"), "percent"),
        Column("by vision", score(group, "by_vision"), "percent", digits=0),
    ]
    caption = (
        f"{GROUPS[group]}, test questions, means over runs. “≥ 10” and “no homonyms”: over categories with at least "
        "ten yes and ten no questions (their number in brackets), and over hypernyms whose name no leaf has."
    )
    return table(f"details-{group}", caption, page.every_cell, columns, "results.csv")


def _pair(row: Row, group: str, *names: str) -> tuple[float, ...]:
    return tuple(row[group][name]["mean"] for name in names)
