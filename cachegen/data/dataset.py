"""A dataset: `taxonomy.csv` + `images/<leaf>/*`, validated as a whole when loaded.

`split.csv` and `languages/XX.csv`, phrases in other languages, are optional.

In place of images/ there can be `items.csv` with the columns item and leaf: recordings, words, anything whose features
are imported. Items are known by name only. In code they are "images" too: what questions are about.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from cachegen.common.errors import DatasetError, first_of, listing, shortened, some
from cachegen.common.files import digest_bytes, reason_of
from cachegen.data.images import LARGEST, SUFFIXES, UNREAD_SUFFIXES
from cachegen.data.taxonomy import (
    Language,
    Taxonomy,
    alike,
    composed_form,
    difference,
    homonyms_of,
    name_problem,
    read_languages,
    read_rows,
    read_taxonomy,
    report_collisions,
)

SPLITS = ("train", "validation", "test")
FEW_IMAGES = 4  # with fewer, a 70/5/25 split leaves a leaf without test or validation images


@dataclass(frozen=True, eq=False)
class Dataset:
    """A taxonomy and the images, or items, of its leaves (section 2 of the paper); made by `load_dataset`.

    Attributes:
        root: Folder of the dataset.
        leaves: Index leaf, sorted; columns phrase, number, n_images.
        hypernyms: Index hypernym, sorted; columns phrase, number, depth (nullable Int64), n_leaves.
        pairs: Columns leaf, hypernym, sorted.
        images: Columns key ("crow/crow_01b.jpg"), leaf and, with a fixed split, split. Rows are sorted by key, and the
            row number is the number of the image.
        notes: Remarks on what was accepted, one sentence each.
        digest: Hash of the taxonomy, its languages, the split, and the key and file size of each image. The order of
            rows on disk does not matter.
        image_digest: Hash of the key and file size of each image. Feature stores depend on this one only.
        items: There are no images, but the items of `items.csv`.
        languages: Of `languages/XX.csv`, by name (XX).
    """

    root: Path
    leaves: pd.DataFrame
    hypernyms: pd.DataFrame
    pairs: pd.DataFrame
    images: pd.DataFrame
    notes: tuple[str, ...]
    digest: str
    image_digest: str
    items: bool = False
    languages: dict[str, Language] = field(default_factory=dict)

    @property
    def noun(self) -> str:
        """What messages call the `images`."""
        return "items" if self.items else "images"

    def require_pictures(self, what: str) -> None:
        """Raise `DatasetError` where there is no image to do something with."""
        if self.items:
            raise DatasetError(
                f"dataset {self.root} has items, not images: {what}; `crosstax features import` takes features of items"
            )

    @property
    def homonyms(self) -> frozenset[str]:
        """Leaves with the name or phrase of a hypernym (11 in THINGS); `homonyms = "drop"` leaves them out."""
        return frozenset(homonyms_of(self.leaves, self.hypernyms))

    def spoken(self, language: str) -> "Dataset":
        """The same with phrases of a language; "" is that of taxonomy.csv. Raises `DatasetError` if it is not there."""
        if not language:
            return self
        if language not in self.languages:
            has = f"it has {some(sorted(self.languages))}" if self.languages else "it has no other language"
            raise DatasetError(f"dataset {self.root}: no languages/{language}.csv; {has}; add the file")
        said = self.languages[language].phrases

        def worded(table: pd.DataFrame) -> pd.DataFrame:
            return table.assign(**{str(name): column for name, column in said.loc[table.index].items()})

        return replace(self, leaves=worded(self.leaves), hypernyms=worded(self.hypernyms))

    def image_path(self, key: str) -> Path:
        """File of the image with this key."""
        return self.root / "images" / key

    def summary(self) -> str:
        """A few readable lines: sizes, split, digest and the first notes."""
        per_leaf = self.leaves["n_images"]
        lines = [
            f"{self.root}: {len(self.images):,} {self.noun} of {len(self.leaves):,} leaves under "
            f"{len(self.hypernyms):,} hypernyms, {len(self.pairs):,} (leaf, hypernym) pairs",
            f"{self.noun} per leaf: {per_leaf.min()} to {per_leaf.max()}, median {per_leaf.median():g}",
        ]
        if "split" in self.images:
            counts = self.images["split"].value_counts()
            lines.append("fixed split: " + ", ".join(f"{counts.get(name, 0):,} {name}" for name in SPLITS))
        lines.append(f"digest {self.digest[:16]}")
        return "\n".join([*lines, *first_of([f"note: {note}" for note in self.notes])])


def load_dataset(root: Path) -> Dataset:
    """Read a dataset folder and check all of it. No image is decoded.

    Args:
        root: Folder with `taxonomy.csv`, `images/<leaf>/` or `items.csv` and, optionally, `split.csv`.

    Returns:
        The dataset, with sorted tables.

    Raises:
        DatasetError: It lists all problems with their places, one line each; after twenty, their number.
    """
    root = Path(root)
    problems: list[str] = []
    notes: list[str] = []
    taxonomy = read_taxonomy(root / "taxonomy.csv", problems)
    listed, sizes = root / "items.csv", dict[str, dict[str, int]]()
    items = os.path.lexists(listed)
    if items:
        if os.path.lexists(root / "images"):
            problems.append("items.csv: there is images/ too; remove one of the two")
        images = _read_items(listed, taxonomy, problems, notes)
    else:
        sizes = _scan_images(root / "images", problems, notes)
        folders = _match_folders(taxonomy, sizes, problems, notes) if sizes and not taxonomy.leaves.empty else {}
        images = _image_table(sizes, folders)
    split_file = root / "split.csv"
    if split_file.exists() or split_file.is_symlink():  # a link that leads nowhere was meant to be a split
        images["split"] = _read_split(split_file, images["key"], "item" if items else "image", problems)
    languages = read_languages(root / "languages", taxonomy, problems)
    if problems:
        raise DatasetError(_listing(root, problems))
    counts = images["leaf"].value_counts().reindex(taxonomy.leaves.index).astype("int64")
    image_digest = digest_of_items(images["key"]) if items else _digest_of_files(images, sizes)
    return Dataset(
        root=root,
        leaves=taxonomy.leaves.assign(n_images=counts),
        hypernyms=taxonomy.hypernyms,
        pairs=taxonomy.pairs,
        images=images,
        notes=(*taxonomy.notes, *notes),
        digest=_digest(taxonomy, images, image_digest, items, languages),
        image_digest=image_digest,
        items=items,
        languages=languages,
    )


def load_dataset_of_runs(root: Path) -> Dataset:
    """The dataset, where runs can be trained and tested on it: of a `split.csv`, some images are for each."""
    dataset = load_dataset(root)
    given = set(dataset.images["split"]) if "split" in dataset.images else {"train", "test"}
    lacking = [part for part in ("train", "test") if part not in given]
    if lacking:
        raise DatasetError(
            f"dataset {root}: split.csv has no {dataset.noun[:-1]} for {' or '.join(lacking)}; add some, "
            "or remove the file to have splits drawn"
        )
    return dataset


def _scan_images(folder: Path, problems: list[str], notes: list[str]) -> dict[str, dict[str, int]]:
    """Leaf folder -> file name -> size in bytes."""
    found: dict[str, dict[str, int]] = {}
    ignored: list[str] = []
    unread: Counter[str] = Counter()
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"images: cannot be read ({error.strerror}); expected one folder per leaf in {folder}")
        return {}
    if not entries:
        problems.append("images: is empty; expected one folder per leaf")
    for entry in entries:
        if _is_folder(entry) and not entry.name.startswith("."):
            found[entry.name] = _scan_leaf(entry, problems, ignored, unread)
        else:
            ignored.append(entry.name)
    if unread:
        notes.append(f"{_of_unread_kinds(unread)} and are left out; convert them to PNG or JPEG")
    if ignored:
        notes.append(f"{len(ignored):,} entries of images/ are not images and were ignored: {some(ignored)}")
    return found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _scan_leaf(
    leaf: "os.DirEntry[str]", problems: list[str], ignored: list[str], unread: Counter[str]
) -> dict[str, int]:
    """File name -> size in bytes of a leaf's images; those that are not read are counted by suffix in `unread`."""
    sizes: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    try:
        with os.scandir(leaf) as files:
            for file in files:
                suffix = Path(file.name.lower()).suffix
                hidden = file.name.startswith(".") or _is_folder(file)
                if suffix in UNREAD_SUFFIXES and not hidden:
                    left_out[suffix] += 1
                elif suffix not in SUFFIXES or hidden:
                    ignored.append(f"{leaf.name}/{file.name}")
                elif reason := name_problem(file.name):
                    problems.append(f"images/{leaf.name}: file name {file.name!r} {reason}; rename it")
                elif problem := _file_problem(file):
                    problems.append(f"images/{leaf.name}: {problem}")
                else:
                    sizes[file.name] = file.stat().st_size
    except OSError as error:
        problems.append(f"images/{leaf.name}: cannot be read ({error.strerror}: {error.filename}); repair or remove it")
    if left_out and not sizes:
        problems.append(f"images/{leaf.name}: {_of_unread_kinds(left_out)}; convert them to PNG or JPEG")
    unread.update(left_out)
    report_collisions(((f"images/{leaf.name}", name) for name in sorted(sizes)), "files", problems)
    return sizes


