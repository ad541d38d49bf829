"""A look at every image of a dataset: what cannot be read, what occurs twice, and what is odd about the others."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cachegen.common.errors import SHOWN, listing
from cachegen.common.files import digest_bytes
from cachegen.common.system import cores
from cachegen.data.dataset import Dataset
from cachegen.data.images import decode, unreadable_reason

FLAT = 2.0  # SD of grey values of 0 to 255: less is one shade, with the noise of its compression
SMALL = 32  # pixels of the shorter side
# Column of the table -> what it says of the pictures where it is true.
ODD = {
    "flat": f"nearly one shade (grey values vary by less than {FLAT:g} of 255); look at them",
    "small": f"smaller than {SMALL} pixels; enlarging adds nothing to them",
    "turned": "stored turned, as EXIF says; `crosstax extract --upright` turns them, else they are read as stored",
    "transparent": "transparent in part; `crosstax extract` puts them on white, or on another colour with --background",
    "deep": "of 16 bit per channel; the upper 8 are read",
    "several": "animated or of several pages; the first is read",
}


@dataclass(frozen=True, eq=False)
class Inspection:
    """images: one row per image: key, leaf[, split], reason ("" if it can be read), content, pixels (hashes), `ODD`."""

    images: pd.DataFrame

    @property
    def unreadable(self) -> dict[str, str]:
        """Key -> reason."""
        bad = self.images[self.images["reason"] != ""]
        return dict(zip(bad["key"], bad["reason"], strict=True))

    def copies(self) -> list[list[str]]:
        """Keys of images that are the same, pixel by pixel, whatever their files: a list for each such image."""
        sound = self.images[self.images["reason"] == ""]
        several = sound[sound["pixels"].duplicated(keep=False)]
        return sorted(sorted(group["key"]) for _, group in several.groupby("pixels", sort=False))

    def duplicates(self) -> dict[str, list[list[str]]]:
        """The copies by where they are: within one leaf, across leaves, or in several parts of a fixed split."""
        leaves = dict(zip(self.images["key"], self.images["leaf"], strict=True))
        parts = dict(zip(self.images["key"], self.images.get("split", leaves), strict=True))
        found: dict[str, list[list[str]]] = {"within_leaf": [], "across_leaves": [], "across_split": []}
        for keys in self.copies():
            found["across_leaves" if len({leaves[key] for key in keys}) > 1 else "within_leaf"].append(keys)
            if "split" in self.images and len({parts[key] for key in keys}) > 1:
                found["across_split"].append(keys)
        return found

    def as_json(self) -> dict[str, object]:
        """Every list, whole."""
        odd = {name: self.images.loc[self.images[name], "key"].tolist() for name in ODD}
        return {"unreadable": self.unreadable, "duplicates": self.duplicates(), **odd}

    def text(self) -> str:
        """A paragraph for each thing found, with up to `SHOWN` lines."""
        drawn = "" if "split" in self.images else "; the drawn split can put one into training, the other into test"
        titles = {
            "within_leaf": f"images are more than once in their leaf{drawn}; keep one of each",
            "across_leaves": "images are in several leaves, whose questions contradict each other; keep each in one",
            "across_split": "images are in several parts of split.csv, so that tests meet training; keep one of each",
        }
        blocks = [_paragraph(titles[where], map(_equal, keys)) for where, keys in self.duplicates().items()]
        blocks += [
            _paragraph(f"images are {what}", self.images.loc[self.images[name], "key"]) for name, what in ODD.items()
        ]
        read = len(self.images) - len(self.unreadable)
        every = "all images can be read" if read == len(self.images) else f"{read:,} images can be read"
        return "\n".join([every, *filter(None, blocks)])


def inspect_images(dataset: Dataset) -> Inspection:
    """Decode every image, in threads (Pillow frees the GIL)."""

    def look(key: str) -> dict[str, object]:
        path = dataset.image_path(key)
        try:
            decoded = decode(path.read_bytes())
            grey = np.asarray(decoded.image.convert("L"))
        except Exception as error:  # Pillow raises a dozen unrelated types on damaged files
            return {"reason": unreadable_reason(path, error)}
        content = decoded.image.tobytes()
        return {
            "reason": "",
            "pixels": digest_bytes(str(decoded.image.size).encode(), content),
            "flat": float(grey.std()) < FLAT,
            "small": min(decoded.image.size) < SMALL,
            "turned": decoded.turned,
            "transparent": decoded.transparent,
            "deep": decoded.deep,
            "several": decoded.several,
        }

    with ThreadPoolExecutor(cores()) as pool:
        looks = pd.DataFrame(pool.map(look, dataset.images["key"]), columns=["reason", "pixels", *ODD])
    looks[list(ODD)] = looks[list(ODD)].eq(True)
    return Inspection(pd.concat([dataset.images.reset_index(drop=True), looks], axis=1))


def _paragraph(title: str, lines: Iterable[str]) -> str:
    every = list(lines)
    return listing(f"{len(every):,} {title}:", every) if every else ""


def _equal(keys: Sequence[str]) -> str:
    return " = ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else "")
