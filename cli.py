"""The `crosstax` command: one verb per stage; it chains the rooms and computes nothing itself.

Heavy libraries are imported inside the commands, so that `--help` answers at once. Human output goes to
stderr; with --json the last line on stdout is one JSON object.
"""

import errno
import json
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="crosstax",
    help="Ask what a frozen language model knows about images that it was never told.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class WorldSize(StrEnum):
    demo = "demo"
    smoke = "smoke"


class OnUnreadable(StrEnum):
    stop = "stop"
    mark = "mark"


class Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads of PyTorch, else its default; they can move last bits.", min=1)
]
MaxTokens = Annotated[int, typer.Option(help="Tokens of one packed row; lower it when memory is short.", min=1)]
GroupSize = Annotated[int, typer.Option(help="Most runs that train in lockstep.", min=1)]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]


@app.callback()
def common(
    _debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error.")] = False,
) -> None:
    """Options before the command; `main` looks for --debug itself, since it also catches errors in this parsing."""


@app.command()
def demo(
    out: OutFolder = Path("demo"),
    size: Annotated[WorldSize, typer.Option(help="Size of the world.")] = WorldSize.demo,
    seed: Annotated[int, typer.Option(help="Seed of the world.", min=0)] = 101,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Run the whole study on a world made from a seed, and write OUT/report/index.html.

    Example: crosstax demo --out demo --seed 3
    """
    _threads(threads)
    from analysis.predictions import load_sweep
    from analysis.report import write_report
    from engine.plan import Execution
    from engine.study import run_study

    # Models this small fit a whole lockstep step into one row.
    study = run_study(out, size.value, seed, Execution(device="cpu", max_tokens=16384))
    started = time.perf_counter()
    summary = write_report(load_sweep(study.sweep), out / "report", world=study.world.path, seconds=study.seconds)
    summary["seconds"] = study.seconds | {"report": round(time.perf_counter() - started, 2)}
    _say(f"report {summary['seconds']['report']:.1f} s: {summary['report']}")
    _print_json(summary, as_json)


@app.command()
def world(
    size: Annotated[WorldSize, typer.Option(help="Size of the world.")] = WorldSize.demo,
    seed: Annotated[int, typer.Option(help="Seed of the world.", min=0)] = 101,
    cache: Annotated[Path | None, typer.Option(help="Cache folder; else $CROSSTAX_CACHE or ~/.cache/crosstax.")] = None,
    as_json: Json = False,
) -> None:
    """Make a microworld (images, encoder, LM and its random-init twins), or find it in the cache."""
    from cachegen.microworld.world import build_world

    made = build_world(size.value, seed, cache)
    _say(f"world: {made.path}\ncontact sheet: {made.contact_sheet}")
    facts = {name: value for name, value in made.manifest.items() if name != "files"}
    _print_json({"world": str(made.path), **facts}, as_json)


@app.command()
def extract(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder: taxonomy.csv and images/<leaf>/.")],
    encoder: Annotated[str, typer.Option(help="timm name, Hugging Face id, or local directory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 feature store to write or resume.")],
    on_unreadable: Annotated[OnUnreadable, typer.Option(help="What to do about a damaged image.")] = OnUnreadable.stop,
    batch: Annotated[int, typer.Option(help="Images per encoder batch.", min=1)] = 64,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Encode every image of a dataset once; run it again to resume.

    Example: crosstax extract birds --encoder vit_large_patch14_reg4_dinov2.lvd142m --out birds.h5
    """
    from cachegen.dataset import load_dataset
    from cachegen.extract import extract as run

    loaded = load_dataset(dataset)
    _say(loaded.summary())
    summary = run(loaded, encoder, out, batch=batch, on_unreadable=on_unreadable.value, device=device)
    for key, reason in summary["unreadable"].items():
        _say(f"unreadable: {key}: {reason}")
    _say(f"{summary['encoded']} of {summary['images']} images encoded in {summary['seconds']:.1f} s: {out}")
    _print_json(summary, as_json)


@app.command()
def train(
    dataset: Annotated[Path, typer.Option(help="Dataset folder.")],
    features: Annotated[Path, typer.Option(help="Feature store of that dataset.")],
    lm: Annotated[str, typer.Option(help="Language model: local directory or Hugging Face id.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Condition fields as NAME=VALUE.")] = None,
    out: OutFolder = Path("runs"),
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: MaxTokens = 4096,
    as_json: Json = False,
) -> None:
    """Train and evaluate one condition.

    Example: crosstax train --dataset birds --features birds.h5 --lm Qwen/Qwen3-0.6B shuffle=across run_seed=42
    """
    from engine.condition import Sweep, parse_settings

    grid = {"dataset": str(dataset), "features": str(features), "lm": lm, **parse_settings(settings or [])}
    _run(Sweep.expand([grid], "train"), out, device, threads, max_tokens, 1, as_json)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="TOML: optional [defaults], then [[grid]] tables; lists are crossed.")],
    out: OutFolder = Path("runs"),
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: MaxTokens = 4096,
    group_size: GroupSize = 16,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate every condition of a sweep file; run it again to resume, what is done is skipped."""
    from engine.condition import read_sweep

    plan = read_sweep(file)
    if dry_run:
        for inputs, condition in plan.runs:
            _say(f"{inputs.lm}  {inputs.features.name}  {condition.changed()}")
        _print_json({"runs": len(plan.runs)}, as_json)
        return
    _run(plan, out, device, threads, max_tokens, group_size, as_json)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory with a trained projector.")],
    split: Annotated[Split, typer.Option(help="Whose questions to ask.")] = Split.test,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Parquet file for the answers.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: MaxTokens = 4096,
    as_json: Json = False,
) -> None:
    """Ask a trained run its questions again, on any split or device, and print macro F1."""
    _threads(threads)
    from analysis.f1 import mean_macro_f1
    from engine.plan import Execution
    from engine.sweep import evaluate_run

    answers = evaluate_run(run, split.value, Execution(device=device, max_tokens=max_tokens))
    if out is not None:
        answers.to_parquet(out, index=False)
    scores = mean_macro_f1(answers)
    for group, score in scores.items():
        _say(f"{group}: macro F1 {score:.1f}")
    _print_json({"run": str(run), "split": split.value, "questions": len(answers), "macro_f1": scores}, as_json)


@app.command()
def analyze(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep folder.")],
    out: OutFolder = Path("results"),
    as_json: Json = False,
) -> None:
    """Write tables (CSV) and figures from saved predictions."""
    from analysis.predictions import load_sweep
    from analysis.tables import analyze as run

    study = run(load_sweep(folder), out)
    _say(f"tables and figures: {out}")
    _print_json({"out": str(out), "runs": len(study.sweep.runs)}, as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep folder.")],
    out: OutFolder = Path("report"),
    world: Annotated[Path | None, typer.Option(help="The microworld the sweep ran on, if it did.")] = None,
    as_json: Json = False,
) -> None:
    """Write OUT/index.html: one self-contained page about a sweep."""
    from analysis.predictions import load_sweep
    from analysis.report import write_report

    summary = write_report(load_sweep(folder), out, world=world, seconds={})
    _say(f"report: {summary['report']}")
    _print_json(summary, as_json)


@app.command()
def doctor(
    dataset: Annotated[
        Path | None, typer.Option(help="Also check a dataset: taxonomy, and every image decoded.")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Also check a feature store: every row's checksum.")] = None,
    as_json: Json = False,
) -> None:
    """Say what was found on this machine, what the engine will use and why, and whether data are sound."""
    from engine.doctor import examine, examine_dataset, examine_features

    findings = examine()
    for name, value in findings.items():
        _say(f"{name:<14}{value}")
    if dataset is not None:
        findings["dataset"] = examine_dataset(dataset)
        _say(findings["dataset"])
    if features is not None:
        findings["features"] = examine_features(features)
        _say(findings["features"])
    _print_json(findings, as_json)


@app.command()
def bench(threads: Threads = None, as_json: Json = False) -> None:
    """Time the engine against the plainest loop on this machine, at the microworld's size."""
    _threads(threads)
    from engine.bench import bench as run

    result = run()
    for name in ("train", "evaluate"):
        times = result[name]
        _say(
            f"{name}: plain {1e3 * times['plain']:.1f} ms, engine {1e3 * times['engine']:.1f} ms a step, "
            f"{times['ratio']:.2f} times as fast; logits differ by {times['largest_logit_difference']:.1g}"
        )
    _print_json(result, as_json)


