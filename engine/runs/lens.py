"""What `crosstax lens` has read out of a run, in `RUN/lens/` beside its sealed files, with a seal of its own.

layers.parquet    the score of each question at each layer (logit lens)
words.parquet     how often names are among the nearest to patches (embedding lens, contextual lens)
names.parquet     whether nearness tells an image's own names (contextual lens)
nearest.parquet   what is nearest to each patch
maps.parquet      a few pictures, patch by patch
lens.json         written last: settings, the run's seal, and the tables' hashes
"""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cachegen.common.errors import ConditionError, CrosstaxError
from cachegen.common.files import digest_file, read_json, write_atomically, write_json
from engine.runs.directory import RunDirectory

FOLDER, SEAL = "lens", "lens.json"
SCHEMA = 1
ROLES = ("leaf", "sibling", "hypernym", "other leaf", "other hypernym")  # of a name, to an image
TABLES = ("layers", "words", "names", "nearest", "maps")

# Sentences whose words are compared with patches, by the question that runs were trained with: generated worlds know
# few words.
CARRIERS = {"is there {phrase}": ("{phrase} is", "today {noun} here", "still {noun} nearby")}
PLAIN = (
    "This is {phrase} in the garden.",
    "Yesterday I saw {phrase} on the way home.",
    "We have a photo of {phrase} here.",
    "They talked about {phrase} all day.",
)


class LensSettings(BaseModel):
    """What is looked at.

    images: at most so many test images of a run, spread over its leaves. pictures: how many of them have maps.
    carriers: sentences with {phrase} ("a crow") or {noun} ("crow"); by default those that suit the trained question.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(100, ge=1)
    pictures: int = Field(4, ge=0)
    carriers: tuple[str, ...] = ()

    @field_validator("carriers")
    @classmethod
    def _name_something(cls, carriers: tuple[str, ...]) -> tuple[str, ...]:
        for carrier in carriers:
            if carrier.count("{phrase}") + carrier.count("{noun}") != 1:
                raise ValueError(f"{carrier!r} needs {{phrase}} or {{noun}}, once")
        return carriers

    @classmethod
    def of(cls, fields: dict[str, Any], where: str) -> "LensSettings":
        """Checked settings. Raises `ConditionError` naming the field that is wrong."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(map(str, problem["loc"]))
            message = problem["msg"].removeprefix("Value error, ")
            raise ConditionError(f"{where}: {field}: {message}; correct this field") from None

    def sentences(self, question: str) -> tuple[str, ...]:
        """The carriers for runs that were trained with this question."""
        return self.carriers or CARRIERS.get(question, PLAIN)


def lens_problem(run: RunDirectory, settings: LensSettings | None = None) -> str | None:
    """Why a run's tables do not count, also if they have other `settings`; empty if they do, None without any."""
    folder = run.file(FOLDER)
    if not (folder / SEAL).is_file():
        return None
    try:
        record: Any = read_json(folder / SEAL)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            return "its seal is of another version"
        if record.get("run") != digest_file(run.file("DONE")):
            return "the run has changed since"
        if settings is not None and record.get("settings") != settings.model_dump(mode="json"):
            return "it has other settings"
        found = {name: digest_file(folder / f"{name}.parquet") for name in TABLES}
        return "" if record.get("tables") == found else "a table has changed since it was written"
    except (CrosstaxError, OSError) as error:
        return " ".join(str(error).split())


def write_lens(run: RunDirectory, settings: LensSettings, tables: dict[str, pd.DataFrame]) -> None:
    """Write a run's tables, the seal last."""
    folder = run.file(FOLDER)
    folder.mkdir(exist_ok=True)
    (folder / SEAL).unlink(missing_ok=True)
    for name in TABLES:
        path = folder / f"{name}.parquet"
        write_atomically(path, partial(tables[name].to_parquet, index=False))
    facts = {"schema": SCHEMA, "settings": settings.model_dump(mode="json"), "run": digest_file(run.file("DONE"))}
    write_json(folder / SEAL, facts | {"tables": {name: digest_file(folder / f"{name}.parquet") for name in TABLES}})


def read_lens(run: Path, name: str) -> pd.DataFrame:
    """One table of a run's folder."""
    return pd.read_parquet(run / FOLDER / f"{name}.parquet")
