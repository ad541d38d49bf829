"""The confirmatory contrasts on held-out hypernyms, fixed before any result, and what the numbers let one say.

The unit is the hypernym: F1 is averaged over a cell's runs, then paired hypernym by hypernym; the interval is Student's
t over hypernyms. Seeds enter as the worst case (lowest run minus highest run), since three seeds give no usable
variance. "Above" needs an interval wholly above zero; everything else is "not shown". A null is not read off a large
p-value: equivalence to chance needs the 90 % interval inside the margin (two one-sided tests at 5 %).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from analysis.cells import LM_NAMES
from analysis.scores.f1 import BASELINES
from analysis.words import points

EQUIVALENCE_MARGIN = 5.0  # points of F1
CONFIRMATORY, EXPLORATORY = "confirmatory", "exploratory"  # fixed before any result, or not
BASELINE_NAMES = {
    "majority_f1": "majority answer",
    "coin_f1": "fair coin",
    "permuted_f1": "its own answers, permuted",
}


@dataclass(frozen=True)
class Contrast:
    """One difference of held-out macro F1, in points.

    difference = mean over hypernyms of (above - below); low, high = its 95 % interval (NaN with fewer than two);
    worst = lowest run of `above` minus highest run of `below`; shown = the interval lies wholly above zero.
    key, other: (arm, lm_init) of the two; of a baseline, which is that of the cell itself, its column.
    """

    setup: str
    above: str
    below: str
    difference: float
    low: float
    high: float
    worst: float
    n_hypernyms: int
    n_runs: tuple[int, int]
    key: tuple[str, str]
    other: tuple[str, str] | str

    @property
    def shown(self) -> bool:
        return bool(self.low > 0)

    @property
    def verdict(self) -> str:
        """Plain words that follow from the numbers."""
        if self.shown:
            return f"above by {self.difference:.1f} points"
        if np.isnan(self.low):
            return f"not shown: {points(self.difference)}, too few hypernyms for an interval"
        return f"not shown: {points(self.difference)}, the interval reaches zero or below"


@dataclass(frozen=True)
class Null:
    """A cell against its own answers permuted: is it at chance? low, high = 90 % interval for the equivalence test.

    key: its (arm, lm_init).
    """

    setup: str
    cell: str
    difference: float
    low: float
    high: float
    n_hypernyms: int
    n_runs: int
    key: tuple[str, str]

    @property
    def equivalent(self) -> bool:
        return bool(self.low > -EQUIVALENCE_MARGIN and self.high < EQUIVALENCE_MARGIN)

    @property
    def undecided(self) -> bool:
        """Neither a difference from chance nor equivalence is shown."""
        return not (self.equivalent or self.low > 0 or self.high < 0)

    @property
    def verdict(self) -> str:
        """Plain words: equivalent to chance, above, below, or undecided."""
        if self.equivalent:
            return f"equivalent to chance within {EQUIVALENCE_MARGIN:g} points"
        if self.low > 0:
            return f"above chance by {self.difference:.1f} points"
        if self.high < 0:
            return f"below chance by {-self.difference:.1f} points"
        return "undecided (neither a difference from chance nor equivalence is shown)"


def mean_interval(values: NDArray[np.float64], level: float) -> tuple[float, float, float]:
    """Mean and Student-t interval over `values`; the interval is NaN with fewer than two values."""
    n = len(values)
    mean = float(np.mean(values)) if n else np.nan
    half = float(stdtrit(n - 1, 0.5 + level / 2) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    return mean, mean - half, mean + half


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float, int]:
    """Pearson r, its 95 % interval (Fisher's z; NaN with fewer than four points) and n, over complete pairs."""
    complete = np.isfinite(x) & np.isfinite(y)
    x, y, n = x[complete], y[complete], int(complete.sum())
    if n < 2 or any(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in (x, y)):  # constant but for rounding
        return np.nan, np.nan, np.nan, n
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if n < 4 or abs(r) == 1:
        return r, np.nan, np.nan, n
    z, half = np.arctanh(r), 1.959964 / np.sqrt(n - 3)
    return r, float(np.tanh(z - half)), float(np.tanh(z + half)), n


@dataclass(frozen=True)
class _Cell:
    """Held-out F1 of one cell: per hypernym (mean over runs), per run (mean over hypernyms), and its baselines."""

    key: tuple[str, str]  # arm, lm_init
    by_hypernym: pd.DataFrame  # index hypernym, columns f1 and BASELINES
    by_run: pd.DataFrame  # index run_id, columns f1 and BASELINES

    @classmethod
    def of(cls, categories: pd.DataFrame, runs: pd.DataFrame, arm: str, lm_init: str) -> "_Cell | None":
        chosen = runs.index[(runs["arm"] == arm) & (runs["lm_init"] == lm_init)]
        rows = categories[categories["run_id"].isin(chosen)]
        if rows.empty:
            return None
        columns = ["f1", *BASELINES]
        by_hypernym, by_run = (rows.groupby(key)[columns].mean() for key in ("category", "run_id"))
        return cls((arm, lm_init), by_hypernym, by_run)

    @property
    def name(self) -> str:
        arm, lm_init = self.key
        return f"{LM_NAMES[lm_init]}, {arm}"

    @property
    def largest_baseline(self) -> str:
        return str(self.by_hypernym[list(BASELINES)].mean().idxmax())

    def against(self, setup: str, other: "_Cell") -> Contrast:
        gaps = (self.by_hypernym["f1"] - other.by_hypernym["f1"]).dropna().to_numpy(float)
        worst = float(self.by_run["f1"].min() - other.by_run["f1"].max())
        mean, low, high = mean_interval(gaps, 0.95)
        runs = self.runs, other.runs
        return Contrast(
            setup, self.name, other.name, mean, low, high, worst, len(gaps), runs, key=self.key, other=other.key
        )

    def against_baseline(self, setup: str) -> Contrast:
        column = self.largest_baseline
        gaps = (self.by_hypernym["f1"] - self.by_hypernym[column]).to_numpy(float)
        worst = float((self.by_run["f1"] - self.by_run[column]).min())
        name = f"largest baseline ({BASELINE_NAMES[column]})"
        interval, runs = mean_interval(gaps, 0.95), (self.runs, self.runs)
        return Contrast(setup, self.name, name, *interval, worst, len(gaps), runs, key=self.key, other=column)

    @property
    def runs(self) -> int:
        return len(self.by_run)


def confirmatory_contrasts(categories: pd.DataFrame, runs: pd.DataFrame) -> list[Contrast]:
    """Pretrained original and within, each minus the largest baseline, minus random-init, minus pretrained across.

    `categories`: run x category table with baselines; `runs`: labelled runs. Cells that were not run give no contrast.
    Random-init within, where it was not run, is replaced by random-init original. Where some setups have an across or
    a random-init cell, those without (a twin of the LM, another encoder, the swap's control) are comparisons of their
    own and not counted here.
    """
    found: list[Contrast] = []
    for setup, group in runs[_counted(runs)].groupby("setup", sort=False):
        cells = _cells(categories, group)
        random_original = cells.get(("original", "random"))
        for shuffle in ("original", "within"):
            for (arm, lm_init), cell in cells.items():
                if lm_init != "pretrained" or not _is(arm, shuffle):
                    continue
                found.append(cell.against_baseline(str(setup)))
                random = cells.get((arm, "random"), random_original)
                across = [other for (name, init), other in cells.items() if init == lm_init and _is(name, "across")]
                found += [cell.against(str(setup), other) for other in ([random] if random else []) + across]
    return found


def exploratory_contrasts(categories: pd.DataFrame, runs: pd.DataFrame) -> list[Contrast]:
    """Not fixed in advance: pretrained original minus within; and the setups that `confirmatory_contrasts` leaves out,
    each pretrained cell minus its largest baseline."""
    found: list[Contrast] = []
    counted = set(runs.loc[_counted(runs), "setup"])
    for setup, group in runs.groupby("setup", sort=False):
        cells = {arm: cell for (arm, lm_init), cell in _cells(categories, group).items() if lm_init == "pretrained"}
        if setup not in counted:
            found += [cell.against_baseline(str(setup)) for cell in cells.values()]
        within = [cell for arm, cell in cells.items() if _is(arm, "within")]
        found += [cells["original"].against(str(setup), cell) for cell in within if "original" in cells]
    return found


def _counted(runs: pd.DataFrame) -> pd.Series:
    """Runs of the setups that have an across or a random-init cell; all runs where no setup has one."""
    against = runs.loc[(runs["lm_init"] == "random") | (runs["shuffle"] == "across"), "setup"]
    return runs["setup"].isin(against) | against.empty


def chance_checks(categories: pd.DataFrame, runs: pd.DataFrame) -> list[Null]:
    """Across and random-init cells against their own permuted answers, with the equivalence test."""
    found: list[Null] = []
    for setup, group in runs.groupby("setup", sort=False):
        for (arm, lm_init), cell in _cells(categories, group).items():
            if lm_init == "random" or _is(arm, "across"):
                gaps = (cell.by_hypernym["f1"] - cell.by_hypernym["permuted_f1"]).to_numpy(float)
                interval = mean_interval(gaps, 0.90)
                found.append(Null(str(setup), cell.name, *interval, len(gaps), cell.runs, cell.key))
    return found


def _cells(categories: pd.DataFrame, runs: pd.DataFrame) -> dict[tuple[str, str], _Cell]:
    """Cells of one setup that have held-out test questions, in the order of `runs`."""
    heldout = categories[(categories["group"] == "heldout") & (categories["split"] == "test")]
    keys = dict.fromkeys(zip(runs["arm"], runs["lm_init"], strict=True))
    cells = {key: _Cell.of(heldout, runs, *key) for key in keys}
    return {key: cell for key, cell in cells.items() if cell is not None}


def _is(arm: str, shuffle: str) -> bool:
    return arm == shuffle or arm.startswith(shuffle + " (")
