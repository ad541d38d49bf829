"""The result files of the authors' release: where they lie, and tables read from them with every cell checked.

`results/main-results/macro-f1s/` holds macro F1; files of the same names one folder up hold support-weighted F1.
"""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cachegen.common.errors import CrosstaxError
from cachegen.common.files import remedy_of
from cachegen.things.names import HYPERNYMS

RESULTS = "results/main-results"
MACRO = f"{RESULTS}/macro-f1s"
WEIGHTED = f"{RESULTS}/all_unseen_f1_scores.csv"
BACKBONE = "results/coherence_backbone.csv"
VISUAL_COHERENCE = f"{RESULTS}/visual_coherence_results.csv"
DEPTHWISE = f"{MACRO}/qwen3-depthwise.csv"
# Files of F1 by run end in one of these; what is before it names a family of models ("all", "llama", "8b", ...).
EXPERIMENTS = {"Held-Out Hypernyms": "unseen", "Seen Hypernyms": "seen", "Leaves": "leaf"}

# Every name that the release gives a hypernym -> its name in the taxonomy.
TAXONOMY_NAMES = {
    form: name for name, row in HYPERNYMS.items() for form in (name, row.question, row.f1_name, row.coherence_name)
}


class ReleaseError(CrosstaxError):
    """A release folder or result file that cannot be used as it is."""


class AbsentError(Exception):
    """A file, or runs within a file, that this copy of the release does not hold; says which. Never a user's error."""


def open_release(root: Path) -> Path:
    """`root`, if it is a folder with at least one of the result files. Raises ReleaseError."""
    known = [BACKBONE, VISUAL_COHERENCE, WEIGHTED, f"{MACRO}/*.csv"]
    if not root.is_dir():
        raise ReleaseError(f"{root} is no folder; give a checkout of github.com/sally-xu-42/cross-modal-taxonomic-gen")
    if not any(path.is_file() for pattern in known for path in root.glob(pattern)):
        raise ReleaseError(f"{root} holds none of {', '.join(known)}; give the top folder of the release's checkout")
    return root


def find(root: Path, file: str) -> Path:
    """The path of `file` (relative to the release). Raises AbsentError."""
    path = root / file
    if not path.is_file():
        raise AbsentError(file)
    return path


def read_table(
    path: Path,
    text: Sequence[str],
    numbers: Sequence[str] = (),
    key: Sequence[str] = (),
    between: tuple[float, float] = (-np.inf, np.inf),
) -> pd.DataFrame:
    """A CSV file whose columns `text` are words and all others numbers `between` two bounds; empty cells are missing.

    Columns `text` and `numbers` must be there, the latter without empty cells; `key` must tell rows apart once
    identical ones are dropped. Raises ReleaseError with file and line: no CSV, columns missing or twice, a row that is
    too short (a file cut off) or too long, a cell that is no number or out of bounds, two rows of one key.
    """
    rows: list[list[str | float]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            lacking = [name for name in (*text, *numbers) if name not in header]
            if lacking or len(set(header)) < len(header):
                what = f"column {lacking[0]!r} is missing" if lacking else "a column occurs twice"
                raise ReleaseError(f"{path}:1: {what}; get the file again")
            for cells in reader:
                if len(cells) != len(header):
                    raise ReleaseError(
                        f"{path}:{reader.line_num}: {len(cells)} cells where the header has {len(header)}; "
                        "get the file again"
                    )
                place = f"{path}:{reader.line_num}"
                rows.append([_cell(place, *cell, text, between) for cell in zip(header, cells, strict=True)])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        do = "get the file again"
        raise ReleaseError(f"{path} is not readable as CSV ({error}); {remedy_of(error, do)}") from None
    if not rows:
        raise ReleaseError(f"{path} has no rows; get the file again")
    table = pd.DataFrame(rows, columns=header).drop_duplicates(ignore_index=True)
    if empty := [name for name in numbers if table[name].isna().any()]:
        raise ReleaseError(f"{path}: column {empty[0]!r} has empty cells; get the file again")
    if key and len(twice := table[table.duplicated(list(key))]):
        what = ", ".join(str(twice[name].iloc[0]) for name in key)
        raise ReleaseError(f"{path}: {what} has two different rows; keep the one that is right")
    return table


def read_f1(path: Path, hypernyms: Collection[str] | None = None) -> pd.DataFrame:
    """F1 by run (index run_name) and category (columns), in 0..1.

    `hypernyms`: the taxonomy names that must be there, no more and no less; their columns are renamed so. None for
    leaves, which keep the file's names. Raises ReleaseError.
    """
    table = read_table(path, ["run_name"], key=["run_name"], between=(0, 1)).set_index("run_name")
    if hypernyms is None:
        return table
    named = table.rename(columns=TAXONOMY_NAMES)
    if foreign := [name for name in table.columns if TAXONOMY_NAMES.get(name) not in hypernyms]:
        raise ReleaseError(f"{path}: column {foreign[0]!r} is no hypernym of this experiment; get the file again")
    if lacking := sorted(set(hypernyms) - set(named.columns)):
        raise ReleaseError(f"{path}: no column for {', '.join(lacking)}; get the file again")
    return named


def _cell(place: str, column: str, cell: str, text: Sequence[str], between: tuple[float, float]) -> str | float:
    if column in text:
        return cell
    if cell in ("", "NA"):
        return np.nan
    try:
        number = float(cell)
    except ValueError:
        raise ReleaseError(f"{place}: {cell!r} in column {column!r} is no number; get the file again") from None
    if not between[0] <= number <= between[1]:
        raise ReleaseError(f"{place}: {cell} in column {column!r} is not between {between[0]:g} and {between[1]:g}")
    return number
