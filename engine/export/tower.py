"""The run's encoder as a vision tower of transformers, whichever library the run read it with.

A vision transformer of timm (DINOv2, SigLIP) gets the names that transformers gives its weights in files.

timm keeps query, key and value in one matrix; with registers it has positions for patches only and adds the CLS
token's own position to the token. Names in files are used because those in memory differ between versions of
transformers.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from cachegen.common.errors import ModelError
from cachegen.common.hub import SAFETENSORS
from cachegen.encoders import Encoder

State = dict[str, torch.Tensor]
BLOCK = {
    "dinov2": {
        "attn.proj": "attention.output.dense", "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
    "siglip": {
        "attn.proj": "self_attn.out_proj", "norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
}  # fmt: skip
QUERY_KEY_VALUE = {
    "dinov2": [f"attention.attention.{part}" for part in ("query", "key", "value")],
    "siglip": [f"self_attn.{part}_proj" for part in "qkv"],
}
NOT_NEEDED = ("attn_pool.", "fc_norm.", "head.")  # behind the last block


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


def to_transformers(model: Any, size: int) -> tuple[str, dict[str, Any], State]:
    """(model_type, fields of its configuration, weights) of a timm model that reads images of `size` px.

    Raises `ModelError` for a model that is neither DINOv2 nor SigLIP as transformers knows them.
    """
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(NOT_NEEDED)}
    config = {
        "image_size": size,
        "patch_size": model.patch_embed.patch_size[0],
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.blocks[0].attn.num_heads,
        "layer_norm_eps": model.blocks[0].norm1.eps,
        "hidden_act": _activation(model),
    }
    if "cls_token" in state and "blocks.0.ls1.gamma" in state:
        found = _dinov2(state, config)
    elif "cls_token" not in state and "reg_token" not in state:
        found = _siglip(state, config)
    else:
        raise _unknown("it is neither DINOv2 nor SigLIP")
    if state:
        raise _unknown(f"transformers has no place for {sorted(state)[0]}")
    return found


def _dinov2(state: State, config: dict[str, Any]) -> tuple[str, dict[str, Any], State]:
    """Takes all it needs out of `state`."""
    cls, positions = state.pop("cls_token"), state.pop("pos_embed")
    width = config["hidden_size"]
    config["mlp_ratio"], rest = divmod(_mlp_width(state), width)
    if rest:
        raise _unknown("the width of its MLP is no multiple of its own")
    weights = {"embeddings.mask_token": torch.zeros(1, width)}
    model_type = "dinov2"
    if "reg_token" in state:
        model_type = "dinov2_with_registers"
        weights["embeddings.register_tokens"] = state.pop("reg_token")
        config["num_register_tokens"] = weights["embeddings.register_tokens"].shape[1]
    patches = (config["image_size"] // config["patch_size"]) ** 2
    if positions.shape[1] == patches:  # the CLS token's position is in the token
        positions = torch.cat([torch.zeros_like(cls), positions], dim=1)
    weights |= {"embeddings.cls_token": cls, "embeddings.position_embeddings": positions}
    weights |= _shared(state, "dinov2", "embeddings.patch_embeddings.projection", "layernorm", "encoder.layer")
    for number in range(config["num_hidden_layers"]):
        for scale in "12":
            name = f"encoder.layer.{number}.layer_scale{scale}.lambda1"
            weights[name] = state.pop(f"blocks.{number}.ls{scale}.gamma")
    return model_type, config, weights


def _siglip(state: State, config: dict[str, Any]) -> tuple[str, dict[str, Any], State]:
    """Without the pooling head, which is behind the last block. Takes all it needs out of `state`."""
    config |= {"intermediate_size": _mlp_width(state), "vision_use_head": False}
    weights = {"embeddings.position_embedding.weight": state.pop("pos_embed")[0]}
    weights |= _shared(state, "siglip", "embeddings.patch_embedding", "post_layernorm", "encoder.layers")
    return "siglip_vision_model", config, weights


def _shared(state: State, family: str, patches: str, norm: str, blocks: str) -> State:
    """Patch embedding, blocks and last norm, taken out of `state`."""
    weights, names = {}, {"patch_embed.proj": patches, "norm": norm}
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for number in range(depth):
        here, there = f"blocks.{number}", f"{blocks}.{number}"
        names |= {f"{here}.{mine}": f"{there}.{theirs}" for mine, theirs in BLOCK[family].items()}
        for kind in ("weight", "bias"):
            parts = _take(state, f"{here}.attn.qkv.{kind}").chunk(3)
            for part, value in zip(QUERY_KEY_VALUE[family], parts, strict=True):
                weights[f"{there}.{part}.{kind}"] = value
    for mine, theirs in names.items():
        for kind in ("weight", "bias"):
            weights[f"{theirs}.{kind}"] = _take(state, f"{mine}.{kind}")
    return weights


def _take(state: State, name: str) -> torch.Tensor:
    if name not in state:
        raise _unknown(f"it has no {name}")
    return state.pop(name)


def _mlp_width(state: State) -> int:
    if "blocks.0.mlp.fc1.weight" not in state:
        raise _unknown("its MLP is of another kind")
    return len(state["blocks.0.mlp.fc1.weight"])


def _activation(model: nn.Module) -> str:
    """transformers' name of the blocks' GELU, found by calling it: timm writes either in several ways."""
    x = torch.linspace(-4, 4, 101, device=next(model.parameters()).device)
    computed = model.blocks[0].mlp.act(x)  # type: ignore[union-attr, index]
    for approximate, name in (("none", "gelu"), ("tanh", "gelu_pytorch_tanh")):
        if torch.allclose(computed, functional.gelu(x, approximate=approximate), rtol=0, atol=1e-6):
            return name
    raise _unknown("its activation is no GELU")


def _unknown(why: str) -> ModelError:
    return ModelError(
        f"this timm encoder cannot be written for transformers: {why}; extract with a Hugging Face id instead, for "
        "example facebook/dinov2-with-registers-large or google/siglip-so400m-patch14-224"
    )
