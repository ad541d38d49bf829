"""A smaller dataset: the leaves of some hypernyms, so many of each, for what one slow core can train on."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from cachegen.common.errors import DatasetError, meant
from cachegen.data.building import COLUMNS, new_folder, require_new, write_table
from cachegen.data.dataset import Dataset, load_dataset


def subset_leaves(dataset: Dataset, hypernyms: Sequence[str], per_hypernym: int | None) -> list[str]:
    """Leaves under any of `hypernyms` (none: all), at most `per_hypernym` of each leaf's smallest hypernym.

    Those with the most images are taken, then by name. Raises `DatasetError` for a hypernym that is not there.
    """
    known = dataset.hypernyms.index
    for name in hypernyms:
        if name not in known:
            raise DatasetError(f"{dataset.root} has no hypernym {name!r}{meant(name, known)}; see its taxonomy.csv")
    pairs = dataset.pairs
    wanted = set(pairs["leaf"][pairs["hypernym"].isin(hypernyms or known)])
    pairs = pairs[pairs["leaf"].isin(wanted)].assign(
        size=pairs["hypernym"].map(dataset.hypernyms["n_leaves"]), images=pairs["leaf"].map(dataset.leaves["n_images"])
    )
    smallest = pairs.sort_values(["size", "hypernym"]).drop_duplicates("leaf")
    first = smallest.sort_values(["images", "leaf"], ascending=[False, True])
    return sorted(first if per_hypernym is None else first.groupby("hypernym").head(per_hypernym)["leaf"])


def build_subset(root: Path, out: Path, hypernyms: Sequence[str] = (), per_hypernym: int | None = None) -> Dataset:
    """Copy the leaves that `subset_leaves` chooses to the dataset folder `out`, with their hypernyms, split and credits.

    A hypernym that is left with one leaf goes, and so does a leaf that is left without any. Keys of images stay, so
    feature stores of `root` are stores of `out` too. Raises `DatasetError` if fewer than two leaves are left.
    """
    require_new(out)
    dataset = load_dataset(root)
    dataset.require_pictures("a subset of items is a shorter items.csv")
    leaves = subset_leaves(dataset, hypernyms, per_hypernym)
    pairs = dataset.pairs[dataset.pairs["leaf"].isin(leaves)]
    pairs = pairs[pairs.groupby("hypernym")["leaf"].transform("size") > 1]
    images = dataset.images[dataset.images["leaf"].isin(set(pairs["leaf"]))]
    if pairs["leaf"].nunique() < 2:
        raise DatasetError(f"fewer than two leaves of {root} are left; take more hypernyms, or more leaves of each")
    rows = pairs.join(dataset.leaves[["phrase", "number"]], on="leaf").join(
        dataset.hypernyms[["phrase", "number", "depth"]], on="hypernym", rsuffix="_above"
    )
    order = ["leaf", "phrase", "number", "hypernym", "phrase_above", "number_above", "depth"]
    with new_folder(out) as folder:
        for key in images["key"]:
            place = folder / "images" / key
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dataset.image_path(key), place)
        depths = rows["depth"].astype(object).where(rows["depth"].notna(), "")
        write_table(folder / "taxonomy.csv", COLUMNS, rows.assign(depth=depths)[order].itertuples(index=False))
        if "split" in images:
            write_table(folder / "split.csv", ("key", "split"), images[["key", "split"]].itertuples(index=False))
        if (dataset.root / "CREDITS.md").exists():
            shutil.copyfile(dataset.root / "CREDITS.md", folder / "CREDITS.md")
    return load_dataset(out)
