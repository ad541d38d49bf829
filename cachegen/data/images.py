"""Image files: decoding, and the one resize-and-normalise that every encoder family shares."""

import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from cachegen.common.errors import CrosstaxError, StoreError

# What is read, whatever the suffix says; Pillow would hand PostScript to a program of its own.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".jfif", ".jpe", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
    *(".avifs", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Pictures that are not read: counted, not passed over like other files.
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".svg", ".svgz", ".psd", ".psb", ".jxl", ".jxr", ".eps", ".ps", ".pdf", ".ai", ".wmf"),
    *(".emf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".tga", ".ico", ".icns", ".pcx"),
    *(".sgi", ".ras", ".exr", ".hdr", ".pfm", ".dds", ".xcf", ".fits", ".dcm", ".qoi", ".xbm", ".xpm", ".pcd", ".bpg"),
)
# What else a file can be whose suffix is a picture's: how it starts, and what it is then.
OTHER_CONTENT = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the image itself; fetch it with `git lfs pull`"),
    (rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", "a web page, perhaps of an error"),
    (rb"\s*(<\?xml.*?\?>\s*)?(<!--.*?-->\s*)?(<!doctype svg.*?>\s*)?<svg", "an SVG drawing"),
    (rb"\s*<\?xml", "an XML file, perhaps of an error"),
    (rb"\s*[{\[]", "a JSON file or other text"),
    (rb"%PDF", "a PDF file"),
    (rb"(%!PS|\xc5\xd0\xd3\xc6)", "a PostScript file"),
    (rb"8BPS", "a Photoshop file"),
    (rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b", "an archive"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image"),
    (rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "a HEIC image"),
    (rb".{4}ftypavi[fs]", "an AVIF image that is damaged, or that this Pillow was built without"),
    (rb".{4}ftyp", "a video"),
    (rb"\xff\xd8", "a JPEG that is damaged, or cut off near its start"),
    (rb"\x89PNG", "a PNG that is damaged, or cut off near its start"),
    (rb"RIFF.{4}WEBP", "a WebP that is damaged, or cut off near its start"),
    (rb"GIF8", "a GIF that is damaged, or cut off near its start"),
    (rb"BM", "a BMP that is damaged, or cut off near its start"),
    (rb"II[*+]\0|MM\0[*+]", "a TIFF that is damaged, or in a form that Pillow does not read"),
    (rb"\0*\Z", "nothing but zero bytes, as an interrupted download leaves them"),
    (rb"[\t\n\r -~\x80-\xff]+\Z", "a text"),
)
ORIENTATION = 0x0112  # EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF
# Damaged EXIF data are no reason to say anything: only the orientation is read.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
# Pictures up to twice the pixels at which Pillow warns are read, larger ones are refused.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
LARGEST = 2**30  # bytes of a picture's file; Pillow refuses the pixels that more would hold
RESAMPLING = {filter.value: filter.name.lower() for filter in Image.Resampling}


@dataclass(frozen=True)
class Decoding:
    """How a file becomes RGB of 8 bit where there is a choice; its text is a store's attribute `decoding`.

    background: what shows through transparent parts, "#rrggbb"; None: as in stores without the attribute, made before
    0.1.0 was released, where transparency was dropped and 16-bit greyscale clipped.
    upright: whether a turn that EXIF asks for is carried out. By default it is not: the paper's pipeline, torchvision
    and timm read images as they are stored.
    """

    background: str | None = "#ffffff"
    upright: bool = False

    def __str__(self) -> str:
        if self.background is None:
            return (
                "as in older versions: transparency dropped, 16-bit greyscale clipped, EXIF orientation ignored; "
                "where images are transparent or of 16 bit, extract them anew into another store"
            )
        orientation = "applied" if self.upright else "ignored"
        return f"transparency on {self.background}, 16-bit greyscale scaled, EXIF orientation {orientation}"

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Decoding":
        """How the images of a store with these attributes were decoded; raises `StoreError` if that is not known."""
        text = attributes.get("decoding")
        background = re.search("on (#[0-9a-f]{6}),", str(text))
        found = cls(background[1], str(text).endswith("applied")) if background else cls(None)
        if text is not None and str(found) != text:
            raise StoreError(f"this version does not decode images as the store says ({text!r}); update crosstax")
        return found

    @classmethod
    def ask(cls, background: str | None, upright: bool) -> "Decoding | None":
        """What a command line asks for, None if nothing; raises `CrosstaxError` for what is no colour."""
        if background is None:
            return cls(upright=True) if upright else None
        try:
            red, green, blue = ImageColor.getrgb(background)
        except ValueError:
            raise CrosstaxError(
                f"background {background[:40]!r} is no colour; give a name such as white or gray, or #RRGGBB"
            ) from None
        return cls(f"#{red:02x}{green:02x}{blue:02x}", upright)


DECODING = Decoding()


class Decoded(NamedTuple):
    """An RGB image, and what its file was."""

    image: Image.Image
    turned: bool  # EXIF asks for a turn or a flip
    transparent: bool  # in part
    deep: bool  # 16 bit per channel
    several: bool  # animated, or several pages; the first is read


