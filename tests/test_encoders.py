"""Encoders: which layer the features come from, on tiny randomly initialised models of each family."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from timm.models import save_for_hf

from cachegen.encoders import Encoder, load_encoder, weights_digest
from cachegen.errors import ModelError
from cachegen.images import Transform

WIDTH, DEPTH, HEADS, PATCH, SIDE, REGISTERS = 48, 3, 4, 14, 56, 4
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "patch_size": PATCH}
HF_MODELS = {
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model, {}, 1),
    "dinov2_with_registers": (
        transformers.Dinov2WithRegistersConfig,
        transformers.Dinov2WithRegistersModel,
        {"num_register_tokens": REGISTERS},
        1 + REGISTERS,
    ),
    "siglip_vision_model": (
        transformers.SiglipVisionConfig,
        transformers.SiglipVisionModel,
        {"intermediate_size": 4 * WIDTH},
        0,
    ),
}


def randomise(model: torch.nn.Module) -> None:
    """Large random weights everywhere: fresh models have zero registers and tiny layer scales, which hide mistakes."""
    stream = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=stream) * (0.3 if parameter.ndim > 1 else 0.7)


def save_hf(family: str, folder: Path, processor: dict[str, Any] | None = None) -> Any:
    config_class, model_class, extra, _ = HF_MODELS[family]
    model = model_class(config_class(image_size=SIDE, **SHAPE, **extra)).eval()
    randomise(model)
    model.save_pretrained(folder)
    processor = processor or {
        "size": {"height": SIDE, "width": SIDE},
        "do_center_crop": False,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def save_timm(folder: Path, name: str = "vit_small_patch14_reg4_dinov2", side: int = SIDE) -> Any:
    arguments = {"img_size": side, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    model = timm.create_model(name, num_classes=0, **arguments).eval()
    randomise(model)
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return model


def pixels(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def differ(first: torch.Tensor, second: torch.Tensor) -> float:
    assert first.shape == second.shape
    assert first.numel() > 0
    return float((first - second).abs().max())


@pytest.mark.parametrize("family", HF_MODELS)
def test_hf_features_are_the_penultimate_hidden_state(family: str, tmp_path: Path) -> None:
    model = save_hf(family, tmp_path)
    encoder = load_encoder(str(tmp_path), "cpu")
    encoded = encoder(pixels())
    n_prefix = HF_MODELS[family][3]
    with torch.no_grad():
        plain = model(pixel_values=pixels(), output_hidden_states=True)
    assert len(plain.hidden_states) == DEPTH + 1
    patches = plain.hidden_states[-2][:, n_prefix:]
    assert (encoder.n_patches, encoder.width) == (16, WIDTH)
    assert differ(encoded.patches, patches) < 1e-5
    assert differ(encoded.pooled_patches, patches.mean(1)) < 1e-5
    assert differ(encoded.pooled_all_tokens, plain.last_hidden_state.mean(1)) < 1e-5
    # Controls: neighbouring layers, the norm, and the prefix tokens are all visible at this scale.
    for other in (plain.hidden_states[-1], plain.hidden_states[-3], plain.last_hidden_state):
        assert differ(encoded.patches, other[:, n_prefix:]) > 0.1
    if n_prefix:
        assert differ(encoded.pooled_patches, plain.hidden_states[-2].mean(1)) > 0.01


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224"])
def test_timm_features_are_the_penultimate_block(name: str, tmp_path: Path) -> None:
    side = SIDE if "14" in name else 64
    model = save_timm(tmp_path, name, side)
    encoder = load_encoder(str(tmp_path), "cpu")
    encoded = encoder(pixels(side=side))
    with torch.no_grad():
        final, (first, second, third) = model.forward_intermediates(pixels(side=side), output_fmt="NLC", norm=False)
    assert encoder.n_patches == 16
    assert differ(encoded.patches, second) < 1e-5
    assert differ(encoded.pooled_patches, second.mean(1)) < 1e-5
    assert differ(encoded.pooled_all_tokens, final.mean(1)) < 1e-5
    assert differ(encoded.patches, third) > 0.1
    assert differ(encoded.patches, first) > 0.1


def copy_into_timm(saved: Path, target: Any) -> None:
    """Weights of a saved transformers DINOv2 with registers, under timm's names (fused qkv, patch positions only)."""
    state = load_file(saved / "model.safetensors")  # names in memory differ between versions of transformers
    positions = state["embeddings.position_embeddings"]
    renamed = {
        "cls_token": state["embeddings.cls_token"] + positions[:, :1],
        "reg_token": state["embeddings.register_tokens"],
        "pos_embed": positions[:, 1:],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
    }
    for kind in ("weight", "bias"):
        renamed[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        for number in range(DEPTH):
            there, here = f"encoder.layer.{number}", f"blocks.{number}"
            renamed[f"{here}.attn.qkv.{kind}"] = torch.cat(
                [state[f"{there}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            )
            renamed[f"{here}.attn.proj.{kind}"] = state[f"{there}.attention.output.dense.{kind}"]
            for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                renamed[f"{here}.{part}.{kind}"] = state[f"{there}.{part}.{kind}"]
    for number in range(DEPTH):
        for scale in ("1", "2"):
            renamed[f"blocks.{number}.ls{scale}.gamma"] = state[f"encoder.layer.{number}.layer_scale{scale}.lambda1"]
    target.load_state_dict(renamed)


def test_both_families_give_equal_features_from_equal_weights(tmp_path: Path) -> None:
    save_hf("dinov2_with_registers", tmp_path / "hf")
    twin = save_timm(tmp_path / "timm")
    before = load_encoder(str(tmp_path / "timm"), "cpu")(pixels())
    copy_into_timm(tmp_path / "hf", twin)
    arguments = {"img_size": SIDE, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    save_for_hf(twin, str(tmp_path / "timm"), model_args=arguments, safe_serialization=True)
    here, there = (load_encoder(str(tmp_path / family), "cpu")(pixels()) for family in ("hf", "timm"))
    for one, other, unrelated in zip(here, there, before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert differ(one, unrelated) > 0.1


def test_timm_dinov2_is_read_at_224_px_and_its_digest_before_resampling(tmp_path: Path) -> None:
    model = save_timm(tmp_path, side=280)
    encoder = load_encoder(str(tmp_path), "cpu")
    assert encoder.transform.size == 224
    assert encoder.n_patches == 256
    assert encoder.attributes["weights_digest"] == weights_digest(model)


def test_digest_sees_every_bit_but_no_names() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2).bfloat16()
    digest = weights_digest(layer)
    assert weights_digest(layer) == digest
    assert weights_digest(torch.nn.Sequential(layer)) == digest  # renamed, as libraries do between versions
    assert weights_digest(layer.float()) != digest
    layer.bfloat16().bias.data[1] += 1
    assert weights_digest(layer) != digest


def test_encoder_says_what_a_store_must_know(tmp_path: Path) -> None:
    save_hf("dinov2", tmp_path)
    attributes = load_encoder(str(tmp_path), "cpu").attributes
    assert attributes["layer"] == "output of block 2 of 3, before the final norm, patches only"
    assert attributes["image_size"] == SIDE
    assert attributes["transform"] == "resize 56x56 bicubic, /255, mean 0.5,0.5,0.5, std 0.5,0.5,0.5"
    assert attributes["compute"] == "float32"


@pytest.mark.parametrize(
    ("processor", "size", "mean"),
    [
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56}}, 56, 0.4),
        ({"size": {"height": 56, "width": 56}, "crop_size": {"height": 9, "width": 9}}, 56, 0.4),
        ({"size": 56}, 56, 0.4),
        ({"size": {"height": 56, "width": 56}, "do_normalize": False}, 56, 0.0),
    ],
)
def test_size_and_normalisation_come_from_the_preprocessor(
    tmp_path: Path, processor: dict[str, Any], size: int, mean: float
) -> None:
    save_hf("dinov2", tmp_path, processor | {"image_mean": [0.4] * 3, "image_std": [0.2] * 3})
    transform = load_encoder(str(tmp_path), "cpu").transform
    assert (transform.size, transform.mean[0]) == (size, mean)


def test_transform_is_resize_then_normalise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    result = Transform(28, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(image)
    resized = np.asarray(image.resize((28, 28), Image.Resampling.BICUBIC))
    expected = (resized / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=1e-5)


def refusal(name: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_encoder(str(name), "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_names_say_what_to_do(tmp_path: Path) -> None:
    assert "did you mean" in refusal("vit_large_patch14_reg4_dinov3.lvd142m")
    assert "no such directory" in refusal("./nowhere")
    assert "no readable config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "neither model_type" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "model type bert is not supported" in refusal(tmp_path)


def test_hub_failures_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*_: Any, **__: Any) -> None:
        try:
            raise PermissionError("401: you are trying to access a gated repo")
        except PermissionError as error:
            raise OSError("cannot load\nlong story") from error

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect\nlong story")

    asked: list[str] = []
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", gated)
    assert "accept its licence at huggingface.co/org/encoder, then `hf auth login`" in refusal("org/encoder")
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    assert "(We couldn't connect); check name, files and network" in refusal("org/encoder")

    def create(name: str, **_: Any) -> None:
        asked.append(name)
        offline()

    monkeypatch.setattr(timm, "create_model", create)
    refusal("vit_small_patch14_dinov2.lvd142m")
    refusal("timm/vit_small_patch14_dinov2.lvd142m")
    assert asked == ["vit_small_patch14_dinov2.lvd142m", "hf-hub:timm/vit_small_patch14_dinov2.lvd142m"]


def test_incomplete_weights_are_refused_not_filled_with_noise(tmp_path: Path) -> None:
    model = save_hf("dinov2", tmp_path)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layer.1.norm1" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    assert "its weights lack encoder.layer.1.norm1.bias" in refusal(tmp_path)


def test_models_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    save_hf(
        "dinov2", tmp_path / "wide", {"size": {"height": 28, "width": 56}, "image_mean": [0] * 3, "image_std": [1] * 3}
    )
    assert "only square images" in refusal(tmp_path / "wide")
    (tmp_path / "wide" / "preprocessor_config.json").write_text('{"size": 56, "do_normalize": false}')
    save_hf("siglip_vision_model", tmp_path / "other", {"size": 28, "image_mean": [0] * 3, "image_std": [1] * 3})
    assert "does not run on 28 px images" in refusal(tmp_path / "other")
    with pytest.raises(ModelError, match="no device 'nonsense'"):
        load_encoder(str(tmp_path / "wide"), "nonsense")
    save_hf("dinov2", tmp_path / "none")
    (tmp_path / "none" / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refusal(tmp_path / "none")
    shallow = transformers.Dinov2Model(transformers.Dinov2Config(image_size=SIDE, **SHAPE | {"num_hidden_layers": 1}))
    shallow.save_pretrained(tmp_path / "shallow")
    (tmp_path / "shallow" / "preprocessor_config.json").write_text('{"size": 56, "do_normalize": false}')
    assert "no penultimate one" in refusal(tmp_path / "shallow")


def test_features_do_not_depend_on_the_rest_of_the_batch_beyond_rounding(tmp_path: Path) -> None:
    save_hf("dinov2", tmp_path)
    encoder: Encoder = load_encoder(str(tmp_path), "cpu")
    assert differ(encoder(pixels(3)).patches[:1], encoder(pixels(3)[:1]).patches) < 1e-4
