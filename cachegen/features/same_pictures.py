"""Checks that a store's features belong to the dataset's images.

A store has the SHA-256 of each image's file. `STORE.times` beside it remembers how the file looked when its content
was last seen to be that: size, times of modification and of change (ctime), and the hash folded to 64 bits, as (N, 4)
int64, little endian. An image that looks the same is taken to be the same; any other is read and hashed. ctime counts
because `cp -p` and archives keep the time of modification; the price is that a moved dataset is read once more. An
entry says nothing where the file is missing, short or another store's. No promise on bytes covers it.
"""

import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cachegen.common.errors import StoreError, some
from cachegen.common.files import reason_of, remedy_of
from cachegen.common.progress import progress_bar
from cachegen.data.dataset import Dataset
from cachegen.features.store import PENDING, FeatureStore, in_threads, times_path

ENTRY = 4 * 8  # bytes


def read_picture(path: Path) -> tuple[bytes, bytes, list[int]]:
    """An image file's bytes, their SHA-256, and how the file looked before they were read."""
    try:
        with path.open("rb") as handle:
            status = os.fstat(handle.fileno())  # before: whoever writes meanwhile makes it look otherwise
            content = handle.read()
    except OSError as error:
        raise StoreError(f"image {path} cannot be read: {reason_of(error)}; {remedy_of(error)}") from error
    return content, hashlib.sha256(content).digest(), _look(status)


def read_pictures(paths: Sequence[Path], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (n, 32) uint8 and looks (n, 3) int64 of image files."""
    with progress_bar(label, len(paths), "pictures") as advance:
        read = in_threads(lambda place: read_picture(paths[place])[1:], len(paths), advance)
    digests = np.frombuffer(b"".join(digest for digest, _ in read), np.uint8).reshape(-1, 32)
    return digests, np.array([look for _, look in read])


def note_pictures(store: FeatureStore, rows: np.ndarray, sha256: np.ndarray, looks: np.ndarray) -> None:
    """Remember how the files of rising `rows` (n,) with these hashes (n, 32) looked (n, 3), if that can be written."""
    entries = np.column_stack([looks, _folded(sha256)]).astype("<i8")
    together = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # where rows that follow one another begin
    try:
        descriptor = os.open(times_path(store.path), os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError:
        return
    try:
        for start, stop in itertools.pairwise([*together, len(rows)]):
            os.pwrite(descriptor, entries[start:stop].tobytes(), rows[start] * ENTRY)
    except OSError:  # a full disk: what is not remembered is read again
        pass
    finally:
        os.close(descriptor)


def check_pictures(dataset: Dataset, store: FeatureStore, deep: bool = False) -> int:
    """Raise `StoreError` unless the store's features are those of the dataset's images; how many were read for it.

    The dataset may have fewer images than the store. `deep` reads all of them, however they look. A store of an
    earlier version knows names and sizes only. Items, and rows imported without their images, are known by name.
    """
    keys = list(dataset.images["key"])
    _require_all(keys, dataset, store)
    if dataset.items or store.by_name:
        return 0
    if store.sha256 is None:
        if store.attributes["image_digest"] != dataset.image_digest:
            raise StoreError(
                f"{store.path}: an earlier version made it, from other images than those of {dataset.root}: names or "
                "sizes differ, and it knows no more of them; extract them into a new store"
            )
        return 0
    rows = np.array([store.row_of[key] for key in keys], dtype=np.int64)
    rows = rows[store.done[rows] != PENDING]
    paths = [dataset.image_path(store.keys[row]) for row in rows]
    known = _known(store)[rows]
    known[:, 3] *= known[:, 3] == _folded(store.sha256[rows])
    looks = np.array([_look_of(path) for path in paths], dtype=np.int64).reshape(-1, 3)
    doubtful = np.flatnonzero(deep | (known[:, :3] != looks).any(1) | (known[:, 3] == 0))
    if not len(doubtful):
        return 0
    digests, looks = read_pictures([paths[place] for place in doubtful], "comparing images")
    same = (digests == store.sha256[rows[doubtful]]).all(1)
    note_pictures(store, rows[doubtful][same], digests[same], looks[same])
    if not same.all():
        raise _changed(dataset, store, rows[doubtful][~same])
    return len(doubtful)


def require_same_set(dataset: Dataset, store: FeatureStore) -> None:
    """Raise `StoreError` unless dataset and store have the same images, to extract more of them into it."""
    _require_all(list(dataset.images["key"]), dataset, store)
    if left := sorted(set(store.keys) - set(dataset.images["key"])):
        raise StoreError(
            f"{store.path} has {len(left):,} images that {dataset.root} lacks ({some(left)}); train with it as it is, "
            "or choose another --out"
        )
    check_pictures(dataset, store)


def _require_all(keys: list[str], dataset: Dataset, store: FeatureStore) -> None:
    if unknown := [key for key in keys if key not in store.row_of]:
        raise StoreError(
            f"{store.path}: has no {dataset.noun[:-1]} {some(unknown)} ({len(unknown):,} of {len(keys):,}); "
            + (
                f"import features of all {dataset.noun} of {dataset.root} into a new store"
                if dataset.items or store.imported
                else f"extract {dataset.root} into a new store"
            )
        )


def _changed(dataset: Dataset, store: FeatureStore, rows: np.ndarray) -> StoreError:
    if damaged := [store.keys[row] for row in rows if not store.pooled_sound(row)]:
        return StoreError(
            f"{store.path}: {len(damaged):,} rows do not match their checksum ({some(damaged)}); restore it"
        )
    return StoreError(
        f"{store.path}: {len(rows):,} images of {dataset.root} have changed since their features were made "
        f"({some([store.keys[row] for row in rows])}); restore them, or extract them into a new store"
    )


def _look(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns % 2**63, status.st_ctime_ns % 2**63]  # the year 2300 is no error


def _look_of(path: Path) -> list[int]:
    try:
        return _look(path.stat())
    except OSError as error:
        raise StoreError(f"image {path} cannot be read: {reason_of(error)}; {remedy_of(error)}") from error


def _folded(sha256: np.ndarray) -> np.ndarray:
    """Hashes (n, 32) uint8 folded to (n,) int64, so that any one bit counts."""
    folded: np.ndarray = np.bitwise_xor.reduce(np.ascontiguousarray(sha256).view("<i8"), axis=1)
    return folded


def _known(store: FeatureStore) -> np.ndarray:
    """How the files looked when their content was last seen to be the store's: (N, 4), zeros where that is unknown."""
    known = np.zeros((len(store.keys), 4), "<i8")
    try:
        with times_path(store.path).open("rb") as handle:
            found = np.frombuffer(handle.read(known.nbytes), np.uint8)
    except OSError:
        return known
    known.view(np.uint8).reshape(-1)[: len(found)] = found
    return known
