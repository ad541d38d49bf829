"""What executors add to the work: seconds until the first job runs, and seconds of each job that does nothing."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from cachegen.errors import ConditionError, RunError
from cachegen.progress import progress_bar
from engine.executors import choose_executor
from engine.executors.local import local
from engine.group import Opener
from engine.jobs import Executor, Job, in_this_process

WORKERS = 2
EXECUTORS = {
    "in this process": lambda: in_this_process,
    f"local, {WORKERS} workers": lambda: local(WORKERS),
    "ray": lambda: choose_executor("ray", {}),
    "submitit, without Slurm": lambda: _submitit("local"),
    "slurm": lambda: _submitit("slurm"),
}


@dataclass(frozen=True)
class Nothing:
    """A job that only leaves a file as a sign that it was carried out."""

    out: Path
    number: int
    folder: Path
    threads: int = 1
    device: str = "cpu"
    work: float = 0.0

    @property
    def name(self) -> str:
        return f"nothing-{self.number}"

    @property
    def sign(self) -> Path:
        return self.out / f"{self.name}.over"

    def check(self) -> None:
        """Nothing can have changed."""

    def carry_out(self, _opener: Opener, _patience: float, /) -> None:
        self.sign.touch()

    def give_up(self, _reason: str | BaseException, /) -> None:
        """Its sign is missed afterwards."""


def scheduling(jobs: int = 8, executors: dict[str, Callable[[], Executor]] | None = None) -> dict[str, Any]:
    """One JSON-ready object: `jobs`, and for each of `executors` its `start` and `each` in seconds, or why `not`.

    From the times of one job and of `jobs`: each = what a further job adds, start = the time of one less that. Slurm
    needs a folder that its nodes see too: the current one.
    """
    measured: dict[str, Any] = {}
    executors = executors or EXECUTORS
    with progress_bar("bench scheduling", len(executors), "executors") as advance:
        for name, choose in executors.items():
            measured[name] = _overhead(choose, jobs)
            advance(1)
    return {"jobs": jobs, "executors": measured}


def scheduling_text(result: dict[str, Any]) -> str:
    """The same as lines for people."""
    lines = [f"{'what an executor adds':<28}{'start, s':>12}{'a job, s':>12}   (from 1 and {result['jobs']} jobs)"]
    for name, found in result["executors"].items():
        if "not" in found:
            lines.append(f"  {name:<26}not measured: {found['not']}")
        else:
            lines.append(f"  {name:<26}{found['start']:>12.2f}{found['each']:>12.4f}")
    return "\n".join(lines)


def _overhead(choose: Callable[[], Executor], jobs: int) -> dict[str, Any]:
    try:
        one, all_ = (_seconds(choose, count) for count in (1, jobs))
    except (ConditionError, RunError) as error:
        return {"not": str(error)}
    each = max(0.0, (all_ - one) / (jobs - 1))
    return {"start": round(max(0.0, one - each), 3), "each": round(each, 6)}


def _seconds(choose: Callable[[], Executor], count: int) -> float:
    """From no executor to the end of so many jobs. Raises `RunError` if one was not carried out."""
    with tempfile.TemporaryDirectory(prefix=".scheduling-", dir=Path.cwd()) as folder:
        out = Path(folder)
        jobs = [Nothing(out, number, Path.cwd()) for number in range(count)]
        began = time.perf_counter()
        choose()(jobs)
        seconds = time.perf_counter() - began
        _signs(jobs)
        return seconds


def _signs(jobs: Sequence[Nothing]) -> None:
    if left := [job.name for job in jobs if not job.sign.exists()]:
        raise RunError(f"{len(left)} of {len(jobs)} jobs were not carried out")


def _submitit(cluster: str) -> Executor:
    """Jobs through submitit, waited for by the files they write last: Slurm tells of ends late, if at all."""
    from engine.executors.slurm import FOLDER, slurm

    if cluster == "slurm" and which("sbatch") is None:
        raise ConditionError("there is no Slurm here")
    submit = slurm({}, cluster=cluster)

    def carry_out(jobs: Sequence[Job]) -> None:
        submit(jobs)
        until = time.monotonic() + 60 * (2 + len(jobs))
        while len(list((jobs[0].out / FOLDER).glob("*_result.pkl"))) < len(jobs) and time.monotonic() < until:
            time.sleep(0.05)

    return carry_out
