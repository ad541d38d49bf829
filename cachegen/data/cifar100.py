"""CIFAR-100 (Krizhevsky, 2009) as a dataset folder, from its binary version, which needs no pickle.

A row is one byte of the superclass, one of the class, and 3 x 32 x 32 pixels, plane by plane.
"""

import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cachegen.common.errors import DatasetError, meant
from cachegen.common.files import new_folder, require_new
from cachegen.common.progress import progress_bar
from cachegen.data.building import COLUMNS, with_article, write_table
from cachegen.data.dataset import Dataset, load_dataset

SIDE = 32
ROW = 2 + 3 * SIDE * SIDE  # bytes
FILES = ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt")
LARGEST = 2**28  # bytes; train.bin has 154 million
VALIDATION = 15  # one of so many training images validates: 5 % of all images, as in the paper

# Superclass -> (hypernym, phrase, number). Its names are plural, and some are no noun at all.
HYPERNYMS = {
    "aquatic_mammals": ("aquatic_mammal", "an aquatic mammal", "singular"),
    "fish": ("fish", "a fish", "singular"),
    "flowers": ("flower", "a flower", "singular"),
    "food_containers": ("food_container", "a container for food or drink", "singular"),
    "fruit_and_vegetables": ("fruit_or_vegetable", "a fruit or vegetable", "singular"),
    "household_electrical_devices": ("electrical_device", "an electrical household device", "singular"),
    "household_furniture": ("furniture", "a piece of furniture", "singular"),
    "insects": ("insect", "an insect", "singular"),
    "large_carnivores": ("large_carnivore", "a large carnivore", "singular"),
    "large_man-made_outdoor_things": ("structure", "a large man-made structure", "singular"),
    "large_natural_outdoor_scenes": ("natural_scene", "a natural outdoor scene", "singular"),
    "large_omnivores_and_herbivores": ("large_herbivore", "a large plant-eating animal", "singular"),
    "medium_mammals": ("medium_mammal", "a medium-sized mammal", "singular"),
    "non-insect_invertebrates": ("other_invertebrate", "an invertebrate other than an insect", "singular"),
    "people": ("person", "a person", "singular"),
    "reptiles": ("reptile", "a reptile", "singular"),
    "small_mammals": ("small_mammal", "a small mammal", "singular"),
    "trees": ("tree", "a tree", "singular"),
    "vehicles_1": ("road_or_rail_vehicle", "a common road or rail vehicle", "singular"),
    "vehicles_2": ("special_vehicle", "a special-purpose vehicle", "singular"),
}
LEAVES = {"cattle": ("cattle", "plural")}  # all others take an article
PHRASES = {"ray": "a ray fish", "plain": "a grassy plain", "tank": "a military tank"}  # else of another sense


class Labelled(NamedTuple):
    """Images of one file: labels (N,) of superclasses and classes, pixels (N, 3, 32, 32) uint8."""

    coarse: np.ndarray
    fine: np.ndarray
    pixels: np.ndarray


def build_cifar100(archive: Path, out: Path, *, per_leaf: int = 600) -> tuple[Dataset, dict[str, Any]]:
    """Make the dataset folder `out` from the archive, or the folder unpacked from it; nothing half-written stays.

    per_leaf: images of a leaf, five of six from `train.bin`. Its first ones are taken, and the last fifteenth of these
    validates; the others are the first ones of `test.bin`.
    Raises `DatasetError` if the archive is damaged, is another version, or has too few images.
    """
    require_new(out)
    content = _read(archive)
    fine_names, coarse_names = (_names(archive, content[name]) for name in FILES[2:])
    parts = {name: _labelled(archive, name, content[f"{name}.bin"]) for name in ("train", "test")}
    above = _superclasses(archive, parts, fine_names, coarse_names)
    wanted = {"train": per_leaf - per_leaf // 6, "test": per_leaf // 6}
    taken = {part: _first_of_each(archive, part, parts[part], wanted[part], fine_names) for part in parts}
    split: list[tuple[str, str]] = []
    with (
        new_folder(out) as folder,
        progress_bar("images", per_leaf * len(fine_names), "image") as advance,
    ):
        for leaf in fine_names:
            (folder / "images" / leaf).mkdir(parents=True)
        for part, rows in taken.items():
            for label, numbers in rows.items():
                last = wanted[part] // VALIDATION if part == "train" else 0
                for i, number in enumerate(numbers):
                    key = f"{fine_names[label]}/{part}_{number:05}.png"
                    split.append((key, "validation" if i >= wanted[part] - last else part))
                    pixels = parts[part].pixels[number].transpose(1, 2, 0)
                    Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "images" / key)
                advance(len(numbers))
        write_table(folder / "split.csv", ("key", "split"), sorted(split))
        write_table(folder / "taxonomy.csv", COLUMNS, [_pair(leaf, above[leaf]) for leaf in sorted(fine_names)])
    dataset = load_dataset(out)
    return dataset, {"dataset": str(out), "digest": dataset.digest, "split": Counter(part for _, part in split)}


