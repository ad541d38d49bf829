"""One self-contained HTML page per study, and the JSON summary the command line prints."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from analysis.conditions import SHUFFLES
from analysis.examples import data_uri
from analysis.predictions import Sweep
from analysis.sections import sections
from analysis.study import Study, measure
from analysis.tables import write_figures, write_tables
from cachegen.files import read_json, write_text


def write_report(sweep: Sweep, out: Path, *, world: Path | None, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Write `out/index.html` with its tables and figures beside it, and return the summary.

    `world`: the microworld's folder, when the study ran on one. `seconds`: wall-clock time of each stage.
    Summary: report (path), baseline, conditions (one per run) and coherence; F1 in 0..100, unknown = None.
    """
    study = measure(sweep)
    write_tables(study, out)
    figures = write_figures(study, out)
    page = _template().render(
        **sections(study),
        figures={name: data_uri(svg.encode(), "image/svg+xml") for name, svg in figures.items()},
        world=_world(world) if world is not None else None,
        seconds=list(seconds.items()),
    )
    write_text(out / "index.html", page)
    return {"report": str(out / "index.html"), **summary(study)}


def summary(study: Study) -> dict[str, Any]:
    """baseline, conditions, coherence and coherence_centred (means over hypernyms) as JSON-safe values."""
    leaf, heldout = study.test("leaf"), study.test("heldout")
    original = study.runs.index[study.runs["shuffle"] == "original"]
    fields = ["encoder", "shuffle", "ablation", "run_seed", "lm_seed", "data_seed", "order"]
    conditions = [
        {
            "run_id": run_id,
            "lm": run["lm_init"],
            **{field: run[field] for field in fields},
            "leaf_macro_f1": leaf.loc[run_id, "macro_f1"],
            "heldout_macro_f1": heldout.loc[run_id, "macro_f1"],
            "heldout_auc": heldout.loc[run_id, "auc"],
        }
        for run_id, run in zip(map(str, study.runs.index), study.runs.to_dict("records"), strict=True)
    ]
    coherence = study.hypernym_coherence()
    means = coherence.groupby(coherence["arm"].str.split(" ").str[0])[["all_pairs", "centred"]].mean().reindex(SHUFFLES)
    return _json_safe(
        {
            "baseline": {
                "leaf": leaf.loc[original, "majority_f1"].mean(),
                "heldout": heldout.loc[original, "majority_f1"].mean(),
                "coin": heldout.loc[original, "coin_f1"].mean(),
            },
            "conditions": conditions,
            "coherence": means["all_pairs"].to_dict(),
            "coherence_centred": means["centred"].to_dict(),
        }
    )


def _world(world: Path) -> dict[str, Any]:
    """The microworld's own account of itself, with its contact sheet."""
    manifest = read_json(world / "world.json")
    sheet = world / "contact_sheet.png"
    facts = {key: value for key, value in manifest.items() if key not in ("files", "leaf_words", "family_words")}
    return {
        "name": world.name,
        "how_made": manifest.get("how_made", ""),
        "sheet": data_uri(sheet.read_bytes(), "image/png") if sheet.is_file() else "",
        "siblings": manifest.get("lm", {}).get("yes_to_siblings_from_family_words"),
        "facts": list(_flatten(facts)),
    }


def _flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flatten(inner, f"{name}.{key}" if name else str(key))]
    return [] if name == "how_made" else [(name, str(value))]


def _json_safe(value: Any) -> Any:
    """NaN and missing become None, numpy numbers plain ones."""
    if isinstance(value, dict):
        return {key: _json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_safe(inner) for inner in value]
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment.get_template("report.html")


def _number(value: Any, digits: int = 1, sign: bool = False) -> str:
    """A number for people: a dash for a missing one, a true minus sign."""
    if value is None or value is pd.NA or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}z.{digits}f}".replace("-", "−")
