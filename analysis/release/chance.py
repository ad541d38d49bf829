"""Chance in the release: the majority answer, what the paper calls above it (section 4.2), and Table 5's errors.

The majority answer is taken per hypernym and on the questions that the run was asked: its mean moves from 39 to 54
between levels of ablation, so no single line stands for chance.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd

from analysis.published import COIN, MORE_CELLS, Published
from analysis.release.claims import Claim, Found, Said, Statement, check
from analysis.release.files import MACRO, AbsentError, find, read_f1
from analysis.release.means import Removed, cell_words, fields_of, mean_and_sd
from analysis.release.models import fit
from analysis.release.scores import HELDOUT, Release
from analysis.statistics.difference import Decision, Difference, adjusted, difference, seeds_by_hypernyms
from analysis.words import interval, number, p_text, points
from cachegen.things.names import HYPERNYMS

GUESSES = {"hypernyms": f"{MACRO}/all_hyp_guess_f1_scores.csv", "leaves": f"{MACRO}/all_leaf_guess_f1_scores.csv"}
RUNS = {"hypernyms": "test_hyp", "leaves": "test"}  # original labels, 100 % ablation
LINE = Said("Figure 3", "The dashed line is chance.")
SHARE = Said("Section 4", "The majority answer is what chance means.")


def chance_claims(release: Release) -> list[Claim]:
    """Macro F1 of the majority answer at 100 % ablation, in points."""
    majority = {
        kind: Statement(f"majority/{kind}", paper, 1, f"majority answer on {kind}, F1", SHARE)
        for kind, paper in (("hypernyms", 39.2), ("leaves", 38.9))
    }
    line = Statement("fig3/dashed_line", 47.1, 1, "height of the dashed line, F1", LINE)
    return [
        *(claim for kind, each in majority.items() for claim in check([each], partial(_guess, release, kind))),
        *check([line], lambda: _dashed_line(release)),
    ]


def _majority(release: Release, kind: str, run: str) -> pd.Series:
    """Macro F1 of the majority answer by category, in 0..1, on the questions of one condition."""
    table = read_f1(find(release.root, GUESSES[kind]), HYPERNYMS if kind == "hypernyms" else None)
    if run not in table.index:
        raise AbsentError(f"no run {run} in {GUESSES[kind]}")
    return table.T[run].dropna().astype(float)


def _guess(release: Release, kind: str) -> list[Found]:
    n, mean, _ = mean_and_sd(_majority(release, kind, RUNS[kind]))
    return [Found(100 * mean, n)]


def _dashed_line(release: Release) -> Sequence[Found]:
    (found,) = _guess(release, "hypernyms")
    return [found._replace(note="The line stands for chance: the majority answer's macro F1 is what it should show.")]


# Section 4.2: one row for all levels of an LM, since the paper says it of all of them at once.
LEVELS = {"Random": ((10, 30, 50, 70, 90), "pct"), "Systematic": ((10, 20, 30, 40), "cat")}
KINDS = {
    "Random": "However many hypernym questions were withheld at random, a pretrained LM answers them above chance.",
    "Systematic": "However many hypernyms were removed altogether, a pretrained LM stays above chance.",
}
NULLS = (
    ("random-init", {"random_lm": True, "shuffle": "Original"}, "", "random-init LM"),
    ("across", {"random_lm": False, "shuffle": "Across-category"}, "_shuffled", "across-category labels"),
)
LMS = ("Qwen3-0.6B", "Qwen3-1.7B")
FIELDS = {"encoder": "DINOv2", "random_lm": False, "shuffle": "Original"}


def above_chance_claims(release: Release, removed: Removed) -> list[Claim]:
    """Held-out F1 less the majority answer's on the same questions (points), over seeds and hypernyms as samples.

    A row of several levels has the smallest difference, and agrees if at every level it is above zero (Holm over the
    levels). `removed`: Table 4, for the rows of the removed hypernyms only.
    """
    claims = []
    for lm in dict.fromkeys((*LMS, *release.lms(HELDOUT, ablation="Full", **FIELDS))):
        figure = "Figure 10" if lm.startswith("Llama") else "Figure 4"
        said = {kind: Said(f"Section 4.2, {figure}", sentence) for kind, sentence in KINDS.items()}
        full = "all hypernym questions withheld"
        rows: list[tuple[str, str, str, Callable[[Release, str], list[Found]]]] = [
            ("random", f"above the majority answer, random ablation, {lm}", "Random", partial(_above, kind="Random")),
            ("coin", f"above a fair coin, {full}, {lm}", "Random", _above_coin),
        ]
        if lm in LMS or lm in release.lms(HELDOUT, ablation="Systematic", **FIELDS):
            above = partial(_above, kind="Systematic")
            rows += [
                ("systematic", f"above the majority answer, systematic ablation, {lm}", "Systematic", above),
                (
                    "removed",
                    f"above the majority answer on removed hypernyms only, {lm}",
                    "Systematic",
                    partial(above, only=removed),
                ),
            ]
        for name, what, kind, test in rows:
            other = name in ("coin", "removed")
            row = Statement(f"above_chance/{lm}/{name}".lower(), "> 0", 1, what, said[kind], other)
            claims += check([row], partial(test, release, lm))
        for null, fields, suffix, words in NULLS if lm in LMS else ():
            about = Said("Section 4.2", f"{words[:1].upper()}{words[1:]}: hypernym answers are about chance.")
            what = f"above the majority answer, {words}, {lm}"
            row = Statement(f"above_chance/{lm}/{null}".lower(), None, 1, what, about)
            claims += check([row], partial(_beside_chance, release, lm, fields, suffix))
    return claims


def _gains(rows: pd.DataFrame, chance: pd.Series | float) -> pd.DataFrame:
    """Columns gain (points above `chance`, by category where it is a series), seed, category."""
    less = chance if isinstance(chance, float) else rows["category"].map(chance)
    return rows.assign(gain=100 * (rows["f1"] - less)).dropna(subset="gain")[["gain", "seed", "category"]]


def _tested(gains: pd.DataFrame) -> Difference:
    if gains["seed"].nunique() < 2:
        raise AbsentError("only runs of one seed, where the test needs several")
    return difference(seeds_by_hypernyms(gains, "gain"))


def _above(release: Release, lm: str, kind: str, only: Removed | None = None) -> list[Found]:
    levels, unit = LEVELS[kind]
    found: dict[str, Difference] = {}
    n, weighted = 0, False
    for amount in (*levels, *([100] if kind == "Random" else [])):
        fields = {"lm": lm, "ablation": "Full" if amount == 100 else kind, "amount": amount, **FIELDS}
        run = RUNS["hypernyms"] + (f"_ablated_{amount}{unit}" if amount < 100 else "")
        try:
            rows, chance = release.runs(HELDOUT, **fields), _majority(release, "hypernyms", run)
        except AbsentError:
            continue
        if only is not None:
            rows = rows[rows["category"].isin(frozenset(only.get(amount, ())))]
        if rows.empty:
            continue
        gains = _gains(rows, chance)
        found[f"{amount} {'%' if kind == 'Random' else 'removed'}"] = _tested(gains)
        n, weighted = n + len(gains), weighted or release.rest_on_weighted(rows)
    if not found:
        raise AbsentError(f"no level of {kind.lower()} ablation of {lm} with its majority answer")
    family = adjusted(list(found.values()), ["p"] * len(found))
    found = dict(zip(found, family, strict=True))
    above = {level: each.decision is Decision.ABOVE for level, each in found.items()}
    told = "; ".join(
        f"{level}: {number(each.estimate, sign=True)} "
        f"({number(each.low, sign=True)} to {number(each.high, sign=True)}, {p_text(each.p_adjusted)})"
        for level, each in found.items()
    )
    note = f"By level, with 95 % intervals over seeds and hypernyms, p by Holm: {told}."
    if lacking := [level for level, shown in above.items() if not shown]:
        note = f"Not shown above chance at {', '.join(lacking)}. {note}"
    return [Found(min(each.estimate for each in found.values()), n, note, all(above.values()), weighted)]


def _above_coin(release: Release, lm: str) -> list[Found]:
    rows = release.runs(HELDOUT, lm=lm, ablation="Full", **FIELDS)
    gains = _gains(rows, COIN / 100)
    tested = _tested(gains)
    note = (
        f"A fair coin has {COIN} on the paper's test counts, more than the majority answer; "
        f"{interval(tested.low, tested.high)}, {p_text(tested.p)}."
    )
    above = tested.decision is Decision.ABOVE
    return [Found(tested.estimate, len(gains), note, above, release.rest_on_weighted(rows))]


def _beside_chance(release: Release, lm: str, fields: dict[str, object], suffix: str) -> list[Found]:
    """Claims of "about chance": no number of the paper to compare with, so the difference and its interval are told."""
    rows = release.runs(HELDOUT, lm=lm, encoder="DINOv2", ablation="Full", **fields)
    gains = _gains(rows, _majority(release, "hypernyms", RUNS["hypernyms"] + suffix))
    tested = _tested(gains)
    coin = points(100 * mean_and_sd(rows["f1"])[1] - COIN)
    note = f"{interval(tested.low, tested.high)}, {p_text(tested.p)}; {coin} beside a fair coin ({COIN})."
    return [Found(tested.estimate, len(gains), note)]


# Standard errors that Table 5 prints; of its other rows we have no record, so theirs are recomputed without a verdict.
TABLE_5 = {"across": 0.6}
MAJORITY_SE = 0.9
ERRORS = Said("Table 5", "Standard errors of Qwen3-8B’s held-out F1.")


def table5_claims(release: Release) -> list[Claim]:
    """Standard errors (points) of Table 5: the SD over seeds x hypernyms by the root of their number."""
    claims = []
    for cell in (cell for cell in MORE_CELLS if cell.lm == "Qwen3-8B"):
        row = Statement(
            f"table5/se/{cell.shuffle}", TABLE_5.get(cell.shuffle), 1, f"standard error, {cell_words(cell)}", ERRORS
        )
        claims += check([row], partial(_error, release, cell))
    row = Statement("table5/se/majority", MAJORITY_SE, 1, "standard error, majority answer", ERRORS)
    return [*claims, *check([row], lambda: _majority_error(release))]


def _error(release: Release, cell: Published) -> list[Found]:
    rows = release.runs(HELDOUT, **fields_of(cell))
    n, _, sd = mean_and_sd(rows["f1"])
    note = "Takes seeds × hypernyms as independent."
    if rows["seed"].nunique() > 1:
        mean = fit("f1 ~ 1 + (1 | seed) + (1 | category)", rows).effect("Intercept")
        note += f" With seeds and hypernyms as samples {100 * mean.se:.2f}."
    return [Found(100 * sd / math.sqrt(n), n, note)]


def _majority_error(release: Release) -> list[Found]:
    n, _, sd = mean_and_sd(_majority(release, "hypernyms", RUNS["hypernyms"]))
    se = 100 * sd / math.sqrt(n)
    note = f"SD over {n} hypernyms by √{n}; 1.96 of them, half a 95 % interval, are {1.96 * se:.2f}."
    return [Found(se, n, note)]
