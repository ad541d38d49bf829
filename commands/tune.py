"""The command that searches hyperparameters."""

from pathlib import Path
from typing import Annotated

import typer

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
    Workers,
    fix_threads,
    print_json,
    say,
)


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
    from engine.sweeps.presets import load_preset
    from engine.sweeps.tune.tune_file import TuneFile

    if (file is None) == (preset is None):
        raise typer.BadParameter("give a sweep file or --preset NAME; `crosstax presets tune` prints one")
    source = load_preset(preset) if preset is not None else file
    assert source is not None
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
