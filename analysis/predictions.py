"""Saved runs: what the engine wrote, checked against its hashes and made tidy.

The schema is the files': `config.json`, `questions.parquet`, `predictions.parquet`, `metrics.jsonl` and `DONE`
in one folder per run. Nothing here knows how a run was computed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from analysis.tuning import read_tuning
from cachegen.dataset import SPLITS
from cachegen.errors import RunError
from cachegen.files import digest_file, read_json
from cachegen.taxonomy import name_problem

SCHEMA = 1
READ_FILES = ("config.json", "questions.parquet", "predictions.parquet")
RUN_MARKS = (*READ_FILES, "checkpoint.safetensors", "DONE", "FAILED")
CONDITION_FIELDS = ("encoder", "lm", "lm_init", "lm_seed", "shuffle", "ablation", "data_seed", "run_seed", "order")
# What runs were made with before a condition had the field.
FIELD_DEFAULTS: dict[str, Any] = {
    "across_rule": "paper",
    "within_rule": "deranged",
    "shuffled": 100,
    "permutation": 0,
    "subset": "all",
    "swap_rule": "coherence",
    "swap_leaves": 20,
    "homonyms": "keep",
    "ablation_kind": "random",
    "ablation_levels": "nested",
    "scope": "leaf",
    "removed_list": "drawn",
    "removed_as_negative": "keep",
    "supervise": "answer",
    "projector_layers": 2,
}
FIELD_TYPES = {field: type(value) for field, value in FIELD_DEFAULTS.items()}
FIELD_TYPES |= dict.fromkeys(CONDITION_FIELDS, str)
FIELD_TYPES |= dict.fromkeys(("lm_seed", "ablation", "data_seed", "run_seed"), int)
QUESTION_COLUMNS = [
    *("question", "image", "key", "image_leaf", "label_leaf", "kind", "category", "phrase"),
    *("split", "seen", "answer", "veridical"),
]
QUESTION_DEFAULTS = {"removed": False}  # columns that older question tables lack
LOGITS = ["logit_yes", "logit_no"]
# Kinds of numbers that a column may hold.
KINDS = {"question": "iu", "image": "iu", "mass": "f", **dict.fromkeys(LOGITS, "f")}
KINDS |= dict.fromkeys(("seen", "answer", "veridical", "removed"), "b")


@dataclass(frozen=True)
class Sweep:
    """The finished runs of one sweep folder.

    `runs`: index run_id (sorted), one column per condition field, plus dataset_path, store_path, dataset_digest,
    store_digest, lm_digest. `failed`: columns run_id, reason; these runs are listed and never averaged.
    """

    folder: Path
    runs: pd.DataFrame
    failed: pd.DataFrame

    def questions(self, run_id: str) -> pd.DataFrame:
        """All questions of one run (train, validation, test), one row each, in question order.

        `removed`: the category asked about is a hypernym that a systematic ablation removed.
        """
        path = self.folder / run_id / "questions.parquet"
        table = _read_table(path, QUESTION_COLUMNS, QUESTION_DEFAULTS)
        if not table["split"].isin(SPLITS).all() or not (table["split"] == "test").any():
            raise RunError(f"{path} has no test questions, or an unknown split; delete the run and repeat it")
        return table

    def questions_digest(self, run_id: str) -> str:
        """Hash of a run's question table: runs that differ in seeds of training or in LM share one table."""
        return str(read_json(self.folder / run_id / "DONE")["questions.parquet"])

    def answers(self, run_id: str, questions: pd.DataFrame | None = None) -> pd.DataFrame:
        """Validation and test questions with logits, mass and `derive_answers`. `questions`: when already read."""
        questions = self.questions(run_id) if questions is None else questions
        asked = questions[questions["split"] != "train"].reset_index(drop=True)
        return derive_answers(asked.join(self.logits(run_id, asked)))

    def logits(self, run_id: str, asked: pd.DataFrame) -> pd.DataFrame:
        """Columns logit_yes, logit_no, mass of one run, a row for each of `asked`: its validation and test questions.

        mass: probability of yes and no together among all tokens. Raises RunError where other questions are answered.
        """
        place = self.folder / run_id / "predictions.parquet"
        predictions = _read_table(place, ["question", *LOGITS, "mass"])
        row = pd.Index(predictions["question"])
        same = row.is_unique and len(row) == len(asked)
        row = row.get_indexer(pd.Index(asked["question"])) if same else np.array([-1])
        if (row < 0).any():
            raise RunError(
                f"{place} does not answer each validation and test question exactly once; delete the run and repeat it"
            )
        return predictions[[*LOGITS, "mass"]].take(row).set_index(asked.index)

    def losses(self, run_id: str) -> pd.DataFrame:
        """Training log: columns step, loss (float); empty when the run kept none."""
        path = self.folder / run_id / "metrics.jsonl"
        if not path.exists():
            return pd.DataFrame({"step": [], "loss": []}, dtype=float)
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return pd.DataFrame([(row["step"], row["loss"]) for row in rows], columns=["step", "loss"]).astype(float)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunError(f"{path} is no training log ({error}); delete the run and repeat it") from None


def derive_answers(table: pd.DataFrame) -> pd.DataFrame:
    """Questions with logits, plus what follows from them.

    Adds predicted (bool; a tie is yes), tie (bool), margin (logit_yes - logit_no, float64), p_yes (probability of
    yes among yes and no) and, where it is not there yet, group (see `question_groups`).
    """
    margin = table["logit_yes"].to_numpy(float) - table["logit_no"].to_numpy(float)
    answers = table.assign(
        predicted=margin >= 0,
        tie=margin == 0,
        margin=margin,
        p_yes=1.0 / (1.0 + np.exp(np.clip(-margin, -700, 700))),
    )
    return answers if "group" in table else answers.assign(group=question_groups(table))


