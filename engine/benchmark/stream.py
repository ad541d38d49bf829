"""Training from features in memory against features streamed from the store's file, with the engine's own prefetch."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cachegen.common.progress import progress_bar
from cachegen.common.random_init import random_init_lm
from cachegen.common.rng import generator
from cachegen.common.system import forget_cached
from cachegen.features.store import IDENTITY
from cachegen.features.writer import open_writer
from engine.benchmark.alternate import alternate, median, ratio, wait_for
from engine.benchmark.lockstep import REDUCED
from engine.benchmark.models import lm_config, step_sizes
from engine.benchmark.work import Engine, Work
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.sweeps.plan import MAX_TOKENS
from engine.training.features import Features, prefetched

IMAGES, BATCH = 64, 8  # of the store, and of a step


def stream(lm_name: str, dtype: torch.dtype, device: torch.device, rounds: int) -> dict[str, Any]:
    """Seconds per image of both ways, and `ratio`: 1 if streaming costs nothing, below 1 if it is slower.

    Before each round the file is dropped from the page cache, so that it is read from the disk. A large LM has
    `layers` of its layers only, which gives the prefetch less time than it has in earnest.
    """
    layers = lm_config(lm_name).num_hidden_layers if lm_name == "tiny" else REDUCED
    lm = FrozenLM.wrap(random_init_lm(lm_config(lm_name, layers), 0).to(dtype), None, device)
    patches, width, suffix = step_sizes(lm_name)
    work = Work.draw((2,) * BATCH, 1, patches, width, suffix, lm.model.config.vocab_size, device, dtype)
    engine = Engine(lm, [new_projector((width, lm.width), dtype, 0, None, None).to(device)], MAX_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        path, keys = Path(folder) / "features.h5", [f"{number:04}.jpg" for number in range(IMAGES)]
        _write(path, keys, patches, width)
        ways = {
            name: _epoch(engine, work, Features(path, keys, device, in_memory=in_memory), path)
            for name, in_memory in (("memory", True), ("streamed", False))
        }
        with progress_bar("bench stream", 2 * (rounds + 1), "epochs") as advance:
            seconds = alternate(ways, rounds, wait=wait_for(device), advance=advance)
    return {
        "layers": layers,
        "memory": median(seconds, "memory") / IMAGES,
        "streamed": median(seconds, "streamed") / IMAGES,
        "ratio": ratio(seconds, "memory", "streamed"),
    }


def _epoch(engine: Engine, work: Work, features: Features, path: Path) -> Callable[[], None]:
    """Steps over all images in a random order, `BATCH` at a time."""

    def run() -> None:
        with path.open("rb") as file:
            forget_cached(file.fileno())
        order = generator(0, "bench", "stream").permutation(IMAGES)
        for images in prefetched(np.array_split(order, IMAGES // BATCH), features.fetch):
            engine.train(replace(work, features=images))

    return run


def _write(path: Path, keys: list[str], patches: int, width: int) -> None:
    """A store of random features."""
    rng = generator(0, "bench", "store")
    attributes = dict.fromkeys(IDENTITY, "bench") | {"encoder": "bench", "dtype": "bfloat16", "image_size": 1}
    bits = rng.integers(0x3C00, 0x4000, (len(keys), patches, width), dtype=np.uint16)  # bfloat16, 0.008 to 2
    pooled = np.zeros((len(keys), width), np.float32)
    with open_writer(path, keys, patches, width, attributes | {"batch": len(keys)}) as writer:
        writer.write(0, [bits, pooled, pooled], {}, np.zeros((len(keys), 32), np.uint8))
