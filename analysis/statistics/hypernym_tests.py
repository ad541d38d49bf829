"""Tests of single hypernyms, adjusted for their number (Holm): for which of them is something shown?

Two questions per hypernym. Is a cell's held-out F1 above what its own answers give when they are permuted among the
hypernym's questions? Mean and standard deviation under permutation are known exactly; runs ask the same questions, so
the standard deviation of their mean is taken as if they agreed throughout, which errs on the side of chance. And does
a contrast fixed in advance hold for this hypernym? Welch's t over seeds, which with three seeds shows large
differences only.
"""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.cells import Cell
from analysis.statistics.contrasts import CONFIRMATORY, EXPLORATORY, Cells, Contrast
from analysis.statistics.difference import holm

COLUMNS = [
    *("comparison_number", "status", "setup", "above", "below", "category", "homonym", "n_yes", "n_no"),
    *("n_seeds_above", "n_seeds_below"),
    *("difference", "test", "statistic", "df", "p", "p_holm"),
]
PERMUTED = "its own answers, permuted"


def hypernym_tests(runs: pd.DataFrame, categories: pd.DataFrame, contrasts: list[Contrast]) -> pd.DataFrame:
    """One row per comparison and hypernym, cells of the headline; Holm's family is the hypernyms of one comparison.

    Columns: comparison_number, status (exploratory: single hypernyms were not fixed in advance), setup, above, below,
    category, homonym (a leaf carries its name), n_yes, n_no (questions of a run of the cell above), n_seeds_above,
    n_seeds_below, difference (points of F1), test (z | t), statistic, df (of t), p (two-sided; 1 where a cell always
    gives one answer, missing where a single seed allows no test), p_holm.
    """
    known = Cells(runs, categories)
    cells = {cell: _by_hypernym(rows) for cell, rows in known.rows.items()}
    words = {cell: {"setup": known.names.setup(cell.setup), "above": known.names.condition(cell)} for cell in cells}
    found = [_against_permuted(table).assign(**words[cell]) for cell, table in cells.items()]
    for c in contrasts:
        if c.status == CONFIRMATORY and isinstance(c.other, Cell):
            found.append(_between(cells[c.one], cells[c.other]).assign(setup=c.setup, above=c.above, below=c.below))
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    numbered = [table.assign(p_holm=holm(table["p"]), comparison_number=number) for number, table in enumerate(found)]
    return pd.concat(numbered).rename_axis("category").reset_index().assign(status=EXPLORATORY)[COLUMNS]


def _by_hypernym(cell: pd.DataFrame) -> pd.DataFrame:
    """Per hypernym: means over seeds, and the variance of F1 over seeds."""
    by_seed = cell.groupby(["category", "seed"])[["f1", "permuted_f1", "permuted_sd", "n_yes", "n_no"]].mean()
    groups = by_seed.groupby("category")
    table = groups.mean().assign(variance=groups["f1"].var(), n_seeds=groups.size())
    return table.assign(homonym=cell.groupby("category")["homonym"].any())


def _against_permuted(cell: pd.DataFrame) -> pd.DataFrame:
    difference = cell["f1"] - cell["permuted_f1"]
    z = difference / cell["permuted_sd"].where(cell["permuted_sd"] > 0)
    p = pd.Series(2 * stats.norm.sf(z.abs()), index=cell.index).where(z.notna(), 1.0)
    about = cell[["homonym", "n_yes", "n_no"]].assign(n_seeds_above=cell["n_seeds"], n_seeds_below=cell["n_seeds"])
    return about.assign(below=PERMUTED, difference=difference, test="z", statistic=z, df=np.nan, p=p)


def _between(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    shared = one.index.intersection(other.index)
    one, other = one.loc[shared], other.loc[shared]
    difference = one["f1"] - other["f1"]
    mine, theirs = one["variance"] / one["n_seeds"], other["variance"] / other["n_seeds"]
    df = (mine + theirs) ** 2 / (mine**2 / (one["n_seeds"] - 1) + theirs**2 / (other["n_seeds"] - 1))
    t = difference / np.sqrt(mine + theirs)
    p = pd.Series(2 * stats.t.sf(t.abs(), df), index=shared)
    about = one[["homonym", "n_yes", "n_no"]].assign(n_seeds_above=one["n_seeds"], n_seeds_below=other["n_seeds"])
    return about.assign(difference=difference, test="t", statistic=t, df=df, p=p)
