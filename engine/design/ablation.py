"""Ablation of hypernym questions (paper section 3.1, Tables 2 to 4): which (leaf, hypernym) mappings are withheld.

Random ablation samples leaves of every hypernym, systematic ablation removes whole hypernyms. The paper's text removes
the chosen *mappings*; its counts are those of the release, which removes every hypernym question of each *leaf* that
is touched. Both scopes are here; `leaf` reproduces Tables 2 and 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cachegen.common.errors import ConditionError
from cachegen.common.rng import generator
from engine.design.condition import Condition
from engine.design.published import REMOVED_HYPERNYMS


@dataclass(frozen=True)
class Withheld:
    """`mappings` (L, H) bool: hypernym questions that are not trained on; `removed` (H,) bool: hypernyms removed as
    a whole by a systematic ablation."""

    mappings: np.ndarray
    removed: np.ndarray


def withhold(condition: Condition, members: np.ndarray, hypernyms: Sequence[str]) -> Withheld:
    """What a condition withholds, given `members` (L, H) bool, which leaf is of which hypernym.

    Raises `ConditionError` if a systematic ablation asks for hypernyms that are not there.
    """
    removed = np.zeros(len(hypernyms), dtype=bool)
    if condition.ablation_kind == "random":
        touched = _sampled(condition, members, hypernyms)
    else:
        removed[[hypernyms.index(name) for name in removed_hypernyms(condition, hypernyms)]] = True
        touched = members & removed
    mappings = touched if condition.scope == "mapping" else touched.any(axis=1, keepdims=True) & members
    return Withheld(mappings, removed)


def _sampled(condition: Condition, members: np.ndarray, hypernyms: Sequence[str]) -> np.ndarray:
    """(L, H) bool: max(1, int(n * percent / 100)) of the n leaves of each hypernym; none at 0 percent.

    Each hypernym's order is drawn once per data seed, so that samples are nested across levels, unless every level
    is to have a draw of its own.
    """
    sampled = np.zeros_like(members)
    if condition.ablation == 0:
        return sampled
    own_draw = () if condition.ablation_levels == "nested" else (condition.ablation,)
    for column, name in enumerate(hypernyms):
        leaves = np.flatnonzero(members[:, column])
        count = max(1, int(len(leaves) * (condition.ablation / 100)))
        order = generator(condition.data_seed, "ablation", name, *own_draw).permutation(leaves)
        sampled[order[:count], column] = True
    return sampled


def removed_hypernyms(condition: Condition, hypernyms: Sequence[str]) -> list[str]:
    """Names of the `condition.ablation` hypernyms that a systematic ablation removes, drawn or from Table 4."""
    count = condition.ablation
    if count > len(hypernyms):
        raise ConditionError(f"ablation = {count} removes more than the {len(hypernyms)} hypernyms there are; lower it")
    if count == len(hypernyms):
        return list(hypernyms)
    if condition.removed_list == "drawn":
        own_draw = () if condition.ablation_levels == "nested" else (count,)
        return (
            generator(condition.data_seed, "removed hypernyms", *own_draw)
            .permutation(sorted(hypernyms))[:count]
            .tolist()
        )
    if count not in REMOVED_HYPERNYMS:
        known = ", ".join(map(str, REMOVED_HYPERNYMS))
        raise ConditionError(f"removed_list = 'published' has lists of {known} hypernyms, not {count}; use 'drawn'")
    missing = sorted(set(REMOVED_HYPERNYMS[count]) - set(hypernyms))
    if missing:
        raise ConditionError(
            f"removed_list = 'published' names the hypernym {missing[0]!r}, which this dataset lacks; use 'drawn'"
        )
    return list(REMOVED_HYPERNYMS[count])
