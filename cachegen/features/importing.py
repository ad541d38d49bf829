"""Importing features that were computed elsewhere into a store like any other: of images, or of whatever has a name.

Rows come in the order of the array and are written to their places, sorted by key, into a file that gets its name when
it is whole. So the order of the array does not matter, and no more than a block of it is in memory.
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import h5py
import numpy as np
import torch

from cachegen.common.errors import StoreError, some
from cachegen.common.files import digest_bytes, reason_of, remedy_of, write_atomically
from cachegen.common.progress import progress_bar
from cachegen.data.dataset import Dataset, digest_of_items
from cachegen.data.taxonomy import composed_form
from cachegen.features.arrays import BFLOAT16, Rows, open_rows
from cachegen.features.same_pictures import note_pictures, read_pictures
from cachegen.features.store import (
    DONE,
    IMPORTED,
    STORAGE,
    FeatureStore,
    reasons_path,
    row_checksum,
    times_path,
)
from cachegen.features.writer import make_store

BLOCK_BYTES = 2**25  # of an array in memory
UNKNOWN = "0" * 64  # stands in a file until its content is known
LIBRARIES = ("torch", "numpy", "h5py")
HEADINGS = ("key", "item", "name", "file", "filename", "image")  # of a column of keys


@dataclass(frozen=True)
class Arrangement:
    """An array as features: N rows, a grid of H x W patches where it is known, P patches, width D."""

    rows: Rows
    channels_first: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)"""
        count, *inner = self.rows.shape
        width = inner[0] if self.channels_first else inner[-1]
        return count, int(np.prod(inner)) // width, width

    @property
    def grid(self) -> str | None:
        inner = self.rows.shape[1:]
        if len(inner) < 3:
            return None
        height, width = inner[1:] if self.channels_first else inner[:2]
        return f"{height}x{width}"

    def block(self, values: np.ndarray) -> torch.Tensor:
        """Rows of the array as (n, P, D), in its own type where that has 16 bits, else float32."""
        if self.channels_first:
            values = np.moveaxis(values, 1, -1)
        kind = {BFLOAT16: np.uint16, "<f2": np.float16}.get(self.rows.dtype, np.float32)
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            copied = torch.from_numpy(np.array(values, kind, order="C").reshape(len(values), *self.shape[1:]))
        return copied.view(torch.bfloat16) if self.rows.dtype == BFLOAT16 else copied


