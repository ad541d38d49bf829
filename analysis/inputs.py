"""The datasets and feature stores behind saved runs: opened once, refused when changed, said loudly when gone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cachegen.common.errors import RunError
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.data.images import read_image
from cachegen.features.same_pictures import read_picture
from cachegen.features.store import FeatureStore
from engine.runs.finished import FinishedRun, MissingInputError

DIGESTS = {"dataset": "dataset", "features": "store"}  # kind -> its name among a run's digests
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


class FoundInputs:
    """Opens each dataset and store once; `left_out` says what is gone and what it would have been needed for.

    `datasets`, `stores`: where the user says that some are now; each is taken for the runs with its digest.
    """

    def __init__(self, datasets: Sequence[Path] = (), stores: Sequence[Path] = ()) -> None:
        # The functions are looked up when they are called.
        self._open: dict[str, Callable[[str], Any]] = {
            "dataset": lambda place: open_dataset(place),
            "features": lambda place: open_store(place),
        }
        self._found: dict[tuple[str, str], tuple[str, Any]] = {}  # kind and digest -> place and content
        for kind, places in (("dataset", datasets), ("features", stores)):
            for place in places:
                opened = self._open[kind](str(place))
                self._found[kind, opened.digest] = str(place), opened
        self._given = {key: place for key, (place, _) in self._found.items()}
        self._sound: set[str] = set()  # places of stores whose pooled vectors match their checksums
        self._left_out: dict[str, None] = {}

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(self._left_out)

    def dataset(self, run: FinishedRun) -> tuple[str, Dataset] | None:
        """Place and content of a run's dataset; None where it is gone. Raises `RunError` where it has changed."""
        return self._find("dataset", run)

    def store(self, run: FinishedRun) -> tuple[str, FeatureStore] | None:
        """Place and content of a run's feature store; None where it is gone. Raises `RunError` where it has changed.

        Its pooled vectors are verified; raises `StoreError` for damaged ones.
        """
        found: tuple[str, FeatureStore] | None = self._find("features", run)
        if found is not None and found[0] not in self._sound:
            found[1].verify_pooled()
            self._sound.add(found[0])
        return found

    def require_used(self, runs: Sequence[FinishedRun]) -> None:
        """Raise `RunError` for a place that the user gave and no run was made with."""
        used = {(kind, run.config["digests"][name]) for run in runs for kind, name in DIGESTS.items()}
        for (kind, digest), place in self._given.items():
            if (kind, digest) not in used:
                raise RunError(f"--{kind} {place}: no run was made with it, their digests differ; leave it out")

    def _find(self, kind: str, run: FinishedRun) -> Any:
        name = DIGESTS[kind]
        key = kind, run.config["digests"][name]
        try:
            if key not in self._found:
                self._found[key] = run.find(kind, self._open[kind], lambda opened: {name: opened.digest})
            return self._found[key]
        except MissingInputError:
            noun = "feature store" if kind == "features" else kind
            place = run.named(kind) or "place not recorded"
            self._left_out[
                f"{NEEDS[kind]} are left out: the {noun} ({place}) cannot be found; say where it is now with --{kind}"
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
