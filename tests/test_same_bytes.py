"""One sweep and one extraction through every executor that can run here: the same bytes, file by file."""

import numpy as np
import pytest
from PIL import Image
from real_slurm import slurm_of_one_node
from run_folders import bytes_in
from small_study import write_dataset
from test_extract import BATCH, SIDE, save_encoder

from cachegen.data.dataset import load_dataset
from cachegen.features.extract import extract
from engine.runs.planned import Execution
from engine.sweeps.executors import choose_executor
from engine.sweeps.executors.extraction import extract_in_parts
from engine.sweeps.executors.local import local
from engine.sweeps.sweep import run_sweep

GROUPS_OF_TWO = Execution(device="cpu", group_size=2)


def by_workers(tmp_path, monkeypatch):
    yield local(workers=2)


def by_ray(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra crosstax[ray] is not installed")
    try:
        yield choose_executor("ray", ray_address="local")
    finally:
        ray.shutdown()


def by_slurm(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="the extra crosstax[slurm] is not installed")
    for _ in slurm_of_one_node(tmp_path / "slurm", monkeypatch):
        yield choose_executor("slurm", ["partition=main"], wait=True)


@pytest.fixture(params=[by_workers, by_ray, by_slurm])
def executor(request, tmp_path, monkeypatch):
    yield from request.param(tmp_path, monkeypatch)


def chosen(out):
    """Bytes of what a sweep is for: projectors and predictions."""
    wanted = ("projector.safetensors", "predictions.parquet")
    return {name: content for name, content in bytes_in(out).items() if name.endswith(wanted)}


@pytest.fixture(scope="module")
def sweep(small_study):
    """Two groups of two runs."""
    return small_study.sweep(run_seed=[1, 2], shuffle=["original", "across"])


@pytest.fixture(scope="module")
def reference(sweep, small_study, tmp_path_factory):
    """The sweep in this process; another seed gives other bytes in every file."""
    out, other = tmp_path_factory.mktemp("reference"), tmp_path_factory.mktemp("other")
    run_sweep(sweep, out, GROUPS_OF_TWO)
    run_sweep(small_study.sweep(run_seed=[3, 4], shuffle=["original", "across"]), other, GROUPS_OF_TWO)
    found = chosen(out)
    assert len(found) == len(chosen(other)) == 8
    assert set(found.values()).isdisjoint(chosen(other).values())
    return bytes_in(out)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A dataset with 21 pictures, an encoder, and the bytes of their store."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    root = write_dataset(folder / "dataset", {"thing": ["crow", "gull", "saw"]}, images=7)
    for path in sorted(root.glob("images/*/*.png")):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    dataset, encoder = load_dataset(root), save_encoder(folder / "encoder")
    extract(dataset, encoder, folder / "one.h5", batch=BATCH, device="cpu")
    return dataset, encoder, (folder / "one.h5").read_bytes()


@pytest.mark.slow
def test_the_same_bytes(executor, sweep, reference, images, tmp_path):
    run_sweep(sweep, tmp_path / "runs", GROUPS_OF_TWO, executor=executor)
    assert bytes_in(tmp_path / "runs") == reference
    dataset, encoder, store = images
    extract_in_parts(dataset, tmp_path / "two.h5", {"encoder": encoder, "batch": BATCH, "device": "cpu"}, 2, executor)
    assert (tmp_path / "two.h5").read_bytes() == store
