"""The feature store: one HDF5 file per encoder, one row per image, readable while it is being filled.

Every dataset is contiguous and allocated when the file is created, so that afterwards no HDF5 metadata changes: rows
are written with `pwrite` at the dataset's offset and read through memory maps, and a killed writer leaves a readable
file. A row counts only once its `done` flag says so; the flag reaches the disk after the row.

    key (N,) utf-8 | done (N,) uint8 | crc32 (N,) uint32, of the key and the row's bytes in all feature datasets
    patches (N, P, D) 16 bit (bfloat16 as a uint16 view) | pooled_patches (N, D), pooled_all_tokens (N, D) float32
    sha256 (N, 32) uint8, of the image's file | crc32_pooled (N,) uint32, of the key, sha256 and the pooled vectors

Stores of earlier versions lack the last two. Checksums are verified when a row is first read. On two busy cores 1 GB
from the page cache took 1.6 s with that, by threads, and 1.9 s without, by one (0.6 and 1.1 s of CPU); all its pooled
vectors 0.04 s. To hash a JPEG of 226 kB took 0.1 ms, to decode it 24 ms.
"""

import errno
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import numpy as np

from cachegen.common.errors import StoreError, listing, some
from cachegen.common.files import digest_bytes, reason_of, remedy_of
from cachegen.common.progress import progress_bar
from cachegen.common.system import cores

if TYPE_CHECKING:
    import torch  # takes seconds to import; readers of pooled vectors do without

Result = TypeVar("Result")

