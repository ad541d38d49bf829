"""What each table of a study holds, and what its columns mean and count in: captions, and the file columns.csv.

A column of one name means the same in every table, but for those named with their table ("ablation.kind"). Macro F1 is
in points, 0 to 100, as in the paper. The words stand in dictionary_tables.csv and dictionary_columns.csv.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import pandas as pd


def csv_rows(name: str) -> list[list[str]]:
    """Rows of a CSV beside this file, without its header."""
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


CAPTIONS = {row[0]: row[1] for row in csv_rows("dictionary_tables.csv")}
COLUMNS = {column: (meaning, unit) for column, unit, meaning in csv_rows("dictionary_columns.csv")}
SETTING = ("setting of the run", "")  # columns of the runs that are not named
PREFIXES = {
    "validation_leaf_": "validation, leaves",
    "validation_seen_": "validation, seen hypernyms",
    "leaf_": "test, leaves",
    "seen_": "test, seen hypernyms",
    "heldout_": "test, held-out hypernyms",
}


def describe_columns(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per table and column: table, column, unit, meaning."""
    columns = ["table", "column", "unit", "meaning"]
    named = [(name, list(map(str, table.columns))) for name, table in tables.items()] + [("columns", columns)]
    rows = [(table, column, *reversed(describe(table, column))) for table, names in named for column in names]
    return pd.DataFrame(rows, columns=columns)


def describe(table: str, column: str) -> tuple[str, str]:
    """(meaning, unit) of a column; what is named nowhere is a setting of the run, in `results`. Raises KeyError."""
    known = COLUMNS.get(f"{table}.{column}") or COLUMNS.get(column)
    if known or table != "results":
        return known or COLUMNS[column]
    for prefix, where in PREFIXES.items():
        if column.removeprefix(prefix) in COLUMNS and column.startswith(prefix):
            meaning, unit = COLUMNS[column.removeprefix(prefix)]
            return f"{where}: {meaning}", unit
    return SETTING
