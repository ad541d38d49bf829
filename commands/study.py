"""Commands for generated worlds: the demo, one world, and the study over several worlds."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from commands.options import Device, Json, OutFolder, Threads, fix_threads, print_json, say

WorldSize = Literal["demo", "smoke"]
WORKERS = 4  # at most, unless more are asked for: each takes a gigabyte of memory


def demo(
    out: OutFolder = Path("demo"),
    size: Annotated[WorldSize, typer.Option(help="Size of the world.")] = "demo",
    seed: Annotated[int, typer.Option(help="Seed of the world.", min=0)] = 101,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of PyTorch; default: 1, or its own choice with --real.", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that train at once; default: one per core, at most four.", min=1)
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Real pictures and a real LM instead, as much as fits into --minutes.")
    ] = False,
    dataset: Annotated[
        Path, typer.Option(help="With --real: the dataset, such as your own or what `crosstax data pictograms` made.")
    ] = Path("pictograms"),
    lm: Annotated[
        str | None, typer.Option(help="With --real: id or directory of the LM; default: a small one of the hub.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="With --real: id or directory of the encoder; default: DINOv2-S.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="With --real: time for all of it, downloads left out.", min=0.1)] = 10,
    device: Device = "auto",
    yes: Annotated[bool, typer.Option("--yes", help="With --real: download without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Run a whole study on a generated world, and write its report.

    No GPU, images or downloads are needed. The report is OUT/report/index.html.

    With --real, an LM learns to name real pictures. What has to be downloaded is listed first, with sizes and hashes.
    A short trial measures this machine; then as many leaves, epochs and seeds are taken as fit into --minutes.

    Example: crosstax demo --real --dataset pictograms --minutes 10 --out demo-real
    """
    fix_threads(threads if threads or real else 1)
    if real:
        _demo_real(dataset, lm, encoder, out, minutes, device, yes, as_json)
        return
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


def _demo_real(
    dataset: Path, lm: str | None, encoder: str | None, out: Path, minutes: float, device: str, yes: bool, as_json: bool
) -> None:
    """The demo on real pictures: downloads, trial, study, report."""
    from cachegen.common.errors import CrosstaxError, DatasetError
    from cachegen.common.hub import go_offline
    from cachegen.common.hub_files import fetch
    from engine.real_demo import ENCODER, LM, Models, run_real
    from engine.runs.planned import Execution

    if not dataset.is_dir():
        from cachegen.pictograms.build import how_to_get_packages

        raise DatasetError(
            f"there is no dataset {dataset}; give --dataset, or make it: {how_to_get_packages()}; cd ..; crosstax data "
            f"pictograms --packages packages --out {dataset}"
        )
    models = Models(encoder or ENCODER, lm or LM)
    files = models.downloads()
    missing = [file for file in files if file.path is None]
    for file in missing:
        say(f"to download: {file.told}")
    if missing:
        total = sum(file.bytes for file in missing)
        revisions = {f"{file.repository} at {file.revision}" for file in missing}
        say(f"{total / 1e6:,.0f} MB in all: {'; '.join(sorted(revisions))}")
        if not yes and not sys.stdin.isatty():
            raise CrosstaxError("nothing was downloaded, since nobody can be asked here; give --yes to agree")
        if not yes and not typer.confirm("Download?", err=True):
            raise typer.Exit(2)
    fetch(files)
    go_offline()  # so that nothing comes that was not told
    started = time.perf_counter()
    runs, plan = run_real(dataset, models, out, minutes, Execution(device=device))
    from analysis.predictions import load_sweep
    from analysis.report.report import write_report

    summary = write_report(load_sweep(runs), out / "report", world=None, seconds={})
    spent = time.perf_counter() - started
    say(f"{spent / 60:.1f} min of {minutes:g}; report: {summary['report']}")
    print_json(summary | {"plan": asdict(plan), "seconds": round(spent, 1)}, as_json)


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
    runs: Annotated[int, typer.Option(help="Runs of each condition in a world.", min=1, max=3)] = 3,
    naming: Annotated[bool, typer.Option("--naming", help="Also train by names: the task name beside verify.")] = False,
    languages: Annotated[
        bool, typer.Option("--languages", help="Also learn in one language and ask in another.")
    ] = False,
    properties: Annotated[bool, typer.Option("--properties", help="Also ask about properties.")] = False,
    lens: Annotated[bool, typer.Option("--lens", help="Also look inside the LM, layer by layer.")] = False,
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

    chosen = range(first_seed, first_seed + worlds)
    execution = Execution(device="cpu", max_tokens=16384)
    wanted = {"twins": twins, "naming": naming, "languages": languages, "properties": properties, "lens": lens}
    also = [name for name, want in wanted.items() if want]
    studies = replicate(out, size, chosen, execution, also=also, seeds=runs)
    result = write_replication(out, {seed: study.runs for seed, study in studies.items()})
    say((out / "replicate.md").read_text(encoding="utf-8"))
    print_json({"out": str(out), **result}, as_json)
