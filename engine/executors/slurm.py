"""A Slurm cluster, through submitit: one job array, one of its jobs for each group.

A job that runs out of time, or is preempted, is put back into the queue by submitit and goes on from the group's
checkpoint. Logs and what submitit passes on stand in the sweep folder's `slurm/`; `crosstax status` names them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cachegen.errors import ConditionError, RunError
from cachegen.progress import console
from engine.executors import missing, run_elsewhere, wants_gpu
from engine.sweep import Executor, Task
from engine.timing import append_event

FOLDER = "slurm"
TIMEOUTS = 100  # a group may run out of time so often; each time it has got further
MINUTES = 240
GENERIC = ("cpus_per_task", "gpus_per_node", "mem_gb")  # submitit's own names, for all kinds of cluster


class GroupJob:
    """What a job does; it holds nothing, so that a job that is interrupted starts the same one again."""

    def __call__(self, task: Task) -> None:
        run_elsewhere(task)

    def checkpoint(self, task: Task) -> Any:
        """Asked by submitit when time is up: the job to queue. The state so far is in the group's checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)


def slurm(options: Mapping[str, str], *, wait: bool = False, cluster: str = "slurm") -> Executor:
    """Submit tasks as a job array with `options` of `sbatch`, such as partition, time (minutes), gres, account.

    `cluster`: or submitit's "local" (processes on this machine) or "debug" (this process). Raises `ConditionError`
    for unknown options, without submitit, and where there is no Slurm.
    """
    try:
        import submitit
    except ImportError:
        raise missing("submitit", "slurm") from None
    given = {key: int(value) if value.isdigit() else value for key, value in options.items()}

    def carry_out(tasks: Sequence[Task]) -> None:
        first, folder = tasks[0], tasks[0].out / FOLDER
        needs: dict[str, Any] = {"timeout_min": MINUTES, "cpus_per_task": max(task.threads for task in tasks)}
        if any(map(wants_gpu, tasks)):
            needs["gpus_per_node"] = 1
        needs |= {key if key in GENERIC else f"slurm_{key}": value for key, value in given.items()}
        try:
            engine = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=TIMEOUTS)
            engine.update_parameters(name="crosstax", **needs)
            jobs = engine.map_array(GroupJob(), tasks)
        except (RuntimeError, NameError, ValueError, AssertionError) as error:  # as submitit and sbatch refuse
            reason = " ".join(str(error).split())
            raise ConditionError(f"slurm: {reason}; see --slurm, or use --executor local") from None
        except submitit.core.utils.FailedJobError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConditionError(f"slurm: sbatch refused the jobs ({reason}); see --slurm") from None
        for task, job in zip(tasks, jobs, strict=True):
            log = Path(job.paths.stderr).relative_to(folder.resolve()).as_posix()
            append_event(task.out, "submitted", group=task.group.runs[0], job=job.job_id, log=f"{FOLDER}/{log}")
        names = ", ".join(job.job_id for job in jobs)
        console.print(f"{len(jobs)} jobs submitted: {names}", soft_wrap=True, highlight=False)
        console.print(f"watch them with: crosstax status {first.out}", soft_wrap=True, highlight=False)
        if wait:
            _wait(jobs)

    return carry_out


def _wait(jobs: Sequence[Any]) -> None:
    """Return when all jobs are over. Raises `RunError` with what stopped the first that failed."""
    failed = [(job, error) for job in jobs if (error := job.exception()) is not None]
    for job, error in failed[:1]:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(f"{len(failed)} of {len(jobs)} jobs failed; {job.job_id}: {reason}; see {job.paths.stderr}")
