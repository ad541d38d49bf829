"""The numbers of a study, computed once from its saved runs."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.baselines import add_baselines
from analysis.coherence import LabelMap, label_map, map_coherence, open_inputs, pairs_kept
from analysis.conditions import PROVENANCE, label_runs
from analysis.f1 import measure_categories, summarise
from analysis.predictions import Sweep

POOLING = "pooled_patches"  # the paper's; the release pools over all tokens


@dataclass(frozen=True)
class Study:
    """Every table of one sweep.

    runs: index run_id, conditions with setup, arm and map. categories: one row per run, split, group and category.
    scores: one row per run, split and group (means over categories). coherence: one row per label map, pooling and
    category. kept: one row per label map. notes: what could not be computed, and why.
    """

    sweep: Sweep
    runs: pd.DataFrame
    categories: pd.DataFrame
    scores: pd.DataFrame
    coherence: pd.DataFrame
    kept: pd.DataFrame
    notes: tuple[str, ...]

    def test(self, group: str) -> pd.DataFrame:
        """Test scores of one group (leaf | seen | heldout), index run_id in the order of `runs`."""
        rows = self.scores[(self.scores["split"] == "test") & (self.scores["group"] == group)]
        return rows.set_index("run_id").reindex(self.runs.index)

    def hypernym_coherence(self) -> pd.DataFrame:
        """Coherence of each hypernym under each label map, pooled as in the paper: `all_pairs` is its definition."""
        rows = self.coherence[(self.coherence["pooled"] == POOLING) & (self.coherence["kind"] == "hypernym")]
        return rows[["map", "arm", "category", "all_pairs", "centred"]].astype({"all_pairs": float, "centred": float})


class _MapKey(NamedTuple):
    """Runs that agree in all of this share one label map over the same features."""

    dataset_path: str | None
    store_path: str | None
    dataset_digest: str | None
    store_digest: str | None
    arm: str
    digest: str


def measure(sweep: Sweep) -> Study:
    """Compute every table. Reads each run's questions and predictions once, features once per label map."""
    runs = label_runs(sweep.runs)
    maps: dict[_MapKey, tuple[str, LabelMap]] = {}
    categories, scores, map_of_run = [], [], []
    for run_id, run in zip(map(str, runs.index), runs.to_dict("records"), strict=True):
        questions = sweep.questions(run_id)
        answers = sweep.answers(run_id, questions)
        # Held-out hypernyms of the validation split are never scored: tuning must not see them.
        answers = answers[(answers["split"] == "test") | (answers["group"] != "heldout")]
        table = add_baselines(measure_categories(answers))
        categories.append(table.assign(run_id=run_id))
        scores.append(summarise(table).assign(run_id=run_id))
        images = label_map(questions)
        inputs = {name: run[name] if isinstance(run[name], str) else None for name in PROVENANCE}
        key = _MapKey(**inputs, arm=str(run["arm"]), digest=images.digest)
        map_of_run.append(maps.setdefault(key, (f"map-{len(maps)}", images))[0])
    runs = runs.assign(map=map_of_run)
    coherence, kept, notes = _measure_maps(runs, maps)
    return Study(sweep, runs, _first(pd.concat(categories)), _first(pd.concat(scores)), coherence, kept, notes)


def _measure_maps(
    runs: pd.DataFrame, maps: dict[_MapKey, tuple[str, LabelMap]]
) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """Coherence and kept pairs of every label map; a dataset or store that is gone becomes a note."""
    open_once = lru_cache(open_inputs)
    coherence: list[pd.DataFrame] = []
    kept: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    owners = runs.drop_duplicates("map").set_index("map")[["encoder", "arm", "data_seed"]].to_dict("index")
    for key, (name, images) in maps.items():
        paths = {"dataset": key.dataset_path, "feature store": key.store_path}
        absent = [
            f"{what} ({path or 'path not recorded'})"
            for what, path in paths.items()
            if path is None or not Path(path).exists()
        ]
        if absent:
            notes[f"coherence was not computed, since the {' and the '.join(absent)} cannot be found"] = None
            continue
        dataset, store = open_once(str(key.dataset_path), str(key.store_path), key.dataset_digest, key.store_digest)
        about = {"map": name, **{str(field): value for field, value in owners[name].items()}}
        coherence.append(map_coherence(images, dataset, store).assign(**about))
        kept.append({**about, **pairs_kept(images, dataset)})
    empty = pd.DataFrame(columns=["map", "arm", "pooled", "kind", "category", "all_pairs", "centred"])
    return pd.concat(coherence) if coherence else empty, pd.DataFrame(kept), tuple(notes)


def coherence_points(study: Study) -> pd.DataFrame:
    """Held-out F1 of the pretrained LM beside coherence (all_pairs, centred): one row per setup, arm and hypernym."""
    known = study.hypernym_coherence().drop(columns="arm")
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    runs = study.runs.loc[study.runs["lm_init"] == "pretrained", ["setup", "arm", "map"]]
    rows = test[["run_id", "category", "f1"]].merge(runs, left_on="run_id", right_index=True)
    rows = rows.merge(known, on=["map", "category"])
    return rows.groupby(["setup", "arm", "category"], as_index=False)[["all_pairs", "centred", "f1"]].mean()


def _first(table: pd.DataFrame, column: str = "run_id") -> pd.DataFrame:
    """`table` with `column` moved to the front and rows renumbered."""
    return table[[column, *(name for name in table if name != column)]].reset_index(drop=True)
