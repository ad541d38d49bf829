"""The paper's three-seed means at 100 % ablation, held-out hypernyms and leaves (Figures 3, 4, 6, 10 and Table 5)."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from analysis.published import CELLS, MORE_CELLS, Published
from analysis.release.claims import Claim, Found, Statement, check
from analysis.release.files import AbsentError
from analysis.release.means import mean_and_sd
from analysis.release.scores import HELDOUT, LEAVES, Release

SEEDS = 3
SHUFFLES = {"original": "Original", "across": "Across-category", "within": "Within-category"}
# Hypernyms whose name a leaf carries ("a bird", "a toy"), so that questions about them are trained on as leaf questions
# at any ablation; the other 42 are clean. `cachegen.taxonomy.homonyms_of` finds them in the taxonomy.
HOMONYMS = frozenset(
    ("bird", "candy", "container", "dessert", "drink", "fruit", "jewelry", "plant", "tool", "toy", "vegetable")
)


def cell_claims(release: Release) -> list[Claim]:
    """Held-out and leaf macro F1 of every cell that the paper prints, in points."""
    claims = []
    for cell in (*CELLS, *MORE_CELLS):
        name = _name(cell)
        claims += check([Statement(f"heldout/{name}", cell.heldout, 1)], partial(_heldout, release, cell))
        if not math.isnan(cell.leaf):
            claims += check([Statement(f"leaves/{name}", cell.leaf, 1)], partial(_leaves, release, cell))
    return claims


def _name(cell: Published) -> str:
    """The LM, what else is not the paper's default, and the labels."""
    other = [cell.encoder] * (cell.encoder != "DINOv2") + ["random-init"] * (cell.lm_init == "random")
    return "/".join((cell.lm, *other, cell.shuffle)).lower()


def _fields(cell: Published) -> dict[str, object]:
    return {
        "lm": cell.lm,
        "encoder": cell.encoder,
        "random_lm": cell.lm_init == "random",
        "shuffle": SHUFFLES[cell.shuffle],
        "ablation": "Full",
    }


def _leaves(release: Release, cell: Published) -> list[Found]:
    rows = release.runs(LEAVES, **_fields(cell))
    n, mean, _ = mean_and_sd(rows["f1"])
    return [Found(100 * mean, n, _few_seeds(rows))]


def _heldout(release: Release, cell: Published) -> list[Found]:
    rows = release.runs(HELDOUT, **_fields(cell))
    homonym = rows["category"].isin(HOMONYMS)
    (n, mean, _), (_, clean, _), (_, named, _) = (
        mean_and_sd(values) for values in (rows["f1"], rows.loc[~homonym, "f1"], rows.loc[homonym, "f1"])
    )
    note = f"On the 42 hypernyms that are no leaf's name {100 * clean:.1f}, on the other 11 {100 * named:.1f}."
    parts = (_few_seeds(rows), note, _weighted(release, list(rows["run_name"].unique())))
    return [Found(100 * mean, n, " ".join(part for part in parts if part))]


def _few_seeds(rows: pd.DataFrame) -> str:
    seeds = rows["seed"].nunique()
    return f"Of the paper's {SEEDS} seeds only {seeds} here." if seeds < SEEDS else ""


def _weighted(release: Release, names: Sequence[str]) -> str:
    """What the support-weighted file says of the same runs, where there is one."""
    try:
        table = release.weighted
    except AbsentError:
        return ""
    if release.copied.issuperset(names):
        return "These are the support-weighted file's own values, not macro F1."
    known = [name for name in names if name in table.index]
    return f"Support-weighted F1 would be {100 * np.nanmean(table.loc[known].to_numpy()):.1f}." if known else ""
