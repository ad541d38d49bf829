"""Presets: settings and sweep files that come with the package, as TOML to copy and edit.

A file with [[grid]] tables (or an `include`) is a sweep, one for each figure and table of the paper; so is one with
[probe] or [tune]. A file with [defaults] only holds settings that sweeps start from.
"""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cachegen.common.errors import ConditionError, meant


@dataclass(frozen=True)
class Preset:
    """One file: its `name`, the `text` as written, and the TOML `document` in it."""

    name: str
    text: str
    document: dict[str, Any]

    @property
    def about(self) -> str:
        """One line for the list."""
        return str(self.document["about"])

    @property
    def is_sweep(self) -> bool:
        return any(table in self.document for table in ("grid", "probe", "tune"))


def preset_names() -> list[str]:
    """Names of all presets: settings first, then figures by their number."""
    names = [path.name.removesuffix(".toml") for path in files(__name__).iterdir() if path.name.endswith(".toml")]
    return sorted(names, key=lambda name: (load_preset(name).is_sweep, name.rstrip("0123456789"), len(name), name))


def load_preset(name: str) -> Preset:
    """Read one preset. Raises `ConditionError` that lists the names there are."""
    path = files(__name__) / f"{name}.toml"
    if path.name not in {each.name for each in files(__name__).iterdir()} or path.name != f"{name}.toml":
        names = preset_names()
        raise ConditionError(f"there is no preset {name!r}{meant(name, names)}; presets are {', '.join(names)}")
    text = path.read_text(encoding="utf-8")
    return Preset(name, text, tomllib.loads(text))
