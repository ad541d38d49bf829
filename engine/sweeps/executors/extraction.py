"""Extraction as jobs for executors: each writes a part of the rows of one feature store, with the bytes of one task."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cachegen.common.errors import RunError
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.features.extract import extract
from cachegen.features.same_pictures import require_same_set
from cachegen.features.store import PENDING, FeatureStore
from cachegen.features.writer import Part
from engine.sweeps.executors import Executor
from engine.training.group import Opener


@dataclass(frozen=True)
class ExtractionPart:
    """One part of the feature store `store` of `dataset`, whose images had `image_digest` when it was planned.

    `encoding`: how images are encoded, the arguments of `cachegen.features.extract.extract`.
    """

    dataset: Path
    image_digest: str
    store: Path
    encoding: dict[str, Any]
    part: Part
    threads: int
    folder: Path

    @property
    def out(self) -> Path:
        return jobs_folder(self.store)

    @property
    def name(self) -> str:
        return "part {}/{}".format(*self.part)

    @property
    def work(self) -> float:
        return 0.0  # parts are of one size

    @property
    def device(self) -> str:
        return str(self.encoding["device"])

    def check(self) -> None:
        """Raise `RunError` if the dataset has other images than when it was planned."""
        if load_dataset(self.dataset).image_digest != self.image_digest:
            raise RunError(f"{self.dataset}: its images have changed since this was submitted; start the command again")

    def carry_out(self, _opener: Opener, patience: float, /) -> None:
        """Encode what is pending. Raises `RunError` if another process writes this part, also after `patience`."""
        until = time.monotonic() + patience
        dataset = load_dataset(self.dataset)
        while True:
            try:
                extract(dataset, out=self.store, part=self.part, **self.encoding)
                return
            except RunError:
                if time.monotonic() >= until:
                    raise
            time.sleep(0.5)

    def give_up(self, reason: str | BaseException, /) -> None:
        """Raise it: a store lacks what a part of it lacks."""
        raise reason if isinstance(reason, BaseException) else RunError(f"{self.store}, {self.name}: {reason}")


def jobs_folder(store: Path) -> Path:
    """Where a scheduler's logs of the extraction into `store` are."""
    return store.with_name(f"{store.name}.jobs")


def extract_in_parts(
    dataset: Dataset, store: Path, encoding: dict[str, Any], tasks: int, executor: Executor
) -> dict[str, Any]:
    """Have `executor` encode the store in `tasks` parts; a JSON-ready summary of the store when it returns.

    `encoding`: arguments of `cachegen.features.extract.extract`, encoder and device among them.

    Raises what stopped a part: see `cachegen.features.extract.extract`.
    """
    dataset.require_pictures("there is nothing to encode")
    began, threads, folder = time.perf_counter(), torch.get_num_threads(), Path.cwd()
    there = FeatureStore.found(store)
    finished = there is not None and (there.done != PENDING).all()
    if there is None or not finished or there.attributes["encoder"] != encoding["encoder"]:
        executor(
            [
                ExtractionPart(dataset.root, dataset.image_digest, store, encoding, (i, tasks), threads, folder)
                for i in range(1, tasks + 1)
            ]
        )
    images = len(dataset.images)
    summary = {"store": str(store), "encoder": encoding["encoder"], "images": images, "tasks": tasks}
    summary |= {"pending": images, "digest": None, "unreadable": {}}
    found = FeatureStore.found(store)
    if found is not None:
        pending = int((found.done == PENDING).sum())
        require_same_set(dataset, found)
        summary |= {"pending": pending, "digest": None if pending else found.digest, "unreadable": found.unreadable}
    return summary | {"seconds": round(time.perf_counter() - began, 3)}
