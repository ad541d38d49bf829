"""What of the paper was and was not found again, cell by cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.conditions import LM_NAMES
from analysis.contrasts import EQUIVALENCE_MARGIN
from analysis.published import CELLS, COIN, MORE_CELLS, Published

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """A cell of the paper and ours beside it, where there is one; `same`: with the models of the paper's names."""

    paper: Published
    ours: Row | None
    same: bool

    @property
    def name(self) -> str:
        return f"{LM_NAMES[self.paper.lm_init]}, {self.paper.shuffle}"


def pair_cells(cells: Sequence[Row]) -> list[Pair]:
    """The paper's cells, each with ours at 100 % ablation beside it.

    Where our LMs bear names of the paper's, cells are paired by encoder and LM. Otherwise (a microworld, other models)
    our first setup stands beside the first of the paper's cells of each condition.
    """
    full = [row for row in cells if (row["ablation"], row["asked"]) == (100, "all categories")]
    full = [row for row in full if str(row["kind"]).startswith("random")]
    known = [Pair(cell, _same_models(cell, full), True) for cell in (*CELLS, *MORE_CELLS)]
    if any(pair.ours for pair in known):
        return [pair for pair in known if pair.ours or pair.paper in CELLS]
    first: dict[tuple[str, str], Row] = {}
    for row in full:
        first.setdefault((row["lm_init"], row["arm"]), row)
    return [Pair(cell, first.pop(cell.condition, None), False) for cell in CELLS]


def replication(pairs: list[Pair]) -> list[str]:
    """One sentence per cell that was run: does it agree with the paper's? And one per condition that was not run."""
    sentences = []
    run = {pair.paper.condition for pair in pairs if pair.ours and np.isfinite(_mean(pair.ours, "macro_f1"))}
    for pair in pairs:
        like = [other.paper.heldout for other in pairs if other.paper.condition == pair.paper.condition]
        if pair.ours and np.isfinite(_mean(pair.ours, "macro_f1")):
            name = f"{pair.name}, {pair.paper.model}" if pair.same else pair.name
            low = pair.paper.heldout if pair.same else min(like)
            sentences.append(f"{name}: held-out F1 {_mean(pair.ours, 'macro_f1'):.1f}, {_verdict(pair.ours, low)}.")
        elif pair.paper.condition not in run:
            run.add(pair.paper.condition)
            sentences.append(f"{pair.name}: not run here, so nothing is said about it.")
    return sentences


def _verdict(row: Row, low: float) -> str:
    """Our held-out F1 beside `low`, the paper's."""
    ours, coin = _mean(row, "macro_f1"), _mean(row, "coin_f1")
    if abs(low - COIN) > EQUIVALENCE_MARGIN:  # a cell in which the paper finds transfer
        return f"{low - ours:.1f} points short of the paper’s {low}" if ours < low else f"not below the paper’s {low}"
    if abs(ours - coin) <= EQUIVALENCE_MARGIN:
        return f"within {EQUIVALENCE_MARGIN:g} points of a coin ({coin:.1f}), as in the paper"
    if ours > coin:
        return f"{ours - coin:.1f} points above a coin, where the paper’s is at the coin: chance was not reached here"
    area = f"AUC {_mean(row, 'auc'):.2f}, where 0.5 is chance"
    return f"{coin - ours:.1f} points below a coin, where the paper’s is near it ({area})"


def _same_models(cell: Published, rows: Sequence[Row]) -> Row | None:
    for row in rows:
        same = str(row["lm"]).rstrip("/").rsplit("/", 1)[-1] == cell.lm
        if (
            same
            and cell.encoder.lower() in str(row["encoder"]).lower()
            and (row["lm_init"], row["arm"]) == cell.condition
        ):
            return row
    return None


def _mean(row: Row, score: str) -> float:
    return float(row["heldout"][score]["mean"])
