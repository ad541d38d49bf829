"""The datasets and feature stores behind saved runs: opened once, refused when changed, a note when gone."""

from functools import lru_cache
from pathlib import Path

from cachegen.dataset import Dataset, load_dataset
from cachegen.errors import RunError
from cachegen.store import FeatureStore

NEEDS = {  # what is not computed without it
    "dataset": "visual coherence, the visual yardsticks and depths",
    "feature store": "visual coherence and the visual yardsticks",
}


def open_dataset(path: str, digest: str | None) -> Dataset:
    """The dataset a run was made with. Raises RunError when it changed since."""
    dataset = load_dataset(Path(path))
    _unchanged("dataset", path, dataset.digest, digest)
    return dataset


def open_store(path: str, digest: str | None) -> FeatureStore:
    """The feature store a run was made with, its pooled vectors verified. Raises RunError when it changed since."""
    store = FeatureStore.open(Path(path))
    _unchanged("feature store", path, store.digest, digest)
    store.verify_pooled()
    return store


class Inputs:
    """Opens each dataset and store once; `notes` says what is gone and what it would have been needed for."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}
        self._datasets = lru_cache(open_dataset)
        self._stores = lru_cache(open_store)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def dataset(self, path: str | None, digest: str | None) -> Dataset | None:
        """The dataset of a run, or None with a note where it is gone."""
        return self._datasets(str(path), digest) if self._present("dataset", path) else None

    def store(self, path: str | None, digest: str | None) -> FeatureStore | None:
        """The feature store of a run, or None with a note where it is gone."""
        return self._stores(str(path), digest) if self._present("feature store", path) else None

    def _present(self, what: str, path: str | None) -> bool:
        if path is not None and Path(path).exists():
            return True
        self._notes[f"{NEEDS[what]} are missing where the {what} ({path or 'path not recorded'}) cannot be found"] = (
            None
        )
        return False


def _unchanged(what: str, path: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise RunError(f"{what} {path} changed since the runs were made; restore it, or repeat the runs")
