"""Shuffles as properties over random taxonomies (paper section 3.3)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachegen.common.errors import ConditionError
from engine.design.shuffle import shuffle_map

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


@given(st.integers(4, 8), st.integers(4, 8), seeds)
def test_partial_shuffles_move_the_asked_share_evenly_and_nested(families, leaves, seed):
    own = [frozenset([str(leaf % families)]) for leaf in range(families * leaves)]
    moved_before: set[int] = set()
    for shuffled in (0, 50, 75):
        image_of_label = shuffle_map("across", "disjoint", own, np.random.default_rng(seed), shuffled)
        assert sorted(image_of_label) == list(range(len(own)))
        moved = set(np.flatnonzero(image_of_label != np.arange(len(own))).tolist())
        assert len(moved) == round(len(own) * shuffled / 100)
        assert moved_before <= moved
        per_family = np.bincount([leaf % families for leaf in moved], minlength=families)
        assert per_family.max() - per_family.min() <= 2
        assert pairs_kept(image_of_label, own) == pytest.approx(1 - len(moved) / len(own))
        moved_before = moved


def test_a_full_dose_is_the_across_shuffle_itself():
    own = [frozenset([str(leaf % 6)]) for leaf in range(30)]
    for rule in ("paper", "disjoint"):
        whole = shuffle_map("across", rule, own, np.random.default_rng(1))
        assert (whole == shuffle_map("across", rule, own, np.random.default_rng(1), 100)).all()
        assert (whole != shuffle_map("across", rule, own, np.random.default_rng(1), 90)).any()