SCHEMA = 1
BLOCK = 64  # rows that a thread reads at a time
PENDING, DONE, UNREADABLE = 0, 1, 2
SIGNATURE, LFS_POINTER = b"\x89HDF\r\n\x1a\n", b"version https://git-lfs.github.com/spec/v1"
FEATURES = ("patches", "pooled_patches", "pooled_all_tokens")
STORAGE = {"bfloat16": "<u2", "float16": "<f2"}
TYPES = {"key": "|S", "done": "|u1", "crc32": "<u4", "pooled_patches": "<f4", "pooled_all_tokens": "<f4"}
PICTURES = {"sha256": "|u1", "crc32_pooled": "<u4"}  # types of what stores of earlier versions lack
# What decides the features: a store is extended only if all agree, and its digest covers them.
# Not among them: the encoder's name (weights can move), batch, library versions (the row checksums cover their effect).
NUMBERS = ("image_size", "batch")  # attributes that are numbers; the others are text
IMPORTED = "imported"  # the attribute `layer` of features that were computed elsewhere; their image_size is 0
IDENTITY = ("weights_digest", "layer", "image_size", "transform", "dtype", "compute", "image_digest")


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """A feature store, open for reading. Features are mapped from the file, not copied into memory.

    N images, P patches per image, D width of the encoder.

    Attributes:
        path: The HDF5 file.
        attributes: What the store records: encoder, digest of its weights, transform, dtype and so on.
        keys: The N image keys.
        done: State of each row (N,) uint8, when the store was opened.
        crc32: Checksum of each row (N,) uint32.
        patches: Patch features (N, P, D), uint16 (bits of bfloat16) or float16. `patch_tensor` reads and checks them.
        pooled_patches: Mean over patch tokens (N, D) float32.
        pooled_all_tokens: Mean over all tokens (N, D) float32.
        unreadable: Key and reason of each image without features.
        offsets: Byte offset of each HDF5 dataset in the file.
        sha256: Hash of each image file (N, 32) uint8; None in a store of an earlier version.
        crc32_pooled: Checksum of hash and pooled vectors (N,) uint32; None in a store of an earlier version.
    """

    path: Path
    attributes: dict[str, Any]
    keys: list[str]
    done: np.ndarray
    crc32: np.ndarray
    patches: np.ndarray
    pooled_patches: np.ndarray
    pooled_all_tokens: np.ndarray
    unreadable: dict[str, str]
    offsets: dict[str, int] = field(repr=False)  # byte offset of each dataset in the file
    sha256: np.ndarray | None = None
    crc32_pooled: np.ndarray | None = None

    @classmethod
    def open(cls, path: Path, allow_pending: bool = False) -> "FeatureStore":
        """Open the store at `path`.

        Args:
            path: HDF5 file that `extract` wrote.
            allow_pending: Also open a store that is not finished.

        Raises:
            StoreError: It is missing, damaged, not a feature store, or not finished.
        """
        path = Path(path)
        try:
            _check_file(path)
            store = cls._read(path)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise _not_read(path, error) from error
        pending = int((store.done == PENDING).sum())
        if pending and not allow_pending:
            raise StoreError(
                f"{path}: {pending:,} of {len(store.keys):,} images are not extracted yet; "
                "run `crosstax extract` again to finish it"
            )
        return store

    @classmethod
    def found(cls, path: Path) -> "FeatureStore | None":
        """The store at `path`, finished or not; None where nothing is there."""
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _not_read(path, error) from error
        return cls.open(path, allow_pending=True)

    @classmethod
    def _read(cls, path: Path) -> "FeatureStore":
        # HDF5's own file locks guard metadata, which never changes here, and fail on some network disks.
        with h5py.File(path, "r", locking=False) as file:
            attributes = {k: v.item() if isinstance(v, np.generic) else v for k, v in file.attrs.items()}
            if attributes.get("schema") != SCHEMA:
                found = attributes.get("schema", "none")
                raise StoreError(f"{path}: store schema {found}, this version reads {SCHEMA}; extract again")
            _check_attributes(attributes)
            size, types = path.stat().st_size, TYPES | {"patches": STORAGE[attributes["dtype"]]}
            if any(name in file for name in PICTURES):
                types |= PICTURES
            offsets = {name: _offset(file, name, dtype, size) for name, dtype in types.items()}
            keys = [key.decode() for key in file["key"][:]]
            done, crc32 = file["done"][:], file["crc32"][:]
            pictures = {name: file[name][:] for name in PICTURES if name in types}
            layout = {name: (file[name].dtype, file[name].shape) for name in FEATURES}
        maps = {
            name: np.memmap(path, dtype, mode="r", offset=offsets[name], shape=shape)
            for name, (dtype, shape) in layout.items()
        }
        columns = (keys, set(keys), done, crc32, *maps.values(), *pictures.values())
        if len(set(map(len, columns))) != 1:
            raise ValueError("its datasets differ in length, or a key occurs twice")
        if len({values.shape[-1] for values in maps.values()}) != 1 or done.max() > UNREADABLE:
            raise ValueError("its datasets differ in width, or a flag is unknown")
        if "grid" in attributes and prod(map(int, attributes["grid"].split("x"))) != maps["patches"].shape[1]:
            raise ValueError(f"its {maps['patches'].shape[1]} patches are no grid of {attributes['grid']}")
        if pictures and pictures["sha256"].shape[1] != 32:
            raise ValueError("its hashes are not of 32 bytes")
        reasons = read_reasons(path)
        unreadable = {keys[row]: reasons.get(keys[row], "unknown") for row in np.flatnonzero(done == UNREADABLE)}
        return cls(path, attributes, keys, done, crc32, **maps, unreadable=unreadable, offsets=offsets, **pictures)

    @property
    def imported(self) -> bool:
        """Whether its features were computed elsewhere (`cachegen.features.importing`)."""
        return bool(self.attributes["layer"] == IMPORTED)

    @property
    def by_name(self) -> bool:
        """Whether its rows belong to whatever has their names: its `sha256` are of no files."""
        return self.attributes.get("known_by") == "name"

    @cached_property
    def digest(self) -> str:
        """Hash of the identity attributes, the keys, and the checksum and state of each row."""
        given = [name for name in ("grid",) if name in self.attributes]
        identity = {name: self.attributes[name] for name in ("schema", *IDENTITY, *given)}
        text = json.dumps([identity, self.keys], sort_keys=True)
        return digest_bytes(text.encode(), self.crc32.tobytes(), self.done.tobytes())

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row number of each image key."""
        return {key: row for row, key in enumerate(self.keys)}

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Row numbers (n,) int64 of image keys. Raises `StoreError` for a key that is unknown or has no features."""
        try:
            rows = np.array([self.row_of[key] for key in keys], dtype=np.int64)
        except KeyError as error:
            raise StoreError(f"{self.path}: has no image {error}; extract this dataset into a new store") from None
        self._require_features(rows)
        return rows

    def patch_tensor(self, rows: np.ndarray) -> "torch.Tensor":
        """Patch features of `rows` (n,), copied to (n, P, D) bfloat16 or float16 on the CPU.

        A row is compared with its checksum when it is first read. Raises `StoreError` that names damaged rows.
        """
        import torch

        self._require_features(rows)
        copied = np.asarray(self.patches[rows]) if self._verified[rows].all() else self._first_copy(rows)
        features = torch.from_numpy(copied)
        return features.view(torch.bfloat16) if self.attributes["dtype"] == "bfloat16" else features

    def verify_pooled(self) -> None:
        """Compare all pooled vectors with their checksums; raises `StoreError` naming images whose rows are damaged.

        A store of an earlier version has one checksum for all of a row, so that its patches are read too.
        """
        sound = self.pooled_sound if self.sha256 is not None else self._row_sound
        rows = np.flatnonzero(self.done == DONE)
        with progress_bar("checking features", len(rows), "images") as advance:
            self._require_sound(rows, in_threads(lambda place: sound(rows[place]), len(rows), advance))

    def verify(self) -> None:
        """Read every row. Raises `StoreError` that lists rows with a wrong checksum, NaN or infinity."""
        rows = np.flatnonzero(self.done == DONE)

        def fault(place: int) -> str:
            row = rows[place]
            if not (self._row_sound(row) and self.pooled_sound(row)):
                return "do not match their checksum"
            return "" if all(all_finite(getattr(self, name)[row]) for name in FEATURES) else "contain NaN or infinity"

        with progress_bar("checking features", len(rows), "images") as advance:
            faults = in_threads(fault, len(rows), advance)
        damaged = [(self.keys[row], what) for row, what in zip(rows, faults, strict=True) if what]
        if damaged:
            what = " or ".join(dict.fromkeys(what for _, what in damaged))
            head = f"{self.path}: {len(damaged):,} rows {what}; delete it and extract again, or restore it"
            raise StoreError(listing(head, [key for key, _ in damaged]))

    @cached_property
    def _verified(self) -> np.ndarray:
        """Which rows were read and found sound (N,)."""
        return np.zeros(len(self.keys), bool)

    def _first_copy(self, rows: np.ndarray) -> np.ndarray:
        copied = np.empty((len(rows), *self.patches.shape[1:]), self.patches.dtype)

        def copy(place: int) -> bool:
            copied[place] = self.patches[rows[place]]
            return bool(self._verified[rows[place]]) or self._row_sound(rows[place], copied[place])

        self._require_sound(rows, in_threads(copy, len(rows)))
        self._verified[rows] = True
        return copied

    def _row_sound(self, row: int, patches: np.ndarray | None = None) -> bool:
        """Whether a row matches its checksum, with `patches` as they were copied from it."""
        first = self.patches[row] if patches is None else patches
        parts = [first, self.pooled_patches[row], self.pooled_all_tokens[row]]
        return row_checksum(self.keys[row], parts) == self.crc32[row]

    def pooled_sound(self, row: int) -> bool:
        """The same for its hash and pooled vectors alone; stores of earlier versions cannot tell."""
        if self.sha256 is None or self.crc32_pooled is None:
            return True
        parts = [self.sha256[row], self.pooled_patches[row], self.pooled_all_tokens[row]]
        return row_checksum(self.keys[row], parts) == self.crc32_pooled[row]

    def _require_sound(self, rows: np.ndarray, sound: Sequence[bool]) -> None:
        damaged = [self.keys[row] for row, good in zip(rows, sound, strict=True) if not good]
        if damaged:
            raise StoreError(
                f"{self.path}: {len(damaged):,} rows do not match their checksum ({some(damaged)}); delete it and "
                "extract again, or restore it"
            )

    def _require_features(self, rows: np.ndarray) -> None:
        without = np.asarray(rows)[self.done[rows] != DONE]
        if len(without):
            key = self.keys[without[0]]
            reason = f"unreadable: {self.unreadable[key]}" if key in self.unreadable else "not extracted yet"
            raise StoreError(f"{self.path}: {len(without):,} of these images have no features, first {key} ({reason})")