def import_features(
    array: Path,
    keys: Path | None,
    out: Path,
    *,
    dataset: Dataset | None = None,
    name: str | None = None,
    called: str | None = None,
    channels_first: bool = False,
    dtype: Literal["auto", "bfloat16", "float16"] = "auto",
) -> dict[str, Any]:
    """Write features out of a file into a new store.

    Args:
        array: .npy, .npz, .h5, .safetensors or .parquet with (N, D), (N, P, D) or (N, H, W, D) numbers.
        keys: .txt, .csv, .json or .npy with the N names of the rows; None: the one column of text of a .parquet table.
        out: The store to write.
        dataset: Names are matched with its images or items: paths, or bare file names, with or without suffix.
            Images are hashed, so that later changes are noticed. Without it names are taken as they are.
        name: Which array, where the file has several.
        called: What runs and reports call the encoder; default: the name of the file.
        channels_first: The array is (N, D, H, W) or (N, D, P).
        dtype: Type in which features are stored; "auto" is the array's own if that is one of them, else bfloat16.

    Returns:
        A summary for JSON: store, encoder, rows, superfluous (rows that are left out), shape, grid, dtype, digest.

    Raises:
        StoreError: The array or its names cannot be read, names do not fit, or values are not finite.
    """
    if FeatureStore.found(out) is not None:
        raise StoreError(f"{out} exists; choose another --out, or delete it")
    with ExitStack() as stack:
        rows = open_rows(array, name, stack)
        if len(rows.shape) > 4 or (channels_first and len(rows.shape) < 3):
            raise StoreError(f"{array} has shape {rows.shape}; features are (N, D), (N, P, D) or (N, H, W, D)")
        source, names = (array, rows.keys) if keys is None else (keys, read_names(keys))
        if names is None:
            raise StoreError(f"{array} does not name its rows; give --keys FILE with a name for each")
        names = [(name or "").strip() for name in names]
        if bad := [row for row, name in enumerate(names) if not name or not name.isprintable()]:
            raise StoreError(
                f"{source}: the name of row {bad[0]:,} is empty or has control characters ({len(bad):,} such); mend it"
            )
        if len(names) != rows.shape[0]:
            raise StoreError(f"{source} has {len(names):,} names, {array} {rows.shape[0]:,} rows; give one for each")
        arrangement = Arrangement(rows, channels_first)
        own = BFLOAT16 if rows.dtype == BFLOAT16 else np.dtype(rows.dtype).name
        stored = dtype if dtype != "auto" else own if own in STORAGE else BFLOAT16
        kept, superfluous = match_names(names, source, dataset)
        ordered = sorted(kept)
        by_name = dataset is None or dataset.items
        attributes = {
            "encoder": called or array.stem,
            "weights_digest": UNKNOWN,
            "layer": IMPORTED,
            "image_size": 0,
            "transform": "none",
            "dtype": stored,
            "compute": IMPORTED,
            "image_digest": digest_of_items(ordered) if dataset is None else dataset.image_digest,
            "batch": 1,
            "libraries": ", ".join(f"{each} {version(each)}" for each in LIBRARIES),
            "source": f"{array.name}, {' x '.join(map(str, rows.shape))} {own}",
        }
        attributes |= {"known_by": "name"} if by_name else {}
        attributes |= {"grid": arrangement.grid} if arrangement.grid else {}
        seen = None
        if dataset is not None and not by_name:
            seen = read_pictures([dataset.image_path(key) for key in ordered], "reading images")
        place_of = np.full(len(names), -1)
        place_of[[kept[key] for key in ordered]] = np.arange(len(ordered))

        def write(temporary: Path) -> None:
            _, patches, width = arrangement.shape
            make_store(temporary, ordered, patches, width, attributes)
            _fill(temporary, array, arrangement, ordered, place_of, None if seen is None else seen[0])

        for old in (reasons_path(out), times_path(out)):  # of a store that was deleted
            old.unlink(missing_ok=True)
        write_atomically(out, write)
    store = FeatureStore.open(out)
    if seen is not None:
        note_pictures(store, np.arange(len(ordered)), *seen)
    return {
        "store": str(out),
        "encoder": attributes["encoder"],
        "rows": len(ordered),
        "superfluous": superfluous,
        "shape": list(store.patches.shape),
        "grid": arrangement.grid,
        "dtype": stored,
        "digest": store.digest,
    }


def _fill(
    path: Path,
    array: Path,
    arrangement: Arrangement,
    keys: Sequence[str],
    place_of: np.ndarray,
    sha256: np.ndarray | None,
) -> None:
    """Write all rows of a new store, and the digest of its features."""
    empty = FeatureStore.open(path, allow_pending=True)
    names = ("done", "crc32", "patches", "pooled_patches", "pooled_all_tokens", "sha256", "crc32_pooled")
    columns = {}
    for each in names:
        like = getattr(empty, each)
        columns[each] = np.memmap(path, like.dtype, "r+", offset=empty.offsets[each], shape=like.shape)
    if sha256 is not None:
        columns["sha256"][:] = sha256
    kind, content = empty.attributes["dtype"], np.zeros((len(keys), 32), np.uint8)
    count, *inner = arrangement.rows.shape
    size = max(1, BLOCK_BYTES // (8 * int(np.prod(inner))))
    start = 0
    with progress_bar("importing", count, "rows") as advance:
        for values in arrangement.rows.blocks(size):
            places = place_of[start : start + len(values)]
            wanted = np.flatnonzero(places >= 0)
            exact = arrangement.block(values)[wanted]
            rounded = exact.to(getattr(torch, kind))
            finite = rounded.isfinite().flatten(1).all(1).numpy() & exact.isfinite().flatten(1).all(1).numpy()
            if not finite.all():
                row = int(wanted[finite.argmin()])
                raise StoreError(
                    f"{array}: row {start + row:,} ({keys[places[row]]}) has NaN, infinity or numbers that {kind} "
                    "cannot hold; mend it, or try --dtype bfloat16"
                )
            bits = rounded.view(torch.uint16).numpy() if kind == BFLOAT16 else rounded.numpy()
            pooled = exact.float().mean(1).numpy()
            for row, place in enumerate(places[wanted]):
                key, parts = keys[place], [bits[row], pooled[row], pooled[row]]
                columns["patches"][place] = bits[row]
                columns["pooled_patches"][place] = columns["pooled_all_tokens"][place] = pooled[row]
                columns["crc32"][place] = row_checksum(key, parts)
                columns["crc32_pooled"][place] = row_checksum(key, [columns["sha256"][place], *parts[1:]])
                content[place] = np.frombuffer(hashlib.sha256(np.ascontiguousarray(bits[row]).data).digest(), np.uint8)
            start += len(values)
            advance(len(values))
    if start != count:
        raise StoreError(f"{array} ends after {start:,} of {count:,} rows; save it again")
    columns["done"][:] = DONE
    for column in columns.values():
        column.flush()
    with h5py.File(path, "r+", locking=False) as file:
        file.attrs["weights_digest"] = digest_bytes(content.tobytes())


def read_names(path: Path) -> list[str]:
    """Names out of a file: lines, a CSV's column of `HEADINGS` or only column, a JSON list, or an array of text."""
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            names: Any = np.load(path, allow_pickle=False)
            names = names.tolist() if names.ndim == 1 else None
        else:
            text = path.read_bytes().decode("utf-8-sig")
            names = _names_in(text, kind)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {reason_of(error)}; {remedy_of(error)}") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise StoreError(
            f"{path} is not readable as {kind} ({' '.join(str(error).split())[:200]}); save it again"
        ) from None
    if isinstance(names, list):
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise StoreError(
            f"{path} holds no list of names; give .txt with one a line, .csv with a column key, a .json list, or .npy "
            "with an array of text"
        )
    return names


