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


data_app = typer.Typer(help="Make a dataset folder from published data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
world_app = typer.Typer()
app.add_typer(world_app, name="world")


class WorldSize(StrEnum):
    demo = "demo"
    smoke = "smoke"


class OnUnreadable(StrEnum):
    stop = "stop"
    mark = "mark"


class ExecutorName(StrEnum):
    local = "local"
    slurm = "slurm"


class Split(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


class Negatives(StrEnum):
    image_level = "image-level"
    distinct = "distinct"
    all = "all"


class Weights(StrEnum):
    pretrained = "pretrained"
    random = "random"


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Compute(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class ExportFormat(StrEnum):
    llava = "llava"


class BenchLM(StrEnum):
    small = "0.6b"
    large = "1.7b"
    llama = "llama-1b"
    tiny = "tiny"


class BenchAblation(StrEnum):
    all = "100"
    little = "10"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads of PyTorch, else its default; they can move last bits.", min=1)
]
MaxTokens = Annotated[int, typer.Option(help="Tokens of one packed row; lower it when memory is short.", min=1)]
RowTokens = Annotated[
    int | None, typer.Option("--max-tokens", help="Tokens of one packed row, else chosen from the memory.", min=1)
]
GroupSize = Annotated[
    int | None, typer.Option(help="Most runs that train in lockstep, else chosen from the memory.", min=1)
]
ProbeFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--probe", help="Text probe of an LM of the sweep, a .parquet of `crosstax probe --negatives all`; repeatable."
    ),
]
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
    from analysis.probes import read_probes
    from analysis.report import write_report
    from engine.plan import Execution
    from engine.study import probe_lms, run_study

    # Models this small fit a whole lockstep step into one row.
    study = run_study(out, size.value, seed, Execution(device="cpu", max_tokens=16384))
    started = time.perf_counter()
    probes = read_probes(probe_lms(study, out / "probes"))
    sweep, world = load_sweep(study.sweep), study.world.path
    summary = write_report(sweep, out / "report", world=world, seconds=study.seconds, probes=probes)
    summary["seconds"] = study.seconds | {"report": round(time.perf_counter() - started, 2)}
    _say(f"report {summary['seconds']['report']:.1f} s: {summary['report']}")
    _print_json(summary, as_json)


