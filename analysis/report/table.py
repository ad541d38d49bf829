"""A table of the page: what it shows, how a value is written, and the same numbers as CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from analysis.words import missing

# text, prose (wraps), code, verdict (words, and whether it was shown) and noted (words, and smaller words below) are
# words; the rest are numbers, some with others beside them: see PARTS.
Words = Literal["text", "prose", "code", "verdict", "noted"]
Numbers = Literal["number", "percent", "p", "interval", "between", "range", "bracketed", "counted", "counts"]
WORDS = get_args(Words)
PARTS = {
    "interval": ("", " low", " high"),
    "between": (" low", " high"),
    "range": ("", " lowest", " highest"),
    "bracketed": ("", " in brackets"),
    "counted": ("", " yes", " no"),
    "counts": (" yes", " no"),
}
EMBEDDED_BYTES = 65_536  # a CSV no larger is inside the page too, so that its link works wherever the page is


@dataclass(frozen=True)
class Column:
    """One column: its header, where its values come from (a key or attribute of the row, several, or a function of it).

    `digits` after the point, of a number in brackets `bracket_digits`; `sign`: a plus sign before positive numbers.
    """

    label: str
    value: str | tuple[str, ...] | Callable[[Any], Any]
    kind: Words | Numbers = "number"
    digits: int = 1
    sign: bool = False
    bracket_digits: int | None = None

    @property
    def words(self) -> bool:
        """Whether it holds words, which stand on the left and sort by the alphabet."""
        return self.kind in WORDS

    def of(self, row: Any) -> Any:
        """Its value in `row`."""
        if callable(self.value):
            return self.value(row)
        if isinstance(self.value, tuple):
            return tuple(row[name] for name in self.value)
        return row[self.value] if isinstance(row, Mapping) else getattr(row, self.value)


@dataclass(frozen=True)
class Table:
    """`rows`: one list of values per row, in the order of `columns`; `file`: the CSV beside the page with all of it."""

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Any]]
    file: str = ""

    @property
    def title(self) -> str:
        """The first clause of the caption."""
        text = self.caption.removeprefix("Exploratory: ").removeprefix("Confirmatory: ")
        return text[:1].upper() + re.split(r"[:,;.(]", text[1:])[0]

    @property
    def csv(self) -> str:
        """The table as CSV text, numbers unrounded, with a column for each number of a cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([name for column in self.columns for name in _headers(column)])
        for row in self.rows:
            writer.writerow(
                [part for column, value in zip(self.columns, row, strict=True) for part in _parts(column, value)]
            )
        return text.getvalue()


def table(name: str, caption: str, rows: Iterable[Any], columns: Iterable[Column], file: str = "") -> Table:
    """The table of `rows`; a column of words that is empty in every row (the setup, where there is one) is left out."""
    rows, columns = list(rows), list(columns)
    values = {column.label: [column.of(row) for row in rows] for column in columns}
    if len(values) < len(columns):
        raise ValueError(f"table {name!r} has two columns of one name")
    kept = [column for column in columns if not column.words or any(map(_said, values[column.label])) or not rows]
    cells = zip(*(values[column.label] for column in kept), strict=True)
    return Table(name, caption, kept, [list(row) for row in cells], file)


def _said(value: Any) -> bool:
    return any(map(bool, value)) if isinstance(value, tuple) else bool(value)


def _headers(column: Column) -> list[str]:
    return [column.label + part for part in PARTS.get(column.kind, ("",))]


def _parts(column: Column, value: Any) -> list[str]:
    if column.kind == "noted":
        return [" ".join(filter(None, value))]
    if column.kind == "verdict":
        return [value[0]]
    count = len(_headers(column))
    parts = [value] if count == 1 else [None] * count if value is None else value
    return [part if isinstance(part, str) else "" if missing(part) else f"{part:.10g}" for part in parts]


# Columns that several tables have.
SETUP = Column("setup", "setup", "text")  # what tells setups apart
CONTRAST = Column("contrast", lambda row: (row["above"], f"minus {row['below']}"), "noted")
GAP = Column("difference", "difference", sign=True)
INTERVAL = Column("95 % interval", ("low", "high"), "between", sign=True)
BOOTSTRAP = Column("bootstrap", ("boot_low", "boot_high"), "between", sign=True)
BASIS = Column("holds over", "basis", "text")
