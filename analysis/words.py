"""Numbers as people read them, in tables and sentences, and as JSON has them; what runs are compared with, in words."""

import math
from typing import Any

import numpy as np
import pandas as pd

MISSING = "–"
BASELINES = {  # columns that `scores.baselines` adds
    "majority_f1": "majority answer",
    "coin_f1": "fair coin",
    "permuted_f1": "its own answers, permuted",
}
YARDSTICKS = {  # rows of `scores.yardsticks`
    "knn": "neighbours of other leaves",
    "knn_whitened": "neighbours of other leaves, whitened",
    "oracle": "nearest leaf, then taxonomy",
    "composition": "own leaf answers × text probe",
}


def missing(value: Any) -> bool:
    """Whether there is no number: None, NA or not finite."""
    return value is None or value is pd.NA or (isinstance(value, float | np.floating) and not math.isfinite(value))


def number(value: Any, digits: int = 1, sign: bool = False) -> str:
    """A number for people: a dash for a missing one, a true minus sign, no negative zero."""
    if missing(value):
        return MISSING
    return f"{value:{'+' if sign else ''}z.{digits}f}".replace("-", "−")


def points(difference: Any) -> str:
    """A difference of F1 for a sentence: +3.9 points."""
    return f"{number(difference, sign=True)} points"


def interval(low: Any, high: Any, digits: int = 1) -> str:
    """An interval for a sentence: 95 % interval −13.6 to +21.4."""
    return f"95 % interval {number(low, digits, sign=True)} to {number(high, digits, sign=True)}"


def p_value(p: Any) -> str:
    """A p-value as papers print it: three digits, "< .001" below that."""
    if missing(p):
        return MISSING
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def p_text(p: Any) -> str:
    """ "p = .045", "p < .001"."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def json_safe(value: Any) -> Any:
    """NaN and missing become None, numpy numbers plain ones."""
    if isinstance(value, dict):
        return {key: json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [json_safe(inner) for inner in value]
    if missing(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, `json_safe`."""
    return [{str(column): json_safe(value) for column, value in row.items()} for row in table.to_dict("records")]
