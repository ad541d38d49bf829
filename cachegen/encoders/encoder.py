"""Running frozen encoders: the output of the *penultimate block*, without final norm, CLS and register tokens.

That is what the paper's release reads (`hidden_states[-2]` in transformers). A fused encoder runs several on the same
resized image, each with its own normalisation, and puts their features side by side.

Shapes: B images, S image side in pixels, T tokens, P patches, D width.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from cachegen.common.device import choose_device
from cachegen.common.errors import ModelError
from cachegen.common.files import digest_bytes
from cachegen.common.hub import advice, first_line
from cachegen.common.progress import quiet_transformers
from cachegen.data.images import RESAMPLING, Transform
from cachegen.encoders.families import VisionModel, load_vision_model
from cachegen.encoders.names import EncoderName, read_name

Compute = Literal["float32", "bfloat16"]  # precision of matrix products; the rest is float32


class Encoded(NamedTuple):
    """float32, on the encoder's device."""

    patches: torch.Tensor  # (B, P, D), penultimate block
    pooled_patches: torch.Tensor  # (B, D), mean of `patches`
    pooled_all_tokens: torch.Tensor  # (B, D), mean of all tokens of the last block after the final norm


@dataclass(frozen=True, eq=False)
class Encoder:
    """Frozen models on their device, one unless fused; call it on pixels (B, 3, S, S) float32 out of `transform`.

    On CUDA a call only gives the device work: it waits for none if the pixels are there already, or in pinned memory.
    """

    name: str
    models: tuple[VisionModel, ...]
    device: torch.device
    n_patches: int
    width: int
    compute: Compute

    @property
    def transform(self) -> Transform:
        """From image to pixels: one model's own; for a fused encoder resizing only, since each model normalises."""
        if len(self.models) == 1:
            return self.models[0].transform
        shared = self.models[0].transform
        return Transform(shared.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shared.resample)

    @property
    def left_out(self) -> str:
        """What the models' own preprocessing does to a picture's shape and the paper's rule does not; "" if nothing."""
        return " + ".join(filter(None, dict.fromkeys(model.transform.left_out for model in self.models)))

    @property
    def attributes(self) -> dict[str, Any]:
        """What a feature store records of its encoder; of a fused one, of each model in turn."""
        digests = [model.weights_digest for model in self.models]
        depths = [len(model.blocks) for model in self.models]
        return {
            "encoder": self.name,
            "weights_digest": digests[0] if len(digests) == 1 else digest_bytes(*map(str.encode, digests)),
            "layer": " + ".join(
                f"output of block {depth - 1} of {depth}, before the final norm, patches only" for depth in depths
            ),
            "image_size": self.transform.size,
            "transform": " + ".join(str(model.transform) for model in self.models),
            "compute": "bfloat16 autocast" if self.compute == "bfloat16" else "float32",
        } | ({"left_out": self.left_out} if self.left_out else {})

    def __call__(self, pixels_B3SS: torch.Tensor) -> Encoded:
        pixels_B3SS = pixels_B3SS.to(self.device, non_blocking=True)
        if len(self.models) == 1:
            return _encode(self.models[0], pixels_B3SS, self.compute)
        parts = [_encode(model, _normalised(pixels_B3SS, model.transform), self.compute) for model in self.models]
        return Encoded(*(torch.cat(features, dim=-1) for features in zip(*parts, strict=True)))


def load_encoder(name: str, device: str = "auto", compute: Compute | Literal["auto"] = "auto") -> Encoder:
    """Load a frozen encoder; `name` is resolved in this order:

    an existing directory (config.json with `model_type`: transformers, with `architecture`: timm); "timm/...",
    "hf-hub:..." or "local-dir:...": timm; another name with "/": a Hugging Face id; otherwise a timm name.
    NAME@SIZE reads images of SIZE x SIZE pixels, with positions resampled; NAME+NAME is a fused encoder whose
    features lie side by side. The release's fused encoder (384 px, 729 patches x 2,176) is
    "vit_large_patch14_reg4_dinov2.lvd142m@384+vit_so400m_patch14_siglip_384.webli".
    A timm name needs its tag where there are several: the release's SigLIP is "vit_so400m_patch14_siglip_224.webli",
    which later versions of timm no longer mean without it. Raises `ModelError` saying what to do.
    """
    place = choose_device(device)
    precision = choose_compute(compute, place)
    quiet_transformers()
    loaded = [_load(each, place, precision) for each in read_name(name)]
    sizes = [model.transform.size for model, _, _ in loaded]
    if len(set(sizes)) > 1:
        raise ModelError(
            f"encoder {name}: its models read images of {' and '.join(map(str, sizes))} px; fused encoders share one "
            f"size, append it to each name, for example @{max(sizes)}"
        )
    filters = {str(RESAMPLING[model.transform.resample]) for model, _, _ in loaded}
    if len(filters) > 1:
        raise ModelError(
            f"encoder {name}: its models ask for images resized by {' and '.join(sorted(filters))}; fused encoders "
            "share one resized image, choose models that agree"
        )
    patches = [n_patches for _, n_patches, _ in loaded]
    if len(set(patches)) > 1:
        raise ModelError(
            f"encoder {name}: its models cut an image into {' and '.join(map(str, patches))} patches, which cannot lie "
            "side by side; choose models with equal patches"
        )
    models, width = tuple(model for model, _, _ in loaded), sum(width for *_, width in loaded)
    return Encoder(name, models, place, patches[0], width, precision)


