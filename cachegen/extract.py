"""Extraction: decode with threads, encode in blocks of fixed membership, write rows that survive a kill.

A block is always rows [i * batch, (i + 1) * batch) of the store, with `batch` as recorded when it was made and an
unreadable image left in its place as zeros. So a resumed run computes the very same batches, and the same bytes.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cachegen.dataset import Dataset
from cachegen.encoders import Encoded, load_encoder
from cachegen.errors import StoreError
from cachegen.images import Transform, read_image, unreadable_reason
from cachegen.progress import progress_bar
from cachegen.store import PENDING, FeatureStore
from cachegen.store_writer import open_writer

BLOCKS_AHEAD = 2  # decoded while the encoder works; bounds memory
LIBRARIES = ("torch", "timm", "transformers", "pillow", "numpy", "h5py")


@dataclass(frozen=True)
class Block:
    """Rows start, start + 1, ...: pixels (B, 3, S, S) float32, and position -> why an image is unreadable."""

    start: int
    pixels: np.ndarray
    reasons: dict[int, str]


def extract(
    dataset: Dataset,
    encoder_name: str,
    out: Path,
    *,
    batch: int = 64,
    workers: int | None = None,
    on_unreadable: Literal["mark", "stop"] = "stop",
    device: str = "auto",
    dtype: Literal["bfloat16", "float16"] = "bfloat16",
) -> dict[str, Any]:
    """Encode every image of `dataset` into the feature store `out`, resuming whatever is there.

    An unreadable image stops the run, or with "mark" is recorded with its reason and has no features.
    Returns a JSON-ready summary. Raises `ModelError` for the encoder, `StoreError` for images and the store.
    """
    started = time.perf_counter()
    encoder = load_encoder(encoder_name, device)
    keys = list(dataset.images["key"])
    attributes = encoder.attributes | {
        "dtype": dtype,
        "image_digest": dataset.image_digest,
        "batch": batch,
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }
    with open_writer(Path(out), keys, encoder.n_patches, encoder.width, attributes) as writer:
        before = writer.store
        size = before.attributes["batch"]
        starts = [start for start in range(0, len(keys), size) if (before.done[start : start + size] == PENDING).any()]
        slices = [range(start, min(start + size, len(keys))) for start in starts]
        paths = [dataset.image_path(key) for key in keys]
        encoded = sum(map(len, slices))
        with progress_bar("encoding", encoded, "images") as advance:
            for block in _decoded(slices, paths, encoder.transform, workers or len(os.sched_getaffinity(0))):
                if block.reasons and on_unreadable == "stop":
                    position, reason = min(block.reasons.items())
                    raise StoreError(
                        f"{paths[block.start + position]}: unreadable ({reason}); replace it, or go on without it "
                        "with --on-unreadable mark (finished rows are kept)"
                    )
                features = encoder(torch.from_numpy(block.pixels))
                rows = keys[block.start : block.start + len(block.pixels)]
                writer.write(block.start, _stored(features, dtype, rows, encoder_name), block.reasons)
                advance(len(rows))
    store = FeatureStore.open(out)
    seconds = time.perf_counter() - started
    return {
        "store": str(out),
        "encoder": encoder_name,
        "images": len(keys),
        "encoded": encoded,
        "unreadable": store.unreadable,
        "shape": list(store.patches.shape),
        "dtype": dtype,
        "batch": size,
        "bytes": store.path.stat().st_size,
        "digest": store.digest,
        "seconds": round(seconds, 3),
    }


def _decoded(slices: Sequence[range], paths: Sequence[Path], transform: Transform, workers: int) -> Iterator[Block]:
    """Blocks in order, decoded by threads (Pillow frees the GIL) up to `BLOCKS_AHEAD` ahead of the consumer."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[int, list[Future[np.ndarray | str]]]] = deque()
    try:
        for rows in slices:
            waiting.append((rows.start, [pool.submit(_decode, paths[row], transform) for row in rows]))
            if len(waiting) > BLOCKS_AHEAD:
                yield _gather(*waiting.popleft(), transform.size)
        while waiting:
            yield _gather(*waiting.popleft(), transform.size)
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(path: Path, transform: Transform) -> np.ndarray | str:
    """Pixels of one image, or why it cannot be read."""
    try:
        return transform(read_image(path))
    except Exception as error:  # Pillow raises a dozen unrelated types on damaged files
        return unreadable_reason(path, error)


def _gather(start: int, futures: Sequence[Future[np.ndarray | str]], size: int) -> Block:
    pixels = np.zeros((len(futures), 3, size, size), np.float32)
    reasons: dict[int, str] = {}
    for position, future in enumerate(futures):
        result = future.result()
        if isinstance(result, str):
            reasons[position] = result
        else:
            pixels[position] = result
    return Block(start, pixels, reasons)


def _stored(features: Encoded, dtype: str, keys: Sequence[str], encoder_name: str) -> list[np.ndarray]:
    """Features as the store's arrays, in the order of `FEATURES`; refuses NaN and infinity, also after rounding."""
    parts = [features.patches.to(getattr(torch, dtype)), features.pooled_patches, features.pooled_all_tokens]
    finite = torch.stack([part.isfinite().flatten(1).all(1) for part in parts]).all(0).cpu()
    if not finite.all():
        key = keys[int((~finite).nonzero()[0])]
        raise StoreError(f"{key}: encoder {encoder_name} gives NaN or infinite {dtype} features; check its weights")
    patches, *pooled = (part.cpu() for part in parts)
    bits = patches.view(torch.uint16) if dtype == "bfloat16" else patches
    return [bits.numpy(), *(part.numpy() for part in pooled)]
