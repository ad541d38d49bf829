"""What an ablation withholds, as properties over random taxonomies (paper section 3.1, Tables 2 to 4)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachegen.common.errors import ConditionError
from engine.design.ablation import removed_hypernyms, withhold
from engine.design.condition import Condition
from engine.design.published import REMOVED_HYPERNYMS, SWAP_PAIRS

NAMES = list("ABCDE")
hypernym_sets = st.lists(st.frozensets(st.sampled_from("ABCDE"), min_size=1, max_size=3), min_size=2, max_size=30)
seeds = st.integers(0, 2**32)
scopes = st.sampled_from(["leaf", "mapping"])
LEVELS = (0, 10, 30, 50, 70, 90, 100)


def table(own):
    return np.array([[name in names for name in NAMES] for names in own])


@given(hypernym_sets, seeds, scopes)
def test_random_ablation_is_nested_and_takes_its_share_of_every_hypernym(own, seed, scope):
    members = table(own)
    levels = [withhold(Condition(ablation=p, data_seed=seed, scope=scope), members, NAMES).mappings for p in LEVELS]
    assert not levels[0].any()
    assert (levels[-1] == members).all()
    assert all((less <= more).all() for less, more in pairwise(levels))
    for percent, mappings in zip(LEVELS[1:], levels[1:], strict=True):
        least = np.maximum(1, (members.sum(axis=0) * (percent / 100)).astype(int)) * members.any(axis=0)
        withheld = mappings.sum(axis=0)
        assert (withheld == least).all() if scope == "mapping" else (withheld >= least).all()


@given(hypernym_sets, seeds, st.sampled_from([10, 50]), st.sampled_from(["random", "systematic"]))
def test_leaf_scope_withholds_all_questions_of_every_leaf_that_mapping_scope_touches(own, seed, level, kind):
    members = table(own)
    level = level if kind == "random" else 2
    leaf, mapping = (
        withhold(Condition(ablation=level, ablation_kind=kind, data_seed=seed, scope=scope), members, NAMES).mappings
        for scope in ("leaf", "mapping")
    )
    assert (leaf == (mapping.any(axis=1, keepdims=True) & members)).all()
    assert not (mapping & ~members).any()


def test_independent_levels_have_draws_of_their_own():
    members = np.ones((40, 1), dtype=bool)
    draws = {
        levels: [
            withhold(Condition(ablation=p, ablation_levels=levels), members, ["A"]).mappings[:, 0] for p in (30, 50)
        ]
        for levels in ("nested", "independent")
    }
    assert (draws["nested"][0] <= draws["nested"][1]).all()
    assert not (draws["independent"][0] <= draws["independent"][1]).all()


@given(hypernym_sets, seeds, st.integers(0, 5))
def test_systematic_ablation_removes_whole_hypernyms(own, seed, count):
    members = table(own)
    condition = Condition(ablation_kind="systematic", ablation=count, data_seed=seed, scope="mapping")
    withheld = withhold(condition, members, NAMES)
    assert withheld.removed.sum() == count
    assert (withheld.mappings == (members & withheld.removed)).all()
    if count < 5:
        more = withhold(condition.model_copy(update={"ablation": count + 1}), members, NAMES)
        assert (withheld.removed <= more.removed).all()


def test_published_lists_have_their_sizes_and_need_their_hypernyms():
    names = sorted({name for removed in REMOVED_HYPERNYMS.values() for name in removed})
    for count, removed in REMOVED_HYPERNYMS.items():
        condition = Condition(ablation_kind="systematic", ablation=count, removed_list="published")
        assert len(set(removed)) == count
        assert removed_hypernyms(condition, names) == list(removed)
        with pytest.raises(ConditionError, match="which this dataset lacks"):
            removed_hypernyms(
                condition, [name for name in names if name not in ("bird", "clothing", "tool")] + ["x"] * 3
            )
    assert len({name for pair in SWAP_PAIRS for name in pair}) == 10


def test_impossible_systematic_ablations_are_refused():
    with pytest.raises(ConditionError, match="removes more than the 5 hypernyms"):
        removed_hypernyms(Condition(ablation_kind="systematic", ablation=6), NAMES)
    with pytest.raises(ConditionError, match="lists of 10, 20, 30, 40 hypernyms, not 2"):
        removed_hypernyms(Condition(ablation_kind="systematic", ablation=2, removed_list="published"), NAMES)
