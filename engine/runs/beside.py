"""Tables that commands write beside a run's sealed files, with a seal of their own (`RUN/transfer/`, `RUN/lens/`).

They count as long as their hashes and the run's `DONE` are those of the seal, which is written last.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from cachegen.common.errors import CrosstaxError
from cachegen.common.files import digest_file, read_json, write_atomically, write_json
from engine.runs.directory import RunDirectory

SCHEMA = 2


def beside_problem(run: RunDirectory, seal: Path, names: Sequence[str], **facts: Any) -> str:
    """Why the tables `names` under a seal do not count; empty if they do. `facts`: what the seal has to say."""
    try:
        record: Any = read_json(seal)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            return "its seal is of another version"
        if record.get("run") != digest_file(run.file("DONE")):
            return "the run has changed since"
        if {name: record.get(name) for name in facts} != facts:
            return f"it has other {' and '.join(facts)}"
        return "" if record.get("tables") == _hashes(seal, names) else "a table has changed since it was written"
    except (CrosstaxError, OSError) as error:
        return " ".join(str(error).split())


def write_beside(run: RunDirectory, seal: Path, tables: Mapping[str, pd.DataFrame], **facts: Any) -> None:
    """Write tables as Parquet files in the seal's folder, and then the seal."""
    seal.parent.mkdir(exist_ok=True)
    seal.unlink(missing_ok=True)
    for name, table in tables.items():
        write_atomically(_table(seal, name), partial(table.to_parquet, index=False))
    about = {"schema": SCHEMA, **facts, "run": digest_file(run.file("DONE"))}
    write_json(seal, about | {"tables": _hashes(seal, [*tables])})


def _table(seal: Path, name: str) -> Path:
    return seal.with_name(f"{name}.parquet")


def _hashes(seal: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: digest_file(_table(seal, name)) for name in names}
