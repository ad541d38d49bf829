"""The demo study up to its predictions, on one microworld or repeated over several."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen.common.errors import RunError
from cachegen.common.files import read_json, write_json
from cachegen.common.progress import console
from cachegen.data.dataset import load_dataset
from cachegen.features.extract import extract
from cachegen.microworld.languages import SECOND
from cachegen.microworld.twins import LANGUAGES, PROPERTIES, TWINS, build_twin
from cachegen.microworld.world import World, build_world
from engine.design.condition import Sweep
from engine.design.question_sets import question_source
from engine.lens import look
from engine.lm.probe import probe_path, run_probe, settings_for, write_probe
from engine.runs.lens import LensSettings
from engine.runs.planned import Execution
from engine.sweeps.executors import Executor, in_this_process
from engine.sweeps.sweep import run_all
from engine.sweeps.sweep_file import default_fields
from engine.transfer import transfer

RUN_SEEDS = [42, 218, 7]  # the paper's
EPOCHS = 8
# Chosen by the accuracy on leaves in one world (smoke, seed 0), see docs/naming.md.
NAMING: dict[str, Any] = {"task": "name", "batch": 4, "epochs": 24, "learning_rate": 6e-3}
SIGLIP = "encoder-siglip"
SIGLIP_FEATURES = "features-siglip.h5"
CROSSING = [{"test_language": SECOND}, {"train_language": SECOND}]
TOLD = "lm-property-questions"
ASKED = ("properties", "leaf_properties")  # tables beside this LM
LENS = LensSettings(images=100, pictures=0)
MODELS = {"twins": TWINS, "languages": LANGUAGES, "properties": PROPERTIES}


@dataclass(frozen=True)
class Demo:
    """Folders of a finished study, and the seconds that each stage took when it last ran.

    `sweep`: the folder of its runs; `runs`: the run directories, which are not all if the recipe changed since.
    """

    world: World
    sweep: Path
    runs: tuple[Path, ...]
    seconds: dict[str, float]


def study_sweep(world: World, features: Path, also: Collection[str] = (), seeds: int | None = None) -> Sweep:
    """Original, across and within with the pretrained LM, and original with random-init LMs; `seeds` of each or all.

    `also`: "twins", original with each twin of the LM and, from features-siglip.h5 beside `features`, of
    the encoder; "naming", the first four with the task `name`; "properties", the first four with the LM that was asked
    about properties; "languages", the cells of two languages and their controls. The data seed is the world's, so that
    other worlds have other permutations and negatives too.
    """
    paths = {"dataset": str(world.dataset), "features": str(features), "lm": str(world.lm)}
    shared = {**paths, **default_fields("microworld"), "epochs": EPOCHS, "data_seed": world.seed}
    run_seeds = RUN_SEEDS[:seeds]
    untrained = [
        {"lm_init": "random", "lm_seed": world.random_lm_seed(twin), "run_seed": seed}
        for twin, seed in enumerate(run_seeds)
    ]
    grids: list[dict[str, Any]] = []
    for task in [shared, *([shared | NAMING] if "naming" in also else [])]:
        grids.append(task | {"shuffle": ["original", "across", "within"], "run_seed": run_seeds})
        grids += [task | weights for weights in untrained]
    shared = shared | {"run_seed": run_seeds}
    if "twins" in also:
        grids.append(shared | {"lm": [str(world.twin(name)) for name in TWINS if name != SIGLIP]})
        grids.append(shared | {"features": str(features.with_name(SIGLIP_FEATURES))})
    if "properties" in also:
        told = shared | {"lm": str(world.twin(TOLD))}
        grids += [told | {"shuffle": ["original", "across", "within"]}, *(told | weights for weights in untrained)]
    if "languages" in also:
        both, apart = (str(world.twin(name)) for name in LANGUAGES if name.startswith("lm-"))
        cells = shared | {"dataset": str(world.twin("two-languages")), "lm": both}
        grids.append(cells | {"train_language": ["", SECOND], "test_language": ["", SECOND]})
        crossing = cells | {"together": CROSSING}
        grids += [crossing | {"lm": apart}, crossing | {"shuffle": "across"}]
        grids += [crossing | weights for weights in untrained]
    return Sweep.expand(grids, "the demo study")


def run_study(
    out: Path,
    size: str,
    seed: int,
    execution: Execution,
    *,
    also: Collection[str] = (),
    seeds: int | None = None,
    executor: Executor = in_this_process,
) -> Demo:
    """Carry out the study below `out`; whatever is already there or in the world cache is kept.

    `also`: see `study_sweep`; "lens" reads the runs of the world's own dataset and LM layer by layer.
    """
    record = out / "seconds.json"
    seconds: dict[str, float] = read_json(record) if record.exists() else {}

    def stage(name: str, started: float, worked: bool) -> None:
        if worked or name not in seconds:
            seconds[name] = round(time.perf_counter() - started, 2)
            write_json(record, seconds)
        console.print(f"[bold]{name}[/] {seconds[name]:.1f} s" + ("" if worked else " (kept)"))

    started = time.perf_counter()
    world = build_world(size, seed)
    building = sum(world.manifest["seconds"].values())
    seconds["world"] = round(building, 2)
    stage("world", started, worked=time.perf_counter() - started >= building)  # a kept one opens at once

    started = time.perf_counter()
    features = out / "features.h5"
    extracted = extract(load_dataset(world.dataset), str(world.encoder), features)
    stage("features", started, worked=extracted["encoded"] > 0)

    for extra, names in MODELS.items():
        if extra in also:
            started = time.perf_counter()
            there = all(world.twin(name).is_dir() for name in names)
            for name in names:
                build_twin(world, name)
            if extra == "twins":
                siglip = str(world.twin(SIGLIP))
                there &= extract(load_dataset(world.dataset), siglip, out / SIGLIP_FEATURES)["encoded"] == 0
            stage(extra, started, worked=not there)

    started = time.perf_counter()
    sweep = study_sweep(world, features, also, seeds)
    done = set((out / "runs").glob("*/DONE"))
    runs = tuple(run_all(sweep, out / "runs", execution, executor=executor))
    stage("runs", started, worked=any(run / "DONE" not in done for run in runs))
    _read_on(world, sweep, runs, also, execution)
    return Demo(world, out / "runs", runs, seconds)


def _read_on(world: World, sweep: Sweep, runs: Sequence[Path], also: Collection[str], execution: Execution) -> None:
    """What is asked of finished runs: properties of the LM that knows such questions, and layers of the demo's own."""
    problems: list[tuple[Path, str | None]] = []
    planned = list(zip(runs, sweep.runs, strict=True))
    if "properties" in also:
        told = [run for run, (inputs, _) in planned if Path(inputs.lm) == world.twin(TOLD)]
        tables = [{"maker": "properties", "name": name, "table": world.twin(TOLD) / f"{name}.csv"} for name in ASKED]
        asked = [question_source("properties", table) for table in tables]
        problems += [(each.run, each.problem) for each in transfer(told, asked, execution)]
    if "lens" in also:
        own = [run for run, (inputs, c) in planned if Path(inputs.lm) == world.lm and c.task == "verify"]
        problems += [(each.run, each.problem) for each in look(own, LENS, execution)]
    for run, problem in problems:
        if problem:
            raise RunError(f"{run}: {problem}")