def _names_in(text: str, kind: str) -> Any:
    if kind == ".json":
        return json.loads(text)
    if kind == ".txt":
        return [line for line in text.splitlines() if line.strip()]
    if kind != ".csv":
        return None
    table = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if any(row)]
    header = [cell.strip().lower() for cell in table[0]] if table else []
    column = next((header.index(name) for name in HEADINGS if name in header), None)
    if column is None:
        return [row[0] for row in table] if all(len(row) == 1 for row in table) else None
    return [row[column] if column < len(row) else "" for row in table[1:]]


def match_names(names: Sequence[str], source: Path, dataset: Dataset | None) -> tuple[dict[str, int], int]:
    """(key -> row, number of rows that are nothing's) for the `names` of rows.

    Raises `StoreError` that counts, in one line, names that occur twice, and what of the dataset has no row.
    """
    known = None if dataset is None else list(dataset.images["key"])
    keys = list(names) if known is None else find_keys(names, known)
    found = [key for key in keys if key is not None]
    twice = sorted(key for key, times in Counter(found).items() if times > 1)
    missing = sorted({*(known or [])} - {*found})
    lost = [name for name, key in zip(names, keys, strict=True) if key is None]
    if twice or missing:
        said = [f"{len(twice):,} occur twice ({some(twice)})"] if twice else []
        if missing and dataset is not None:
            things = f"{len(dataset.images):,} {dataset.noun} of {dataset.root}"
            said.append(f"{len(missing):,} of {things} are missing ({some(missing)})")
        said += [f"{len(lost):,} are of none ({some(lost)})"] if lost else []
        raise StoreError(f"{source}: of {len(names):,} names {', '.join(said)}; give one row for each")
    return {key: row for row, key in enumerate(keys) if key is not None}, len(lost)


def find_keys(names: Sequence[str], known: Sequence[str]) -> list[str | None]:
    """For each name the key that it means: the key itself, a path that ends in it, or its file's name if unique.

    The suffix may be left out. None where it means nothing, or may mean several.
    """
    whole = {composed_form(key): key for key in known}
    short: dict[str, str | None] = {}
    for form, key in whole.items():
        for written in {
            PurePosixPath(form).name,
            form.removesuffix(PurePosixPath(form).suffix),
            PurePosixPath(form).stem,
        }:
            short[written] = None if written in short else key

    def find(name: str) -> str | None:
        parts = composed_form(name).replace("\\", "/").split("/")
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        if composed_form(name) in whole:
            return whole[composed_form(name)]
        return next((whole[end] for end in ends if end in whole), None) or next(
            (short[end] for end in ends if end in short), None
        )

    return [find(name) for name in names]
