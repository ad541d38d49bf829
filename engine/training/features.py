"""Cached patch features as the trainer reads them: all in memory, or streamed from the store's file.

Both return the same bits; which one is used depends on size only.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cachegen.common.device import device_memory, on_device
from cachegen.common.errors import StoreError
from cachegen.features.pooling import pool_patches, pooled_count
from cachegen.features.store import FeatureStore

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY_SHARE = 0.4
READ_AT_ONCE = 256  # images


class Features:
    """Patch features of a dataset's images, by image number: the place of their key in `keys`.

    `pool`: means over pool x pool patches take the place of the patches.
    They are kept on the device if they take a moderate share of what `reserved` bytes, for the LM, leave there.
    `unreadable`: numbers of the images that extraction had to mark as such; they have no features.
    Raises `StoreError` if an image is not in the store, or its row does not match its checksum: kept features are
    compared while they are read, others when they are first fetched, by the thread that prefetches them.
    """

    def __init__(
        self,
        path: Path,
        keys: Sequence[str],
        device: torch.device,
        *,
        pool: int = 1,
        reserved: int = 0,
        in_memory: bool | None = None,
    ) -> None:
        self.store = FeatureStore.open(path)
        self.device = device
        readable = np.array([key not in self.store.unreadable for key in keys])
        self.unreadable = np.flatnonzero(~readable)
        self._rows = np.full(len(keys), -1)
        self._rows[readable] = self.store.rows([key for key in keys if key not in self.store.unreadable])
        _, patches, self.width = self.store.patches.shape
        self.pool, self.patches = pool, pooled_count(self.store.attributes, patches, pool)
        size = 2 * len(keys) * self.patches * self.width
        self._memory: torch.Tensor | None = None
        if fits(size, device_memory(device), reserved) if in_memory is None else in_memory:
            # In blocks: a second copy in the host's memory, and what pooling takes the place of, may not fit there.
            rows, start = self._rows[readable], 0
            for block in np.array_split(rows, max(1, len(rows) // READ_AT_ONCE)):
                values = self._read(block)
                if self._memory is None:
                    self._memory = torch.empty(len(rows), *values.shape[1:], dtype=values.dtype, device=device)
                self._memory[start : start + len(block)] = values
                start += len(block)
            self._place = np.cumsum(readable) - 1  # of an image among the readable ones

    @property
    def in_memory(self) -> bool:
        return self._memory is not None

    def fetch(self, images: np.ndarray) -> torch.Tensor:
        """(I, P, V) features of these images in the store's 16-bit dtype, on the device."""
        if self._memory is not None:
            return self._memory.index_select(0, on_device(self._place[images], self.device))
        return on_device(self._read(self._rows[images]), self.device)

    def _read(self, rows: np.ndarray) -> torch.Tensor:
        """(I, P, V) of rows of the store, on the CPU: pooled there, so that where they are kept moves no bit."""
        return pool_patches(self.store.patch_tensor(rows), self.store.attributes, self.pool)

    def pooled_patches(self) -> np.ndarray:
        """(N, V) float32 mean patch features of every image of the dataset; zeros where unreadable."""
        self.store.verify_pooled()
        pooled = np.array(self.store.pooled_patches[self._rows])
        pooled[self.unreadable] = 0
        return pooled

    def statistics(self, images: np.ndarray) -> torch.Tensor:
        """(2, V) float32 mean and standard deviation per dimension over all patches of these images.

        Sums are float64. Raises `StoreError` on values that are not finite.
        """
        total, squares = np.zeros(self.width), np.zeros(self.width)
        for block in np.array_split(np.sort(images), max(1, len(images) // 256)):
            values = self.fetch(block).cpu().double().numpy().reshape(-1, self.width)
            total += values.sum(0)
            squares += np.square(values).sum(0)
        count = len(images) * self.patches
        mean = total / count
        sd = np.sqrt(np.maximum(squares / count - mean**2, 0))
        if not np.isfinite(mean).all():
            raise StoreError("the feature store holds values that are not finite; delete it and extract again")
        return torch.from_numpy(np.stack([mean, np.maximum(sd, 1e-6)])).float().to(self.device)


@dataclass(frozen=True)
class InMemory:
    """Features (I, P, V) that are no store's, numbered from 0."""

    values: torch.Tensor

    @property
    def patches(self) -> int:
        return self.values.shape[1]

    def fetch(self, images: np.ndarray) -> torch.Tensor:
        return self.values.index_select(0, on_device(images, self.values.device))


def fits(size: int, memory: int, reserved: int) -> bool:
    """Whether `size` bytes of features may be kept in `memory` bytes, of which `reserved` are the LM's."""
    return size < MEMORY_SHARE * (memory - reserved)


def prefetched(items: Iterable[Item], load: Callable[[Item], Result], depth: int = 2) -> Iterator[Result]:
    """`map(load, items)` computed by one thread, up to `depth` items ahead; its errors are raised here."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            pending.append(pool.submit(load, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
