"""A sweep: from a list of runs to finished run directories, in lockstep groups, resumable at any point."""

import contextlib
import gc
import time
from dataclasses import dataclass, replace
from os import getpid
from pathlib import Path
from socket import gethostname

import torch

from cachegen.errors import ConditionError, CrosstaxError, ModelError, RunError
from cachegen.files import exclusive_lock
from cachegen.progress import console
from engine.condition import Sweep
from engine.group import Opener, fail, run_group
from engine.jobs import Executor, in_this_process
from engine.locks import group_lock, plan_lock
from engine.plan import MIN_TOKENS, Execution, PlannedRun, extend_plan, loading_order, plan_runs
from engine.plan_file import Group, read_plan, write_plan
from engine.rate import device_name
from engine.runs.config import condition_of, inputs_of, read_config
from engine.runs.directory import RunDirectory
from engine.status import lock_holder
from engine.timing import append_event, checkpoint_step
from engine.tracking import require_trackers


@dataclass(frozen=True)
class Task:
    """One planned group of the sweep folder `out`, as a job for executors; `runs`: those of its that take part."""

    out: Path
    group: Group
    runs: tuple[PlannedRun, ...]
    execution: Execution
    threads: int
    folder: Path

    @property
    def name(self) -> str:
        """The group's first run, by which it is known."""
        return self.group.runs[0]

    @property
    def work(self) -> float:
        """Floating-point operations of its runs."""
        return sum(sum(work) for work in self.group.work if work is not None)

    @property
    def device(self) -> str:
        return self.execution.device

    def check(self) -> None:
        """Raise `RunError` if its inputs have other digests than when it was planned."""
        if plan_runs(Sweep(runs=tuple((run.inputs, run.condition) for run in self.runs))) != list(self.runs):
            raise RunError(
                f"{self.out / self.name}: its dataset, features or LM have changed since it was submitted; start the "
                "sweep again"
            )

    def carry_out(self, opener: Opener, patience: float) -> None:
        run_task(self, opener, patience)


def run_sweep(
    sweep: Sweep,
    out: Path,
    execution: Execution,
    *,
    retry_failed: bool = False,
    executor: Executor = in_this_process,
) -> list[Path]:
    """Carry out all runs below `out` and return their directories, in the sweep's order.

    The plan is written here, once; then `executor` has the groups carried out. Runs that are done or FAILED are
    skipped (failed ones are tried again with `retry_failed`, in groups of their own); an interrupted group goes on
    from its checkpoint, with all of its runs. A run that fails is marked FAILED with the reason, and the sweep goes
    on. Raises what concerns all runs, such as a store that is missing, and `RunError` if another process writes to
    `out`.
    """
    require_trackers(execution.track)
    runs = {run.id: run for run in plan_runs(sweep)}
    with exclusive_lock(out / ".lock", f"sweep {out}"):
        try:
            with plan_lock(out):
                tasks = _plan_tasks(runs, out, execution, retry_failed)
        except CrosstaxError as error:
            _note(out, error)
            raise
        if tasks:
            executor(tasks)
    return [out / run_id for run_id in runs]


def _plan_tasks(runs: dict[str, PlannedRun], out: Path, execution: Execution, retry_failed: bool) -> list[Task]:
    """Plan what is new, and make a task of every group with a run that is asked for and not over."""
    groups = read_plan(out)
    over = {run for run in {*runs, *(run for group in groups for run in group.runs)} if RunDirectory(out / run).over}
    for group in groups:
        if over.issuperset(group.runs):  # whoever finished it may have been killed before this
            group.checkpoint(out).unlink(missing_ok=True)
    again: set[str] = set()
    if retry_failed:
        groups, again = _release(groups, {run for run in runs if RunDirectory(out / run).failed}, over)
        over -= again

    def started(group: Group) -> bool:
        """Whether there is something that another grouping would make worthless."""
        held = lock_holder(group.lock(out)) is not None
        return held or group.checkpoint(out).is_file() or bool(over.intersection(group.runs))

    groups = extend_plan(groups, runs, started, execution)
    write_plan(out, groups)
    for run in again:  # last: a failed run that still stands in its old group is not to be trained with it again
        RunDirectory(out / run).forget_failure()
    waiting = [group for group in groups if any(run in runs and run not in over for run in group.runs)]
    members = {group: [run for run in group.runs if not RunDirectory(out / run).never_began] for group in waiting}
    others = {run for names in members.values() for run in names} - set(runs)
    if others:
        console.print(
            f"{len(others)} more runs go on: they have started in lockstep with runs that are asked for", soft_wrap=True
        )
    known = runs | {run: _planned_before(out / run) for run in others}
    return [
        Task(out, group, tuple(known[run] for run in members[group]), execution, torch.get_num_threads(), Path.cwd())
        for group in loading_order([(group, known[members[group][0]]) for group in waiting])
    ]


def _release(groups: list[Group], failed: set[str], over: set[str]) -> tuple[list[Group], set[str]]:
    """Groups without failed runs, and those runs, to be planned anew; a group with unfinished runs keeps its own."""
    kept, released = [], set()
    for group in groups:
        again = failed.intersection(group.runs) if over.issuperset(group.runs) else set()
        released |= again
        if others := [run for run in group.runs if run not in again]:
            kept.append(group.part(others))
    return kept, released


