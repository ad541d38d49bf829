"""What the sections of a page are made from: the study, and what lies beside the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.beside_paper import Pair, pair_cells
from analysis.cells import cell_rows
from analysis.comparisons import Comparison, compare_yardsticks
from analysis.conditions import shown_runs
from analysis.contrasts import Contrast, confirmatory_contrasts
from analysis.naming import FAMILIES, encoder_names, last_part
from analysis.page.figure import Figure
from analysis.page.table import Column
from analysis.study import Study

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

    @cached_property
    def setup(self) -> Column:
        """The column of a table that names setups, shortly; its values are those of the rows' `setup`."""
        plain = Column("setup", "setup")
        return Column("setup", lambda row: self.short(plain.of(row)), "text")

    @cached_property
    def _families(self) -> dict[str, str]:
        names = encoder_names(self.study.runs["encoder"].unique())
        return {last_part(encoder): name for encoder, name in names.items() if name.split("+")[0] in FAMILIES}

    def short(self, text: object) -> str:
        """`text` with encoders under the names that figures have for them."""
        words = str(text)
        for encoder, name in self._families.items():
            words = words.replace(encoder, name)
        return words

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The runs of the headline, see `analysis.conditions.shown_runs`."""
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
    def contrasts(self) -> list[Contrast]:
        """The contrasts fixed in advance."""
        return confirmatory_contrasts(self.study.categories, self.shown)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The headline's cells beside each yardstick."""
        return compare_yardsticks(self.study.runs, self.study.categories, self.study.yardsticks)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The paper's cells, each with ours beside it."""
        return pair_cells(self.cells)
