"""lme4's formula syntax: fixed effects, and random effects `(effects | group)`, as design matrices.

`(1 + x | g)` gives correlated effects, `(1 + x || g)` one uncorrelated block per term, `a:b` groups by the combinations
that occur, `a/b` is short for a group `a` and a group `a:b`. Effects are written as in R (`enc*lm`, `0 + x`, `C(x)`);
powers are Python's: `I(x**2)`. Design matrices are formulaic's: factors get treatment contrasts, the first level
(in sorted order, or the first category) is the reference.

Legend: n rows, p fixed effects, k random effects of one block, m levels of its group.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from formulaic import Formula
from formulaic.errors import FormulaicError
from numpy.typing import NDArray

from cachegen.common.errors import CrosstaxError

Array = NDArray[np.float64]


class MixedModelError(CrosstaxError):
    """A formula that cannot be read, or data that cannot support the model it asks for."""


@dataclass(frozen=True)
class RandomTerm:
    """Random effects of one block, correlated with each other: `effects` as written, and the columns of the group."""

    effects: str
    columns: tuple[str, ...]

    @property
    def group(self) -> str:
        return ":".join(self.columns)


@dataclass(frozen=True)
class MixedFormula:
    """`fixed` is "response ~ effects"; the random terms follow in the order written."""

    fixed: str
    random: tuple[RandomTerm, ...]


@dataclass(frozen=True)
class Block:
    """Random effects of one term: names (k), values_nk, and the level of the group (0..levels-1) of every row."""

    group: str
    names: tuple[str, ...]
    values_nk: Array
    level_n: NDArray[np.int64]
    levels: int


@dataclass(frozen=True)
class Design:
    """Response, fixed effects with their names (p), the blocks of random effects, and the columns they were made of."""

    y_n: Array
    X_np: Array
    names: tuple[str, ...]
    blocks: tuple[Block, ...]
    data: pd.DataFrame


def parse_formula(text: str) -> MixedFormula:
    """Split a formula into its fixed part and its random terms. Raises MixedModelError naming the part at fault."""
    response, tilde, effects = text.partition("~")
    if not tilde or not response.strip() or not effects.strip():
        raise MixedModelError(f'formula "{text}" is not of the form "response ~ effects + (effects | group)"')
    fixed, random = [], []
    for term in _split(effects, "+", text):
        bars = _split(term[1:-1], "|", text) if _is_bracketed(term) else [term]
        if len(bars) == 1:
            fixed.append(term)
        elif len(bars) == 2:
            random += _random_terms(bars[0], bars[1], term, correlated=True)
        elif len(bars) == 3 and not bars[1]:
            random += _random_terms(bars[0], bars[2], term, correlated=False)
        else:
            raise MixedModelError(f'random term "{term}" has more than one bar; write (effects | group)')
    loose = [term for term in fixed if "|" in term]
    if loose:
        raise MixedModelError(f'"{loose[0]}" of "{text}" needs brackets of its own: + (effects | group)')
    if not random:
        raise MixedModelError(f'formula "{text}" has no random term; add one, for example (1 | seed)')
    return MixedFormula(f"{response.strip()} ~ {' + '.join(fixed) or '1'}", tuple(random))


def _split(text: str, at: str, whole: str) -> list[str]:
    """Parts of `text` between the characters `at` that stand outside brackets, quotes and backticks."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"`[^`]*`|'[^']*'|\"[^\"]*\"|[()\[\]]|" + re.escape(at), text):
        token = match.group()
        if token in "([":
            depth += 1
        elif token in ")]":
            depth -= 1
            if depth < 0:
                break
        elif token == at and depth == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    if depth:
        raise MixedModelError(f'brackets do not match in "{whole}"')
    return [*parts, text[start:].strip()]


def _is_bracketed(term: str) -> bool:
    """Whether the first bracket closes at the very end: (a | b), but not (a)*(b)."""
    if not (term.startswith("(") and term.endswith(")")):
        return False
    depths = np.cumsum([(letter == "(") - (letter == ")") for letter in term])
    return bool((depths[:-1] > 0).all())


def _random_terms(effects: str, group: str, term: str, correlated: bool) -> list[RandomTerm]:
    if not effects or not group:
        raise MixedModelError(f'random term "{term}" is incomplete; write (effects | group)')
    groups = _groups(group, term)
    parts = [effects] if correlated else _uncorrelated(effects, term)
    return [RandomTerm(part, columns) for columns in groups for part in parts]


def _groups(group: str, term: str) -> list[tuple[str, ...]]:
    """Grouping columns: g -> (g); a:b -> (a, b); a/b -> (a), (a, b)."""
    while _is_bracketed(group):
        group = group[1:-1].strip()
    nested = [tuple(name.strip("`") for name in _split(part, ":", term)) for part in _split(group, "/", term)]
    found = [sum(nested[: depth + 1], ()) for depth in range(len(nested))]
    if any(not name or re.search(r"[()*+|~]", name) for name in found[-1]):
        raise MixedModelError(f'group "{group}" of "{term}" must be columns joined by ":" or "/"')
    return found


def _uncorrelated(effects: str, term: str) -> list[str]:
    """`1 + x || g` as lme4 1.1 reads it: one block for the intercept, one per term (all levels of a factor)."""
    try:
        terms = [str(part) for part in Formula(effects)]
    except FormulaicError as error:
        raise _unreadable(term, error) from error
    return [part if part == "1" else f"0 + {part}" for part in terms]


