"""The commands that the kill harness kills, on data so small that each takes a fraction of a second."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from kill_harness import Command
from PIL import Image

import cli
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.encoders import Encoder, load_encoder
from cachegen.features.extract import extract
from cachegen.features.store import DONE, FEATURES, PENDING, FeatureStore, row_checksum
from engine.design.condition import Sweep
from engine.runs.directory import HASHED, RunDirectory
from engine.runs.planned import Execution
from engine.sweeps.plan_file import read_plan
from engine.sweeps.status import status_text, sweep_status
from engine.sweeps.sweep import run_sweep
from engine.sweeps.timing import checkpoint_step
from engine.sweeps.tune.record import read_tune_record
from engine.sweeps.tune.study import RunsOf, run_tune
from engine.sweeps.tune.table import TuneTable

SIDE, IMAGES = 28, 11
EVERY_STEP = Execution(device="cpu", checkpoint_seconds=0.0, group_size=2)


def make_pictures(root: Path) -> Dataset:
    """Two leaves with six and five images of noise; one of them cannot be read."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        folder = root / "images" / ("crow", "saw")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (20 + number, 33, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    (root / "images" / "crow" / "4.png").write_bytes(b"?" * 300)
    rows = ["leaf,leaf_phrase,number,hypernym,hypernym_phrase", "crow,a crow,singular,thing,a thing"]
    (root / "taxonomy.csv").write_text("\n".join([*rows, "saw,a saw,singular,thing,a thing"]))
    return load_dataset(root)


def make_encoder(folder: Path) -> Encoder:
    """A DINOv2 of three layers with random weights."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 14, "image_size": SIDE}
    transformers.Dinov2Model(transformers.Dinov2Config(**shape)).save_pretrained(folder)
    processor = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return load_encoder(str(folder), "cpu")


def without_leftovers(folder: Path) -> None:
    left = [path.name for pattern in ("*.tmp", ".tmp*") for path in folder.rglob(pattern)]
    assert not left, f"left behind by killed writers: {left}"


def extraction(dataset: Dataset, encoder: Encoder) -> Command:
    """Eleven images in blocks of two, one of them unreadable."""

    def run(folder: Path) -> None:
        extract(dataset, encoder, folder / "f.h5", batch=2, workers=1, on_unreadable="mark")

    def rows(folder: Path) -> dict[str, Any]:
        if not (folder / "f.h5").exists():
            return {}
        store = FeatureStore.open(folder / "f.h5", allow_pending=True)
        store.verify()
        finished = np.flatnonzero(store.done != PENDING)
        for row in finished:
            parts = [getattr(store, name)[row] for name in FEATURES]
            assert row_checksum(store.keys[row], parts) == store.crc32[row], f"row {row} is marked and not written"
        state = {store.keys[row]: (int(store.done[row]), int(store.crc32[row])) for row in finished}
        return {key: (*found, store.unreadable.get(key)) for key, found in state.items()}

    def final(folder: Path) -> dict[str, bytes]:
        assert sum(state == DONE for state, _, _ in rows(folder).values()) == IMAGES - 1
        without_leftovers(folder)
        return {name: (folder / name).read_bytes() for name in ("f.h5", "f.h5.unreadable.jsonl")}

    return Command("extraction", run, rows, final)


def sweep(runs: Sweep) -> Command:
    """Lockstep groups of two runs with a checkpoint after every step."""

    def run(folder: Path) -> None:
        run_sweep(runs, folder / "runs", EVERY_STEP)

    def kept(folder: Path) -> dict[str, Any]:
        """Files of the runs that are done: bytes, and when they were written."""
        done = [path.parent for path in folder.glob("runs/*/DONE")]
        assert all(RunDirectory(run).done for run in done), "DONE does not say what the files are"
        files = [run / name for run in done for name in (*HASHED, "DONE")]
        return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    def progress(folder: Path) -> dict[str, int]:
        """Steps at the checkpoint of each group that is not over, which status can tell."""
        out = folder / "runs"
        if not (out / "plan.json").is_file():
            return {}
        assert status_text(sweep_status(out))
        groups = [group for group in read_plan(out) if not all(RunDirectory(out / run).over for run in group.runs)]
        return {group.runs[0]: checkpoint_step(group.checkpoint(out)) for group in groups}

    def final(folder: Path) -> dict[str, bytes]:
        out = folder / "runs"
        without_leftovers(out)
        assert not list(out.glob("*.safetensors")), "a checkpoint is left of a group that is over"
        assert sweep_status(out)["counts"]["done"] == len(runs.runs)
        files = [out / "plan.json", *(path / name for path in out.glob("*/") for name in HASHED if path.name[0] != ".")]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    return Command("sweep", run, kept, final, progress)


def tune(table: TuneTable, runs_of: RunsOf) -> Command:
    """A study in batches, each a sweep; its record is kept as far as it goes, and so are its runs."""
    trials = sweep(Sweep(runs=()))

    def run(folder: Path) -> None:
        run_tune(table, runs_of, folder / "runs", EVERY_STEP)

    def kept(folder: Path) -> dict[str, Any]:
        record = read_tune_record(folder / "runs")
        over = {} if record is None else {f"trial {trial.number}": trial for trial in record.trials}
        return trials.kept(folder) | over

    def final(folder: Path) -> dict[str, bytes]:
        out = folder / "runs"
        without_leftovers(out)
        files = [out / "tune.json", *(path / name for path in out.glob("*/") for name in HASHED if path.name[0] != ".")]
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    return Command("tune", run, kept, final, trials.progress)


def evaluation(run_folder: Path) -> Command:
    """`crosstax evaluate` of a finished run; what it writes is whole or absent."""
    name = "answers.parquet"

    def run(folder: Path) -> None:
        words = ["crosstax", "evaluate", str(run_folder), "--out", str(folder / name), "--device", "cpu", "--threads"]
        sys.argv = [*words, "1"]
        cli.main()

    def kept(folder: Path) -> dict[str, Any]:
        return final(folder) if (folder / name).exists() else {}

    def final(folder: Path) -> dict[str, Any]:
        assert len(pd.read_parquet(folder / name)) > 0
        return {name: (folder / name).read_bytes()}

    return Command("evaluation", run, kept, final)
