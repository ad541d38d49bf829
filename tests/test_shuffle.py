"""Shuffles and ablation as properties over random taxonomies (paper sections 3.1 and 3.3)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachegen.errors import ConditionError
from engine.ablation import ablated_leaves
from engine.shuffle import shuffle_map

hypernym_sets = st.lists(st.frozensets(st.sampled_from("ABCDE"), min_size=1, max_size=3), min_size=2, max_size=30)
seeds = st.integers(0, 2**32)
RULES = [("original", ""), ("across", "paper"), ("within", "paper"), ("within", "deranged"), ("within", "release")]


def pairs_kept(image_of_label, own):
    """Share of (leaf, hypernym) pairs that remain true of the images under the map; 1 for original."""
    return sum(len(names & own[image]) for names, image in zip(own, image_of_label, strict=True)) / sum(map(len, own))


@given(hypernym_sets, seeds, st.sampled_from(RULES))
def test_every_map_is_a_bijection_and_its_seed_decides_it(own, seed, kind):
    first, second = (shuffle_map(*kind, own, np.random.default_rng(seed)) for _ in range(2))
    assert sorted(first) == list(range(len(own)))
    assert (first == second).all()


@given(hypernym_sets, seeds)
def test_within_deranged_keeps_hypernym_sets_and_moves_every_leaf_that_can_move(own, seed):
    image_of_label = shuffle_map("within", "deranged", own, np.random.default_rng(seed))
    assert all(own[label] == own[image] for label, image in enumerate(image_of_label))
    assert pairs_kept(image_of_label, own) == 1
    for label, image in enumerate(image_of_label):
        assert (label == image) == (own.count(own[label]) == 1)


@given(hypernym_sets, seeds)
def test_within_release_moves_singletons_to_the_most_specific_subset_group(own, seed):
    image_of_label = shuffle_map("within", "release", own, np.random.default_rng(seed))
    single = [leaf for leaf in range(len(own)) if own.count(own[leaf]) == 1]
    orphans = [s for s in single if not any(own.count(o) > 1 and o < own[s] for o in own)]
    for label, image in enumerate(image_of_label):
        assert (label == image) == (orphans == [label])
        if label not in orphans:
            a, b = own[label], own[image]
            assert a <= b or b <= a or (label in single and image in single and a & b)


@given(st.lists(st.integers(2, 6), min_size=3, max_size=8), seeds)
def test_disjoint_shares_no_hypernym(sizes, seed):
    sizes = [min(size, sum(sizes) // 2) for size in sizes]
    own = [frozenset([str(family)]) for family, size in enumerate(sizes) for _ in range(size)]
    if max(sizes) * 2 > len(own):
        return
    image_of_label = shuffle_map("across", "disjoint", own, np.random.default_rng(seed))
    assert sorted(image_of_label) == list(range(len(own)))
    assert pairs_kept(image_of_label, own) == 0


def test_disjoint_refuses_the_impossible():
    with pytest.raises(ConditionError, match="disjoint"):
        shuffle_map("across", "disjoint", [frozenset("A")] * 5 + [frozenset("B")] * 2, np.random.default_rng(0))


def test_a_plain_permutation_keeps_some_pairs_by_chance():
    """Eight equal families of six: about 5/47 of the pairs beside fixed points, 12 % in all."""
    own = [frozenset([str(leaf // 6)]) for leaf in range(48)]
    kept = [pairs_kept(shuffle_map("across", "paper", own, np.random.default_rng(seed)), own) for seed in range(300)]
    assert np.mean(kept) == pytest.approx(6 / 48, abs=4 * np.std(kept) / 300**0.5)


@given(hypernym_sets, seeds)
def test_ablation_is_nested_and_covers_every_hypernym(own, seed):
    levels = [ablated_leaves(percent, own, seed) for percent in (0, 10, 30, 50, 70, 90, 100)]
    assert not levels[0].any()
    assert levels[-1].all()
    assert all((less <= more).all() for less, more in pairwise(levels))
    for name in set().union(*own):
        members = [leaf for leaf, names in enumerate(own) if name in names]
        assert sum(levels[1][members]) >= max(1, int(len(members) * 0.1))
