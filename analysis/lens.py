"""What `crosstax lens` has read out of runs: answers by layer, names near patches, maps over pictures.

At each layer the answers are scored as at the last one: the AUC of the questions of a group, all categories together,
since few images have few questions about each. `rise` is the layer, interpolated, at which the AUC has made half its
way from chance to its value at the last layer: where an image becomes a bird, as far as answers tell.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.cells import KEYED
from engine.runs.directory import RunDirectory
from engine.runs.f1 import auc
from engine.runs.lens import lens_problem, read_lens

GROUP_WORDS = {"leaf": "leaves", "seen": "seen hypernyms", "heldout": "held-out hypernyms"}
KNOWN = 0.6  # AUC at the last layer from which on a rise is looked for
WORD_KEYS = ["lens", "layer", "about", "role", "first"]
CELL_KEYS = [*KEYED, "shown"]
RISE_COLUMNS = [*CELL_KEYS, "group", "n_runs", "layers", "auc", "rise", "rise_low", "rise_high", "n_risen"]
LAYER_COLUMNS = [
    *CELL_KEYS, "group", "layer", "depth", "n_runs", "auc", "auc_low", "auc_high", "veridical_auc", "margin",
    "margin_low", "margin_high", "score_yes", "score_no",
]  # fmt: skip
WORD_COLUMNS = [*CELL_KEYS, *WORD_KEYS, "n_runs", "share", "share_low", "share_high", "names"]
NAME_COLUMNS = [*CELL_KEYS, "kind", "about", "layer", "n_runs", "auc", "auc_low", "auc_high"]
ENDS = (("", "mean"), ("_low", "min"), ("_high", "max"))


@dataclass(frozen=True)
class Lenses:
    """Of single runs: `layers`, scores by group and layer; `names`, how well nearness tells names; `words`, shares of
    patches; `notes`: what is left out."""

    layers: pd.DataFrame
    names: pd.DataFrame
    words: pd.DataFrame
    notes: tuple[str, ...]


def read_lenses(folders: Iterable[tuple[str, Path]]) -> Lenses:
    """The lens tables of runs that have some; `folders`: run id and folder."""
    notes: list[str] = []
    found: dict[str, list[pd.DataFrame]] = {"layers": [], "names": [], "words": []}
    for run_id, folder in folders:
        problem = lens_problem(RunDirectory(folder))
        if problem:
            notes.append(f"the lens of {folder.name} is left out: {problem}; repeat crosstax lens")
        elif problem is not None:
            for name, tables in found.items():
                table = read_lens(folder, name)
                tables.append((_scored(table) if name == "layers" else table).assign(run_id=run_id))
    none = pd.DataFrame(columns=["run_id", "group"])
    stacked = {name: pd.concat(tables, ignore_index=True) if tables else none for name, tables in found.items()}
    return Lenses(**stacked, notes=tuple(notes))


def _scored(table: pd.DataFrame) -> pd.DataFrame:
    """One row per group and layer of a run, whose number of layers is the unit of depth."""
    rows = []
    for (group, layer), asked in table.groupby(["group", "layer"], sort=True):
        answer, score = asked["answer"].to_numpy(bool), asked["score"].to_numpy(float)
        one = np.zeros(len(asked), dtype=int)
        areas = [auc(one, asked[name].to_numpy(bool), score, 1)[0] for name in ("answer", "veridical")]
        true, false = (score[side].mean() if side.any() else np.nan for side in (answer, ~answer))
        rows.append(
            {"group": group, "layer": layer, "depth": layer / table["layer"].max(), "n_yes": answer.sum()}
            | {"n_no": (~answer).sum(), "auc": areas[0], "veridical_auc": areas[1], "margin": true - false}
            | {"score_yes": true, "score_no": false}
        )
    return pd.DataFrame(rows)


def rises(layers: pd.DataFrame) -> pd.DataFrame:
    """run_id, group, layers (number of the last one), auc (there), rise: see the head of this module.

    The rise is missing where the last layer's AUC is below `KNOWN`: there is nothing that could have risen.
    """
    rows = []
    for (run_id, group), rising in layers.groupby(["run_id", "group"], sort=False):
        own = rising.sort_values("layer")
        area, layer = own["auc"].to_numpy(float), own["layer"].to_numpy(float)
        rows.append({"run_id": run_id, "group": group, "layers": int(layer[-1]), "auc": area[-1], "rise": np.nan})
        half = 0.5 + (area[-1] - 0.5) / 2
        if area[-1] >= KNOWN:
            # From there on it stays above: an early layer may be above by chance, and fall again.
            below = np.flatnonzero(area < half)
            place = int(below[-1]) if len(below) else -1
            step = (half - area[place]) / (area[place + 1] - area[place]) if place >= 0 else 0.0
            rows[-1]["rise"] = layer[place] + step * (layer[place + 1] - layer[place]) if place >= 0 else layer[0]
    return pd.DataFrame(rows, columns=["run_id", "group", "layers", "auc", "rise"])


def rise_means(runs: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and group: layers, auc (at the last one), rise with the runs' extremes, n_risen (of n_runs)."""
    return _cells(runs, rises(layers).assign(n_risen=lambda table: table["rise"].notna().astype(int)), ["group"], RISES)


