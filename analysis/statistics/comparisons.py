"""Runs against their yardsticks, and the hypernym-level swap against its control: paired hypernym by hypernym.

None of this was fixed in advance as the contrasts are; intervals are Student's t over hypernyms, as there.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.cells import CELL, LM_NAMES, shown_runs, shuffle_of
from analysis.scores.yardsticks import CONTROLS, YARDSTICKS
from analysis.statistics.contrasts import EQUIVALENCE_MARGIN, mean_interval
from analysis.words import interval, number

Interval = tuple[float, float, float]
Cell = tuple[str, str, str]  # setup, arm, lm_init


@dataclass(frozen=True)
class Comparison:
    """One cell against one yardstick on the same held-out test questions.

    f1, auc: means over hypernyms of the cell; other_f1, other_auc: of the yardstick, AUC with its 95 % interval over
    hypernyms; f1_gap, auc_gap: mean of the differences and its 95 % interval (points of F1; AUC in 0..1).
    """

    setup: str
    arm: str
    lm_init: str
    yardstick: str
    f1: float
    auc: float
    other_f1: float
    other_auc: Interval
    f1_gap: Interval
    auc_gap: Interval
    n_hypernyms: int

    @property
    def cell(self) -> str:
        return f"{LM_NAMES[self.lm_init]}, {self.arm}"

    @property
    def verdict(self) -> str:
        """above | below | not told apart, by the interval of F1."""
        _, low, high = self.f1_gap
        return "above" if low > 0 else "below" if high < 0 else "not told apart"


@dataclass(frozen=True)
class SetupGap:
    """One cell in two setups (encoders, LMs, ...): held-out F1 of `one` minus `other`, mean over hypernyms.

    key: (arm, lm_init) of the cell.
    """

    cell: str
    one: str
    other: str
    f1: float
    other_f1: float
    f1_gap: Interval
    auc_gap: Interval
    n_hypernyms: int
    key: tuple[str, str]


@dataclass(frozen=True)
class Swap:
    """Held-out F1 without the swap minus with it: mean over hypernyms, 95 % and 90 % intervals."""

    setup: str
    lm_init: str
    control: float
    swapped: float
    gap: Interval
    gap_90: Interval
    n_hypernyms: int

    @property
    def verdict(self) -> str:
        if self.gap_90[1] > -EQUIVALENCE_MARGIN and self.gap_90[2] < EQUIVALENCE_MARGIN:
            return f"equivalent within {EQUIVALENCE_MARGIN:g} points"
        if self.gap[1] > 0:
            return f"the swap costs {self.gap[0]:.1f} points"
        if self.gap[2] < 0:
            return f"the swap gains {-self.gap[0]:.1f} points"
        return "undecided (neither a difference nor equivalence is shown)"


def compare_yardsticks(runs: pd.DataFrame, categories: pd.DataFrame, yardsticks: pd.DataFrame) -> list[Comparison]:
    """Every cell of the headline against every yardstick that its runs have, in the order of `runs`."""
    if yardsticks.empty:
        return []
    shown = shown_runs(runs)
    own = _by_hypernym(_heldout(categories), shown)
    found = []
    for name in YARDSTICKS:
        other = _by_hypernym(_heldout(yardsticks[yardsticks["yardstick"] == name]), shown)
        found += [_compared(key, name, own[key], other[key]) for key in own if key in other]
    place = list(own)
    return sorted(found, key=lambda c: place.index((c.setup, c.arm, c.lm_init)))


def yardstick_sentences(comparisons: list[Comparison]) -> list[str]:
    """What the pretrained LM's answers are worth beside the stronger control without an LM, and the composition."""
    sentences = []
    for cell in dict.fromkeys((c.setup, c.arm) for c in comparisons if c.lm_init == "pretrained"):
        here = [c for c in comparisons if (c.setup, c.arm, c.lm_init) == (*cell, "pretrained")]
        controls = [c for c in here if c.yardstick in CONTROLS]
        name = ", ".join(filter(None, [f"pretrained LM, {cell[1]}", cell[0]]))
        if controls:
            strong = max(controls, key=lambda c: c.other_f1)
            meaning = {
                "above": "more than looking alike gives",
                "below": "less than looking alike gives",
                "not told apart": "not told apart from what looking alike gives",
            }[strong.verdict]
            sentences.append(
                f"{name[0].upper()}{name[1:]}: held-out F1 {strong.f1:.1f}, the stronger control without an LM "
                f"{strong.other_f1:.1f} (difference {_interval(strong.f1_gap)}): {meaning}."
            )
            seen = max(controls, key=lambda c: c.other_auc[0])
            if shuffle_of(cell[1]) == "across" and seen.other_auc[1] > 0.5:
                area, low, high = seen.other_auc
                sentences.append(
                    f"Caution: under these {cell[1]} labels looks still tell hypernyms apart (AUC of the control "
                    f"{area:.2f}, 95 % interval {low:.2f} to {high:.2f}), so an answer above chance may be seen."
                )
        for composed in (c for c in here if c.yardstick == "composition"):
            meaning = {
                "above": "the run does better than its halves put together",
                "below": "the halves put together would do better than the run",
                "not told apart": "not told apart from its halves put together",
            }[composed.verdict]
            sentences.append(
                f"{name[0].upper()}{name[1:]}: its leaf answers with the LM’s text answers would give "
                f"{composed.other_f1:.1f} where the run has {composed.f1:.1f} "
                f"(difference {_interval(composed.f1_gap)}): {meaning}."
            )
    return sentences


