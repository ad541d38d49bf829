"""Nearest training images of each image, and how pure a category's neighbourhood is: what looks alike, without an LM.

Vectors are pooled as the paper pools them for coherence (mean over patches) and compared by cosine in two spaces:
`plain`, as they are (the similarity of the paper's coherence), and `whitened`, less the training images' mean and
divided by their covariance (Ledoit and Wolf's shrunken estimate: no labels, nothing to tune), since a projector is
free to weigh the features' directions anew and a control should be no weaker for want of that. The number of
neighbours is fixed, not tuned. Images that are equally similar are taken in the order of their names.

A label map moves whole leaves, so the images that share an image's label leaf are those of its own folder under every
map: one search serves all maps of the same training images. At the size of THINGS it takes most of a minute, so what
was found is kept beside the store (`STORE.neighbours/`).

Legend: Q images asked about, N training images, K neighbours, M neighbours in reserve, D width, L leaves, H hypernyms.
"""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from analysis.scores.coherence import LabelMap, unit_vectors
from cachegen.common.errors import WriteError
from cachegen.common.files import digest_bytes, write_atomically
from cachegen.data.dataset import Dataset
from cachegen.features.store import FeatureStore

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

NEIGHBOURS = 20
SPACES = ("plain", "whitened")


@dataclass(frozen=True)
class Neighbourhoods:
    """Neighbours in one space among the training images `keys` (N, in name order), as their numbers, nearest first.

    k: `NEIGHBOURS`, less where fewer images are left once two leaves are gone. asked: (Q, M) neighbours of the images
    `asked_keys` (of the folders `asked_leaves`), other leaves only, so many that `k` are left without any one more
    leaf. train: (N, k) of each training image, itself left out; train_other: (N, M) the same as `asked`.
    units_asked (Q, D) and units_train (N, D): the vectors, of length 1.
    """

    keys: list[str]
    asked_keys: list[str]
    asked_leaves: NDArray[np.str_]
    k: int
    asked: Numbers
    train: Numbers
    train_other: Numbers
    units_asked: Array
    units_train: Array


@dataclass(frozen=True)
class Searched:
    """What takes long to find: whitening (`mean` (D,), `directions` (D, D)), and in each space the numbers of `asked`
    (Q, M), `train` (N, k) and `train_other` (N, M), see `Neighbourhoods`."""

    mean: Array
    directions: Array
    numbers: dict[str, dict[str, Numbers]]


def find_neighbours(
    store: FeatureStore, train_keys: list[str], train_leaves: NDArray, asked_keys: list[str], asked_leaves: NDArray
) -> dict[str, Neighbourhoods]:
    """Neighbours of training and asked images in each of `SPACES`; `*_leaves` are the images' own leaves (folders)."""
    train = np.asarray(store.pooled_patches[store.rows(train_keys)], float)
    asked = np.asarray(store.pooled_patches[store.rows(asked_keys)], float)
    sizes = np.sort(np.unique(train_leaves, return_counts=True)[1])
    k = max(1, min(NEIGHBOURS, len(train_keys) - int(sizes[-2:].sum())))
    reserve = min(k + int(sizes[-1]), len(train_keys) - int(sizes[-1]))
    depth = reserve + int(sizes[-1])  # so deep a search holds the reserve, whichever leaf is an image's own
    shapes = {"asked": (len(asked), reserve), "train": (len(train), k), "train_other": (len(train), reserve)}
    path, key = _kept_at(store, [train_keys, train_leaves.tolist(), asked_keys, asked_leaves.tolist(), k, reserve])
    kept = _read(path, key, shapes, train.shape[1])
    mean, directions = whitening(train) if kept is None else (kept.mean, kept.directions)

    def in_space(space: str) -> tuple[Array, Array]:
        pair = (train, asked) if space == "plain" else ((train - mean) @ directions, (asked - mean) @ directions)
        names = (train_keys, asked_keys)
        one, other = (unit_vectors(*each, f"{space} pooled_patches") for each in zip(pair, names, strict=True))
        return one, other

    def search(units_train: Array, units_asked: Array) -> dict[str, Numbers]:
        around_train, around_asked = _search(units_train, units_train, depth), _search(units_train, units_asked, depth)
        itself = around_train == np.arange(len(train_keys))[:, None]
        return {
            "asked": _first(around_asked, train_leaves[around_asked] != asked_leaves[:, None], reserve),
            "train": _first(around_train, ~itself, k),
            "train_other": _first(around_train, train_leaves[around_train] != train_leaves[:, None], reserve),
        }

    def look_around(space: str) -> Neighbourhoods:
        units_train, units_asked = in_space(space)
        numbers = search(units_train, units_asked) if kept is None else kept.numbers[space]
        tables = (numbers["asked"], numbers["train"], numbers["train_other"])
        return Neighbourhoods(train_keys, asked_keys, asked_leaves, k, *tables, units_asked, units_train)

    with ThreadPoolExecutor(len(SPACES)) as pool:
        found = dict(zip(SPACES, pool.map(look_around, SPACES), strict=True))
    if kept is None and store.path.is_file():
        numbers = {space: {name: getattr(found[space], name) for name in shapes} for space in SPACES}
        _write(path, key, Searched(mean, directions, numbers))
    return found


def whitening(vectors_ND: Array) -> tuple[Array, Array]:
    """Mean (D,) and directions (D, D): `(vectors - mean) @ directions` have the covariance 1, but for shrinkage."""
    covariance, _ = ledoit_wolf(vectors_ND)
    variance, axes = np.linalg.eigh(covariance)
    # A direction in which nothing varies (fewer images than dimensions, no shrinkage) must not be blown up.
    scale = np.sqrt(np.maximum(variance, variance.max() * 1e-12))
    return vectors_ND.mean(axis=0), axes / scale


