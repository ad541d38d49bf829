"""One group of a sweep carried out: held, trained and evaluated; made smaller where memory is short; and logged."""

import contextlib
import gc
import time
from dataclasses import dataclass, replace
from os import getpid
from pathlib import Path
from socket import gethostname

import torch

from cachegen.common.device import device_name, keeps_bytes
from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.progress import tell
from engine.design.condition import Sweep
from engine.runs.directory import RunDirectory
from engine.runs.planned import Execution, PlannedRun
from engine.sweeps.plan import MIN_TOKENS, plan_runs
from engine.sweeps.plan_file import Group, plan_lock, read_plan, write_plan
from engine.sweeps.timing import append_event, checkpoint_step
from engine.training.checkpoint import CheckpointError
from engine.training.group import Opener, Shared, concerns_all, fail, out_of_memory, run_group


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

    def carry_out(self, opener: Opener, patience: float = 0.0) -> None:
        """Carry out what the plan says now about its runs; what is done, or planned otherwise, is left alone.

        So is a group that another process works on, if that still does after `patience` seconds.
        """
        try:
            for group in read_plan(self.out):
                if set(group.runs) <= set(self.group.runs):  # all of the group, or what it was split into
                    self._carry_out(group, opener, patience)
        except CrosstaxError as error:
            note_error(self.out, error)
            raise

    def give_up(self, reason: str | BaseException) -> None:
        for run in self.runs:
            if not (directory := RunDirectory(self.out / run.id)).over:
                fail(directory, reason)

    def _carry_out(self, group: Group, opener: Opener, patience: float) -> None:
        """Carry out one group. What fails in it is recorded; a group that is too large becomes smaller."""
        with contextlib.ExitStack() as held:
            parts = self._attempt(group, opener) if self._take(group, held, patience) else []
        for part in parts:
            self._carry_out(part, opener, patience)

    def _take(self, group: Group, held: contextlib.ExitStack, patience: float) -> bool:
        """Hold a group that is planned, not over, and nobody else's; the plan stands still meanwhile."""
        until = time.monotonic() + patience
        while True:
            with plan_lock(self.out):
                if group not in read_plan(self.out) or all(RunDirectory(self.out / run).over for run in group.runs):
                    return False
                try:
                    held.enter_context(group.held(self.out))
                    return True
                except RunError as error:
                    if time.monotonic() >= until:
                        tell(f"left alone: {error}")
                        return False
            time.sleep(0.5)

    def _attempt(self, group: Group, opener: Opener) -> list[Group]:
        """Carry out one group that is held; returns what it has been split into if it is too large for memory."""
        directories = [RunDirectory(self.out / run) for run in group.runs]
        directories = [directory for directory in directories if not directory.never_began]
        planned = {run.id: run for run in self.runs}
        members = [planned[directory.path.name] for directory in directories]
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
        dtype = self.runs[0].condition.dtype  # that of all runs of a group
        facts = {"seconds": round(seconds, 2), "flops": flops, "device": device, "dtype": dtype}
        append_event(self.out, "end", group=group.runs[0], **facts)


def smaller(group: Group) -> list[Group]:
    """The group in shorter rows, or else in two halves; nothing if it cannot be smaller."""
    why = f"{group.why}; out of memory with {len(group.runs)} runs in rows of {group.max_tokens:,} tokens"
    half = len(group.runs) // 2
    if group.max_tokens > MIN_TOKENS:
        return [replace(group, max_tokens=max(MIN_TOKENS, group.max_tokens // 2), why=why)]
    if half:
        return [replace(group.part(runs), why=why) for runs in (group.runs[:half], group.runs[half:])]
    return []


def note_error(out: Path, error: CrosstaxError) -> None:
    """Log what stops the sweep, if anything can be written at all."""
    with contextlib.suppress(CrosstaxError):
        append_event(out, "error", message=str(error))
