"""`tune.json` in the folder of a study: its table, every trial, the best one, and what mattered.

Written whole after each batch, without time stamps: equal studies are equal bytes. A trial in it is over and is never
run again; the batch that was under way is proposed again when the study goes on, and its finished runs are found.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cachegen.common.errors import RunError
from cachegen.common.files import read_json, remove_leftovers, write_json

SCHEMA = 1
FILE = "tune.json"


class Rung(BaseModel):
    """One training of a trial: its epochs, value, the mean of each group over its runs, and the ids of those."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int
    value: float
    groups: dict[str, float]
    runs: tuple[str, ...]


class Trial(BaseModel):
    """One setting that was tried. `value`: macro F1 of its last rung when complete; `reason`: why it failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    params: dict[str, Any]
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    rungs: tuple[Rung, ...]
    reason: str | None = None


class Record(BaseModel):
    """A study so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: dict[str, Any]
    trials: tuple[Trial, ...] = ()
    importance: dict[str, float] | None = None

    @property
    def best(self) -> Trial | None:
        """The complete trial of the highest value, the first of several."""
        complete = [trial for trial in self.trials if trial.value is not None]
        return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)

    def as_json(self) -> dict[str, Any]:
        """`schema`, `exploratory` (unseen hypernyms decided), `best` (number, value, params), and all fields."""
        best = self.best
        return {
            "schema": SCHEMA,
            "exploratory": self.table["objective"] == "unseen",
            "best": None if best is None else {"number": best.number, "value": best.value, "params": best.params},
            **self.model_dump(mode="json"),
        }


def write_record(out: Path, record: Record) -> None:
    """Write the record of the study in the folder `out`, whose lock the caller holds."""
    remove_leftovers(out / FILE)
    write_json(out / FILE, record.as_json())


def read_tune_record(out: Path) -> Record | None:
    """The study in the folder `out`; None if there is none. Raises `RunError` for a file that is not one."""
    if not (out / FILE).exists():
        return None
    found = read_json(out / FILE)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise RunError(f"{out / FILE} was written by another version of crosstax; choose another --out")
    try:
        return Record.model_validate({name: found[name] for name in Record.model_fields})
    except (KeyError, ValidationError):
        raise RunError(f"{out / FILE} is damaged; delete it: its runs are kept, and the study is rebuilt") from None
