"""A sweep: from a list of runs to finished run directories, in lockstep groups, resumable at any point."""

import contextlib
from collections import Counter
from pathlib import Path

import torch

from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.locks import exclusive_lock, lock_holder
from cachegen.common.progress import tell
from engine.design.condition import Sweep
from engine.runs.config import condition_of, inputs_of, read_config, run_id_of
from engine.runs.directory import RunDirectory
from engine.runs.planned import Execution, PlannedRun
from engine.sweeps.executors import Executor, in_this_process
from engine.sweeps.plan import Unplanned, extend_plan, loading_order, plan_each, plan_runs
from engine.sweeps.plan_file import Group, plan_lock, read_plan, write_plan
from engine.sweeps.preflight import Preflight
from engine.sweeps.task import Task, note_error, smaller
from engine.sweeps.timing import append_event, read_events
from engine.training.tracking import require_trackers


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
                note_error(out, error)
                raise
            if tasks := _refuse(tasks):
                executor(tasks)
    if unplanned:
        raise UnplannedError(folders, unplanned)
    return folders


def run_all(sweep: Sweep, out: Path, execution: Execution, *, executor: Executor = in_this_process) -> list[Path]:
    """`run_sweep` where nothing may fail: tries failed runs again, and raises `RunError` for the first that fails."""
    folders = run_sweep(sweep, out, execution, retry_failed=True, executor=executor)
    for directory in map(RunDirectory, folders):
        if directory.failed:
            raise RunError(f"{directory.path}: {directory.reason}")
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
    _tell_other_inputs(out, [run for name, run in runs.items() if name not in over], others)
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
            tell(f"left alone: {error}")
    return [
        Task(out, group, tuple(known[run] for run in members[group]), execution, torch.get_num_threads(), Path.cwd())
        for group in loading_order([(group, known[members[group][0]]) for group in able])
    ]


def _tell_other_inputs(out: Path, runs: list[PlannedRun], others: set[str]) -> None:
    """Tell if runs that are asked for have been here before with other inputs, or other versions of them."""
    asked = {(run.encoder, run.inputs.lm, run.condition): run.digests for run in runs}
    differing = Counter[str]()
    for folder in (out / run for run in others):
        with contextlib.suppress(CrosstaxError, KeyError):
            config = read_config(folder)
            condition = condition_of(config, folder)
            run_id_of(config, condition, folder)  # raises where something is damaged
            known = config["condition"]
            now = asked.get((known["encoder"], known["lm"], condition), config["digests"])
            differing.update(name for name in now if now[name] != config["digests"][name])
    for name, count in differing.items():
        tell(
            f"note: {out} has runs ({count}) with conditions of this sweep and another {name}, or an older one; "
            "use another --out if they are not to be reported together"
        )


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


def _planned_before(folder: Path) -> PlannedRun:
    """A run that is not asked for now, but stands in a group that has started."""
    config = read_config(folder)
    (run,) = plan_runs(Sweep(runs=((inputs_of(config, folder), condition_of(config, folder)),)))
    if run.id != folder.name:
        raise RunError(f"{folder}: its dataset, features or LM have changed; restore them, or use another --out")
    return run
