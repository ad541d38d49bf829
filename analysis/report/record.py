"""The last part of the page: the world, methods, where every number comes from, and the files beside it."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cells import PROVENANCE, VALUES, WORDS
from analysis.predictions import SavedRuns
from analysis.report.dictionary import CAPTIONS
from analysis.report.examples import data_uri
from analysis.report.methods import installed, methods_of
from analysis.report.page import Data, Page
from analysis.report.table import EMBEDDED_BYTES, Column, Table, table
from analysis.study import Study
from cachegen.common.files import read_json
from engine.design.condition import SEEDS

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


def methods(page: Page) -> Data:
    """Paragraphs and references."""
    return {"methods": methods_of(page.study, page.world)}


SOFTWARE = ("crosstax", "numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "matplotlib")
STORE_FACTS = ("encoder", "layer", "image_size", "transform", "dtype", "compute", "weights_digest", "libraries")
SHORT = 12  # hex digits of a hash in the table of runs; whole ones stand in each run's DONE


def provenance(page: Page) -> Data:
    """Tables of inputs, runs, settings, times and software; `failed`: what is not counted."""
    study = page.study
    return {
        "inputs": _inputs(study),
        "stores": _stores(study.sweep),
        "runs": _runs(study),
        "settings": _settings(study.runs),
        "stages": _stages(page.seconds),
        "sessions": _sessions(study.sweep.folder),
        "software": _software(),
        "n_runs": len(study.runs),
        "failed": _failed(pd.concat([study.sweep.failed, study.sweep.copies])),
        "notes": study.notes,
    }


def _json_lines(path: Path) -> list[Data]:
    """Objects of a log, one per line; a line that was being written when the machine stopped is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _inputs(study: Study) -> Table:
    """Every dataset, store, LM and tokenizer with its hash, and the number of runs that used it."""
    places = {"dataset": "dataset_path", "store": "store_path", "lm": "lm", "tokenizer": "lm"}
    names = {"dataset": "dataset", "store": "feature store", "lm": "LM", "tokenizer": "tokenizer"}
    used: dict[tuple[str, str, str], int] = {}
    for run_id, run in zip(map(str, study.runs.index), study.runs.to_dict("records"), strict=True):
        config = study.sweep.opened[run_id].config
        for what, digest in config["digests"].items():
            weights = " (random-init: its configuration)" if what == "lm" and run["lm_init"] == "random" else ""
            if what == "lm" and config.get("lm_way", "shared") != "shared":
                weights += " (one prompt for each question)"
            key = (names.get(what, what) + weights, str(run.get(places.get(what, ""), None) or ""), str(digest))
            used[key] = used.get(key, 0) + 1
    columns = [
        Column("input", lambda row: row[0][0], "text"),
        Column("name or path", lambda row: row[0][1], "prose"),
        Column("hash of its contents", lambda row: row[0][2], "code"),
        Column("runs", lambda row: row[1], digits=0),
    ]
    caption = "Inputs. A run is named by the hash of these and of its settings, so other inputs make other runs."
    return table("inputs", caption, sorted(used.items()), columns)


def _stores(sweep: SavedRuns) -> Table | None:
    """How features were made, as the runs or else their stores record it; None where neither does any more."""
    facts: dict[str, tuple[str, dict[str, Any]]] = {}
    for run in sweep.opened.values():
        name = Path(run.named("features") or "store").name
        if "store" in run.config:
            facts.setdefault(run.config["digests"]["store"], (name, run.features))
        elif (found := sweep.inputs.store(run)) is not None:
            facts.setdefault(run.config["digests"]["store"], (name, found[1].attributes))
    rows = [(name, fact, str(about[fact])) for name, about in facts.values() for fact in STORE_FACTS if fact in about]
    columns = [
        Column("store", lambda row: row[0], "text"),
        Column("fact", lambda row: row[1].replace("_", " "), "text"),
        Column("value", lambda row: row[2], "prose"),
    ]
    return table("stores", "Features, as their stores record them.", rows, columns) if rows else None


