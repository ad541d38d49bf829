"""Options of executors as they are written on the command line."""

from collections.abc import Sequence

from cachegen.errors import ConditionError


def executor_options(executor: str, slurm: Sequence[str] | None) -> dict[str, str]:
    """Options of one executor, from KEY=VALUE words. Raises `ConditionError` for those of another."""
    if slurm and executor != "slurm":
        raise ConditionError("options of slurm need --executor slurm")
    options = {}
    for word in slurm or []:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConditionError(f"--slurm {word}: write KEY=VALUE, for example partition=gpu")
        options[name.replace("-", "_")] = value
    return options
