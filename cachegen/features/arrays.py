"""Arrays in files of several kinds, read block by block: .npy, .npz, .h5, .safetensors, .parquet. No pickles.

Each opens as `Rows`: a shape with the rows first, and what gives the rows in order. None but .npz is read whole; of
.parquet it is one row group at a time.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import safe_open

from cachegen.common.errors import StoreError, some
from cachegen.common.files import reason_of, remedy_of

Found = TypeVar("Found")

BFLOAT16 = "bfloat16"  # has no type in numpy: its bits are uint16


@dataclass(frozen=True)
class Rows:
    """An array (N, ...) in a file. `blocks(n)` gives its rows in order, up to n at a time; `dtype` is its type there.

    `keys`: of a table, its one column of text.
    """

    shape: tuple[int, ...]
    dtype: str
    blocks: Callable[[int], Iterator[np.ndarray]]
    keys: list[str] | None = None


def open_rows(path: Path, name: str | None, stack: ExitStack) -> Rows:
    """The array in `path`, that of this `name` where it holds several. `stack` closes the file.

    Raises `StoreError` for what is no such file, or an array that is not of numbers or has less than two dimensions.
    """
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        raise StoreError(f"{path} is of no kind that is read; save the features as {', '.join(OPENERS)}")
    if not path.is_file():
        raise StoreError(f"{path}: no such file; check the path")
    try:
        rows = opener(path, name, stack)
    except StoreError:
        raise
    except OSError as error:
        if error.errno is None:  # h5py's
            raise _unreadable(path, error) from None
        raise StoreError(f"{path} cannot be read: {reason_of(error)}; {remedy_of(error)}") from None
    except Exception as error:  # h5py, pyarrow, numpy and safetensors raise a dozen unrelated types
        raise _unreadable(path, error) from None
    if rows.dtype != BFLOAT16 and np.dtype(rows.dtype).kind not in "fiu":
        raise StoreError(f"{path}: its values are of type {rows.dtype}; save numbers")
    if len(rows.shape) < 2 or 0 in rows.shape:
        raise StoreError(f"{path} has shape {rows.shape}; features are (N, D), (N, P, D) or (N, H, W, D)")
    return rows


def _unreadable(path: Path, error: Exception) -> StoreError:
    reason = " ".join(str(error).split())[:200]
    return StoreError(f"{path} is not readable as {path.suffix} ({reason}); save it again, without pickled objects")


def _one_of(path: Path, arrays: Mapping[str, Found], name: str | None) -> tuple[str, Found]:
    """The array asked for by name, or the only one."""
    if name is None and len(arrays) == 1:
        return next(iter(arrays.items()))
    if name is None or name not in arrays:
        holds = f"holds {some(sorted(arrays), 8)}" if arrays else "holds no array of two or more dimensions"
        raise StoreError(f"{path} {holds}; " + ("give --array NAME" if arrays else "check the file"))
    return name, arrays[name]


def _slices(array: Any) -> Callable[[int], Iterator[np.ndarray]]:
    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(array), size):
            yield np.asarray(array[start : start + size])

    return blocks


def _npy(path: Path, _name: str | None, _stack: ExitStack) -> Rows:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return Rows(array.shape, array.dtype.str, _slices(array))


def _npz(path: Path, name: str | None, stack: ExitStack) -> Rows:
    """An array of the archive, which was written from memory, and is read into it again."""
    if not zipfile.is_zipfile(path):  # numpy would read it as what it is, or as a pickle
        raise ValueError("it is no zip archive")
    archive = stack.enter_context(np.load(path, allow_pickle=False))
    arrays: dict[str, np.ndarray] = {}
    for key in [name] if name is not None and name in archive.files else archive.files:
        with suppress(ValueError):  # of pickled objects, such as names
            arrays[key] = archive[key]
    _, array = _one_of(path, {key: array for key, array in arrays.items() if getattr(array, "ndim", 0) > 1}, name)
    return Rows(array.shape, array.dtype.str, _slices(array))


def _h5(path: Path, name: str | None, stack: ExitStack) -> Rows:
    file = stack.enter_context(h5py.File(path, "r", locking=False))
    found: dict[str, Any] = {}
    file.visititems(lambda key, each: found.update({key: each}) if getattr(each, "ndim", 0) > 1 else None)
    _, array = _one_of(path, found, name)
    return Rows(array.shape, array.dtype.str, _slices(array))


def _safetensors(path: Path, name: str | None, stack: ExitStack) -> Rows:
    file = stack.enter_context(safe_open(path, "pt"))
    tensors = {key: part for key in file.keys() if len((part := file.get_slice(key)).get_shape()) > 1}  # noqa: SIM118
    _, tensor = _one_of(path, tensors, name)
    count, *inner = tensor.get_shape()

    def blocks(size: int) -> Iterator[np.ndarray]:
        for start in range(0, count, size):
            block = tensor[start : start + size]
            yield (block.view(torch.uint16) if block.dtype == torch.bfloat16 else block).numpy()

    try:
        dtype = BFLOAT16 if tensor.get_dtype() == "BF16" else next(blocks(1), np.empty(0)).dtype.str
    except TypeError:  # numpy has no 8-bit floats
        raise StoreError(
            f"{path}: its values are of type {tensor.get_dtype()}; save them as F32, F16 or BF16"
        ) from None
    return Rows((count, *inner), dtype, blocks)


def _parquet(path: Path, name: str | None, stack: ExitStack) -> Rows:
    """A column of lists (of lists), or all columns of numbers side by side in the order of the file."""
    file = stack.enter_context(pq.ParquetFile(path))
    columns = {column.name: column.type for column in file.schema_arrow}
    lists = {key: kind for key, kind in columns.items() if pa.types.is_nested(kind)}
    plain = {key: kind for key, kind in columns.items() if not key.startswith("__index_level_")}  # pandas' index
    numbers = [key for key, kind in plain.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    texts = [key for key, kind in columns.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    chosen = numbers if numbers and not lists and name is None else [_one_of(path, lists, name)[0]]

    def blocks(size: int) -> Iterator[np.ndarray]:
        for batch in file.iter_batches(batch_size=size, columns=chosen):
            if lists:
                yield _stacked(path, batch.column(0))
            else:
                yield np.stack([batch.column(key).to_numpy(zero_copy_only=False) for key in chosen], axis=1)

    first = next(blocks(1), np.empty((0, 0)))
    keys = file.read(columns=texts).column(0).to_pylist() if len(texts) == 1 else None
    return Rows((file.metadata.num_rows, *first.shape[1:]), first.dtype.str, blocks, keys)


def _stacked(path: Path, column: Any) -> np.ndarray:
    """Lists of equal lengths as an array."""
    shape = [len(column)]
    while pa.types.is_nested(column.type):
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) > 1 or None in lengths:
            raise StoreError(
                f"{path}: its lists differ in length ({some([*map(str, lengths)])}); pad or pool them first"
            )
        shape += lengths
        column = column.flatten()
    values: np.ndarray = column.to_numpy(zero_copy_only=False).reshape(shape)
    return values


OPENERS: dict[str, Callable[[Path, str | None, ExitStack], Rows]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".h5": _h5,
    ".hdf5": _h5,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
