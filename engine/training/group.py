"""One lockstep group: from question tables to finished run directories."""

import contextlib
import errno
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.markup import escape

from cachegen.common.device import emulated, keeps_bytes
from cachegen.common.errors import CrosstaxError, RunError, WriteError, is_fault
from cachegen.common.files import FULL
from cachegen.common.progress import console, progress_bar, tell
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.data.taxonomy import WORDINGS
from engine.design.candidates import candidates_of
from engine.design.condition import SCHEMA
from engine.design.languages import spoken
from engine.design.questions import build_questions, count_questions
from engine.lm.language_model import FrozenLM, load_lm
from engine.lm.loading import resolve_lm
from engine.lm.projector import Projector, new_projector
from engine.lm.prompts import PromptTokens, prompt_tokens
from engine.lm.shape import lm_shape
from engine.runs.config import read_config
from engine.runs.directory import RunDirectory
from engine.runs.finished import features_of
from engine.runs.places import absolute_places
from engine.runs.planned import Execution, PlannedRun
from engine.training.batches import QuestionArrays
from engine.training.evaluation import evaluate
from engine.training.features import Features
from engine.training.held_signals import held_signals
from engine.training.loop import TrainingRun, train_group
from engine.training.naming import answers_of_names, name_candidates
from engine.training.tracking import tracking

# Steps from which on compiling pays. It should take a minute or two; counts of kernels let expect that it saves half of
# the 40 to 80 ms of a step of a 0.6B LM. Neither was measured on a card.
WORTH_COMPILING = 3000


@dataclass(frozen=True)
class Shared:
    """What all runs of a group have in common; `test_tokens`: of validation and test questions, see `languages`."""

    dataset: Dataset
    features: Features
    lm: FrozenLM
    tokens: PromptTokens
    test_tokens: PromptTokens

    def arrays(self, questions: pd.DataFrame, tokens: PromptTokens) -> QuestionArrays:
        """A question table as the engine reads it, of training with `tokens`, else with `test_tokens`."""
        suffix = tokens.row_numbers(questions)
        return QuestionArrays(questions["image"].to_numpy(), suffix, questions["answer"].to_numpy())


class Opener:
    """Opens what groups share, and keeps the last dataset, features and LM for the next group that needs them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._features: tuple[Any, Any] = (None, None)
        self._lm: tuple[Any, Any] = (None, None)

    def check_device(self) -> None:
        """Raise `DeviceLostError` if the device does nothing any more, as after an illegal access to its memory."""
        try:
            torch.zeros(1, device=self.device).add_(1).item()
        except RuntimeError as error:
            raise DeviceLostError(
                f"{self.device} does not answer this process any more ({' '.join(str(error).split())[:100]}); the same "
                "command goes on with the other runs"
            ) from None

    def open(self, run: PlannedRun) -> Shared:
        """Dataset, features, LM and prompt of a run's group."""
        dataset, features = self._open_features(run)
        lm = self._open_lm(run)
        said = run.condition
        form, fields = f"questions say {said.question_singular!r}", "question_singular and question_plural"
        worded = said.question_singular + said.question_plural
        if said.task == "name":
            form, fields = f"sentences say {said.carrier_leaf!r}", "carrier_leaf and carrier_hypernym"
            worded = said.carrier_leaf + said.carrier_hypernym
        if dataset.items and any(word in worded for word in ("image", "picture")):
            tell(f"note: {dataset.root} has items, and {form}; set {fields} to what they are")
        trained, tested = (spoken(dataset, said, split) for split in ("train", "test"))
        tokens = prompt_tokens(trained[1], lm.tokenizer, trained[0], lm.rows)
        same = said.train_language == said.test_language
        test_tokens = tokens if same else prompt_tokens(tested[1], lm.tokenizer, tested[0], lm.rows)
        return Shared(dataset, features, lm, tokens, test_tokens)

    def _open_features(self, run: PlannedRun) -> tuple[Dataset, Features]:
        key = (run.inputs.dataset, run.inputs.features, run.condition.pool)
        if self._features[0] != key:
            self._features = (None, None)  # freed before the next are read: two may not fit
            dataset = load_dataset(run.inputs.dataset)
            self._features = (key, (dataset, self._read_features(run, dataset)))
        return self._features[1]

    def _read_features(self, run: PlannedRun, dataset: Dataset) -> Features:
        shape = lm_shape(run.inputs.lm)
        weights = shape.weights * getattr(torch, run.condition.dtype).itemsize if shape else 0
        keys = list(dataset.images["key"])
        return Features(run.inputs.features, keys, self.device, pool=run.condition.pool, reserved=weights)

    def _open_lm(self, run: PlannedRun) -> FrozenLM:
        c = run.condition
        key = (run.inputs.lm, c.dtype, c.lm_seed if c.lm_init == "random" else None, c.lm_sharing)
        if self._lm[0] != key:
            self._lm = (None, None)
            if slow := emulated(self.device, c.dtype):
                tell(f"warning: {slow}")
            folder = resolve_lm(run.inputs.lm)
            lm = load_lm(folder, c.lm_init, c.lm_seed, c.dtype, self.device, c.lm_sharing)
            if lm.way != "shared":
                tell(f"{run.inputs.lm}: {lm.described}")
            self._lm = (key, lm)
        return self._lm[1]


