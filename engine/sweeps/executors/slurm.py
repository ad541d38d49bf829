"""A Slurm cluster, through submitit: one job array, such as one of its jobs for each group of a sweep.

A job that runs out of time, or is preempted, is put back into the queue by submitit and goes on from its files, such
as the group's checkpoint. Logs and what submitit passes on (by pickle) stand in `slurm/` in the folder of the work;
`crosstax status` names those of a sweep.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cachegen.common.errors import ConditionError, RunError
from cachegen.common.progress import tell
from engine.sweeps.executors import Executor, Job, longest_first, missing_package, run_elsewhere, wants_gpu
from engine.sweeps.timing import append_event

FOLDER = "slurm"
TIMEOUTS = 100  # a group may run out of time so often; each time it has got further
MINUTES = 240
GENERIC = ("cpus_per_task", "gpus_per_node", "mem_gb")  # submitit's own names, for all kinds of cluster


class _Call:
    """What Slurm's job does; it holds nothing, so that one that is interrupted starts the same again."""

    def __call__(self, job: Job) -> None:
        run_elsewhere(job)

    def checkpoint(self, job: Job) -> Any:
        """Asked by submitit when time is up: what to queue. The state so far is in the job's files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def slurm(options: Mapping[str, str], *, wait: bool = False, cluster: str = "slurm") -> Executor:
    """Submit jobs as a job array with `options` of `sbatch`, such as partition, time (minutes), gres, account.

    `cluster`: or submitit's "local" (processes on this machine) or "debug" (this process). Raises `ConditionError`
    for unknown options, without submitit, and where there is no Slurm.
    """
    try:
        import submitit
    except ImportError:
        raise missing_package("submitit", "slurm") from None
    given = {key: int(value) if value.isdigit() else value for key, value in options.items()}

    def carry_out(unordered: Sequence[Job]) -> None:
        jobs = longest_first(unordered)
        folder = jobs[0].out / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        needs: dict[str, Any] = {"timeout_min": MINUTES, "cpus_per_task": max(job.threads for job in jobs)}
        if any(map(wants_gpu, jobs)):
            needs["gpus_per_node"] = 1
        needs |= {key if key in GENERIC else f"slurm_{key}": value for key, value in given.items()}
        try:
            engine = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=TIMEOUTS)
            engine.update_parameters(name="crosstax", **needs)
            submitted = engine.map_array(_Call(), jobs)
        except (RuntimeError, NameError, ValueError, AssertionError) as error:  # as submitit and sbatch refuse
            reason = " ".join(str(error).split())
            raise ConditionError(f"slurm: {reason}; see --slurm, or use --executor local") from None
        except submitit.core.utils.FailedJobError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConditionError(f"slurm: sbatch refused the jobs ({reason}); see --slurm") from None
        for job, sent in zip(jobs, submitted, strict=True):
            log = Path(sent.paths.stderr).relative_to(folder.resolve()).as_posix()
            append_event(job.out, "submitted", group=job.name, job=sent.job_id, log=f"{FOLDER}/{log}")
        names = ", ".join(sent.job_id for sent in submitted)
        tell(f"{len(jobs)} jobs submitted: {names}; logs in {folder}")
        if wait:
            _wait(jobs, submitted)

    return carry_out


def _wait(jobs: Sequence[Job], submitted: Sequence[Any]) -> None:
    """Return when all jobs are over; one that was killed, as for want of memory, is given up.

    Raises `RunError` with what stopped the first that stopped itself.
    """
    from submitit.core.utils import FailedJobError, UncompletedJobError

    failed = []
    for job, sent in zip(jobs, submitted, strict=True):
        error = sent.exception()
        if isinstance(error, UncompletedJobError) and not isinstance(error, FailedJobError):
            job.give_up(
                f"its job {sent.job_id} was killed, perhaps for want of memory or time; see {sent.paths.stderr}"
            )
        elif error is not None:
            failed.append((sent, error))
    for sent, error in failed[:1]:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(f"{len(failed)} of {len(jobs)} jobs failed; {sent.job_id}: {reason}; see {sent.paths.stderr}")
