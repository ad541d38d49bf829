"""Which device, whose memory, and how rows follow it; without a GPU, by what would be asked of CUDA."""

import os

import numpy as np
import pytest
import torch

from cachegen.common.device import choose_device, workers_each
from cachegen.common.errors import ModelError
from engine.runs.planned import Execution
from engine.sweeps import plan
from engine.sweeps.plan import MAX_TOKENS, MIN_TOKENS, longest_row
from engine.sweeps.plan_file import read_plan
from engine.sweeps.sweep import run_sweep
from engine.training.batches import pack

SETTINGS = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, and the list of those made this process's own."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in (*SETTINGS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return chosen


def test_a_gpu_by_number_is_the_process_s_own(gpus):
    assert choose_device("auto") == torch.device("cuda")
    assert gpus == []
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert gpus == [torch.device("cuda:1")]
    with pytest.raises(ModelError, match="cuda:2"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", SETTINGS)
def test_memory_grows_in_segments_unless_the_user_says_otherwise(gpus, monkeypatch, name):
    monkeypatch.setenv(name, "backend:native")
    choose_device("cuda")
    assert [os.environ.get(each) for each in SETTINGS if each != name] == [None]
    monkeypatch.delenv(name)
    choose_device("cuda")
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


@pytest.mark.parametrize(
    ("device", "workers", "each"),
    [("auto", 1, 1), ("auto", 2, 1), ("auto", 3, 2), ("cuda", 4, 2), ("cuda:1", 2, 2), ("cpu", 4, 1)],
)
def test_workers_on_one_gpu(gpus, device, workers, each):
    assert workers_each(device, workers) == each


def test_workers_share_what_is_planned_with(small_study, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "device_memory", lambda _: 2**30)
    monkeypatch.setattr(plan, "workers_each", lambda _, workers: workers)
    for workers in (1, 64):
        run_sweep(small_study.sweep(), tmp_path / str(workers), Execution("cpu", workers=workers))
    (alone,), (shared,) = (read_plan(tmp_path / name) for name in ("1", "64"))
    assert MIN_TOKENS <= shared.max_tokens < alone.max_tokens == MAX_TOKENS


def test_longer_rows_on_a_gpu():
    """One run's step of the paper has 4,400 tokens."""
    assert longest_row(torch.device("cpu")) < 4400 < longest_row(torch.device("cuda"))


@pytest.mark.parametrize("limit", [12, 40, 66, 110, 1000])
def test_even_rows_are_as_many_and_none_is_short(limit):
    """Where all images have equally many questions; else see `test_compiled`."""
    image = np.repeat(np.arange(10), 4)
    rows = {}
    for even in (False, True):
        made = pack(image, np.zeros_like(image), 1, 6, 3, limit, even=even)
        assert sorted(np.concatenate([row.question for row in made])) == list(range(len(image)))
        rows[even] = [row.layout.images * 6 + row.layout.questions * 3 for row in made]
    assert len(rows[True]) == len(rows[False])
    largest = 6 + 3 * np.bincount(image).max()
    assert all(tokens <= max(limit, largest) for tokens in rows[True])
    if limit == 110:  # negative control: full rows and a rest are further apart
        assert np.ptp(rows[True]) < np.ptp(rows[False])
