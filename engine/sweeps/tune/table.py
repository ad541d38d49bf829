"""The [tune] table of a sweep file: what is searched, how, and what decides.

    [tune]
    trials = 24             how many settings are tried
    batch = 8               this many at once, as one sweep; the next ones are chosen when these are over
    sampler = "tpe"         or "random", or "grid": every combination of lists, the last field (by name) fastest
    startup = 10            trials of tpe that are drawn at random before it learns from them
    seed = 0
    objective = "seen"      validation questions on leaves and seen hypernyms; "unseen" makes the study exploratory
    prune = {epochs = [2, 4], keep = 0.5}

    [tune.space]
    learning_rate = {low = 1e-4, high = 1e-2, log = true}
    batch = [32, 64]

A trial is all runs that the rest of the file then means (a list of run seeds, say), and its value is their mean. With
`prune` every trial is first trained for 2 epochs, the best half of all so far anew for 4, and the best half of those
for as many as the file says: whole runs, each with its own learning-rate schedule, so nothing is judged in mid-course.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    field_validator,
    model_validator,
)

from cachegen.common.errors import ConditionError, meant
from cachegen.common.files import write_text
from engine.design.condition import MOST_RUNS, PLACES, Condition, Sweep, checked
from engine.sweeps.presets import Preset
from engine.sweeps.sweep_file import complete, locate, read_document, read_grids, read_sweep
from engine.sweeps.tune.record import Record, Trial

BEST = "best.toml"

Params = dict[str, Any]
"""Values of the searched fields, in the order of their names."""


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return value


Number = Annotated[int | float, PlainValidator(_number)]


class Range(BaseModel):
    """All numbers from low to high: integers where the field is one, every `step`-th, or evenly on a log scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low, {self.low}, is not below high, {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}, which has no logarithm; with log = true it must be above 0")
        if self.log and self.step is not None:
            raise ValueError("step and log exclude each other")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step is {self.step}; it must be above 0")
        return self


Entry = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Any, ...], Tag("values")],
    Discriminator(lambda entry: "range" if isinstance(entry, dict | Range) else "values"),
]


class Prune(BaseModel):
    """Rungs below the whole training: `epochs` of each, and the share of trials that goes on from one to the next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: tuple[Annotated[int, Field(ge=1, strict=True)], ...] = Field(min_length=1)
    keep: float = Field(0.5, gt=0, lt=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError("epochs do not rise; write the shortest training first, [1, 2, 4]")
        return self


class TuneTable(BaseModel):
    """The [tune] table; `space`: field -> range or choices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int | None = Field(None, ge=1, strict=True, description="None: all of a grid")
    batch: int = Field(4, ge=1, strict=True)
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    startup: int = Field(10, ge=1, strict=True)
    seed: int = Field(0, ge=0, strict=True)
    objective: Literal["seen", "unseen"] = "seen"
    prune: Prune | None = None
    space: dict[str, Entry] = Field(min_length=1)

    @field_validator("space", mode="before")
    @classmethod
    def _in_order(cls, space: Any) -> Any:
        """Fields by name, so that the order in the file moves nothing."""
        if not isinstance(space, dict):
            raise ValueError("no table; write [tune.space] with a line for each searched field")
        for name, values in space.items():
            if not isinstance(values, dict | list | tuple):
                raise ValueError(f"{name}: neither a list of values nor a range such as {{low = 1e-4, high = 1e-2}}")
        return dict(sorted(space.items()))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, values in self.space.items():
            _check_entry(name, values)
        ranges = [name for name, values in self.space.items() if isinstance(values, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"a grid needs a list of values for {ranges[0]}, no range")
        sizes: list[int] = [len(values) for values in self.space.values() if isinstance(values, tuple)]
        if self.sampler == "grid" and math.prod(sizes) > MOST_RUNS:
            raise ValueError(f"space: more than {MOST_RUNS:,} combinations; shorten its lists")
        for name in ("trials", "batch", "startup"):
            if (getattr(self, name) or 0) > MOST_RUNS:
                raise ValueError(f"{name} is larger than {MOST_RUNS:,}")
        if self.sampler != "grid" and self.trials is None:
            raise ValueError("trials is missing; say how many settings to try")
        if self.prune and "epochs" in self.space:
            raise ValueError("prune shortens epochs, so that they cannot be searched too")
        return self

    @property
    def exploratory(self) -> bool:
        """Whether answers on unseen hypernyms decide, so that no later result on them is confirmatory."""
        return self.objective == "unseen"

    @property
    def cells(self) -> list[Params]:
        """All combinations of lists."""
        return [dict(zip(self.space, cell, strict=True)) for cell in product(*self.space.values())]

    @property
    def count(self) -> int:
        """Number of trials."""
        limit = self.trials or math.inf
        return int(min(limit, len(self.cells)) if self.sampler == "grid" else limit)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this study, as JSON values; a study may be given more trials later."""
        return self.model_dump(mode="json", exclude={"trials"})

    @property
    def extremes(self) -> list[Params]:
        """Settings to check before anything runs: the first values, then each other value that bounds a field."""
        ends = {
            name: (values.low, values.high) if isinstance(values, Range) else values
            for name, values in self.space.items()
        }
        first = {name: values[0] for name, values in ends.items()}
        return [first, *(first | {name: value} for name, values in ends.items() for value in values[1:])]


def read_tune(source: Any, name: str, **changes: Any) -> TuneTable:
    """The [tune] table of a sweep file or preset, `changes` made to it. Raises `ConditionError` naming the field."""
    document = read_document(source)
    table = document.get("tune")
    if not isinstance(table, dict):
        raise ConditionError(f"{name} has no [tune] table; `crosstax presets tune` prints an example")
    return checked(TuneTable, table | changes, f"{name}: [tune]")


def _check_entry(name: str, values: Range | tuple[Any, ...]) -> None:
    """Raise ValueError for a name that is no field, and for values that a search cannot take."""
    known = [*Condition.model_fields, *PLACES]
    if name not in known:
        raise ValueError(f"space.{name}: no field of a condition{meant(name, known)}; fields are {', '.join(known)}")
    if isinstance(values, tuple):
        if not values:
            raise ValueError(f"space.{name}: empty; list the values to try")
        if len(set(map(repr, values))) < len(values):
            raise ValueError(f"space.{name}: a value stands twice")
        if not all(isinstance(value, bool | int | float | str) for value in values):
            raise ValueError(f"space.{name}: a value is neither number, text nor true or false")
        return
    kind = Condition.model_fields[name].annotation if name in Condition.model_fields else str
    if kind not in (int, float):
        raise ValueError(f"space.{name}: no number; list its values instead of a range")
    if kind is int and not all(isinstance(value, int) for value in (values.low, values.high, values.step or 1)):
        raise ValueError(f"space.{name}: counts in whole numbers; write low, high and step without a point")


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
        write_text(out / BEST, best_toml(record.best, grids, record.table["objective"] == "unseen"))
        return out / BEST
