"""The sound study that bad-input cases break: pictures, encoder, store, LM, a finished and a started run, and more."""

import contextlib
import json
import shutil
from pathlib import Path

import torch
from encrypted_zip import write_zip
from picture_study import PLAIN, save_encoder, write_lm, write_pictures
from synthetic_release import write_release

from cachegen.data.dataset import load_dataset
from cachegen.features.extract import extract
from engine.design.condition import Sweep
from engine.lm.probe import run_probe, settings_for, write_probe
from engine.runs.finished import open_run
from engine.runs.planned import Execution
from engine.sweeps.plan_file import read_plan
from engine.sweeps.sweep import run_sweep
from engine.training.checkpoint import Checkpoint, write_checkpoint

SETTINGS = {**PLAIN, "standardise": False}
INPUTS = {"dataset": "dataset", "features": "features.h5", "lm": "lm"}
PROBE = {
    "phrasings": ("is there {leaf_noun} {hypernym_noun}",),
    "template": "{question} {answer}",
    "answer_yes": "yes",
    "answer_no": "no",
    "negatives": "all",
}
CONCEPTS = {"bird": ["crow", "duck"], "tool": ["hammer", "scissors"]}


def make_sound_study(root: Path) -> Path:
    """Everything by relative paths, so that a copy of the folder is a study of its own."""
    with contextlib.chdir(root):
        write_pictures(Path("dataset"))
        save_encoder("dinov2", "hf", Path("encoder"))
        write_lm(Path("lm"))
        extract(load_dataset(Path("dataset")), "encoder", Path("features.h5"), device="cpu", batch=4)
        (run,) = run_sweep(Sweep.expand([{**INPUTS, **SETTINGS}], "test"), Path("runs"), Execution(device="cpu"))
        run.parent.joinpath("name").write_text(run.name)
        _start(run, Path("started"))
        table, record = run_probe(load_dataset(Path("dataset")), "lm", settings_for("lm", **PROBE), "cpu")
        write_probe(Path("probe.parquet"), table, record)
        write_release(Path("release"))
        _write_things(Path("things"))
        lines = [f"{name} = {json.dumps(value)}" for name, value in {**INPUTS, **SETTINGS}.items()]
        Path("sweep.toml").write_text("\n".join(["[defaults]", *lines, "[[grid]]", ""]))
        Path("out").mkdir()
    return root


def run_name(study: Path) -> str:
    return (study / "runs" / "name").read_text()


def _start(run: Path, out: Path) -> None:
    """The same sweep as it stands when a process dies after its first step."""
    shutil.copytree(run, out / run.name, ignore=shutil.ignore_patterns("DONE", "p*.safetensors", "predictions.parquet"))
    shutil.copy(run.parent / "plan.json", out)
    done = open_run(run)
    projector = done.projector(48, torch.float32, 1.0).requires_grad_(True)
    optimizer = torch.optim.AdamW(projector.parameters())
    sum(parameter.sum() for parameter in projector.parameters()).backward()
    optimizer.step()
    (group,) = read_plan(out)
    write_checkpoint(Checkpoint(group.checkpoint(out), group.runs, group.max_tokens), [projector], optimizer, 1, [0])


def _write_things(root: Path) -> None:
    rows = [f"{hypernym}\t{concept}\t{concept}" for hypernym, names in CONCEPTS.items() for concept in names]
    root.mkdir()
    (root / "category.tsv").write_text("\n".join(["category\tuniqueID\tWord", *rows, ""]))
    write_zip(root / "images.zip", things_pictures(), None)


def things_pictures() -> dict[str, bytes]:
    """Name in the zip -> a few bytes, which nothing decodes."""
    names = [concept for concepts in CONCEPTS.values() for concept in concepts]
    return {f"object_images/{n}/{n}_{k:02}b.jpg": b"x" * k for n in names for k in range(1, 4)}
