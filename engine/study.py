"""The demo study up to its predictions: a microworld, its features, and twelve runs (paper figures 3 and 6)."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen.dataset import load_dataset
from cachegen.extract import extract
from cachegen.files import read_json, write_json
from cachegen.microworld.world import World, build_world
from cachegen.progress import console
from engine.condition import Sweep
from engine.plan import Execution
from engine.sweep import run_sweep

RUN_SEEDS = [42, 218, 7]  # the paper's
EPOCHS = {"demo": 8, "smoke": 12}

# What tiny models need and the paper's do not: see Condition. The world's tokenizer knows whole words only.
TINY_MODELS = {
    "template": "{image} {question} ",
    "question_singular": "is there {phrase}",
    "question_plural": "are there {phrase}",
    "answer_yes": "yes",
    "answer_no": "no",
    "order": "images",
    "batch": 64,
    "learning_rate": 3e-3,
    "standardise": True,
    "output_scale": "embedding_rms",
    "loss": "answers",
    "across_rule": "disjoint",
}


@dataclass(frozen=True)
class Study:
    """Where the parts of a finished study are, and the seconds each stage took when it was last carried out."""

    world: World
    sweep: Path
    seconds: dict[str, float]


def study_sweep(world: World, features: Path) -> Sweep:
    """Original, across and within with the pretrained LM, and original with random-init LMs; three seeds each."""
    paths = {"dataset": str(world.dataset), "features": str(features), "lm": str(world.lm)}
    shared = {**paths, **TINY_MODELS, "epochs": EPOCHS[world.manifest["size"]["name"]]}
    grids: list[dict[str, Any]] = [shared | {"shuffle": ["original", "across", "within"], "run_seed": RUN_SEEDS}]
    grids += [
        shared | {"lm_init": "random", "lm_seed": world.random_lm_seed(twin), "run_seed": seed}
        for twin, seed in enumerate(RUN_SEEDS)
    ]
    return Sweep.expand(grids, "the demo study")


def run_study(out: Path, size: str, seed: int, execution: Execution) -> Study:
    """Carry out the study below `out`; whatever is already there or in the world cache is kept."""
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

    started = time.perf_counter()
    sweep = study_sweep(world, features)
    pending = len(sweep.runs) - len(list((out / "runs").glob("*/DONE")))
    run_sweep(sweep, out / "runs", execution)
    stage("runs", started, worked=pending > 0)
    return Study(world, out / "runs", seconds)
