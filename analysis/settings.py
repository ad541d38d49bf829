"""Settings of a study's runs in words: which values occur, and how a sentence lists them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Settings:
    """`table`: runs with a column for each setting; older runs lack some."""

    table: pd.DataFrame

    def values(self, name: str, **only: Any) -> list[Any]:
        """Values of one setting in the order of the runs, among runs with the values `only`; [] where unknown."""
        rows = self.table
        for key, value in only.items():
            rows = rows[rows[key] == value]
        return list(dict.fromkeys(rows[name].dropna())) if name in rows else []

    def has(self, name: str, value: Any) -> bool:
        return value in self.values(name)

    def numbers(self, name: str) -> str:
        """All values of a number, in order: "2e-05 or 0.001"; "" where unknown."""
        return either([f"{value:g}" for value in sorted(self.values(name))])


def either(values: Sequence[object], word: str = "or") -> str:
    """ "5", "5 or 8", "5, 6 or 8"; "" without any."""
    said = [str(value) for value in values]
    return f" {word} ".join(filter(None, [", ".join(said[:-1]), *said[-1:]]))


def count(number: int, what: str) -> str:
    """ "one run", "three runs", "12 runs"."""
    return f"{NUMBERS[number] if number < len(NUMBERS) else f'{number:,}'} {what}{'' if number == 1 else 's'}"
