"""The first part of the page: what was asked, what was found, and the paper beside it."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.beside_paper import Pair, replication
from analysis.cells import Curve, Names, Setup, seed_text, setups_of
from analysis.published import COIN, MAJORITY, PAPER, SEED_SPREAD
from analysis.report.page import Data, Page, Row
from analysis.report.table import BASIS, BOOTSTRAP, CONTRAST, GAP, INTERVAL, SETUP, Column, Table, table
from analysis.scores.means import f1_means
from analysis.statistics.contrasts import CONFIRMATORY, EXPLORATORY, Contrast
from analysis.statistics.difference import EQUIVALENCE_MARGIN, OVER_BOTH, Decision
from analysis.words import MISSING, missing
from engine.design.condition import SEEDS

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
        Column("setup", lambda row: page.study.names.series(row["cell"].setup), "text"),
        Column("LM weights", "lm_init", "text"),
        Column("labels", "arm", "text"),
        Column("hypernyms withheld", "withheld", "text"),
        Column("runs", "n", digits=0),
        Column("run seeds", lambda row: row["seeds"]["run_seed"], "text"),
        Column("LM seeds", lambda row: row["seeds"]["lm_seed"] if row["lm_init"] == "random" else MISSING, "text"),
        Column("permutations", lambda row: _permutations(row) if permutations else "", "text"),
        Column("data seeds", lambda row: row["seeds"]["data_seed"], "text"),
    ]
    caption = "Conditions of the study and their runs. Runs of one row differ in seeds, and in the levels listed."
    return {
        "conditions": table("conditions", caption, condition_rows(page.every_cell, page.study.names), columns),
        "copies": len(page.study.sweep.copies),
        "failed": len(page.study.sweep.failed),
        "many_shown": len(setups_of(page.shown)) > 1,
        "notes": page.study.notes,
        "partial": any(cell.labels.partial for cell in runs["cell"]),
        "rules": {shuffle: _rules(runs, shuffle) for shuffle in ("across", "within")},
        "seeds": seed_text(runs),
        "shuffles": set(runs["shuffle"]),
        "random": bool((runs["lm_init"] == "random").any()),
    }


def condition_rows(cells: list[Row], names: Names) -> list[Row]:
    """Cells that differ in their ablation level only, as one row with all levels."""
    rows: dict[Curve, Row] = {}
    for cell in cells:
        about = {**cell, "levels": [], "n": 0, "seeds": {seed: {} for seed in SEEDS}}
        row = rows.setdefault(cell["cell"].curve, about)
        row["levels"].append(str(cell["cell"].ablation.amount))
        row["n"] += cell["n"]
        for seed in SEEDS:
            row["seeds"][seed] |= dict.fromkeys(cell["seeds"][seed])
    for row in rows.values():
        ablation = row["cell"].ablation
        unit = " %" if ablation.kind == "random" else f" hypernyms ({names.method(ablation)})"
        row["withheld"] = ", ".join(row["levels"]) + unit
        row["seeds"] = {seed: ", ".join(map(str, values)) for seed, values in row["seeds"].items()}
    return list(rows.values())


def _permutations(row: Row) -> str:
    return MISSING if row["cell"].labels.shuffle == "original" else str(row["seeds"]["permutation"])


def _rules(runs: pd.DataFrame, shuffle: str) -> list[str]:
    """The rules of one shuffle that occur, in words; empty when it was not run."""
    used = runs.loc[runs["shuffle"] == shuffle, f"{shuffle}_rule"].unique()
    return [f"{rule}: {RULE_TEXT.get((shuffle, rule), rule)}" for rule in sorted(used)]


LEAF_FLOOR = 80.0  # below this leaf F1 a failure on hypernyms says little
SETUPS = 3  # of the headline, that are spelled out


def headline(cells: list[Row], compared: list[Contrast]) -> list[str]:
    """The verdict in sentences that follow from the numbers; `compared`: of `analysis.statistics.contrasts`."""
    contrasts = [c for c in compared if (c.kind, c.status) == ("contrast", CONFIRMATORY)]
    if not contrasts:
        return ["This study has no pretrained original or within run with held-out hypernyms, so it cannot answer."]
    sentences = []
    setups: dict[Setup, list[Row]] = {}
    for row in cells:
        setups.setdefault(row["cell"].setup, []).append(row)
    for rows in list(setups.values())[:SETUPS]:
        setup = rows[0]["setup"]
        values = [
            f"{row['heldout']['macro_f1']['mean']:.1f} ({row['name']})"
            for row in rows
            if np.isfinite(row["heldout"]["macro_f1"]["mean"])
        ]
        sentences.append(f"Held-out hypernyms{', ' + setup if setup else ''}, macro F1: {'; '.join(values)}.")
    sentences.append(held(contrasts))
    chance = [c for c in compared if c.kind == "chance"]
    if chance and len(setups) == 1:
        sentences.append("Against chance: " + "; ".join(f"{c.above}, is {c.f1.verdict}" for c in chance) + ".")
    bases = dict.fromkeys(c.f1.basis for c in [*contrasts, *chance] if c.f1.basis != OVER_BOTH)
    sentences += [f"Some of this is about {basis}: a side has too few for more." for basis in bases]
    weak = [(row, row["leaf"]["macro_f1"]["mean"]) for row in cells if row["leaf"]["macro_f1"]["mean"] < LEAF_FLOOR]
    if weak:
        named = [f"{f1:.1f} ({condition_of(row)})" for row, f1 in weak]
        sentences.append(
            f"Caution: the trained leaves themselves reach only {'; '.join(named)}; "
            "where leaves are not learned, failing on hypernyms says little."
        )
    return sentences


def condition_of(row: Row) -> str:
    """A condition with its setup, where there are several."""
    return ", ".join(filter(None, (row["name"], row["setup"])))


def held(contrasts: list[Contrast]) -> str:
    """How the confirmatory contrasts were decided, in one sentence."""
    counts = {decision: sum(c.f1.decision is decision for c in contrasts) for decision in Decision}
    above, n = counts.pop(Decision.ABOVE), len(contrasts)
    if above == n:
        least = min(c.f1.estimate for c in contrasts)
        return f"All {n} contrasts fixed in advance hold; the smallest difference is {least:.1f} points."
    others = ", ".join(f"{count} {decision}" for decision, count in counts.items() if count)
    return f"{above} of the {n} contrasts fixed in advance {'holds' if above == 1 else 'hold'} (the others: {others})."


GROUPS = {"leaf": "Leaves", "seen": "Seen hypernyms", "heldout": "Held-out hypernyms"}


def main_result(page: Page) -> Data:
    """The headline's scores, and details."""
    shown = ", ".join(dict.fromkeys(page.study.names.withheld(cell.ablation) for cell in page.shown["cell"]))
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
    means = means[means["group"] == "heldout"]
    only = "; ".join(dict.fromkeys(means.loc[means["basis"] != OVER_BOTH, "basis"]))
    intervals = {row["cell"]: (row["low"], row["high"]) for row in means.to_dict("records")}
    columns = [
        SETUP,
        Column("condition", "name", "text"),
        Column("runs", "n", digits=0),
        Column("leaves F1", spread("leaf", "macro_f1"), "range"),
        Column("held-out F1", spread("heldout", "macro_f1"), "range"),
        Column("95 % interval", lambda row: intervals.get(row["cell"]), "between"),
        Column("held-out AUC", spread("heldout", "auc"), "range", digits=2),
        *(Column(name, score("heldout", f"{name}_f1")) for name in ("permuted", "coin", "majority")),
    ]
    caption = (
        "Test scores: mean over runs, lowest–highest where runs differ; F1 in 0–100. The interval of held-out F1 is "
        f"over {only or OVER_BOTH}."
    )
    return table("scores", caption, page.cells, columns, "results.csv")


