"""Encoders: which layer features come from, equal features from both libraries, sizes, names and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from PIL import Image
from twins import DEPTH, KINDS, SHAPE, SIDE, WIDTH, save_hf, save_timm, save_twins

from cachegen.common.errors import ModelError
from cachegen.data.images import Transform
from cachegen.encoders import Encoded, Encoder, load_encoder, weights_digest
from cachegen.encoders.names import read_name


def pixels(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def differ(first: torch.Tensor, second: torch.Tensor) -> float:
    assert first.shape == second.shape
    assert first.numel() > 0
    return float((first - second).abs().max())


@pytest.mark.parametrize("family", KINDS)
def test_hf_features_are_the_penultimate_hidden_state(family: str, tmp_path: Path) -> None:
    model = save_hf(family, tmp_path)
    encoder = load_encoder(str(tmp_path), "cpu")
    encoded = encoder(pixels())
    n_prefix = KINDS[family][4]
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


# Shares of the largest value: float32 rounding through three blocks (here the bits are equal), and a mistake.
EXACT, WRONG = 1e-5, 1e-3


def largest(encoded: Encoded, other: Encoded) -> list[float]:
    """Largest difference of each kind of feature, relative to the largest value."""
    return [differ(a, b) / float(b.abs().max()) for a, b in zip(encoded, other, strict=True)]


@pytest.mark.parametrize(
    ("saved", "read"),
    [(SIDE, ""), (518, "@224"), (SIDE, "@70"), (70, "@60")],
    ids=["own size", "518 to 224 px", "upwards", "no multiple of the patch"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_both_libraries_give_equal_features_from_equal_weights(
    kind: str, saved: int, read: str, tmp_path: Path
) -> None:
    """Patches and pooled vectors of timm and transformers; wrong layers, prefixes or positions are far outside."""
    save_twins(kind, tmp_path, saved)
    here, there = (load_encoder(f"{tmp_path / family}{read}", "cpu") for family in ("timm", "hf"))
    size = int(read[1:] or saved)
    assert here.transform.size == there.transform.size == size
    assert here.n_patches == there.n_patches == (size // 14) ** 2
    x = pixels(side=size)
    features, twin = here(x), there(x)
    assert max(largest(features, twin)) < EXACT

    model, n_prefix = there.models[0].model, KINDS[kind][4]
    with torch.no_grad():
        plain = model(pixel_values=x, output_hidden_states=True)
    *_, before, penultimate, last = plain.hidden_states
    for wrong in (
        last[:, n_prefix:],
        before[:, n_prefix:],
        plain.last_hidden_state[:, n_prefix:],
        penultimate[:, : here.n_patches] if n_prefix else penultimate.roll(1, dims=1),
    ):
        assert differ(features.patches, wrong) > WRONG * float(twin.patches.abs().max())
    for wrong in (plain.last_hidden_state[:, max(n_prefix, 1) :], last):  # tokens left out; no final norm
        assert differ(features.pooled_all_tokens, wrong.mean(1)) > WRONG * float(twin.pooled_all_tokens.abs().max())


def test_a_whole_siglip_gives_the_features_of_its_vision_tower(tmp_path: Path) -> None:
    """As published: text and image towers in one checkpoint (model_type siglip), of which only the images' is read."""
    tower = save_hf("siglip", tmp_path / "tower")
    text = {"vocab_size": 9, "hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 1}
    whole = transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=tower.config.to_dict())
    ).eval()
    whole.vision_model.load_state_dict(tower.state_dict())
    whole.save_pretrained(tmp_path / "whole")
    preprocessor = tmp_path / "tower" / "preprocessor_config.json"
    (tmp_path / "whole" / "preprocessor_config.json").write_text(preprocessor.read_text())
    for size in ("", "@84"):
        here, there = (load_encoder(f"{tmp_path / name}{size}", "cpu") for name in ("whole", "tower"))
        assert here.attributes["weights_digest"] == there.attributes["weights_digest"]
        x = pixels(side=here.transform.size)
        assert max(largest(here(x), there(x))) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_resampled_as_timm_does(kind: str, tmp_path: Path) -> None:
    """transformers would resample plain DINOv2 and SigLIP without antialiasing, which is not what the release read."""
    save_twins(kind, tmp_path, 140)
    x = pixels()
    features = load_encoder(f"{tmp_path / 'hf'}@{SIDE}", "cpu")(x)
    asked = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, num_classes=0, img_size=SIDE).eval()
    own = KINDS[kind][2].from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        release = asked.forward_features(x)
        options = {"interpolate_pos_encoding": True} if kind == "siglip" else {}
        unlike = own(pixel_values=x, **options).last_hidden_state
    assert differ(features.pooled_all_tokens, release.mean(1)) < EXACT * float(release.abs().max())
    difference = differ(features.pooled_all_tokens, unlike.mean(1)) / float(features.pooled_all_tokens.abs().max())
    if kind == "dinov2_with_registers":
        assert difference < EXACT
    else:
        assert difference > WRONG


