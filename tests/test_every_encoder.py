"""One reader for all vision models: equal to a plain hook on the block, on every family of both libraries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from every_encoder import ALL, DEPTH, MARK, SIDE, TIMM, modules_of, save_tiny, save_tiny_timm, what_becomes_of
from PIL import Image
from timm.models._registry import _module_to_models
from torch import nn

from cachegen.common.errors import ModelError
from cachegen.encoders import load_encoder
from cachegen.encoders.layers import Loaded, choose_layer
from cachegen.encoders.names import read_name

PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"
PLAIN = [
    "aimv2_vision_model", "beit", "blip", "clip", "clip_vision_model", "data2vec-vision", "deit", "dinov2",
    "dinov2_with_registers", "dinov3_vit", "dpt", "ijepa", "internvl_vision", "pixio", "siglip",
    "siglip_vision_model", "vit", "vit_mae", "vit_msn", "yolos",
]  # fmt: skip
OF_TIMM = ["test_vit", "eva02_tiny_patch14_224", "beit_base_patch16_224", "deit_tiny_patch16_224"]
NOISE = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))


def blocks_of(model: nn.Module) -> nn.Module:
    """The list of blocks of the part that reads pictures: the only one of that length behind the first of its kind."""
    vision = next((getattr(model, name) for name in ("vision_model", "vision_tower") if hasattr(model, name)), model)
    lists = [
        each for each in vision.modules() if isinstance(each, nn.ModuleList | nn.Sequential) and len(each) == DEPTH
    ]
    return next(each for each in lists if len({type(block) for block in each}) == 1)


def hooked(model: Any, block: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """(T, D): what this block gives for one picture (3, S, S), when the model is called as its documentation says."""
    seen: list[Any] = []
    handle = block.register_forward_hook(lambda *given: seen.append(given[2]))
    vision = next((getattr(model, name) for name in ("vision_model", "vision_tower") if hasattr(model, name)), model)
    given: dict[str, Any] = {}
    if getattr(model.config, "model_type", "") == "vit_mae" if hasattr(model, "config") else False:
        model.config.mask_ratio = 0.0
        given["noise"] = torch.arange(16)[None]
    with torch.no_grad():
        vision(pixels[None], **given)
    handle.remove()
    (output,) = seen
    return (output[0] if isinstance(output, tuple) else output)[0]


@pytest.mark.parametrize("name", [*PLAIN, *OF_TIMM])
def test_patches_are_those_of_a_hook_on_the_block(name: str, tmp_path: Path) -> None:
    model = (save_tiny_timm if name in OF_TIMM else save_tiny)(name, tmp_path)
    encoder = load_encoder(str(tmp_path), "cpu")
    blocks, size, count = blocks_of(model), encoder.transform.size, encoder.n_patches
    x = NOISE[:, :, :size, :size]
    patches = encoder(x).patches
    for picture, found in zip(x, patches, strict=True):
        tokens = hooked(model, blocks[DEPTH - 2], picture)
        start = 1 if name == "yolos" else len(tokens) - count  # YOLOS has its detection tokens behind the patches
        bound = 1e-5 * float(tokens.abs().max())
        assert float((found - tokens[start : start + count]).abs().max()) < bound
        # Controls: another block, a register or CLS kept, another picture.
        assert (
            float((found - hooked(model, blocks[DEPTH - 1], picture)[start : start + count]).abs().max()) > 10 * bound
        )
        if start:
            assert float((found - tokens[:count]).abs().max()) > 10 * bound
    assert float((patches[0] - patches[1]).abs().max()) > 10 * bound
    for number in (1, DEPTH, -1):
        read = load_encoder(f"{tmp_path}#{number}", "cpu")
        tokens = hooked(model, blocks[number - (number > 0)], x[0])
        assert float((read(x[:1]).patches[0] - tokens[start : start + count]).abs().max()) < 1e-5 * float(
            tokens.abs().max()
        )
        assert f"block {number % (DEPTH + 1)} of {DEPTH}" in read.attributes["layer"]


@pytest.mark.parametrize(("name", "stages"), [("resnet", "encoder.stages"), ("convnext", "encoder.stages")])
def test_stages_of_a_convolutional_net(name: str, stages: str, tmp_path: Path) -> None:
    model = save_tiny(name, tmp_path)
    x = NOISE[:1, :, :224, :224]
    for ending, stage in (("", 3), ("#3", 2), ("#-2", 2)):
        encoder = load_encoder(f"{tmp_path}{ending}", "cpu")
        map_DHW = hooked(model, model.get_submodule(stages)[stage], x[0])
        patches = encoder(x).patches[0]
        assert encoder.n_patches == map_DHW[0].numel()
        assert float((patches - map_DHW.flatten(1).T).abs().max()) < 1e-5 * float(map_DHW.abs().max())
        assert float((patches - map_DHW.mT.flatten(1).T).abs().max()) > 1e-3 * float(map_DHW.abs().max())
        assert f"feature map {stage + 1} of" in encoder.attributes["layer"]


class Fake(nn.Module):
    """Four blocks whose tokens are the means of 16-px patches and a CLS token, disarranged by `order`."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order

    def forward(self, pixels: torch.Tensor, index: int | None) -> tuple[list[torch.Tensor], torch.Tensor]:
        cells = nn.functional.avg_pool2d(pixels, 16)
        if self.order == "columns first":
            cells = cells.mT
        tokens = cells.flatten(2).mT
        if self.order == "masked":
            tokens = tokens[:, torch.randperm(tokens.shape[1])]
        if self.order == "in blocks of 2 x 2":
            tokens = cells.unflatten(3, (2, 2)).unflatten(2, (2, 2)).transpose(3, 4).flatten(2).mT
        if self.order.startswith("map"):
            tokens = cells.mT if "columns" in self.order else cells
            return [tokens] * (4 if index is None else 1), tokens
        cls = tokens.mean(1, keepdim=True)
        tokens = torch.cat([tokens, cls] if self.order == "CLS last" else [cls, tokens], 1)
        return [tokens] * (4 if index is None else 1), tokens


