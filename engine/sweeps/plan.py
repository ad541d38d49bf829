"""Planning a sweep: which runs it has, under which ids, and which of them train together, in rows of what size.

A sweep that is started again follows its plan (`engine.sweeps.plan_file`), and adds groups for runs that are new.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cachegen.common.device import choose_device, device_memory, workers_each
from cachegen.common.errors import CrosstaxError, RunError, in_one_line
from cachegen.common.progress import progress_bar
from cachegen.data.dataset import Dataset, load_dataset, load_dataset_of_runs
from cachegen.features.pooling import pooled_count
from cachegen.features.same_pictures import check_pictures
from cachegen.features.store import FeatureStore
from engine.design.condition import Condition, Inputs, Sweep
from engine.lm.loading import lm_digests, local_lm, resolve_lm
from engine.lm.shape import lm_shape
from engine.runs.planned import Execution, PlannedRun
from engine.sweeps.cost import Sizes, cost_of, question_counter, store_bytes, text_tokens
from engine.sweeps.plan_file import MAX_GROUP, Group
from engine.training.features import fits

MAX_TOKENS = 4096  # rows longer than this gain nothing more from large products on a CPU
GPU_TOKENS = 16384  # a step in several rows starts all kernels several times; the paper's has 4,400 tokens in each run
MIN_TOKENS = 512
USED = 0.8  # of the memory; the rest is for logits, attention and what else the machine does
GIB = 2**30


@dataclass(frozen=True)
class Unplanned:
    """A run that has no id, since an input that its id depends on cannot be read: `error` says which, and why."""

    inputs: Inputs
    condition: Condition
    error: Exception

    @property
    def reason(self) -> str:
        return in_one_line(self.error)

    @property
    def told(self) -> Exception:
        """The error to raise: one line, also for an unexpected one."""
        if isinstance(self.error, CrosstaxError | OSError):
            return self.error
        told = RunError(f"{self.inputs.lm}, {self.inputs.features}: {self.reason}; --debug shows where")
        told.__cause__ = self.error
        return told


def plan_runs(sweep: Sweep) -> list[PlannedRun]:
    """Open every input once, see that the features are the images', and give each run its digests.

    Raises what the first input that cannot be read raises.
    """
    planned = []
    for run in plan_each(sweep):
        if isinstance(run, Unplanned):
            raise run.told
        planned.append(run)
    return planned


def plan_each(sweep: Sweep) -> list[PlannedRun | Unplanned]:
    """`plan_runs` that goes on: a run whose inputs cannot be read takes its place in the list, with the reason."""
    dataset = once(load_dataset_of_runs)
    store = once(FeatureStore.open)
    check = once(lambda pictures, features: check_pictures(dataset(pictures), store(features)))
    lm = once(lambda name, init: lm_digests(resolve_lm(name), init))
    planned: list[PlannedRun | Unplanned] = []
    for inputs, condition in sweep.runs:
        try:
            features = store(inputs.features)
            check(inputs.dataset, inputs.features)
            digests = {
                "dataset": dataset(inputs.dataset).digest,
                "store": features.digest,
                **lm(inputs.lm, condition.lm_init),
            }
            planned.append(PlannedRun(inputs, condition, str(features.attributes["encoder"]), digests))
        except Exception as error:
            planned.append(Unplanned(inputs, condition, error))
    return planned


def once(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, remembered for each of its arguments, what it raised included."""
    known: dict[tuple[Any, ...], tuple[Any, Exception | None]] = {}

    def ask(*arguments: Any) -> Any:
        if arguments not in known:
            try:
                known[arguments] = call(*arguments), None
            except Exception as error:
                known[arguments] = None, error
        result, raised = known[arguments]
        if raised is not None:
            raise raised
        return result

    return ask


def extend_plan(
    groups: Sequence[Group], runs: dict[str, PlannedRun], started: Callable[[Group], bool], execution: Execution
) -> list[Group]:
    """The plan with a group for each of `runs`: what share everything the LM sees, as many as memory allows.

    Groups that have started stay as they are. Of one that has not, runs that are asked for now leave those that are
    not, or all of it is planned anew if `execution` says how.
    """
    anew = execution.max_tokens is not None or execution.group_size is not None
    kept = []
    for group in groups:
        others = [run for run in group.runs if run not in runs]
        if started(group) or not (anew or others):
            kept.append(group)
        elif others:
            kept.append(group.part(others))
    known = {run for group in kept for run in group.runs}
    alike: dict[tuple[Any, ...], list[str]] = {}
    for run_id, run in runs.items():
        if run_id not in known:
            alike.setdefault(run.shares, []).append(run_id)
    return [*kept, *_new_groups(list(alike.values()), runs, execution)]


