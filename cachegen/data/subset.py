"""A smaller dataset for a slow or hurried machine: leaves of some hypernyms, so many of each, with so many images."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cachegen.common.errors import DatasetError, meant
from cachegen.common.files import new_folder, require_new
from cachegen.data.building import COLUMNS, write_table
from cachegen.data.dataset import Dataset, load_dataset


def smaller(
    dataset: Dataset, hypernyms: Sequence[str] = (), leaves: int | None = None, images: int | None = None
) -> Dataset:
    """The part of a dataset that `build_subset` writes; its digests are still those of the whole.

    Args:
        dataset: The whole.
        hypernyms: Only leaves under one of these; none: all.
        leaves: At most this many leaves of each leaf's smallest hypernym: those with the most images, then by name.
        images: At most this many images of a leaf, from all parts of the split alike.

    Raises:
        DatasetError: A hypernym is not there, or fewer than two leaves are left.
    """
    known, pairs = dataset.hypernyms, dataset.pairs
    for name in hypernyms:
        if name not in known.index:
            raise DatasetError(f"{dataset.root} has no hypernym {name!r}{meant(name, known.index)}; see taxonomy.csv")
    pairs = pairs[pairs["leaf"].isin(pairs["leaf"][pairs["hypernym"].isin(hypernyms or known.index)])]
    sizes = {"size": pairs["hypernym"].map(known["n_leaves"]), "images": pairs["leaf"].map(dataset.leaves["n_images"])}
    smallest = pairs.assign(**sizes).sort_values(["size", "hypernym"]).drop_duplicates("leaf")
    first = smallest.sort_values(["images", "leaf"], ascending=[False, True])
    if leaves is not None:
        first = first.groupby("hypernym").head(leaves)
    pairs = pairs[pairs["leaf"].isin(first["leaf"])]
    pairs = pairs[pairs.groupby("hypernym")["leaf"].transform("size") > 1].reset_index(drop=True)
    if pairs["leaf"].nunique() < 2:
        raise DatasetError(f"fewer than two leaves of {dataset.root} are left; take more hypernyms, or more of each")
    kept = dataset.images[dataset.images["leaf"].isin(pairs["leaf"])]
    if images is not None:
        order = kept.sort_values(["leaf", *(["split"] if "split" in kept else []), "key"])
        place, count = order.groupby("leaf").cumcount(), order.groupby("leaf")["key"].transform("size")
        taken = order[(place * images // count) != ((place - 1) * images // count)]  # every (count / images)-th
        kept = taken.sort_values("key") if (count > images).any() else kept
    return replace(
        dataset,
        leaves=dataset.leaves.loc[sorted(set(pairs["leaf"]))].assign(n_images=kept["leaf"].value_counts()),
        hypernyms=known.loc[sorted(set(pairs["hypernym"]))].assign(n_leaves=pairs["hypernym"].value_counts()),
        pairs=pairs,
        images=kept.reset_index(drop=True),
    )


def build_subset(
    root: Path, out: Path, hypernyms: Sequence[str] = (), leaves: int | None = None, images: int | None = None
) -> Dataset:
    """Copy a part of the dataset `root` (see `smaller`) to the new folder `out`, with its split and credits.

    A hypernym that is left with one leaf goes, and so does a leaf that is left without any. Keys of images stay, so a
    feature store of `root` is one of `out` too.
    """
    require_new(out)
    whole = load_dataset(root)
    whole.require_pictures("a smaller dataset of items is a shorter items.csv")
    part = smaller(whole, hypernyms, leaves, images)
    rows = part.pairs.join(part.leaves[["phrase", "number"]], on="leaf").join(
        part.hypernyms[["phrase", "number", "depth"]], on="hypernym", rsuffix="_above"
    )
    rows = rows[["leaf", "phrase", "number", "hypernym", "phrase_above", "number_above", "depth"]]
    with new_folder(out) as folder:
        for key in part.images["key"]:
            place = folder / "images" / key
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(whole.image_path(key), place)
        written = ([*row[:-1], "" if pd.isna(row[-1]) else row[-1]] for row in rows.itertuples(index=False))
        write_table(folder / "taxonomy.csv", COLUMNS, written)
        if "split" in part.images:
            split = part.images[["key", "split"]].itertuples(index=False)
            write_table(folder / "split.csv", ("key", "split"), split)
        if (whole.root / "CREDITS.md").is_file():
            shutil.copyfile(whole.root / "CREDITS.md", folder / "CREDITS.md")
    return load_dataset(out)