def test_the_two_gelus_of_siglip_differ_by_less_than_the_store_rounds(tmp_path: Path) -> None:
    """As shipped, timm runs the so400m with the exact GELU, transformers with the tanh approximation."""
    save_twins("siglip", tmp_path, hidden_act="gelu_pytorch_tanh")
    exact, approximate = (load_encoder(str(tmp_path / family), "cpu")(pixels()).patches for family in ("timm", "hf"))
    rounding = (exact.bfloat16().float() - exact).norm()
    assert EXACT * exact.norm() < (exact - approximate).norm() < rounding


def test_fused_features_are_those_of_the_members_side_by_side(tmp_path: Path) -> None:
    """As in the release: one resized image, each model's own normalisation, features concatenated over width."""
    mean_and_std = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    save_hf("dinov2_with_registers", tmp_path / "dino", {"size": 224, **mean_and_std}, side=70)
    save_timm(tmp_path / "siglip", "vit_so400m_patch14_siglip_384", 70)
    names = [f"{tmp_path / 'dino'}@60", f"{tmp_path / 'siglip'}@60"]
    fused = load_encoder("+".join(names), "cpu")
    assert (fused.n_patches, fused.width, fused.transform.size) == (16, 2 * WIDTH, 60)
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 90, 3), dtype=np.uint8)
    images = [Image.fromarray(each) for each in noise]

    def run(encoder: Encoder) -> Encoded:
        return encoder(torch.from_numpy(np.stack([encoder.transform(image) for image in images])))

    members = [load_encoder(name, "cpu") for name in names]
    assert members[0].transform.mean != members[1].transform.mean
    for features, *parts in zip(run(fused), *map(run, members), strict=True):
        assert torch.equal(features, torch.cat(parts, dim=-1))
    swapped = load_encoder("+".join(reversed(names)), "cpu")
    assert differ(run(fused).patches, run(swapped).patches) > 0.1

    attributes, alone = fused.attributes, [member.attributes for member in members]
    assert attributes["encoder"] == "+".join(names)
    for field in ("layer", "transform"):
        assert attributes[field] == f"{alone[0][field]} + {alone[1][field]}"
    assert "mean 0.485,0.456,0.406" in attributes["transform"]
    assert "mean 0.5,0.5,0.5" in attributes["transform"]
    digests = {each["weights_digest"] for each in (*alone, attributes, swapped.attributes)}
    assert len(digests) == 4


def test_the_fused_encoder_of_the_release_has_729_patches(tmp_path: Path) -> None:
    """384 px are 27.4 patches of 14 px: both libraries leave the last 6 px out. Only depth and width are tiny here."""
    save_hf("dinov2_with_registers", tmp_path / "dino", side=518)
    save_timm(tmp_path / "siglip", "vit_so400m_patch14_siglip_384", 384)
    fused = load_encoder(f"{tmp_path / 'dino'}@384+{tmp_path / 'siglip'}", "cpu")
    assert (fused.n_patches, fused.width) == (729, 2 * WIDTH)
    release = timm.create_model("vit_large_patch14_reg4_dinov2", img_size=384, embed_dim=WIDTH, depth=1, num_heads=4)
    assert release.patch_embed.num_patches == 729


def test_members_of_a_fused_encoder_must_fit(tmp_path: Path) -> None:
    save_hf("dinov2", tmp_path / "a")
    save_hf("siglip", tmp_path / "b", side=70)
    save_timm(tmp_path / "c", "vit_base_patch16_siglip_224", 112)
    assert "read images of 56 and 70 px; fused encoders share one size, append it" in refusal(
        f"{tmp_path / 'a'}+{tmp_path / 'b'}"
    )
    assert "64 and 49 patches" in refusal(f"{tmp_path / 'a'}@112+{tmp_path / 'c'}")
    assert "a name is missing" in refusal(f"{tmp_path / 'a'}+")
    assert "./nowhere does not exist" in refusal(f"{tmp_path / 'a'}+./nowhere@56")


