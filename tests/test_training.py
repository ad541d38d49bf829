"""Lockstep training: equal to training alone, blind to a neighbour's NaN, and the paper's optimizer and schedule."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from run_folders import bytes_of
from safetensors.torch import load_file
from small_study import write_features
from tiny import tiny_lm
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup

from cachegen.data.dataset import load_dataset
from engine.design.condition import Condition
from engine.design.questions import build_questions
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.lm.prompts import PromptTokens
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep
from engine.training import features
from engine.training import loop as training
from engine.training.batches import QuestionArrays, epoch_batches
from engine.training.features import Features

CPU = Execution(device="cpu")


def weights(folder):
    return load_file(folder / "projector.safetensors")


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def distance(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def lockstep(small_study, tmp_path_factory):
    """Six runs of different lengths in one group."""
    out = tmp_path_factory.mktemp("lockstep")
    sweep = small_study.sweep(shuffle=["original", "across"], ablation=[50, 100], run_seed=[1])
    more = small_study.sweep(run_seed=[2, 3])
    sweep = type(sweep)(runs=sweep.runs + more.runs)
    return sweep, run_sweep(sweep, out, CPU)


def test_lockstep_equals_alone(small_study, lockstep, tmp_path):
    """Every run of a group against the same run by itself; another seed's run is the negative control."""
    sweep, together = lockstep
    assert len(json.loads((together[0].parent / "plan.json").read_text())["groups"]) == 1
    for (inputs, condition), folder in zip(sweep.runs, together, strict=True):
        one = type(sweep)(runs=((inputs, condition),))
        (alone,) = run_sweep(one, tmp_path / folder.name, CPU)
        assert alone.name == folder.name
        a, b = weights(folder), weights(alone)
        # Batching may move the order of sums, nothing more; on the CPUs tried here it moved no bit.
        scale = max(weight.abs().max().item() for weight in a.values())
        assert distance(a, b) <= 64 * torch.finfo(torch.float32).eps * scale
        np.testing.assert_allclose(losses(folder), losses(alone), rtol=1e-5)
        pd.testing.assert_frame_equal(
            pd.read_parquet(folder / "predictions.parquet"), pd.read_parquet(alone / "predictions.parquet"), atol=1e-4
        )
    assert distance(weights(together[0]), weights(together[-1])) > 0.01


@pytest.mark.parametrize("sharing", ["auto", "never"])
@pytest.mark.parametrize(("loss", "eos"), [("vocabulary", None), ("answers", None), ("vocabulary", 9)])
def test_one_step_of_lockstep_gives_the_gradients_of_the_plain_loop(small_study, loss, eos, sharing):
    """Gradients of one step against Hugging Face's forward, one question at a time, loss as a mean over the run."""
    dataset = load_dataset(small_study.dataset)
    cached = Features(small_study.features, list(dataset.images["key"]), torch.device("cpu"))
    lm = FrozenLM.wrap(tiny_lm("qwen3"), None, torch.device("cpu"), sharing)
    condition = small_study.sweep().runs[0][1]
    rng = np.random.default_rng(0)
    tokens = PromptTokens(np.array([4]), rng.integers(0, 61, (9, 4)), rng.integers(1, 5, 9), {}, 1, 2, eos)
    taught = tokens if eos is None else tokens.answered()
    parts = [
        QuestionArrays(rng.integers(0, 20, n), rng.integers(0, 9, n), rng.integers(0, 2, n).astype(bool))
        for n in (7, 12)
    ]
    statistics = cached.statistics(np.arange(50))

    def projectors():
        return [new_projector((cached.width, lm.width), torch.float32, s, statistics, lm.embedding_rms) for s in (0, 1)]

    shared, plain = projectors(), projectors()
    runs = [training.TrainingRun(None, condition, part, p) for part, p in zip(parts, shared, strict=True)]
    step = training._loader(runs, cached, taught, 60, lm)([np.arange(7), np.arange(12)])
    assert len(step.rows) > 1
    for row, items in step.rows:
        training.step_loss(lm, taught, step, row, shared, items, loss)[0].backward()
    with lm.plain() as model:
        for part, projector in zip(parts, plain, strict=True):
            for image, suffix, answer in zip(part.image, part.suffix, part.answer, strict=True):
                ids = torch.from_numpy(tokens.suffixes[suffix, : tokens.lengths[suffix]])
                pieces = [lm.embed(torch.tensor([4])), projector(cached.fetch(np.array([image])))[0], lm.embed(ids)]
                said = 1 if answer else 2
                if eos is not None:
                    pieces.append(lm.embed(torch.tensor([said])))
                logits = model(inputs_embeds=torch.cat(pieces)[None], use_cache=False).logits[0]
                if loss == "answers":
                    token_loss = functional.cross_entropy(logits[-1, [1, 2]], torch.tensor(said - 1))
                elif eos is None:
                    token_loss = functional.cross_entropy(logits[-1], torch.tensor(said))
                else:  # the mean over the two supervised tokens
                    token_loss = functional.cross_entropy(logits[-2:], torch.tensor([said, eos]))
                (token_loss / len(part.image)).backward()
    for a, b in zip(shared, plain, strict=True):
        for x, y in zip(a.parameters(), b.parameters(), strict=True):
            assert y.grad.abs().max() > 0
            assert (x.grad - y.grad).abs().max() <= 64 * torch.finfo(torch.float32).eps * y.grad.abs().max()
    other = [p.grad for p in shared[1].parameters()]
    assert all(
        (x.grad - y).abs().max() > 1e-3 * y.abs().max() for x, y in zip(shared[0].parameters(), other, strict=True)
    )


