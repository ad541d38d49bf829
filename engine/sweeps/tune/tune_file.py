"""A sweep file that is tuned: the runs of each setting, and the best one as a sweep file of its own."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen.common.errors import ConditionError
from cachegen.common.files import write_text
from engine.design.condition import Sweep
from engine.sweeps.presets import Preset
from engine.sweeps.sweep_file import complete, locate, read_grids, read_sweep
from engine.sweeps.tune.record import Record, Trial
from engine.sweeps.tune.table import Params, TuneTable, read_tune

FILE = "best.toml"


def best_toml(trial: Trial, grids: Iterable[Mapping[str, Any]], exploratory: bool) -> str:
    """A sweep file with the runs of `trial`; `grids`: its fields as `sweep_file.read_grids` gives them."""
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


@dataclass(frozen=True)
class TuneFile:
    """`source` with what the command line adds: settings, fields that replace the file's, dataset and stores."""

    source: Path | Preset
    settings: str | None
    overrides: dict[str, Any]
    dataset: Path | None
    stores: Sequence[Path]

    @property
    def name(self) -> str:
        return f"preset {self.source.name}" if isinstance(self.source, Preset) else str(self.source)

    def table(self, allow_unseen: bool) -> TuneTable:
        """Its [tune] table; with `allow_unseen` answers on unseen hypernyms decide. Raises `ConditionError`."""
        table = read_tune(self.source, self.name, **({"objective": "unseen"} if allow_unseen else {}))
        if twice := [name for name in table.space if name in self.overrides]:
            raise ConditionError(f"{twice[0]} is searched by {self.name} and given with --set; do one of them")
        return table

    def runs_of(self, params: Params) -> Sweep:
        """The runs of one setting. Raises `ConditionError` or `StoreError` saying what to give."""
        wanted = read_sweep(self.source, self.settings, self.overrides | params)
        return complete(locate(wanted, self.dataset, self.stores), self.name, self.stores)

    def write_best(self, record: Record, out: Path) -> Path | None:
        """Write the best trial as a sweep file below `out`; None if no trial is complete."""
        if record.best is None:
            return None
        grids = [fields for _, fields in read_grids(self.source, self.settings, self.overrides | record.best.params)]
        write_text(out / FILE, best_toml(record.best, grids, record.table["objective"] == "unseen"))
        return out / FILE