def choose_compute(name: Compute | Literal["auto"], device: torch.device) -> Compute:
    """The precision of that name; "auto" is bfloat16 on CUDA, else float32.

    On a CPU with AVX512-BF16, bfloat16 ran DINOv2-L at 224 px 3.4 times as fast and moved its features by 0.3 to 0.7 %
    (random weights, layer scales of 1e-5 to 1), where a store's bfloat16 rounds by 0.17 %.
    """
    if name == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return name


def _load(name: EncoderName, place: torch.device, compute: Compute) -> tuple[VisionModel, int, int]:
    """(model on its device, patches, width), tried on one black image."""
    try:
        model = load_vision_model(name)
    except ModelError:
        raise
    except Exception as error:  # the hub, safetensors and both libraries raise a dozen unrelated types
        raise ModelError(f"encoder {name.text}: {advice(name.repository, error)}") from error
    if len(model.blocks) < 2:
        raise ModelError(
            f"encoder {name.text}: has {len(model.blocks)} block, so no penultimate one; choose a deeper model"
        )
    size = model.transform.size
    try:
        model.model.requires_grad_(False).eval().to(place)
        tokens_BTD, final_BTD = _run(model, torch.zeros(1, 3, size, size, device=place), compute)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"encoder {name.text}: does not run on {size} px images on {place} ({first_line(error)})"
        ) from error
    n_prefix = tokens_BTD.shape[1] - model.n_patches
    if not tokens_BTD.ndim == final_BTD.ndim == 3 or len(tokens_BTD) != 1 or n_prefix not in (0, model.n_prefix):
        raise ModelError(
            f"encoder {name.text}: its last two blocks give {tuple(tokens_BTD.shape)} and {tuple(final_BTD.shape)}, "
            f"where {model.n_patches} patches behind {model.n_prefix} other tokens are expected; choose another ViT"
        )
    return dataclasses.replace(model, n_prefix=n_prefix), model.n_patches, tokens_BTD.shape[2]


def _normalised(pixels_B3SS: torch.Tensor, transform: Transform) -> torch.Tensor:
    """Pixels of 0..1 as `transform` would have given them."""
    if transform.scale is not None:
        pixels_B3SS = pixels_B3SS * (255 * transform.scale)
    mean, std = (
        torch.tensor(values)[:, None, None].to(pixels_B3SS.device, non_blocking=True)
        for values in (transform.mean, transform.std)
    )
    return (pixels_B3SS - mean) / std


def _encode(model: VisionModel, pixels_B3SS: torch.Tensor, compute: Compute) -> Encoded:
    penultimate_BTD, final_BTD = _run(model, pixels_B3SS, compute)
    patches_BPD = penultimate_BTD[:, model.n_prefix :]
    return Encoded(patches_BPD, patches_BPD.mean(1), final_BTD.mean(1))


@torch.inference_mode()
def _run(model: VisionModel, pixels_B3SS: torch.Tensor, compute: Compute) -> tuple[torch.Tensor, torch.Tensor]:
    """(penultimate block's output, last block's output after the final norm), both (B, T, D) float32."""
    tapped: list[torch.Tensor] = []
    handle = model.blocks[-2].register_forward_hook(
        lambda _block, _inputs, output: tapped.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        # Under autocast the residual stream and the norms stay float32; only matmuls are bfloat16.
        with torch.autocast(pixels_B3SS.device.type, torch.bfloat16, enabled=compute == "bfloat16"):
            final_BTD = model.tokens(pixels_B3SS)
    finally:
        handle.remove()
    return tapped[0].float(), final_BTD.float()
