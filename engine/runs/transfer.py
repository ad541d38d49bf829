"""Answers to question sets, in `RUN/transfer/` beside a run's sealed files: each with a seal of its own.

NAME-DIGEST.parquet     questions (`engine.design.question_sets.put_to`) with logit_yes, logit_no, mass
NAME-DIGEST.json        written last: what was asked, of which run, and the table's hash

A set that is asked again with other questions replaces the answers under its name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from engine.design.question_sets import QuestionSet
from engine.runs.beside import beside_problem, write_beside
from engine.runs.directory import RunDirectory

FOLDER = "transfer"


@dataclass(frozen=True)
class Answered:
    """A set's answers on disk: the `name` of the set, and the `path` of its table."""

    name: str
    path: Path

    def table(self) -> pd.DataFrame:
        """Questions and answers, one row each."""
        return pd.read_parquet(self.path)


def answers_path(run: RunDirectory, asked: QuestionSet) -> Path:
    """Where a run's answers to a set are, or would be."""
    return run.file(FOLDER) / f"{asked.name}-{asked.digest[:16]}.parquet"


def answers_problem(run: RunDirectory, path: Path) -> str:
    """Why a table of answers does not count; empty if it does."""
    return beside_problem(run, path.with_suffix(".json"), [path.stem])


def write_answers(run: RunDirectory, asked: QuestionSet, table: pd.DataFrame) -> Path:
    """Write a run's answers to a set, the seal last; earlier answers of that name go."""
    path = answers_path(run, asked)
    facts = {"name": asked.name, "questions": asked.digest, "asked": len(table)}
    write_beside(run, path.with_suffix(".json"), {path.stem: table}, **facts)
    for other in path.parent.glob("*.json"):
        if other != path.with_suffix(".json") and _name(other) == asked.name:
            other.unlink()
            other.with_suffix(".parquet").unlink(missing_ok=True)
    return path


def _name(seal: Path) -> str:
    return seal.stem.rpartition("-")[0]


def answered(run: RunDirectory) -> Iterator[tuple[Answered, str]]:
    """Every table of answers of a run, and what is wrong with it (empty: nothing)."""
    for path in sorted(run.file(FOLDER).glob("*.parquet")):
        yield Answered(_name(path), path), answers_problem(run, path)
