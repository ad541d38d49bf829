"""Writing a feature store: create it whole, then fill rows so that a kill at any moment loses at most one block.

Several processes may fill one store, each a part of its rows of its own.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cachegen.common.errors import StoreError
from cachegen.common.files import reason_of, remedy_of, remove_leftovers, write_atomically, write_text
from cachegen.common.locks import RowLocks
from cachegen.common.system import reserve, sync_data
from cachegen.features.store import (
    DONE,
    FEATURES,
    IDENTITY,
    PENDING,
    SCHEMA,
    STORAGE,
    UNREADABLE,
    FeatureStore,
    read_reasons,
    reasons_path,
    row_checksum,
    times_path,
)

COLUMNS = (*FEATURES, "crc32", "sha256", "crc32_pooled")  # written before a row counts
HEADERS = 2**16  # bytes; what HDF5 adds to the datasets, with room to spare


Part = tuple[int, int]
"""(i, n): the i-th of n parts, from 1."""


def parse_part(text: str) -> Part:
    """The part that "2/8" names. Raises `StoreError` unless it is I/N with 1 <= I <= N."""
    words = text.split("/")
    if len(words) == 2 and all(word.isascii() and word.isdigit() for word in words):
        i, n = map(int, words)
        if 1 <= i <= n:
            return i, n
    raise StoreError(f"part {text}: write I/N with I from 1 to N, for example 2/8")


def part_rows(images: int, batch: int, part: Part | None) -> range:
    """Rows of a part: contiguous, disjoint, and whole blocks of `batch`, so that parts encode the same blocks as one.

    Empty where there are more parts than blocks. None is the part of all rows.
    """
    i, n = part or (1, 1)
    blocks = -(-images // batch)
    return range(blocks * (i - 1) // n * batch, min(blocks * i // n * batch, images))


class StoreWriter:
    """The only writer of `rows` of a store. It holds their lock, unless nothing is left to write.

    `store` is the state found when it was opened.
    """

    def __init__(self, store: FeatureStore, rows: range, descriptor: int = -1, locks: RowLocks | None = None) -> None:
        self.store = store
        self.rows = rows
        self._descriptor = descriptor
        self._locks = locks

    def write(self, start: int, features: Sequence[np.ndarray], reasons: dict[int, str], sha256: np.ndarray) -> None:
        """Make rows `start`, `start + 1`, ... durable: features in the order of `FEATURES`, each (n, ...).

        `sha256` (n, 32) uint8 are the hashes of the images' files.
        `reasons` maps positions in this block to why the image is unreadable; their features become zeros.
        """
        parts = [np.array(part, order="C") if reasons else np.ascontiguousarray(part) for part in features]
        for part in parts:
            part[list(reasons)] = 0
        keys = self.store.keys[start : start + len(parts[0])]
        patches, *pooled = parts
        crc32, crc32_pooled = (
            np.array([row_checksum(key, row) for key, *row in zip(keys, first, *pooled, strict=True)], "<u4")
            for first in (patches, sha256)
        )
        done = np.full(len(keys), DONE, np.uint8)
        done[list(reasons)] = UNREADABLE
        try:
            for name, part in zip(COLUMNS, (*parts, crc32, sha256, crc32_pooled), strict=True):
                self._pwrite(name, start, part)
            if reasons:
                self._add_reasons({keys[position]: reason for position, reason in reasons.items()})
            sync_data(self._descriptor)
            self._pwrite("done", start, done)
            sync_data(self._descriptor)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.store.path}: {error.strerror or error}; finished rows are kept, run it again"
            ) from error

    def _add_reasons(self, reasons: dict[str, str]) -> None:
        """Add to the sidecar, which all parts share: in the order of rows, so that it tells nothing of who was first.

        What is there of rows that are still pending is kept; each row is written with its reason of now.
        """
        assert self._locks is not None
        with self._locks.shared():
            known = read_reasons(self.store.path) | reasons
            lines = [json.dumps({"key": key, "reason": known[key]}) for key in self.store.keys if key in known]
            remove_leftovers(reasons_path(self.store.path))
            write_text(reasons_path(self.store.path), "\n".join(lines) + "\n")

    def close(self) -> None:
        """End writing, also for a thread that still would: its number may soon be another file's."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def _pwrite(self, name: str, start: int, part: np.ndarray) -> None:
        offset = self.store.offsets[name] + start * (part.nbytes // len(part))
        left = part.data.cast("B")
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            left, offset = left[written:], offset + written


@contextlib.contextmanager
def open_writer(
    path: Path,
    keys: Sequence[str],
    n_patches: int,
    width: int,
    attributes: dict[str, Any],
    part: Part | None = None,
) -> Iterator[StoreWriter]:
    """Create the store, or open it to resume, holding the lock of the rows of `part`; None: of all rows.

    Of several that come at once one creates it, and the others wait for it and use it. Raises `StoreError` if an
    existing store differs in an `IDENTITY` attribute, or there is no space for a new one, and `RunError` if another
    process writes any of these rows. A store that is finished is opened without locks: nothing is written, also where
    nothing could be.
    """
    found = FeatureStore.found(path)
    if found is not None and (found.done != PENDING).all():
        _require_same(found, attributes)
        yield StoreWriter(found, part_rows(len(found.keys), found.attributes["batch"], part))
        return
    with contextlib.ExitStack() as stack:
        try:
            locks = RowLocks(path.with_name(f"{path.name}.lock"), f"feature store {path}")
            stack.callback(locks.close)
            with locks.shared():
                # A store without a finished row holds nothing worth keeping: it is made anew, whatever it was made for.
                found = FeatureStore.found(path)
                if locks.nobody_writes() and (found is None or not found.done.any()):
                    remove_leftovers(path)
                    reasons_path(path).unlink(missing_ok=True)
                    times_path(path).unlink(missing_ok=True)
                    write_atomically(path, lambda temporary: make_store(temporary, keys, n_patches, width, attributes))
                store = FeatureStore.open(path, allow_pending=True)
                rows = part_rows(len(store.keys), store.attributes["batch"], part)
                locks.take(rows, "part {}/{}".format(*part) if part else "all rows")
            writer = StoreWriter(store, rows, os.open(path, os.O_RDWR), locks)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {reason_of(error)}; {remedy_of(error)}") from error
        stack.callback(writer.close)
        _require_same(store, attributes)
        yield writer


def _require_same(store: FeatureStore, attributes: dict[str, Any]) -> None:
    """Raise `StoreError` unless rows that are encoded now are of one kind with those that are there."""
    there = store.attributes
    differing = [name for name in IDENTITY if there[name] != attributes[name]]
    pending = (store.done == PENDING).any()
    if pending and (store.sha256 is None or there.get("decoding") != attributes.get("decoding")):
        differing.append("decoding")
    if differing:
        name = differing[0]
        here = there.get(name, "that of an earlier version")
        raise StoreError(
            f"{store.path} was made by {there['encoder']} and differs in {', '.join(differing)} "
            f"({name}: {here} there, {attributes.get(name)} now); choose another --out or delete it"
        )


def make_store(path: Path, *contents: Any) -> None:
    """Write a store without rows at `path`: keys, patches per image, width and attributes are in `contents`."""
    try:
        _create(path, *contents)
    except RuntimeError as error:  # HDF5's, where it cannot write what it kept back till the end
        raise StoreError(f"cannot write {path.parent}, the disk may be full; make room ({error})") from error


def _create(path: Path, keys: Sequence[str], n_patches: int, width: int, attributes: dict[str, Any]) -> None:
    names = [key.encode() for key in keys]
    n = len(names)
    layout = {
        "key": ((n,), h5py.string_dtype("utf-8", max(map(len, names)))),
        "done": ((n,), np.dtype("u1")),
        "crc32": ((n,), np.dtype("<u4")),
        "patches": ((n, n_patches, width), np.dtype(STORAGE[attributes["dtype"]])),
        "pooled_patches": ((n, width), np.dtype("<f4")),
        "pooled_all_tokens": ((n, width), np.dtype("<f4")),
        "sha256": ((n, 32), np.dtype("u1")),
        "crc32_pooled": ((n,), np.dtype("<u4")),
    }
    needed = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout.values())
    free = shutil.disk_usage(path.parent).free
    space = (
        f"a feature store in {path.parent} needs {needed / 1e9:.2f} GB where {free / 1e9:.2f} GB are free; make room"
    )
    if needed > free:
        raise StoreError(space)
    # HDF5 dies noisily on a full disk, and a quota is not in `free`: see first whether all of it can be had.
    try:
        with path.open("wb+") as handle:
            reserve(handle.fileno(), needed + HEADERS)
    except OSError as error:
        raise StoreError(f"{space} ({error.strerror})") from error
    # Page-aligned, so that maps are aligned for any dtype.
    with h5py.File(path, "w", alignment_threshold=1, alignment_interval=4096) as file:
        for name, (shape, dtype) in layout.items():
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_layout(h5py.h5d.CONTIGUOUS)
            plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # without it the dataset has no offset before data
            plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # stays sparse: unwritten rows read as zeros
            plan.set_obj_track_times(False)  # equal content, equal bytes
            h5type = h5py.h5t.py_create(dtype, logical=True)
            h5py.h5d.create(file.id, name.encode(), h5type, h5py.h5s.create_simple(shape), plan)
        file["key"][:] = np.array(names, dtype=layout["key"][1])
        file.attrs.update({"schema": SCHEMA, **attributes})
    # A mapped or positioned write to a full disk fails late (SIGBUS, ENOSPC at row 9,000): take the space now.
    with path.open("rb+") as handle:
        try:
            reserve(handle.fileno(), path.stat().st_size)
        except OSError as error:
            raise StoreError(f"{space} ({error.strerror})") from error
