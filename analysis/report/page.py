"""What the sections of a page are made from: the study, its figures, and what lies beside the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.beside_paper import Pair, pair_cells
from analysis.cells import KEYED, Cell, parts, shown_runs
from analysis.figures.style import Drawn
from analysis.report.examples import data_uri
from analysis.report.files import FOLDER
from analysis.report.table import Column
from analysis.study import Study
from engine.design.condition import SEEDS

FORMATS = ("svg", "pdf", "png")
NARROW = 5.0  # inches


@dataclass(frozen=True)
class Figure:
    """`drawn`: with its title, caption and alt; `uri`: the drawing, as a data URI; `files`: format -> path from the
    page; `narrow`: made for one column of print, so not to be blown up on a screen."""

    name: str
    drawn: Drawn
    uri: str
    files: dict[str, str]
    narrow: bool


def page_figure(name: str, drawn: Drawn, svg: str, out: Path) -> Figure:
    """A figure whose files lie in `out`/figures, among them `svg`."""
    paths = {form: f"{FOLDER}/{name}.{form}" for form in FORMATS}
    files = {form: path for form, path in paths.items() if (out / path).is_file()}
    narrow = drawn.figure.get_figwidth() < NARROW
    return Figure(name, drawn, data_uri(svg.encode(), "image/svg+xml"), files, narrow)


CELL_SCORES = [
    *("macro_f1", "auc", "majority_f1", "coin_f1", "permuted_f1", "macro_f1_min10", "macro_f1_no_homonyms"),
    *("n_homonyms", "tie_share", "yes_share", "by_vision", "n_categories", "n_categories_min10", "auc_undefined"),
    *("n_yes", "n_no"),
]

Row = dict[str, Any]


def cell_rows(study: Study, chosen: pd.DataFrame) -> list[Row]:
    """Of the `chosen` runs, one row per cell: seeds, and mean, lowest and highest of each test score.

    Keys: cell, in words setup, arm, lm_init and name, n (runs), seeds (seed -> its
    values), and leaf, seen, heldout: score -> {"mean", "low", "high"}, F1 in 0..100, shares and AUC in 0..1.
    """
    groups = {name: study.test(name) for name in ("leaf", "seen", "heldout")}
    rows = []
    for cell, runs in parts(chosen, lambda cell: cell).items():
        row: Row = {
            **dict(zip(KEYED, runs[KEYED].iloc[0], strict=True)),
            "name": study.names.condition(cell),
            "n": len(runs),
            "seeds": {seed: sorted(map(int, runs[seed].dropna().unique())) for seed in SEEDS},
        }
        for group, table in groups.items():
            scores = table.loc[runs.index, CELL_SCORES]
            summary = zip(CELL_SCORES, scores.mean(), scores.min(), scores.max(), strict=True)
            row[group] = {name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in summary}
        rows.append(row)
    return rows


Data = dict[str, Any]  # what a section's template is given


@dataclass(frozen=True)
class Page:
    """One page. `out`: its folder; `tables`, `figures`: what was written there; `absent`: figure -> why there is none;
    `world`: the microworld's folder; `seconds`: wall-clock time of each stage."""

    study: Study
    out: Path
    tables: Sequence[str]
    figures: Mapping[str, Figure]
    absent: Mapping[str, str]
    world: Path | None
    seconds: Mapping[str, float]

    def named(self, cell: Cell) -> Row:
        """A cell of the headline in words: setup, arm, name (of the condition)."""
        names = self.study.names
        return {"setup": names.setup(cell.setup), "arm": names.labels(cell.labels), "name": names.condition(cell)}

    @property
    def condition(self) -> Column:
        """What names the cell of a row."""
        return Column("condition", lambda row: self.study.names.condition(row["cell"]), "text")

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The runs of the headline, see `analysis.cells.shown_runs`."""
        return shown_runs(self.study.runs)

    @cached_property
    def cells(self) -> list[Data]:
        """Scores of the headline's cells."""
        return cell_rows(self.study, self.shown)

    @cached_property
    def every_cell(self) -> list[Data]:
        """Scores of all cells."""
        return cell_rows(self.study, self.study.runs)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The paper's cells, each with ours beside it."""
        return pair_cells(self.cells)
