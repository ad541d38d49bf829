"""What the paper states, number by number, and whether the release's own files give it.

Every number stands beside its sentence in the paper (in our words) and ends in one of five states (`STATES`). An
analysis that the paper did not do, such as a paired test where it has an unpaired one, is no failure to reproduce.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.release.files import AbsentError

DIFFERS, OTHER, SAME = "does not reproduce", "another analysis gives another answer", "reproduces"
NOT_PRINTED, NO_SOURCE = "not printed in the paper", "no source here"
STATES = (DIFFERS, OTHER, SAME, NOT_PRINTED, NO_SOURCE)  # in the order in which a reader wants them


@dataclass(frozen=True)
class Said:
    """A sentence of the paper in our words, and where it stands or what shows it ("Figure 4")."""

    where: str = ""
    sentence: str = ""


@dataclass(frozen=True)
class Statement:
    """One number of the paper, as printed, and its number of decimals.

    paper: a number; a bound ("< 0.01"); None where the paper prints none and the recomputed one is told beside others.
    what: the number in words. other: what is recomputed is another analysis than the one behind the paper's number.
    """

    id: str
    paper: float | str | None = None
    decimals: int = 2
    what: str = ""
    said: Said = Said()
    other: bool = False


class Found(NamedTuple):
    """A statement recomputed: value, number of observations behind it, and what a reader must know about it.

    agrees: the decision of a test, where not the digits decide. weighted: it rests on runs whose file under macro-f1s/
    holds support-weighted F1.
    """

    value: float
    n: int
    note: str = ""
    agrees: bool | None = None
    weighted: bool = False


@dataclass(frozen=True)
class Claim:
    """One row of the table: recomputed, n, agrees are None where the source is absent; agrees also without a paper.

    state: one of `STATES`. what, where, sentence: see `Statement` and `Said`. weighted: see `Found`.
    """

    id: str
    paper: float | str | None
    recomputed: float | None
    n: int | None
    agrees: bool | None
    note: str
    state: str
    what: str
    where: str
    sentence: str
    weighted: bool


def check(statements: Sequence[Statement], recompute: Callable[[], Sequence[Found]]) -> list[Claim]:
    """One claim per statement, from `recompute()`, which gives them in the same order or raises AbsentError."""
    try:
        found = recompute()
    except AbsentError as absent:
        return [without_source(each, f"source not available: {absent}") for each in statements]
    return [_compare(statement, each) for statement, each in zip(statements, found, strict=True)]


def without_source(statement: Statement, note: str) -> Claim:
    """The claim of a statement that cannot be recomputed."""
    return _claim(statement, None, None, None, note)


def _compare(statement: Statement, found: Found) -> Claim:
    paper, decimals = statement.paper, statement.decimals
    agrees, why = None, ""
    if found.agrees is not None:
        agrees = found.agrees
    elif isinstance(paper, str):
        agrees = bool(found.value < float(paper.removeprefix("<")))
    elif paper is not None:
        agrees = prints_as(found.value, paper, decimals)
        if agrees and not _rounds_to(found.value, paper, decimals):
            why = f"The paper's {paper:.{decimals}f} is {found.value:.{decimals + 2}f} cut off, not rounded."
        elif not agrees and _cut_to(found.value, paper, decimals):
            rounded = f"{found.value:.{decimals + 2}f}, {found.value:.{decimals}f} when rounded"
            why = f"The files give {rounded}; the paper's {paper:.{decimals}f} would be it cut off."
        elif not agrees and not found.note:
            why = f"Neither rounding nor cutting off {found.value:.5g} gives {paper:.{decimals}f}."
    note = " ".join(part for part in (why, found.note) if part)
    return _claim(statement, float(found.value), found.n, agrees, note, found.weighted)


def _claim(
    statement: Statement, value: float | None, n: int | None, agrees: bool | None, note: str, weighted: bool = False
) -> Claim:
    state = NO_SOURCE if value is None else NOT_PRINTED if agrees is None else SAME if agrees else DIFFERS
    if state == DIFFERS and statement.other:
        state = OTHER
    said = statement.said
    words = (state, statement.what, said.where, said.sentence)
    return Claim(statement.id, statement.paper, value, n, agrees, note, *words, weighted)


def prints_as(value: float, printed: float, decimals: int) -> bool:
    """Whether `printed` is `value` rounded to that many decimals, or cut off there: the paper does both.

    A number of one digit, such as 0.6, counts rounded only: cut off, it would be that of any value up to 0.7.
    """
    digits = round(abs(printed) * 10**decimals)
    return _rounds_to(value, printed, decimals) or (digits >= 10 and _cut_to(value, printed, decimals))


def _rounds_to(value: float, printed: float, decimals: int) -> bool:
    return bool(abs(value - printed) <= 10.0**-decimals / 2 + _slack(printed))


def _cut_to(value: float, printed: float, decimals: int) -> bool:
    slack = _slack(printed)
    return bool(value * printed >= 0 and -slack <= abs(value) - abs(printed) < 10.0**-decimals - slack)


def _slack(printed: float) -> float:
    return 1e-9 * max(1.0, abs(printed))
