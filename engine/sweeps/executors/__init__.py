"""Where work is carried out: on this machine, by the scheduler of a Slurm cluster, or on a Ray cluster.

An executor takes jobs (see `jobs`), such as one for each group of a sweep's plan, and sees to it that each is
carried out by some process. Which process that is, how often it is interrupted, and in what order, moves no byte.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence

import torch

from cachegen.common.device import choose_device
from cachegen.common.errors import ConditionError
from engine.sweeps.executors.jobs import Executor, Job
from engine.training.group import DeviceLostError, Opener

NAMES = ("local", "slurm", "ray")
DIED = (
    "its process was killed, twice in all, perhaps for want of memory; free some (fewer --workers, a smaller "
    "--max-tokens or --group-size), then --retry-failed"
)
PATIENCE = 120.0  # seconds in which the lock of a process that died with its machine is surely freed


def choose_executor(name: str, options: Mapping[str, str], *, wait: bool = False) -> Executor:
    """The executor of that name.

    `options`: for local how many `workers`, else one for each GPU; for slurm those of `sbatch`, such as partition; for
    ray the `address` of its cluster. `wait`: return only
    when all is over, which local and ray always do. Raises `ConditionError` for options that it does not have, or where
    the scheduler's package is not installed.
    """
    if name == "slurm":
        from engine.sweeps.executors.slurm import slurm

        return slurm(options, wait=wait)
    if name == "ray":
        from engine.sweeps.executors.ray_cluster import ray_cluster

        return ray_cluster(**options)
    if name != "local":
        raise ConditionError(f"there is no executor {name!r}; choose one of {', '.join(NAMES)}")
    if others := [option for option in options if option != "workers"]:
        raise ConditionError(f"the local executor has no option {others[0]}; use --executor slurm")
    from engine.sweeps.executors.local import local

    return local(int(options["workers"]) if options else None)


def executor_options(
    executor: str, slurm: Sequence[str] | None, ray_address: str | None = None, workers: int | None = None
) -> dict[str, str]:
    """Options of one executor, those of slurm from KEY=VALUE words. Raises `ConditionError` for those of another."""
    if slurm and executor != "slurm":
        raise ConditionError("options of slurm need --executor slurm")
    if ray_address and executor != "ray":
        raise ConditionError("--ray-address needs --executor ray")
    if workers and executor != "local":
        raise ConditionError("--workers needs --executor local")
    options = {"address": ray_address} if ray_address else {"workers": str(workers)} if workers else {}
    for word in slurm or []:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConditionError(f"--slurm {word}: write KEY=VALUE, for example partition=gpu")
        options[name.replace("-", "_")] = value
    return options


def missing_package(package: str, extra: str) -> ConditionError:
    """What to say where the package of an extra is not installed."""
    return ConditionError(f"--executor {extra} needs {package}; pip install 'crosstax[{extra}]'")


def wants_gpu(job: Job) -> bool:
    """Whether a scheduler should be asked for a GPU; with --device auto it should."""
    return job.device != "cpu"


def run_elsewhere(job: Job, patience: float = PATIENCE) -> None:
    """Carry out a job in a process that a scheduler started, perhaps long after it was planned.

    What cannot be begun, since its inputs have changed since, is given up.
    """
    os.chdir(job.folder)
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    opener = Opener(choose_device(job.device))
    try:
        job.check()
    except Exception as error:
        job.give_up(error)
        return
    with contextlib.suppress(DeviceLostError):  # whose failure is recorded; no other job needs this process
        job.carry_out(opener, patience)
