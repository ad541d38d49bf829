"""Lockstep training: runs that share encoder and LM train side by side in one row per step.

Each run keeps its own projector, question order, number of steps, schedule, clipping and loss; the LM sees one
packed row of all of them. Runs never meet in a reduction, so one that diverges leaves the others' bytes alone.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from cachegen.common.device import keeps_bytes, on_device
from engine.design.condition import Condition
from engine.lm.language_model import FrozenLM
from engine.lm.projector import Projector
from engine.lm.prompts import PromptTokens
from engine.runs.directory import RunDirectory
from engine.training.batches import PackedRow, QuestionArrays, epoch_batches, n_batches, pack
from engine.training.checkpoint import REMEDY, Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from engine.training.features import Features, prefetched
from engine.training.held_signals import HeldSignals

LOG_EVERY = 20


@dataclass(frozen=True)
class TrainingRun:
    """One run of a lockstep group: its directory, condition, training questions and fresh projector."""

    directory: RunDirectory
    condition: Condition
    questions: QuestionArrays
    projector: Projector

    @property
    def steps(self) -> int:
        return self.condition.epochs * n_batches(len(self.questions.image), self.condition.batch)

    def batches(self) -> Iterator[np.ndarray]:
        """Rows of `questions` of every step, in order."""
        for epoch in range(self.condition.epochs):
            c = self.condition
            yield from epoch_batches(self.questions.image, c.order, c.batch, c.run_seed, epoch)


def learning_rate(condition: Condition, step: int, steps: int) -> float:
    """Rate of step 0, 1, ...: linear warm-up from 0, then half a cosine to 0 (Table 1)."""
    warm = int(condition.warmup * steps)
    if step < warm:
        return condition.learning_rate * step / warm
    return condition.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def prompt_row(
    lm: FrozenLM,
    tokens: PromptTokens,
    row: PackedRow,
    projectors: list[Projector],
    features: list[torch.Tensor],
    suffix: np.ndarray,
    last: int = 1,
) -> torch.Tensor:
    """Hidden states (last * Q, D) at the last tokens of each question of a packed row, the earlier tokens first.

    `features[r]`: (I_r, P, V) of run r's listed items; `suffix` (Q,): rows of the suffix table, in row order. Of names
    the states at all places where `named_tokens` has a target, in its order.
    """
    patches = [project(x).to(lm.dtype) for project, x in zip(projectors, features, strict=True) if len(x)]
    images_IPD = torch.cat(patches).index_select(0, on_device(row.place, lm.device))
    if len(tokens.prefix):
        text_BD = lm.embed(on_device(tokens.prefix, lm.device))
        images_IPD = torch.cat([text_BD.expand(len(images_IPD), -1, -1), images_IPD], dim=1)
    if len(tokens.between):
        text_CD = lm.embed(on_device(tokens.between, lm.device))
        images_IPD = torch.cat([images_IPD, text_CD.expand(len(images_IPD), -1, -1)], dim=1)
    ids_QS = on_device(tokens.suffixes[suffix], lm.device)
    lengths_Q = on_device(tokens.lengths[suffix], lm.device)
    row_TD = torch.cat([images_IPD.flatten(0, 1), lm.embed(ids_QS).flatten(0, 1)])
    ends_Q = row.layout.answer_rows(lengths_Q)
    ids_T = None
    if lm.reads_tokens:
        ids_P = np.concatenate([tokens.prefix, np.full(row.layout.prefix - tokens.shared, -1), tokens.between])
        ids_T = torch.cat([on_device(ids_P, lm.device).repeat(row.layout.images), ids_QS.flatten()])
    if tokens.targets is not None:
        question, place, _ = named_tokens(tokens, suffix)
        starts_Q = row.layout.answer_rows(torch.ones_like(lengths_Q))
        read = starts_Q.index_select(0, on_device(question, lm.device)) + on_device(place, lm.device)
        return lm.answer_states(row_TD, row.layout, read, ids_T)
    return lm.answer_states(row_TD, row.layout, torch.cat([ends_Q - back for back in reversed(range(last))]), ids_T)


def named_tokens(tokens: PromptTokens, suffix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens to be predicted of names, (R,) each: the place of its row in `suffix` (Q,), its place there, its id."""
    assert tokens.targets is not None
    targets_QS = tokens.targets[suffix]
    question, place = np.nonzero(targets_QS >= 0)
    return question, place, targets_QS[question, place]


