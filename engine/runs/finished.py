"""A finished run opened again, to ask it something new or to take it elsewhere: its condition, inputs and projector."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cachegen.dataset import Dataset, load_dataset
from cachegen.encoders import Compute, Encoder, load_encoder
from cachegen.errors import RunError, StoreError
from cachegen.store import IDENTITY, FeatureStore
from engine.condition import Condition, Inputs
from engine.language_model import lm_digests, resolve_lm
from engine.projector import Projector
from engine.runs.config import condition_of, inputs_of, read_config
from engine.runs.directory import RunDirectory


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done, whose feature store and LM are the ones it was trained with; made by `open_run`."""

    directory: RunDirectory
    config: dict[str, Any]
    condition: Condition
    inputs: Inputs
    store: FeatureStore
    lm_folder: Path

    @property
    def name(self) -> str:
        return self.directory.path.resolve().name

    def dataset(self) -> Dataset:
        """The dataset it was trained on; raises `RunError` if that has changed."""
        dataset = load_dataset(self.inputs.dataset)
        if dataset.digest != self.config["digests"]["dataset"]:
            raise _changed(self.directory.path, "dataset")
        return dataset

    def answers(self, split: str) -> pd.DataFrame:
        """Its questions of one split with the answers it gave, as in its two tables."""
        questions = pd.read_parquet(self.directory.file("questions.parquet"))
        predictions = pd.read_parquet(self.directory.file("predictions.parquet"))
        return questions[questions["split"] == split].merge(predictions, on="question", validate="one_to_one")

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """Tensors of its projector, on the CPU; `statistics` among them if it standardises features."""
        try:
            weights = load_file(self.directory.file("projector.safetensors"))
        except (OSError, SafetensorError) as error:
            raise RunError(f"{self.directory.path}: its projector cannot be read ({error}); train it again") from None
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise RunError(f"{self.directory.path}: its projector is not finite; train it again")
        return weights

    def projector(self, lm_width: int, dtype: torch.dtype, embedding_rms: float) -> Projector:
        """Its trained projector, on the CPU; the arguments are the LM's."""
        c = self.condition
        projector = Projector(
            (self.store.patches.shape[2], lm_width),
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

    def encoder(self, device: str, name: str | None = None) -> Encoder:
        """The encoder its features came from; `name` says where it is now, if it has moved.

        It computes in the store's precision. Raises `StoreError` if it is another than the store's.
        """
        wanted = self.store.attributes
        compute: Compute = "bfloat16" if wanted["compute"].startswith("bfloat16") else "float32"
        encoder = load_encoder(name or str(wanted["encoder"]), device, compute)
        different = [key for key in IDENTITY if key in encoder.attributes and encoder.attributes[key] != wanted[key]]
        if different:
            raise StoreError(
                f"encoder {encoder.name} is not the one that {self.store.path} was made with: its {different[0]} is "
                f"{encoder.attributes[different[0]]}, there {wanted[different[0]]}; give the right one with --encoder"
            )
        return encoder


def open_run(folder: Path) -> FinishedRun:
    """Open the run directory `folder`.

    Raises `RunError` if it is none, is not done, or its store or LM are no longer those it was trained with.
    """
    directory = RunDirectory(folder)
    if not directory.begun:
        raise RunError(f"{folder} is no run directory: it has no config.json; give the folder of one run of a sweep")
    if not directory.done:
        why = f"failed ({directory.reason})" if directory.failed else "is not finished, or a file of it was changed"
        raise RunError(f"{folder} {why}; carry out its sweep again")
    config = read_config(folder)
    condition, inputs = condition_of(config, folder), inputs_of(config, folder)
    store, lm_folder = FeatureStore.open(inputs.features), resolve_lm(inputs.lm)
    now = {"store": store.digest, **lm_digests(lm_folder, condition.lm_init)}
    for what, digest in now.items():
        if digest != config.get("digests", {}).get(what):
            raise _changed(folder, what)
    return FinishedRun(directory, config, condition, inputs, store, lm_folder)


def _changed(folder: Path, what: str) -> RunError:
    return RunError(f"{folder}: its {what} has changed since training; restore it or train again")
