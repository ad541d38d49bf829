"""Visual coherence of a category: mean pairwise cosine similarity of its training images (paper section 5).

For unit vectors u the mean over all pairs is (|sum u|^2 - n) / (n (n - 1)), so sums per leaf are all that is needed:
O(n d) for the images, then every hypernym under every label map comes from the same leaf sums.

Legend: n images, D width, L leaves, C categories.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cachegen.common.errors import RunError, StoreError
from cachegen.common.files import digest_bytes
from cachegen.data.dataset import Dataset
from cachegen.features.store import FeatureStore

Array = NDArray[np.float64]

POOLED = ("pooled_patches", "pooled_all_tokens")
MEASURES = ("all_pairs", "between_leaves", "centred", "centred_between_leaves")


@dataclass(frozen=True)
class LabelMap:
    """Training images of a run and the leaf whose label each carries; several runs may share one map.

    `images`: columns key, image_leaf, label_leaf, one row per image, sorted by key.
    """

    images: pd.DataFrame
    digest: str

    def leaves(self) -> pd.Series:
        """Image leaf of every label leaf (index label_leaf, sorted)."""
        return self.images.drop_duplicates("label_leaf").set_index("label_leaf")["image_leaf"].sort_index()


def label_map(questions: pd.DataFrame) -> LabelMap:
    """The map as a run's own training questions show it. Raises RunError for an image with two labels."""
    rows = questions.loc[questions["split"] == "train", ["key", "image_leaf", "label_leaf"]]
    images = rows.drop_duplicates().sort_values("key", kind="stable").reset_index(drop=True)
    twice = images.loc[images["key"].duplicated(), "key"]
    if len(twice):
        raise RunError(f"training image {twice.iloc[0]} carries two labels in questions.parquet; repeat the run")
    return LabelMap(images, digest_bytes(*(",".join(images[name]).encode() for name in images)))


def unit_vectors(vectors: NDArray[np.floating], names: list[str], what: str) -> Array:
    """Rows scaled to length 1 (n, D) float64. Raises StoreError naming the first image without a direction."""
    vectors = np.asarray(vectors, float)
    length = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~np.isfinite(length) | (length == 0))
    if len(bad):
        raise StoreError(
            f"{what} of image {names[bad[0]]} is zero or not finite ({len(bad)} such images); extract them again"
        )
    return vectors / length[:, None]


@dataclass(frozen=True)
class LeafSums:
    """All that coherence needs of the training images: a label map moves whole leaves, so every map has these sums.

    leaves: image leaves (L, sorted); n_images: of each; sums: sums (L, D) of unit vectors, by pooling and "plain" or
    "centred" (the mean of all training images subtracted before scaling).
    """

    leaves: NDArray[np.str_]
    n_images: NDArray[np.int64]
    sums: dict[tuple[str, str], Array]


def sum_leaves(units_nD: Array, leaf_n: NDArray[np.integer], size: int) -> Array:
    """Sums (L, D) of the vectors of each of `size` leaves; `leaf_n` is the leaf number of each image."""
    n = len(leaf_n)
    sums_LD: Array = csr_array((np.ones(n), (leaf_n, np.arange(n))), shape=(size, n)) @ units_nD
    return sums_LD


def leaf_sums(images: LabelMap, store: FeatureStore) -> LeafSums:
    """The sums of a map's training images, by both poolings. Raises StoreError as `unit_vectors` does."""
    leaves, leaf_n = np.unique(images.images["image_leaf"].to_numpy(str), return_inverse=True)
    keys = images.images["key"].tolist()
    rows = store.rows(keys)
    sums = {}
    for pooled in POOLED:
        vectors = np.asarray(getattr(store, pooled)[rows], float)
        centred = vectors - vectors.mean(axis=0)
        for name, kind, values in ((pooled, "plain", vectors), (f"centred {pooled}", "centred", centred)):
            sums[pooled, kind] = sum_leaves(unit_vectors(values, keys, name), leaf_n, len(leaves))
    return LeafSums(leaves, np.bincount(leaf_n), sums)


def coherence(
    sums_LD: Array, n_L: NDArray[np.integer], member_CL: NDArray[np.bool_] | csr_array
) -> tuple[Array, Array]:
    """Mean pairwise cosine similarity per category, over all pairs and over pairs of different leaves: (C,), (C,).

    `sums_LD`: sums of the unit vectors of each leaf's `n_L` images; `member_CL` says which leaves make a category. NaN
    where no pair exists.
    """
    own_L = (sums_LD**2).sum(axis=1)  # sum of cosines of a leaf's images with each other, itself included
    member, counts_L = csr_array(member_CL, dtype=float), n_L.astype(float)
    total, n = ((member @ sums_LD) ** 2).sum(axis=1), member @ counts_L
    pairs, across = n * (n - 1), n**2 - member @ counts_L**2
    return (
        np.divide(total - n, pairs, out=np.full(len(n), np.nan), where=pairs > 0),
        np.divide(total - member @ own_L, across, out=np.full(len(n), np.nan), where=across > 0),
    )


def map_coherence(images: LabelMap, dataset: Dataset, sums: LeafSums) -> pd.DataFrame:
    """Coherence of every leaf and hypernym under one label map; `sums` are those of its images.

    Columns: pooled (pooled_patches: the paper's mean over patches; pooled_all_tokens: the release's), kind, category,
    n_leaves, n_images, then `MEASURES`; "centred" subtracts the mean of all training images before scaling.
    """
    image_of = images.leaves()
    leaves = image_of.index.to_numpy(str)
    place_L = np.searchsorted(sums.leaves, image_of.to_numpy(str))  # of each label leaf's images among the sums
    pairs = dataset.pairs[dataset.pairs["leaf"].isin(leaves)]
    hypernyms, hypernym_of = np.unique(pairs["hypernym"].to_numpy(str), return_inverse=True)
    category = np.concatenate([np.arange(len(leaves)), len(leaves) + hypernym_of])
    leaf = np.concatenate([np.arange(len(leaves)), np.searchsorted(leaves, pairs["leaf"].to_numpy(str))])
    member_CL = csr_array((np.ones(len(leaf)), (category, leaf)), shape=(len(leaves) + len(hypernyms), len(leaves)))
    n_L = sums.n_images[place_L]
    parts = []
    for pooled in POOLED:
        plain, centred = (coherence(sums.sums[pooled, kind][place_L], n_L, member_CL) for kind in ("plain", "centred"))
        parts.append(
            pd.DataFrame(
                {
                    "pooled": pooled,
                    "kind": ["leaf"] * len(leaves) + ["hypernym"] * len(hypernyms),
                    "category": [*leaves, *hypernyms],
                    "n_leaves": (member_CL @ np.ones(len(leaves))).astype(np.int64),
                    "n_images": (member_CL @ n_L).astype(np.int64),
                    **dict(zip(MEASURES, (*plain, *centred), strict=True)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def pairs_kept(images: LabelMap, dataset: Dataset) -> dict[str, float]:
    """What a map leaves in place: share of (leaf, hypernym) pairs true of the new images too, and of fixed leaves."""
    image_of = images.leaves()
    pairs = dataset.pairs[dataset.pairs["leaf"].isin(image_of.index)]
    true_pairs = pd.MultiIndex.from_frame(dataset.pairs[["leaf", "hypernym"]])
    moved = pd.MultiIndex.from_arrays([pairs["leaf"].map(image_of), pairs["hypernym"]])
    fixed = image_of.to_numpy() == image_of.index.to_numpy()
    return {"pairs_kept": float(moved.isin(true_pairs).mean()), "leaves_fixed": float(fixed.mean())}