def _run(
    plan: Any, out: Path, device: str, threads: int | None, max_tokens: int, group_size: int, as_json: bool
) -> None:
    """What `train` and `sweep` share: carry out the runs and name their folders."""
    _threads(threads)
    from engine.plan import Execution
    from engine.run_directory import RunDirectory
    from engine.sweep import run_sweep

    folders = run_sweep(plan, out, Execution(device=device, max_tokens=max_tokens, group_size=group_size))
    failed = [folder.name for folder in folders if RunDirectory(folder).failed]
    _say(f"{len(folders) - len(failed)} runs done, {len(failed)} failed: {out}")
    _print_json({"out": str(out), "runs": [folder.name for folder in folders], "failed": failed}, as_json)


def _threads(count: int | None) -> None:
    """Fix what moves last bits and speed on a CPU: threads, and denormal numbers."""
    import torch

    if count is not None:
        torch.set_num_threads(count)
    torch.set_flush_denormal(True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print_json(value: dict[str, Any], wanted: bool) -> None:
    if wanted:
        print(json.dumps(value, ensure_ascii=False))


def main() -> None:
    """Run the command; what a user can cause is one line and exit code 2."""
    from cachegen.errors import CrosstaxError

    try:
        app()
    except KeyboardInterrupt:
        _say("interrupted; the same command resumes")
        sys.exit(130)
    except (CrosstaxError, OSError) as error:
        expected = isinstance(error, CrosstaxError) or error.errno in (
            errno.ENOSPC,
            errno.EACCES,
            errno.EROFS,
            errno.EDQUOT,
        )
        if "--debug" in sys.argv or not expected:
            raise
        _say(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
