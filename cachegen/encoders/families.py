"""Vision models of timm and of transformers behind one interface: how to run one, and where to read its features.

Equal weights give equal features whichever library reads them. Where the two would differ, timm decides, because the
paper's release used it: tables of positions are resampled once, bicubic with antialiasing (transformers resamples
plain DINOv2 and SigLIP without). One difference is left, since it belongs to the model as each library ships it: timm
runs most SigLIP models, the so400m with patches of 14 px among them, with the exact GELU, transformers with the tanh
approximation. At so400m's size and random weights it moves features by 0.01 to 0.03 %, where a store's bfloat16 rounds
by 0.17 %.

Shapes: B images, S image side in pixels, T tokens, N positions, D width.
"""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from cachegen.common.errors import ModelError
from cachegen.common.files import digest_bytes
from cachegen.common.hub import SAFETENSORS, weight_files
from cachegen.data.images import RESAMPLING, Transform
from cachegen.encoders.names import EncoderName

# model_type -> vision class, path of its block list.
HF_FAMILIES = {
    "dinov2": ("Dinov2Model", "encoder.layer"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "encoder.layer"),
    "siglip": ("SiglipVisionModel", "encoder.layers"),
    "siglip_vision_model": ("SiglipVisionModel", "encoder.layers"),
}
# Steps of a preprocessor that are done here, or whose part in a picture's shape the paper's rule takes over.
HF_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad")
HF_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": None,
    "resample": Image.Resampling.BICUBIC.value,
    "do_center_crop": False,
    "crop_size": None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": None,
    "image_std": None,
    "do_pad": False,
}
# timm evaluates DINOv2 at 518 px; the paper, like transformers, reads it at 224 px (256 patches).
DINOV2_SIZE = 224


@dataclass(frozen=True, eq=False)
class VisionModel:
    """A loaded model of either family. `n_prefix`: tokens before the patches (CLS and registers).

    timm's CaiT and XCiT have their CLS token join behind the blocks only, ConViT before the last two: whether the
    penultimate block's output has the prefix, its number of tokens says.
    """

    model: nn.Module
    tokens: Callable[[torch.Tensor], torch.Tensor]  # (B, 3, S, S) -> (B, T, D) after the final norm
    blocks: nn.ModuleList | nn.Sequential
    n_prefix: int
    n_patches: int
    transform: Transform
    weights_digest: str


def load_vision_model(name: EncoderName) -> VisionModel:
    """Load on the CPU in float32; `trust_remote_code` is never on. Raises `ModelError` or what the libraries raise."""
    return _load_timm(name) if name.family == "timm" else _load_hf(name)


