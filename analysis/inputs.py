"""The datasets and feature stores behind saved runs: opened once, refused when changed, said loudly when gone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from cachegen.common.errors import RunError
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.data.images import read_image
from cachegen.features.same_pictures import read_picture
from cachegen.features.store import FeatureStore
from engine.runs.finished import FinishedRun, MissingInputError

Input = TypeVar("Input", Dataset, FeatureStore)

NEEDS = {  # what is not computed without it
    "dataset": "visual coherence, the visual yardsticks and depths",
    "features": "visual coherence and the visual yardsticks",
}


def open_dataset(place: str) -> Dataset:
    """A dataset that a run may have been made with."""
    return load_dataset(Path(place))


def open_store(place: str) -> FeatureStore:
    """A feature store that a run may have been made with."""
    return FeatureStore.open(Path(place))


class _Opened(Generic[Input]):
    """Inputs of one kind by their digests, each with its place; `given`: where the user says that some are."""

    def __init__(self, what: str, digest: str, load: Callable[[str], Input], given: Sequence[Path]) -> None:
        self._what, self._digest = what, digest
        self._load: Callable[[str], Input] = load
        self._found: dict[str, tuple[str, Input]] = {}
        for place in given:
            opened = load(str(place))
            self._found[opened.digest] = str(place), opened
        self.given = {digest: place for digest, (place, _) in self._found.items()}

    def find(self, run: FinishedRun) -> tuple[str, Input]:
        digest = run.config["digests"][self._digest]
        if digest not in self._found:
            self._found[digest] = run.find(self._what, self._load, lambda opened: {self._digest: opened.digest})
        return self._found[digest]


class FoundInputs:
    """Opens each dataset and store once; `left_out` says what is gone and what it would have been needed for.

    `datasets`, `stores`: where the user says that some are now; each is taken for the runs with its digest.
    """

    def __init__(self, datasets: Sequence[Path] = (), stores: Sequence[Path] = ()) -> None:
        # The functions are looked up when they are called.
        self._datasets = _Opened("dataset", "dataset", lambda place: open_dataset(place), datasets)
        self._stores = _Opened("features", "store", lambda place: open_store(place), stores)
        self._sound: set[str] = set()  # places of stores whose pooled vectors match their checksums
        self._left_out: dict[str, None] = {}

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(self._left_out)

    def dataset(self, run: FinishedRun) -> tuple[str, Dataset] | None:
        """Place and content of a run's dataset; None where it is gone. Raises `RunError` where it has changed."""
        return self._find(self._datasets, "dataset", run)

    def store(self, run: FinishedRun) -> tuple[str, FeatureStore] | None:
        """Place and content of a run's feature store; None where it is gone. Raises `RunError` where it has changed.

        Its pooled vectors are verified; raises `StoreError` for damaged ones.
        """
        found: tuple[str, FeatureStore] | None = self._find(self._stores, "features", run)
        if found is not None and found[0] not in self._sound:
            found[1].verify_pooled()
            self._sound.add(found[0])
        return found

    def require_used(self, runs: Sequence[FinishedRun]) -> None:
        """Raise `RunError` for a place that the user gave and no run was made with."""
        for opened, name, option in ((self._datasets, "dataset", "--dataset"), (self._stores, "store", "--features")):
            used = {run.config["digests"][name] for run in runs}
            for digest, place in opened.given.items():
                if digest not in used:
                    raise RunError(f"{option} {place}: no run was made with it, their digests differ; leave it out")

    def _find(self, opened: "_Opened[Any]", what: str, run: FinishedRun) -> Any:
        try:
            return opened.find(run)
        except MissingInputError:
            noun = "feature store" if what == "features" else what
            place = run.named(what) or "place not recorded"
            self._left_out[
                f"{NEEDS[what]} are left out: the {noun} ({place}) cannot be found; say where it is now with --{what}"
            ] = None
            return None


def picture_file(inputs: FoundInputs, run: FinishedRun, key: str) -> Path | None:
    """The picture that a run was asked about; None where it is gone, damaged, or another one by now."""
    dataset, store = inputs.dataset(run), inputs.store(run)
    if dataset is None or run.items:
        return None
    path = Path(dataset[0]) / "images" / key
    known = None
    if store is not None and store[1].sha256 is not None and not store[1].by_name:
        known = store[1].sha256[store[1].row_of[key]].tobytes()
    try:
        same = known in (None, read_picture(path)[1])
        return path if same and read_image(path) else None
    except Exception:  # gone, or damaged since its features were extracted: Pillow raises unrelated types
        return None