def run_task(task: Task, opener: Opener, patience: float = 0.0) -> None:
    """Carry out what the plan says now about the runs of a task; what is done, or planned otherwise, is left alone.

    So is a group that another process works on, if that still does after `patience` seconds.
    """
    carrier = _Carrier(task.out, {run.id: run for run in task.runs}, task.execution, patience)
    try:
        for group in read_plan(task.out):
            if set(group.runs) <= set(task.group.runs):  # all of the group, or what it was split into
                carrier.carry_out(group, opener)
    except CrosstaxError as error:
        _note(task.out, error)
        raise


def _note(out: Path, error: CrosstaxError) -> None:
    """Log what stops the sweep, if anything can be written at all."""
    with contextlib.suppress(CrosstaxError):
        append_event(out, "error", message=str(error))


@dataclass(frozen=True)
class _Carrier:
    """Carries out groups of a sweep folder; `runs` are those of all its groups that take part."""

    out: Path
    runs: dict[str, PlannedRun]
    execution: Execution
    patience: float

    def carry_out(self, group: Group, opener: Opener) -> None:
        """Carry out one group. What fails in it is recorded; a group that is too large becomes smaller."""
        with contextlib.ExitStack() as held:
            parts = self._attempt(group, opener) if self._take(group, held) else []
        for part in parts:
            self.carry_out(part, opener)

    def _take(self, group: Group, held: contextlib.ExitStack) -> bool:
        """Hold a group that is planned, not over, and nobody else's; the plan stands still meanwhile."""
        until = time.monotonic() + self.patience
        while True:
            with plan_lock(self.out):
                if group not in read_plan(self.out) or all(RunDirectory(self.out / run).over for run in group.runs):
                    return False
                try:
                    held.enter_context(group_lock(self.out, group))
                    return True
                except RunError as error:
                    if time.monotonic() >= until:
                        console.print(f"left alone: {error}", soft_wrap=True, markup=False, highlight=False)
                        return False
            time.sleep(0.5)

    def _attempt(self, group: Group, opener: Opener) -> list[Group]:
        """Carry out one group that is held; returns what it has been split into if it is too large for memory."""
        directories = [RunDirectory(self.out / run) for run in group.runs]
        directories = [directory for directory in directories if not directory.never_began]
        members = [self.runs[directory.path.name] for directory in directories]
        if not members:
            return []
        checkpoint = group.checkpoint(self.out)
        from_step, began = checkpoint_step(checkpoint), time.perf_counter()
        append_event(self.out, "begin", group=group.runs[0], from_step=from_step, by=f"{gethostname()} pid {getpid()}")
        try:
            shared = opener.open(members[0])
        except (ModelError, ConditionError) as error:  # of this LM, or of this prompt with it
            for directory in directories:
                fail(directory, str(error))
            return []
        except torch.OutOfMemoryError:
            lm = members[0].inputs.lm
            raise RunError(f"{lm} does not fit on the device; free memory there, or use another --device") from None
        try:
            run_group(members, directories, shared, checkpoint, group.max_tokens, self.execution)
        except torch.OutOfMemoryError:
            parts = self._smaller(group)
        else:
            self._record(group, from_step, time.perf_counter() - began, device_name(opener.device))
            return []
        gc.collect()
        torch.cuda.empty_cache()
        return parts

    def _smaller(self, group: Group) -> list[Group]:
        """The group in shorter rows, or else in two halves, as the plan says from now on.

        Only before its first checkpoint: later, the bytes so far depend on the plan as it is.
        """
        if group.checkpoint(self.out).is_file():
            raise RunError(
                f"{self.out}: the device is out of memory in a group that has started; free memory there and start "
                "again, it goes on from its checkpoint"
            )
        why = f"{group.why}; out of memory with {len(group.runs)} runs in rows of {group.max_tokens:,} tokens"
        half = len(group.runs) // 2
        if group.max_tokens > MIN_TOKENS:
            parts = [replace(group, max_tokens=max(MIN_TOKENS, group.max_tokens // 2), why=why)]
        elif half:
            parts = [replace(group.part(runs), why=why) for runs in (group.runs[:half], group.runs[half:])]
        else:
            raise RunError(
                f"{self.out}: the device is out of memory with one run in rows of {group.max_tokens} tokens; use "
                "another --device"
            )
        with plan_lock(self.out):
            groups = read_plan(self.out)
            place = groups.index(group)
            write_plan(self.out, [*groups[:place], *parts, *groups[place + 1 :]])
        first = parts[0]
        console.print(
            f"out of memory: {len(first.runs)} runs go on in rows of {first.max_tokens:,} tokens", soft_wrap=True
        )
        return parts

    def _record(self, group: Group, from_step: int, seconds: float, device: str) -> None:
        """Log how long the group took, and the work that was done in that time."""
        flops = 0.0
        for run, work in zip(group.runs, group.work, strict=True):
            steps = RunDirectory(self.out / run).steps
            if work is not None and steps:
                train, evaluated = work
                flops += train * max(0.0, 1 - from_step / steps) + evaluated
        dtype = next(self.runs[run].condition.dtype for run in group.runs if run in self.runs)
        facts = {"seconds": round(seconds, 2), "flops": flops, "device": device, "dtype": dtype}
        append_event(self.out, "end", group=group.runs[0], **facts)


def _planned_before(folder: Path) -> PlannedRun:
    """A run that is not asked for now, but stands in a group that has started."""
    config = read_config(folder)
    (run,) = plan_runs(Sweep(runs=((inputs_of(config, folder), condition_of(config, folder)),)))
    if run.id != folder.name:
        raise RunError(f"{folder}: its dataset, features or LM have changed; restore them, or use another --out")
    return run
