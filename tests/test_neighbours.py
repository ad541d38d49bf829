"""Nearest neighbours and purity against their definitions; one thread, the same answer; whitening takes no label."""

import shutil

import faiss
import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import World

from analysis.scores.coherence import LabelMap, label_map
from analysis.scores.neighbours import NEIGHBOURS, Neighbourhoods, find_neighbours, memberships, purity, whitening

WORLD = World(families=4, per_leaf=12)


def images_of(world: World, split: str) -> tuple[list[str], np.ndarray]:
    rows = world.images[world.images["split"] == split].sort_values("key")
    return rows["key"].tolist(), rows["leaf"].to_numpy(str)


def found_in(world: World, store: object) -> dict[str, Neighbourhoods]:
    return find_neighbours(store, *images_of(world, "train"), *images_of(world, "test"))


def nearest(similarity: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """The definition: of the allowed columns, the k of largest similarity, ties by number; row by row."""
    ranked = np.where(allowed, similarity, -9)
    return np.array([np.lexsort((np.arange(len(row)), -row))[:k] for row in ranked])


@pytest.mark.parametrize("space", ["plain", "whitened"])
def test_neighbours_are_the_most_similar_allowed_images(space: str) -> None:
    store = WORLD.store(coherent=0.7)
    found = found_in(WORLD, store)[space]
    train_keys, train_leaves = images_of(WORLD, "train")
    asked_keys, asked_leaves = images_of(WORLD, "test")
    vectors = {name: store.pooled_patches[store.rows(keys)].astype(float) for name, keys in
               (("train", train_keys), ("asked", asked_keys))}  # fmt: skip
    if space == "whitened":
        mean, directions = whitening(vectors["train"])
        vectors = {name: (values - mean) @ directions for name, values in vectors.items()}
    units = {name: values / np.linalg.norm(values, axis=1, keepdims=True) for name, values in vectors.items()}
    around_asked, around_train = (units[name] @ units["train"].T for name in ("asked", "train"))
    same = train_leaves[:, None] == train_leaves
    reserve = NEIGHBOURS + same[0].sum()  # so that one more leaf can go and enough stay
    assert found.k == NEIGHBOURS
    expected = {
        "asked": nearest(around_asked, asked_leaves[:, None] != train_leaves, reserve),
        "train": nearest(around_train, ~np.eye(len(train_keys), dtype=bool), NEIGHBOURS),
        "train_other": nearest(around_train, ~same, reserve),
    }
    for name, numbers in expected.items():
        np.testing.assert_array_equal(getattr(found, name), numbers)
    assert (found.train != found.train_other[:, : found.k]).any()  # own leaves would have been found


def test_equal_images_are_taken_in_the_order_of_their_names() -> None:
    leaves = np.repeat(["ant", "bee", "cow"], 15)
    keys = [f"{leaf}/{n:02d}.png" for n, leaf in enumerate(leaves)]
    vectors = np.tile(np.eye(3)[:, :2] + 0.1, (15, 1))  # three different images, each fifteen times
    store = WORLD.store()
    store.pooled_patches, store.rows = vectors, lambda wanted: np.array([keys.index(key) for key in wanted])
    found = find_neighbours(store, keys, leaves, keys[:1], leaves[:1])["plain"]
    twins = np.flatnonzero((vectors == vectors[0]).all(axis=1) & (leaves != "ant"))
    np.testing.assert_array_equal(found.asked[0, : len(twins)], twins)


def test_few_images_give_few_neighbours() -> None:
    world = World(families=2, per_leaf=4)  # 12 leaves with 2 training images each
    assert found_in(world, world.store())["plain"].k == NEIGHBOURS
    small = World(families=1, per_leaf=4)  # 6 leaves: 8 training images are left without two of them
    found = found_in(small, small.store())["plain"]
    assert found.k == 8
    assert found.asked.shape[1] == 10  # all images of other leaves


def test_the_number_of_threads_is_one_whatever_the_caller_has() -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        two = found_in(WORLD, WORLD.store())["whitened"].train
        assert faiss.omp_get_max_threads() == 2
        faiss.omp_set_num_threads(1)
        np.testing.assert_array_equal(found_in(WORLD, WORLD.store())["whitened"].train, two)
    finally:
        faiss.omp_set_num_threads(before)


def arrays(found: dict[str, Neighbourhoods]) -> list[np.ndarray]:
    names = ("asked", "train", "train_other", "units_asked", "units_train")
    return [getattr(found[space], name) for space in found for name in names]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A store in a folder, what was found in it, and the file that keeps this; `searches` counts later searches."""
    store = WORLD.store(coherent=0.7)
    store.path = tmp_path / "store.h5"
    store.path.write_bytes(b"")
    found = found_in(WORLD, store)
    (path,) = (tmp_path / "store.h5.neighbours").iterdir()
    searches = []
    index = faiss.IndexFlatIP
    monkeypatch.setattr(faiss, "IndexFlatIP", lambda width: searches.append(1) or index(width))
    return store, found, path, searches


def test_what_was_found_is_kept_beside_the_store_to_the_bit(kept) -> None:
    store, found, _, searches = kept
    for one, other in zip(arrays(found_in(WORLD, store)), arrays(found), strict=True):
        np.testing.assert_array_equal(one, other)
    assert searches == []
    fewer = [part[1:] for part in images_of(WORLD, "test")]
    find_neighbours(store, *images_of(WORLD, "train"), *fewer)  # other images, another file
    assert searches
    assert len(list(store.path.with_name("store.h5.neighbours").iterdir())) == 2


def rewritten(**changes):
    def spoil(path, store):
        with np.load(path) as file:
            entries = dict(file) | {name: change(file[name]) for name, change in changes.items()}
        np.savez(path, **entries)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, store: setattr(store, "digest", "of another store"),
        lambda path, store: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path, store: path.write_bytes(path.read_bytes().replace(b"\x03\0\0\0", b"\x05\0\0\0")),
        lambda path, store: path.write_bytes(b""),
        lambda path, store: (path.unlink(), path.mkdir()),
        rewritten(plain_train=lambda numbers: numbers + 10_000),
        rewritten(plain_asked=lambda numbers: numbers[:, 1:]),
        rewritten(directions=lambda values: values[:3]),
        rewritten(mean=lambda values: values.astype(object)),
    ],
    ids=["stale", "cut", "bits", "empty", "folder", "numbers", "shape", "width", "pickle"],
)
def test_a_stale_or_damaged_file_is_ignored_and_replaced(kept, spoil) -> None:
    store, found, path, searches = kept
    spoil(path, store)
    for _ in range(2):
        for one, other in zip(arrays(found_in(WORLD, store)), arrays(found), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(searches) == 4 * (2 if path.is_dir() else 1)  # replaced, where a folder is not in the way


def test_a_folder_that_cannot_be_written_to_is_done_without(kept) -> None:
    store, found, path, searches = kept
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"in the way, as a read-only folder would be")  # root can write to those
    for one, other in zip(arrays(found_in(WORLD, store)), arrays(found), strict=True):
        np.testing.assert_array_equal(one, other)
    assert searches


def test_whitening_gives_unit_covariance_up_to_shrinkage() -> None:
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    vectors = rng.normal(size=(4000, 5)) * [1, 2, 3, 4, 5] @ turned + 3
    mean, directions = whitening(vectors)
    white = (vectors - mean) @ directions
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(white.T), np.eye(5), atol=0.03)
    assert np.abs(np.cov(vectors.T) - np.eye(5)).max() > 0.5


def test_whitening_survives_fewer_images_than_dimensions() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 20))
    vectors[:, 3] = 1.0  # a dimension in which nothing varies
    mean, directions = whitening(vectors)
    assert np.isfinite((vectors - mean) @ directions).all()


@pytest.mark.parametrize("shuffle", ["original", "across"])
def test_purity_equals_its_definition(shuffle: str) -> None:
    store, dataset = WORLD.store(coherent=1.5), WORLD.dataset
    found = found_in(WORLD, store)["plain"]
    images = label_map(WORLD.questions(shuffle, 100))
    table = purity(found, images, dataset).set_index(["kind", "category"])
    labels = images.images["label_leaf"].to_numpy(str)
    families = np.array([WORLD.family[label] for label in labels])
    mine = families == "fish"
    row = table.loc[("hypernym", "fish")]
    assert row["n_images"] == mine.sum()
    assert row["purity"] == pytest.approx(np.mean(families[found.train[mine]] == "fish"))
    others = found.train_other[mine][:, : found.k]
    assert row["purity_other_leaves"] == pytest.approx(np.mean(families[others] == "fish"))
    per_leaf, n = (labels == labels[0]).sum(), len(labels)
    assert row["chance"] == pytest.approx((mine.sum() - 1) / (n - 1))
    assert row["chance_other_leaves"] == pytest.approx((mine.sum() - per_leaf) / (n - per_leaf))
    leaf = table.loc[("leaf", labels[0])]
    mine = labels == labels[0]
    assert leaf["purity"] == pytest.approx(np.mean(labels[found.train[mine]] == labels[0]))
    assert np.isnan(leaf["purity_other_leaves"])


def test_across_labels_bring_purity_of_other_leaves_to_chance() -> None:
    found = found_in(WORLD, WORLD.store(coherent=1.5))["plain"]
    gap = {}
    for shuffle in ("original", "within", "across"):
        table = purity(found, label_map(WORLD.questions(shuffle, 100)), WORLD.dataset)
        hypernyms = table[table["kind"] == "hypernym"]
        gap[shuffle] = (hypernyms["purity_other_leaves"] - hypernyms["chance_other_leaves"]).mean()
    assert gap["original"] == pytest.approx(gap["within"])
    assert gap["original"] > 0.4
    assert abs(gap["across"]) < 0.1


def test_a_label_map_moves_whole_leaves() -> None:
    """What lets one search serve all maps: images share a label leaf if and only if they share a folder."""
    for shuffle in ("original", "across", "within", "swap"):
        images: LabelMap = label_map(WORLD.questions(shuffle, 100))
        folders, labels = (pd.factorize(images.images[name])[0] for name in ("image_leaf", "label_leaf"))
        np.testing.assert_array_equal(folders, labels)


def test_memberships() -> None:
    world = World(families=3, per_leaf=4, parents=True)
    hypernyms, member = memberships(world.dataset, np.array(["ant", "crow"]))
    assert hypernyms == ["animal", "bird", "insect"]
    np.testing.assert_array_equal(member, [[True, False, True], [True, True, False]])
