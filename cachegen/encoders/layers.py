"""Which of a model's features become patches, and the checks at load that they are patches.

A vision transformer has blocks, whose outputs all have one shape: the paper reads the *penultimate* one. Models whose
outputs differ in shape (convolutional and hierarchical ones) have stages: the last is read, since a stage is many
blocks and the one before it lies far from the end. NAME#LAYER reads another.

Shapes: B images, S image side in pixels, T tokens, P patches, D width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cachegen.common.errors import ModelError
from cachegen.encoders.preprocess import AnyTransform

SAME, NEAR, LOCAL, SIDEWAYS = 0.05, 1.5, 3, 0.1  # see `_require_patches`


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model as its library gives it.

    features: pixels (B, 3, S, S) and None, or an index -> (features of all layers, or of this one only; the last
        layer's after the final norm). Each is (B, T, D), (B, D, h, w) or (B, h, w, D).
    first: number of the first of these features. 0: it is what enters the first block (transformers); 1 (timm).
    patch: side of a patch in pixels, if known. lacking: weights that the checkpoint does not have; they are NaN.
    """

    model: nn.Module
    features: Callable[[torch.Tensor, int | None], tuple[Sequence[torch.Tensor], torch.Tensor]]
    first: int
    patch: int | None
    transform: AnyTransform
    weights_digest: str
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class VisionModel:
    """A model with the layer that is read. `side`: patches in a row of the image. `layer`: which it is, in words."""

    model: nn.Module
    read: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # (B, 3, S, S) -> (B, P, D), (B, T, D)
    side: int
    width: int
    layer: str
    transform: AnyTransform
    weights_digest: str


