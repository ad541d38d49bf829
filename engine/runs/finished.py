"""The one reader of finished runs: it checks seal and id, and gives access to tables, inputs and projector.

Whatever needs torch or lies outside the run is opened on first use. Nothing is written.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from cachegen.common.errors import CrosstaxError, RunError, StoreError
from cachegen.common.files import expanded
from cachegen.data.dataset import SPLITS, Dataset, load_dataset
from cachegen.features.store import IDENTITY, IMPORTED, STORAGE, FeatureStore
from engine.design.condition import Condition
from engine.runs.config import condition_of, read_config, run_id_of
from engine.runs.directory import NAMES, RunDirectory
from engine.runs.places import NAMES as NAMED
from engine.runs.places import Places, candidates
from engine.runs.tables import LOGITS, NAME_COLUMNS, QUESTION_COLUMNS, QUESTION_DEFAULTS, read_run_table

if TYPE_CHECKING:  # take seconds to import; readers of results do without
    import torch

    from cachegen.encoders import Encoder
    from engine.lm.projector import Projector

Input = TypeVar("Input")
Digests = Mapping[str, str]

WORDS = {"dataset": "dataset", "features": "feature store", "lm": "LM", "encoder": "encoder"}


class MissingInputError(RunError):
    """An input of a run cannot be found."""


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run; made by `open_run`.

    Attributes:
        directory: Its folder.
        id: Its name, which follows from its condition and inputs, whatever the folder is called.
        config: The content of config.json.
        condition: Its settings.
        hashes: Hash of each file, as recorded in DONE.
        given: Where inputs are now, if they have moved.
    """

    directory: RunDirectory
    id: str
    config: dict[str, Any]
    condition: Condition
    hashes: dict[str, str]
    given: Places

    @property
    def items(self) -> bool:
        """Whether its questions are about items with names (`items.csv`), not images."""
        return self.config.get("stimuli") == "items"

    @property
    def imported(self) -> bool:
        """Whether its features were imported, so that no encoder is known."""
        return bool(self.features.get("layer") == IMPORTED)

    @cached_property
    def tested(self) -> Condition:
        """Its settings with the wording of its test questions, which `test_language` may have changed."""
        return self.condition.model_copy(update=self.config.get("test_wording", {}))

    # Its tables

    def questions(self) -> pd.DataFrame:
        """All questions of train, validation and test, one row each, in question order.

        The column `removed` says that a systematic ablation removed the hypernym that is asked about.
        """
        path = self.directory.file("questions.parquet")
        columns = [name for name in QUESTION_COLUMNS if name not in QUESTION_DEFAULTS]
        table = read_run_table(path, columns, QUESTION_DEFAULTS)[QUESTION_COLUMNS]
        if not table["split"].isin(SPLITS).all() or not (table["split"] == "test").any():
            raise RunError(f"{path} has no test questions, or an unknown split; delete the run and repeat it")
        return table

    def require_about(self, dataset: Dataset, questions: pd.DataFrame) -> None:
        """Raise `RunError` unless the images of `dataset` have the keys that this run's `questions` name."""
        keys = dataset.images["key"].reindex(questions["image"])
        if not (keys.to_numpy() == questions["key"].to_numpy()).all():
            named = f"{self.directory.file('questions.parquet')} names other {dataset.noun} than its dataset"
            raise RunError(f"{named}; delete and repeat the run")

    def logits(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Columns logit_yes, logit_no, mass, a row for each of `asked`: its validation and test questions.

        mass: probability of yes and no together among all tokens. Of the task `name` logit_yes is the score of the
        name (see `engine.training.naming`), logit_no is 0, mass the probability of the phrase. Raises RunError where
        other questions are answered.
        """
        path = self.directory.file("predictions.parquet")
        predictions = read_run_table(path, ["question", *LOGITS, "mass"])
        row = pd.Index(predictions["question"])
        same = row.is_unique and len(row) == len(asked)
        row = row.get_indexer(pd.Index(asked["question"])) if same else np.array([-1])
        if (row < 0).any():
            raise RunError(
                f"{path} does not answer each validation and test question exactly once; delete the run and repeat it"
            )
        return predictions[[*LOGITS, "mass"]].take(row).set_index(asked.index)

    def names(self) -> pd.DataFrame:
        """Of a run of the task `name`, all candidates of each validation and test image with their log-probabilities.

        Columns: image, split, kind, category, phrase, answer (true of the label leaf), veridical (of the image's own),
        log_p (of the phrase, after the image), log_p_alone (without an image; NaN where no text comes before).
        """
        if NAMES not in self.hashes:
            raise RunError(f"{self.directory.path} holds no names: its task is {self.condition.task!r}; repeat the run")
        return read_run_table(self.directory.file(NAMES), NAME_COLUMNS)

    def answers(self, split: str) -> pd.DataFrame:
        """The questions of one split, "validation" or "test", with logit_yes, logit_no and mass.

        mass is the probability of yes and no together among all tokens.
        """
        questions = self.questions()
        asked = questions[questions["split"] != "train"]
        return asked.join(self.logits(asked))[asked["split"] == split].reset_index(drop=True)

    def bad_logits(self) -> str | None:
        """What is wrong with logits that are not finite; None where all are."""
        logits = read_run_table(self.directory.file("predictions.parquet"), LOGITS).to_numpy(float)
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        return f"{bad} of {len(logits)} predictions have logits that are not finite" if bad else None

    def losses(self) -> pd.DataFrame:
        """The training log: columns step and loss, both float."""
        path = self.directory.file("metrics.jsonl")
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return pd.DataFrame([(row["step"], row["loss"]) for row in rows], columns=["step", "loss"]).astype(float)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunError(f"{path} is no training log ({error}); delete the run and repeat it") from None

    # Its inputs, wherever they are now

    def named(self, what: str) -> str | None:
        """An input (dataset, features, lm) as the user named it for training."""
        named = self.config.get("paths", {}).get(what)
        return named if isinstance(named, str) and named and "\0" not in named else None

    def find(self, what: str, load: Callable[[str], Input], digests: Callable[[Input], Digests]) -> tuple[str, Input]:
        """The first place where an input has the digests that the run recorded, and what `load` returns for it.

        If the user names a place, only that one is tried. Otherwise the input is looked for where it was, and then in
        the same place relative to the run. Raises `MissingInputError` if it is nowhere, and `RunError` if another input
        is in its place.
        """
        told, named = getattr(self.given, what), self.named(what)
        if told is None:
            places = candidates(self.directory.path, what, named)
        else:
            places = [str(expanded(told)) if str(told).startswith("~") else str(told)]  # "./lm" is no id of a hub
        problem: CrosstaxError | None = None
        for place in places:
            if not Path(place).exists() and told is None and (what not in NAMED or place.startswith("/")):
                continue
            try:
                found = load(place)
            except CrosstaxError as error:
                problem = problem or error
                continue
            recorded = self.config["digests"]
            changed = [name for name, digest in digests(found).items() if recorded.get(name, digest) != digest]
            if not changed:
                return place, found
            problem = problem or self._another(what, place, changed[0])
        if problem is None:
            raise MissingInputError(
                f"{self.directory.path}: its {WORDS[what]} is not where it was ({named or 'place not recorded'}), nor "
                f"in the same place beside the run; say where it is now with --{what}"
            )
        if isinstance(problem, RunError):
            raise problem
        raise type(problem)(
            f"{self.directory.path} needs its {WORDS[what]} as it was in training; restore it, or give an unchanged "
            f"copy with --{what}: {problem}"
        )

    def _another(self, what: str, place: str, digest: str) -> RunError:
        if getattr(self.given, what) is not None:
            return RunError(
                f"--{what} {place} is not the {WORDS[what]} of {self.directory.path}: its {digest} has another digest; "
                "give the one that the run was trained with"
            )
        return RunError(
            f"{self.directory.path}: its {digest} has changed since training ({place}); restore it, give an unchanged "
            f"copy with --{what}, or train again into another folder"
        )

    def dataset(self) -> Dataset:
        """The dataset it was trained on. Raises `MissingInputError` if it is nowhere, `RunError` if it has changed."""
        return self.find("dataset", lambda place: load_dataset(Path(place)), lambda each: {"dataset": each.digest})[1]

    @cached_property
    def store(self) -> FeatureStore:
        """The feature store it was trained on. Raises as `dataset` does."""
        return self.find("features", lambda place: FeatureStore.open(Path(place)), lambda each: {"store": each.digest})[
            1
        ]

    @cached_property
    def lm(self) -> tuple[str, Path]:
        """Name or folder of the LM it was trained with, and the folder with its files."""
        from engine.lm.loading import lm_digests, resolve_lm

        return self.find("lm", resolve_lm, lambda folder: lm_digests(folder, self.condition.lm_init))

    @cached_property
    def features(self) -> dict[str, Any]:
        """The attributes of its feature store, with `patches` (per image) and `width`.

        They are recorded in the run, so the store is not needed.
        """
        found = self.config.get("store", {})
        try:
            sound = all(isinstance(found[name], str) for name in ("encoder", "transform", "compute", "weights_digest"))
            sound = sound and found["dtype"] in STORAGE and all(found[name] > 0 for name in ("patches", "width"))
        except (KeyError, TypeError):
            sound = False
        if not sound:
            raise RunError(f"{self.directory.file('config.json')}: store lacks a fact; delete the run and repeat it")
        return dict(found)

    def encoder(self, device: str) -> "Encoder":
        """The encoder its features came from, computing in the store's precision.

        Raises `StoreError` if what is found is another one.
        """
        from cachegen.encoders import load_encoder

        wanted, told = self.features, self.given.encoder
        if self.imported:
            raise RunError(
                f"{self.directory.path}: its features were imported ({wanted['encoder']}), so there is no encoder; ask "
                "about images or items of its store, by name"
            )
        preprocess: Any = wanted.get("preprocess", "paper")
        compute: Any = "bfloat16" if wanted["compute"].startswith("bfloat16") else "float32"
        places = [told] if told is not None else candidates(self.directory.path, "encoder", wanted["encoder"])
        problem: CrosstaxError | None = None
        for place in places:
            try:
                encoder = load_encoder(place, device, compute, preprocess)
            except CrosstaxError as error:
                problem = problem or type(error)(f"{error} (the encoder of {self.directory.path}: --encoder)")
                continue
            known = {**encoder.attributes, "patches": encoder.n_patches, "width": encoder.width}
            different = [
                key
                for key in (*IDENTITY, "patches", "width")
                if key in known and known[key] != wanted.get(key, known[key])
            ]
            if not different:
                return encoder
            problem = problem or StoreError(
                f"encoder {encoder.name} is not the one that the features of {self.directory.path} were made with: its "
                f"{different[0]} is {known[different[0]]}, there {wanted[different[0]]}; give the right one with "
                "--encoder"
            )
        assert problem is not None
        raise problem

    # Its projector

    @cached_property
    def weights(self) -> "dict[str, torch.Tensor]":
        """Tensors of its projector, on the CPU; `statistics` among them if it standardises features."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            weights = load_file(self.directory.file("projector.safetensors"))
        except (OSError, SafetensorError) as error:
            raise RunError(f"{self.directory.path}: its projector cannot be read ({error}); train it again") from None
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise RunError(f"{self.directory.path}: its projector is not finite; train it again")
        return weights

    def projector(self, lm_width: int, dtype: "torch.dtype", embedding_rms: float) -> "Projector":
        """Its trained projector, on the CPU; the arguments are the LM's."""
        from engine.lm.projector import Projector

        c = self.condition
        projector = Projector(
            (self.features["width"], lm_width),
            dtype,
            self.weights.get("statistics"),
            embedding_rms if c.output_scale == "embedding_rms" else None,
            c.projector_layers,
        )
        try:
            projector.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{self.directory.path}: its projector does not fit ({reason}); train it again") from None
        return projector.requires_grad_(False)


def open_run(folder: Path, given: Places | None = None) -> FinishedRun:
    """Open the folder of a finished run and check its seal.

    Args:
        folder: The run folder; its name does not matter.
        given: Where its inputs are now, if they have moved.

    Raises:
        RunError: The folder is no run, is not finished or has changed since, or its files belong to another run.
    """
    directory = RunDirectory(folder)
    if not directory.begun:
        raise RunError(
            f"{folder} is no run directory: {folder / 'config.json'} does not exist; give the folder of one run"
        )
    if (reason := directory.unfinished) is not None:
        raise RunError(f"{folder} has no results ({reason}); carry out its sweep again")
    hashes = directory.check_seal()
    config = read_config(folder)
    condition = condition_of(config, folder)
    return FinishedRun(directory, run_id_of(config, condition, folder), config, condition, hashes, given or Places())


def features_of(store: FeatureStore) -> dict[str, Any]:
    """What a run records about its feature store: attributes, number of patches per image, and width."""
    _, patches, width = store.patches.shape
    facts = {name: value for name, value in store.attributes.items() if isinstance(value, str | int | float)}
    return facts | {"patches": patches, "width": width}
