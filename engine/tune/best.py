"""The best trial as a sweep file, so that it can be run with fresh seeds."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from engine.tune.record import Trial

FILE = "best.toml"


def best_toml(trial: Trial, grids: Iterable[Mapping[str, Any]], exploratory: bool) -> str:
    """A sweep file with the runs of `trial`; `grids`: its fields as `engine.sweep_file.read_grids` gives them."""
    found = ", ".join(f"{name} = {_value(value)}" for name, value in trial.params.items())
    lines = [
        f"# Trial {trial.number} of a tuning study, validation macro F1 {trial.value:.2f}: {found}",
        "# Its run seeds took part in the choice: give fresh ones, --set run_seed='[...]', for a result.",
    ]
    if exploratory:
        lines.append("# EXPLORATORY: answers on unseen hypernyms decided, so results on them are not confirmatory.")
    for grid in grids:
        lines += ["", "[[grid]]", *(f"{name} = {_value(value)}" for name, value in grid.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A TOML value; text as in JSON, whose escapes TOML knows."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_value(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