def choose_layer(loaded: Loaded, text: str, number: int | None, device: torch.device) -> VisionModel:
    """The model reading layer `number`, or its default one, tried on noise; `text` names it in errors.

    Raises `ModelError` if there is no such layer, or its features are not the patches of an image in reading order.
    """
    size = loaded.transform.size
    noise = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0))
    picture, others = noise[:1].to(device), noise[1:].to(device)
    layers, final = loaded.features(picture, None)
    if not layers or not all(isinstance(layer, torch.Tensor) and layer.ndim in (3, 4) for layer in layers):
        raise ModelError(
            f"encoder {text}: gives no single row or grid of tokens for each of its layers; choose another"
        )
    shapes, last = [layer.shape for layer in layers], loaded.first + len(layers) - 1
    blocks = len(set(shapes)) == 1
    if number is None and blocks and last < 2:
        raise ModelError(
            f"encoder {text}: has {last} block, so no penultimate one; choose a deeper model, or append #1"
        )
    wanted = (last - 1 if blocks else last) if number is None else number + (last + 1 if number < 0 else 0)
    index = wanted - loaded.first
    if not 0 <= index < len(layers):
        raise ModelError(
            f"encoder {text}: has no layer {number}; the layers are {loaded.first} to {last}, or -1 for the last"
        )
    side = _grid(shapes[index], size, loaded.patch)
    if side < 1:
        raise ModelError(
            f"encoder {text}: its features of shape {tuple(shapes[index][1:])} are no square grid of patches"
        )
    early = shapes.index(shapes[index])  # the first of that shape: patches have hardly met there
    start = _require_patches(loaded, text, early, side, picture, others)
    if not all(tensor.isfinite().all() for tensor in (layers[index], _tokens(final))):
        lacking = f"its weights lack {loaded.lacking[0]} and maybe more" if loaded.lacking else None
        why = lacking or "its features are NaN or infinite"
        raise ModelError(f"encoder {text}: {why}; choose another, or download it again")

    def read(pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (layer,), final = loaded.features(pixels_B3SS, index)
        return _cells(layer, start, side), _tokens(final)

    what = f"feature map {wanted} of {loaded.first}..{last}, {side} x {side} cells"
    if blocks:
        what = f"output of block {wanted} of {last}, before the final norm, patches only"
        what = what if wanted else f"input of block 1 of {last}, patches only"
    width = _cells(layers[index], start, side).shape[2]
    return VisionModel(loaded.model, read, side, width, what, loaded.transform, loaded.weights_digest)


def _grid(shape: torch.Size, size: int, patch: int | None) -> int:
    """Patches in a row of the image; 0 if they form no square."""
    if len(shape) == 4:
        return shape[2] if shape[2] == shape[3] or shape[1] == shape[2] else 0
    by_patch = size // patch if patch else 0
    return by_patch if 0 < by_patch**2 <= shape[1] else math.isqrt(shape[1])


def _cells(layer: torch.Tensor, start: int, side: int) -> torch.Tensor:
    """(B, P, D): `side` x `side` cells of a row of tokens from `start` on, or of a map, row by row."""
    if layer.ndim == 3:
        return layer[:, start : start + side * side]
    return _tokens(layer)


def _tokens(layer: torch.Tensor) -> torch.Tensor:
    """(B, T, D) of a row of tokens, of a square map with its channels first or last, or of one vector."""
    if layer.ndim == 2:
        return layer[:, None]
    if layer.ndim == 3:
        return layer
    return layer.flatten(2).mT.contiguous() if layer.shape[2] == layer.shape[3] else layer.flatten(1, 2)


def _require_patches(
    loaded: Loaded, text: str, index: int, side: int, picture: torch.Tensor, others: torch.Tensor
) -> int:
    """Where patches start among the tokens of this layer, found by changing one patch of an image at a time.

    Where some token moves much more than all do on average, so must the one of the changed patch, for four patches of
    which three leave the diagonal: another order of patches fails, and tokens of another kind among them. Of a map, a
    change on the right must not move more on the left, and the other way round. In an image that is the same, nothing
    may move by more than rounding: models that mask patches at random fail.
    """
    places = [(0, 0), (0, side - 1), (side - 1, 0), (side // 3, 2 * side // 3)]
    changed, size = picture.repeat(5, 1, 1, 1), picture.shape[2]
    for which, (row, column) in enumerate(places, 1):
        rows, columns = (slice(at * size // side, (at + 1) * size // side) for at in (row, column))
        changed[which, :, rows, columns] = others[which, :, rows, columns]
    (alone,), _ = loaded.features(picture, index)
    (layer,), _ = loaded.features(changed, index)
    tokens = _tokens(layer).float()
    if not (tokens[0] - _tokens(alone)[0]).norm() <= SAME * tokens[0].norm() and not tokens.isnan().any():
        raise ModelError(f"encoder {text}: its features of one image change from run to run; choose another")
    moved = (tokens[1:] - tokens[0]).norm(dim=2)  # (4, T)
    start = int(moved[0].argmax()) if layer.ndim == 3 else 0
    start = min(start, tokens.shape[1] - side * side)
    patches = moved[:, start : start + side * side]
    own = torch.stack([patches[which, row * side + column] for which, (row, column) in enumerate(places)])
    mean = moved.mean(1)
    wrong = (moved.amax(1) > LOCAL * mean) | (moved.shape[1] > side * side)
    wrong &= ~(own > NEAR * mean)
    if layer.ndim == 4:  # of convolutions, that blur and shift: it is enough that the two axes are not exchanged
        across = torch.linspace(-1, 1, side, device=patches.device)
        right = patches.view(4, side, side).sum(1) @ across / patches.sum(1)  # (4,), -1 to 1: where things moved
        wrong = (right[1] < -SIDEWAYS) & (right[2] > SIDEWAYS)
    if side > 1 and bool(wrong.any()) and not tokens.isnan().any():
        raise ModelError(
            f"encoder {text}: its {tokens.shape[1]} tokens are not {side} x {side} patches in reading order (changing "
            "one patch of an image moves tokens of others); choose another"
        )
    return start
