"""Names of encoders: NAME, NAME@SIZE for another image size, NAME#LAYER for another layer, NAME+NAME for fused ones."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cachegen.common.errors import ModelError
from cachegen.common.files import expanded
from cachegen.common.hub import is_there, looks_like_path, missing, model_config


@dataclass(frozen=True)
class EncoderName:
    """One encoder as the user wrote it (`text`, without the size) and as its family's loader understands it (`source`).

    `size`: side of the images in pixels, None for the model's own. `layer`: None for the default one.
    """

    text: str
    family: Literal["timm", "hf"]
    source: str
    size: int | None = None
    layer: int | None = None

    @property
    def repository(self) -> str:
        """Its place on the Hugging Face hub, if it has one."""
        place = self.source.removeprefix("hf-hub:").split("@")[0]
        return place if "/" in place else f"timm/{place}"

    @property
    def folder(self) -> Path | None:
        """Its local directory, if it is one."""
        folder = Path(self.source.removeprefix("local-dir:"))
        return folder if folder.is_dir() else None


def read_name(name: str) -> list[EncoderName]:
    """The encoders that `name` asks for; more than one is a fused encoder. Raises `ModelError`."""
    if expanded(name).is_dir():  # whatever characters its path has
        return [_resolve(name)]
    return [_member(text) for text in name.split("+")]


def _member(text: str) -> EncoderName:
    """TEXT, TEXT@SIZE, TEXT#LAYER or TEXT@SIZE#LAYER; ids of the hub have no "#", and a directory's own name wins."""
    found: dict[str, int] = {}
    for what, ending in (("layer", r"(.+)#(-?[0-9]{1,4})"), ("size", r"(.+)@([1-9][0-9]{1,3})")):
        match = re.fullmatch(ending, text)
        if match and not expanded(text).is_dir():
            text, found[what] = match[1], int(match[2])
    if "#" in text and not expanded(text).is_dir():
        raise ModelError(
            f"encoder {text}: # needs a whole number after it, and comes after the size; write NAME@SIZE#LAYER"
        )
    return _resolve(text, found.get("size"), found.get("layer"))


def _resolve(text: str, size: int | None = None, layer: int | None = None) -> EncoderName:
    folder = expanded(text)
    if not text:
        raise ModelError("encoder: a name is missing; write NAME, NAME@SIZE, NAME#LAYER or NAME+NAME")
    if folder.is_dir():
        config = model_config(folder)
        if "model_type" in config:
            return EncoderName(text, "hf", str(folder), size, layer)
        if "architecture" in config:
            return EncoderName(text, "timm", f"local-dir:{folder}", size, layer)
        raise ModelError(f"encoder {text}: config.json has neither model_type (transformers) nor architecture (timm)")
    if text.startswith(("hf-hub:", "local-dir:")):
        return EncoderName(text, "timm", text, size, layer)
    if text.startswith("timm/"):
        return EncoderName(text, "timm", f"hf-hub:{text}", size, layer)
    if is_there(folder) or looks_like_path(text):
        raise missing(text, "encoder")
    return EncoderName(text, "hf" if "/" in text else "timm", text, size, layer)