def _runs(study: Study) -> Table:
    rows = []
    for run_id, run in zip(map(str, study.runs.index), study.runs.to_dict("records"), strict=True):
        opened = study.sweep.opened[run_id]
        counts = opened.config.get("counts", {})
        times = {line["stage"]: line for line in _json_lines(opened.directory.file("timing.jsonl")) if "stage" in line}
        trained = times.get("train", {})
        rows.append(
            {
                "run": run_id,
                **{seed: run[seed] for seed in SEEDS},
                "trained": counts.get("train"),
                "asked": sum(counts["test"].values()) if "test" in counts else None,
                "steps": trained.get("steps"),
                "seconds": trained.get("seconds"),
                "beside": trained.get("runs"),
                "predictions": opened.hashes.get("predictions.parquet", "")[:SHORT],
            }
        )
    columns = [
        Column("run", "run", "text"),
        *(Column(seed.replace("_", " "), seed, digits=0) for seed in SEEDS),
        Column("training questions", "trained", digits=0),
        Column("test questions", "asked", digits=0),
        Column("steps", "steps", digits=0),
        Column("training, s", "seconds", digits=0),
        Column("runs side by side", "beside", digits=0),
        Column("hash of its answers", "predictions", "code"),
    ]
    caption = (
        "Runs: seeds, questions, time, and the first digits of the hash of their answers. Runs that trained side by "
        "side share one time. Scores of every run are in results.csv."
    )
    return table("runs", caption, rows, columns, "results.csv")


def _settings(runs: pd.DataFrame) -> Table:
    """Condition fields, each with all its values over the runs."""
    places = {name for name in PROVENANCE if name.endswith("_path")}
    skipped = {*WORDS, *VALUES, *places, "partial", "withheld", "asked", "dataset", "features", "map"}
    rows = [(str(name), list(dict.fromkeys(runs[name].dropna().astype(str)))) for name in runs if name not in skipped]
    columns = [
        Column("field", lambda row: row[0], "code"),
        Column("values over the runs", lambda row: " · ".join(row[1]), "prose"),
    ]
    return table("settings", "Settings of the runs.", rows, columns)


def _stages(seconds: Mapping[str, float]) -> Table | None:
    columns = [Column("stage", lambda row: row[0], "text"), Column("seconds", lambda row: row[1])]
    caption = "Wall-clock seconds of each stage; a stage taken from a cache takes next to none."
    return table("stages", caption, seconds.items(), columns) if seconds else None


def _sessions(folder: Path) -> Table | None:
    """Groups of runs that were trained side by side, as the sweep's own log has them; None without a log."""
    ended = [event for event in _json_lines(folder / "timing.jsonl") if event.get("event") == "end"]
    columns = [
        Column("first run of the group", "group", "text"),
        Column("device", "device", "text"),
        Column("precision", "dtype", "text"),
        Column("seconds", "seconds"),
        Column("work, TFLOP", lambda row: row["flops"] / 1e12 if row.get("flops") else None, digits=2),
    ]
    known = [{"device": "", "dtype": "", "seconds": None, **event} for event in ended if "group" in event]
    caption = "Groups of runs that were trained side by side, from the sweep’s own log."
    return table("sessions", caption, known, columns) if known else None


def _software() -> Table:
    rows = [
        ("Python", platform.python_version()),
        *((name, installed(name) or "not installed as a package") for name in SOFTWARE),
    ]
    columns = [Column("package", lambda row: row[0], "text"), Column("version", lambda row: row[1], "text")]
    return table("software", "Software that computed this page.", rows, columns)


def _failed(failed: pd.DataFrame) -> Table | None:
    columns = [Column("run", "run_id", "text"), Column("reason", "reason", "prose")]
    rows: list[Any] = failed.to_dict("records")
    caption = "Listed, never averaged: runs without results, and folders with a run that counts once already."
    return table("failed", caption, rows, columns) if rows else None


def files(page: Page) -> Data:
    """Tables and figures, as links."""
    return {"tables": [_file(page, name) for name in page.tables], "figures": list(page.figures.values())}


def _file(page: Page, name: str) -> Data:
    """A table's file; `href`: a data URI where it is small (for a page sent without its folder), else its path."""
    content = (page.out / name).read_bytes()
    small = len(content) <= EMBEDDED_BYTES and name.endswith(".csv")
    href = data_uri(content, "text/csv") if small else name
    return {
        "name": name,
        "about": CAPTIONS.get(Path(name).stem, ""),
        "kilobytes": -(-len(content) // 1000),
        "href": href,
    }
