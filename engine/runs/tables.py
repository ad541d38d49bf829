"""Parquet tables of a run, checked where they are read: columns, their types, and that nothing is missing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cachegen.common.errors import RunError

LOGITS = ["logit_yes", "logit_no"]
QUESTION_COLUMNS = [
    *("question", "image", "key", "image_leaf", "label_leaf", "kind", "category", "phrase", "number"),
    *("split", "seen", "answer", "veridical", "removed"),
]
QUESTION_DEFAULTS = {"number": "singular", "removed": False}  # of columns that older question tables lack
NAME_COLUMNS = ["image", "split", "kind", "category", "phrase", "answer", "veridical", "log_p", "log_p_alone"]
IS_OF = {"integers": pa.types.is_integer, "numbers": pa.types.is_floating, "yes or no": pa.types.is_boolean}
KINDS = dict.fromkeys(("question", "image"), "integers") | dict.fromkeys(
    (*LOGITS, "mass", "log_p", "log_p_alone"), "numbers"
)
KINDS |= dict.fromkeys(("seen", "answer", "veridical", "removed"), "yes or no")


def read_run_table(
    path: Path, columns: Sequence[str], defaults: Mapping[str, Any] | None = None, filters: Any = None
) -> pd.DataFrame:
    """The columns named, and those of `defaults` with their value where the file lacks them.

    Raises `RunError` for what is no such table. Numbers may be NaN, nothing else may be missing.
    """
    try:
        schema = pq.read_schema(path)
        absent = {name: value for name, value in (defaults or {}).items() if name not in schema.names}
        wanted = [*columns, *(name for name in defaults or {} if name not in absent)]
        for name in wanted:
            if name in schema.names and not _is_sound(schema.field(name).type, KINDS.get(name, "text")):
                raise ValueError(f"column {name} is of type {schema.field(name).type}")
        table = pd.read_parquet(path, columns=wanted, filters=filters)
        gaps = [name for name in wanted if KINDS.get(name) != "numbers" and table[name].isna().any()]
        if gaps:
            raise ValueError(f"column {gaps[0]} has gaps")
        return table.assign(**absent)
    except Exception as error:  # pyarrow raises whatever the bytes of a damaged file make it
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(f"{path} is not a readable table with columns {', '.join(columns)} ({reason})") from error


def _is_sound(kind: pa.DataType, wanted: str) -> bool:
    if wanted == "text":
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    return bool(IS_OF[wanted](kind))
