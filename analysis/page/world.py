"""The microworld's own account of itself, with its contact sheet."""

from typing import Any

from analysis.examples import data_uri
from analysis.page.page import Data, Page
from analysis.page.table import Column, table
from cachegen.files import read_json

UNTOLD = ("files", "leaf_words", "hypernyms")  # of the manifest: long, and not for people


def world(page: Page) -> Data | None:
    """How the world was made; None when the study did not run on one."""
    if page.world is None:
        return None
    manifest = read_json(page.world / "world.json")
    sheet = page.world / "contact_sheet.png"
    facts = list(_flatten({key: value for key, value in manifest.items() if key not in UNTOLD}))
    columns = [Column("entry", lambda fact: fact[0], "code"), Column("value", lambda fact: fact[1], "prose")]
    return {
        "name": page.world.name,
        "how_made": manifest.get("how_made", ""),
        "sheet": data_uri(sheet.read_bytes(), "image/png") if sheet.is_file() else "",
        "siblings": manifest.get("lm", {}).get("yes_to_siblings_from_family_words"),
        "facts": table("world-facts", "The world’s manifest.", facts, columns),
    }


def _flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flatten(inner, f"{name}.{key}" if name else str(key))]
    return [] if name == "how_made" else [(name, str(value))]
