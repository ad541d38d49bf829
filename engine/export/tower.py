"""The run's encoder as a vision tower of transformers, whichever library the run read it with."""

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from cachegen.common.errors import ModelError
from cachegen.common.hub import SAFETENSORS
from cachegen.encoders import Encoder
from engine.export.timm_weights import to_transformers


def vision_tower(encoder: Encoder) -> Any:
    """A float32 model of transformers on the CPU; its `hidden_states[-2]` are the encoder's features behind the prefix.

    Positions are those of the encoder's image size. Raises `ModelError` for a fused encoder, and for a timm model that
    transformers has no class for.
    """
    if len(encoder.models) != 1:
        raise ModelError(
            f"encoder {encoder.name} is fused of several, which LLaVA has no form for; export a single one"
        )
    (vision,) = encoder.models
    size = vision.transform.size
    if isinstance(vision.model, transformers.PreTrainedModel):
        fields = vision.model.config.to_dict() | {"image_size": size}
        fields.pop("tie_last_hidden_states", None)  # ours, for reading
        config = type(vision.model.config).from_dict(fields)
        tower = type(vision.model)(config)
        tower.load_state_dict(vision.model.state_dict())
        return tower.eval()
    model_type, fields, weights = to_transformers(vision.model, size)
    return _from_file(transformers.AutoConfig.for_model(model_type, **fields), weights)


def _from_file(config: Any, weights: dict[str, torch.Tensor]) -> Any:
    """The model that transformers makes of these weights when it reads them from a file."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, Path(folder) / SAFETENSORS)
        tower, report = transformers.AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    wrong = sorted([*report["missing_keys"], *report["unexpected_keys"]])
    if wrong:
        raise ModelError(f"this version of transformers reads {config.model_type} otherwise ({wrong[0]}); update it")
    return tower.eval()
