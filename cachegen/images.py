"""Image files: decoding, and the one resize-and-normalise that every encoder family shares."""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# What files of these suffixes are in fact; Pillow would hand PostScript to a program of its own.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
DECODING = "first frame to RGB by Pillow, EXIF orientation ignored"  # recorded in feature stores
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def read_image(path: Path) -> Image.Image:
    """Decode a whole file to RGB (first frame, EXIF orientation ignored, as the paper's pipeline does).

    Pillow raises OSError, SyntaxError, ValueError, DecompressionBombError and more on damaged files.
    """
    return decode_image(path.read_bytes())


def decode_image(content: bytes) -> Image.Image:
    """The picture that a file's bytes hold, as `read_image` gives it."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return image.convert("RGB")


def unreadable_reason(path: Path, error: Exception) -> str:
    """One line on why `path` could not be decoded, the same wherever the dataset lies."""
    message = re.sub(r"<_io\.BytesIO object at \w+>", f"'{path.name}'", str(error)).replace(str(path), path.name)
    message = message.strip() or "no details"
    return f"{type(error).__name__}: {message.splitlines()[0]}"


@dataclass(frozen=True)
class Transform:
    """Resize straight to `size` x `size` without keeping the aspect (paper's release), scale to 0..1, normalise."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> float32 (3, size, size)."""
        resized = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        pixels = np.asarray(resized, dtype=np.float32) / np.float32(255)
        normalised = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def __str__(self) -> str:
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"resize {self.size}x{self.size} bicubic, /255, mean {mean}, std {std}"
