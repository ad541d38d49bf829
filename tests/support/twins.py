"""Tiny vision models with the same random weights in the formats of timm and of transformers."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import load_file
from timm.models import save_for_hf

WIDTH, DEPTH, HEADS, PATCH, REGISTERS = 48, 3, 4, 14, 4
SIDE = 56
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "patch_size": PATCH}
# kind -> timm architecture, transformers configuration and model, what the configuration needs besides, prefix tokens
KINDS: dict[str, tuple[str, Any, Any, dict[str, Any], int]] = {
    "dinov2": ("vit_large_patch14_dinov2", transformers.Dinov2Config, transformers.Dinov2Model, {}, 1),
    "dinov2_with_registers": (
        "vit_large_patch14_reg4_dinov2",
        transformers.Dinov2WithRegistersConfig,
        transformers.Dinov2WithRegistersModel,
        {"num_register_tokens": REGISTERS},
        1 + REGISTERS,
    ),
    "siglip": (
        "vit_so400m_patch14_siglip_224",
        transformers.SiglipVisionConfig,
        transformers.SiglipVisionModel,
        {"intermediate_size": int(WIDTH * 3.7362), "hidden_act": "gelu"},  # timm's so400m: that ratio, exact GELU
        0,
    ),
}


def randomise(model: torch.nn.Module, seed: int = 7) -> None:
    """Large random weights everywhere: fresh models have zero registers and tiny layer scales, which hide mistakes."""
    stream = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=stream) * (0.3 if parameter.ndim > 1 else 0.7)


def save_hf(kind: str, folder: Path, processor: dict[str, Any] | None = None, side: int = SIDE, **config: Any) -> Any:
    """A random transformers model in `folder`; `config` overrides fields of its configuration."""
    _, config_class, model_class, extra, _ = KINDS[kind]
    model = model_class(config_class(**{"image_size": side, **SHAPE, **extra, **config})).eval()
    randomise(model)
    model.save_pretrained(folder)
    processor = processor or {
        "size": {"height": side, "width": side},
        "do_center_crop": False,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def save_timm(
    folder: Path, name: str = "vit_small_patch14_reg4_dinov2", side: int = SIDE, weights: Any = None, **model_args: Any
) -> Any:
    """A timm model in `folder`, with random weights or those of the state dict `weights`."""
    arguments = {"img_size": side, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, **model_args}
    model = timm.create_model(name, num_classes=0, **arguments).eval()
    randomise(model)
    if weights is not None:
        model.load_state_dict(weights)
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return model


def save_twins(kind: str, folder: Path, side: int = SIDE, **config: Any) -> tuple[Any, Any]:
    """The same weights in `folder`/timm and `folder`/hf; returns both models."""
    hf = save_hf(kind, folder / "hf", side=side, **config)
    # Names in memory differ between versions of transformers, names in files do not.
    state = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in load_file(folder / "hf" / "model.safetensors").items()
    }
    weights = _siglip_weights(state) if kind == "siglip" else _dinov2_weights(state)
    return save_timm(folder / "timm", KINDS[kind][0], side, weights), hf


def _dinov2_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Under timm's names: fused qkv; with registers, positions of patches only, CLS with its own added."""
    cls, positions = state["embeddings.cls_token"], state["embeddings.position_embeddings"]
    weights = {"cls_token": cls, "pos_embed": positions} | _patch_embedding(state, "patch_embeddings.projection")
    if "embeddings.register_tokens" in state:
        weights |= {"cls_token": cls + positions[:, :1], "pos_embed": positions[:, 1:]}
        weights["reg_token"] = state["embeddings.register_tokens"]
    for kind in ("weight", "bias"):
        weights[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        for number in range(DEPTH):
            there, here = f"encoder.layer.{number}", f"blocks.{number}"
            weights[f"{here}.attn.qkv.{kind}"] = torch.cat(
                [state[f"{there}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            )
            weights[f"{here}.attn.proj.{kind}"] = state[f"{there}.attention.output.dense.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                weights[f"{here}.{part}.{kind}"] = state[f"{there}.{part}.{kind}"]
    for number in range(DEPTH):
        for scale in ("1", "2"):
            weights[f"blocks.{number}.ls{scale}.gamma"] = state[f"encoder.layer.{number}.layer_scale{scale}.lambda1"]
    return weights


def _siglip_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Under timm's names, the attention-pooling head included, although no feature uses it."""
    weights = {
        "pos_embed": state["embeddings.position_embedding.weight"][None],
        "attn_pool.latent": state["head.probe"],
    }
    weights |= _patch_embedding(state, "patch_embedding")
    for kind in ("weight", "bias"):
        weights[f"norm.{kind}"] = state[f"post_layernorm.{kind}"]
        pooling = state[f"head.attention.in_proj_{kind}"]
        weights[f"attn_pool.q.{kind}"], weights[f"attn_pool.kv.{kind}"] = pooling[:WIDTH], pooling[WIDTH:]
        weights[f"attn_pool.proj.{kind}"] = state[f"head.attention.out_proj.{kind}"]
        weights[f"attn_pool.norm.{kind}"] = state[f"head.layernorm.{kind}"]
        for part in ("mlp.fc1", "mlp.fc2"):
            weights[f"attn_pool.{part}.{kind}"] = state[f"head.{part}.{kind}"]
        for number in range(DEPTH):
            there, here = f"encoder.layers.{number}", f"blocks.{number}"
            weights[f"{here}.attn.qkv.{kind}"] = torch.cat(
                [state[f"{there}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
            weights[f"{here}.attn.proj.{kind}"] = state[f"{there}.self_attn.out_proj.{kind}"]
            for mine, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2")):
                weights[f"{here}.{mine}.{kind}"] = state[f"{there}.{theirs}.{kind}"]
            for part in ("mlp.fc1", "mlp.fc2"):
                weights[f"{here}.{part}.{kind}"] = state[f"{there}.{part}.{kind}"]
    return weights


def _patch_embedding(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {f"patch_embed.proj.{kind}": state[f"embeddings.{name}.{kind}"] for kind in ("weight", "bias")}
