"""Running frozen encoders: the output of the *penultimate block*, without final norm, CLS and register tokens.

That is what the paper's release reads (`hidden_states[-2]` in transformers); NAME#LAYER is another layer. A fused
encoder runs several on the same resized image, each with its own normalisation, and puts their features side by side.

Shapes: B images, S image side in pixels, T tokens, P patches, D width.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from cachegen.common.device import choose_device
from cachegen.common.errors import ModelError
from cachegen.common.files import digest_bytes
from cachegen.common.hub import advice, first_line
from cachegen.common.progress import quiet_transformers
from cachegen.data.images import RESAMPLING, Transform
from cachegen.encoders.layers import VisionModel, choose_layer
from cachegen.encoders.models import load_vision_model
from cachegen.encoders.names import EncoderName, read_name
from cachegen.encoders.preprocess import AnyTransform, OwnTransform, Preprocess

Compute = Literal["float32", "bfloat16"]  # precision of matrix products; the rest is float32


class Encoded(NamedTuple):
    """float32, on the encoder's device."""

    patches: torch.Tensor  # (B, P, D), the layer that is read
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
    def transform(self) -> AnyTransform:
        """From image to pixels: one model's own; for a fused encoder resizing only, since each model normalises."""
        if len(self.models) == 1:
            return self.models[0].transform
        shared = self.models[0].transform
        assert isinstance(shared, Transform)
        return Transform(shared.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shared.resample)

    @property
    def left_out(self) -> str:
        """What the models' own preprocessing does to an image's shape and the paper's rule does not; "" if nothing."""
        return " + ".join(filter(None, dict.fromkeys(model.transform.left_out for model in self.models)))

    @property
    def attributes(self) -> dict[str, Any]:
        """What a feature store records of its encoder; of a fused one, of each model in turn."""
        digests = [model.weights_digest for model in self.models]
        own = {"preprocess": "own"} if isinstance(self.transform, OwnTransform) else {}
        return {
            "encoder": self.name,
            "weights_digest": digests[0] if len(digests) == 1 else digest_bytes(*map(str.encode, digests)),
            "layer": " + ".join(model.layer for model in self.models),
            "image_size": self.transform.size,
            "transform": " + ".join(str(model.transform) for model in self.models),
            "compute": "bfloat16 autocast" if self.compute == "bfloat16" else "float32",
        } | ({"left_out": self.left_out} if self.left_out else own)

    def __call__(self, pixels_B3SS: torch.Tensor) -> Encoded:
        pixels_B3SS = pixels_B3SS.to(self.device, non_blocking=True)
        if len(self.models) == 1:
            return _encode(self.models[0], pixels_B3SS, self.compute)
        parts = [_encode(model, _normalised(pixels_B3SS, model.transform), self.compute) for model in self.models]
        return Encoded(*(torch.cat(features, dim=-1) for features in zip(*parts, strict=True)))