def layer_means(runs: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, group and layer: means over runs with their extremes. Columns: `LAYER_COLUMNS`."""
    return _cells(runs, layers, ["group", "layer"], LAYERS)


def name_means(runs: pd.DataFrame, names: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, layer, about and kind of name: how well nearness tells an image's own names from others.

    auc: over pairs of an image and a name, by the cosine of patches with the name in text, less the name's mean over
    images; mean over runs with their extremes.
    """
    return _cells(runs, names, ["kind", "about", "layer"], NAMES)


def word_means(runs: pd.DataFrame, words: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, lens, layer, about, role and first: means over runs with their extremes.

    about: whether names are those of the leaf that an image is labelled as (label), or of the one it shows (image).
    share: percent of patches that have a name of this role among the `first` nearest, a mean over the role's names.
    """
    return _cells(runs, words, WORD_KEYS, WORDS)


# Columns and how runs are put together: (columns of the table, means only, means with extremes, sums).
RISES = (RISE_COLUMNS, ("layers", "auc"), ("rise",), ("n_risen",))
LAYERS = (LAYER_COLUMNS, ("depth", "veridical_auc", "score_yes", "score_no"), ("auc", "margin"), ())
NAMES = (NAME_COLUMNS, (), ("auc",), ())
WORDS = (WORD_COLUMNS, ("names",), ("share",), ())
Form = tuple[list[str], tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def _cells(runs: pd.DataFrame, table: pd.DataFrame, keys: list[str], form: Form) -> pd.DataFrame:
    """Rows of single runs as rows of cells, in the order of `runs`."""
    columns, means, ranged, sums = form
    if table.empty:
        return pd.DataFrame(columns=columns)
    rows = table.merge(runs[CELL_KEYS], left_on="run_id", right_index=True)
    how = {name: (name, "mean") for name in means} | {name: (name, "sum") for name in sums}
    how |= {f"{name}{end}": (name, by) for name in ranged for end, by in ENDS}
    found = rows.groupby([*CELL_KEYS, *keys], sort=False).agg(n_runs=("run_id", "nunique"), **how).reset_index()
    order = {cell: place for place, cell in enumerate(dict.fromkeys(runs["cell"]))}
    groups = {group: place for place, group in enumerate(GROUP_WORDS)}
    places = {"cell": found["cell"].map(order)} | (
        {"group": found["group"].map(groups)} if "group" in found else {}
    ) | ({"layer": found["layer"]} if "layer" in found else {})  # fmt: skip
    placed = pd.DataFrame(places).astype(int).sort_values(list(places), kind="stable")
    return found.loc[placed.index, columns].reset_index(drop=True)


def lens_scores(folders: Sequence[Path]) -> pd.DataFrame:
    """Of single runs: run, group, layers, auc (at the last layer), rise."""
    lenses = read_lenses((folder.name, folder) for folder in folders)
    return rises(lenses.layers).rename(columns={"run_id": "run"})


def lens_text(scores: pd.DataFrame) -> str:
    """Lines for people: of each run and group, where answers rise."""
    lines = []
    for row in scores.to_dict("records"):
        rise = "no rise" if np.isnan(row["rise"]) else f"half of it at layer {row['rise']:.1f} of {row['layers']}"
        lines.append(f"{row['run']}: {GROUP_WORDS[row['group']]}: AUC {row['auc']:.2f}, {rise}")
    return "\n".join(lines)