def question_groups(questions: pd.DataFrame) -> NDArray[np.str_]:
    """Group of each question: "leaf", or of a hypernym "seen" or "heldout" (its questions were withheld)."""
    is_leaf = (questions["kind"] == "leaf").to_numpy(bool)
    return np.select([is_leaf, questions["seen"].to_numpy(bool)], ["leaf", "seen"], default="heldout")


def load_sweep(folder: Path) -> Sweep:
    """Read every run of a sweep folder.

    Runs that are not finished, runs marked FAILED and runs with logits that are not finite are listed in `failed`.
    Raises RunError, one line, for a file that differs from its hash in DONE, a config of another schema, or a
    folder without finished runs. Of a tuning study only the best trial's runs are read.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; give the sweep folder that holds the runs")
    places = sorted(
        child for child in folder.iterdir() if child.is_dir() and any((child / mark).exists() for mark in RUN_MARKS)
    )
    if not places:
        raise RunError(f"no runs in {folder}; give the sweep folder that holds the runs, or train some first")
    if (tuning := read_tuning(folder)) is not None:
        places = [place for place in places if place.name in tuning.runs]
    rows: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    for place in places:
        reason = _failure(place)
        if reason is None:
            _check_hashes(place)
            reason = _bad_logits(place)
        if reason is None:
            rows.append(_read_config(place))
        else:
            failed.append((place.name, reason))
    if not rows and not failed:
        raise RunError(f"{folder} is a tuning study without a best trial yet; let `crosstax tune` go on")
    if not rows:
        raise RunError(f"none of the {len(failed)} runs in {folder} has results; the first: {failed[0][1]}")
    runs = pd.DataFrame(rows).set_index("run_id").sort_index()
    for seed in ("data_seed", "permutation", "run_seed", "lm_seed"):
        runs[seed] = runs[seed].astype("Int64")
    return Sweep(folder, runs, pd.DataFrame(failed, columns=["run_id", "reason"]))


def _failure(place: Path) -> str | None:
    """Why a run has no results; None for a finished one."""
    if (place / "FAILED").exists():
        record = read_json(place / "FAILED")
        return str(record.get("reason", "no reason recorded")) if isinstance(record, dict) else str(record)
    return None if (place / "DONE").exists() else "not finished; repeat the command that made it"


def _check_hashes(place: Path) -> None:
    hashes = read_json(place / "DONE")
    if not isinstance(hashes, dict):
        raise RunError(f"{place / 'DONE'} holds no hashes; delete the run and repeat it")
    if strange := [name for name in hashes if name_problem(name)]:
        raise RunError(f"{place / 'DONE'} names {strange[0]!r}, no file of the run; delete the run and repeat it")
    unlisted = sorted(set(READ_FILES) - set(hashes))
    if unlisted:
        raise RunError(f"{place / 'DONE'} holds no hash of {unlisted[0]}; delete the run and repeat it")
    for name, expected in sorted(hashes.items()):
        path = place / name
        if not path.is_file():
            raise RunError(f"{path} is missing though DONE lists it; delete the run and repeat it")
        if digest_file(path) != expected:
            raise RunError(f"{path} changed after the run finished (its hash is not DONE's); delete and repeat the run")


def _bad_logits(place: Path) -> str | None:
    logits = _read_table(place / "predictions.parquet", LOGITS).to_numpy(float)
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    return f"{bad} of {len(logits)} predictions have logits that are not finite" if bad else None


def _read_config(place: Path) -> dict[str, Any]:
    path = place / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or config.get("schema") != SCHEMA:
        schema = config.get("schema") if isinstance(config, dict) else "none"
        raise RunError(f"{path} has schema {schema}, this version reads {SCHEMA}; repeat the run")
    condition, paths, digests = (config.get(name, {}) for name in ("condition", "paths", "digests"))
    if not all(isinstance(table, dict) for table in (condition, paths, digests)):
        raise RunError(f"{path}: condition, paths or digests is no table; delete the run and repeat it")
    missing = [field for field in CONDITION_FIELDS if field not in condition]
    if missing:
        raise RunError(f"{path} lacks the condition field {missing[0]}; delete the run and repeat it")
    for field in condition.keys() & FIELD_TYPES.keys():
        if type(condition[field]) is not FIELD_TYPES[field]:
            raise RunError(f"{path}: condition: {field} is {condition[field]!r}; delete the run and repeat it")
    return {
        "run_id": place.name,
        **{field: _flat(value) for field, value in {**FIELD_DEFAULTS, **condition}.items()},
        "dataset_path": paths.get("dataset"),
        "store_path": paths.get("features"),
        **{f"{name}_digest": digests.get(name) for name in ("dataset", "store", "lm")},
    }


def _flat(value: Any) -> Any:
    """Condition values as table cells: lists and nested fields become short text."""
    if isinstance(value, list):
        return " / ".join(map(str, value))
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _read_table(path: Path, columns: list[str], defaults: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The columns named, and those of `defaults` with their value where the file lacks them."""
    try:
        known = pq.read_schema(path).names
        absent = {name: value for name, value in (defaults or {}).items() if name not in known}
        table = pd.read_parquet(path, columns=[*columns, *(name for name in defaults or {} if name not in absent)])
        if wrong := [name for name in table if table[name].dtype.kind not in KINDS.get(str(name), "OUiufb")]:
            raise ValueError(f"column {wrong[0]} is of type {table[wrong[0]].dtype}")
        return table.assign(**absent)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors derive from these
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} is not a readable table with columns {', '.join(columns)} ({reason})") from error
