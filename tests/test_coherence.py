"""Visual coherence: the closed form against all pairs, label maps as runs show them, errors that name the image."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import SmallStudy
from synthetic_sweep import World

from analysis.inputs import open_dataset, open_store
from analysis.scores.coherence import (
    MEASURES,
    coherence,
    label_map,
    leaf_sums,
    map_coherence,
    pairs_kept,
    sum_leaves,
    unit_vectors,
)
from cachegen.common.errors import RunError, StoreError
from cachegen.data.dataset import load_dataset
from cachegen.features.store import FeatureStore


def all_pairs(units: np.ndarray, leaves: np.ndarray, chosen: np.ndarray, between: bool) -> float:
    """The definition: mean cosine over ordered pairs of different images, optionally of different leaves only."""
    rows = np.flatnonzero(chosen)
    values = [units[i] @ units[j] for i in rows for j in rows if i != j and not (between and leaves[i] == leaves[j])]
    return float(np.mean(values)) if values else np.nan


def coherence_of(questions: pd.DataFrame, dataset, store) -> pd.DataFrame:
    """The coherence table of a run with these questions."""
    images = label_map(questions)
    return map_coherence(images, dataset, leaf_sums(images, store))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 5))
def test_closed_form_equals_all_pairs(seed: int, images: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    leaves = rng.integers(0, size, images)
    member = rng.random((3, size)) < 0.6
    units = unit_vectors(rng.normal(size=(images, 4)) + 0.3, [str(i) for i in range(images)], "features")
    every, between = coherence(sum_leaves(units, leaves, size), np.bincount(leaves, minlength=size), member)
    for category in range(3):
        chosen = member[category][leaves]
        assert every[category] == pytest.approx(all_pairs(units, leaves, chosen, False), abs=1e-12, nan_ok=True)
        assert between[category] == pytest.approx(all_pairs(units, leaves, chosen, True), abs=1e-12, nan_ok=True)


def test_same_leaf_pairs_inflate_the_plain_mean() -> None:
    units = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    every, between = coherence(sum_leaves(units, np.array([0, 0, 1, 1]), 2), np.array([2, 2]), np.ones((1, 2), bool))
    assert every[0] == pytest.approx(1 / 3)
    assert between[0] == 0


def test_a_map_of_world_gives_family_coherence_that_across_destroys() -> None:
    world = World(families=4, per_leaf=8)
    store, dataset = world.store(coherent=2.0), world.dataset
    means = {}
    for shuffle in ("original", "within", "across"):
        table = coherence_of(world.questions(shuffle, 100), dataset, store)
        hypernyms = table[(table["kind"] == "hypernym") & (table["pooled"] == "pooled_patches")]
        assert hypernyms["n_leaves"].eq(6).all()
        assert hypernyms["n_images"].eq(6 * 5).all()  # training images only: 5 of 8
        means[shuffle] = hypernyms[list(MEASURES)].mean()
    assert means["within"].to_numpy() == pytest.approx(means["original"].to_numpy())
    assert (means["across"] < means["original"] - 0.2).all()
    assert abs(means["across"]["centred_between_leaves"]) < 0.15


def test_map_coherence_equals_the_definition() -> None:
    world = World(families=3, per_leaf=4)
    store = world.store(width=5)
    questions = world.questions("across", 100)
    train = questions[questions["split"] == "train"].drop_duplicates("key").sort_values("key")
    vectors = np.asarray(store.pooled_patches, float)[store.rows(train["key"])]
    centred = vectors - vectors.mean(axis=0)
    units = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    labels = train["label_leaf"].to_numpy(str)
    chosen = np.array([world.family[label] == "bird" for label in labels])
    table = coherence_of(questions, world.dataset, store).set_index(["pooled", "kind", "category"])
    row = table.loc[("pooled_patches", "hypernym", "bird")]
    assert row["centred"] == pytest.approx(all_pairs(units, labels, chosen, False))
    assert row["centred_between_leaves"] == pytest.approx(all_pairs(units, labels, chosen, True))
    leaf = table.loc[("pooled_patches", "leaf", labels[0])]
    assert np.isnan(leaf["between_leaves"])


def test_repeated_questions_count_an_image_once_and_two_labels_are_refused() -> None:
    questions = World(families=2, per_leaf=4).questions("original", 0)
    again = pd.concat([questions, questions])
    assert label_map(again).digest == label_map(questions).digest
    assert label_map(again).images["key"].is_unique
    questions.loc[0, "label_leaf"] = "wasp"
    with pytest.raises(RunError, match="two labels"):
        label_map(questions)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_vector_without_direction_is_named(bad: float) -> None:
    vectors = np.ones((3, 2))
    vectors[1] = bad
    with pytest.raises(StoreError, match=r"pooled_patches of image crow/b\.png"):
        unit_vectors(vectors, ["crow/a.png", "crow/b.png", "crow/c.png"], "pooled_patches")


def test_pairs_kept_counts_hypernyms_shared_with_the_new_images() -> None:
    world = World(families=4, per_leaf=4)
    dataset = world.dataset
    kept = {s: pairs_kept(label_map(world.questions(s, 100)), dataset) for s in ("original", "within", "across")}
    assert kept["original"] == {"pairs_kept": 1.0, "leaves_fixed": 1.0}
    assert kept["within"] == {"pairs_kept": 1.0, "leaves_fixed": 0.0}
    label_of = world.label_of("across")
    expected = np.mean([world.family[leaf] == world.family[label] for leaf, label in label_of.items()])
    assert kept["across"]["pairs_kept"] == pytest.approx(expected)
    assert kept["across"]["pairs_kept"] < 0.6


def test_real_dataset_and_store(small_study: SmallStudy) -> None:
    dataset, store = load_dataset(small_study.dataset), FeatureStore.open(small_study.features)
    images = dataset.images.rename(columns={"leaf": "image_leaf"}).assign(split="train")
    questions = images.assign(label_leaf=images["image_leaf"])
    table = coherence_of(questions, dataset, store)
    assert set(table.loc[table["kind"] == "hypernym", "category"]) == set(dataset.hypernyms.index)
    assert table["all_pairs"].between(-1, 1).all()
    assert open_dataset(str(small_study.dataset)).digest == dataset.digest
    assert open_store(str(small_study.features)).digest == store.digest


def test_unknown_images_are_the_stores_error(small_study: SmallStudy) -> None:
    questions = pd.DataFrame({"split": ["train"], "key": ["no/such.png"], "image_leaf": ["crow"], "label_leaf": "crow"})
    dataset = SimpleNamespace(pairs=pd.DataFrame({"leaf": ["crow"], "hypernym": ["bird"]}))
    with pytest.raises(StoreError, match=r"no/such\.png"):
        coherence_of(questions, dataset, FeatureStore.open(small_study.features))