def _read(archive: Path) -> dict[str, bytes]:
    """The four files, by name."""
    try:
        if archive.is_dir():
            folder = next((path.parent for path in sorted(archive.rglob("train.bin"))), archive)
            return {name: (folder / name).read_bytes() for name in FILES}
        with tarfile.open(archive, "r:*") as tar:
            members = {Path(member.name).name: member for member in tar if member.isfile()}
            files = {name: tar.extractfile(members[name]) for name in FILES if members[name].size <= LARGEST}
            return {name: file.read() for name, file in files.items() if file}
    except KeyError as error:
        what = f"has no {error}; take the binary version, cifar-100-binary.tar.gz"
    except (tarfile.TarError, EOFError, OSError) as error:
        what = f"cannot be read ({error}); it should be cifar-100-binary.tar.gz, whole, or the folder unpacked from it"
    raise DatasetError(f"{archive} {what}")


def _names(archive: Path, raw: bytes) -> list[str]:
    names = raw.decode("ascii", "replace").split()
    if (
        not names
        or len(set(names)) < len(names)
        or any(not name.replace("_", "").replace("-", "").isalnum() for name in names)
    ):
        raise DatasetError(f"{archive}: its lists of names are damaged; fetch it anew")
    return names


def _labelled(archive: Path, name: str, raw: bytes) -> Labelled:
    if not raw or len(raw) % ROW:
        raise DatasetError(f"{archive}: {name}.bin has {len(raw):,} bytes, no multiple of {ROW:,}; fetch it anew")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, ROW)
    return Labelled(rows[:, 0], rows[:, 1], rows[:, 2:].reshape(-1, 3, SIDE, SIDE))


def _superclasses(archive: Path, parts: dict[str, Labelled], fine: list[str], coarse: list[str]) -> dict[str, str]:
    """Leaf -> superclass, as the images have them."""
    above: dict[str, set[str]] = defaultdict(set)
    for images in parts.values():
        if images.fine.max() >= len(fine) or images.coarse.max() >= len(coarse):
            raise DatasetError(f"{archive}: labels have no names; fetch it anew")
        for label, superclass in {*zip(images.fine.tolist(), images.coarse.tolist(), strict=True)}:
            above[fine[label]].add(coarse[superclass])
    if torn := [leaf for leaf, names in above.items() if len(names) > 1]:
        raise DatasetError(f"{archive}: {torn[0]} is in {len(above[torn[0]])} superclasses; fetch it anew")
    for name in coarse:
        if name not in HYPERNYMS:
            raise DatasetError(
                f"{archive}: {name!r} is no superclass of CIFAR-100{meant(name, HYPERNYMS)}; fetch it anew"
            )
    return {leaf: names.pop() for leaf, names in above.items()}


def _first_of_each(archive: Path, part: str, images: Labelled, count: int, names: list[str]) -> dict[int, list[int]]:
    """Label -> row numbers of its first `count` images."""
    found = {label: np.flatnonzero(images.fine == label)[:count].tolist() for label in range(len(names))}
    for label, numbers in found.items():
        if len(numbers) < count:
            raise DatasetError(
                f"{archive}: {part}.bin has {len(numbers):,} images of {names[label]!r}, fewer than "
                f"{count:,}; lower --per-leaf"
            )
    return found


def _pair(leaf: str, superclass: str) -> tuple[object, ...]:
    noun = leaf.replace("_", " ")
    phrase, number = LEAVES.get(leaf, (PHRASES.get(leaf) or with_article(noun), "singular"))
    return (leaf, phrase, number, *HYPERNYMS[superclass], 1)