def probe_lms(study: Demo, out: Path) -> list[Path]:
    """Ask the world's LM and its random-init twins in text alone about every pair; one Parquet file each in `out`."""
    dataset = load_dataset(study.world.dataset)
    lm = str(study.world.lm)
    twins = [{"lm_init": "random", "lm_seed": study.world.random_lm_seed(twin)} for twin in range(len(RUN_SEEDS))]
    files = []
    for weights in ({}, *twins):
        table, record = run_probe(dataset, lm, settings_for(lm, negatives="all", **weights), "cpu")
        files.append(probe_path(out, record))
        write_probe(files[-1], table, record)
    return files


RECORD = "replication.json"


def replicate(out: Path, size: str, worlds: Sequence[int], execution: Execution, **study: Any) -> dict[int, Demo]:
    """Carry out the study in these worlds (seeds), each below `out/world-<seed>`; return world seed -> study.

    Whatever is done is kept, so the same call resumes, and one with more worlds or runs goes on from there.
    `study`: see `run_study`. Raises `RunError` if `out` holds worlds of another size.
    """
    record = out / RECORD
    started = read_json(record)["size"] if record.exists() else size
    if started != size:
        raise RunError(f"{out} holds worlds of size {started!r}, not {size!r}; choose another --out")
    write_json(record, {"schema": 1, "size": size})
    studies = {}
    for number, seed in enumerate(worlds, 1):
        console.print(f"[bold]world {seed}[/] ({number} of {len(worlds)})")
        studies[seed] = run_study(out / f"world-{seed}", size, seed, execution, **study)
    return studies
