"""The feature store: one HDF5 file per encoder, one row per image, readable while it is being filled.

Every dataset is contiguous and allocated when the file is created, so that afterwards no HDF5 metadata changes: rows
are written with `pwrite` at the dataset's offset and read through memory maps, and a killed writer leaves a readable
file. A row counts only once its `done` flag says so; the flag reaches the disk after the row.

    key (N,) utf-8 | done (N,) uint8 | crc32 (N,) uint32, of the key and the row's bytes in all feature datasets
    patches (N, P, D) 16 bit (bfloat16 as a uint16 view) | pooled_patches (N, D), pooled_all_tokens (N, D) float32
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cachegen.errors import StoreError
from cachegen.files import digest_bytes

if TYPE_CHECKING:
    import torch  # takes seconds to import; readers of pooled vectors do without

SCHEMA = 1
PENDING, DONE, UNREADABLE = 0, 1, 2
FEATURES = ("patches", "pooled_patches", "pooled_all_tokens")
STORAGE = {"bfloat16": "<u2", "float16": "<f2"}
TYPES = {"key": "|S", "done": "|u1", "crc32": "<u4", "pooled_patches": "<f4", "pooled_all_tokens": "<f4"}
# What decides the features: a store is extended only if all agree, and its digest covers them.
# Not among them: the encoder's name (weights can move), batch, library versions (the row checksums cover their effect).
NUMBERS = ("image_size", "batch")  # attributes that are numbers; the others are text
IDENTITY = ("weights_digest", "layer", "image_size", "transform", "dtype", "compute", "image_digest")


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """A store opened for reading: small columns in memory, features as read-only maps (no copies).

    keys: N image keys; done: (N,) uint8, a snapshot; unreadable: key -> reason of the rows that have no features.
    patches: (N, P, D) uint16 (bfloat16 bits) or float16; pooled_patches, pooled_all_tokens: (N, D) float32.
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

    @classmethod
    def open(cls, path: Path, allow_pending: bool = False) -> "FeatureStore":
        """Map the store at `path`; raises `StoreError` if it is missing, damaged, foreign, or not finished."""
        path = Path(path)
        if not path.is_file():
            raise StoreError(f"{path}: no feature store there; make one with `crosstax extract`")
        try:
            store = cls._read(path)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise StoreError(f"{path}: not a whole feature store ({error}); delete it and extract again") from error
        pending = int((store.done == PENDING).sum())
        if pending and not allow_pending:
            raise StoreError(
                f"{path}: {pending:,} of {len(store.keys):,} images are not extracted yet; "
                "run `crosstax extract` again to finish it"
            )
        return store

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
            offsets = {name: _offset(file, name, dtype, size) for name, dtype in types.items()}
            keys = [key.decode() for key in file["key"][:]]
            done, crc32 = file["done"][:], file["crc32"][:]
            layout = {name: (file[name].dtype, file[name].shape) for name in FEATURES}
        maps = {
            name: np.memmap(path, dtype, mode="r", offset=offsets[name], shape=shape)
            for name, (dtype, shape) in layout.items()
        }
        if len({len(keys), len(set(keys)), len(done), len(crc32), *map(len, maps.values())}) != 1:
            raise ValueError("its datasets differ in length, or a key occurs twice")
        if len({values.shape[-1] for values in maps.values()}) != 1 or done.max() > UNREADABLE:
            raise ValueError("its datasets differ in width, or a flag is unknown")
        reasons = read_reasons(path)
        unreadable = {keys[row]: reasons.get(keys[row], "unknown") for row in np.flatnonzero(done == UNREADABLE)}
        return cls(path, attributes, keys, done, crc32, **maps, unreadable=unreadable, offsets=offsets)

    @cached_property
    def digest(self) -> str:
        """Hash of the identity attributes, the keys, and the checksum and state of each row."""
        identity = {name: self.attributes[name] for name in ("schema", *IDENTITY)}
        text = json.dumps([identity, self.keys], sort_keys=True)
        return digest_bytes(text.encode(), self.crc32.tobytes(), self.done.tobytes())

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Row numbers (n,) int64 of image keys; raises for an unknown key or one without features."""
        try:
            rows = np.array([self._row_of[key] for key in keys], dtype=np.int64)
        except KeyError as error:
            raise StoreError(f"{self.path}: has no image {error}; extract this dataset into a new store") from None
        self._require_features(rows)
        return rows

    def patch_tensor(self, rows: np.ndarray) -> "torch.Tensor":
        """Patch features of `rows`, copied: (n, P, D) bfloat16 or float16 on the CPU."""
        import torch

        self._require_features(rows)
        features = torch.from_numpy(np.asarray(self.patches[rows]))
        return features.view(torch.bfloat16) if self.attributes["dtype"] == "bfloat16" else features

    def verify(self) -> None:
        """Read every finished row; raises `StoreError` naming rows whose checksum fails or that are not finite."""
        damaged, infinite = [], []
        for row in np.flatnonzero(self.done == DONE):
            parts = [getattr(self, name)[row] for name in FEATURES]
            if row_checksum(self.keys[row], parts) != self.crc32[row]:
                damaged.append(self.keys[row])
            elif not all(all_finite(part) for part in parts):
                infinite.append(self.keys[row])
        for keys, what in ((damaged, "do not match their checksum"), (infinite, "contain NaN or infinity")):
            if keys:
                raise StoreError(
                    f"{self.path}: {len(keys):,} rows {what} ({', '.join(keys[:3])}); delete it and extract again"
                )

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys)}

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


def all_finite(part: np.ndarray) -> bool:
    """Whether no value is NaN or infinite; uint16 arrays are bfloat16 bits."""
    if part.dtype == np.uint16:
        return not ((part & 0x7F80) == 0x7F80).any()  # exponent all ones
    return bool(np.isfinite(part).all())


def reasons_path(path: Path) -> Path:
    """The JSON-lines sidecar of a store: {"key", "reason"} of each unreadable image."""
    return path.with_name(f"{path.name}.unreadable.jsonl")


def _check_attributes(attributes: dict[str, Any]) -> None:
    """Raise unless every attribute that is read is there and of its type."""
    for name in (*IDENTITY, "encoder", "batch"):
        if name not in attributes:
            raise ValueError(f"attribute {name} is missing")
        value = attributes[name]
        sound = value > 0 if name in NUMBERS and type(value) is int else isinstance(value, str) and value.isprintable()
        if not sound or (name in NUMBERS) != isinstance(value, int):
            raise ValueError(f"attribute {name} is {value!r}")
    if attributes["dtype"] not in STORAGE:
        raise ValueError(f"attribute dtype is none of {', '.join(STORAGE)}")


def _offset(file: h5py.File, name: str, dtype: str, size: int) -> int:
    """Byte offset of a dataset, checked before anything of it is read: a file of a few bytes can declare any shape."""
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.file.id != file.id or dataset.external:
        raise ValueError(f"{name} is no dataset of this file")
    dimensions = {"patches": 3, "pooled_patches": 2, "pooled_all_tokens": 2}.get(name, 1)
    if len(dataset.shape) != dimensions or not dataset.dtype.str.startswith(dtype):
        raise ValueError(f"{name} is of type {dataset.dtype} and shape {dataset.shape}")
    offset = dataset.id.get_offset()
    if offset is None or offset + dataset.nbytes > size:
        raise ValueError(f"{name} is not stored whole in this file")
    return int(offset)


def read_reasons(path: Path) -> dict[str, str]:
    """Key -> reason from the JSON-lines sidecar; none when no image was unreadable."""
    sidecar = reasons_path(path)
    if not sidecar.exists():
        return {}
    lines = sidecar.read_text(encoding="utf-8").splitlines()
    return {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}
