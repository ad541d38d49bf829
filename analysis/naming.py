"""Names of encoders and setups as figures show them: short, and as the paper has them where it does."""

from collections.abc import Iterable

import pandas as pd

from analysis.conditions import short_name

FAMILIES = ("DINOv2", "SigLIP")
BETWEEN = " · "  # parts of a setup's name


def last_part(name: object) -> str:
    """A model's name without its owner or folder."""
    return str(name).rstrip("/").rsplit("/", 1)[-1]


def encoder_names(encoders: Iterable[object]) -> dict[str, str]:
    """The family of each encoder (DINOv2, SigLIP, or both fused) where that tells it from the others; else its name."""
    found = {
        str(encoder): "+".join(name for name in FAMILIES if name.lower() in str(encoder).lower())
        for encoder in encoders
    }
    families = list(found.values())
    return {
        encoder: family if family and families.count(family) == 1 else short_name(encoder)
        for encoder, family in found.items()
    }


def setup_names(runs: pd.DataFrame, column: str = "setup") -> dict[str, str]:
    """The setups (or series) of `runs` under the names of `encoder_names`."""
    names = encoder_names(runs["encoder"].unique())
    forms = {form: name for encoder, name in names.items() for form in (last_part(encoder), short_name(encoder))}
    return {
        str(setup): BETWEEN.join(forms.get(part, part) for part in str(setup).split(BETWEEN))
        for setup in runs[column].unique()
    }
