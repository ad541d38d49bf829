"""Loading vision models of timm and of transformers: what each library calls the features of its layers.

Equal weights give equal features whichever library reads them. Where the two would differ, timm decides, because the
paper's release used it: tables of positions are resampled once, bicubic with antialiasing (transformers resamples
plain DINOv2 and SigLIP without). One difference is left, since it belongs to the model as each library ships it: timm
runs most SigLIP models, the so400m with patches of 14 px among them, with the exact GELU, transformers with the tanh
approximation. At so400m's size and random weights it moves features by 0.01 to 0.03 %, where a store's bfloat16 rounds
by 0.17 %.

Shapes: B images, S image side in pixels, T tokens, P patches, N positions, D width.
"""

import difflib
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES as VIDEO

from cachegen.common.errors import ModelError
from cachegen.common.files import digest_bytes
from cachegen.common.hub import SAFETENSORS, weight_files
from cachegen.encoders.layers import Loaded
from cachegen.encoders.names import EncoderName
from cachegen.encoders.preprocess import (
    Preprocess,
    hf_transform,
    own_hf_transform,
    own_timm_transform,
    timm_transform,
)

# timm evaluates DINOv2 at 518 px; the paper, like transformers, reads it at 224 px (256 patches).
DINOV2_SIZE = 224
MOST_PREFIX = 16  # tokens that a table of positions may have before its square of patches
KEEPS_ONE = (5, 23)  # version of transformers from which hidden states can be asked for by their index


def load_vision_model(name: EncoderName, preprocess: Preprocess = "paper") -> Loaded:
    """Load on the CPU in float32; `trust_remote_code` is never on. Raises `ModelError` or what the libraries raise."""
    return _load_timm(name, preprocess) if name.family == "timm" else _load_hf(name, preprocess)


def _load_timm(name: EncoderName, preprocess: Preprocess) -> Loaded:
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
    if not hasattr(model, "forward_intermediates"):
        raise ModelError(
            f"encoder {source}: timm gives no features of its layers (forward_intermediates); choose another"
        )
    digest = weights_digest(model)  # before positions are resampled, which may differ between library versions
    config, embed = model.pretrained_cfg, getattr(model, "patch_embed", None)
    fixed = getattr(embed, "img_size", None)  # convolutional models have none
    sides = set(fixed or config["input_size"][1:])
    if len(sides) != 1:
        raise ModelError(f"encoder {source}: reads no square images; choose another")
    own_size = sides.pop()
    size = name.size or (min(own_size, DINOV2_SIZE) if "dinov2" in config["architecture"] else own_size)
    patch = getattr(embed, "patch_size", None)
    patch = patch[0] if isinstance(patch, Sequence) else patch
    if size != own_size and fixed:
        if not hasattr(model, "set_input_size"):
            raise ModelError(f"encoder {source}: reads images of {own_size} px only; leave out @{size}")
        _require_a_patch(source, size, patch or 1)
        model.set_input_size(img_size=(size, size))
    transform = own_timm_transform if preprocess == "own" else timm_transform
    return timm_layers(model, transform(source, config, size), digest)


def timm_layers(model: Any, transform: Any, digest: str) -> Loaded:
    """A model of timm by its `forward_intermediates`, which leaves tokens before the patches out."""

    def features(pixels_B3SS: torch.Tensor, index: int | None) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
        indices = None if index is None else [index]
        forms = ("NLC", "NCHW") if hasattr(model, "blocks") else ("NCHW",)  # rows of patches, or maps
        for form in forms:
            try:
                final, layers = model.forward_intermediates(pixels_B3SS, indices=indices, norm=False, output_fmt=form)
                break
            except AssertionError:  # a form that it does not give
                if form == forms[-1]:
                    raise
        return layers, final[-1] if isinstance(final, list | tuple) else final

    return Loaded(model, features, 1, None, transform, digest)


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


