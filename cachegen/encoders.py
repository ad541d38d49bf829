"""Frozen image encoders by their ecosystem names: timm names, Hugging Face ids, local directories of either.

Features are the output of the *penultimate block*, without the final norm, without CLS and register tokens
(the paper's release; `hidden_states[-2]` in transformers). `trust_remote_code` is never on.

Shapes: B = images, S = image side in pixels, T = tokens, P = patches, D = width.
"""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cachegen.device import choose_device
from cachegen.errors import ModelError
from cachegen.files import digest_bytes
from cachegen.images import Transform
from cachegen.progress import quiet_transformers

# model_type -> vision class, path of its block list. Prefix tokens: CLS and registers for DINOv2, none for SigLIP.
HF_FAMILIES = {
    "dinov2": ("Dinov2Model", "encoder.layer"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "encoder.layer"),
    "siglip": ("SiglipVisionModel", "encoder.layers"),
    "siglip_vision_model": ("SiglipVisionModel", "encoder.layers"),
}
# timm evaluates DINOv2 at 518 px; the paper, like transformers, reads it at 224 px (256 patches).
DINOV2_SIZE = 224


class Encoded(NamedTuple):
    """float32, on the encoder's device."""

    patches: torch.Tensor  # (B, P, D), penultimate block
    pooled_patches: torch.Tensor  # (B, D), mean of `patches`
    pooled_all_tokens: torch.Tensor  # (B, D), mean of all tokens of the last block after the final norm


@dataclass(frozen=True, eq=False)
class Loaded:
    """One family's way to say the same things: how to run the model, and what to tap."""

    model: nn.Module
    tokens: Callable[[torch.Tensor], torch.Tensor]  # (B, 3, S, S) -> (B, T, D) after the final norm
    blocks: nn.ModuleList | nn.Sequential
    n_prefix: int
    transform: Transform
    weights_digest: str


@dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen encoder on its device; call it on normalised pixels (B, 3, S, S) float32."""

    name: str
    loaded: Loaded
    device: torch.device
    n_patches: int
    width: int

    @property
    def transform(self) -> Transform:
        return self.loaded.transform

    @property
    def attributes(self) -> dict[str, Any]:
        """What a feature store records of its encoder."""
        depth = len(self.loaded.blocks)
        return {
            "encoder": self.name,
            "weights_digest": self.loaded.weights_digest,
            "layer": f"output of block {depth - 1} of {depth}, before the final norm, patches only",
            "image_size": self.transform.size,
            "transform": str(self.transform),
            "compute": "bfloat16 autocast" if self.device.type == "cuda" else "float32",
        }

    def __call__(self, pixels_B3SS: torch.Tensor) -> Encoded:
        penultimate_BTD, final_BTD = _run(self.loaded, pixels_B3SS.to(self.device))
        patches_BPD = penultimate_BTD[:, self.loaded.n_prefix :]
        return Encoded(patches_BPD, patches_BPD.mean(1), final_BTD.mean(1))


def load_encoder(name: str, device: str = "auto") -> Encoder:
    """Load a frozen encoder; `name` is resolved in this order:

    an existing directory (config.json with `model_type`: transformers, with `architecture`: timm); "timm/...",
    "hf-hub:..." or "local-dir:...": timm; another name with "/": a Hugging Face id; otherwise a timm name.
    Raises `ModelError` saying what to do.
    """
    place = choose_device(device)
    quiet_transformers()
    family, source = _resolve(name)
    try:
        loaded = _load_timm(source) if family == "timm" else _load_hf(source)
    except ModelError:
        raise
    except Exception as error:  # the hub, safetensors and both libraries raise a dozen unrelated types
        raise ModelError(f"encoder {name}: {_advice(name, error)}") from error
    if len(loaded.blocks) < 2:
        raise ModelError(
            f"encoder {name}: has {len(loaded.blocks)} block, so no penultimate one; choose a deeper model"
        )
    size = loaded.transform.size
    try:
        loaded.model.requires_grad_(False).eval().to(place)
        tokens_BTD, _ = _run(loaded, torch.zeros(1, 3, size, size, device=place))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"encoder {name}: does not run on {size} px images on {place} ({_first_line(error)})"
        ) from error
    _, n_tokens, width = tokens_BTD.shape
    return Encoder(name, loaded, place, n_tokens - loaded.n_prefix, width)


@torch.inference_mode()
def _run(loaded: Loaded, pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(penultimate block's output, last block's output after the final norm), both (B, T, D) float32."""
    tapped: list[torch.Tensor] = []
    handle = loaded.blocks[-2].register_forward_hook(
        lambda _block, _inputs, output: tapped.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        # Under autocast the residual stream and the norms stay float32; only matmuls are bfloat16.
        with torch.autocast(pixels_B3SS.device.type, torch.bfloat16, enabled=pixels_B3SS.is_cuda):
            final_BTD = loaded.tokens(pixels_B3SS)
    finally:
        handle.remove()
    return tapped[0].float(), final_BTD.float()


def _resolve(name: str) -> tuple[str, str]:
    """(family, name that this family's loader understands)."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"encoder {name}: no readable config.json in this directory ({error})") from None
        if "model_type" in config:
            return "hf", str(folder)
        if "architecture" in config:
            return "timm", f"local-dir:{folder}"
        raise ModelError(f"encoder {name}: config.json has neither model_type (transformers) nor architecture (timm)")
    if name.startswith(("hf-hub:", "local-dir:")):
        return "timm", name
    if name.startswith("timm/"):
        return "timm", f"hf-hub:{name}"
    if name.startswith((".", "/", "~")):
        raise ModelError(f"encoder {name}: no such directory; check the path")
    return ("hf" if "/" in name else "timm"), name


def _load_timm(source: str) -> Loaded:
    import timm

    if ":" not in source and not timm.is_model(source.split(".")[0]):
        near = difflib.get_close_matches(source, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models(), or give an id with '/'"
        raise ModelError(f"encoder {source}: timm has no such model; {hint}")
    model = timm.create_model(source, pretrained=True, num_classes=0)
    if not isinstance(getattr(model, "blocks", None), nn.ModuleList | nn.Sequential) or not hasattr(
        model, "num_prefix_tokens"
    ):
        raise ModelError(f"encoder {source}: is no vision transformer with blocks and patch tokens; choose a ViT")
    digest = weights_digest(model)  # before positions are resampled, which may differ between library versions
    config = model.pretrained_cfg
    own_size = model.patch_embed.img_size[0]
    size = min(own_size, DINOV2_SIZE) if "dinov2" in config["architecture"] else own_size
    if size != own_size:
        model.set_input_size(img_size=(size, size))
    transform = Transform(size, tuple(config["mean"]), tuple(config["std"]))
    return Loaded(model, model.forward_features, model.blocks, model.num_prefix_tokens, transform, digest)


def _load_hf(source: str) -> Loaded:
    import transformers
    from transformers.image_processing_utils import BaseImageProcessor

    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.model_type not in HF_FAMILIES:
        known = ", ".join(HF_FAMILIES)
        raise ModelError(f"encoder {source}: model type {config.model_type} is not supported (only {known}, or timm)")
    class_name, blocks = HF_FAMILIES[config.model_type]
    model, report = getattr(transformers, class_name).from_pretrained(
        source, dtype=torch.float32, output_loading_info=True
    )
    if report["missing_keys"]:  # transformers would fill them with random numbers and a warning
        raise ModelError(f"encoder {source}: its weights lack {sorted(report['missing_keys'])[0]} and maybe more")
    n_prefix = 0 if "siglip" in config.model_type else 1 + getattr(config, "num_register_tokens", 0)
    processor, _ = BaseImageProcessor.get_image_processor_dict(source)
    return Loaded(
        model=model,
        tokens=lambda pixels_B3SS: model(pixel_values=pixels_B3SS).last_hidden_state,
        blocks=model.get_submodule(blocks),
        n_prefix=n_prefix,
        transform=_hf_transform(source, processor),
        weights_digest=weights_digest(model),
    )


def _hf_transform(source: str, processor: dict[str, Any]) -> Transform:
    """Our one transform at the size and normalisation of a preprocessor_config.json."""
    size = processor["crop_size"] if processor.get("do_center_crop") else processor["size"]
    sides = {size} if isinstance(size, int) else set(size.values())
    if len(sides) != 1:
        raise ModelError(f"encoder {source}: its preprocessor asks for {size}; only square images are supported")
    if not processor.get("do_normalize", True):
        return Transform(sides.pop(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Transform(sides.pop(), tuple(processor["image_mean"]), tuple(processor["image_std"]))


def weights_digest(model: nn.Module) -> str:
    """Hex SHA-256 over every tensor of the state dict (dtype, shape, bytes), whatever the names and their order.

    Names are left out because libraries rename them in memory between versions, for one and the same checkpoint.
    """
    digests = []
    for tensor in model.state_dict().values():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digests.append(digest_bytes(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), content.data))
    return digest_bytes("\n".join(sorted(digests)).encode())


def _advice(name: str, error: BaseException) -> str:
    """What failed while loading, and what to do about it, in one line."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any("gated" in f"{type(each).__name__} {each}".lower() for each in chain):
        return f"is gated; accept its licence at huggingface.co/{name}, then `hf auth login` or set HF_TOKEN"
    return f"cannot be loaded ({_first_line(error)}); check name, files and network, or give a local directory"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