def run_group(
    members: list[PlannedRun],
    directories: list[RunDirectory],
    shared: Shared,
    checkpoint: Path,
    max_tokens: int,
    execution: Execution,
) -> None:
    """Train a group from its checkpoint if there is one, evaluate each of its runs, and declare them done.

    A run without a question table is marked FAILED and takes no part. One that cannot be evaluated is marked too, and
    the group's checkpoint is kept for it. Raises what concerns the whole group.
    """
    begun, runs, tables = [], [], []
    for member, folder in zip(members, directories, strict=True):
        directory = replace(folder, sealed=folder.done)
        try:
            questions = _questions(member, shared)
            train = questions[questions["split"] == "train"]
            run = TrainingRun(
                directory, member.condition, shared.arrays(train, shared.tokens), make_projector(member, train, shared)
            )
        except BaseException as error:
            if concerns_all(error, checkpoint.parent) or out_of_memory(error) or directory.sealed:
                raise
            fail(directory, error)
            continue
        begun.append(member)
        runs.append(run)
        tables.append(questions)
    if not runs:
        return
    steps = max(run.steps for run in runs)
    if execution.compile and worth_compiling(shared.lm.device, steps):
        with console.status("compiling the LM's layers"):
            problem = shared.lm.compile_layers()
        if problem:
            tell(f"the LM's layers are not compiled ({problem})")
    for member, run, questions in zip(begun, runs, tables, strict=True):
        places = absolute_places(run.directory.path, member.inputs, member.encoder)
        config = _config(member, questions, shared) | _compiled(run.directory, shared.lm, checkpoint.exists())
        run.directory.begin(config, questions, places)

    compiled = shared.lm.compiled

    def stepped(count: int) -> None:
        nonlocal compiled
        if compiled and not shared.lm.compiled:  # to be on disk before the checkpoint
            compiled = False
            tell(f"from some step on, the LM's layers were not compiled ({shared.lm.not_compiled})")
            for run in runs:
                if not run.directory.over:
                    run.directory.note(_compiled(run.directory, shared.lm, resumed=True))
        advance(count)

    started = time.perf_counter()
    with (
        held_signals() as held,
        progress_bar(f"train {len(runs)} runs", steps, "steps") as advance,
        tracking(execution.track, [run.directory for run in runs]) as logged,
    ):
        train_group(
            runs,
            shared.lm,
            shared.features,
            shared.tokens,
            checkpoint,
            max_tokens=max_tokens,
            checkpoint_seconds=execution.checkpoint_seconds,
            advance=stepped,
            logged=logged,
            held=held,
        )
    trained = {"stage": "train", "seconds": time.perf_counter() - started, "steps": steps, "runs": len(runs)}
    asked = [questions[questions["split"] != "train"] for questions in tables]
    with progress_bar(f"evaluate {len(runs)} runs", sum(map(len, asked)), "questions") as advance:
        for run, questions in zip(runs, asked, strict=True):
            if run.directory.over:
                continue
            try:
                _finish(run, questions, shared, max_tokens, trained, advance)
            except BaseException as error:
                if concerns_all(error, checkpoint.parent) or out_of_memory(error):
                    raise
                fail(run.directory, error, resume=True)
    if not any(run.directory.again("resume") for run in runs):
        checkpoint.unlink(missing_ok=True)


def worth_compiling(device: torch.device, steps: int) -> bool:
    """Whether layers should be compiled for so many steps. On a CPU never: it would move the last bits of its runs."""
    return not keeps_bytes(device) and steps >= WORTH_COMPILING