def row_checksum(key: str, parts: Sequence[np.ndarray]) -> int:
    """CRC-32 of an image key and the bytes of its row in each feature dataset."""
    checksum = zlib.crc32(key.encode())
    for part in parts:
        checksum = zlib.crc32(np.ascontiguousarray(part).data, checksum)
    return checksum


def in_threads(work: Callable[[int], Result], count: int, advance: Callable[[int], None] | None = None) -> list[Result]:
    """`work` of 0, ..., count - 1, by threads where there is enough of it: checksums, copies and reads free the GIL.

    `advance(n)` is called with the number of finished items.
    """

    def take(block: range) -> list[Result]:
        done = [work(place) for place in block]
        if advance is not None:
            advance(len(block))
        return done

    blocks = [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    if len(blocks) <= 1:
        return [done for block in blocks for done in take(block)]
    with ThreadPoolExecutor(cores()) as pool:
        return [done for block in pool.map(take, blocks) for done in block]


def all_finite(part: np.ndarray) -> bool:
    """Whether no value is NaN or infinite; uint16 arrays are bfloat16 bits."""
    if part.dtype == np.uint16:
        return not ((part & 0x7F80) == 0x7F80).any()  # exponent all ones
    return bool(np.isfinite(part).all())


def reasons_path(path: Path) -> Path:
    """The JSON-lines sidecar of a store: {"key", "reason"} of each unreadable image."""
    return path.with_name(f"{path.name}.unreadable.jsonl")


def _check_file(path: Path) -> None:
    """Raise `StoreError` that says what lies at `path` if it is no HDF5 file; a pipe or device is not opened."""
    make = "make one with `crosstax extract`"
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{path}: no feature store there; {make}") from None
    if stat.S_ISDIR(mode):
        raise StoreError(f"{path} is a folder, no feature store; give the file that `crosstax extract --out` wrote")
    if not stat.S_ISREG(mode):
        raise StoreError(f"{path} is a pipe or device, no feature store; {make}")
    with path.open("rb") as handle:
        start = handle.read(len(LFS_POINTER))
    if not start.startswith(SIGNATURE):
        what = "a Git LFS pointer to a file that is not here; fetch it with `git lfs pull`"
        if start != LFS_POINTER:
            what = f"{'no HDF5 file' if start else 'an empty file'}, no feature store; give the right path, or {make}"
        raise StoreError(f"{path} is {what}")


def _not_read(path: Path, error: Exception) -> StoreError:
    """What kept `path` from being read: the file system, whose error says nothing about the store, or its contents."""
    number = getattr(error, "errno", None) or int(
        (re.findall(r"errno = (\d+)", str(error)) or [0])[0]
    )  # in HDF5's text
    if number == errno.ELOOP:
        return StoreError(f"{path}: no feature store there, but a link in a circle; remove it or give another path")
    if number:
        system = OSError(number, os.strerror(number))
        place = getattr(error, "filename", None) or path
        return StoreError(f"{place} cannot be read: {reason_of(system)}; {remedy_of(system)}")
    if "truncated file" in str(error):
        return StoreError(
            f"{path}: not a whole feature store, it is cut off; copy it again, or delete it and extract again"
        )
    reason = " ".join(str(error).split())
    return StoreError(f"{path}: not a whole feature store ({reason}); delete it and extract again")


def _check_attributes(attributes: dict[str, Any]) -> None:
    """Raise unless every attribute that is read is there and of its type."""
    for name in (*IDENTITY, "encoder", "batch"):
        if name not in attributes:
            raise ValueError(f"attribute {name} is missing")
        value = attributes[name]
        if name in NUMBERS:
            least = 0 if name == "image_size" and attributes["layer"] == IMPORTED else 1
            sound = type(value) is int and value >= least
        else:
            sound = isinstance(value, str) and value.isprintable()
        if not sound:
            raise ValueError(f"attribute {name} is {value!r}")
    if not re.fullmatch("[1-9][0-9]*x[1-9][0-9]*", attributes.get("grid", "1x1")):
        raise ValueError(f"attribute grid is {attributes['grid']!r}")
    if not isinstance(attributes.get("decoding", ""), str):
        raise ValueError(f"attribute decoding is {attributes['decoding']!r}")
    if attributes["dtype"] not in STORAGE:
        raise ValueError(f"attribute dtype is none of {', '.join(STORAGE)}")


def _offset(file: h5py.File, name: str, dtype: str, size: int) -> int:
    """Byte offset of a dataset, checked before anything of it is read: a file of a few bytes can declare any shape."""
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.file.id != file.id or dataset.external:
        raise ValueError(f"{name} is no dataset of this file")
    dimensions = {"patches": 3, "pooled_patches": 2, "pooled_all_tokens": 2, "sha256": 2}.get(name, 1)
    if len(dataset.shape) != dimensions or not dataset.dtype.str.startswith(dtype):
        raise ValueError(f"{name} is of type {dataset.dtype} and shape {dataset.shape}")
    offset = dataset.id.get_offset()
    if offset is None or offset + dataset.nbytes > size:
        raise ValueError(f"{name} is not stored whole in this file")
    return int(offset)


def times_path(path: Path) -> Path:
    """The file beside a store that records when its images were last checked; see `cachegen.features.same_pictures`."""
    return path.with_name(f"{path.name}.times")


def read_reasons(path: Path) -> dict[str, str]:
    """Key -> reason from the JSON-lines sidecar; none when no image was unreadable."""
    sidecar = reasons_path(path)
    if not sidecar.exists():
        return {}
    lines = sidecar.read_text(encoding="utf-8").splitlines()
    return {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}
