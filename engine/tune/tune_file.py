"""A sweep file that is tuned: the runs of each setting, and the best one as a sweep file of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen.errors import ConditionError
from cachegen.files import write_text
from engine.condition import Sweep
from engine.presets import Preset
from engine.sweep_file import complete, locate, read_grids, read_sweep
from engine.tune.best import FILE, best_toml
from engine.tune.record import Record
from engine.tune.table import Params, TuneTable, read_tune


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