@pytest.mark.parametrize(
    "order", ["rows first", "CLS last", "columns first", "masked", "in blocks of 2 x 2", "map", "map, columns first"]
)
def test_patches_out_of_order_are_refused(order: str) -> None:
    transform: Any = type("Sized", (), {"size": SIDE})
    loaded = Loaded(Fake(order), Fake(order), 1, 16, transform, "")
    if order in ("rows first", "CLS last", "map"):
        model = choose_layer(loaded, "fake", None, torch.device("cpu"))
        x = NOISE[:, :, :SIDE, :SIDE]
        assert torch.equal(model.read(x)[0], nn.functional.avg_pool2d(x, 16).flatten(2).mT)
    else:
        with pytest.raises(ModelError, match="from run to run" if order == "masked" else "reading order"):
            choose_layer(loaded, "fake", None, torch.device("cpu"))


def test_a_layer_is_named_behind_the_size_and_a_folder_may_be_called_so(tmp_path: Path) -> None:
    named = read_name("org/x@224#-1+vit_b.z#3+org/y")
    assert [(each.source, each.size, each.layer) for each in named] == [
        ("org/x", 224, -1), ("vit_b.z", None, 3), ("org/y", None, None),
    ]  # fmt: skip
    for folder in ("dino#2", "dino@98"):
        save_tiny("dinov2", tmp_path / folder)
        (found,) = read_name(str(tmp_path / folder))
        assert (found.layer, found.size) == (None, None)
        (found,) = read_name(f"{tmp_path / folder}@64#-2")
        assert (found.source, found.layer, found.size) == (str(tmp_path / folder), -2, 64)
    for wrong in ("#9", "#-9", "#x", "#1@64"):
        with pytest.raises(ModelError, match=r"layer 9|layer -9|NAME@SIZE#LAYER"):
            load_encoder(f"{tmp_path / 'dino@98'}{wrong}", "cpu")


@pytest.mark.parametrize(
    ("name", "reason"), [("videomae", "videos"), ("timesformer", "videos"), ("imagegpt", "input_ids")]
)
def test_what_reads_no_pictures_is_refused_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    save_tiny(name, tmp_path)
    with pytest.raises(ModelError, match=f"reads {reason}, not images"):
        load_encoder(str(tmp_path), "cpu")


def test_a_checkpoint_may_lack_what_is_not_read(tmp_path: Path) -> None:
    """As classifiers are published, without the pooler that AutoModel adds; what is filled in counts for nothing."""
    model = save_tiny("vit", tmp_path)
    state = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    assert len(state) < len(model.state_dict())
    model.save_pretrained(tmp_path, state_dict=state)
    first, second = (load_encoder(str(tmp_path), "cpu").attributes["weights_digest"] for _ in range(2))
    assert first == second


CROP = {"size": {"shortest_edge": 80}, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "CLIPImageProcessor", "BitImageProcessor"])
def test_own_preprocessing_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    save_tiny("vit", tmp_path)
    getattr(transformers, kind)(
        **(CROP if kind != "ViTImageProcessor" else {"size": {"height": SIDE, "width": SIDE}})
    ).save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))
    own, paper = (load_encoder(str(tmp_path), "cpu", preprocess=how) for how in ("own", "paper"))  # type: ignore[arg-type]
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="np")["pixel_values"][0]
    levels = np.abs(own.transform(image) - theirs) * 255 * 0.5  # of grey: torchvision's filter rounds otherwise
    assert levels.max() < 2
    if kind != "ViTImageProcessor":
        assert np.abs(paper.transform(image) - theirs).max() > 0.5
    assert (own.attributes["preprocess"], "preprocess" in paper.attributes) == ("own", False)
    assert own.attributes["transform"] != paper.attributes["transform"]
    with pytest.raises(ModelError, match="--preprocess own is for single"):
        load_encoder(f"{tmp_path}+{tmp_path}", "cpu", preprocess="own")
    with pytest.raises(ModelError, match="use --preprocess paper"):
        load_encoder(f"{tmp_path}@96", "cpu", preprocess="own")


def test_own_preprocessing_is_that_of_timm(tmp_path: Path) -> None:
    model = save_tiny_timm("test_vit", tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    config = timm.data.resolve_data_config({}, pretrained_cfg=model.pretrained_cfg)
    theirs = timm.data.create_transform(**config)(image).numpy()
    own, paper = (load_encoder(str(tmp_path), "cpu", preprocess=how) for how in ("own", "paper"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(own.transform(image), theirs)
    assert np.abs(paper.transform(image) - theirs).max() > 0.5


def test_every_module_of_timm_is_in_the_table() -> None:
    assert modules_of(TIMM) == set(_module_to_models)


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name"), ALL)
def test_the_table_says_what_becomes_of_every_vision_model(library: str, name: str) -> None:
    row = f"| {library} | `{name}` | {what_becomes_of(library, name).replace('|', '/')} |"
    assert row in PAGE.read_text().partition(MARK)[2].splitlines()
