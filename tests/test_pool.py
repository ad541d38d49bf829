"""Means over k x k patches: equal to a plain loop, and a run with `pool` is a run on a store that holds the means."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from picture_study import save_encoder, train_run, write_lm
from test_ask import saved_and_asked

from cachegen.common.errors import ConditionError, StoreError
from cachegen.data.dataset import load_dataset
from cachegen.features.pooling import pool_patches, pooled_count
from cachegen.features.store import FeatureStore
from cachegen.features.writer import open_writer
from engine.ask import open_asker
from engine.design.condition import Condition
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep
from engine.training import features
from engine.training.features import Features

CPU = Execution(device="cpu")


def means(values_PV, rows, columns, pool):
    """Cell means of one image, patch by patch, in float64."""
    windows = {}
    for patch, value in enumerate(values_PV):
        row, column = divmod(patch, columns)
        windows.setdefault((row // pool, column // pool), []).append(value)
    return np.stack([np.mean(windows[window], axis=0, dtype=np.float64) for window in sorted(windows)])


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (5, 5), (16, 16), (3, 7)])
@pytest.mark.parametrize("pool", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cells_are_those_of_a_plain_loop(rows, columns, pool, dtype):
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(3, rows * columns, 5))).to(dtype)
    attributes = {} if rows == columns else {"grid": f"{rows}x{columns}"}
    pooled = pool_patches(values, attributes, pool)
    expected = np.stack([means(image, rows, columns, pool) for image in values.float().numpy()])
    assert pooled.shape == expected.shape == (3, pooled_count(attributes, rows * columns, pool), 5)
    assert pooled.dtype == dtype
    rounding = torch.finfo(dtype).eps
    assert np.abs(pooled.float().numpy() - expected).max() <= rounding * np.abs(expected).max()
    alone = torch.cat([pool_patches(image[None], attributes, pool) for image in values])
    assert torch.equal(alone, pooled)
    if pool > 1:  # control: patches listed column by column have other windows
        turned = values.reshape(3, columns, rows, 5).transpose(1, 2).reshape(3, -1, 5)
        other = pool_patches(turned, attributes, pool).float().numpy()
        assert np.abs(other - expected).max() > 0.1 or pooled.shape[1] == 1


@pytest.mark.parametrize(
    ("attributes", "patches", "pool", "words"),
    [
        ({}, 1, 2, "at most 1"),
        ({}, 10, 2, "no square"),
        ({"grid": "2x5"}, 10, 6, "at most 5"),
        ({}, 16, 5, "at most 4"),
    ],
)
def test_what_has_no_cells_is_refused_in_one_line(attributes, patches, pool, words):
    with pytest.raises(StoreError, match=words):
        pooled_count(attributes, patches, pool)
    assert pooled_count(attributes, patches, 1) == patches


def test_no_cell_is_smaller_than_a_patch():
    with pytest.raises(ConditionError, match="pool"):
        Condition.of({"pool": 0}, "here")


def with_means(path, store, pool):
    """A copy of a store that holds the window means in place of the patches."""
    pooled = pool_patches(store.patch_tensor(np.arange(len(store.keys))), store.attributes, pool)
    bits = pooled.view(torch.uint16).numpy()
    names = ("pooled_patches", "pooled_all_tokens")
    with open_writer(path, store.keys, pooled.shape[1], pooled.shape[2], store.attributes) as writer:
        writer.write(0, [bits, *(np.array(getattr(store, name)) for name in names)], {}, store.sha256)
    return path


def test_a_pooled_run_is_a_run_on_a_store_of_the_means(small_study, tmp_path, monkeypatch):
    """Predictions, weights and log of the two, kept in memory and streamed; without pooling they are others."""
    folders = run_sweep(small_study.sweep(pool=[1, 2]), tmp_path / "runs", CPU)
    assert len(json.loads((tmp_path / "runs" / "plan.json").read_text())["groups"]) == 2
    means_of = with_means(tmp_path / "means.h5", FeatureStore.open(small_study.features), 2)
    (plain,) = run_sweep(small_study.sweep(features=str(means_of)), tmp_path / "means", CPU)
    monkeypatch.setattr(features, "fits", lambda size, memory, reserved: False)
    _, streamed = run_sweep(small_study.sweep(pool=[1, 2]), tmp_path / "streamed", CPU)
    names = ("predictions.parquet", "metrics.jsonl", "projector.safetensors")
    one, two, three, unpooled = (
        [(folder / name).read_bytes() for name in names] for folder in (folders[1], plain, streamed, folders[0])
    )
    assert one == two == three
    assert all(a != b for a, b in zip(one, unpooled, strict=True))
    dataset = load_dataset(small_study.dataset)
    kept = Features(small_study.features, list(dataset.images["key"]), torch.device("cpu"), pool=2, in_memory=True)
    assert kept.patches == 1
    assert kept.fetch(np.array([3, 3, 0])).shape == (3, 1, kept.width)


def test_too_wide_a_cell_stops_before_training(small_study, crosstax, tmp_path):
    inputs = ("--dataset", small_study.dataset, "--features", small_study.features, "--lm", small_study.lm)
    code, _, message = crosstax("train", *inputs, "--out", tmp_path / "runs", "pool=3")
    assert code != 0
    assert "at most 2" in message
    assert "Traceback" not in message


def test_a_pooled_run_is_asked_as_it_was_trained(tmp_path):
    run = train_run(tmp_path, save_encoder("dinov2", "hf", tmp_path / "encoder"), write_lm(tmp_path / "lm"), pool=2)
    asker = open_asker(run, "cpu")
    saved, asked = saved_and_asked(asker)
    assert abs(asked - saved).max() < 1e-5
    unpooled = replace(asker.run, condition=asker.run.condition.model_copy(update={"pool": 1}))
    assert abs(saved_and_asked(replace(asker, run=unpooled))[1] - saved).max() > 1e-3  # control
    assert pd.read_parquet(run / "predictions.parquet")["logit_yes"].std() > 0.1