def _file_problem(file: "os.DirEntry[str]") -> str | None:
    """Why a file cannot be an image, before any of it is read."""
    try:
        status = file.stat()
    except OSError as error:
        return f"cannot be read ({reason_of(error)}: {file.path}); repair or remove it"
    if not stat.S_ISREG(status.st_mode):
        return f"{file.name!r} is no plain file but a pipe, socket or device, which may have no end; remove it"
    if status.st_size > LARGEST:
        return f"{file.name!r} has {status.st_size:,} bytes, more than {LARGEST:,}; make it smaller or remove it"
    return None


def _of_unread_kinds(counts: Counter[str]) -> str:
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
    return f"{counts.total():,} images are of kinds that are not read ({kinds})"


def _match_folders(
    taxonomy: Taxonomy, sizes: dict[str, dict[str, int]], problems: list[str], notes: list[str]
) -> dict[str, str]:
    """Folder -> its leaf. macOS writes accents in another Unicode form: names that differ in nothing else are one."""
    leaf_of = {folder: folder for folder in sizes if folder in taxonomy.leaves.index}
    composed = {composed_form(leaf): leaf for leaf in taxonomy.leaves.index if leaf not in leaf_of}
    other_form = {folder: composed.pop(form) for folder in sizes if (form := composed_form(folder)) in composed}
    leaf_of |= other_form
    if other_form:
        notes.append(f"{len(other_form):,} folders have another Unicode form than taxonomy.csv: {some([*other_form])}")
    near = {alike(leaf): leaf for leaf in taxonomy.leaves.index}
    phrases = dict(zip(taxonomy.leaves["phrase"], taxonomy.leaves.index, strict=True))
    missing = set(taxonomy.leaves.index) - set(leaf_of.values())
    unknown = []
    for folder in sorted(set(sizes) - set(leaf_of)):
        place, leaf, named = f"images/{folder}", near.get(alike(folder)), phrases.get(folder)
        if leaf is not None and leaf in missing:
            missing.discard(leaf)
            do = f"rename the folder to {leaf!r}"
            sizes[leaf] = sizes.pop(folder)  # so that split.csv is judged by what will be there
        elif leaf is not None:
            do = f"move its images to images/{leaf}"
        elif named in missing:
            missing.discard(named)
            problems.append(
                f"{place}: is the phrase of leaf {named!r}; swap the two columns in taxonomy.csv, or rename the folder"
            )
            continue
        else:
            unknown.append(f"{place}: is no leaf of taxonomy.csv; add it there or move the folder away")
            continue
        problems.append(f"{place}: {folder!r} is leaf {leaf!r} but for {difference(folder, leaf)}; {do}")
    for leaf in sorted(missing):
        problems.append(f"images/{leaf}: folder is missing; add images or drop the leaf from taxonomy.csv")
    for folder, leaf in sorted(leaf_of.items()):
        if not sizes[folder]:
            problems.append(f"images/{folder}: has no images (such as .jpg, .png or .webp); add some or drop the leaf")
        elif len(sizes[folder]) < FEW_IMAGES:
            notes.append(_few(leaf, len(sizes[folder]), "image"))
    problems += unknown
    return leaf_of


