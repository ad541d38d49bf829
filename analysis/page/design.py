"""What was asked: the contrasts fixed in advance, the conditions, their runs and seeds."""

import pandas as pd

from analysis.cells import Row
from analysis.conditions import SEEDS, seed_text
from analysis.page.page import Data, Page
from analysis.page.table import Column, table

RULE_TEXT = {
    ("across", "paper"): "a plain permutation, in which some leaves stay among their own by chance",
    ("across", "disjoint"): "never to a leaf that shares a hypernym",
    ("within", "paper"): "a plain permutation inside each group, fixed points allowed",
    ("within", "deranged"): "no leaf keeps its own label unless it is alone in its group",
    ("within", "release"): "as the authors’ code: a leaf alone in its group joins a more general one",
}


def design(page: Page) -> Data:
    """Conditions of the study, and what cannot be shown of it."""
    runs = page.study.runs
    permutations = runs["permutation"].nunique() > 1
    columns = [
        Column("setup", lambda row: page.short(row["series"]), "text"),
        Column("LM weights", "lm_init", "text"),
        Column("labels", "arm", "text"),
        Column("hypernyms withheld", "withheld", "text"),
        Column("runs", "n", digits=0),
        Column("run seeds", lambda row: row["seeds"]["run_seed"], "text"),
        Column("LM seeds", lambda row: row["seeds"]["lm_seed"] if row["lm_init"] == "random" else "–", "text"),
        Column("permutations", lambda row: _permutations(row) if permutations else "", "text"),
        Column("data seeds", lambda row: row["seeds"]["data_seed"], "text"),
    ]
    caption = "Conditions of the study and their runs. Runs of one row differ in seeds, and in the levels listed."
    return {
        "conditions": table("conditions", caption, condition_rows(page.every_cell), columns),
        "copies": len(page.study.sweep.copies),
        "failed": len(page.study.sweep.failed),
        "many_shown": page.shown["setup"].nunique() > 1,
        "notes": page.study.notes,
        "partial": bool(runs["partial"].any()),
        "rules": {shuffle: _rules(runs, shuffle) for shuffle in ("across", "within")},
        "seeds": seed_text(runs),
        "shuffles": set(runs["shuffle"]),
        "random": bool((runs["lm_init"] == "random").any()),
    }


def condition_rows(cells: list[Row]) -> list[Row]:
    """Cells that differ in their ablation level only, as one row with all levels."""
    rows: dict[tuple[str, ...], Row] = {}
    for cell in cells:
        key = tuple(cell[name] for name in ("series", "kind", "arm", "lm_init"))
        row = rows.setdefault(key, {**cell, "levels": [], "n": 0, "seeds": {seed: {} for seed in SEEDS}})
        row["levels"].append(str(cell["ablation"]))
        row["n"] += cell["n"]
        for seed in SEEDS:
            row["seeds"][seed] |= dict.fromkeys(cell["seeds"][seed].split(", "))
    for row in rows.values():
        unit = " %" if row["kind"].startswith("random") else f" hypernyms ({row['kind']})"
        row["withheld"] = ", ".join(row["levels"]) + unit
        row["seeds"] = {seed: ", ".join(values) for seed, values in row["seeds"].items()}
    return list(rows.values())


def _permutations(row: Row) -> str:
    return "–" if row["arm"] == "original" else str(row["seeds"]["permutation"])


def _rules(runs: pd.DataFrame, shuffle: str) -> list[str]:
    """The rules of one shuffle that occur, in words; empty when it was not run."""
    if f"{shuffle}_rule" not in runs:
        return []
    used = runs.loc[runs["shuffle"] == shuffle, f"{shuffle}_rule"].unique()
    return [f"{rule}: {RULE_TEXT.get((shuffle, rule), rule)}" for rule in sorted(used)]
