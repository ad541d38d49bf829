"""Which cells are compared on held-out hypernyms; how, is the business of `statistics.difference` alone.

Confirmatory, that is fixed before any result: pretrained original and within, each minus the largest baseline, minus
random-init, minus pretrained across, each with the test of no difference; and that across and random-init are at
chance, with the test of equivalence. These tests are the one family over which Holm's adjustment is made, and decisions
follow from the adjusted p. Each of them is made again on measures that a bias to one answer does not move, AUC and d',
each adjusted over a family of the same make, and on the criterion, which is that bias. All else is exploratory and not
adjusted: original minus within, controls, another encoder or LM, the swap. The runs are those of the headline.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, NamedTuple

import pandas as pd
from scipy.special import ndtri

from analysis.cells import Cell, Names, seed_units, shown_runs
from analysis.statistics.difference import Difference, adjusted, difference, seeds_by_hypernyms
from analysis.words import BASELINES, YARDSTICKS

CONFIRMATORY, EXPLORATORY = "confirmatory", "exploratory"  # fixed before any result, or not
F1, AUC, D_PRIME, CRITERION = "F1", "AUC", "d′", "criterion"
SCORES = {F1: "f1", AUC: "auc", D_PRIME: "d_prime", CRITERION: "criterion"}  # measure -> column of `Cells.rows`
COLUMNS = [
    *("status", "kind", "setup", "above", "below", "difference", "low", "high", "boot_low", "boot_high", "worst"),
    *("se", "df", "p", "p_holm", "tost_p", "tost_p_holm", "decision", "verdict", "basis", "paired"),
    *("standardised", "detectable", "above_f1", "below_f1", "above_auc", "below_auc"),
    *("auc_difference", "auc_low", "auc_high", "auc_p", "auc_verdict"),
    *("n_hypernyms", "n_seeds_above", "n_seeds_below"),
]
MEASURE_COLUMNS = [
    *("status", "kind", "setup", "above", "below", "measure", "above_mean", "below_mean", "difference", "low", "high"),
    *("se", "df", "p", "p_holm", "tost_p", "tost_p_holm", "margin", "decision", "verdict", "basis", "paired"),
]


class Compared(NamedTuple):
    """Two sides by one measure: their difference, and the mean of either (over seeds and shared hypernyms)."""

    difference: Difference
    means: tuple[float, float]


@dataclass(frozen=True)
class Contrast:
    """One comparison: `one` less `other`, a cell, a column of `BASELINES`, or a name of `YARDSTICKS`.

    Attributes:
        status: "confirmatory" or "exploratory".
        kind: contrast; chance (a cell that should be at chance against its own answers permuted); yardstick; setup
            (another encoder, LM or training); swap (control less swap).
        setup: What tells the setup of `one` apart, in words; of a comparison of setups, both.
        above: The first side in words.
        below: The other side in words.
        by: Measure -> the comparison by it. F1 always, in points; AUC but of exploratory baselines; d' and, between
            cells, the criterion of confirmatory ones. A baseline has an AUC of .5 and a d' of 0.
        other_auc: AUC of a yardstick less .5.
    """

    status: str
    kind: str
    one: Cell
    other: Cell | str
    setup: str
    above: str
    below: str
    by: Mapping[str, Compared]
    other_auc: Difference | None = None

    @property
    def f1(self) -> Difference:
        """The difference of held-out macro F1, in points."""
        return self.by[F1].difference

    @property
    def means(self) -> tuple[float, float]:
        """F1 of either side."""
        return self.by[F1].means

    @property
    def auc_means(self) -> tuple[float, float]:
        """AUC of either side; missing where it was not compared."""
        return self.by[AUC].means if AUC in self.by else (float("nan"), float("nan"))

    @property
    def row(self) -> dict[str, Any]:
        """One row of `contrast_table`."""
        d = self.f1
        row: dict[str, Any] = {"status": self.status, "kind": self.kind, "setup": self.setup}
        row |= {"above": self.above, "below": self.below}
        row |= {"difference": d.estimate, "p_holm": d.p_adjusted, "tost_p": d.p_equivalence}
        row |= {"tost_p_holm": d.p_equivalence_adjusted, "decision": str(d.decision)}
        row |= {"n_seeds_above": d.n_seeds[0], "n_seeds_below": d.n_seeds[1]}
        row |= dict(zip(("above_f1", "below_f1"), self.means, strict=True))
        row |= dict(zip(("above_auc", "below_auc"), self.auc_means, strict=True))
        row |= {name: getattr(d, name) for name in COLUMNS if name not in row and hasattr(d, name)}
        if AUC not in self.by:
            return row
        auc = self.by[AUC].difference
        ends = {"auc_difference": auc.estimate, "auc_low": auc.low, "auc_high": auc.high, "auc_p": auc.p}
        return row | ends | {"auc_verdict": auc.verdict}


def contrast_table(contrasts: list[Contrast]) -> pd.DataFrame:
    """One row per comparison, see `COLUMNS` and `Difference`; n_seeds_below counts the runs' own for a baseline.

    difference, low, high (95 %), boot_low, boot_high and worst in points; p_holm, tost_p_holm: the test a
    confirmatory row was planned for, adjusted over all of these; decision (above | below | equivalent | undecided) and
    verdict follow from the adjusted p where there is one. auc_*: the same of AUC (0..1).
    """
    return pd.DataFrame([contrast.row for contrast in contrasts], columns=COLUMNS)


def measure_table(contrasts: list[Contrast]) -> pd.DataFrame:
    """The confirmatory contrasts by AUC, d' and criterion, one row each, see `MEASURE_COLUMNS`.

    The criterion is exploratory and not adjusted: nothing was said in advance of bias.
    """
    rows = []
    for c in (c for c in contrasts if c.status == CONFIRMATORY):
        for measure, (d, means) in c.by.items():
            row: dict[str, Any] = {"status": EXPLORATORY if measure == CRITERION else CONFIRMATORY, "kind": c.kind}
            row |= {"setup": c.setup, "above": c.above, "below": c.below, "measure": measure}
            row |= {"above_mean": means[0], "below_mean": means[1], "difference": d.estimate}
            row |= {"p_holm": d.p_adjusted, "tost_p": d.p_equivalence, "tost_p_holm": d.p_equivalence_adjusted}
            if measure != F1:
                rows.append(row | {name: getattr(d, name) for name in MEASURE_COLUMNS if name not in row})
    return pd.DataFrame(rows, columns=MEASURE_COLUMNS)


def signal_detection(categories: pd.DataFrame) -> pd.DataFrame:
    """Sensitivity d' and criterion of each row of categories, as columns d_prime and criterion.

    d' = z(hits) - z(false alarms) and c = -(z(hits) + z(false alarms)) / 2, above 0 where "no" is preferred. A half is
    added to each count and one to its total, so that shares of 0 and 1 are finite (Hautus 1995). Missing where only one
    answer is right.
    """
    yes, no = (categories[name].where(categories[name] > 0) for name in ("n_yes", "n_no"))
    hits = (categories["said_yes"] + categories["right"] - categories["n_no"]) / 2
    z = [
        pd.Series(ndtri((n + 0.5) / (of + 1)), yes.index)
        for n, of in ((hits, yes), (categories["said_yes"] - hits, no))
    ]
    return categories.assign(d_prime=z[0] - z[1], criterion=-(z[0] + z[1]) / 2)


def all_contrasts(runs: pd.DataFrame, categories: pd.DataFrame, yardsticks: pd.DataFrame) -> list[Contrast]:
    """Every comparison of the headline, confirmatory ones first; cells that were not run give none.

    Args:
        runs: Labelled runs.
        categories: Run x category table with baselines.
        yardsticks: Controls, one row per run, yardstick, group and category; may be empty.
    """
    cells = Cells(runs, categories)
    confirmatory = [*_fixed(cells), *_chance(cells)]
    planned = ["p_equivalence" if contrast.kind == "chance" else "p" for contrast in confirmatory]
    for measure in (F1, AUC, D_PRIME):
        family = adjusted([c.by[measure].difference for c in confirmatory], planned)
        confirmatory = [
            replace(c, by={**c.by, measure: c.by[measure]._replace(difference=difference)})
            for c, difference in zip(confirmatory, family, strict=True)
        ]
    return [*confirmatory, *_not_fixed(cells), *_against_yardsticks(cells, yardsticks), *_setups(cells), *_swaps(cells)]


class Cells:
    """The headline's cells with held-out test questions, in the order of `runs`, and their scores.

    rows: cell -> columns run_id, seed, category, f1, auc, d_prime, criterion and baselines.
    """

    def __init__(self, runs: pd.DataFrame, categories: pd.DataFrame) -> None:
        shown = shown_runs(runs)
        self.names = Names(runs["cell"], shown["cell"])
        about = shown[["cell"]].assign(seed=seed_units(shown))
        rows = signal_detection(_heldout(categories)).merge(about, left_on="run_id", right_index=True)
        known = dict(iter(rows.groupby("cell", sort=False)))
        self.rows: dict[Cell, pd.DataFrame] = {cell: known[cell] for cell in shown["cell"].unique() if cell in known}

    def scores(self, cell: Cell, value: str = "f1") -> pd.DataFrame:
        """Seeds x hypernyms of one score."""
        return seeds_by_hypernyms(self.rows[cell], value)

    def between(self, status: str, kind: str, one: Cell, other: Cell) -> Contrast:
        """A cell less another one."""
        name, below, setup = self.names.condition(one), self.names.condition(other), self.names.setup(one.setup)
        if one.setup != other.setup:
            theirs = self.names.setup(other.setup)
            name, below, setup = f"{name}, {setup}", f"{below}, {theirs}", f"{setup} against {theirs}"
        chosen = SCORES if status == CONFIRMATORY else {F1: "f1", AUC: "auc"}
        sides = {measure: (self.scores(one, score), self.scores(other, score)) for measure, score in chosen.items()}
        return Contrast(status, kind, one, other, setup, name, below, _by(sides))

    def less_baseline(self, status: str, kind: str, cell: Cell, column: str, below: str) -> Contrast:
        """A cell less a baseline of its own."""
        sides = {F1: (self.scores(cell), self.scores(cell, column))}
        # Answers that know nothing have an AUC of .5 and a d' of 0, whatever their bias.
        for measure, blind in ((AUC, 0.5), (D_PRIME, 0.0)) if status == CONFIRMATORY else ():
            scores = self.scores(cell, SCORES[measure])
            sides[measure] = (scores, scores * 0 + blind)
        words = (self.names.setup(cell.setup), self.names.condition(cell), below)
        return Contrast(status, kind, cell, column, *words, _by(sides))

    def less_largest(self, status: str, cell: Cell) -> Contrast:
        """A cell less the largest of its baselines."""
        column = str(self.rows[cell][list(BASELINES)].mean().idxmax())
        return self.less_baseline(status, "contrast", cell, column, f"largest baseline ({BASELINES[column]})")

    def counted(self) -> list[Cell]:
        """Cells of the setups that have an across or a random-init cell; all where none has one."""
        setups = {cell.setup for cell in self.rows if not cell.pretrained or cell.labels.shuffle == "across"}
        return [cell for cell in self.rows if cell.setup in setups or not setups]


def _heldout(categories: pd.DataFrame) -> pd.DataFrame:
    return categories[(categories["split"] == "test") & (categories["group"] == "heldout")]


Sides = tuple[pd.DataFrame, pd.DataFrame]


def _by(sides: Mapping[str, Sides]) -> dict[str, Compared]:
    units = {F1: "points"}
    return {
        measure: Compared(difference(*own, unit=units.get(measure, measure)), _means(own))
        for measure, own in sides.items()
    }


def _means(sides: Sides) -> tuple[float, float]:
    """Mean of either side over seeds and the hypernyms that both have."""
    shared = sides[0].columns.intersection(sides[1].columns)
    one, other = (float(side[shared].mean(axis=1).mean()) for side in sides)
    return one, other


def _fixed(cells: Cells) -> Iterator[Contrast]:
    """Random-init within, where it was not run, is replaced by random-init original."""
    counted = cells.counted()
    for shuffle in ("original", "within"):
        for cell in counted:
            if not cell.pretrained or cell.labels.shuffle != shuffle:
                continue
            same = [other for other in counted if other.setup == cell.setup]
            random = [other for other in same if not other.pretrained and other.labels.shuffle in ("original", shuffle)]
            random.sort(key=lambda other: (other.labels != cell.labels, other.labels.shuffle != "original"))
            across = [other for other in same if other.pretrained and other.labels.shuffle == "across"]
            yield cells.less_largest(CONFIRMATORY, cell)
            yield from (cells.between(CONFIRMATORY, "contrast", cell, other) for other in [*random[:1], *across])


def _chance(cells: Cells) -> Iterator[Contrast]:
    for cell in cells.rows:
        if not cell.pretrained or cell.labels.shuffle == "across":
            column = "permuted_f1"
            yield cells.less_baseline(CONFIRMATORY, "chance", cell, column, BASELINES[column])


def _not_fixed(cells: Cells) -> Iterator[Contrast]:
    """Pretrained original minus within; and the setups that are not counted, each pretrained cell minus a baseline."""
    counted = set(cells.counted())
    for cell in cells.rows:
        if cell.pretrained and cell not in counted:
            yield cells.less_largest(EXPLORATORY, cell)
    for cell, other in permutations(cells.rows, 2):
        same = other.setup == cell.setup and cell.pretrained and other.pretrained
        if same and (cell.labels.shuffle, other.labels.shuffle) == ("original", "within"):
            yield cells.between(EXPLORATORY, "contrast", cell, other)


def _against_yardsticks(cells: Cells, yardsticks: pd.DataFrame) -> Iterator[Contrast]:
    if yardsticks.empty:
        return
    columns = {"f1": "other_f1", "auc": "other_auc"}
    heldout = _heldout(yardsticks)[["run_id", "yardstick", "category", *columns]].rename(columns=columns)
    known = dict(iter(heldout.groupby("yardstick")))
    for cell, own in cells.rows.items():
        for name in YARDSTICKS:
            rows = own.merge(known[name], on=["run_id", "category"]) if name in known else own.iloc[:0]
            if rows.empty:
                continue
            sides = {
                measure: (seeds_by_hypernyms(rows, SCORES[measure]), seeds_by_hypernyms(rows, other))
                for measure, other in ((F1, "other_f1"), (AUC, "other_auc"))
            }
            words = (cells.names.setup(cell.setup), cells.names.condition(cell), YARDSTICKS[name])
            above_chance = difference(sides[AUC][1] - 0.5, unit="AUC")
            yield Contrast(EXPLORATORY, "yardstick", cell, name, *words, _by(sides), above_chance)


def _setups(cells: Cells) -> Iterator[Contrast]:
    """Every cell of the first setup minus the same of the others with the same hypernyms asked about (figure 10)."""
    first = next(iter(cells.rows)).setup if cells.rows else None
    for cell, other in permutations(cells.rows, 2):
        same = (cell.labels, cell.lm_init) == (other.labels, other.lm_init)
        asked = (cell.setup.asked, cell.setup.dataset) == (other.setup.asked, other.setup.dataset)
        if cell.setup == first and other.setup != first and same and asked:
            yield cells.between(EXPLORATORY, "setup", cell, other)


def _swaps(cells: Cells) -> Iterator[Contrast]:
    """The control minus the hypernym-level swap."""
    for cell, other in permutations(cells.rows, 2):
        same = (cell.setup, cell.lm_init) == (other.setup, other.lm_init)
        if same and (cell.labels.shuffle, other.labels.shuffle) == ("original", "swap"):
            yield cells.between(EXPLORATORY, "swap", cell, other)