def _few(leaf: str, count: int, noun: str) -> str:
    """The note on a leaf with few images; of a single one, 70 % for training is none."""
    if count == 1:
        return f"leaf {leaf!r} has only 1 {noun}, which is tested and not trained unless split.csv says otherwise"
    return f"leaf {leaf!r} has only {count} {noun}s"


def _image_table(sizes: dict[str, dict[str, int]], leaf_of: dict[str, str]) -> pd.DataFrame:
    rows = sorted(
        (f"{folder}/{name}", leaf_of.get(folder, folder)) for folder, names in sizes.items() for name in names
    )
    return pd.DataFrame(rows, columns=["key", "leaf"], dtype="str")


def _read_items(path: Path, taxonomy: Taxonomy, problems: list[str], notes: list[str]) -> pd.DataFrame:
    """Table of images from items.csv: the item is the key."""
    near = {alike(leaf): leaf for leaf in taxonomy.leaves.index}
    leaves = {composed_form(leaf): leaf for leaf in taxonomy.leaves.index}
    found: dict[str, tuple[str, str]] = {}
    for place, row in read_rows(path, ("item", "leaf"), (), problems):
        item, leaf = row["item"], leaves.get(composed_form(row["leaf"]))
        if reason := name_problem("_" + item.replace("/", "_").replace("\\", "_") if item else ""):
            problems.append(f"{place}: item {item!r} {reason}; rename it")
        elif composed_form(item) in found:
            problems.append(f"{place}: item {item!r} occurs twice; keep one row")
        elif leaf is None and not taxonomy.leaves.empty:
            meant = near.get(alike(row["leaf"]))
            do = f"write {meant!r}" if meant else "add it there or drop the row"
            problems.append(f"{place}: {row['leaf']!r} is no leaf of taxonomy.csv; {do}")
        found[composed_form(item)] = (item, leaf or "")
    images = pd.DataFrame(sorted(found.values()), columns=["key", "leaf"], dtype="str")
    counts = images["leaf"].value_counts()
    for leaf in taxonomy.leaves.index if found else []:
        if (count := counts.get(leaf, 0)) == 0:
            problems.append(f"items.csv: leaf {leaf!r} has no items; add some or drop the leaf from taxonomy.csv")
        elif count < FEW_IMAGES:
            notes.append(_few(leaf, count, "item"))
    return images