def test_a_nan_run_leaves_its_neighbours_bytes_unchanged(small_study, lockstep, tmp_path, monkeypatch):
    """One run of the group diverges in its first step; all files of the others stay the same."""
    sweep, clean = lockstep
    make, count = training.TrainingRun.batches, []

    def spoilt(run):
        if run.directory.path.name == clean[2].name and not count:
            count.append(1)
            with torch.no_grad():
                next(run.projector.parameters())[0, 0] = torch.nan
        return make(run)

    monkeypatch.setattr(training.TrainingRun, "batches", spoilt)
    folders = run_sweep(sweep, tmp_path, CPU)
    assert count
    for number, (folder, reference) in enumerate(zip(folders, clean, strict=True)):
        if number == 2:
            assert "not finite" in json.loads((folder / "FAILED").read_text())["reason"]
            assert not (folder / "DONE").exists()
            assert losses(folder)[0] is None
        else:
            assert bytes_of(folder) == bytes_of(reference)


def test_steps_do_not_depend_on_the_order_of_questions():
    image = np.repeat(np.arange(40), 3)
    for order in ("pairs", "images"):
        batches = epoch_batches(image, order, 16, run_seed=5, epoch=0)
        assert [len(batch) for batch in batches] == [16] * 7 + [8]
        assert sorted(np.concatenate(batches)) == list(range(120))
    assert len(np.unique(image[epoch_batches(image, "images", 16, 5, 0)[0]])) <= 7
    assert len(np.unique(image[epoch_batches(image, "pairs", 16, 5, 0)[0]])) > 10
    assert (epoch_batches(image, "pairs", 16, 5, 0)[0] != epoch_batches(image, "pairs", 16, 5, 1)[0]).any()


@pytest.mark.parametrize("steps", [1, 7, 100, 333])
def test_schedule_equals_transformers(steps):
    condition = Condition(warmup=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=condition.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(0.1 * steps), steps)
    for step in range(steps):
        assert training.learning_rate(condition, step, steps) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_initial_weights_are_shared_only_on_request():
    own = [new_projector((8, 8), torch.float32, seed, None, None).hidden.weight for seed in (1, 2, 1)]
    shared = [new_projector((8, 8), torch.float32, "shared", None, None).hidden.weight for _ in range(2)]
    assert torch.equal(own[0], own[2])
    assert not torch.equal(own[0], own[1])
    assert torch.equal(shared[0], shared[1])


def test_a_shuffled_run_is_trained_on_its_own_labels(lockstep):
    _, folders = lockstep
    table = pd.read_parquet(folders[2] / "questions.parquet")
    assert (table["image_leaf"] != table["label_leaf"]).mean() > 0.5


