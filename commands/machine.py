"""Commands about this machine: what it has, and how fast the engine is on it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from commands.options import (
    Compiled,
    Device,
    Dtype,
    Json,
    Threads,
    fix_threads,
    print_json,
    say,
)


def doctor(
    dataset: Annotated[Path | None, typer.Option(help="Also check a dataset: its taxonomy, and every image.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Also check a feature store: the checksum of every row.")
    ] = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Compare the content of every image with the store, not only sizes and times."),
    ] = False,
    lm: Annotated[
        str | None,
        typer.Option(help="Also load an LM (directory, GGUF file or id); show how it would run."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Also load an encoder; show what is read of it and, with --lm, what the LM sees."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="With --lm: a field of a condition, such as template."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine, a dataset, a feature store, an LM and an encoder.

    It prints what the engine will use and why. Given a dataset and a feature store, it also checks that the features
    belong to the images.

    Example: crosstax doctor --dataset birds --features birds.h5 --deep

    Example: crosstax doctor --lm Qwen/Qwen3-0.6B --encoder vit_large_patch14_reg4_dinov2.lvd142m
    """
    from engine.design.condition import parse_settings
    from engine.doctor import (
        examine,
        examine_dataset,
        examine_encoder,
        examine_features,
        examine_lm,
        examine_pictures,
        require_readable,
    )

    if deep and (dataset is None or features is None):
        raise typer.BadParameter("--deep compares images with features; give --dataset and --features")

    if sets and lm is None:
        raise typer.BadParameter("--set is about the prompt; give --lm")
    fields = parse_settings(sets or [])
    findings: dict[str, Any] = examine() | (examine_lm(lm, encoder, fields) if lm else {})
    for name, value in findings.items():
        if isinstance(value, str):
            say(f"{name:<14}{value}")
    if dataset is not None:
        findings["dataset"], inspection = examine_dataset(dataset)
        if inspection is not None:
            findings["images"] = inspection.as_json()
        say(findings["dataset"])
    if features is not None:
        findings["features"] = examine_features(features)
        say(findings["features"])
    if dataset is not None and features is not None:
        findings["pictures"] = examine_pictures(dataset, features, deep)
        say(findings["pictures"])
    if encoder is not None:
        findings["encoder"] = examine_encoder(encoder)
        say(findings["encoder"])
    print_json(findings, as_json)
    if dataset is not None and inspection is not None:
        require_readable(dataset, inspection)


def bench(
    lm_config: Annotated[
        Literal["0.6b", "1.7b", "llama-1b", "tiny"], typer.Option(help="Size of the LM; its weights are random.")
    ] = "0.6b",
    ablation: Annotated[
        Literal["100", "10"],
        typer.Option(help="Ablation level in percent, which sets the number of questions per image."),
    ] = "100",
    dtype: Annotated[Dtype | None, typer.Option(help="Precision; default: the faster one on this machine.")] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Numbers of layers to time; from two, such as 4,8, full depth is extrapolated. Default on a CPU: 4,8."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of alternating timings, after one warm-up round.", min=1)] = 3,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for bench.json.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    compiled: Compiled = True,
    as_json: Json = False,
) -> None:
    """Time the engine against a naive loop on this machine.

    It times training, evaluation and lockstep.

    Example: crosstax bench --lm-config 0.6b --ablation 10
    """
    fix_threads(threads)
    import torch

    from cachegen.common.device import best_dtype, choose_device
    from cachegen.common.files import write_json
    from engine.benchmark.bench import bench as run_bench
    from engine.benchmark.bench import bench_text
    from engine.benchmark.compare import Setting, read_depths

    place = choose_device(device)
    precision = dtype or best_dtype(place)[0]
    setting = Setting(lm_config, int(ablation), getattr(torch, precision), place, rounds, compiled)
    result = run_bench(setting, read_depths(layers))
    say(bench_text(result))
    if out is not None:
        write_json(out / "bench.json", result)
    print_json(result, as_json)
