"""THINGS as a dataset folder: pairs and pictures brought together, counted, and written so that it can be resumed."""

import getpass
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from cachegen.common.errors import DatasetError, listing, some
from cachegen.common.files import remedy_of, write_text
from cachegen.common.locks import exclusive_lock
from cachegen.common.progress import progress_bar
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.things.archive import Picture, find_pictures, passwords_in, place_pictures
from cachegen.things.pairs import PAPER, Counts, fetch_release, is_paper, read_pairs, taxonomy_text

FEWEST = 12  # images of any concept of THINGS (Hebart et al., 2019)
SCRATCH = ".unpacking"
PASSWORD_VARIABLE = "CROSSTAX_THINGS_PASSWORD"
HOW_TO_GET_IMAGES = """\
THINGS is not shipped, since sources disagree about the licence of its images (CC BY, or CC BY-NC-SA and not to be
passed on). To get them:
  1. Open https://osf.io/jum2f, read the licence there, and decide whether your use is within it.
  2. Download images_THINGS.zip (several GB) and password_images.txt; by using the password you accept the licence.
  3. crosstax data things --images images_THINGS.zip --password-file password_images.txt --out things
An unpacked folder (object_images/aardvark/aardvark_01b.jpg, ...) or a folder of several zips will do as well. The
paper's pairs and phrases are downloaded from its public release; without a network give them with --taxonomy
(minimal_pair_sentences.jsonl of the release, or category53_long-format.tsv of OSF)."""


def build_things(
    images: Path,
    out: Path,
    *,
    taxonomy: Path | None = None,
    passwords: Callable[[], list[bytes]] = list,
    partial: bool = False,
    expected: Counts = PAPER,
) -> tuple[Dataset, dict[str, Any]]:
    """Make the dataset folder `out` from a folder or zip of THINGS images; the same call goes on after a kill.

    taxonomy: a file that `read_pairs` reads, else the release's, downloaded. passwords: candidates, asked for when a
    zip needs one. partial: build what is there although it is not what is expected; leaves without images go, and so
    do hypernyms left with fewer than two leaves. `taxonomy.csv` is written last, so that half a dataset is not taken
    for a whole one. Returns the dataset, and a summary: counts, what was done, what is not as in the paper.
    Raises `DatasetError` before anything is written when images or pairs are missing, or `out` holds something else.
    """
    pairs = read_pairs(taxonomy or fetch_release())
    pictures, notes = find_pictures(images, set(pairs["leaf"]))
    differences = _differences(pairs, pictures, expected)
    if differences and not partial:
        what = "it is not the paper's data; complete it, or build from what is there with --partial:"
        raise DatasetError(listing(f"{images}: {what}", differences))
    if not differences and not is_paper(pairs):
        notes.append(f"{taxonomy} has as many pairs and phrases as the paper, but not the same ones")
    pairs, pictures = _restrict(pairs, pictures)
    _check_out(out, pairs, pictures)
    with exclusive_lock(out / ".lock", f"dataset {out}"):
        with progress_bar("images", len(pictures), "image") as advance:
            done = place_pictures(pictures, out / "images", out / SCRATCH, passwords, advance)
        shutil.rmtree(out / SCRATCH)
        os.sync()  # the images reach the disk before the file that says they are there
        write_text(out / "taxonomy.csv", taxonomy_text(pairs))
    dataset = load_dataset(out)
    summary = {"dataset": str(out), **asdict(_count(pairs, pictures)), **done, "digest": dataset.digest}
    return dataset, summary | {"partial": bool(differences), "differences": differences, "notes": notes}


def passwords_from(file: Path | None) -> list[bytes]:
    """Candidates from OSF's `password_images.txt` or a one-line file, else $CROSSTAX_THINGS_PASSWORD, else a prompt.

    Never from the command line, which other users of the machine can see. Raises `DatasetError`.
    """
    try:
        text = os.environ.get(PASSWORD_VARIABLE, "") if file is None else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        do = "give --password-file OSF's password_images.txt"
        raise DatasetError(f"{file} cannot be read ({error}); {remedy_of(error, do)}") from None
    if not text and file is None and sys.stdin.isatty():
        text = getpass.getpass("password of the zip (in password_images.txt at osf.io/jum2f): ")
    found = passwords_in(text)
    if not found:
        where = f"{file} holds no password" if file else "the zip is protected by a password"
        raise DatasetError(
            f"{where}; accept the licence at osf.io/jum2f, download password_images.txt, give it with --password-file"
        )
    return found


