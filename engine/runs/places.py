"""Where a run's inputs are: `places.json` beside the sealed files, and how inputs that have moved are found again.

The run's id and `config.json` keep the names that the user gave, so that equal studies are equal bytes in any folder.
`places.json` has the absolute places, the run folder's own among them, and is outside the promise on bytes, like
`timing.jsonl`. It is a hint: what is found counts only if its digest is the one that the run recorded.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cachegen.common.errors import CrosstaxError
from cachegen.common.files import expanded
from engine.design.condition import Inputs
from engine.runs.config import read_record

FILE = "places.json"
NAMES = ("lm", "encoder")  # folders, or ids of a hub
ENCODER_PART = re.compile(r"(local-dir:)?(.+?)(@[1-9][0-9]{1,3})?(#-?[0-9]{1,4})?")


@dataclass(frozen=True)
class Places:
    """Where the inputs of a run are now. None: where they were, or in the same place relative to the run."""

    dataset: Path | None = None
    features: Path | None = None
    lm: str | None = None
    encoder: str | None = None


def absolute(place: str | Path) -> str:
    """The place from the root on; symbolic links stay, since they are what moves with a study."""
    return os.path.normpath(expanded(place).absolute())


def absolute_places(run: Path, inputs: Inputs, encoder: str) -> dict[str, str]:
    """What `places.json` holds. Ids of a hub stay as they are, and so does what is not found."""
    features = absolute(inputs.features)
    bases = [Path.cwd(), *Path(features).parents]  # where the command that extracted may have been given
    found = (_renamed(encoder, partial(_join, base)) for base in bases)
    return {
        "run": absolute(run),
        "dataset": absolute(inputs.dataset),
        "features": features,
        "lm": _renamed(inputs.lm, absolute),
        "encoder": next((place for place in found if place != encoder), encoder),
    }


def candidates(folder: Path, what: str, named: str | None) -> list[str]:
    """Places where an input of the run in `folder` may be, the likeliest first; `named`: as the run was told.

    The same place beside the run, as in a study that was moved or copied whole; where it was; and for what is named
    without a place from the root on, below the working directory and below each folder that the run lies in. Of an LM
    or encoder, what is no folder here is left as it is: it may be an id of a hub.
    """

    def change(place: str, move: Callable[[str], str]) -> str:
        return _renamed(place, move) if what in NAMES else move(place)

    record = _read(folder)
    here = list(dict.fromkeys([absolute(folder), os.path.realpath(folder)]))
    known, home = record.get(what), record.get("run")
    found = []
    if known:
        found = [change(known, partial(_beside, home, base)) for base in here] if home else []
        found.append(known)
    if named:
        ups = [up for base in here for up in Path(base).parents]
        tried = [change(named, absolute), *(change(named, partial(_join, up)) for up in ups)]
        found += [place for place in tried if place != named or place.startswith("/")]
        found += [named] if what in NAMES and not found else []  # what was no folder then is an id of a hub
    return list(dict.fromkeys(found))


def _renamed(name: str, change: Callable[[str], str]) -> str:
    """`name` with its path changed, if that is a folder then; a fused encoder, A@384+B@384, has several."""

    def folder_or(text: str) -> str:
        path = change(text)
        return path if Path(path).is_dir() else text

    if (whole := folder_or(name)) != name:
        return whole
    parts = [ENCODER_PART.fullmatch(text) for text in name.split("+")]
    if not all(parts):
        return name
    return "+".join(f"{part[1] or ''}{folder_or(part[2])}{part[3] or ''}{part[4] or ''}" for part in parts if part)


def _beside(home: str, base: str, place: str) -> str:
    """Where `place` is if it has moved together with the run, from `home` to `base`."""
    return _join(base, os.path.relpath(place, home)) if place.startswith("/") else place


def _join(base: str | Path, place: str) -> str:
    return absolute(Path(base, expanded(place)))


def _read(folder: Path) -> dict[str, str]:
    """The hints, if any; a damaged file is none."""
    try:
        record: Any = read_record(folder / FILE)
    except CrosstaxError:
        return {}
    known = record if isinstance(record, dict) else {}
    return {name: place for name, place in known.items() if isinstance(place, str) and "\0" not in place}