def _load_timm(name: EncoderName) -> VisionModel:
    import timm

    source = name.source
    if ":" not in source and not timm.is_model(source.split(".")[0]):
        near = difflib.get_close_matches(source, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models(), or give an id with '/'"
        raise ModelError(f"encoder {source}: timm has no such model; {hint}")
    tagged = timm.list_pretrained(f"{source}.*") if ":" not in source and "." not in source else []
    if len(tagged) > 1:  # the SigLIP of the paper's release is SigLIP 2 in later versions of timm
        raise ModelError(
            f"encoder {source}: timm has several weights of this name, and its version decides which are meant; write "
            f"{' or '.join(tagged)}"
        )
    if name.folder and not any(name.folder.glob("*.safetensors")):
        weight_files(name.folder)  # timm would read a pickle
    if not name.folder:
        _fetch_safetensors(name)
    model = timm.create_model(source, pretrained=True, num_classes=0)
    if not isinstance(getattr(model, "blocks", None), nn.ModuleList | nn.Sequential) or not hasattr(
        model, "num_prefix_tokens"
    ):
        raise ModelError(f"encoder {source}: is no vision transformer with blocks and patch tokens; choose a ViT")
    digest = weights_digest(model)  # before positions are resampled, which may differ between library versions
    config = model.pretrained_cfg
    sides = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if not sides or len(set(sides)) != 1:
        raise ModelError(f"encoder {source}: reads no square images of a fixed size; choose another ViT")
    own_size = sides[0]
    size = name.size or (min(own_size, DINOV2_SIZE) if "dinov2" in config["architecture"] else own_size)
    if size != own_size:
        if not hasattr(model, "set_input_size"):
            raise ModelError(f"encoder {source}: reads images of {own_size} px only; leave out @{size}")
        _require_a_patch(source, size, model.patch_embed.patch_size[0])
        model.set_input_size(img_size=(size, size))
    embed = model.patch_embed
    n_patches = math.prod(embed.grid_size) if hasattr(embed, "grid_size") else embed.num_patches
    return VisionModel(
        model=model,
        tokens=model.forward_features,
        blocks=model.blocks,
        n_prefix=model.num_prefix_tokens,
        n_patches=n_patches,
        transform=_timm_transform(source, config, size),
        weights_digest=digest,
    )


def _timm_transform(source: str, config: dict[str, Any], size: int) -> Transform:
    """Our one transform at `size`, with what a pretrained_cfg says of values; of shapes it only says what is left out.

    timm's own evaluation resizes to size / crop_pct and cuts the centre out, unless crop_mode is "squash".
    """
    filters = {name: number for number, name in RESAMPLING.items()}
    interpolation = config.get("interpolation") or "bicubic"
    if interpolation not in filters:
        raise ModelError(
            f"encoder {source}: its interpolation is {interpolation!r}; only {', '.join(filters)} are known"
        )
    mean, std = _normalisation(f"encoder {source}: its pretrained_cfg's", config["mean"], config["std"])
    share, mode = config.get("crop_pct", 1.0), config.get("crop_mode", "center")
    left_out = "" if mode == "squash" and share == 1 else f"{mode} crop of {share:.0%}"
    return Transform(size, mean, std, filters[interpolation], left_out=left_out)


def _fetch_safetensors(name: EncoderName) -> None:
    """Bring a hub model's safetensors into the local cache, where timm looks before it takes a pickle.

    Raises `ModelError` if there are none, and what the hub raises.
    """
    import timm
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    config = None if ":" in name.source else timm.get_pretrained_cfg(name.source)
    repository = config.hf_hub_id if config else name.repository
    revision = name.source.partition("@")[2] or None
    no_pickle = f"encoder {name.text}: its weights are there as a pickle only, which can run code and is not read"
    if not repository:
        raise ModelError(f"{no_pickle}; choose another")
    try:
        hf_hub_download(repository, SAFETENSORS, revision=revision)
    except LocalEntryNotFoundError:  # no network
        raise
    except EntryNotFoundError:
        raise ModelError(f"{no_pickle}; choose another, or convert it where you trust it") from None


def _load_hf(name: EncoderName) -> VisionModel:
    import transformers
    from transformers.image_processing_utils import BaseImageProcessor

    source = name.source
    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.model_type not in HF_FAMILIES:
        known = ", ".join(HF_FAMILIES)
        raise ModelError(f"encoder {source}: model type {config.model_type} is not supported (only {known}, or timm)")
    if name.folder:
        weight_files(name.folder)
    class_name, blocks = HF_FAMILIES[config.model_type]
    model, report = getattr(transformers, class_name).from_pretrained(
        source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    if report["missing_keys"]:  # transformers would fill them with random numbers and a warning
        raise ModelError(f"encoder {source}: its weights lack {sorted(report['missing_keys'])[0]} and maybe more")
    digest = weights_digest(model)
    processor, _ = BaseImageProcessor.get_image_processor_dict(source)
    transform = _hf_transform(source, processor, name.size)
    _require_a_patch(source, transform.size, model.config.patch_size)
    _resample_hf_positions(model, transform.size)
    return VisionModel(
        model=model,
        tokens=lambda pixels_B3SS: model(pixel_values=pixels_B3SS).last_hidden_state,
        blocks=model.get_submodule(blocks),
        n_prefix=0 if "siglip" in config.model_type else 1 + getattr(config, "num_register_tokens", 0),
        n_patches=(transform.size // model.config.patch_size) ** 2,
        transform=transform,
        weights_digest=digest,
    )


def _hf_transform(source: str, own: dict[str, Any], size: int | None) -> Transform:
    """Our one transform, at the size asked for or a preprocessor_config.json's, with what that says of values.

    Values (rescale, normalise, filter) are taken over; where shapes are concerned the paper's rule decides, which
    resizes straight to a square, and what is left out of the preprocessor's is recorded. Raises `ModelError` for a step
    that this transform has no form for.
    """
    import transformers

    place = f"encoder {source}: its preprocessor"
    unknown = sorted(name for name, value in own.items() if name.startswith("do_") and value and name not in HF_STEPS)
    if unknown:
        raise ModelError(f"{place} asks for {unknown[0]}, which is not done here; choose another encoder")
    # What the file leaves open is decided by the class that it names, as in transformers.
    name = str(own.get("image_processor_type"))
    kind = getattr(transformers, name, None) if re.fullmatch(r"[A-Za-z0-9_]+ImageProcessor(Fast|Pil)?", name) else None
    processor = {field: getattr(kind, field, value) for field, value in HF_DEFAULTS.items()} | own

    crop = processor["do_center_crop"]
    shape = processor["crop_size"] if crop else processor["size"]
    sides = {size} if size else set(shape.values()) if isinstance(shape, dict) else {shape}
    side = sides.pop() if len(sides) == 1 else None
    if type(side) is not int or side < 1:
        raise ModelError(f"{place} asks for {shape}; only square images are read, append @SIZE")
    keeps_aspect = isinstance(processor["size"], dict) and set(processor["size"]) != {"height", "width"}
    steps = {
        "resizing of the shortest edge": processor["do_resize"] and keeps_aspect,
        "no resizing": not processor["do_resize"],
        "centre crop": crop,
        "padding": processor["do_pad"],
    }
    resample, scale = processor["resample"], processor["rescale_factor"] if processor["do_rescale"] else 1.0
    if not isinstance(resample, int) or isinstance(resample, bool) or resample not in RESAMPLING:
        raise ModelError(f"{place}'s resample is {resample!r}, no number of Pillow's filters (0 to 5); correct it")
    if type(scale) not in (int, float) or not 0 < scale < math.inf:
        raise ModelError(f"{place}'s rescale_factor is {scale!r}, no positive number; correct it")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor["do_normalize"]:
        mean, std = _normalisation(f"{place}'s", processor["image_mean"], processor["image_std"])
    ordinary = math.isclose(scale, 1 / 255, rel_tol=1e-6)  # also if once rounded to float32
    left_out = ", ".join(step for step, there in steps.items() if there)
    return Transform(side, mean, std, int(resample), None if ordinary else float(scale), left_out)


def _normalisation(place: str, mean: Any, std: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of the three colours, checked; one number stands for all three, as in transformers."""
    found = [tuple(value) if isinstance(value, list | tuple) else (value,) * 3 for value in (mean, std)]
    numbers = [type(value) in (int, float) and math.isfinite(value) for values in found for value in values]
    if not all(numbers) or any(len(values) != 3 for values in found) or 0 in found[1]:
        raise ModelError(f"{place} mean and deviation are not three numbers each; correct them")
    return found[0], found[1]


def _resample_hf_positions(model: Any, size: int) -> None:
    """Give the model a table of positions for images of `size` px, made from its own as timm makes it."""
    from timm.layers import resample_abs_pos_embed

    embeddings = model.embeddings
    side = size // model.config.patch_size
    if hasattr(embeddings, "position_embeddings"):  # DINOv2: (1, 1 + N, D), CLS first
        table = embeddings.position_embeddings.detach()
        table = resample_abs_pos_embed(table, [side, side], num_prefix_tokens=1)
        embeddings.position_embeddings = nn.Parameter(table)
    else:  # SigLIP: an embedding of N positions
        table = embeddings.position_embedding.weight.detach()[None]
        table = resample_abs_pos_embed(table, [side, side], num_prefix_tokens=0)[0]
        embeddings.position_embedding = nn.Embedding.from_pretrained(table)
        embeddings.position_ids = torch.arange(len(table))[None]


def _require_a_patch(source: str, size: int, patch: int) -> None:
    if size < patch:
        raise ModelError(
            f"encoder {source}: images of {size} px are smaller than one patch of {patch} px; enlarge them"
        )


def weights_digest(model: nn.Module) -> str:
    """Hex SHA-256 over every tensor of the state dict (dtype, shape, bytes), whatever the names and their order.

    Names are left out because libraries rename them in memory between versions, for one and the same checkpoint.
    """
    digests = []
    for tensor in model.state_dict().values():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digests.append(digest_bytes(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), content.data))
    return digest_bytes("\n".join(sorted(digests)).encode())