def _count(pairs: pd.DataFrame, pictures: list[Picture]) -> Counts:
    distinct = (pairs[column].nunique() for column in ("leaf", "leaf_phrase", "hypernym"))
    leaves, phrases, hypernyms = distinct
    return Counts(leaves, phrases, len(pairs), hypernyms, len(pictures))


def _differences(pairs: pd.DataFrame, pictures: list[Picture], expected: Counts) -> list[str]:
    """What is not as expected, one line each; folders are named as far as THINGS tells which they are."""
    found, wanted = asdict(_count(pairs, pictures)), asdict(expected)
    lines = [
        f"the taxonomy has {found[name]:,} {name}, the paper's {wanted[name]:,}"
        for name in ("leaves", "phrases", "pairs", "hypernyms")
        if found[name] != wanted[name]
    ]
    numbers = defaultdict(set)
    for picture in pictures:
        numbers[picture.leaf].add(int(picture.name.rpartition("_")[2][:2]))
    n_images = Counter(picture.leaf for picture in pictures)
    leaves = sorted(set(pairs["leaf"]))
    if missing := [leaf for leaf in leaves if leaf not in n_images]:
        lines.append(f"{len(missing):,} of {len(leaves):,} folders are missing or without images: {some(missing, 40)}")
    if few := [f"{leaf} ({n_images[leaf]})" for leaf in leaves if 0 < n_images[leaf] < FEWEST]:
        lines.append(f"{len(few):,} folders have fewer than {FEWEST} images, the least in THINGS: {some(few, 40)}")
    if found["images"] != wanted["images"]:
        by = f"{abs(found['images'] - wanted['images']):,} {'fewer' if found['images'] < wanted['images'] else 'more'}"
        lines.append(f"{found['images']:,} images, {by} than the paper's {wanted['images']:,}")
    gaps = {leaf: sorted(set(range(1, max(there) + 1)) - there) for leaf, there in sorted(numbers.items())}
    gapped = [f"{leaf} ({', '.join(f'{number:02}' for number in gap)})" for leaf, gap in gaps.items() if gap]
    if found["images"] < wanted["images"] and gapped:
        lines.append(f"numbers skipped in the names of the images of {len(gapped):,} folders: {some(gapped, 40)}")
    return lines


def _restrict(pairs: pd.DataFrame, pictures: list[Picture]) -> tuple[pd.DataFrame, list[Picture]]:
    """Leaves with images, hypernyms with two such leaves, leaves with such a hypernym: everything, if nothing lacks."""
    pairs = pairs[pairs["leaf"].isin({picture.leaf for picture in pictures})]
    pairs = pairs[pairs.groupby("hypernym")["leaf"].transform("size") >= 2]
    if pairs.empty:
        raise DatasetError("no hypernym has two leaves with images; get more of THINGS")
    leaves = set(pairs["leaf"])
    return pairs, [picture for picture in pictures if picture.leaf in leaves]


def _check_out(out: Path, pairs: pd.DataFrame, pictures: list[Picture]) -> None:
    """Refuse a folder that holds something else than (a part of) this dataset, or that has no room for the rest."""
    do = "choose another --out"
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; {do}")
    taxonomy = out / "taxonomy.csv"
    if taxonomy.exists() and taxonomy.read_bytes() != taxonomy_text(pairs).encode():
        raise DatasetError(f"{taxonomy} is that of another dataset or of an earlier partial one; remove it or {do}")
    keys = {picture.key for picture in pictures}
    there = {f"{path.parent.name}/{path.name}": path for path in (out / "images").glob("*/*")}
    if foreign := sorted(set(there) - keys):
        raise DatasetError(
            f"{out / 'images'} holds {len(foreign):,} files that are not of this dataset: {some(foreign)}; {do}"
        )
    home = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    device = home.stat().st_dev
    needed = sum(
        picture.size
        for picture in pictures
        if picture.key not in there and (picture.entry is not None or picture.path.stat().st_dev != device)
    )
    free = shutil.disk_usage(home).free
    if needed > free:
        raise DatasetError(f"{out} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free space or {do}")
