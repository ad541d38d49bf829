"""One self-contained HTML page per study, and the JSON summary the command line prints."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from analysis.comparisons import compare_yardsticks
from analysis.conditions import shown_runs
from analysis.dose import dose_table
from analysis.examples import data_uri
from analysis.predictions import Sweep
from analysis.probes import Probe
from analysis.sections import sections
from analysis.study import Study, measure
from analysis.tables import write_figures, write_tables
from cachegen.files import read_json, write_text

COHERENT = ("original", "across", "within")  # arms of the summary's coherence


def write_report(
    sweep: Sweep, out: Path, *, world: Path | None, seconds: Mapping[str, float], probes: Sequence[Probe] = ()
) -> dict[str, Any]:
    """Write `out/index.html` with its tables and figures beside it, and return the summary.

    `world`: the microworld's folder, when the study ran on one. `seconds`: wall-clock time of each stage. `probes`:
    text probes of the runs' LMs. Summary: report (path) and what `summary` gives.
    """
    study = measure(sweep, probes)
    tables = write_tables(study, out)
    figures = write_figures(study, out)
    page = _template().render(
        **sections(study),
        figures={name: data_uri(svg.encode(), "image/svg+xml") for name, svg in figures.items()},
        tables=tables,
        world=_world(world) if world is not None else None,
        seconds=list(seconds.items()),
    )
    write_text(out / "index.html", page)
    return {"report": str(out / "index.html"), **summary(study)}


def summary(study: Study) -> dict[str, Any]:
    """The study's numbers as JSON-safe values; F1 in 0..100, AUC and coherence in 0..1, unknown = None.

    baseline: of the headline's original runs. conditions: one per run. coherence, coherence_centred: mean over
    hypernyms of whole shuffles. yardsticks: held-out means of each cell of the headline beside each yardstick, with
    the difference. ablation: points of the curves. dose: means per dose of a partial shuffle. The last three are
    empty lists where the runs or inputs do not allow them.
    """
    leaf, heldout = study.test("leaf"), study.test("heldout")
    shown = shown_runs(study.runs)
    original = shown.index[shown["shuffle"] == "original"]
    fields = ["encoder", "shuffle", "ablation", "run_seed", "lm_seed", "data_seed", "order"]
    fields += ["setup", "arm", "ablation_kind", "shuffled", "permutation"]
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
    coherence = study.hypernym_coherence().merge(shown[["map", "shuffle"]].drop_duplicates(), on="map")
    means = coherence.groupby("shuffle")[["all_pairs", "centred"]].mean().reindex(COHERENT)
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
            "yardsticks": [
                {
                    "setup": c.setup,
                    "arm": c.arm,
                    "lm": c.lm_init,
                    "yardstick": c.yardstick,
                    "heldout_macro_f1": c.other_f1,
                    "heldout_auc": c.other_auc[0],
                    "run_macro_f1": c.f1,
                    "run_auc": c.auc,
                    "difference": c.f1_gap[0],
                    "low": c.f1_gap[1],
                    "high": c.f1_gap[2],
                }
                for c in compare_yardsticks(study.runs, study.categories, study.yardsticks)
            ],
            "ablation": study.ablation.to_dict("records"),
            "dose": dose_table(study.dose).to_dict("records"),
        }
    )


def _world(world: Path) -> dict[str, Any]:
    """The microworld's own account of itself, with its contact sheet."""
    manifest = read_json(world / "world.json")
    sheet = world / "contact_sheet.png"
    facts = {key: value for key, value in manifest.items() if key not in ("files", "leaf_words", "hypernyms")}
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