def _new_groups(alike: list[list[str]], runs: dict[str, PlannedRun], execution: Execution) -> list[Group]:
    """Cut runs that may train together into groups of equal size."""
    count = question_counter()
    opened = once(load_dataset)
    made = []
    with progress_bar("plan", sum(map(len, alike)), "runs") as advance:
        for ids in alike:
            members = [runs[run_id] for run_id in ids]
            dataset = opened(members[0].inputs.dataset)
            try:
                sizes = sizes_of(members[0], dataset)
            except Exception:  # a strange LM is refused when its turn comes (`engine.sweeps.preflight`), not here
                sizes = None
            work: dict[str, tuple[float, float] | None] = {}
            for run_id, run in zip(ids, members, strict=True):
                work[run_id] = _work(run.condition, dataset, sizes, count)
                advance(1)
            tokens, together, why = _choose(members, len(dataset.images), sizes, execution)
            for part in np.array_split(np.array(ids, dtype=object), -(-len(ids) // together)):
                made.append(Group(tuple(part), tokens, why, tuple(work[run_id] for run_id in part)))
    return made


def sizes_of(run: PlannedRun, dataset: Dataset) -> Sizes | None:
    """Sizes of a run's models and prompts; None if the LM's configuration does not tell."""
    shape = lm_shape(str(local_lm(run.inputs.lm) or run.inputs.lm))
    if shape is None:
        return None
    store = FeatureStore.open(run.inputs.features)
    _, patches, width = store.patches.shape
    patches = pooled_count(store.attributes, patches, run.condition.pool)
    return Sizes(shape, patches, width, *text_tokens(run.condition, dataset))


def _work(condition: Condition, dataset: Dataset, sizes: Sizes | None, count: Any) -> tuple[float, float] | None:
    """Floating-point operations of a run, to four digits; None where its questions cannot be counted (now)."""
    try:
        questions = count(dataset, condition)
        if sizes is None or not questions.trained:
            return None
        cost = cost_of(condition, questions, sizes)
        return float(f"{cost.train_flops:.4g}"), float(f"{cost.evaluated_flops:.4g}")
    except Exception:
        return None  # said again, and recorded, when the run's turn comes


def _choose(
    members: Sequence[PlannedRun], images: int, sizes: Sizes | None, execution: Execution
) -> tuple[int, int, str]:
    """Tokens of a row, most runs in a group, and why; what `execution` fixes is taken as it is."""
    if execution.max_tokens is not None and execution.group_size is not None:
        return execution.max_tokens, execution.group_size, "as asked"
    tokens, together, why = MAX_TOKENS, MAX_GROUP, "the LM's sizes are not known"
    if sizes is not None:
        device = choose_device(execution.device)
        memory = device_memory(device) // workers_each(execution.device, execution.workers)
        with contextlib.suppress(ArithmeticError, TypeError, ValueError):  # of a configuration that makes no sense
            tokens, together, why = choose_sizes(
                memory, members[0].condition, images, sizes, execution.max_tokens, longest_row(device)
            )
            why = f"{'cpu' if device.type == 'cpu' else torch.cuda.get_device_name(device)}: {why}"
    return execution.max_tokens or tokens, execution.group_size or together, why


def longest_row(device: torch.device) -> int:
    """Tokens of a packed row that a device gains from; in training where memory allows, without gradients always."""
    return MAX_TOKENS if device.type == "cpu" else GPU_TOKENS


def choose_sizes(
    memory: int,
    condition: Condition,
    images: int,
    sizes: Sizes,
    max_tokens: int | None = None,
    longest: int = MAX_TOKENS,
) -> tuple[int, int, str]:
    """Tokens of a row and runs in lockstep that fit into `memory` bytes beside LM and features, and why.

    A row comes first, since large products pay most; runs then share what is left. `max_tokens`: when already fixed.
    """
    resident, token, run = memory_needs(memory, condition, images, sizes)
    free = USED * memory - resident
    fitting = int(free / token) // 256 * 256
    tokens = max_tokens or min(longest, max(MIN_TOKENS, sizes.prefix + sizes.patches + 8 * sizes.suffix, fitting))
    together = min(MAX_GROUP, max(1, int((free - tokens * token) / run)))
    why = (
        f"{memory / GIB:.1f} GiB for {resident / GIB:.1f} of LM and features, {tokens * token / GIB:.1f} of a row of "
        f"{tokens:,} tokens, {run / GIB:.2f} of each run"
    )
    return tokens, together, why


def memory_needs(memory: int, condition: Condition, images: int, sizes: Sizes) -> tuple[int, int, int]:
    """Bytes of the LM and, if they are kept in `memory`, features; of each token of a row; and of each run."""
    value = 2 if condition.dtype == "bfloat16" else 4
    store, weights = store_bytes(images, sizes.patches, sizes.width), value * sizes.lm.weights
    resident = weights + (store if fits(store, memory, weights) else 0)
    keys = sizes.prefix + sizes.patches + sizes.suffix
    token = value * (sizes.lm.activations(keys) + 4 * sizes.lm.width) + 2 * sizes.width  # the LM's and the projector's
    step = condition.batch * sizes.patches * sizes.width * 2
    if condition.task == "name":  # logits of every token of a phrase, their gradient and what is between them
        step += 3 * condition.batch * sizes.suffix * sizes.lm.vocabulary
    # Float32 weights, gradient and two moments, a copy in the LM's dtype, and features of the steps ahead.
    return resident, token, (16 + value) * sizes.projector_weights(condition) + 4 * step


def loading_order(groups: Sequence[tuple[Group, PlannedRun]]) -> list[Group]:
    """Groups, each given with one of its runs, by LM and then by features, so that little is loaded twice.

    Every other LM takes its features backwards.
    """
    lms = list(dict.fromkeys(run.weights for _, run in groups))
    stores = list(dict.fromkeys((run.inputs.dataset, run.inputs.features) for _, run in groups))

    def place(number: int) -> tuple[int, int]:
        run = groups[number][1]
        lm, store = lms.index(run.weights), stores.index((run.inputs.dataset, run.inputs.features))
        return lm, store if lm % 2 == 0 else -store

    return [groups[number][0] for number in sorted(range(len(groups)), key=place)]