def _read_split(path: Path, keys: pd.Series, noun: str, problems: list[str]) -> list[str]:
    """Split of each of `keys`; every image must have exactly one row."""
    known = {composed_form(key): key for key in keys}
    split: dict[str, str] = {}
    near: dict[str, str | None] = {}
    rows = read_rows(path, ("key", "split"), (), problems)
    for place, row in rows:
        key = known.get(composed_form(row["key"]))
        part = row["split"].lower()
        if key is None:
            near = near or _near_keys(known)
            problems.append(f"{place}: {row['key']!r} is no {noun} of this dataset; {_key_advice(row['key'], near)}")
            continue
        if key in split:
            problems.append(f"{place}: {key!r} occurs twice; keep one row")
        elif part not in SPLITS:
            problems.append(f"{place}: split {row['split']!r} is none of {', '.join(SPLITS)}; write one of them")
        split[key] = part
    missing = [key for key in keys if key not in split]
    if missing and rows:
        problems.append(f"split.csv: {len(missing):,} {noun}s have no row: {some(missing)}; add one for each")
    return [split.get(key, "") for key in keys]


def _near_keys(known: dict[str, str]) -> dict[str, str | None]:
    """What a key, with or without its folder and suffix, may be written like -> the key; None if several may be."""
    near: dict[str, str | None] = {}
    for form, key in known.items():
        stem = form.removesuffix(Path(form).suffix)
        for written in {alike(part) for each in (form, stem) for part in (each, each.rpartition("/")[2])}:
            near[written] = None if written in near else key
    return near


def _key_advice(key: str, near: dict[str, str | None]) -> str:
    """What may be meant by a key that is none: a path, a file's name, or one of other case."""
    if key.lower() in SPLITS:
        return "swap the names of the two columns, or their cells"
    end = "/".join(key.replace("\\", "/").split("/")[-2:])
    meant = near.get(alike(end)) or near.get(alike(end.removesuffix(Path(end).suffix)))
    return f"write {meant!r}, a path inside images/ with / in it" if meant else "drop the row"


def digest_of_items(keys: Iterable[str]) -> str:
    """The image digest of items, which have names only; `keys` are sorted."""
    return digest_bytes(json.dumps(["items", *keys]).encode())


def _digest_of_files(images: pd.DataFrame, sizes: dict[str, dict[str, int]]) -> str:
    places = (key.partition("/") for key in images["key"])
    files = [(f"{folder}/{name}", sizes[folder][name]) for folder, _, name in places]
    return digest_bytes(json.dumps(files).encode())


def _digest(
    taxonomy: Taxonomy, images: pd.DataFrame, image_digest: str, items: bool, languages: dict[str, Language]
) -> str:
    """The dataset digest; every table is sorted, so that the order of rows on disk does not count."""
    tables: Iterable[pd.DataFrame] = (taxonomy.leaves.reset_index(), taxonomy.hypernyms.reset_index(), taxonomy.pairs)
    content = [table.astype("str").fillna("").to_numpy().tolist() for table in tables]
    split = images["split"].tolist() if "split" in images else []
    leaves = [images["leaf"].tolist()] if items else []  # of pictures, the folders in their keys
    spoken = [[name, languages[name].rows] for name in sorted(languages)]
    parts = [content, split, *leaves, *([spoken] if spoken else [])]
    return digest_bytes(json.dumps(parts).encode(), image_digest.encode())


def _listing(root: Path, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"dataset {root}: {shortened(problems[0])}"
    return listing(f"dataset {root} has {len(problems):,} problems; correct them and load it again:", problems)
