"""`config.json` of a run directory, checked where it is read."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cachegen.common.errors import RunError
from cachegen.common.files import read_json
from engine.design.condition import SCHEMA, Condition, Inputs

LARGEST_JSON = 2**24  # bytes; a run's own files have some thousand


def read_record(path: Path) -> Any:
    """A small JSON file of a run. Raises `CrosstaxError`, also for one that no run can have written."""
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is no file; delete the run and repeat it")
    if path.is_file() and path.stat().st_size > LARGEST_JSON:
        raise RunError(f"{path} is larger than any that a run writes; delete the run and repeat it")
    return read_json(path)


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a run. Raises `RunError` if that is another version's, or no run's."""
    path = folder / "config.json"
    config = read_record(path)
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
    """Where a run's inputs were, as they were given. Raises `RunError`."""
    try:
        return Inputs.model_validate(config.get("paths", {}))
    except ValidationError:
        raise RunError(f"{folder / 'config.json'}: paths lacks an input; delete the run and repeat it") from None


def run_id_of(config: dict[str, Any], condition: Condition, folder: Path) -> str:
    """The run's id, which must follow from its condition and the digests of its inputs. Raises `RunError`."""
    path = folder / "config.json"
    encoder, lm = (config["condition"].get(name) for name in ("encoder", "lm"))
    digests = config.get("digests", {})
    if not isinstance(encoder, str) or not isinstance(lm, str):
        raise RunError(f"{path}: the condition names no encoder or no lm; delete the run and repeat it")
    if not {"dataset", "store", "lm"} <= digests.keys() or not all(isinstance(each, str) for each in digests.values()):
        raise RunError(f"{path}: digests lacks an input; delete the run and repeat it")
    try:
        follows = condition.run_id(encoder, lm, digests)
    except ValueError:  # text that is no Unicode
        follows = None
    if config.get("run_id", follows) != follows or follows is None:
        raise RunError(
            f"{path} was edited: it is of run {config.get('run_id')}, but its condition and inputs are those of "
            f"{follows}; delete the run and repeat it"
        )
    return follows