def test_a_directory_may_look_like_a_size_or_a_fusion(tmp_path: Path) -> None:
    folder = tmp_path / "dino+siglip@384"
    save_hf("dinov2", folder)
    assert load_encoder(str(folder), "cpu").transform.size == SIDE
    assert [(each.source, each.size) for each in read_name("org/x@224+vit_b.z@384+hf-hub:o/n@v2+hf-hub:o/n@v2@98")] == [
        ("org/x", 224),
        ("vit_b.z", 384),
        ("hf-hub:o/n@v2", None),
        ("hf-hub:o/n@v2", 98),
    ]


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
    assert "./nowhere does not exist" in refusal("./nowhere")
    assert "has no config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "neither model_type" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "model type bert reads input_ids, not images" in refusal(tmp_path)


def hub_error(kind: type[RepositoryNotFoundError], message: str) -> RepositoryNotFoundError:
    """An error of the hub, as its library raises it, without a server."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


GATED = hub_error(GatedRepoError, "403 Client Error. (Request ID: 1)\n\nAccess to model is restricted.")
UNKNOWN = hub_error(RepositoryNotFoundError, "401 Client Error. (Request ID: 1)\n\nRepository Not Found.")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GATED, "is gated: accept its licence at https://huggingface.co/{place}, then `hf auth login` or set HF_TOKEN"),
        (UNKNOWN, "is not at https://huggingface.co/{place}, or it is private: check the id, or `hf auth login`"),
        (OSError("We couldn't connect"), "cannot be loaded (long); check name, files and network"),
    ],
    ids=["gated", "unknown or private", "offline"],
)
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("org/encoder", "org/encoder"),
        ("org/encoder@384", "org/encoder"),
        ("timm/vit_x.y", "timm/vit_x.y"),
        ("hf-hub:org/encoder@v2", "org/encoder"),
        ("vit_small_patch14_dinov2.lvd142m", "timm/vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_hub_failures_say_what_to_do(
    name: str, place: str, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fail(source: str, **_: Any) -> None:
        asked.append(source)
        raise OSError("long\nstory") from error

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: None)  # asked for before create_model
    assert message.format(place=place) in refusal(name)
    assert asked == [{"timm/vit_x.y": "hf-hub:timm/vit_x.y", "org/encoder@384": "org/encoder"}.get(name, name)]


@pytest.mark.parametrize("family", ["timm", "hf"])
def test_pickled_weights_are_refused_before_they_are_read(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_timm(tmp_path) if family == "timm" else save_hf("dinov2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "has no model.safetensors" in refusal(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    assert "weights in pytorch_model.bin only, a pickle, which can run code" in refusal(tmp_path)


def test_a_timm_name_with_several_weights_is_refused() -> None:
    """Without its tag the release's SigLIP is SigLIP 2 in later versions of timm: another model, and no error."""
    message = refusal("vit_so400m_patch14_siglip_224")
    assert "write vit_so400m_patch14_siglip_224.v2_webli or vit_so400m_patch14_siglip_224.webli" in message


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
    save_hf("siglip", tmp_path / "other", {"size": 7, "image_mean": [0] * 3, "image_std": [1] * 3})
    assert "images of 7 px are smaller than one patch of 14 px" in refusal(tmp_path / "other")
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


@pytest.mark.parametrize("library", ["timm", "hf"])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_rounds_products_only(kind: str, library: str, tmp_path: Path) -> None:
    """Residual stream and norms stay float32: features move a little, and are no bfloat16 numbers themselves."""
    save_twins(kind, tmp_path)
    full, rounded = (load_encoder(str(tmp_path / library), "cpu", compute) for compute in ("float32", "bfloat16"))
    assert (full.attributes["compute"], rounded.attributes["compute"]) == ("float32", "bfloat16 autocast")
    assert load_encoder(str(tmp_path / library), "cpu").compute == "float32"  # the default there
    for exact, features in zip(full(pixels()), rounded(pixels()), strict=True):
        assert features.dtype == torch.float32
        assert (features != features.bfloat16()).float().mean() > 0.9
        assert 1e-4 < float((features - exact).norm() / exact.norm()) < 0.05


def test_a_fused_encoder_computes_both_its_models_in_bfloat16(tmp_path: Path) -> None:
    save_twins("siglip", tmp_path)
    names = [str(tmp_path / library) for library in ("timm", "hf")]
    fused = load_encoder("+".join(names), "cpu", "bfloat16")(pixels())
    for member, name in enumerate(names):
        alone = load_encoder(name, "cpu", "bfloat16")((pixels() - 0.5) / 0.5)
        for features, its_own in zip(fused, alone, strict=True):
            assert torch.equal(features[..., member * WIDTH : (member + 1) * WIDTH], its_own)