def compare_setups(runs: pd.DataFrame, categories: pd.DataFrame) -> list[SetupGap]:
    """Every cell of the first setup minus the same cell of the other setups with the same hypernyms asked about.

    Differences in encoder (paper figure 10), LM or training; none of them was fixed in advance.
    """
    shown = shown_runs(runs)
    cells = _by_hypernym(_heldout(categories), shown)
    about = shown.drop_duplicates("setup").set_index("setup")["cell"]
    asked = pd.Series([(cell.setup.asked, cell.setup.dataset) for cell in about], index=about.index, dtype=object)
    found = []
    for (setup, arm, lm_init), mine in cells.items():
        for (other, *same), theirs in cells.items():
            if setup != asked.index[0] or other == setup or same != [arm, lm_init] or asked[other] != asked[setup]:
                continue
            gaps = (mine - theirs).astype(float)
            f1_gap, auc_gap = (mean_interval(gaps[name].dropna().to_numpy(), 0.95) for name in ("f1", "auc"))
            means = float(mine["f1"].mean()), float(theirs["f1"].mean())
            cell = f"{LM_NAMES[lm_init]}, {arm}"
            found.append(SetupGap(cell, setup, other, *means, f1_gap, auc_gap, len(gaps), key=(arm, lm_init)))
    return found


def compare_swap(runs: pd.DataFrame, categories: pd.DataFrame) -> list[Swap]:
    """The hypernym-level swap against its control, where both were run."""
    cells = _by_hypernym(_heldout(categories), shown_runs(runs))
    found = []
    for setup, arm, lm_init in cells:
        if arm != "swap" or (setup, "original", lm_init) not in cells:
            continue
        control, swapped = cells[setup, "original", lm_init]["f1"], cells[setup, arm, lm_init]["f1"]
        gaps = (control - swapped).dropna().to_numpy(float)
        gap, gap_90 = mean_interval(gaps, 0.95), mean_interval(gaps, 0.90)
        found.append(Swap(setup, lm_init, float(control.mean()), float(swapped.mean()), gap, gap_90, len(gaps)))
    return found


def _compared(key: Cell, name: str, mine: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
    asked = mine.index.intersection(theirs.index)
    mine, theirs = mine.loc[asked], theirs.loc[asked]
    gaps = (mine - theirs).astype(float)
    return Comparison(
        *key,
        name,
        f1=float(mine["f1"].mean()),
        auc=float(mine["auc"].mean()),
        other_f1=float(theirs["f1"].mean()),
        other_auc=mean_interval(theirs["auc"].dropna().to_numpy(float), 0.95),
        f1_gap=mean_interval(gaps["f1"].dropna().to_numpy(), 0.95),
        auc_gap=mean_interval(gaps["auc"].dropna().to_numpy(), 0.95),
        n_hypernyms=len(asked),
    )


def _heldout(categories: pd.DataFrame) -> pd.DataFrame:
    return categories[(categories["split"] == "test") & (categories["group"] == "heldout")]


def _by_hypernym(categories: pd.DataFrame, runs: pd.DataFrame) -> dict[Cell, pd.DataFrame]:
    """Cell -> f1 and auc per category (index), means over runs; cells in the order of `runs`."""
    rows = categories.merge(runs[CELL], left_on="run_id", right_index=True)
    means = rows.groupby([*CELL, "category"], sort=True)[["f1", "auc"]].mean().reset_index()
    cells = dict(iter(means.set_index("category").groupby(CELL)))
    order = runs[CELL].drop_duplicates().itertuples(index=False, name=None)
    return {key: cells[key][["f1", "auc"]] for key in order if key in cells}


def _interval(gap: Interval) -> str:
    difference, low, high = gap
    told = number(difference, sign=True)
    return told if np.isnan(low) else f"{told}, {interval(low, high)}"