@dataclass(frozen=True)
class Step:
    """One optimizer step of a group: questions of all active runs, and the rows they are packed into."""

    suffix: np.ndarray
    answer: np.ndarray
    weight: np.ndarray
    rows: list[tuple[PackedRow, list[torch.Tensor]]]


def train_group(
    runs: list[TrainingRun],
    lm: FrozenLM,
    features: Features,
    tokens: PromptTokens,
    checkpoint: Path,
    *,
    max_tokens: int,
    checkpoint_seconds: float,
    advance: Callable[[int], None],
    held: HeldSignals,
    logged: Callable[[], None] = lambda: None,
) -> None:
    """Train all runs of a group to their last step, from `checkpoint` if it exists, and leave a final one there.

    All runs have the same kind of loss; it is the mean over a run's own supervised tokens of the step. Gradients are
    accumulated over the rows of a step. `advance(n)` counts finished steps; `logged()` follows new lines in the logs.
    A signal that waits in `held` is answered after the step, when a checkpoint is written.
    """
    if tokens.eos is not None:
        tokens = tokens.answered()
    optimizer = torch.optim.AdamW(
        [
            {"params": list(run.projector.parameters()), "weight_decay": run.condition.weight_decay, "lr": 0.0}
            for run in runs
        ],
        foreach=True,
    )
    directories = [run.directory for run in runs]
    projectors = [run.projector for run in runs]
    names = tuple(each.path.name for each in directories)
    place = Checkpoint(checkpoint, names, max_tokens, longer=not keeps_bytes(lm.device))
    first = read_checkpoint(place, projectors, optimizer, directories)
    last = max(run.steps for run in runs)
    if first > last:
        raise CheckpointError(f"checkpoint {checkpoint} stands at step {first:,} of {last:,}; {REMEDY}")
    advance(first)

    log: list[tuple[torch.Tensor, torch.Tensor, list[float]]] = []
    saved = time.monotonic()
    load = _loader(runs, features, tokens, max_tokens, lm)
    for step, loaded in enumerate(prefetched(_group_batches(runs, first), load), first):
        losses = torch.zeros(len(runs), device=lm.device)
        for row, items in loaded.rows:
            row_loss = partial(step_loss, lm, tokens, loaded, row, projectors, items, runs[0].condition.loss)
            loss, losses_of_runs = row_loss()
            differentiated = False
            try:
                loss.backward()
                differentiated = True
            except Exception as error:
                if not lm.falls_back(error):
                    raise
            if not differentiated:  # here, where the error holds no memory; no projector had got a gradient of this row
                loss, losses_of_runs = row_loss()
                loss.backward()
            losses += losses_of_runs
        rates = [learning_rate(run.condition, step, run.steps) if step < run.steps else 0.0 for run in runs]
        norms = []
        for run, rate, group in zip(runs, rates, optimizer.param_groups, strict=True):
            group["lr"] = rate
            if step < run.steps:
                norms.append(torch.nn.utils.clip_grad_norm_(run.projector.parameters(), run.condition.clip))
            else:
                norms.append(losses.new_zeros(()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # a finished run has no gradient and is left as it is
        log.append((losses, torch.stack(norms), rates))
        advance(1)

        done = step + 1
        due = done == last or held.waiting or time.monotonic() - saved >= checkpoint_seconds
        if due or done % LOG_EVERY == 0:
            sizes = _write_log(runs, log, done - len(log))
            log.clear()
            logged()
        if due:
            write_checkpoint(place, projectors, optimizer, done, sizes)
            saved = time.monotonic()
            held.deliver()


def step_loss(
    lm: FrozenLM,
    tokens: PromptTokens,
    step: Step,
    row: PackedRow,
    projectors: list[Projector],
    features: list[torch.Tensor],
    loss: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One row's share of the loss: the sum over all runs to differentiate, and its detached part per run (R,).

    `loss` is a condition's: cross-entropy of the answer among all tokens, or among the two answers only. Where
    `tokens` are answered, EOS after the answer counts as much as the answer, as in the release. Of names it is the
    cross-entropy of every token of the phrase and of what ends it, among all tokens.
    """
    if tokens.targets is not None:
        suffix = step.suffix[row.question]
        states = prompt_row(lm, tokens, row, projectors, features, suffix)
        question, _, named = named_tokens(tokens, suffix)
        weight = on_device((step.weight[row.question] * row.share)[question], lm.device)
        target, run = on_device(named, lm.device), on_device(row.run[question], lm.device)
        weighted = functional.cross_entropy(lm.vocabulary_logits(states), target, reduction="none") * weight
        return weighted.sum(), weighted.new_zeros(len(projectors)).index_add(0, run, weighted.detach())
    supervised = 1 if tokens.eos is None else 2
    states = prompt_row(lm, tokens, row, projectors, features, step.suffix[row.question], supervised)
    said_yes = on_device(step.answer[row.question], lm.device)
    if loss == "answers":
        logits, target = lm.answer_logits(states, tokens.yes, tokens.no), (~said_yes).long()
    else:
        logits, target = lm.vocabulary_logits(states), torch.where(said_yes, tokens.yes, tokens.no)
        if tokens.eos is not None:
            target = torch.cat([target, torch.full_like(target, tokens.eos)])
    # logits (S Q, tokens) and target (S Q,) with S supervised tokens: all answers, then all EOS. A weight is 1 over the
    # run's questions in the step, so that the sum below is the sum of the runs' own means, however rows were packed.
    weight = on_device(step.weight[row.question] * row.share / supervised, lm.device).repeat(supervised)
    weighted = functional.cross_entropy(logits, target, reduction="none") * weight
    run = on_device(row.run, lm.device).repeat(supervised)  # (S Q,): whose loss each token's is
    return weighted.sum(), weighted.new_zeros(len(projectors)).index_add(0, run, weighted.detach())


def _group_batches(runs: list[TrainingRun], first: int) -> Iterator[list[np.ndarray]]:
    """Per step from `first` on, the rows of each run's batch; empty for a run that has finished."""
    streams = [run.batches() for run in runs]
    for step in range(max(run.steps for run in runs)):
        batches = [next(stream, np.empty(0, dtype=np.int64)) for stream in streams]
        if step >= first:
            yield batches


def _loader(
    runs: list[TrainingRun], features: Features, tokens: PromptTokens, max_tokens: int, lm: FrozenLM
) -> Callable[[list[np.ndarray]], Step]:
    """What the prefetch thread does: gather a step's questions, pack them, fetch their features."""
    prefix, suffix = tokens.shared + features.patches, tokens.suffixes.shape[1]

    def load(batches: list[np.ndarray]) -> Step:
        parts = [run.questions.take(rows) for run, rows in zip(runs, batches, strict=True)]
        sizes = [len(rows) for rows in batches]
        run = np.repeat(np.arange(len(runs)), sizes)
        image = np.concatenate([part.image for part in parts])
        answer = np.concatenate([part.answer for part in parts])
        counts = sizes if tokens.targets is None else [int((tokens.targets[each.suffix] >= 0).sum()) for each in parts]
        shares = zip(sizes, counts, strict=True)  # a question, or of names a token, among the run's own of this step
        weight = np.concatenate([np.full(size, 1 / max(count, 1), dtype=np.float32) for size, count in shares])
        asked = np.concatenate([part.suffix for part in parts])
        if tokens.eos is not None:
            asked = asked + np.where(answer, 0, len(tokens.suffixes) // 2)
        rows = pack(image, run, len(runs), prefix, suffix, max_tokens, lm.way == "shared", not keeps_bytes(lm.device))
        return Step(
            suffix=asked,
            answer=answer,
            weight=weight,
            rows=[(row, [features.fetch(items) for items in row.items]) for row in rows],
        )

    return load


def _write_log(
    runs: list[TrainingRun], log: list[tuple[torch.Tensor, torch.Tensor, list[float]]], first: int
) -> list[int]:
    """Append the buffered steps to each run's metrics and return the files' sizes; the only host synchronisation."""
    losses = torch.stack([entry[0] for entry in log]).tolist()
    norms = torch.stack([entry[1] for entry in log]).tolist()
    sizes = []
    for number, run in enumerate(runs):
        sizes.append(
            run.directory.append_metrics(
                {"step": first + i, "loss": losses[i][number], "lr": rates[number], "grad_norm": norms[i][number]}
                for i, (_, _, rates) in enumerate(log)
                if first + i < run.steps
            )
        )
    return sizes