def load_encoder(
    name: str, device: str = "auto", compute: Compute | Literal["auto"] = "auto", preprocess: Preprocess = "paper"
) -> Encoder:
    """Load a frozen encoder; `name` is resolved in this order:

    an existing directory (config.json with `model_type`: transformers, with `architecture`: timm); "timm/...",
    "hf-hub:..." or "local-dir:...": timm; another name with "/": a Hugging Face id; otherwise a timm name.
    NAME@SIZE reads images of SIZE x SIZE pixels, with positions resampled. NAME#LAYER reads another layer than the
    penultimate block, or than the last stage of a model whose layers differ in shape: they count from 1, and -1 is the
    last (in transformers 0 is what enters the first block). NAME+NAME is a fused encoder whose features lie side by
    side. The release's fused encoder (384 px, 729 patches x 2,176) is
    "vit_large_patch14_reg4_dinov2.lvd142m@384+vit_so400m_patch14_siglip_384.webli".
    A timm name needs its tag where there are several: the release's SigLIP is "vit_so400m_patch14_siglip_224.webli",
    which later versions of timm no longer mean without it.
    preprocess: "paper" resizes images straight to a square; "own" does with them what the model's own files say.
    Raises `ModelError` saying what to do.
    """
    place = choose_device(device)
    precision = choose_compute(compute, place)
    quiet_transformers()
    names = read_name(name)
    if preprocess == "own" and len(names) > 1:
        raise ModelError(
            f"encoder {name}: fused encoders share one resized image, so --preprocess own is for single ones"
        )
    models = [_load(each, place, precision, preprocess) for each in names]
    if len(models) == 1:
        return Encoder(name, tuple(models), place, models[0].side ** 2, models[0].width, precision)
    sizes = [model.transform.size for model in models]
    if len(set(sizes)) > 1:
        raise ModelError(
            f"encoder {name}: its models read images of {' and '.join(map(str, sizes))} px; fused encoders share one "
            f"size, append it to each name, for example @{max(sizes)}"
        )
    filters = {RESAMPLING[model.transform.resample] for model in models if isinstance(model.transform, Transform)}
    if len(filters) > 1:
        raise ModelError(
            f"encoder {name}: its models ask for images resized by {' and '.join(sorted(filters))}; fused encoders "
            "share one resized image, choose models that agree"
        )
    patches = [model.side**2 for model in models]
    if len(set(patches)) > 1:
        raise ModelError(
            f"encoder {name}: its models cut an image into {' and '.join(map(str, patches))} patches, which cannot lie "
            "side by side; choose models with equal patches"
        )
    return Encoder(name, tuple(models), place, patches[0], sum(model.width for model in models), precision)


def choose_compute(name: Compute | Literal["auto"], device: torch.device) -> Compute:
    """The precision of that name; "auto" is bfloat16 on CUDA, else float32.

    On a CPU with AVX512-BF16, bfloat16 ran DINOv2-L at 224 px 3.4 times as fast and moved its features by 0.3 to 0.7 %
    (random weights, layer scales of 1e-5 to 1), where a store's bfloat16 rounds by 0.17 %.
    """
    if name == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return name


def _load(name: EncoderName, place: torch.device, compute: Compute, preprocess: Preprocess) -> VisionModel:
    """The model on its device, tried on noise."""
    try:
        loaded = load_vision_model(name, preprocess)
    except ModelError:
        raise
    except Exception as error:  # the hub, safetensors and both libraries raise a dozen unrelated types
        raise ModelError(f"encoder {name.text}: {advice(name.repository, error)}") from error
    try:
        loaded.model.requires_grad_(False).eval().to(place)
        with torch.inference_mode(), _precision(place, compute):
            return choose_layer(loaded, name.text, name.layer, place)
    except ModelError:
        raise
    except Exception as error:  # models check their input in as many ways
        size = loaded.transform.size
        raise ModelError(
            f"encoder {name.text}: does not run on {size} px images on {place} ({first_line(error)})"
        ) from error


def _normalised(pixels_B3SS: torch.Tensor, transform: Any) -> torch.Tensor:
    """Pixels of 0..1 as `transform` would have given them."""
    if transform.scale is not None:
        pixels_B3SS = pixels_B3SS * (255 * transform.scale)
    mean, std = (
        torch.tensor(values)[:, None, None].to(pixels_B3SS.device, non_blocking=True)
        for values in (transform.mean, transform.std)
    )
    return (pixels_B3SS - mean) / std


@torch.inference_mode()
def _encode(model: VisionModel, pixels_B3SS: torch.Tensor, compute: Compute) -> Encoded:
    with _precision(pixels_B3SS.device, compute):
        patches_BPD, final_BTD = model.read(pixels_B3SS)
    patches_BPD = patches_BPD.float()
    return Encoded(patches_BPD, patches_BPD.mean(1), final_BTD.float().mean(1))


def _precision(device: torch.device, compute: Compute) -> torch.autocast:
    """Under autocast the residual stream and the norms stay float32; only matmuls are bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=compute == "bfloat16")
