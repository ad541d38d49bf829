"""What a study reads off its datasets and features, each thing computed once for all the runs that share it."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from analysis.cells import PROVENANCE, Labels
from analysis.predictions import SavedRuns
from analysis.scores.coherence import LabelMap, LeafSums, leaf_sums, map_coherence, pairs_kept
from analysis.scores.neighbours import Neighbourhoods, find_neighbours, purity
from analysis.scores.yardsticks import VISUAL, Eye, look, measure_yardstick
from cachegen.common.files import digest_bytes
from cachegen.data.dataset import Dataset
from cachegen.features.store import FeatureStore

EYES_KEPT = 8  # margins of all images and leaves of a map; at the size of THINGS 50 MB each


class MapKey(NamedTuple):
    """Runs that agree in all of this share one label map over the same features."""

    dataset_path: str | None
    store_path: str | None
    dataset_digest: str | None
    store_digest: str | None
    labels: Labels
    digest: str


@dataclass
class Visual:
    """Takes in one run after another; what it has computed stands in its lists of tables."""

    sweep: SavedRuns
    coherence: list[pd.DataFrame] = field(default_factory=list)
    purity: list[pd.DataFrame] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    yardsticks: list[pd.DataFrame] = field(default_factory=list)
    depths: dict[str, pd.DataFrame] = field(default_factory=dict)
    _maps: dict[MapKey, str] = field(default_factory=dict)
    _sums: dict[tuple[str, str], LeafSums] = field(default_factory=dict)
    _found: dict[tuple[str, ...], dict[str, Neighbourhoods]] = field(default_factory=dict)
    _eyes: dict[tuple[str, ...], Eye] = field(default_factory=dict)
    _scored: dict[tuple[str, bytes], list[pd.DataFrame]] = field(default_factory=dict)

    def see(self, run_id: str, run: pd.Series, images: LabelMap, asked: pd.DataFrame) -> str:
        """Take in a run, its label map and its test questions with their groups; return the map's name."""
        given = {name: run[name] if isinstance(run[name], str) else None for name in PROVENANCE}
        key = MapKey(**given, labels=run["cell"].labels, digest=images.digest)
        new = key not in self._maps
        name = self._maps.setdefault(key, f"map-{len(self._maps)}")
        about: dict[str, Any] = {"map": name, "cell_labels": key.labels}
        about |= {column: run[column] for column in ("encoder", "arm", "data_seed", "permutation")}
        opened = self.sweep.opened[run_id]
        found_dataset, found_store = self.sweep.inputs.dataset(opened), self.sweep.inputs.store(opened)
        if found_dataset is None:
            return name
        dataset = found_dataset[1]
        if new:
            self.kept.append({**about, **pairs_kept(images, dataset)})
            self.depths[str(key.dataset_path)] = _depths(dataset).assign(dataset_path=key.dataset_path)
        if found_store is None:
            return name
        store = found_store[1]
        if new:
            self.coherence.append(map_coherence(images, dataset, self._leaf_sums(key, images, store)).assign(**about))
            found = self._neighbourhoods(key, images, asked, store)
            self.purity += [purity(found[space], images, dataset).assign(space=space, **about) for space in found]
        columns = asked[["key", "category", "seen", "answer"]]
        same = name, pd.util.hash_pandas_object(columns, index=False).to_numpy().tobytes()
        if same not in self._scored:  # once for all runs with the same map and questions
            eye = self._eye(key, images, asked, dataset, store)
            scored = {yardstick: measure_yardstick(asked, eye.margins(yardstick, asked)) for yardstick in VISUAL}
            self._scored[same] = [table.assign(yardstick=yardstick) for yardstick, table in scored.items()]
        self.yardsticks += [table.assign(run_id=run_id) for table in self._scored[same]]
        return name

    def _eye(self, key: MapKey, images: LabelMap, asked: pd.DataFrame, dataset: Dataset, store: FeatureStore) -> Eye:
        """Margins depend on labels and images only: runs with the same map but other ablations share them."""
        asked_keys = sorted(asked["key"].unique())
        same = (str(key.dataset_path), str(key.store_path), images.digest, _digest(asked_keys))
        if same not in self._eyes:
            if len(self._eyes) == EYES_KEPT:
                del self._eyes[next(iter(self._eyes))]
            self._eyes[same] = look(self._neighbourhoods(key, images, asked, store), images, dataset)
        return self._eyes[same]

    def _leaf_sums(self, key: MapKey, images: LabelMap, store: FeatureStore) -> LeafSums:
        """What all maps of the same training images have in common."""
        same = (str(key.store_path), _digest(images.images["key"].tolist()))
        if same not in self._sums:
            self._sums[same] = leaf_sums(images, store)
        return self._sums[same]

    def _neighbourhoods(
        self, key: MapKey, images: LabelMap, asked: pd.DataFrame, store: FeatureStore
    ) -> dict[str, Neighbourhoods]:
        """Neighbours do not depend on the labels: they are found once for the same images of one store."""
        shown = asked[["key", "image_leaf"]].drop_duplicates().sort_values("key", kind="stable")
        train_keys, asked_keys = images.images["key"].tolist(), shown["key"].tolist()
        same = (str(key.store_path), _digest(train_keys), _digest(asked_keys))
        if same not in self._found:
            train_leaves, asked_leaves = (table["image_leaf"].to_numpy(str) for table in (images.images, shown))
            self._found[same] = find_neighbours(store, train_keys, train_leaves, asked_keys, asked_leaves)
        return self._found[same]


def _digest(keys: list[str]) -> str:
    return digest_bytes("\0".join(keys).encode())


def _depths(dataset: Dataset) -> pd.DataFrame:
    """Columns category, depth: the hypernyms whose depth the taxonomy gives."""
    known = dataset.hypernyms["depth"].dropna().astype(int)
    return known.rename_axis("category").reset_index()
