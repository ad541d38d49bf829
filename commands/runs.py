"""Commands that train and evaluate: one condition, a whole sweep, or a search of hyperparameters."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cachegen.common.errors import ConditionError
from commands.models import probe
from commands.options import (
    Compiled,
    DatasetFolder,
    Device,
    ExecutorOption,
    GroupSize,
    Json,
    OutFolder,
    RayAddress,
    RowTokens,
    Sets,
    Slurm,
    Stores,
    Threads,
    Track,
    Wait,
    Workers,
    fix_threads,
    print_json,
    say,
    sweep_source,
)

MOST_LINES = 20  # of a list of failures


def train(
    dataset: Annotated[Path, typer.Option(help="Dataset folder.")],
    features: Annotated[Path, typer.Option(help="Feature store of this dataset.")],
    lm: Annotated[str, typer.Option(help="Hugging Face id or local directory of the LM.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Fields of the condition, as NAME=VALUE.")] = None,
    preset: Annotated[
        str | None, typer.Option("--settings", help="Settings to start from: paper, release or fast.")
    ] = None,
    out: OutFolder = Path("runs"),
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: RowTokens = None,
    compiled: Compiled = True,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Train and evaluate one condition.

    Example: crosstax train --dataset birds --features birds.h5 --lm Qwen/Qwen3-0.6B shuffle=across run_seed=42
    """
    fix_threads(threads)
    from engine.design.condition import Sweep, parse_settings
    from engine.runs.planned import Execution
    from engine.sweeps.sweep import run_all
    from engine.sweeps.sweep_file import default_fields

    places = {"dataset": str(dataset), "features": str(features), "lm": lm}
    grid = default_fields(preset) | places | parse_settings(settings or [])
    execution = Execution(device, max_tokens, group_size=1, compile=compiled, track=tuple(track or ()))
    folders = run_all(Sweep.expand([grid], "train"), out, execution)
    say(f"done: {', '.join(map(str, folders))}")
    print_json({"out": str(out), "runs": [folder.name for folder in folders], "failed": []}, as_json)


def presets(
    name: Annotated[str | None, typer.Argument(help="Preset to print.")] = None,
    as_json: Json = False,
) -> None:
    """List the presets, or print one as TOML.

    There are presets of settings, and a sweep for each figure and table of the paper that needs training.

    Example: crosstax presets fig6 > mine.toml
    """
    from engine.sweeps.presets import load_preset, preset_names

    if name is not None:
        preset = load_preset(name)
        if not as_json:
            print(preset.text, end="")
        print_json({"name": name, "about": preset.about, "toml": preset.text}, as_json)
        return
    about = {each: load_preset(each).about for each in preset_names()}
    for each, line in about.items():
        say(f"{each:<12}{line}")
    print_json({"presets": about}, as_json)


