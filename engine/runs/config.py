"""`config.json` of a run directory, checked where it is read."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cachegen.errors import RunError
from cachegen.files import read_json
from engine.condition import SCHEMA, Condition, Inputs


def read_config(folder: Path) -> dict[str, Any]:
    """What a run says of itself. Raises `RunError` if that is another version's, or no run's."""
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise RunError(f"{path} is no run's configuration; delete the run and repeat it")
    if config.get("schema") != SCHEMA:
        raise RunError(f"{path} has schema {config.get('schema')}, this version reads {SCHEMA}; repeat the run")
    for name in ("condition", "paths", "digests", "counts"):
        if not isinstance(config.get(name, {}), dict) or (name == "condition" and name not in config):
            raise RunError(f"{path}: {name} is no table; delete the run and repeat it")
    return config


def condition_of(config: dict[str, Any], folder: Path) -> Condition:
    """The condition of a run. Raises `ConditionError` naming the field that is wrong."""
    fields = {name: value for name, value in config["condition"].items() if name in Condition.model_fields}
    return Condition.of(fields, str(folder / "config.json"))


def inputs_of(config: dict[str, Any], folder: Path) -> Inputs:
    """Where a run's inputs were. Raises `RunError`."""
    try:
        return Inputs.model_validate(config.get("paths", {}))
    except ValidationError:
        raise RunError(f"{folder / 'config.json'}: paths lacks an input; delete the run and repeat it") from None
