"""A sweep: from a list of runs to finished run directories, in lockstep groups, resumable at any point."""

import contextlib
import gc
import time
from collections import Counter
from dataclasses import dataclass, replace
from os import getpid
from pathlib import Path
from socket import gethostname

import torch

from cachegen.common.device import device_name, keeps_bytes
from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.locks import exclusive_lock, lock_holder
from cachegen.common.progress import tell
from engine.design.condition import Sweep
from engine.runs.config import condition_of, inputs_of, read_config
from engine.runs.directory import RunDirectory
from engine.runs.planned import Execution, PlannedRun
from engine.sweeps.executors import Executor, in_this_process
from engine.sweeps.plan import MIN_TOKENS, Unplanned, extend_plan, loading_order, plan_each, plan_runs
from engine.sweeps.plan_file import Group, plan_lock, read_plan, write_plan
from engine.sweeps.preflight import Preflight
from engine.sweeps.timing import append_event, checkpoint_step, read_events
from engine.training.checkpoint import CheckpointError
from engine.training.group import Opener, Shared, concerns_all, fail, out_of_memory, run_group
from engine.training.tracking import require_trackers


@dataclass(frozen=True)
class Task:
    """One planned group of the sweep folder `out`, as a job for executors; `runs` are its runs that take part."""

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

    def give_up(self, reason: str | BaseException) -> None:
        for run in self.runs:
            if not (directory := RunDirectory(self.out / run.id)).over:
                fail(directory, reason)


def run_sweep(
    sweep: Sweep,
    out: Path,
    execution: Execution,
    *,
    retry_failed: bool = False,
    executor: Executor = in_this_process,
) -> list[Path]:
    """Train and evaluate all runs of a sweep in folders below `out`; the same call resumes after an interruption.

    The plan is written once; then the executor carries out the groups. Finished and failed runs are skipped. An
    interrupted group goes on from its checkpoint. A run that fails is marked with its reason, and the others go on.

    Args:
        sweep: The runs.
        out: Folder of the sweep.
        execution: Device, memory and tracking.
        retry_failed: Try failed runs again, mostly in groups of their own.
        executor: Who carries out the groups; default: this process, one after the other.

    Returns:
        The run folders, in the order of the sweep.

    Raises:
        UnplannedError: At the end, for runs whose inputs cannot be read. If no run can be planned, the first error is
            raised at once.
        RunError: Another process writes to `out`.
        CrosstaxError: Something concerns all runs, such as a folder that cannot be written.
    """
    require_trackers(execution.track)
    every = plan_each(sweep)
    runs = {run.id: run for run in every if isinstance(run, PlannedRun)}
    unplanned = [run for run in every if isinstance(run, Unplanned)]
    folders = [out / run_id for run_id in runs]
    if unplanned and not runs:
        raise unplanned[0].told
    _note_unplanned(out, unplanned)
    over = {run for run in runs if RunDirectory(out / run).over}
    failed = {run for run in over if RunDirectory(out / run).failed}
    if failed and not retry_failed:
        tell(f"{len(failed)} runs have failed before and are skipped; --retry-failed tries them again")
    # What is finished may be in a folder that is read-only; a checkpoint there is one to be removed.
    if len(over) < len(runs) or (failed and retry_failed) or any(out.glob("*.checkpoint.safetensors")):
        with exclusive_lock(out / ".lock", f"sweep {out}"):
            try:
                with plan_lock(out):
                    tasks = _plan_tasks(runs, over, failed if retry_failed else set(), out, execution)
            except CrosstaxError as error:
                _note(out, error)
                raise
            if tasks := _refuse(tasks):
                executor(tasks)
    if unplanned:
        raise UnplannedError(folders, unplanned)
    return folders


class UnplannedError(RunError):
    """Some runs could not be planned because their inputs cannot be read; `folders` are those of the other runs."""

    def __init__(self, folders: list[Path], unplanned: list[Unplanned]) -> None:
        self.folders = folders
        self.unplanned = _told(unplanned)
        self.count = len(unplanned)
        super().__init__(f"{self.count} runs could not be planned; {self.unplanned[0]}")


def _told(unplanned: list[Unplanned]) -> list[str]:
    """A line for each LM and reason."""
    counts = Counter((run.inputs.lm, run.reason) for run in unplanned)
    return [f"{count} runs of {lm}: {reason}" for (lm, reason), count in counts.items()]


def _note_unplanned(out: Path, unplanned: list[Unplanned]) -> None:
    """Log which runs could not be planned, or that all can now."""
    before = [event for event in read_events(out) if event["event"] == "unplanned"]
    names = _told(unplanned)
    if names != (before[-1]["runs"] if before else []):
        with contextlib.suppress(CrosstaxError, OSError):
            out.mkdir(parents=True, exist_ok=True)
            append_event(out, "unplanned", runs=names)


def _refuse(tasks: list[Task]) -> list[Task]:
    """The tasks whose LM and prompt pass the checks that need no weights; the runs of the others have failed."""
    preflight, passed = Preflight(), []
    for task in tasks:
        problem = None
        if lock_holder(task.group.lock(task.out)) is None:
            problem = preflight.problem(task.runs[0])
        if problem is None:
            passed.append(task)
        else:
            task.give_up(problem)
    return passed


