"""From an image to pixels: the paper's resizing with values of a model's own files, or their own way throughout."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import transformers
from PIL import Image

from cachegen.common.errors import ModelError
from cachegen.common.hub import first_line
from cachegen.data.images import RESAMPLING, Transform

Preprocess = Literal["paper", "own"]
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


@dataclass(frozen=True, eq=False)
class OwnTransform:
    """A model's own preprocessing, carried out by its library. `text`: all of its settings, on one line."""

    size: int
    pixels: Callable[[Image.Image], np.ndarray]
    text: str
    left_out: str = ""

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> float32 (3, size, size)."""
        return np.ascontiguousarray(self.pixels(image), dtype=np.float32)

    def __str__(self) -> str:
        return self.text


AnyTransform = Transform | OwnTransform


def own_transform(place: str, size: int | None, pixels: Callable[[Image.Image], np.ndarray], text: str) -> OwnTransform:
    """`pixels`, tried on a wide image; raises `ModelError` if it gives no squares (of `size`, if given)."""
    try:
        shape = np.shape(pixels(Image.new("RGB", (640, 480))))
    except Exception as error:  # whatever a preprocessor raises about its settings
        raise ModelError(f"{place} own preprocessing fails ({first_line(error)}); use --preprocess paper") from error
    if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2] or size not in (None, shape[1]):
        given = " x ".join(map(str, shape))
        raise ModelError(
            f"{place} own preprocessing gives {given} numbers for an image of 640 x 480 px, not 3 x {size or 'S'} x "
            f"{size or 'S'}; use --preprocess paper"
        )
    return OwnTransform(shape[1], pixels, " ".join(f"own: {text}".split()))


def own_timm_transform(source: str, config: dict[str, Any], size: int) -> OwnTransform:
    """timm's own evaluation: resize to size / crop_pct, crop."""
    from timm.data import create_transform, resolve_data_config

    steps = create_transform(**resolve_data_config({"input_size": (3, size, size)}, pretrained_cfg=config))
    return own_transform(f"encoder {source}: its", size, lambda image: steps(image).numpy(), str(steps))


def own_hf_transform(source: str, size: int | None) -> OwnTransform:
    """That of transformers' AutoImageProcessor, by Pillow, whose results do not depend on other libraries' versions."""
    processor = transformers.AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)

    def pixels(image: Image.Image) -> np.ndarray:
        return np.asarray(processor(image, return_tensors="np")["pixel_values"][0])

    text = json.dumps(json.loads(processor.to_json_string()), sort_keys=True)
    return own_transform(f"encoder {source}: its", size, pixels, text)


def timm_transform(source: str, config: dict[str, Any], size: int) -> Transform:
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


def hf_transform(source: str, own: dict[str, Any], size: int | None) -> Transform:
    """Our one transform, at the size asked for or a preprocessor_config.json's, with what that says of values.

    Values (rescale, normalise, filter) are taken over; where shapes are concerned the paper's rule decides, which
    resizes straight to a square, and what is left out of the preprocessor's is recorded. Raises `ModelError` for a step
    that this transform has no form for.
    """
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
