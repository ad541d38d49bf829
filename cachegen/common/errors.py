"""Errors a user can cause: one typed family, shown as one line, exit code 2.

Every message says what is wrong, where, and what to do. Any other error is a bug in crosstax
and keeps its traceback. Several problems are a listing: a head, and a line for each.
"""

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 20  # lines of a listing
LINE = 400  # letters of one of them
LONGEST = 4000  # letters of any line; more can only be what a user wrote, repeated
ITEM = "\n  "


class CrosstaxError(Exception):
    """Base of every error a user can cause. `str(error)` is one line: what, where, what to do."""


class DatasetError(CrosstaxError):
    """A dataset folder, taxonomy or image list that cannot be used as it is."""


class StoreError(CrosstaxError):
    """A feature store that is damaged, incomplete, or made with something else."""


class ModelError(CrosstaxError):
    """An encoder or language model that cannot be loaded, or not with this engine."""


class ConditionError(CrosstaxError):
    """A condition, prompt or sweep file that asks for something impossible."""


class RunError(CrosstaxError):
    """A run directory that is damaged, in use, or belongs to another plan."""


class WriteError(RunError):
    """A file or folder that cannot be written: a full disk, permissions. It concerns all that is written there."""


def in_one_line(error: BaseException) -> str:
    """What an error says, on one line; one that is not ours begins with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, CrosstaxError) else f"{type(error).__name__}: {text}"


def is_fault(error: BaseException) -> bool:
    """Whether this is a failure and not a request to stop; a panic of a Rust library is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def listing(head: str, lines: Sequence[str]) -> str:
    """`head`, and a line for each problem below it, as far as `first_of` shows them."""
    return ITEM.join([head, *first_of(lines)])


def first_of(lines: Sequence[str]) -> list[str]:
    """The first twenty lines, and how many more there are."""
    more = [f"... and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return [*map(shortened, lines[:SHOWN]), *more]


def shortened(line: str, most: int = LINE) -> str:
    """A line without the middle of whatever makes it very long: it ends with what to do."""
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


def meant(word: str, known: Iterable[str]) -> str:
    """For the end of a clause: the one of the `known` names that `word` nearly is; empty if none is near."""
    near = difflib.get_close_matches(word[:100], [*known], 1, 0.7)
    return f", did you mean {near[0]!r}" if near else ""


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first of `names` for a sentence, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")