def memberships(dataset: Dataset, leaves: NDArray) -> tuple[list[str], NDArray[np.bool_]]:
    """Hypernyms (H, sorted) of any of `leaves` (L), and which leaf is of which: (L, H)."""
    pairs = dataset.pairs[dataset.pairs["leaf"].isin(leaves)]
    hypernyms, column = np.unique(pairs["hypernym"].to_numpy(str), return_inverse=True)
    row = pd.Index(leaves).get_indexer(pairs["leaf"])
    member_LH = np.zeros((len(leaves), len(hypernyms)), dtype=bool)
    member_LH[row, column] = True
    return hypernyms.tolist(), member_LH


def purity(found: Neighbourhoods, images: LabelMap, dataset: Dataset) -> pd.DataFrame:
    """How pure each category's neighbourhoods are in one space under one label map: means over its training images.

    Columns (0..1): kind, category, n_images; purity (share of the nearest training images that are of the category) and
    chance (the same share of all other training images); purity_other_leaves and chance_other_leaves, the same among
    images of other leaves only (missing for leaves).
    """
    leaves, label_n = np.unique(images.images["label_leaf"].to_numpy(str), return_inverse=True)
    hypernyms, member_LH = memberships(dataset, leaves)
    own_NH = member_LH[label_n]
    n_L, n_H, n = np.bincount(label_n), own_NH.sum(axis=0), len(label_n)
    per_image_LH = n_L[:, None] * member_LH  # images of each leaf, where it is of the hypernym
    plain_H = _mean_where(own_NH[found.train].mean(axis=1), own_NH)
    other_H = _mean_where(own_NH[found.train_other[:, : found.k]].mean(axis=1), own_NH)
    chance_other_NH = (n_H - per_image_LH[label_n]) / (n - n_L[label_n])[:, None]
    same_leaf = (label_n[found.train] == label_n[:, None]).mean(axis=1)
    plain_L = np.bincount(label_n, weights=same_leaf) / n_L
    missing = np.full(len(leaves), np.nan)
    return pd.DataFrame(
        {
            "kind": ["leaf"] * len(leaves) + ["hypernym"] * len(hypernyms),
            "category": [*leaves, *hypernyms],
            "n_images": np.r_[n_L, n_H],
            "purity": np.r_[plain_L, plain_H],
            "chance": np.r_[(n_L - 1) / (n - 1), (n_H - 1) / (n - 1)],
            "purity_other_leaves": np.r_[missing, other_H],
            "chance_other_leaves": np.r_[missing, _mean_where(chance_other_NH, own_NH)],
        }
    )


VERSION = 1  # of what is kept; raise it when anything above would find other neighbours


def _kept_at(store: FeatureStore, settings: list[object]) -> tuple[Path, str]:
    """Where neighbours of these images are kept, and the key that the file must hold: all that decides them.

    The store's digest is in the key alone, so that a store which was made anew replaces what was kept of the old one.
    """
    images = json.dumps([VERSION, SPACES, *settings]).encode()
    name = f"{digest_bytes(images)[:16]}.npz"
    return store.path.with_name(f"{store.path.name}.neighbours") / name, digest_bytes(images, store.digest.encode())


def _read(path: Path, key: str, shapes: dict[str, tuple[int, int]], width: int) -> Searched | None:
    """What is kept at `path`; None where that is nothing, something else or damaged: then it is found again."""
    if not path.is_file():  # a pipe would never end
        return None
    try:
        with np.load(path, allow_pickle=False) as file:  # reading an entry compares its checksum
            if str(file["key"]) != key:
                return None
            numbers = {space: {name: file[f"{space}_{name}"].astype(int) for name in shapes} for space in SPACES}
            found = Searched(file["mean"], file["directions"], numbers)
    except Exception:  # a file of any kind may lie there, and none of them is a reason to stop
        return None
    n = shapes["train"][0]
    sound = (found.mean.shape, found.directions.shape) == ((width,), (width, width))
    for space in SPACES:
        for name, shape in shapes.items():
            kept = numbers[space][name]
            sound = sound and kept.shape == shape and bool(((kept >= 0) & (kept < n)).all())
    return found if sound else None


def _write(path: Path, key: str, found: Searched) -> None:
    """Keep it for the next time, where the store's folder can be written to."""
    arrays: dict[str, Any] = {"key": np.array(key), "mean": found.mean, "directions": found.directions}
    for space, tables in found.numbers.items():
        arrays |= {f"{space}_{name}": table.astype(np.int32) for name, table in tables.items()}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, numpy would append one of its own
            np.savez(file, **arrays)

    with contextlib.suppress(WriteError):
        write_atomically(path, save)


def _search(among: Array, around: Array, depth: int) -> Numbers:
    """Numbers (Q, depth) of the `depth` vectors of `among` most similar to each of `around`, nearest first."""
    faiss.omp_set_num_threads(1)  # of this thread; another number moves last bits, and with them ties
    index = faiss.IndexFlatIP(among.shape[1])
    index.add(among.astype(np.float32))
    similarity, number = index.search(around.astype(np.float32), min(depth, len(among)))
    order = np.lexsort((number, -similarity))
    return np.take_along_axis(number, order, axis=1)


def _first(numbers: Numbers, allowed: NDArray[np.bool_], k: int) -> Numbers:
    """The first `k` allowed numbers of each row; every row must have as many."""
    order = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(numbers, order, axis=1)


def _mean_where(values: Array, chosen: NDArray[np.bool_]) -> Array:
    """Column means of `values` over the rows that are `chosen` in that column."""
    total: Array = np.where(chosen, values, 0).sum(axis=0) / chosen.sum(axis=0)
    return total
