"""The finished runs of a sweep folder as tidy tables; `engine.runs` opens and checks each of them once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.inputs import FoundInputs
from analysis.tuning import read_tuning
from cachegen.common.errors import CrosstaxError, RunError, listing
from engine.design.condition import SEEDS
from engine.runs.config import read_config
from engine.runs.directory import HASHED, RunDirectory
from engine.runs.finished import FinishedRun, open_run

RUN_MARKS = (*HASHED, "DONE", "FAILED")


@dataclass(frozen=True)
class SavedRuns:
    """The finished runs of one sweep folder; made by `load_sweep`.

    Attributes:
        folder: The sweep folder.
        runs: Index run_id, sorted. One column per field of the condition, and encoder, lm, dataset_path, store_path,
            dataset_digest, store_digest, lm_digest, tokenizer_digest. A path says where the input is now, or where it
            was if it is gone.
        failed: Columns run_id (name of the folder) and reason. These runs have no results and are never averaged.
        copies: The same columns, for folders that hold a run for the second time.
        opened: Each run by its id.
        inputs: Datasets and feature stores of the runs.
    """

    folder: Path
    runs: pd.DataFrame
    failed: pd.DataFrame
    copies: pd.DataFrame
    opened: Mapping[str, FinishedRun]
    inputs: FoundInputs

    def questions(self, run_id: str) -> pd.DataFrame:
        """All questions of one run, one row each: see `FinishedRun.questions`."""
        return self.opened[run_id].questions()

    def questions_digest(self, run_id: str) -> str:
        """Hash of a run's question table. Runs that differ in run_seed or LM only have the same table."""
        return self.opened[run_id].hashes["questions.parquet"]

    def answers(self, run_id: str, questions: pd.DataFrame | None = None) -> pd.DataFrame:
        """Validation and test questions of a run with its answers, one row each.

        Args:
            run_id: Name of the run, from the index of `runs`.
            questions: Its questions, if they have been read already.

        Returns:
            The columns of `questions`, logit_yes, logit_no, mass, and those that `derive_answers` adds.
        """
        questions = self.questions(run_id) if questions is None else questions
        asked = questions[questions["split"] != "train"].reset_index(drop=True)
        return derive_answers(asked.join(self.opened[run_id].logits(asked)))

    def losses(self, run_id: str) -> pd.DataFrame:
        """The training log: columns step and loss, both float."""
        return self.opened[run_id].losses()


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


def load_sweep(folder: Path, datasets: Sequence[Path] = (), stores: Sequence[Path] = ()) -> SavedRuns:
    """Open every finished run of a sweep folder.

    A run counts once, under the id that follows from its condition and inputs, whatever its folder is called. Runs that
    are unfinished or failed, or whose logits are not finite, are listed in `failed`. Only the best trial of a
    tuning study is read.

    Args:
        folder: Sweep folder, from `run_sweep` or `crosstax sweep`.
        datasets: Where datasets are now, if they have moved.
        stores: Where feature stores are now, if they have moved.

    Raises:
        RunError: The folder has no finished runs, or a file of a run has changed since the run ended.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; give the sweep folder that holds the runs")
    places = sorted(
        child for child in folder.iterdir() if child.is_dir() and any((child / mark).exists() for mark in RUN_MARKS)
    )
    if not places:
        raise RunError(f"no runs in {folder}; give the sweep folder that holds the runs, or train some first")
    if (tuning := read_tuning(folder)) is not None:
        places = [place for place in places if {place.name, _claimed_id(place)} & tuning.runs]
    opened: dict[str, FinishedRun] = {}
    failed: list[tuple[str, str]] = []
    copies: list[tuple[str, str]] = []
    damaged: list[CrosstaxError] = []
    for place in sorted(places, key=lambda place: place.name != _claimed_id(place)):  # a run before its copies
        try:
            run = None if (reason := RunDirectory(place).unfinished) else open_run(place)
            reason = reason if run is None else run.bad_logits()
        except CrosstaxError as error:
            damaged.append(error)
            continue
        if run is None or reason:
            failed.append((place.name, str(reason)))
        elif run.id in opened:
            copies.append((place.name, _copied(run, opened[run.id])))
        else:
            opened[run.id] = run
    if damaged:  # without them it would be an analysis of other runs than were asked about
        says = f"{len(damaged)} runs in {folder} are damaged; move them elsewhere, or delete and repeat them"
        raise damaged[0] if len(damaged) == 1 else RunError(listing(says, sorted(map(str, damaged))))
    if not opened and not failed:
        raise RunError(f"{folder} is a tuning study without a best trial yet; let `crosstax tune` go on")
    if not opened:
        raise RunError(f"none of the {len(failed)} runs in {folder} has results; the first: {min(failed)[1]}")
    inputs = FoundInputs(datasets, stores)
    inputs.require_used(list(opened.values()))
    runs = pd.DataFrame([_row(run, inputs) for run in opened.values()]).set_index("run_id").sort_index()
    for seed in SEEDS:
        runs[seed] = runs[seed].astype("Int64")
    listed = [pd.DataFrame(sorted(rows), columns=["run_id", "reason"]) for rows in (failed, copies)]
    return SavedRuns(folder, runs, listed[0], listed[1], opened, inputs)


def _claimed_id(place: Path) -> str:
    """The run that a folder says it holds; its name where it says nothing."""
    try:
        return str(read_config(place).get("run_id", place.name))
    except CrosstaxError:
        return place.name


def _copied(run: FinishedRun, first: FinishedRun) -> str:
    """What a folder is whose run has been opened from another one."""
    same = run.hashes["predictions.parquet"] == first.hashes["predictions.parquet"]
    what = "a copy of" if same else "another training, with other answers, of the run in"
    return f"{what} {first.directory.path.name}, which counts once"


def _row(run: FinishedRun, inputs: FoundInputs) -> dict[str, Any]:
    dataset, store = inputs.dataset(run), inputs.store(run)
    digests = run.config["digests"]
    return {
        "run_id": run.id,
        "encoder": run.config["condition"]["encoder"],
        "lm": run.config["condition"]["lm"],
        **run.condition.model_dump(),
        "dataset_path": run.named("dataset") if dataset is None else dataset[0],
        "store_path": run.named("features") if store is None else store[0],
        **{f"{name}_digest": digests.get(name, "") for name in ("dataset", "store", "lm", "tokenizer")},
    }
