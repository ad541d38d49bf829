"""Commands for generated worlds: the demo, one world, and the study over several worlds."""

import time
from pathlib import Path
from typing import Annotated

import typer

from commands.options import Json, OutFolder, Threads, WorldSize, fix_threads, print_json, say

WORKERS = 4  # at most, unless more are asked for: each takes a gigabyte of memory


def demo(
    out: OutFolder = Path("demo"),
    size: Annotated[WorldSize, typer.Option(help="Size of the world.")] = "demo",
    seed: Annotated[int, typer.Option(help="Seed of the world.", min=0)] = 101,
    threads: Threads = 1,
    workers: Annotated[
        int | None, typer.Option(help="Processes that train at once; default: one per core, at most four.", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a whole study on a generated world, and write its report.

    No GPU, images or downloads are needed. The report is OUT/report/index.html.

    Example: crosstax demo --out demo --seed 3
    """
    fix_threads(threads)
    from analysis.predictions import load_sweep
    from analysis.probes import read_probes
    from analysis.report.report import write_report
    from cachegen.common.system import cores
    from engine.demo import RUN_SEEDS, probe_lms, run_study
    from engine.runs.planned import Execution
    from engine.sweeps.executors.local import local

    # Models this small fit a whole lockstep step into one row, and leave cores idle: groups are trained side by side.
    execution = Execution(device="cpu", max_tokens=16384, group_size=len(RUN_SEEDS))
    study = run_study(out, size, seed, execution, executor=local(workers or min(cores(), WORKERS)))
    started = time.perf_counter()
    probes = read_probes(probe_lms(study, out / "probes"))
    sweep, world = load_sweep(study.sweep), study.world.path
    summary = write_report(sweep, out / "report", world=world, seconds=study.seconds, probes=probes)
    summary["seconds"] = study.seconds | {"report": round(time.perf_counter() - started, 2)}
    say(f"report {summary['seconds']['report']:.1f} s: {summary['report']}")
    print_json(summary, as_json)


def world(
    context: typer.Context,
    size: Annotated[WorldSize, typer.Option(help="Size of the world.")] = "demo",
    seed: Annotated[int, typer.Option(help="Seed of the world.", min=0)] = 101,
    cache: Annotated[
        Path | None, typer.Option(help="Cache folder; default: $CROSSTAX_CACHE, then ~/.cache/crosstax.")
    ] = None,
    twins: Annotated[
        bool,
        typer.Option(
            "--twins", help="Also make its variants: two LMs that lack part of the text, and a SigLIP encoder."
        ),
    ] = False,
    languages: Annotated[
        bool,
        typer.Option(
            "--languages", help="Also make its dataset in a second language, and LMs that have read both languages."
        ),
    ] = False,
    properties: Annotated[
        bool, typer.Option("--properties", help="Also make an LM that was asked about properties in text.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a small generated world: images, an encoder and an LM.

    A world that is already in the cache is not made again.

    Example: crosstax world --seed 3 --twins
    """
    if context.invoked_subcommand is not None:
        return
    from cachegen.microworld.twins import LANGUAGES, PROPERTIES, TWINS, build_twin, twin_manifest
    from cachegen.microworld.world import build_world

    made = build_world(size, seed, cache)
    asked = ((TWINS, twins), (LANGUAGES, languages), (PROPERTIES, properties))
    wanted = [name for variants, given in asked if given for name in variants]
    built = {name: build_twin(made, name) for name in wanted}
    paths = {"dataset": made.dataset, "encoder": made.encoder, "lm": made.lm, "contact_sheet": made.contact_sheet}
    facts = {name: value for name, value in made.manifest.items() if name != "files"}
    for name, path in {"world": made.path, **paths, **built}.items():
        say(f"{name}: {path}")
    say(f"random_lm_seeds: {', '.join(map(str, facts['random_lm_seeds']))}")
    for name in built:
        facts[name] = {key: value for key, value in twin_manifest(made, name).items() if key != "files"}
    named = {name: str(path) for name, path in (paths | built).items()}
    print_json({"world": str(made.path), "paths": named, **facts}, as_json)


def world_replicate(
    worlds: Annotated[int, typer.Option(help="How many worlds.", min=1)] = 5,
    first_seed: Annotated[
        int, typer.Option(help="Seed of the first world; the next worlds count up from it.", min=0)
    ] = 101,
    size: Annotated[WorldSize, typer.Option(help="Size of the worlds.")] = "demo",
    twins: Annotated[bool, typer.Option("--twins", help="Also train with the worlds' variants.")] = False,
    out: OutFolder = Path("replication"),
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Repeat the demo's study in several worlds.

    The world is the unit of every interval. OUT gets worlds.csv, replicate.json and replicate.md. The same command
    resumes after an interruption; with more worlds it adds the new ones.

    Example: crosstax world replicate --worlds 5 --first-seed 101 --out replication
    """
    fix_threads(threads)
    from analysis.replicate import write_replication
    from engine.demo import replicate
    from engine.runs.planned import Execution

    seeds = range(first_seed, first_seed + worlds)
    studies = replicate(out, size, seeds, twins, Execution(device="cpu", max_tokens=16384))
    result = write_replication(out, {seed: study.runs for seed, study in studies.items()})
    say((out / "replicate.md").read_text(encoding="utf-8"))
    print_json({"out": str(out), **result}, as_json)