def build_design(formula: MixedFormula, data: pd.DataFrame) -> Design:
    """Design matrices of every row of `data`.

    Raises MixedModelError: a column that is absent or has missing or infinite values; a factor with one level; fixed
    effects that are combinations of others; a group with one level, or with as many random effects as there are rows.
    """
    data = _checked(formula, data)
    response, fixed = _matrices(formula.fixed, data)
    if response.shape[1] != 1:
        raise MixedModelError(f'response of "{formula.fixed}" is not one numeric column')
    y_n, X_np = response.to_numpy(float)[:, 0], fixed.to_numpy(float)
    n, p = X_np.shape
    if p == 0 or p >= n:
        raise MixedModelError(f'"{formula.fixed}" has {p} fixed effects for {n} rows; give at least one, and more rows')
    _check_rank(X_np, list(fixed.columns), f'"{formula.fixed}"')
    left = y_n - X_np @ np.linalg.lstsq(X_np, y_n, rcond=None)[0]
    if not np.linalg.norm(left) > 1e-10 * np.linalg.norm(y_n):
        raise MixedModelError(f'the fixed effects of "{formula.fixed}" leave nothing to explain')
    blocks = tuple(_block(term, data) for term in formula.random)
    names = [
        (frozenset(term.columns), name)
        for term, block in zip(formula.random, blocks, strict=True)
        for name in block.names
    ]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise MixedModelError(f'random effect "{twice[0][1]}" of {":".join(sorted(twice[0][0]))} is written twice')
    return Design(y_n, X_np, tuple(fixed.columns), blocks, data)


def _block(term: RandomTerm, data: pd.DataFrame) -> Block:
    what = f'"({term.effects} | {term.group})"'
    values = _matrices(term.effects, data)[0]
    level_n = data.groupby(list(term.columns), sort=True, observed=True).ngroup().to_numpy().astype(np.int64)
    k, m = values.shape[1], int(level_n.max()) + 1
    if k == 0:
        raise MixedModelError(f"random term {what} has no effects; write (1 | {term.group}) for an intercept")
    if m < 2:
        raise MixedModelError(f"group of {what} has one level only; a random effect needs several")
    if k * m >= len(data):
        raise MixedModelError(
            f"{what} has {k * m} random effects for {len(data)} rows, so they cannot be told from the residual; "
            "leave out effects or use a coarser group"
        )
    values_nk = values.to_numpy(float)
    _check_rank(values_nk, list(values.columns), what)
    return Block(term.group, tuple(values.columns), values_nk, level_n, m)


def _matrices(formula: str, data: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """(left, right) matrices of "left ~ right", or the one matrix of a formula without "~"."""
    try:
        # An empty context: names come from the data and from formulaic's own transforms, never from a caller's frame.
        with np.errstate(all="ignore"):  # the logarithm of a negative number is reported below
            matrices = Formula(formula).get_model_matrix(data, context={}, na_action="ignore")
    except FormulaicError as error:
        raise _unreadable(formula, error) from error
    parts = (matrices.lhs, matrices.rhs) if "~" in formula else (matrices,)
    for part in parts:
        bad = [name for name in part.columns if not np.isfinite(part[name].to_numpy(float)).all()]
        if bad:
            raise MixedModelError(f'"{bad[0]}" is missing or not finite in some rows; drop or mend these rows first')
    return parts


def _checked(formula: MixedFormula, data: pd.DataFrame) -> pd.DataFrame:
    """The columns that the formula names: present, without missing values, and no factor with one level."""
    try:
        parts = [Formula(text) for text in (formula.fixed, *(term.effects for term in formula.random))]
    except FormulaicError as error:
        raise _unreadable(formula.fixed, error) from error
    effects = {str(name) for part in parts for name in part.required_variables}
    named = effects | {column for term in formula.random for column in term.columns}
    absent = sorted(named - set(data.columns))
    if absent:
        raise MixedModelError(f'"{absent[0]}" is not a column of the data ({", ".join(map(str, data.columns))})')
    data = data[sorted(named)].reset_index(drop=True)  # formulaic aligns by index, which may repeat
    for column in sorted(named):
        values = data[column]
        if values.isna().any():
            raise MixedModelError(f'column "{column}" has {values.isna().sum()} missing values; drop these rows first')
        if column in effects and not pd.api.types.is_numeric_dtype(values) and values.nunique() < 2:
            raise MixedModelError(f'factor "{column}" has one level only; leave it out of the formula')
        if isinstance(values.dtype, pd.CategoricalDtype):
            data[column] = values.cat.remove_unused_categories()  # levels that a filter left behind
    return data


def _check_rank(values_nk: Array, names: list[str], what: str) -> None:
    """Raise when a column is a combination of the columns before it, or constant beside an intercept."""
    length = np.linalg.norm(values_nk, axis=0)
    R = np.linalg.qr(values_nk / np.where(length > 0, length, 1), mode="r")
    alone = np.abs(np.diagonal(R)) if len(values_nk) >= len(names) else np.zeros(len(names))
    tied = [name for name, size in zip(names, alone, strict=True) if size < 1e-7]
    if tied:
        raise MixedModelError(
            f"{', '.join(tied)} in {what}: constant, or a combination of the other effects; leave it out"
        )


def _unreadable(part: str, error: FormulaicError) -> MixedModelError:
    reason = re.sub(r"\x1b\[[0-9;]*m|⧛\[[0-9;]*m|⧚", "", str(error)).split("\n")[0].rstrip(".")
    return MixedModelError(f'"{part}" cannot be used: {reason}')