def _has(cells: list[Row], group: str) -> bool:
    return any(row[group]["n_categories"]["mean"] >= 1 for row in cells)


def _details(page: Page, group: str) -> Table:
    def both(first: str, second: str) -> Callable[[Row], tuple[float, float]]:
        return lambda row: (row[group][first]["mean"], row[group][second]["mean"])

    columns = [
        SETUP,
        Column("condition", "name", "text"),
        Column("categories", score(group, "n_categories"), digits=0),
        Column("questions, yes / no", both("n_yes", "n_no"), "counts", digits=0),
        Column("F1", score(group, "macro_f1")),
        Column("F1, ≥ 10", both("macro_f1_min10", "n_categories_min10"), "bracketed", bracket_digits=0),
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


FILE = "contrasts.csv"


def contrasts(page: Page) -> Data:
    """Tables of differences; each can be empty."""
    known = page.study.contrasts
    parts = {
        (kind, status): known[(known["kind"] == kind) & (known["status"] == status)]
        for kind, status in (("contrast", CONFIRMATORY), ("chance", CONFIRMATORY), ("contrast", EXPLORATORY))
    }
    return {
        "confirmatory": _contrasts("contrasts", _CONFIRMATORY, parts["contrast", CONFIRMATORY]),
        "chance": _contrasts("chance", _CHANCE, parts["chance", CONFIRMATORY]),
        "exploratory": _contrasts("exploratory", _EXPLORATORY, parts["contrast", EXPLORATORY]),
        "robustness": _robustness(page),
        "sensitivity": _sensitivity(page),
        "items": _items(page),
        "margin": EQUIVALENCE_MARGIN,
    }


_CONFIRMATORY = (
    "Confirmatory: difference in held-out macro F1 (points) with two 95 % intervals, that of a model with crossed "
    "effects of seeds and hypernyms, and that of a bootstrap that draws both. p of no difference and of equivalence "
    f"(two one-sided tests at ±{EQUIVALENCE_MARGIN:g} points): the test planned, here of no difference and in "
    "the next table of equivalence, is Holm-adjusted over both tables, the other is not; the verdict follows. "
    "“SDs”: the difference in standard deviations of the first side’s single values, one seed and hypernym each. "
    "“Detectable”: what a study of this size would show in four of five repetitions. “Worst seeds”: the lowest seed "
    "of the first minus the highest of the second."
)
_CHANCE = "Confirmatory: held-out macro F1 minus the same runs’ permuted answers, in the same way and the same family."
_EXPLORATORY = "Exploratory: contrasts that were not fixed in advance, in the same way, p not adjusted."


def _contrasts(name: str, caption: str, rows: pd.DataFrame) -> Table:
    def adjusted(name: str) -> Callable[[Row], float]:
        return lambda row: row[name] if missing(row[f"{name}_holm"]) else row[f"{name}_holm"]

    columns = [
        SETUP,
        CONTRAST,
        GAP,
        INTERVAL,
        BOOTSTRAP,
        Column("df", "df"),
        Column("p", adjusted("p"), "p"),
        Column("p of equivalence", adjusted("tost_p"), "p"),
        Column("SDs", "standardised", digits=2, sign=True),
        Column("detectable", "detectable"),
        Column("worst seeds", "worst", sign=True),
        BASIS,
        Column("verdict", lambda row: (row["verdict"], row["decision"] == Decision.ABOVE), "verdict"),
    ]
    return table(name, caption, rows.to_dict("records"), columns, FILE)


def _robustness(page: Page) -> Table:
    columns = [
        SETUP,
        CONTRAST,
        Column("check", "check", "text"),
        GAP,
        INTERVAL,
        Column("hypernyms", "n_hypernyms", digits=0),
        Column("verdict", "verdict", "prose"),
    ]
    caption = (
        "The confirmatory contrasts looked at in other ways, which decide nothing. “Leaves resampled”: hypernyms share "
        "leaves, so leaves and seeds are drawn and F1 is counted anew. “Depth 1”: only hypernyms directly above "
        "leaves, which are not nested in each other."
    )
    return table("robustness", caption, page.study.robustness.to_dict("records"), columns, "robustness.csv")


def _sensitivity(page: Page) -> Table:
    columns = [
        SETUP,
        CONTRAST,
        Column("measure", "measure", "text"),
        Column("above", "above_mean", digits=2, sign=True),
        Column("below", "below_mean", digits=2, sign=True),
        Column("difference", "difference", digits=2, sign=True),
        Column("95 % interval", ("low", "high"), "between", digits=2, sign=True),
        Column("p", lambda row: row["p"] if missing(row["p_holm"]) else row["p_holm"], "p"),
        Column("verdict", lambda row: (row["verdict"], row["decision"] == Decision.ABOVE), "verdict"),
        Column("status", "status", "text"),
    ]
    caption = (
        "The contrasts fixed in advance by measures that tell sensitivity from bias, over seeds and hypernyms as F1 "
        "is. AUC of p(yes) and d′ do not move with a bias to one answer; the criterion is that bias, above 0 where "
        "“no” is preferred. p of AUC and of d′ are Holm-adjusted, each over its own family of contrasts; F1 is the "
        "measure fixed first, and its decisions stand. Knowing nothing is an AUC of .5 and a d′ of 0."
    )
    return table("sensitivity", caption, page.study.sensitivity.to_dict("records"), columns, "sensitivity.csv")


def _items(page: Page) -> Table:
    """The fixed effects of the models of answers; a model that was not fitted is a row that says why."""
    rows = page.study.items[page.study.items["group"].isna()]
    columns = [
        SETUP,
        CONTRAST,
        Column("effect", lambda row: row["note"] if missing(row["effect"]) else row["effect"], "text"),
        Column("log odds", ("estimate", "low", "high"), "interval", digits=2, sign=True),
        Column("t", "z", digits=2),
        Column("p", "p", "p"),
        Column("alone", lambda row: "" if missing(row["alone"]) else row["alone"], "text"),
        Column("verdict", lambda row: "" if missing(row["verdict"]) else row["verdict"], "prose"),
        Column("answers", "n", digits=0),
    ]
    caption = (
        "Logistic models of single answers: said yes ~ gold × condition, with crossed random effects of hypernym, "
        "label leaf, image, run and (where several) label map. Sensitivity is the slope of gold in log odds, some 1.7 "
        "per unit of d′; the criterion the intercept with its sign turned. Tests have two degrees of freedom less than "
        "there are runs. “Alone” is what the model by itself would say, and the contrast above decides."
    )
    return table("item-model", caption, rows.to_dict("records"), columns, "item_model.csv")


YARDSTICK_ROWS = [
    {"name": "majority answer", "paper_leaf": MAJORITY["leaf"], "paper_heldout": MAJORITY["heldout"]},
    {"name": "fair coin", "paper_heldout": COIN},
]


def beside_paper(page: Page) -> Data:
    """Sentences and table; the paper's cells that were not run here stay empty."""
    rows = [*map(_row, page.pairs), *YARDSTICK_ROWS]
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