def _compiled(directory: RunDirectory, lm: FrozenLM, resumed: bool) -> dict[str, Any]:
    """What `config.json` says of compiling: nothing, true, or "in part" if the LM is not what it was before.

    What it said before counts where a run is `resumed` only; else it is another attempt's.
    """
    before = now = lm.compiled
    with contextlib.suppress(CrosstaxError):  # damaged; it is written anew
        before = read_config(directory.path).get("compiled", False) if resumed else now
    said = now if now == before else "in part"
    return {"compiled": said} if said else {}


def _questions(run: PlannedRun, shared: Shared) -> pd.DataFrame:
    """A run's question table; raises what `build_questions` raises, and `RunError` if nothing is to be trained on."""
    features = shared.features
    pooled = features.pooled_patches() if run.condition.subset == "swap" else None
    questions = build_questions(shared.dataset, run.condition, features.unreadable, pooled)
    if not (questions["split"] == "train").any():
        raise RunError(f"{run.id}: no training question is left; give the leaves more {shared.dataset.noun}")
    return questions


def fail(directory: RunDirectory, reason: str | BaseException, **again: bool) -> None:
    """Record that a run ended without usable results (see `RunDirectory.fail`), and say so."""
    directory.fail(reason, **again)
    console.print(f"[red]failed[/]: {directory.path.name}: {escape(directory.reason)}", highlight=False, soft_wrap=True)


def out_of_memory(error: BaseException) -> bool:
    """Whether something was too large for the device or the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def concerns_all(error: BaseException, out: Path) -> bool:
    """Whether an error is no run's or group's own: Ctrl-C and its like, or a sweep folder that cannot be written."""
    if isinstance(error, OSError):
        inside = isinstance(error.filename, str) and Path(error.filename).is_relative_to(out)
        return inside or error.errno in (*FULL, errno.EROFS, errno.EMFILE, errno.ENFILE)
    return isinstance(error, WriteError) or not is_fault(error)


class DeviceLostError(CrosstaxError):
    """A GPU that does not answer this process any more; another process may find it sound."""


def make_projector(run: PlannedRun, train: pd.DataFrame, shared: Shared) -> Projector:
    """Untrained projector of a run; `train` are its training questions, whose images give the statistics."""
    c = run.condition
    return new_projector(
        (shared.features.width, shared.lm.width),
        shared.lm.dtype,
        "shared" if c.shared_initial_weights else c.run_seed,
        shared.features.statistics(train["image"].unique()) if c.standardise else None,
        shared.lm.embedding_rms if c.output_scale == "embedding_rms" else None,
        c.projector_layers,
    ).to(shared.lm.device)


def _finish(
    run: TrainingRun,
    questions: pd.DataFrame,
    shared: Shared,
    max_tokens: int,
    trained: dict[str, Any],
    advance: Callable[[int], None],
) -> None:
    """Evaluate one trained run and write its results, or record that it diverged."""
    directory = run.directory
    if not all(parameter.isfinite().all() for parameter in run.projector.parameters()):
        fail(directory, "the projector's weights are not finite; lower learning_rate or look at metrics.jsonl")
        return
    started = time.perf_counter()
    read = (run.projector, shared.lm, shared.features, shared.test_tokens)
    if run.condition.task == "name":
        candidates = candidates_of(shared.dataset, run.condition, questions)
        named = name_candidates(*read, candidates, max_tokens=max_tokens)
        answers = answers_of_names(questions, named)
        directory.write_table("names.parquet", named)
        advance(len(questions))
    else:
        arrays = shared.arrays(questions, shared.test_tokens)
        answers = evaluate(*read, arrays, max_tokens=max_tokens, advance=advance)
    answers.insert(0, "question", questions["question"].to_numpy())
    directory.write_projector(run.projector)
    directory.write_table("predictions.parquet", answers)
    evaluated = {"stage": "evaluate", "seconds": time.perf_counter() - started, "questions": len(questions)}
    directory.append_timing(trained, evaluated)
    directory.note(_compiled(directory, shared.lm, resumed=True))
    directory.finish()


def _config(run: PlannedRun, questions: pd.DataFrame, shared: Shared) -> dict[str, Any]:
    wording = spoken(shared.dataset, run.condition, "test")[1].model_dump(include=set(WORDINGS))
    return {
        "schema": SCHEMA,
        "run_id": run.id,
        "condition": {"encoder": run.encoder, "lm": run.inputs.lm, **run.condition.model_dump()},
        "digests": run.digests,
        "paths": json.loads(run.inputs.model_dump_json()),
        "store": features_of(shared.features.store),
        "counts": count_questions(questions),
        "lm_way": shared.lm.way,
        **({"stimuli": "items"} if shared.dataset.items else {}),
        **({"test_wording": wording} if run.condition.test_language else {}),
    }
