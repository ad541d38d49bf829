"""Extraction through executors: the bytes of one task, from processes that each write a part."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_study import write_dataset
from test_extract import BATCH, SIDE, save_encoder

from cachegen.common.errors import RunError, StoreError
from cachegen.data.dataset import load_dataset
from cachegen.features.extract import extract
from cachegen.features.store import FeatureStore
from engine.sweeps.executors import choose_executor, in_this_process, run_elsewhere
from engine.sweeps.executors.extraction import extract_in_parts, jobs_folder
from engine.sweeps.timing import read_events


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def dataset(tmp_path):
    """21 images: five blocks of four, and one of one."""
    root, rng = (
        write_dataset(tmp_path / "dataset", {"thing": ["crow", "gull", "saw"]}, images=7),
        np.random.default_rng(0),
    )
    for path in sorted(root.glob("images/*/*.png")):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return load_dataset(root)


def encoding(encoder):
    return {"encoder": encoder, "batch": BATCH, "device": "cpu"}


@pytest.fixture
def reference(dataset, encoder, tmp_path):
    extract(dataset, encoder, tmp_path / "one.h5", batch=BATCH, device="cpu")
    return (tmp_path / "one.h5").read_bytes()


@pytest.mark.slow
def test_two_processes(dataset, encoder, reference, tmp_path):
    out = tmp_path / "two.h5"
    summary = extract_in_parts(dataset, out, encoding(encoder), 2, choose_executor("local", workers=2))
    assert out.read_bytes() == reference
    assert (summary["images"], summary["pending"], summary["digest"]) == (21, 0, FeatureStore.open(out).digest)
    holders = {line.split(" pid ")[1].split(",")[0] for line in Path(f"{out}.lock").read_text().splitlines()}
    assert len(holders) == 2
    assert str(os.getpid()) not in holders


def test_jobs_of_submitit(dataset, encoder, reference, tmp_path):
    pytest.importorskip("submitit", reason="the extra crosstax[slurm] is not installed")
    from engine.sweeps.executors.slurm import slurm

    out = tmp_path / "three.h5"
    extract_in_parts(dataset, out, encoding(encoder), 3, slurm({}, wait=True, cluster="debug"))
    assert out.read_bytes() == reference
    submitted = [event["group"] for event in read_events(jobs_folder(out))]
    assert submitted == ["part 1/3", "part 2/3", "part 3/3"]


def test_parts_that_are_left_out_are_pending(dataset, encoder, reference, tmp_path):
    out = tmp_path / "some.h5"
    summary = extract_in_parts(dataset, out, encoding(encoder), 3, lambda jobs: in_this_process(jobs[1:]))
    assert summary["pending"] == 8
    assert summary["digest"] is None
    assert out.read_bytes() != reference
    extract_in_parts(dataset, out, encoding(encoder), 2, in_this_process)
    assert out.read_bytes() == reference


def test_images_that_changed_since_submission_are_refused(dataset, encoder, tmp_path):
    jobs = []
    summary = extract_in_parts(dataset, tmp_path / "late.h5", encoding(encoder), 2, jobs.extend)
    assert summary["pending"] == 21
    next((dataset.root / "images" / "crow").iterdir()).unlink()
    with pytest.raises(RunError, match="its images have changed since"):
        run_elsewhere(jobs[0], patience=0)
    assert not (tmp_path / "late.h5").exists()


def test_an_image_that_cannot_be_read_stops_all(dataset, encoder, tmp_path):
    next((dataset.root / "images" / "crow").iterdir()).write_bytes(b"no image")
    with pytest.raises(StoreError, match="unreadable"):
        extract_in_parts(dataset, tmp_path / "bad.h5", encoding(encoder), 2, in_this_process)


def test_a_part_or_all_tasks(crosstax, dataset, encoder, tmp_path):
    words = ("extract", dataset.root, "--encoder", encoder, "--out", tmp_path / "x.h5", "--tasks", 2)
    for wrong, said in (("--part", "1/2"), "one part of a store"), (("--ray-address", "a:1"), "needs --executor ray"):
        code, _, err = crosstax(*words, *wrong)
        assert code == 2
        assert said in " ".join(err.split())
    assert not (tmp_path / "x.h5").exists()
