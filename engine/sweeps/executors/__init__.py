"""Where work is carried out: on this machine, by the scheduler of a Slurm cluster, or on a Ray cluster.

An executor takes jobs, such as one for each group of a sweep's plan, and sees to it that each is carried out by some
process that sees the same files. Which process that is, how often it is interrupted, and in what order, moves no byte.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from cachegen.common.device import choose_device
from cachegen.common.errors import ConditionError
from engine.training.group import DeviceLostError, Opener

NAMES = ("local", "slurm", "ray")
DIED = (
    "its process was killed, twice in all, perhaps for want of memory; free some (fewer --workers, a smaller "
    "--max-tokens or --group-size), then --retry-failed"
)
PATIENCE = 120.0  # seconds in which the lock of a process that died with its machine is surely freed


class Job(Protocol):
    """One piece of a larger work, such as a group of a sweep; its state is in files, so that it goes on from them.

    `out`: folder of the work, for its event log and a scheduler's own logs; `name`: which of the work's jobs it is;
    `work`: how long it takes, in any unit (0: not known); `device`: as of `--device`; `threads`: of PyTorch, which move
    last bits on a CPU; `folder`: where relative paths start. Schedulers pass it on by pickle.
    """

    @property
    def out(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def work(self) -> float: ...
    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def folder(self) -> Path: ...

    def check(self) -> None:
        """Raise `RunError` if what it works on has changed since it was planned."""

    def carry_out(self, opener: Opener, patience: float, /) -> None:
        """Do what is not done yet; `opener` keeps from job to job what a process has opened.

        What another process works on is left alone, if that still does after `patience` seconds.
        """

    def give_up(self, reason: str | BaseException, /) -> None:
        """Record that it cannot be carried out, for what its process could not record, or raise that."""


Executor = Callable[[Sequence[Job]], None]
"""Sees to it that each job is carried out in some process; returns when they are over, or are submitted."""


def choose_executor(
    name: str,
    slurm: Sequence[str] | None = None,
    ray_address: str | None = None,
    workers: int | None = None,
    *,
    wait: bool = False,
) -> Executor:
    """The executor of that name, with the options that it alone has.

    `slurm`: KEY=VALUE words with options of `sbatch`, such as partition=gpu; `ray_address`: of a Ray cluster;
    `workers`: processes of the local one, else one for each GPU. `wait`: return only when all is over, which local and
    ray always do. Raises `ConditionError` for options of another, or where the scheduler's package is not installed.
    """
    for option, given, owner in (
        ("--slurm", slurm, "slurm"),
        ("--ray-address", ray_address, "ray"),
        ("--workers", workers, "local"),
    ):
        if given and name != owner:
            raise ConditionError(f"{option} needs --executor {owner}")
    if name == "slurm":
        from engine.sweeps.executors.slurm import slurm as slurm_cluster

        return slurm_cluster(sbatch_options(slurm or []), wait=wait)
    if name == "ray":
        from engine.sweeps.executors.ray_cluster import ray_cluster

        return ray_cluster(ray_address)
    if name == "local":
        from engine.sweeps.executors.local import local

        return local(workers)
    raise ConditionError(f"there is no executor {name!r}; choose one of {', '.join(NAMES)}")


def sbatch_options(words: Sequence[str]) -> dict[str, str]:
    """Options of `sbatch` from KEY=VALUE words. Raises `ConditionError`."""
    options = {}
    for word in words:
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


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The order for several workers at once: what is long should not begin when all others end.

    On 64 GPUs it makes the paper's grid up to 1.6 times as fast by simulation.
    """
    return sorted(jobs, key=lambda job: -job.work)


def in_this_process(jobs: Sequence[Job]) -> None:
    """Carry out one job after the other, loading little twice."""
    opener = Opener(choose_device(jobs[0].device))
    for job in jobs:
        job.carry_out(opener, 0.0)


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
