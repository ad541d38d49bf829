"""Where the groups of a sweep are carried out: on this machine, or by the scheduler of a Slurm cluster.

An executor takes the tasks of `engine.sweep.run_sweep`, one for each group of the plan, and sees to it that each is
carried out by some process. Which process that is, how often it is interrupted, and in what order, moves no byte.
"""

import os
from collections.abc import Mapping

import torch

from cachegen.device import choose_device
from cachegen.errors import ConditionError, RunError
from engine.condition import Sweep
from engine.group import Opener
from engine.plan import plan_runs
from engine.sweep import Executor, Task, run_task

NAMES = ("local", "slurm")
PATIENCE = 120.0  # seconds in which the lock of a process that died with its machine is surely freed


def choose_executor(name: str, options: Mapping[str, str], *, wait: bool = False) -> Executor:
    """The executor of that name.

    `options`: for slurm those of `sbatch`, such as partition. `wait`: return only when all is over, which local always
    does. Raises `ConditionError` for options that it does not have, or where the
    scheduler's package is not installed.
    """
    if name == "slurm":
        from engine.executors.slurm import slurm

        return slurm(options, wait=wait)
    if name != "local":
        raise ConditionError(f"there is no executor {name!r}; choose one of {', '.join(NAMES)}")
    if options:
        raise ConditionError(f"the local executor has no option {next(iter(options))}; use --executor slurm")
    from engine.executors.local import local

    return local()


def missing(package: str, extra: str) -> ConditionError:
    """What to say where the package of an extra is not installed."""
    return ConditionError(f"--executor {extra} needs {package}; pip install 'crosstax[{extra}]'")


def wants_gpu(task: Task) -> bool:
    """Whether a scheduler should be asked for a GPU; with --device auto it should."""
    return task.execution.device != "cpu"


def run_elsewhere(task: Task, patience: float = PATIENCE) -> None:
    """Carry out a task in a process that a scheduler started, perhaps long after it was planned.

    Raises `RunError` if the inputs have changed since.
    """
    os.chdir(task.folder)
    torch.set_num_threads(task.threads)
    torch.set_flush_denormal(True)
    if plan_runs(Sweep(runs=tuple((run.inputs, run.condition) for run in task.runs))) != list(task.runs):
        raise RunError(
            f"{task.out / task.group.runs[0]}: its dataset, features or LM have changed since it was submitted; start "
            "the sweep again"
        )
    run_task(task, Opener(choose_device(task.execution.device)), patience)