def read_image(path: Path, decoding: Decoding = DECODING) -> Image.Image:
    """Decode a whole file to RGB: its first frame or page.

    Pillow raises OSError, SyntaxError, ValueError, DecompressionBombError and more on damaged files.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    return decode(path.read_bytes(), decoding).image


def decode(content: bytes, decoding: Decoding = DECODING) -> Decoded:
    """The image that a file's bytes hold, and what kind of file it was; raises as `read_image` does."""
    try:
        file = Image.open(io.BytesIO(content), formats=FORMATS)
    except OSError as error:  # an UnidentifiedImageError is one
        raise type(error)(what_it_is(content)) from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise Image.DecompressionBombError(f"it claims more than {most:,} pixels; make it smaller") from None
    with file:
        raw = str(file.tile)  # says how samples are stored; empty once they are loaded
        deep = ";16" in raw or file.mode.startswith("I;16")
        _scale_key(file, raw)
        file.load()
        turn = UPRIGHT.get(_orientation(file))
        transparent = False
        if decoding.background is None:
            image = file.convert("RGB")
        else:
            image, transparent = _composited(_eight_bit(file), decoding.background)
        if turn is not None and decoding.upright:
            image = image.transpose(turn)
        return Decoded(image, turn is not None, transparent, deep or file.mode == "I", _several(file))


def _orientation(file: Image.Image) -> int:
    """EXIF's number; Pillow itself turns TIFF upright, and no longer reports it then."""
    try:
        return int(file.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever damaged metadata raise, the picture was read
        return 1


def _several(file: Image.Image) -> bool:
    try:  # MPO: a photograph with its preview, depth or brightness map behind it
        return file.format != "MPO" and bool(getattr(file, "is_animated", False))
    except Exception:  # damaged behind the first frame
        return True


def _scale_key(file: Image.Image, raw: str) -> None:
    """PNG: the grey or colour that is transparent, which Pillow leaves as it is where it scales pixels to 8 bit."""
    key = file.info.get("transparency")
    if isinstance(key, tuple) and ";16" in raw:
        file.info["transparency"] = tuple(value >> 8 for value in key)
    elif isinstance(key, int) and file.mode == "L" and (depth := re.search("'L;([24])", raw)):
        file.info["transparency"] = key * {"2": 85, "4": 17}[depth[1]]


def _eight_bit(file: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bit as its high byte, which is what Pillow makes of 16-bit colours; others as they are.

    Raises ValueError where nothing says which value is white.
    """
    if not file.mode.startswith(("I", "F")):
        return file
    if file.mode == "F" or (file.mode == "I" and file.format not in ("PNG", "PPM")):  # those two are 16 bit there
        raise ValueError(
            "its pixels are 32-bit or signed numbers, and nothing says which is white; save it with 8 or 16 bit"
        )
    tags = getattr(file, "tag_v2", {})
    values = np.asarray(file)
    grey = (values >> (4 if tags.get(BITS_PER_SAMPLE) == (12,) else 8)).astype(np.uint8)
    image = Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey)
    key = file.info.get("transparency")
    if key is not None:
        image.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return image


def _composited(image: Image.Image, background: str) -> tuple[Image.Image, bool]:
    """(RGB, whether parts are transparent): as `convert` gives it if nothing is."""
    if not image.has_transparency_data:
        return image.convert("RGB"), False
    if image.mode == "La":
        image = image.convert("LA")
    layer = image.convert("RGBA")
    lowest, _ = layer.getextrema()[3]
    if lowest == 255:
        return layer.convert("RGB"), False
    ground = Image.new("RGBA", layer.size, background)
    return Image.alpha_composite(ground, layer).convert("RGB"), True


def what_it_is(content: bytes) -> str:
    """What a file is that holds no image of `FORMATS`, as far as its first bytes tell."""
    if not content:
        return "the file is empty"
    flags = re.DOTALL | re.IGNORECASE
    found = (what for start, what in OTHER_CONTENT if re.match(start, content[:4096], flags))
    return f"the file is {next(found, 'no picture of a kind that is read')}"


def unreadable_reason(path: Path, error: Exception) -> str:
    """One line on why `path` could not be decoded, the same wherever the dataset lies."""
    message = re.sub(r"<_io\.BytesIO object at \w+>", f"'{path.name}'", str(error)).replace(str(path), path.name)
    message = message.strip() or "no details"
    return f"{type(error).__name__}: {message.splitlines()[0]}"


@dataclass(frozen=True)
class Transform:
    """Resize straight to `size` x `size` without keeping the aspect (paper's release), scale to 0..1, normalise.

    resample: Pillow's number of the filter. scale: factor of 0..255, None for 1/255. left_out: what the model's own
    preprocessing would do to an image's shape besides, in words; features do not depend on it.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int = Image.Resampling.BICUBIC
    scale: float | None = None
    left_out: str = ""

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> float32 (3, size, size)."""
        resized = image.resize((self.size, self.size), Image.Resampling(self.resample))
        pixels = np.asarray(resized, dtype=np.float32)
        if self.scale is None:
            pixels = pixels / np.float32(255)
        else:  # in float64, as transformers does it
            pixels = (pixels.astype(np.float64) * self.scale).astype(np.float32)
        normalised = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def __str__(self) -> str:
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        scaling = "/255" if self.scale is None else f"times {self.scale!r}"
        return f"resize {self.size}x{self.size} {RESAMPLING[self.resample]}, {scaling}, mean {mean}, std {std}"
