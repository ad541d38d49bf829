"""A sweep: from a list of runs to finished run directories, in lockstep groups, resumable at any point."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cachegen.dataset import Dataset, load_dataset
from cachegen.errors import RunError
from cachegen.files import exclusive_lock, read_json
from cachegen.progress import console, progress_bar
from engine.batches import QuestionArrays
from engine.condition import SCHEMA, Condition, Inputs, Sweep
from engine.evaluation import evaluate
from engine.features import Features
from engine.language_model import FrozenLM, load_lm, resolve_lm
from engine.plan import Execution, PlannedRun, group_runs, plan_runs
from engine.projector import new_projector
from engine.prompts import PromptTokens, tokenise
from engine.questions import build_questions, count_questions
from engine.run_directory import RunDirectory
from engine.training import TrainingRun, train_group


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def run_sweep(sweep: Sweep, out: Path, execution: Execution) -> list[Path]:
    """Carry out all runs below `out` and return their directories, in the sweep's order.

    Runs that are done are skipped; an interrupted group goes on from its checkpoint. A run whose weights are no
    longer finite is marked FAILED, and the sweep goes on.
    """
    runs = {run.id: run for run in plan_runs(sweep)}
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out / ".lock", f"sweep {out}"):
        plan = group_runs(runs, out, execution)
        loaded: tuple[Any, Any] = (None, None)
        for group in plan["groups"]:
            directories = [RunDirectory(out / run_id) for run_id in group["runs"]]
            if not set(group["runs"]) & set(runs) or all(d.failed or d.done for d in directories):
                continue
            missing = set(group["runs"]) - set(runs)
            if missing:
                raise RunError(
                    f"{out}: {sorted(missing)[0]} was planned in one group with runs of this sweep but is not asked "
                    "for now; start the sweep as it was, or choose another --out"
                )
            members = [runs[run_id] for run_id in group["runs"]]
            if loaded[0] != members[0].shares:
                loaded = (members[0].shares, _load(members[0], execution))
            _run_group(
                members, directories, out / f"{group['id']}.safetensors", loaded[1], plan["max_tokens"], execution
            )
    return [out / run_id for run_id in runs]


@dataclass(frozen=True)
class _Loaded:
    dataset: Dataset
    features: Features
    lm: FrozenLM
    tokens: PromptTokens


def _load(run: PlannedRun, execution: Execution) -> _Loaded:
    """Open what a group shares."""
    device = choose_device(execution.device)
    c = run.condition
    dataset = load_dataset(run.inputs.dataset)
    features = Features(run.inputs.features, dataset, device)
    lm = load_lm(resolve_lm(run.inputs.lm), c.lm_init, c.lm_seed, c.dtype, device)
    asked = pd.concat([dataset.leaves[["phrase", "number"]], dataset.hypernyms[["phrase", "number"]]])
    return _Loaded(dataset, features, lm, tokenise(c, lm.tokenizer, asked.itertuples(index=False, name=None)))


def _arrays(questions: pd.DataFrame, tokens: PromptTokens) -> QuestionArrays:
    asked = zip(questions["phrase"], questions["number"], strict=True)
    suffix = np.array([tokens.rows[question] for question in asked], dtype=np.int64)
    return QuestionArrays(questions["image"].to_numpy(), suffix, questions["answer"].to_numpy())


def _run_group(
    members: list[PlannedRun],
    directories: list[RunDirectory],
    checkpoint: Path,
    loaded: _Loaded,
    max_tokens: int,
    execution: Execution,
) -> None:
    """Train a group, evaluate each of its runs, and declare them done."""
    tables = [build_questions(loaded.dataset, run.condition, loaded.features.unreadable) for run in members]
    for run, directory, questions in zip(members, directories, tables, strict=True):
        directory.begin(_config(run, questions), questions)
    runs = [
        _training_run(run, directory, questions, loaded)
        for run, directory, questions in zip(members, directories, tables, strict=True)
    ]
    started = time.perf_counter()
    last = max(run.steps for run in runs)
    with progress_bar(f"train {len(runs)} runs", last, "steps") as advance:
        train_group(
            runs,
            loaded.lm,
            loaded.features,
            loaded.tokens,
            checkpoint,
            max_tokens=max_tokens,
            checkpoint_seconds=execution.checkpoint_seconds,
            advance=advance,
        )
    trained = {"stage": "train", "seconds": time.perf_counter() - started, "steps": last, "runs": len(runs)}
    asked = [questions[questions["split"] != "train"] for questions in tables]
    with progress_bar(f"evaluate {len(runs)} runs", sum(map(len, asked)), "questions") as advance:
        for trained_run, questions in zip(runs, asked, strict=True):
            _finish(trained_run, questions, loaded, max_tokens, trained, advance)
    checkpoint.unlink(missing_ok=True)


def _training_run(run: PlannedRun, directory: RunDirectory, questions: pd.DataFrame, loaded: _Loaded) -> TrainingRun:
    c = run.condition
    train = questions[questions["split"] == "train"]
    if train.empty:
        raise RunError(f"{directory.path.name}: no training question is left; give the leaves more images")
    projector = new_projector(
        (loaded.features.width, loaded.lm.width),
        loaded.lm.dtype,
        "shared" if c.shared_initial_weights else c.run_seed,
        loaded.features.statistics(train["image"].unique()) if c.standardise else None,
        loaded.lm.embedding_rms if c.output_scale == "embedding_rms" else None,
    ).to(loaded.lm.device)
    return TrainingRun(directory, c, _arrays(train, loaded.tokens), projector)


def _finish(
    run: TrainingRun,
    questions: pd.DataFrame,
    loaded: _Loaded,
    max_tokens: int,
    trained: dict[str, Any],
    advance: Callable[[int], None],
) -> None:
    """Evaluate one trained run and write its results; a run that is done or failed is left as it is."""
    directory = run.directory
    if directory.failed or directory.done:
        advance(len(questions))
        return
    if not all(parameter.isfinite().all() for parameter in run.projector.parameters()):
        directory.fail("the projector's weights are not finite; lower learning_rate or look at metrics.jsonl")
        console.print(f"[red]failed[/]: {directory.path.name}: weights are not finite after training")
        advance(len(questions))
        return
    started = time.perf_counter()
    answers = evaluate(
        run.projector,
        loaded.lm,
        loaded.features,
        loaded.tokens,
        _arrays(questions, loaded.tokens),
        max_tokens=max_tokens,
        advance=advance,
    )
    answers.insert(0, "question", questions["question"].to_numpy())
    directory.write_projector(run.projector)
    directory.write_table("predictions.parquet", answers)
    directory.append_timing(trained)
    directory.append_timing(
        {"stage": "evaluate", "seconds": time.perf_counter() - started, "questions": len(questions)}
    )
    directory.finish()


def _config(run: PlannedRun, questions: pd.DataFrame) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run_id": run.id,
        "condition": {"encoder": run.encoder, "lm": run.inputs.lm, **run.condition.model_dump()},
        "digests": run.digests,
        "paths": json.loads(run.inputs.model_dump_json()),
        "counts": count_questions(questions),
    }


def evaluate_run(folder: Path, split: str, execution: Execution) -> pd.DataFrame:
    """Ask a trained run its questions of one split again: its question table with the answers' columns beside it.

    Raises `RunError` if the run has no projector or its inputs are no longer the ones it was trained on.
    """
    directory = RunDirectory(folder)
    config = read_json(directory.file("config.json"))
    condition = {name: value for name, value in config["condition"].items() if name in Condition.model_fields}
    (run,) = plan_runs(Sweep(runs=((Inputs(**config["paths"]), Condition(**condition)),)))
    if run.digests != config["digests"]:
        changed = [name for name in run.digests if run.digests[name] != config["digests"].get(name)]
        raise RunError(f"{folder}: its {changed[0]} has changed since training; restore it or train again")
    loaded = _load(run, execution)
    questions = pd.read_parquet(directory.file("questions.parquet"))
    projector = _training_run(run, directory, questions, loaded).projector
    try:
        projector.load_state_dict(load_file(directory.file("projector.safetensors"), device=str(loaded.lm.device)))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{folder}: its projector cannot be read ({error}); train the run again") from None
    asked = questions[questions["split"] == split].reset_index(drop=True)
    with progress_bar("evaluate", len(asked), "questions") as advance:
        answers = evaluate(
            projector,
            loaded.lm,
            loaded.features,
            loaded.tokens,
            _arrays(asked, loaded.tokens),
            max_tokens=execution.max_tokens,
            advance=advance,
        )
    return pd.concat([asked, answers], axis=1)
