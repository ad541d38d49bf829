"""Do the confirmatory contrasts depend on hypernyms being independent? Two looks that do not take them to be so.

- Leaves resampled: hypernyms share leaves (a crow is a bird and an animal), so leaves are drawn with all their
  questions, seeds beside them, and F1 is counted anew from the drawn ones. A baseline is kept at its value.
- Depth 1: only hypernyms directly above leaves, which are not nested in each other.

Both go through `statistics.difference.judged` or `difference`, and decide nothing by themselves.

Legend: Q questions, L leaves, H hypernyms, S seeds, B draws.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells import Cell
from analysis.statistics.contrasts import CONFIRMATORY, EXPLORATORY, Cells, Contrast
from analysis.statistics.difference import Difference, difference, judged
from cachegen.common.rng import generator
from engine.runs.f1 import macro_f1

Array = NDArray[np.float64]

DRAWS = 500
LEAVES, DEPTH = "leaves resampled", "depth 1"
COLUMNS = [
    *("status", "check", "setup", "above", "below", "difference", "low", "high", "p", "n_hypernyms", "n_leaves"),
    *("agrees", "verdict"),
]


@dataclass(frozen=True, eq=False)
class HeldoutQuestions:
    """Held-out test questions (Q,): label leaf and hypernym (places in `leaves`, `hypernyms`), image, right answer."""

    leaves: pd.Index
    hypernyms: pd.Index
    leaf: NDArray[np.int64]
    hypernym: NDArray[np.int64]
    image: NDArray[np.str_]
    gold: NDArray[np.bool_]

    @classmethod
    def of(cls, questions: pd.DataFrame) -> "HeldoutQuestions":
        """Of a table of held-out test questions."""
        leaf_Q, leaves = pd.factorize(questions["label_leaf"].astype(str), sort=True)
        hypernym_Q, hypernyms = pd.factorize(questions["category"].astype(str), sort=True)
        image_Q, gold_Q = questions["key"].to_numpy(str), questions["answer"].to_numpy(bool)
        return cls(pd.Index(leaves), pd.Index(hypernyms), leaf_Q, hypernym_Q, image_Q, gold_Q)

    def counts(self, said_Q: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Questions by leaf, hypernym, right and given answer: (L, H, 2, 2)."""
        shape = (len(self.leaves), len(self.hypernyms), 2, 2)
        place_Q = ((self.leaf * shape[1] + self.hypernym) * 2 + self.gold) * 2 + said_Q
        return np.bincount(place_Q, minlength=int(np.prod(shape))).reshape(shape)


Answers = Mapping[str, tuple[HeldoutQuestions, NDArray[np.bool_]]]  # run_id -> what was asked, and where yes was said


def robustness_table(
    contrasts: list[Contrast], runs: pd.DataFrame, categories: pd.DataFrame, answers: Answers, depths: pd.DataFrame
) -> pd.DataFrame:
    """One row per confirmatory contrast and check, see `COLUMNS`.

    agrees: the check by itself would decide as the contrast was decided; n_leaves: missing for depth 1.
    """
    cells = Cells(runs, categories)
    known = {cell: _Draws(rows, answers) for cell, rows in cells.rows.items() if set(rows["run_id"]) <= set(answers)}
    first = set(depths.loc[depths["depth"] == 1, "category"]) if len(depths) else set()
    rows = []
    for c in contrasts:
        if c.status == CONFIRMATORY and c.kind == "contrast":
            rows += [_row(c, check, found, n) for check, found, n in _checks(c, cells, known, first)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _checks(
    c: Contrast, cells: Cells, known: Mapping[Cell, "_Draws"], first: set[str]
) -> Iterator[tuple[str, Difference, int | None]]:
    one = cells.scores(c.one)
    other = cells.scores(c.other) if isinstance(c.other, Cell) else cells.scores(c.one, c.other)
    if c.one in known and (not isinstance(c.other, Cell) or c.other in known):
        mine = known[c.one]
        draws_B = mine.means("seed")
        if isinstance(c.other, Cell):
            draws_B = draws_B - known[c.other].means("seed" if c.f1.paired else "other seed")
        found = judged(c.f1.estimate, float(np.std(draws_B, ddof=1)), c.f1.df, basis=c.f1.basis)
        yield LEAVES, replace(found, n_hypernyms=c.f1.n_hypernyms), len(mine.leaves)
    part = one.columns.intersection(other.columns)
    kept = [name for name in part if name in first]
    if 1 < len(kept) < len(part):
        yield DEPTH, difference(one[kept], other[kept]), None


class _Draws:
    """Macro F1 of a cell's seeds on drawn leaves."""

    def __init__(self, rows: pd.DataFrame, answers: Answers) -> None:
        seeds = rows[["seed", "run_id"]].drop_duplicates()
        asked = [answers[run_id][0] for run_id in seeds["run_id"]]
        self.leaves = asked[0].leaves
        of_seed: dict[str, list[Array]] = {}
        for (seed, run_id), questions in zip(seeds.itertuples(index=False), asked, strict=True):
            of_seed.setdefault(str(seed), []).append(macro_f1_draws(questions, answers[run_id][1]))
        self.f1_SB = np.array([np.mean(of_seed[seed], axis=0) for seed in sorted(of_seed)])

    def means(self, seeds: str) -> Array:
        """Mean over drawn seeds (B,)."""
        weight_BS = _drawn(len(self.f1_SB), seeds)
        mean_B: Array = (weight_BS.T * self.f1_SB).sum(axis=0) / weight_BS.sum(axis=1)
        return mean_B


def macro_f1_draws(asked: HeldoutQuestions, said_Q: NDArray[np.bool_]) -> Array:
    """Macro F1 (B,) in points; the draws are the same for all runs that ask about the same leaves."""
    counts, H = asked.counts(said_Q), len(asked.hypernyms)
    drawn_BL = _drawn(len(asked.leaves), "leaf")
    drawn = drawn_BL.astype(float) @ counts.reshape(len(counts), -1).astype(float)  # integers have no fast product
    drawn_X22 = drawn.astype(np.int64).reshape(DRAWS * H, 2, 2)
    f1_BH = 100 * macro_f1(drawn_X22).reshape(DRAWS, H)  # missing where no leaf of the hypernym was drawn
    return np.nanmean(f1_BH, axis=1)


def _drawn(size: int, what: str) -> NDArray[np.int64]:
    """How often each of `size` is drawn (B, size); all but one, as in `statistics.intervals`."""
    n = max(size - 1, 1)
    return generator(0, "robustness", what, size).multinomial(n, np.full(size, 1 / size), DRAWS)


def _row(c: Contrast, check: str, found: Difference, leaves: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {"status": EXPLORATORY, "check": check, "setup": c.setup, "above": c.above, "below": c.below}
    row |= {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p}
    row |= {"n_hypernyms": found.n_hypernyms, "n_leaves": leaves}
    return row | {"agrees": found.decision is c.f1.decision, "verdict": found.verdict}
