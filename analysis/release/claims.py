"""What the paper states, number by number, and whether the release's own files give it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.release.files import AbsentError


@dataclass(frozen=True)
class Statement:
    """One number of the paper, as printed, and its number of decimals.

    paper: a number; a bound ("< 0.01"); None where the paper prints none and the recomputed one is told beside others.
    """

    id: str
    paper: float | str | None = None
    decimals: int = 2


class Found(NamedTuple):
    """A statement recomputed: value, number of observations behind it, and what a reader must know about it."""

    value: float
    n: int
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """One row of the table: recomputed, n, agrees are None where the source is absent; agrees also without a paper."""

    id: str
    paper: float | str | None
    recomputed: float | None
    n: int | None
    agrees: bool | None
    note: str


def check(statements: Sequence[Statement], recompute: Callable[[], Sequence[Found]]) -> list[Claim]:
    """One claim per statement, from `recompute()`, which gives them in the same order or raises AbsentError."""
    try:
        found = recompute()
    except AbsentError as absent:
        return [Claim(each.id, each.paper, None, None, None, f"source not available: {absent}") for each in statements]
    return [_compare(statement, each) for statement, each in zip(statements, found, strict=True)]


def _compare(statement: Statement, found: Found) -> Claim:
    paper, decimals = statement.paper, statement.decimals
    agrees, why = None, ""
    if isinstance(paper, str):
        agrees = bool(found.value < float(paper.removeprefix("<")))
    elif paper is not None:
        agrees = prints_as(found.value, paper, decimals)
        if agrees and abs(found.value - paper) > 0.5001 * 10**-decimals:
            why = f"The paper's {paper:.{decimals}f} is {found.value:.{decimals + 2}f} cut off, not rounded."
        elif not agrees and not found.note:
            why = f"Neither rounding nor cutting off {found.value:.5g} gives {paper:.{decimals}f}."
    note = " ".join(part for part in (why, found.note) if part)
    return Claim(statement.id, paper, float(found.value), found.n, agrees, note)


def prints_as(value: float, printed: float, decimals: int) -> bool:
    """Whether `value`, rounded or cut off after that many decimals, is `printed`: the paper does both."""
    step, slack = 10.0**-decimals, 1e-9 * max(1.0, abs(printed))
    rounded = abs(value - printed) <= step / 2 + slack
    cut = value * printed >= 0 and -slack <= abs(value) - abs(printed) < step - slack
    return bool(rounded or cut)