@world_app.callback(invoke_without_command=True)
def world(
    context: typer.Context,
    size: Annotated[WorldSize, typer.Option(help="Size of the world.")] = WorldSize.demo,
    seed: Annotated[int, typer.Option(help="Seed of the world.", min=0)] = 101,
    cache: Annotated[Path | None, typer.Option(help="Cache folder; else $CROSSTAX_CACHE or ~/.cache/crosstax.")] = None,
    twins: Annotated[
        bool, typer.Option("--twins", help="Also its twins: two LMs that lack a part of the text, a SigLIP encoder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a microworld (images, encoder, LM and its random-init twins), or find it in the cache.

    Example: crosstax world --seed 3 --twins
    """
    if context.invoked_subcommand is not None:
        return
    from cachegen.microworld.twins import TWINS, build_twin, twin_manifest
    from cachegen.microworld.world import build_world

    made = build_world(size.value, seed, cache)
    built = {name: build_twin(made, name) for name in TWINS} if twins else {}
    paths = {"dataset": made.dataset, "encoder": made.encoder, "lm": made.lm, "contact_sheet": made.contact_sheet}
    facts = {name: value for name, value in made.manifest.items() if name != "files"}
    for name, path in {"world": made.path, **paths, **built}.items():
        _say(f"{name}: {path}")
    _say(f"random_lm_seeds: {', '.join(map(str, facts['random_lm_seeds']))}")
    for name in built:
        facts[name] = {key: value for key, value in twin_manifest(made, name).items() if key != "files"}
    named = {name: str(path) for name, path in (paths | built).items()}
    _print_json({"world": str(made.path), "paths": named, **facts}, as_json)


@world_app.command("replicate")
def world_replicate(
    worlds: Annotated[int, typer.Option(help="How many worlds.", min=1)] = 5,
    first_seed: Annotated[int, typer.Option(help="Seed of the first world; the others follow.", min=0)] = 101,
    size: Annotated[WorldSize, typer.Option(help="Size of the worlds.")] = WorldSize.demo,
    twins: Annotated[bool, typer.Option("--twins", help="Also runs with the worlds' twins.")] = False,
    out: OutFolder = Path("replication"),
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Repeat the demo study over fresh worlds; OUT gets worlds.csv, replicate.json and replicate.md.

    The world is the unit of every interval. Run it again to resume, or with more worlds to go on.

    Example: crosstax world replicate --worlds 5 --first-seed 101 --out replication
    """
    _threads(threads)
    from analysis.replicate import write_replication
    from engine.plan import Execution
    from engine.replicate import replicate

    seeds = range(first_seed, first_seed + worlds)
    studies = replicate(out, size.value, seeds, twins, Execution(device="cpu", max_tokens=16384))
    result = write_replication(out, {seed: study.runs for seed, study in studies.items()})
    _say((out / "replicate.md").read_text(encoding="utf-8"))
    _print_json({"out": str(out), **result}, as_json)


@data_app.command("things")
def data_things(
    images: Annotated[
        Path | None, typer.Option(help="Folder or zip of THINGS; leave out to read how to get it.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="OSF's password_images.txt; else $CROSSTAX_THINGS_PASSWORD, else a prompt.")
    ] = None,
    taxonomy: Annotated[
        Path | None, typer.Option(help="minimal_pair_sentences.jsonl or a category53 file; else downloaded.")
    ] = None,
    out: OutFolder = Path("things"),
    partial: Annotated[
        bool, typer.Option("--partial", help="Build from what is there even if it is not the paper's data.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the paper's dataset from your copy of the THINGS images; run it again to resume.

    Example: crosstax data things --images images_THINGS.zip --password-file password_images.txt --out things
    """
    from cachegen.things.build import HOW_TO_GET_IMAGES, build_things, passwords_from

    if images is None:
        _say(HOW_TO_GET_IMAGES)
        raise typer.Exit(2)
    dataset, summary = build_things(
        images, out, taxonomy=taxonomy, passwords=lambda: passwords_from(password_file), partial=partial
    )
    _say(dataset.summary())
    done = [f"{summary[how]:,} {how}" for how in ("unpacked", "linked", "copied", "present") if summary[how]]
    _say("images: " + ", ".join(done))
    for line in [*summary["notes"], *(f"not the paper's data: {line}" for line in summary["differences"])]:
        _say(line)
    _print_json(summary, as_json)


@app.command()
def extract(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder: taxonomy.csv and images/<leaf>/.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="timm name, Hugging Face id, or local directory; NAME@384 reads images of 384 px, "
            "NAME@384+NAME@384 is a fused encoder."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 feature store to write or resume.")],
    on_unreadable: Annotated[OnUnreadable, typer.Option(help="What to do about a damaged image.")] = OnUnreadable.stop,
    batch: Annotated[int, typer.Option(help="Images per encoder batch.", min=1)] = 64,
    device: Device = "auto",
    compute: Annotated[
        Compute,
        typer.Option(
            help="Precision of the encoder's matrix products; auto: bfloat16 on CUDA, else float32. On CPUs with "
            "AVX512-BF16 bfloat16 is about 3 times as fast; it moves features by 2 to 4 times the store's rounding."
        ),
    ] = Compute.auto,
    as_json: Json = False,
) -> None:
    """Encode every image of a dataset once; run it again to resume.

    Example: crosstax extract birds --encoder vit_large_patch14_reg4_dinov2.lvd142m --out birds.h5
    """
    from cachegen.dataset import load_dataset
    from cachegen.extract import extract as run

    loaded = load_dataset(dataset)
    _say(loaded.summary())
    summary = run(
        loaded,
        encoder,
        out,
        batch=batch,
        on_unreadable=on_unreadable.value,
        device=device,
        compute=compute.value,
    )
    for key, reason in summary["unreadable"].items():
        _say(f"unreadable: {key}: {reason}")
    _say(f"{summary['encoded']} of {summary['images']} images encoded in {summary['seconds']:.1f} s: {out}")
    _print_json(summary, as_json)


@app.command()
def stats(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder; no image is decoded.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Condition fields as NAME=VALUE.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for CSV tables, JSON and figures.")] = None,
    as_json: Json = False,
) -> None:
    """Count questions at every ablation level (the paper's Tables 2 and 3) and describe the taxonomy (Figures 8, 9).

    Example: crosstax stats things scope=mapping --out things-stats
    """
    from analysis.data_figures import write_data_figures
    from cachegen.dataset import load_dataset
    from engine.condition import Condition, parse_settings
    from engine.stats import count_tables, distributions, table_rows, write_stats

    loaded = load_dataset(dataset)
    condition = Condition.of(parse_settings(settings or []), "stats")
    tables, counted = count_tables(loaded, condition), distributions(loaded)
    _say(loaded.summary())
    _say(table_rows(tables).to_string(index=False))
    for name, table in counted.items():
        _say(f"\n{name}\n{table.to_string(index=False)}")
    if out is not None:
        write_stats(out, tables, counted)
        write_data_figures(out, counted)
        _say(f"tables and figures: {out}")
    _print_json({"dataset": str(dataset), "tables": tables, "notes": list(loaded.notes)}, as_json)


@app.command()
def train(
    dataset: Annotated[Path, typer.Option(help="Dataset folder.")],
    features: Annotated[Path, typer.Option(help="Feature store of that dataset.")],
    lm: Annotated[str, typer.Option(help="Language model: local directory or Hugging Face id.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Condition fields as NAME=VALUE.")] = None,
    preset: Annotated[
        str | None, typer.Option("--settings", help="Preset to start from: paper, release, fast.")
    ] = None,
    out: OutFolder = Path("runs"),
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: RowTokens = None,
    as_json: Json = False,
) -> None:
    """Train and evaluate one condition.

    Example: crosstax train --dataset birds --features birds.h5 --lm Qwen/Qwen3-0.6B shuffle=across run_seed=42
    """
    _threads(threads)
    from cachegen.errors import RunError
    from engine.condition import Sweep, parse_settings
    from engine.plan import Execution
    from engine.run_directory import RunDirectory
    from engine.sweep import run_sweep
    from engine.sweep_file import default_fields

    places = {"dataset": str(dataset), "features": str(features), "lm": lm}
    grid = default_fields(preset) | places | parse_settings(settings or [])
    execution = Execution(device=device, max_tokens=max_tokens, group_size=1)
    folders = run_sweep(Sweep.expand([grid], "train"), out, execution, retry_failed=True)
    for directory in map(RunDirectory, folders):
        if directory.failed:
            raise RunError(f"{directory.path}: {directory.reason}")
    _say(f"done: {', '.join(map(str, folders))}")
    _print_json({"out": str(out), "runs": [folder.name for folder in folders], "failed": []}, as_json)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Preset to print, to copy and edit.")] = None,
    as_json: Json = False,
) -> None:
    """List the presets (settings, and a sweep for each figure and table of the paper), or print one as TOML.

    Example: crosstax presets fig6 > mine.toml
    """
    from engine.presets import load_preset, preset_names

    if name is not None:
        preset = load_preset(name)
        if not as_json:
            print(preset.text, end="")
        _print_json({"name": name, "about": preset.about, "toml": preset.text}, as_json)
        return
    about = {each: load_preset(each).about for each in preset_names()}
    for each, line in about.items():
        _say(f"{each:<12}{line}")
    _print_json({"presets": about}, as_json)


@app.command()
def sweep(
    file: Annotated[Path | None, typer.Argument(help="TOML file; see `crosstax presets NAME` for its form.")] = None,
    preset: Annotated[str | None, typer.Option(help="Sweep preset instead of a file, for example fig6.")] = None,
    settings: Annotated[str | None, typer.Option(help="Settings preset instead of the file's own.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Replace a field everywhere; repeatable.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="Dataset folder.")] = None,
    features: Annotated[
        list[Path] | None, typer.Option(help="Feature store; repeatable, found by the encoder it was made with.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only runs with FIELD=VALUE, or with this in their id; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many runs.", min=1)] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try runs again that failed before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, its tokens, operations, disk and time, and stop.")
    ] = False,
    out: OutFolder = Path("runs"),
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: RowTokens = None,
    group_size: GroupSize = None,
    executor: Annotated[
        ExecutorName, typer.Option(help="Who carries groups out: this machine's GPUs, or a cluster's scheduler.")
    ] = ExecutorName.local,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Option of sbatch, such as partition=gpu or time=240; repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="With slurm: return only when all jobs are over.")] = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate every condition of a sweep file or preset; run it again to resume, what is done is skipped.

    Example: crosstax sweep --preset fig6 --dataset things --features dinov2.h5 --out runs --dry-run
    """
    from engine.condition import parse_settings
    from engine.presets import load_preset
    from engine.sweep_file import complete, locate, read_probe, read_sweep, select

    if (file is None) == (preset is None):
        raise typer.BadParameter("give a sweep file or --preset NAME; `crosstax presets` lists presets")
    source = load_preset(preset) if preset is not None else file
    assert source is not None
    stores = features or []
    if (asked := read_probe(source)) is not None:
        _sweep_probe(asked, dataset, out, device, threads, dry_run, as_json)
        return
    runs = read_sweep(source, settings, parse_settings(sets or [], ("lm", "encoder")))
    runs = select(locate(runs, dataset, stores), only or [], limit)
    _threads(threads)
    if dry_run:
        from engine.dry_run import dry_run as forecast
        from engine.dry_run_text import dry_run_text

        expected = forecast(runs, out, device)
        _say(dry_run_text(expected))
        _print_json(expected, as_json)
        return
    plan = complete(runs, f"preset {preset}" if preset else str(file), stores)
    from engine.executors import choose_executor
    from engine.executors.options import executor_options
    from engine.plan import Execution
    from engine.run_directory import RunDirectory
    from engine.sweep import run_sweep

    carry_out = choose_executor(executor.value, executor_options(executor.value, slurm), wait=wait)
    execution = Execution(device=device, max_tokens=max_tokens, group_size=group_size)
    folders = run_sweep(plan, out, execution, retry_failed=retry_failed, executor=carry_out)
    left = [folder.name for folder in folders if not RunDirectory(folder).over]
    failed = {folder.name: RunDirectory(folder).reason for folder in folders if RunDirectory(folder).failed}
    for name, reason in failed.items():
        _say(f"failed: {name}: {reason}")
    _say(f"{len(folders) - len(failed) - len(left)} runs done, {len(failed)} failed: {out}")
    if left:
        _say(f"{len(left)} runs are not over: crosstax status {out}")
    if failed:
        _say("the same command with --retry-failed tries failed runs again")
    result = {"out": str(out), "runs": [folder.name for folder in folders], "failed": list(failed), "left": left}
    _print_json(result, as_json)
    if failed or (left and (wait or executor is not ExecutorName.slurm)):
        raise typer.Exit(1)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep folder, also while it is written to.")],
    as_json: Json = False,
) -> None:
    """Say how far a sweep is, what failed and why, who works on it, and how long it will take."""
    from engine.status import status_text, sweep_status

    found = sweep_status(folder)
    _say(status_text(found))
    _print_json(found, as_json)


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
def ask(
    run: Annotated[Path, typer.Argument(help="Run directory of a finished run.")],
    words: Annotated[list[str], typer.Argument(metavar="IMAGE... [QUESTION?]", help="Image files, then a question.")],
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="A further question; repeatable.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask about every hypernym of the run's dataset.")] = False,
    encoder: Annotated[str | None, typer.Option(help="Where the run's encoder is now, if it has moved.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Ask a finished run about any pictures, in its own template, and print p(yes).

    Example: crosstax ask runs/RUN crow.jpg "Is there a bird in this image?" -q "Is there a tool in this image?"

    Example: crosstax ask runs/RUN crow.jpg owl.jpg --all
    """
    _threads(threads)
    from engine.ask import answers_json, answers_text, open_asker, read_words

    images, asked = read_words(words, question or [], everything)
    asker = open_asker(run, device, encoder)
    if everything:
        asked += asker.taxonomy_questions()
    answers = asker.ask(images, asked)
    for text in asker.unknown(asked):
        _say(f"note: this LM has no token for a word of {text!r}; ask as the run did (--all shows its wording)")
    _say(answers_text(answers, ranked=everything))
    _print_json({"run": str(run), "images": answers_json(answers)}, as_json)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run directory of a finished run.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder to write.")],
    to: Annotated[ExportFormat, typer.Option(help="llava: a LlavaForConditionalGeneration of transformers.")] = (
        ExportFormat.llava
    ),
    encoder: Annotated[str | None, typer.Option(help="Where the run's encoder is now, if it has moved.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write encoder, projector and LM of a finished run as one model that transformers loads by itself.

    Example: crosstax export runs/RUN --to llava model
    """
    from analysis.f1 import mean_macro_f1
    from engine.export.llava import export_llava
    from engine.finished_run import open_run

    assert to is ExportFormat.llava
    scores = mean_macro_f1(open_run(run).answers("test"))
    written = export_llava(run, out, scores, device=device, encoder=encoder)
    _say(f"written: {out}; its README.md says how to load and ask it")
    if written["line"]:
        _say(f"LLaVA cannot drop the encoder's {written['registers']} registers; after loading, run\n{written['line']}")
    _print_json(written, as_json)


@app.command()
def probe(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    lm: Annotated[list[str], typer.Option(help="Language model: local directory or Hugging Face id; repeatable.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .parquet file, or a folder to name files in.")] = Path(
        "probe"
    ),
    negatives: Annotated[
        Negatives,
        typer.Option(help="image-level: counted as published; distinct: the same, each once; all: every false pair."),
    ] = Negatives.image_level,
    phrasing: Annotated[
        list[str] | None,
        typer.Option(
            help="A question with {leaf_phrase} or {leaf_noun}, {hypernym_phrase} or {hypernym_noun}, and {is} or "
            "{Is}; repeatable. Else four, the paper's first."
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Where no chat template is used: text with {question}, ending in {answer}.")
    ] = None,
    answer_yes: Annotated[str | None, typer.Option(help="Answer that means yes.")] = None,
    answer_no: Annotated[str | None, typer.Option(help="Answer that means no.")] = None,
    no_chat_template: Annotated[bool, typer.Option("--no-chat-template", help="Even if the LM has one.")] = False,
    lm_init: Annotated[Weights, typer.Option(help="random: weights drawn for the LM's configuration.")] = (
        Weights.pretrained
    ),
    lm_seed: Annotated[int, typer.Option(help="Seed of random weights.", min=0)] = 0,
    data_seed: Annotated[int, typer.Option(help="Seed of the study whose negatives are asked.", min=0)] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the LM.")] = Dtype.float32,
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: MaxTokens = 4096,
    as_json: Json = False,
) -> None:
    """Ask LMs in text alone whether a crow is a type of bird, about every pair of a dataset.

    Example: crosstax probe birds --lm Qwen/Qwen3-0.6B --lm Qwen/Qwen3-1.7B --out probe
    """
    if out.suffix == ".parquet" and len(lm) > 1:
        raise typer.BadParameter("one .parquet file holds one LM; give a folder", param_hint="--out")
    _threads(threads)
    from analysis.probe_scores import describe_probe, probe_result
    from cachegen.dataset import load_dataset
    from engine.probe import probe_path, run_probe, settings_for, write_probe

    wording = {"phrasings": phrasing and tuple(phrasing), "template": template}
    wording |= {"answer_yes": answer_yes, "answer_no": answer_no}
    given = {name: value for name, value in wording.items() if value} | {"lm_init": lm_init.value, "lm_seed": lm_seed}
    given |= {"negatives": negatives.value, "data_seed": data_seed, "dtype": dtype.value}
    loaded, results = load_dataset(dataset), {}
    for name in lm:
        settings = settings_for(name, chat_template=not no_chat_template, **given)
        table, record = run_probe(loaded, name, settings, device, max_tokens)
        path = probe_path(out, record)
        write_probe(path, table, record)
        results[name] = probe_result(table, name) | {"file": str(path)}
        _say(describe_probe(results[name], record))
    _print_json({"lm": results}, as_json)


@app.command()
def analyze(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep folder.")],
    out: OutFolder = Path("results"),
    probe: ProbeFiles = None,
    as_json: Json = False,
) -> None:
    """Compute every table and figure of a sweep from its saved predictions, and print the essentials.

    OUT gets each table as CSV and Parquet, columns.csv, which says what the columns mean, and the figures.

    Example: crosstax analyze runs --probe probe/lm.parquet --out results
    """
    from analysis.overview import essentials, overview
    from analysis.predictions import load_sweep
    from analysis.probes import read_probes
    from analysis.tables import analyze as run
    from cachegen.progress import console

    started = time.perf_counter()
    study = run(load_sweep(folder), out, read_probes(probe or []))
    console.print(overview(study))
    _say(f"tables and figures: {out} ({time.perf_counter() - started:.1f} s)")
    _print_json({"out": str(out), **essentials(study)}, as_json)


@app.command()
def reanalyze(
    release: Annotated[
        Path, typer.Argument(metavar="RELEASE_DIR", help="Checkout of the authors' release, any subset of its files.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for claims.csv, means.csv and claims.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute the paper's published statistics from the authors' release, and say which agree.

    Example: crosstax reanalyze cross-modal-taxonomic-gen --out reanalysis
    """
    from analysis.release.reanalyze import reanalyze as run
    from analysis.release.reanalyze import write_reanalysis
    from analysis.release.text import reanalysis_text
    from cachegen.progress import console
    from engine.published import REMOVED_HYPERNYMS

    started = time.perf_counter()
    found = run(release, REMOVED_HYPERNYMS)
    console.print(reanalysis_text(found, console.width))
    if out is not None:
        write_reanalysis(found, out)
        _say(f"claims and means: {out}")
    _say(f"done in {time.perf_counter() - started:.1f} s")
    _print_json(found.as_json(), as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep folder.")],
    out: OutFolder = Path("report"),
    world: Annotated[Path | None, typer.Option(help="The microworld the sweep ran on, if it did.")] = None,
    probe: ProbeFiles = None,
    as_json: Json = False,
) -> None:
    """Write OUT/index.html: one self-contained page about a sweep.

    Example: crosstax report runs --probe probe/lm.parquet --out report
    """
    from analysis.predictions import load_sweep
    from analysis.probes import read_probes
    from analysis.report import write_report

    summary = write_report(load_sweep(folder), out, world=world, seconds={}, probes=read_probes(probe or []))
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
def bench(
    lm_config: Annotated[BenchLM, typer.Option(help="Sizes of the LM; its weights are random.")] = BenchLM.small,
    ablation: Annotated[BenchAblation, typer.Option(help="Questions of an image as at this level, in %.")] = (
        BenchAblation.all
    ),
    dtype: Annotated[Dtype | None, typer.Option(help="Precision, else the faster one of this machine.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="Depths to time, such as 4,8; full depth is on the line through two of them.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of alternating timings, after one to warm up.", min=1)] = 3,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="How cost grows, what fits, and hours of the paper's grid instead.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for bench.json or scaling.svg.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Time the engine against a naive loop on this machine: training, evaluation, lockstep, extraction, streaming.

    Example: crosstax bench --lm-config 0.6b --ablation 10
    """
    _threads(threads)
    import torch

    from cachegen.device import best_dtype, choose_device
    from cachegen.files import write_text

    place = choose_device(device)
    precision = dtype.value if dtype else best_dtype(place)[0]
    if scaling:
        from analysis.scaling_figure import scaling_figure
        from engine.benchmark.scaling import scaling as run_scaling
        from engine.benchmark.scaling_text import scaling_text
        from engine.benchmark.speed import measured_speed
        from engine.features import device_memory

        result = run_scaling(measured_speed(place, precision), device_memory(place), place)
        text, files = scaling_text(result), {"scaling.svg": scaling_figure(result)}
    else:
        from engine.benchmark.bench import bench as run_bench
        from engine.benchmark.bench import bench_text
        from engine.benchmark.compare import Setting, read_depths

        setting = Setting(lm_config.value, int(ablation.value), getattr(torch, precision), place, rounds)
        result = run_bench(setting, read_depths(layers))
        text, files = bench_text(result), {}
    _say(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        name = "scaling.json" if scaling else "bench.json"
        for file, content in {name: json.dumps(result, indent=2) + "\n", **files}.items():
            write_text(out / file, content)
    _print_json(result, as_json)


def _sweep_probe(
    asked: Any, dataset: Path | None, out: Path, device: str, threads: int | None, dry_run: bool, as_json: bool
) -> None:
    """A sweep of the text-only probe: one LM after the other, what `crosstax probe` does."""
    if dry_run:
        from engine.dry_run import dry_run_probe

        expected = dry_run_probe(asked, dataset)
        for name, cost in expected["lm"].items():
            _say(f"{name}: {cost['prompts']:,} prompts" + (f", {cost['flops']:.1e} FLOP" if cost["flops"] else ""))
        _print_json(expected, as_json)
        return
    if dataset is None:
        from cachegen.errors import ConditionError

        raise ConditionError("this sweep of probes leaves the dataset open; give --dataset DIR")
    probe(
        dataset,
        list(asked.lm),
        out,
        Negatives(asked.negatives),
        lm_init=Weights(asked.lm_init),
        lm_seed=asked.lm_seed,
        data_seed=asked.data_seed,
        dtype=Dtype(asked.dtype),
        device=device,
        threads=threads,
        as_json=as_json,
    )


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
