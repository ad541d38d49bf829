"""The hypernym-level swap: who is sampled, which hypernyms are paired, and what its questions are about."""

import numpy as np
import pytest
from small_study import write_dataset

from cachegen.common.errors import ConditionError
from cachegen.data.dataset import load_dataset
from engine.design.condition import Condition
from engine.design.questions import build_questions
from engine.design.swap import LARGEST_DIFFERENCE, sample_swap

NAMES = list("ABCDE")
SWAP = Condition(subset="swap", shuffle="swap", swap_leaves=4)
IMAGES = 6  # training images per leaf


@pytest.fixture(scope="module")
def members():
    """Five hypernyms of 7 leaves; A and B share two of theirs."""
    table = np.repeat(np.eye(5, dtype=bool), 7, axis=0)
    table[:2, 1] = True
    return table


def features(spread):
    """Images of leaf l scatter around a common direction, the more the larger spread[l // 7]."""
    rng = np.random.default_rng(0)
    leaf = np.repeat(np.arange(35), IMAGES)
    noise = rng.standard_normal((len(leaf), 64))
    return leaf, np.ones(64) + np.array(spread)[leaf // 7, None] * noise


def mean_cosine(vectors):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units.T
    return cosines[~np.eye(len(units), dtype=bool)].mean()


def test_pairs_are_alike_in_coherence_and_leaves_are_exclusive(members):
    leaf, pooled = features([0.5, 2.0, 0.5, 2.0, 8.0])
    sample = sample_swap(SWAP, members, NAMES, leaf, pooled)
    assert sorted(tuple(sorted(pair)) for pair in sample.pairs) == [(0, 2), (1, 3)]  # E is like none of them
    for pair in sample.pairs:
        own = [mean_cosine(pooled[np.isin(leaf, sample.leaves[column])]) for column in pair]
        assert abs(own[0] - own[1]) < LARGEST_DIFFERENCE
    for column, leaves in sample.leaves.items():
        assert len(set(leaves.tolist())) == 4
        assert members[leaves, column].all()
        assert (members[leaves][:, list(sample.leaves)].sum(axis=1) == 1).all()
    image_of_label = sample.image_of_label(35)
    assert sorted(image_of_label) == list(range(35))
    assert (image_of_label[image_of_label] == np.arange(35)).all()
    assert (image_of_label != np.arange(35)).sum() == 16


def test_images_without_features_do_not_count(members):
    leaf, pooled = features([0.5, 2.0, 0.5, 2.0, 8.0])
    holes = pooled.copy()
    holes[::11] = 0
    sample = sample_swap(SWAP, members, NAMES, leaf, holes)
    assert {tuple(sorted(pair)) for pair in sample.pairs} >= {(0, 2)}


def test_a_swap_that_cannot_be_made_says_why(members):
    leaf, pooled = features([0.1, 1.0, 2.0, 4.0, 8.0])
    with pytest.raises(ConditionError, match="no two hypernyms have 4 leaves"):
        sample_swap(SWAP, members, NAMES, leaf, pooled)
    with pytest.raises(ConditionError, match="needs pooled features"):
        sample_swap(SWAP, members, NAMES, leaf, None)
    with pytest.raises(ConditionError, match="'bird', which this dataset lacks"):
        sample_swap(SWAP.model_copy(update={"swap_rule": "published"}), members, NAMES, leaf, None)


def test_swapped_questions_are_about_the_sample_only(tmp_path):
    families = {name: [f"{name}{n}" for n in range(5)] for name in ("bird", "tool", "toy")}
    dataset = load_dataset(write_dataset(tmp_path, families, images=8))
    pooled = np.ones((len(dataset.images), 3)) + 1e-3 * np.random.default_rng(0).standard_normal((120, 3))
    tables = {
        shuffle: build_questions(dataset, SWAP.model_copy(update={"shuffle": shuffle, "swap_leaves": 3}), (), pooled)
        for shuffle in ("original", "swap")
    }
    control, swapped = tables["original"], tables["swap"]
    assert (control["image_leaf"] == control["label_leaf"]).all()
    family = {leaf: name for name, leaves in families.items() for leaf in leaves}
    asked = set(control.loc[control["kind"] == "hypernym", "category"])
    assert len(asked) == 2
    assert set(control["image_leaf"]) == set(swapped["image_leaf"])
    assert control["image_leaf"].nunique() == 6
    for table in tables.values():
        assert set(table.loc[table["kind"] == "leaf", "category"]) == set(control["image_leaf"])
        assert set(table.loc[table["kind"] == "hypernym", "category"]) == asked
    other = {a: b for a in asked for b in asked if a != b}
    assert (swapped["label_leaf"].map(family) == swapped["image_leaf"].map(family).map(other)).all()
    hypernyms = swapped[swapped["kind"] == "hypernym"]
    assert (hypernyms["answer"] != hypernyms["veridical"]).all()
