"""Options that several commands share, and how they print."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from engine.sweeps.presets import Preset

Dtype = Literal["float32", "bfloat16"]


class TrackerName(StrEnum):  # lists of a Literal are not known to Typer
    tensorboard = "tensorboard"
    wandb = "wandb"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line on stdout.")]
Device = Annotated[str, typer.Option(help="Where models run: auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads of PyTorch; default: its own choice. Another number can change the last bits.", min=1
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes on this machine that work at once, each with --threads threads.", min=1),
]
RowTokens = Annotated[
    int | None, typer.Option("--max-tokens", help="Tokens in one packed row; default: as many as memory allows.", min=1)
]
GroupSize = Annotated[
    int | None,
    typer.Option(help="Largest number of runs that train in lockstep; default: as many as memory allows.", min=1),
]
DatasetFolder = Annotated[Path | None, typer.Option(help="Dataset folder.")]
DatasetPlace = Annotated[
    Path | None, typer.Option("--dataset", help="Where the run's dataset is now, if it has moved.")
]
StorePlace = Annotated[
    Path | None, typer.Option("--features", help="Where the run's feature store is now, if it has moved.")
]
LMPlace = Annotated[str | None, typer.Option("--lm", help="Where the run's LM is now, if it has moved.")]
EncoderPlace = Annotated[str | None, typer.Option("--encoder", help="Where the run's encoder is now, if it has moved.")]
DatasetPlaces = Annotated[
    list[Path] | None,
    typer.Option("--dataset", help="Where a dataset of these runs is now, if it has moved; repeatable."),
]
StorePlaces = Annotated[
    list[Path] | None,
    typer.Option("--features", help="Where a feature store of these runs is now, if it has moved; repeatable."),
]
Stores = Annotated[
    list[Path] | None, typer.Option(help="Feature store; repeatable. Each run uses the store of its encoder.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set this field in every run; repeatable.")
]
ExecutorOption = Annotated[
    Literal["local", "slurm", "ray"],
    typer.Option("--executor", help="Where the work runs: on this machine, or through Slurm or Ray."),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm", metavar="KEY=VALUE", help="Option of sbatch, such as partition=gpu or time=240; repeatable."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR",
        help="Ray cluster, such as head:6379. Default: $RAY_ADDRESS, then one that runs on this machine, then one that "
        "is started for this command; `local` always starts one.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="With Slurm: return only when all jobs have ended.")]
ProbeFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--probe",
        help="Text probes of the LMs: files that `crosstax probe --negatives all` wrote, or their folder; repeatable.",
    ),
]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compile/--no-compile",
        help="On a GPU, compile the LM's layers where training is long enough to pay for it; can change the last bits.",
    ),
]
Track = Annotated[
    list[TrackerName] | None,
    typer.Option("--track", help="Also send metrics there; W&B works offline unless WANDB_MODE is set; repeatable."),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]


def fix_threads(count: int | None, workers: int | None = None) -> None:
    """Fix what moves last bits and speed on a CPU: threads (else the workers share the cores), and denormal numbers."""
    import torch

    from cachegen.common.system import cores

    if count is None and workers is not None:
        count = max(1, cores() // workers)
    if count is not None:
        torch.set_num_threads(count)
    torch.set_flush_denormal(True)


def say(text: str) -> None:
    """Print to stderr; what a terminal would obey, or show in another order, is escaped: names come from anywhere."""
    escaped = (c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    print("".join(escaped), file=sys.stderr)


def print_json(value: dict[str, Any], wanted: bool) -> None:
    if wanted:
        print(json.dumps(value))  # escapes of JSON are read alike whatever the encoding of a pipe


def sweep_source(file: Path | None, preset: str | None) -> "Path | Preset":
    """The sweep file or the preset, whichever is given."""
    from engine.sweeps.presets import load_preset

    if preset is not None and file is None:
        return load_preset(preset)
    if file is None or preset is not None:
        raise typer.BadParameter("give a sweep file or --preset NAME; `crosstax presets` lists presets")
    return file