def _plan_tasks(
    runs: dict[str, PlannedRun], over: set[str], retried: set[str], out: Path, execution: Execution
) -> list[Task]:
    """Plan what is new, and make a task of every group with a run that is asked for and not over.

    `over`: those of `runs` that were when last looked at; `retried`: failed ones to try again.
    """
    groups = read_plan(out)
    others = {run for group in groups for run in group.runs} - set(runs)
    over = over | {run for run in others | set(runs) - over if RunDirectory(out / run).over}
    for group in groups:
        # Whoever finished it may have been killed before this.
        if over.issuperset(group.runs) and not _resumes(group, out):
            group.checkpoint(out).unlink(missing_ok=True)
    groups, again = _release(groups, retried, over, out)
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
        tell(f"{len(others)} more runs go on: they have started in lockstep with runs that are asked for")
    known, able = dict(runs), []
    for group in waiting:
        try:
            known |= {run: _planned_before(out / run) for run in members[group] if run not in known}
            able.append(group)
        except CrosstaxError as error:  # of a run that is not asked for now
            say_left_alone(error)
    return [
        Task(out, group, tuple(known[run] for run in members[group]), execution, torch.get_num_threads(), Path.cwd())
        for group in loading_order([(group, known[members[group][0]]) for group in able])
    ]


def say_left_alone(reason: object) -> None:
    tell(f"left alone: {reason}")


def _release(groups: list[Group], failed: set[str], over: set[str], out: Path) -> tuple[list[Group], set[str]]:
    """The plan in which failed runs may be tried again, and those runs.

    They leave their groups, to be planned anew; a group with unfinished runs keeps its own. Where their group failed in
    training, it goes on from its checkpoint as it is; where memory was short, it begins anew as a smaller one.
    """
    kept, released = [], set()
    for group in groups:
        again = failed.intersection(group.runs) if over.issuperset(group.runs) else set()
        released |= again
        directories = [RunDirectory(out / run) for run in again]
        if not again or (_resumes(group, out) and all(directory.again("resume") for directory in directories)):
            kept.append(group)
            continue
        group.checkpoint(out).unlink(missing_ok=True)
        if others := [run for run in group.runs if run not in again]:
            kept.append(group.part(others))
        short = [directory.path.name for directory in directories if directory.again("smaller")]
        if short:
            kept += smaller(group.part(short)) or [group.part(short)]
    return kept, released


def _resumes(group: Group, out: Path) -> bool:
    """Whether a group has a checkpoint that a failed run of it may go on from."""
    return group.checkpoint(out).is_file() and any(RunDirectory(out / run).again("resume") for run in group.runs)


def smaller(group: Group) -> list[Group]:
    """The group in shorter rows, or else in two halves; nothing if it cannot be smaller."""
    why = f"{group.why}; out of memory with {len(group.runs)} runs in rows of {group.max_tokens:,} tokens"
    half = len(group.runs) // 2
    if group.max_tokens > MIN_TOKENS:
        return [replace(group, max_tokens=max(MIN_TOKENS, group.max_tokens // 2), why=why)]
    if half:
        return [replace(group.part(runs), why=why) for runs in (group.runs[:half], group.runs[half:])]
    return []


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
                    held.enter_context(group.held(self.out))
                    return True
                except RunError as error:
                    if time.monotonic() >= until:
                        say_left_alone(error)
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
            run_group(
                members, directories, self._open(members[0], opener), checkpoint, group.max_tokens, self.execution
            )
        except BaseException as error:
            if concerns_all(error, self.out):
                raise
            parts = self._contain(group, directories, error, keeps_bytes(opener.device))
        else:
            self._record(group, from_step, time.perf_counter() - began, device_name(opener.device))
            return []
        gc.collect()  # the traceback held what was being computed
        opener.check_device()
        torch.cuda.empty_cache()
        return parts

    def _open(self, run: PlannedRun, opener: Opener) -> Shared:
        """What the group of a run shares."""
        try:
            return opener.open(run)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{run.inputs.lm} does not fit on the device; free memory there, or use another --device, and "
                "--retry-failed"
            ) from error

    def _contain(
        self, group: Group, directories: list[RunDirectory], error: BaseException, keeps_bytes: bool
    ) -> list[Group]:
        """What becomes of a group that raised: smaller ones if it was too large for memory, else its runs have failed.

        After its first checkpoint bytes depend on the plan as it is. Where the device keeps none, it goes on from there
        in shorter rows.
        """
        started, short = group.checkpoint(self.out).is_file(), out_of_memory(error)
        parts = smaller(group) if short and not (started and keeps_bytes) else []
        if parts and not (started and len(parts) > 1):  # a checkpoint is of all its runs
            with plan_lock(self.out):
                groups = read_plan(self.out)
                place = groups.index(group)
                write_plan(self.out, [*groups[:place], *parts, *groups[place + 1 :]])
            first = parts[0]
            tell(f"out of memory: {len(first.runs)} runs go on in rows of {first.max_tokens:,} tokens")
            return parts
        cause: BaseException = error
        if short:
            remedy = "--retry-failed begins anew, in shorter rows or smaller groups"
            cause = RunError(
                f"out of memory with {len(group.runs)} runs in rows of {group.max_tokens:,} tokens"
                f"{' after the first checkpoint' if started else ''}; "
                f"{remedy if smaller(group) else 'free memory there, or use another --device, and --retry-failed'}"
            )
            cause.__cause__ = error
        resume = started and not short and not isinstance(error, CheckpointError)
        for directory in directories:
            if not directory.over:
                fail(directory, cause, resume=resume, smaller=short)
        return []

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
