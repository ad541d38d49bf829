"""What `crosstax lens` has read out of a run, in `RUN/lens/` beside its sealed files, with a seal of its own.

layers.parquet    the score of each question at each layer (logit lens)
words.parquet     how often names are among the nearest to patches (embedding lens, contextual lens)
names.parquet     whether nearness tells an image's own names (contextual lens)
nearest.parquet   what is nearest to each patch
maps.parquet      a few pictures, patch by patch
lens.json         written last: settings, the run's seal, and the tables' hashes
"""

from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.runs.beside import beside_problem, write_beside
from engine.runs.directory import RunDirectory

FOLDER, SEAL = "lens", "lens.json"
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

    def sentences(self, question: str) -> tuple[str, ...]:
        """The carriers for runs that were trained with this question."""
        return self.carriers or CARRIERS.get(question, PLAIN)


def lens_problem(run: RunDirectory, settings: LensSettings | None = None) -> str | None:
    """Why a run's tables do not count, also if they have other `settings`; empty if they do, None without any."""
    seal = run.file(FOLDER) / SEAL
    if not seal.is_file():
        return None
    return beside_problem(run, seal, TABLES, **({} if settings is None else _facts(settings)))


def write_lens(run: RunDirectory, settings: LensSettings, tables: dict[str, pd.DataFrame]) -> None:
    """Write a run's tables, the seal last."""
    write_beside(run, run.file(FOLDER) / SEAL, {name: tables[name] for name in TABLES}, **_facts(settings))


def _facts(settings: LensSettings) -> dict[str, Any]:
    return {"settings": settings.model_dump(mode="json")}


def read_lens(run: Path, name: str) -> pd.DataFrame:
    """One table of a run's folder."""
    return pd.read_parquet(run / FOLDER / f"{name}.parquet")
