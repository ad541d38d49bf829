"""Options of executors as they are written on the command line."""

from collections.abc import Sequence

from cachegen.common.errors import ConditionError


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