def test_streamed_features_equal_memory(small_study):
    dataset = load_dataset(small_study.dataset)
    memory, streamed = (
        Features(small_study.features, list(dataset.images["key"]), torch.device("cpu"), in_memory=m)
        for m in (True, False)
    )
    assert memory.in_memory
    assert not streamed.in_memory
    for images in (np.arange(len(dataset.images)), np.array([5, 3, 3, 80])):
        a, b = memory.fetch(images), streamed.fetch(images)
        assert a.numel() > 0
        assert torch.equal(a, b)
    assert not torch.equal(memory.fetch(np.array([1])), streamed.fetch(np.array([2])))
    np.testing.assert_array_equal(memory.statistics(np.arange(30)), streamed.statistics(np.arange(30)))


def test_a_run_on_streamed_features_has_the_same_bytes(small_study, tmp_path, monkeypatch):
    sweep = small_study.sweep()
    (memory,) = run_sweep(sweep, tmp_path / "memory", CPU)
    monkeypatch.setattr(features, "fits", lambda size, memory, reserved: False)
    (streamed,) = run_sweep(sweep, tmp_path / "streamed", CPU)
    assert bytes_of(memory) == bytes_of(streamed)


def test_statistics_are_those_of_the_training_images(small_study):
    dataset = load_dataset(small_study.dataset)
    features = Features(small_study.features, list(dataset.images["key"]), torch.device("cpu"))
    train = build_questions(dataset, Condition()).query("split == 'train'")["image"].unique()
    values = features.fetch(train).double().flatten(0, 1)
    expected = torch.stack([values.mean(0), values.std(0, correction=0)])
    torch.testing.assert_close(features.statistics(train).double(), expected, rtol=1e-6, atol=1e-7)


def test_bfloat16_follows_float32(small_study, tmp_path):
    """Losses agree within bf16 rounding of logits near 1; they are not the same numbers."""
    exact, rounded = run_sweep(small_study.sweep(dtype=["float32", "bfloat16"]), tmp_path, CPU)
    a, b = np.array(losses(exact)), np.array(losses(rounded))
    assert 0 < np.abs(a - b).max() < 0.05
    assert weights(rounded)["hidden.weight"].dtype == torch.float32


def test_both_orders_run_and_number_their_steps_alike(small_study, tmp_path):
    pairs, images = run_sweep(small_study.sweep(order=["pairs", "images"]), tmp_path, CPU)
    assert len(losses(pairs)) == len(losses(images)) == 2 * 8
    assert losses(pairs) != losses(images)


def test_an_unreadable_image_is_left_out_of_every_split(small_study, tmp_path):
    dataset = load_dataset(small_study.dataset)
    gone = [dataset.images["key"].iloc[number] for number in (0, 17)]
    features = write_features(tmp_path / "features.h5", dataset, unreadable=gone)
    sweep = small_study.sweep(features=str(features))
    (folder,) = run_sweep(sweep, tmp_path / "runs", CPU)
    asked = set(pd.read_parquet(folder / "questions.parquet")["key"])
    assert asked == set(dataset.images["key"]) - set(gone)
    assert pd.read_parquet(folder / "predictions.parquet").notna().all(axis=None)


@pytest.mark.slow
def test_orders_agree_on_f1_over_five_seeds(smoke_world, tmp_path):
    """Leaf macro F1 of both orders on the smoke world: equal within 10 points, averaged over five seeds."""
    from analysis.scores.f1 import mean_macro_f1
    from cachegen.features.extract import extract
    from engine.demo import study_sweep
    from engine.design.condition import Sweep

    extract(load_dataset(smoke_world.dataset), str(smoke_world.encoder), tmp_path / "features.h5")
    inputs, base = study_sweep(smoke_world, tmp_path / "features.h5").runs[0]
    runs = [
        (inputs, base.model_copy(update={"order": o, "run_seed": s})) for o in ("pairs", "images") for s in range(5)
    ]
    scores = []
    for folder in run_sweep(Sweep(runs=tuple(runs)), tmp_path / "runs", CPU):
        table = pd.read_parquet(folder / "questions.parquet").query("split == 'test'")
        answers = table.merge(pd.read_parquet(folder / "predictions.parquet"), on="question")
        scores.append(mean_macro_f1(answers)["leaf"])
    assert abs(np.mean(scores[:5]) - np.mean(scores[5:])) < 10
    assert min(scores) > 60