def sweep(
    file: Annotated[
        Path | None, typer.Argument(help="Sweep file (TOML); `crosstax presets fig6` prints an example.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Preset instead of a file, such as fig6.")] = None,
    settings: Annotated[
        str | None, typer.Option(help="Settings instead of the file's own: paper, release or fast.")
    ] = None,
    sets: Sets = None,
    dataset: DatasetFolder = None,
    features: Stores = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only runs with FIELD=VALUE, or with this text in their id; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first runs, at most this many.", min=1)] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed runs again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the runs and their tokens, operations, disk space and time.")
    ] = False,
    out: OutFolder = Path("runs"),
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: RowTokens = None,
    group_size: GroupSize = None,
    compiled: Compiled = True,
    executor: ExecutorOption = "local",
    slurm: Slurm = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    track: Track = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate every condition of a sweep.

    The same command resumes after an interruption and skips what is done.

    Example: crosstax sweep --preset fig6 --dataset things --features dinov2.h5 --out runs --dry-run
    """
    from engine.design.condition import parse_settings
    from engine.sweeps.sweep_file import (
        choose_runs,
        complete,
        lens_table,
        locate,
        probe_table,
        read_sweep,
        transfer_tables,
    )

    source, stores = sweep_source(file, preset), features or []
    if (asked := probe_table(source)) is not None:
        _sweep_probe(asked, dataset, out, device, threads, dry_run, as_json)
        return
    questions, lenses = transfer_tables(source), lens_table(source)
    runs = read_sweep(source, settings, parse_settings(sets or [], ("lm", "encoder")))
    runs = choose_runs(locate(runs, dataset, stores), only or [], limit)
    fix_threads(threads, workers)
    if dry_run:
        from engine.sweeps.dry_run import dry_run as forecast
        from engine.sweeps.dry_run import dry_run_text

        expected = forecast(runs, out, device, questions)
        say(dry_run_text(expected))
        if lenses is not None:
            say(f"lens: at most {lenses.images} test images of each run")
        print_json(expected, as_json)
        return
    plan = complete(runs, f"preset {preset}" if preset else str(file), stores)
    from engine.runs.directory import RunDirectory
    from engine.runs.planned import Execution
    from engine.sweeps.executors import choose_executor
    from engine.sweeps.sweep import UnplannedError, run_sweep

    carry_out = choose_executor(executor, slurm, ray_address, workers, wait=wait)
    execution = Execution(device, max_tokens, group_size, workers or 1, compile=compiled, track=tuple(track or ()))
    try:
        folders = run_sweep(plan, out, execution, retry_failed=retry_failed, executor=carry_out)
        unplanned, count = [], 0
    except UnplannedError as error:
        folders, unplanned, count = error.folders, error.unplanned, error.count
    silent: dict[str, str] = {}
    unread: dict[str, str] = {}
    left = [folder.name for folder in folders if not RunDirectory(folder).over]
    failed = {folder.name: RunDirectory(folder).reason for folder in folders if RunDirectory(folder).failed}
    done = [folder for folder in folders if folder.name not in (*left, *failed)]
    if questions:
        from engine.transfer import transfer

        put = transfer(done, questions, execution)
        say(f"{sum(each.now for each in put)} question sets asked, over {len(done)} runs")
        silent = {each.run.name: each.problem for each in put if each.problem}
    if lenses is not None:
        from engine.lens import look

        looked = look(done, lenses, execution)
        say(f"{sum(each.now for each in looked)} runs read by layers")
        unread = {each.run.name: each.problem for each in looked if each.problem}
    _say_outcome(out, len(folders), left, failed, unplanned, count)
    if silent:
        say(f"{len(silent)} runs are done, but were not asked the questions of [[transfer]]")
    if unread:
        say(f"{len(unread)} runs are done, but were not read by layers as [lens] wants")
    result = {"out": str(out), "runs": [folder.name for folder in folders], "failed": list(failed), "left": left}
    print_json(result | {"unplanned": unplanned, "not_asked": silent, "not_read": unread}, as_json)
    if failed or unplanned or silent or unread or (left and (wait or executor != "slurm")):
        raise typer.Exit(1)


def _say_outcome(
    out: Path, planned: int, left: list[str], failed: dict[str, str], unplanned: list[str], count: int
) -> None:
    """Say what became of the `planned` runs of a sweep, and of `count` that failed before they had a folder."""
    lines = [f"failed: {name}: {reason}" for name, reason in failed.items()]
    lines += [f"failed before they were planned: {run}" for run in unplanned]
    for line in lines[:MOST_LINES]:
        say(line)
    if len(lines) > MOST_LINES:
        say(f"and {len(lines) - MOST_LINES} more: crosstax status {out}")
    say(f"{planned - len(failed) - len(left)} runs done, {len(failed) + count} failed: {out}")
    if left:
        say(f"{len(left)} runs are not over: crosstax status {out}")
    if failed:
        say("the same command with --retry-failed tries failed runs again")


def _sweep_probe(
    asked: Any, dataset: Path | None, out: Path, device: str, threads: int | None, dry_run: bool, as_json: bool
) -> None:
    """A sweep of the text-only probe: `crosstax probe` for one LM after the other."""
    if dry_run:
        say(f"{len(asked.lm)} LMs would be asked about every pair in text: {', '.join(asked.lm)}")
        print_json({"lm": list(asked.lm)}, as_json)
        return
    if dataset is None:
        raise ConditionError("this sweep of probes leaves the dataset open; give --dataset DIR")
    probe(dataset, out=out, device=device, threads=threads, as_json=as_json, **asked.model_dump())


def status(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep folder, finished or still in progress.")],
    as_json: Json = False,
) -> None:
    """Show how far a sweep is, and what failed and why.

    It also shows which processes work on the sweep, and estimates the time left.

    Example: crosstax status runs
    """
    from engine.sweeps.status import status_text, sweep_status

    found = sweep_status(folder)
    say(status_text(found))
    print_json(found, as_json)


def tune(
    file: Annotated[
        Path | None, typer.Argument(help="Sweep file with a [tune] table; `crosstax presets tune` prints one.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Preset instead of a file; there is one: tune.")] = None,
    settings: Annotated[
        str | None, typer.Option(help="Settings instead of the file's own: paper, release or fast.")
    ] = None,
    sets: Sets = None,
    dataset: DatasetFolder = None,
    features: Stores = None,
    allow_unseen: Annotated[
        bool,
        typer.Option(
            "--allow-unseen",
            help="Let validation answers about held-out hypernyms decide; all results are then marked exploratory.",
        ),
    ] = False,
    out: OutFolder = Path("tune"),
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: RowTokens = None,
    group_size: GroupSize = None,
    compiled: Compiled = True,
    executor: ExecutorOption = "local",
    slurm: Slurm = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Search hyperparameters on validation questions.

    Answers about leaves and seen hypernyms decide. OUT gets the runs, tune.json, best.toml (the best setting as a
    sweep file) and figures/tuning. The same command resumes after an interruption.

    Example: crosstax tune --preset tune --dataset W/dataset --features w.h5 --set lm=W/lm --out tuned
    """
    from engine.design.condition import parse_settings
    from engine.sweeps.tune.table import TuneFile

    source = sweep_source(file, preset)
    asked = TuneFile(source, settings, parse_settings(sets or [], ("lm", "encoder")), dataset, features or [])
    table = asked.table(allow_unseen)
    fix_threads(threads, workers)
    from analysis.figures.tuning import draw_tuning
    from analysis.report.page import FOLDER
    from analysis.tuning import read_tuning
    from engine.runs.planned import Execution
    from engine.sweeps.executors import choose_executor
    from engine.sweeps.tune.study import run_tune

    carry_out = choose_executor(executor, slurm, ray_address, workers, wait=True)
    execution = Execution(device, max_tokens, group_size, workers or 1, compile=compiled, track=tuple(track or ()))
    record = run_tune(table, asked.runs_of, out, execution, carry_out)
    best = asked.write_best(record, out)
    tuning = read_tuning(out)
    if best is None or tuning is None:
        say(f"no trial is complete; the first failed: {record.trials[0].reason}")
    else:
        draw_tuning(tuning).write(out / FOLDER, "tuning")
        say(best.read_text(encoding="utf-8"))
        say(f"{tuning.verdict} As a sweep file: {best}")
    print_json({"out": str(out), "toml": str(best) if best else None, **record.as_json()}, as_json)
    if best is None:
        raise typer.Exit(1)
