"""Which results of the paper were and were not replicated, cell by cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import LM_NAMES, Cell
from analysis.published import CELLS, COIN, FIRST, MORE_CELLS, Published, paper_models, published_hypernyms
from analysis.statistics.difference import EQUIVALENCE_MARGIN

Row = Mapping[str, Any]
MODELS = ("lm", "encoder", "dataset_digest")
Models = tuple[str, ...]  # of a run: `MODELS`


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
    full = [row for row in cells if _is_whole(row["cell"])]
    known = [Pair(cell, _same_models(cell, full), True) for cell in (*CELLS, *MORE_CELLS)]
    if any(pair.ours for pair in known):
        return [pair for pair in known if pair.ours or pair.paper in CELLS]
    first: dict[tuple[str, str], Row] = {}
    for row in full:
        first.setdefault(_condition(row["cell"]), row)
    return [Pair(cell, first.pop(cell.condition, None), False) for cell in CELLS]


def _is_whole(cell: Cell) -> bool:
    """Whether all questions about all hypernyms were withheld, under labels as the paper's."""
    all_asked = cell.setup.asked == (("subset", "all"),)
    return all_asked and (cell.ablation.kind, cell.ablation.amount) == ("random", 100) and not cell.labels.partial


def _condition(cell: Cell) -> tuple[str, str]:
    return cell.lm_init, cell.labels.shuffle


@dataclass(frozen=True)
class Reference:
    """The models of the paper whose values stand beside some runs; `same`: the runs have these models and hypernyms."""

    lm: str
    encoder: str
    same: bool


@dataclass(frozen=True)
class References:
    """What of the paper stands beside the runs of a study; false where nothing does."""

    known: dict[Models, Reference]

    def of(self, run: pd.Series) -> Reference | None:
        """The reference of one run (a row of `Study.runs`); None for a swap subset, which has other hypernyms."""
        return None if run["subset"] == "swap" else self.known.get(_models(run))

    def __bool__(self) -> bool:
        return bool(self.known)

    @property
    def only_same(self) -> "References":
        """Without what was measured on other images or models."""
        return References({models: reference for models, reference in self.known.items() if reference.same})

    @property
    def name(self) -> str:
        """For a legend; empty where there is nothing of the paper."""
        first = next(iter(self.known.values()), None)
        return "" if first is None else "paper" if first.same else f"paper ({first.lm})"

    @property
    def caption(self) -> str:
        """A sentence with a blank before it; empty where there is nothing of the paper."""
        if not self.known:
            return ""
        first = next(iter(self.known.values()))
        where = f", there {first.lm} with {first.encoder} on THINGS: compare the pattern, not the digits"
        return f" Open markers: the paper’s means of three seeds{'' if first.same else where}."


def references(runs: pd.DataFrame, categories: pd.DataFrame) -> References:
    """What stands beside `runs` (of a study, or a part of them) with their `categories`.

    Runs of the paper's models on its 53 hypernyms have the paper's own values beside them. Where there are none, the
    first models of `runs` have those of the same names, or else of the paper's first models, for the pattern.
    """
    models = {_models(run): run for _, run in runs.drop_duplicates([*MODELS]).iterrows()}
    datasets = _datasets_of_paper(runs, categories)
    known = {key: paper for key in models if (paper := paper_models(key[0], key[1]))}
    same = {key: Reference(*paper, same=True) for key, paper in known.items() if key[2] in datasets}
    first = next(iter(models), None)
    return References(same or ({} if first is None else {first: Reference(*known.get(first, FIRST), same=False)}))


def _models(run: pd.Series) -> Models:
    return tuple(str(run[name]) for name in MODELS)


def _datasets_of_paper(runs: pd.DataFrame, categories: pd.DataFrame) -> set[str]:
    """Digests of the datasets whose hypernyms are the paper's."""
    asked = categories.loc[categories["group"] != "leaf", ["run_id", "category"]]
    asked = asked.assign(dataset=asked["run_id"].map(runs["dataset_digest"].astype(str))).dropna()
    paper = set(published_hypernyms().index)
    return {str(name) for name, rows in asked.groupby("dataset")["category"] if set(rows) == paper}


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
        ours = row["cell"]
        models = paper_models(ours.setup.lm.name, ours.setup.encoder)
        if models == (cell.lm, cell.encoder) and _condition(ours) == cell.condition:
            return row
    return None


def _mean(row: Row, score: str) -> float:
    return float(row["heldout"][score]["mean"])
