"""Extraction: decode with threads, encode in blocks of fixed membership, write rows that survive a kill.

The three go on side by side: threads decode up to `BLOCKS_AHEAD` blocks before the encoder, one thread writes up to
`BLOCKS_BEHIND` blocks after it, and on CUDA the device has its next block before it is done with this one.

A block is always rows [i * batch, (i + 1) * batch) of the store, with `batch` as recorded when it was made and an
unreadable image left in its place as zeros. So a resumed run computes the very same batches, and the same bytes; and so
do several processes that share the work, each with a part of the blocks, on the same kind of device with the same
number of threads.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from cachegen.common.errors import StoreError
from cachegen.common.progress import progress_bar
from cachegen.common.system import cores
from cachegen.data.dataset import Dataset
from cachegen.data.images import DECODING, Decoding, decode, unreadable_reason
from cachegen.encoders import Compute, Encoder, Preprocess, load_encoder
from cachegen.encoders.preprocess import AnyTransform
from cachegen.features.same_pictures import note_pictures, read_picture, require_same_set
from cachegen.features.store import PENDING, FeatureStore
from cachegen.features.writer import Part, StoreWriter, open_writer

BLOCKS_AHEAD = 2  # decoded while the encoder works; with the next, bounds memory
BLOCKS_BEHIND = 2  # encoded and not yet durable
LIBRARIES = ("torch", "timm", "transformers", "pillow", "numpy", "h5py")


class DecodedFile(NamedTuple):
    """What decoding finds out of a file: why it cannot be read, whether EXIF asks for a turn, its hash and looks."""

    reason: str | None
    turned: bool
    sha256: bytes
    look: list[int]


@dataclass(frozen=True)
class PixelBlock:
    """Rows start, start + 1, ...: pixels (B, 3, S, S) float32, and position -> why an image is unreadable.

    turned: how many of them EXIF asks to be turned. sha256 (B, 32) uint8 and looks (B, 3) int64 are of the images'
    files (see `cachegen.features.same_pictures`).
    """

    start: int
    pixels: torch.Tensor
    reasons: dict[int, str]
    turned: int
    sha256: np.ndarray
    looks: np.ndarray


def extract(
    dataset: Dataset,
    encoder: str | Encoder,
    out: Path,
    *,
    batch: int = 64,
    workers: int | None = None,
    on_unreadable: Literal["mark", "stop"] = "stop",
    device: str = "auto",
    compute: Compute | Literal["auto"] = "auto",
    preprocess: Preprocess = "paper",
    dtype: Literal["bfloat16", "float16"] = "bfloat16",
    decoding: Decoding | None = None,
    part: Part | None = None,
) -> dict[str, Any]:
    """Encode every image of a dataset into a feature store, or finish a store that was interrupted.

    The features are those of the paper's section 3.2: patch tokens of the penultimate block, without the final norm.

    Args:
        dataset: Dataset whose images are encoded.
        encoder: Name of an encoder (see `cachegen.encoders.load_encoder`), or a loaded one.
        out: HDF5 file to write or finish.
        batch: Images in one batch of the encoder. A store that is resumed keeps the batch it was made with.
        workers: Threads that decode images; default: one per CPU core.
        on_unreadable: "stop" at an unreadable image, or "mark" it in the store and go on without its features.
        device: "auto", "cpu", "cuda", ...; for an encoder given by name.
        compute: Precision of the encoder's matrix products; "auto" is bfloat16 on CUDA, else float32.
        preprocess: "paper" resizes images straight to a square, "own" follows the encoder's own files; for an encoder
            given by name.
        dtype: Type in which patch features are stored.
        decoding: Background and orientation of images; default: those of the store, if there is one.
        part: (i, n) encodes only the i-th of n ranges of rows. Other processes may encode the others meanwhile.

    Returns:
        A summary for JSON. Its `digest` is None while other parts are missing.

    Raises:
        ModelError: The encoder cannot be loaded.
        StoreError: An image cannot be read, or the store is damaged or was made with something else.
        RunError: Another process writes some of these rows.
    """
    started = time.perf_counter()
    dataset.require_pictures("there is nothing to encode")
    model = load_encoder(encoder, device, compute, preprocess) if isinstance(encoder, str) else encoder
    keys = list(dataset.images["key"])
    attributes = model.attributes | {
        "dtype": dtype,
        "image_digest": dataset.image_digest,
        "decoding": str(decoding or DECODING),
        "batch": batch,
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }
    out = Path(out)
    found = FeatureStore.found(out)
    if found is not None and found.done.any():
        require_same_set(dataset, found)
        decoded_as = Decoding.of(found.attributes)
        if decoding not in (None, decoded_as):
            raise StoreError(
                f"{out} was decoded otherwise ({decoded_as}; now {decoding}); choose another --out or delete it"
            )
        if "decoding" in found.attributes:
            attributes["decoding"] = str(decoded_as)
    with open_writer(out, keys, model.n_patches, model.width, attributes, part) as writer:
        before, rows = writer.store, writer.rows
        decoded_as = Decoding.of(before.attributes)
        shape = (model.n_patches, model.width)
        if before.patches.shape[1:] != shape:  # of CaiT and XCiT older versions left out a patch
            raise StoreError(
                f"{out} has {before.patches.shape[1]} patches x {before.patches.shape[2]} per image, "
                f"{model.name} gives {shape[0]} x {shape[1]}; choose another --out, or delete it"
            )
        size = before.attributes["batch"]
        cut = [rows[start : start + size] for start in range(0, len(rows), size)]
        slices = [block for block in cut if (before.done[block.start : block.stop] == PENDING).any()]
        encoded = sum(map(len, slices))
        blocks = _decoded(
            slices,
            [dataset.image_path(key) for key in keys],
            model.transform,
            workers or cores(),
            model.device.type == "cuda",
            decoded_as,
        )
        turned = _encode(model, blocks, encoded, dtype, dataset, writer, on_unreadable)
    store = FeatureStore.open(out, allow_pending=part is not None)
    pending = int((store.done == PENDING).sum())
    seconds = time.perf_counter() - started
    return {
        "store": str(out),
        "encoder": model.name,
        "images": len(keys),
        "part": "{}/{}".format(*part) if part else None,
        "rows": [rows.start, rows.stop],
        "encoded": encoded,
        "pending": pending,
        "unreadable": store.unreadable,
        "decoding": str(decoded_as),
        "turned": turned,
        "left_out": model.left_out,
        "shape": list(store.patches.shape),
        "dtype": dtype,
        "compute": store.attributes["compute"],
        "batch": size,
        "bytes": store.path.stat().st_size,
        "digest": None if pending else store.digest,
        "seconds": round(seconds, 3),
    }


def _encode(
    model: Encoder,
    blocks: Generator[PixelBlock],
    count: int,
    dtype: str,
    dataset: Dataset,
    writer: StoreWriter,
    on_unreadable: Literal["mark", "stop"],
) -> int:
    """Encode blocks of `count` images into the store; returns how many images are stored turned, as EXIF says."""
    turned, keys = 0, list(dataset.images["key"])
    with progress_bar("encoding", count, "images") as advance:

        def write(block: PixelBlock, fetch: Callable[[], list[np.ndarray]]) -> None:
            *features, finite = fetch()
            if not finite.all():
                key = keys[block.start + int(finite.argmin())]
                raise StoreError(
                    f"{key}: encoder {model.name} gives NaN or infinite {dtype} features; check its weights"
                )
            writer.write(block.start, features, block.reasons, block.sha256)
            note_pictures(writer.store, np.arange(block.start, block.start + len(finite)), block.sha256, block.looks)
            advance(len(finite))

        with contextlib.closing(blocks), _one_thread(write) as write_behind:
            for block in blocks:
                turned += block.turned
                if block.reasons and on_unreadable == "stop":
                    position, reason = min(block.reasons.items())
                    path = dataset.image_path(keys[block.start + position])
                    raise StoreError(
                        f"{path}: unreadable ({reason}); replace it, or go on without it "
                        "with --on-unreadable mark (finished rows are kept)"
                    )
                write_behind(block, _encoded(model, block.pixels, dtype))
    return turned


def _decoded(
    slices: Sequence[range],
    paths: Sequence[Path],
    transform: AnyTransform,
    workers: int,
    pinned: bool,
    decoding: Decoding = DECODING,
) -> Generator[PixelBlock]:
    """Blocks in order, decoded by threads (Pillow frees the GIL) up to `BLOCKS_AHEAD` ahead of the consumer.

    `pinned`: in memory that CUDA copies from without holding up the host.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[int, torch.Tensor, list[Future[DecodedFile]]]] = deque()
    try:
        for rows in slices:
            pixels = torch.zeros(len(rows), 3, transform.size, transform.size, pin_memory=pinned)
            places = zip(rows, pixels.numpy(), strict=True)
            futures = [pool.submit(_decode, paths[row], transform, decoding, place) for row, place in places]
            waiting.append((rows.start, pixels, futures))
            if len(waiting) > BLOCKS_AHEAD:
                yield _gather(*waiting.popleft())
        while waiting:
            yield _gather(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(path: Path, transform: AnyTransform, decoding: Decoding, place: np.ndarray) -> DecodedFile:
    """Fill `place` (3, S, S) with one image's pixels, or leave it and say why the image cannot be read.

    Raises `StoreError` where the file system does not give its bytes.
    """
    content, digest, look = read_picture(path)
    try:
        decoded = decode(content, decoding)
        place[:] = transform(decoded.image)
    except MemoryError as error:
        raise StoreError(f"image {path}: not enough memory to decode it; make room and run it again") from error
    except Exception as error:  # Pillow raises a dozen unrelated types on damaged files
        return DecodedFile(unreadable_reason(path, error), False, digest, look)
    return DecodedFile(None, decoded.turned, digest, look)


def _gather(start: int, pixels: torch.Tensor, futures: Sequence[Future[DecodedFile]]) -> PixelBlock:
    reasons, turned, digests, looks = zip(*(future.result() for future in futures), strict=True)
    unreadable = {position: reason for position, reason in enumerate(reasons) if reason is not None}
    sha256 = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return PixelBlock(start, pixels, unreadable, sum(turned), sha256, np.array(looks))


def _encoded(encoder: Encoder, pixels: torch.Tensor, dtype: str) -> Callable[[], list[np.ndarray]]:
    """Give the encoder a block; returns what waits for the store's arrays, in the order of `FEATURES`.

    Behind them is one that says which images have neither NaN nor infinity (B,), also after rounding. On CUDA they are
    copied beside whatever the encoder has been given since.
    """
    features = encoder(pixels)
    patches = features.patches.to(getattr(torch, dtype))
    parts = [patches, features.pooled_patches, features.pooled_all_tokens]
    finite = torch.stack([part.isfinite().flatten(1).all(1) for part in parts]).all(0)
    arrays = [patches.view(torch.uint16) if dtype == "bfloat16" else patches, *parts[1:], finite]
    if encoder.device.type != "cuda":
        return lambda: [array.numpy() for array in arrays]
    computed = torch.cuda.Event(blocking=True)  # does not keep a core busy that decodes
    computed.record(torch.cuda.current_stream(encoder.device))

    def copies() -> list[np.ndarray]:
        computed.synchronize()
        with torch.cuda.stream(torch.cuda.Stream(encoder.device)):
            return [array.cpu().numpy() for array in arrays]

    return copies


@contextlib.contextmanager
def _one_thread(work: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Yield what has one thread call `work`, in order, up to `BLOCKS_BEHIND` calls behind; all are done at the end.

    The first failure is raised by the next call or at the end, and nothing is worked on behind it. Whatever else ends
    the `with` block, Ctrl-C too, the calls made before it are done first.
    """
    calls: deque[Future[None]] = deque()

    def follow(before: Future[None] | None, *arguments: Any) -> None:
        if before is not None:
            before.result()
        work(*arguments)

    def call(*arguments: Any) -> None:
        calls.append(thread.submit(follow, calls[-1] if calls else None, *arguments))
        while calls and (len(calls) > BLOCKS_BEHIND or calls[0].done()):
            calls.popleft().result()

    with ThreadPoolExecutor(1) as thread:
        try:
            yield call
        finally:
            while calls:
                calls.popleft().result()