def _load_hf(name: EncoderName, preprocess: Preprocess) -> Loaded:
    source = name.source
    config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    _require_pictures(source, config)
    if name.folder:
        weight_files(name.folder)
    whole, report = transformers.AutoModel.from_pretrained(
        source, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
        output_loading_info=True,
    )  # fmt: skip
    lacking = sorted(report["missing_keys"])
    for key, tensor in whole.state_dict().items():
        if key in lacking and tensor.is_floating_point():  # transformers fills them with random numbers and a warning
            tensor.fill_(math.nan)
    model = _tower(source, whole)
    digest = weights_digest(model)
    patch = getattr(model.config, "patch_size", None)
    patch = patch[0] if isinstance(patch, Sequence) else patch
    if preprocess == "own":
        transform: Any = own_hf_transform(source, name.size)
    else:
        processor, _ = BaseImageProcessor.get_image_processor_dict(source)
        transform = hf_transform(source, processor, name.size)
    if patch:
        _require_a_patch(source, transform.size, patch)
    if patch and model.config.model_type != "siglip2_vision_model":  # which resamples them itself
        _resample_positions(model, transform.size // patch)
    first = int(model.config.model_type == "timm_wrapper")
    return Loaded(model, _hf_features(model, transform.size, patch), first, patch, transform, digest, tuple(lacking))


def _require_pictures(source: str, config: Any) -> None:
    """Raise `ModelError` before weights are read if no part of this model reads single images."""
    kind = f"encoder {source}: model type {config.model_type}"
    if type(config) not in transformers.MODEL_MAPPING:
        raise ModelError(f"{kind} is none that transformers' AutoModel loads; choose another")
    found = transformers.MODEL_MAPPING[type(config)]
    found = found[0] if isinstance(found, tuple) else found
    inputs = inspect.signature(found.forward).parameters
    if config.model_type in VIDEO or hasattr(config, "num_frames") or found.main_input_name == "pixel_values_videos":
        raise ModelError(f"{kind} reads videos, not images; choose another")
    if "pixel_values" not in inputs:
        raise ModelError(f"{kind} reads {list(inputs)[1]}, not images; choose another")


def _tower(source: str, whole: Any) -> Any:
    """The part of a model of transformers that reads images alone: the model itself, or its vision tower."""
    for module in whole.modules():
        if isinstance(module, transformers.PreTrainedModel):
            inputs = inspect.signature(module.forward).parameters
            if "pixel_values" in inputs and not {"input_ids", "qformer_input_ids"} & set(inputs):
                needed = [
                    each for each in inputs.values() if each.default is each.empty and each.kind is not each.VAR_KEYWORD
                ]
                if others := {each.name for each in needed} - {
                    "pixel_values",
                    "pixel_attention_mask",
                    "spatial_shapes",
                }:
                    raise ModelError(f"encoder {source}: needs {sorted(others)[0]} besides pixels; choose another")
                return module
    raise ModelError(
        f"encoder {source}: no part of model type {whole.config.model_type} reads images alone; choose another"
    )


def _hf_features(model: Any, size: int, patch: int | None) -> Any:
    """A model of transformers by its hidden states, as maps where it gives these too.

    Without masks: MAE drops and shuffles patches, at a mask ratio of 0 too, unless `noise` says in which order.
    """
    inputs = inspect.signature(model.forward).parameters
    model.config.tie_last_hidden_states = False  # the last one before the final norm
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0
    count = (size // patch) ** 2 if patch else 0
    by_index = tuple(map(int, transformers.__version__.split(".")[:2])) >= KEEPS_ONE
    given: dict[str, Any] = {}
    if "interpolate_pos_encoding" in inputs and size != getattr(model.config, "image_size", size):
        given["interpolate_pos_encoding"] = True

    def features(pixels_B3SS: torch.Tensor, index: int | None) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
        arguments = {"pixel_values": pixels_B3SS, **given}
        if "noise" in inputs and "mask_ratio" in model.config:
            arguments["noise"] = torch.arange(count, device=pixels_B3SS.device).expand(len(pixels_B3SS), -1)
        if "spatial_shapes" in inputs:
            arguments |= _patches(pixels_B3SS, patch or 1)
        kept = [index] if by_index and index is not None else True
        output = model(**arguments, output_hidden_states=kept, return_dict=True)
        found = getattr(output, "reshaped_hidden_states", None) or getattr(output, "hidden_states", None)
        layers: list[Any] = list(found or ())
        final = getattr(output, "last_hidden_state", None)
        if index is not None:
            layers = [layers[min(index, len(layers) - 1)]]
        return layers, layers[-1] if final is None else final

    return features


def _patches(pixels_B3SS: torch.Tensor, patch: int) -> dict[str, torch.Tensor]:
    """What SigLIP 2 reads instead of pixels: every patch as a row (y, x, colour), and how many there are each way."""
    side, count = pixels_B3SS.shape[2] // patch, len(pixels_B3SS)
    cut = pixels_B3SS[:, :, : side * patch, : side * patch].unflatten(3, (side, patch)).unflatten(2, (side, patch))
    rows = cut.permute(0, 2, 4, 3, 5, 1).reshape(count, side * side, -1)
    mask = torch.ones(count, side * side, dtype=torch.long, device=rows.device)
    shapes = torch.tensor([[side, side]] * count)
    return {"pixel_values": rows, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def _resample_positions(model: Any, side: int) -> None:
    """Give a model of transformers a table of positions for `side` x `side` patches, made from its own as by timm.

    Tables are parameters (1, N, D), or embeddings of N positions; those of CLS and of other tokens come first.
    """
    from timm.layers import resample_abs_pos_embed

    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        embedding = getattr(module, "position_embedding", None)
        rows = embedding.weight[None] if isinstance(embedding, nn.Embedding) else table
        if not isinstance(rows, torch.Tensor) or rows.ndim != 3 or len(rows) != 1:
            continue
        prefix = rows.shape[1] - math.isqrt(rows.shape[1]) ** 2
        if prefix > MOST_PREFIX or rows.shape[1] == prefix + side * side:
            continue
        rows = resample_abs_pos_embed(rows.detach(), [side, side], num_prefix_tokens=prefix)
        if isinstance(embedding, nn.Embedding):
            module.position_embedding = nn.Embedding.from_pretrained(rows[0])
            module.position_ids = torch.arange(rows.shape[1])[None]
        else:
            module.position_embeddings = nn.Parameter(rows)


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
