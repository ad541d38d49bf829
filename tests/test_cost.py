"""Costs on paper against what is really computed, kept and written; and dry runs with whatever is there."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from small_study import PATCHES, SETTINGS, WIDTH
from tiny import CONFIGS, SIZE, tiny_lm
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, Qwen3Config

from cachegen.common.device import device_name
from cachegen.common.random_init import random_init_lm
from cachegen.data.dataset import load_dataset
from cachegen.features.store import FeatureStore
from engine.design.condition import Condition
from engine.design.questions import build_questions
from engine.lm.language_model import FrozenLM
from engine.lm.prefix_sharing import Layout
from engine.lm.projector import new_projector
from engine.lm.prompts import PromptTokens
from engine.lm.shape import KNOWN, lm_shape
from engine.runs.planned import Execution
from engine.sweeps.cost import (
    KNOWN_PATCHES,
    Questions,
    Sizes,
    cost_of,
    question_counter,
    run_bytes,
    store_bytes,
)
from engine.sweeps.dry_run import dry_run, dry_run_text
from engine.sweeps.presets import load_preset
from engine.sweeps.sweep import run_sweep
from engine.sweeps.sweep_file import Wanted, locate, read_sweep
from engine.sweeps.timing import duration, read_events
from engine.training.batches import epoch_batches, pack
from engine.training.loop import Step, step_loss

CPU = torch.device("cpu")
SUFFIX = 6


@pytest.mark.parametrize(
    ("name", "all_but_embeddings"),
    [
        ("Qwen/Qwen3-0.6B", 0.44e9),
        ("Qwen/Qwen3-1.7B", 1.4e9),
        ("Qwen/Qwen3-8B", 6.95e9),
        ("meta-llama/Llama-3.2-1B", 0.97e9),
    ],
)
def test_known_shapes_have_the_sizes_of_the_model_cards(name, all_but_embeddings):
    """Non-embedding parameters; for Llama 1.23 billion in all, less 128,256 x 2,048."""
    shape = lm_shape(name)
    assert shape.layers * (shape.attention_weights + shape.mlp_weights) == pytest.approx(all_but_embeddings, rel=0.01)
    assert shape.weights > all_but_embeddings


@pytest.mark.parametrize("family", CONFIGS)
def test_a_saved_lm_tells_its_size(family, tmp_path):
    model = tiny_lm(family)
    model.save_pretrained(tmp_path)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert lm_shape(str(tmp_path)).weights == matrices


def test_sizes_of_an_unknown_lm_are_unknown(tmp_path):
    assert lm_shape(str(tmp_path)) is None
    assert lm_shape("nobody/nothing") is None
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert lm_shape(str(tmp_path)) is None


def work(images, questions, supervise):
    """Questions about images, tokens for them, and patch features."""
    image = np.repeat(np.arange(images), questions)
    rng = np.random.default_rng(0)
    suffixes = rng.integers(0, SIZE["vocab_size"], (len(image), SUFFIX))
    eos = 3 if supervise == "answer_eos" else None
    tokens = PromptTokens(np.array([5, 7]), suffixes, np.full(len(image), SUFFIX), {}, 1, 2, eos)
    return image, tokens, torch.randn(images, PATCHES, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize(("supervise", "layers"), [("answer", 2), ("answer", 3), ("answer_eos", 2)])
def test_operations_are_those_that_torch_counts(family, supervise, layers, tmp_path):
    """One optimizer step: products to the last operation; attention at most what the batched products compute."""
    condition = Condition(supervise=supervise, projector_layers=layers, order="images", batch=12, epochs=1)
    lm = FrozenLM.wrap(tiny_lm(family), None, CPU)
    tiny_lm(family).save_pretrained(tmp_path)
    image, tokens, features = work(images=3, questions=4, supervise=supervise)
    projector = new_projector((WIDTH, lm.width), torch.float32, 0, None, None, layers)
    asked = tokens.answered() if tokens.eos is not None else tokens
    (row,) = pack(image, np.zeros_like(image), 1, 2 + PATCHES, asked.suffixes.shape[1], 10_000)
    answer = np.arange(len(image)) % 2 == 0
    step = Step(np.arange(len(image)), answer, np.full(len(image), 1 / len(image), dtype=np.float32), [])
    with FlopCounterMode(display=False) as counter:
        loss, _ = step_loss(lm, asked, step, row, [projector], [features], "vocabulary")
        loss.backward()
    counted = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    attention = sum(flops for op, flops in counted.items() if "bmm" in op)
    products = sum(counted.values()) - attention

    sizes = Sizes(lm_shape(str(tmp_path)), PATCHES, WIDTH, 2, SUFFIX)
    cost = cost_of(condition, Questions(12, 3, 0, 0), sizes)
    without = cost_of(condition, Questions(12, 3, 0, 0), sizes_without_attention(sizes))
    own_attention = cost.train_flops - without.train_flops
    assert cost.train_flops - own_attention == products
    assert 0 < own_attention <= attention


def sizes_without_attention(sizes):
    """The same products, but queries so short that scores cost nothing: all of it is in the key's width."""
    from dataclasses import replace

    return replace(sizes, lm=replace(sizes.lm, query=0, key=sizes.lm.key + sizes.lm.query))


@pytest.mark.parametrize("order", ["pairs", "images"])
@pytest.mark.parametrize("batch", [15, 16, 64])
def test_expected_prefixes_are_those_of_the_batches(order, batch):
    """Images of 2 to 8 questions, as at 10 % ablation; the formulas know only the means."""
    rng = np.random.default_rng(1)
    image = np.repeat(np.arange(1000), 2 * rng.integers(1, 5, 1000))
    condition = Condition(order=order, batch=batch, epochs=2)
    counted = sum(
        len(np.unique(image[rows]))
        for epoch in range(2)
        for rows in epoch_batches(image, order, batch, run_seed=0, epoch=epoch)
    )
    assert Questions(len(image), 1000, 0, 0).train_prefixes(condition) == pytest.approx(counted, rel=0.03)


def test_evaluated_tokens_are_those_of_the_packed_rows():
    image = np.repeat(np.arange(40), np.arange(40) % 3 + 2)
    rows = pack(image, np.zeros_like(image), 1, 2 + PATCHES, SUFFIX, 200)
    tokens = sum(row.layout.images * (2 + PATCHES) + row.layout.questions * SUFFIX for row in rows)
    sizes = Sizes(lm_shape("Qwen/Qwen3-0.6B"), PATCHES, WIDTH, 2, SUFFIX)
    assert cost_of(Condition(), Questions(10, 5, len(image), 40), sizes).evaluated_tokens == tokens


@pytest.mark.parametrize(
    ("config", "dtype"), [(Qwen3Config, torch.float32), (Qwen3Config, torch.bfloat16), (LlamaConfig, torch.bfloat16)]
)
def test_activations_are_those_that_autograd_keeps(config, dtype, tmp_path):
    """Per token, in bytes; rotary tables, norms' statistics and upcasts make the rest."""
    made = config(
        vocab_size=500, hidden_size=256, intermediate_size=768, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, tie_word_embeddings=True,
    )  # fmt: skip
    made.save_pretrained(tmp_path)
    lm = FrozenLM.wrap(random_init_lm(made, 0).to(dtype), None, CPU)
    layout = Layout(((4, 2),), 64, 8)
    rows = 4 * 64 + 8 * 8
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    x_TD = torch.randn(rows, 256, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        lm.answer_states(x_TD, layout, layout.answer_rows(torch.full((8,), 8)))
    measured = sum(storage.nbytes() for storage in kept.values()) / rows
    assert 0.6 < measured / (dtype.itemsize * lm_shape(str(tmp_path)).activations(64 + 8)) < 1.1


def test_published_counts_are_one_table_with_its_conditions():
    assert Questions.published(Condition()).trained == 23_250
    assert Questions.published(Condition()).steps(Condition()) == 5 * 1454
    assert Questions.published(Condition(ablation_kind="systematic", ablation=40)).trained == 29_892
    for other in ({"ablation": 60}, {"scope": "mapping"}, {"homonyms": "drop"}, {"subset": "swap"}):
        assert Questions.published(Condition(**other)) is None


# --- dry runs ---


def wanted(study, **fields):
    return [
        Wanted(inputs.dataset, inputs.features, "random", inputs.lm, condition)
        for inputs, condition in study.sweep(**fields).runs
    ]


def test_a_dry_run_counts_what_will_be_run(small_study, tmp_path):
    runs = wanted(small_study, shuffle=["original", "across"], run_seed=[1, 2, 3])
    forecast = dry_run(runs, tmp_path, "cpu")
    assert forecast["notes"] == []
    assert [(cell["shuffle"], cell["runs"]) for cell in forecast["cells"]] == [("original", 3), ("across", 3)]
    total = forecast["total"]
    dataset = load_dataset(small_study.dataset)
    asked = build_questions(dataset, runs[0].condition)
    train = (asked["split"] == "train").sum()
    assert total["steps"] == 6 * 2 * -(-train // 16)
    for name in ("steps", "tokens", "flops"):
        assert total[name] == pytest.approx(sum(cell[name] for cell in forecast["cells"]), rel=1e-3)
    assert total["seconds"] is None  # nothing has been timed yet
    assert forecast["rates"]["float32"]["flops_per_second"] is None
    text = dry_run_text(forecast)
    assert "random-lm" not in text
    assert "pretrained, across" in text


def test_time_rests_on_finished_groups_where_there_are_some(small_study, tmp_path):
    """The log's operations over its seconds; and disk is what the folder takes."""
    (folder,) = run_sweep(small_study.sweep(run_seed=1), tmp_path, Execution(device="cpu"))
    events = {event["event"]: event for event in read_events(tmp_path)}
    forecast = dry_run(wanted(small_study, run_seed=[1, 2]), tmp_path, "cpu")
    total = forecast["total"]
    rate = forecast["rates"]["float32"]
    assert rate["basis"].startswith(f"measured on {device_name(CPU)}")
    assert rate["flops_per_second"] == pytest.approx(events["end"]["flops"] / events["end"]["seconds"])
    assert total["seconds"] == pytest.approx(total["flops"] / rate["flops_per_second"], rel=1e-3, abs=0.001)
    assert total["flops"] == pytest.approx(2 * events["end"]["flops"], rel=1e-3)
    other = dry_run(wanted(small_study, run_seed=1, dtype="bfloat16"), tmp_path, "cpu")
    assert other["rates"]["bfloat16"]["flops_per_second"] is None

    dataset = load_dataset(small_study.dataset)
    questions = question_counter()(dataset, Condition(**SETTINGS))
    sizes = Sizes(lm_shape(str(small_study.lm)), PATCHES, WIDTH, 0, 4)
    projector = (folder / "projector.safetensors").stat().st_size
    assert 4 * sizes.projector_weights(Condition()) == pytest.approx(projector, rel=0.1)
    metrics = (folder / "metrics.jsonl").stat().st_size
    assert run_bytes(Condition(**SETTINGS), questions, sizes) > projector + 0.8 * metrics
    store = FeatureStore.open(small_study.features)
    kept = store.patches.nbytes + store.pooled_patches.nbytes + store.pooled_all_tokens.nbytes
    assert store_bytes(len(dataset.images), PATCHES, WIDTH) == kept


def test_a_dry_run_needs_nothing_to_be_there(tmp_path):
    runs = locate(read_sweep(load_preset("grid")), tmp_path / "things", [tmp_path / "dino.h5"])
    forecast = dry_run(runs, tmp_path / "runs", "cpu")
    assert forecast["runs"] == forecast["total"]["runs"] == 441
    assert forecast["total"]["known"] == 435  # all but the swap, whose leaves are drawn from the dataset
    notes = " ".join(forecast["notes"])
    assert "is not there: questions counted as in the paper's Tables 2 and 3" in notes
    assert (
        "no features of vit_so400m_patch14_siglip_224.webli are given: sizes from the encoder's name (6 runs)" in notes
    )
    assert not (tmp_path / "runs").exists()
    # 17,336 images of 256 x 1,024 and 256 x 1,152 values of 16 bits are 19.3 GB.
    assert forecast["disk"]["features"] == pytest.approx(17_336 * 256 * (1024 + 1152) * 2, rel=0.02)
    assert "6 of them not known" in dry_run_text(forecast)


def test_a_dry_run_says_what_it_cannot_know_and_what_would_fail(small_study, tmp_path):
    unknown = [Wanted(None, None, "my-encoder", "my/lm", Condition())]
    forecast = dry_run(unknown, tmp_path, "cpu")
    assert forecast["total"]["known"] == 0
    assert forecast["total"]["seconds"] is None
    assert any("LM my/lm is not there" in note for note in forecast["notes"])
    assert any("no features of my-encoder are given: sizes are not known" in note for note in forecast["notes"])
    bad = wanted(small_study, ablation_kind="systematic", ablation=10, run_seed=[1, 2])
    assert any(
        note.startswith("would fail: ablation = 10 removes more") for note in dry_run(bad, tmp_path, "cpu")["notes"]
    )


def test_fewer_withheld_questions_cost_more_and_images_cost_less_than_pairs():
    sizes = Sizes(lm_shape("Qwen/Qwen3-0.6B"), *KNOWN_PATCHES["vit_large_patch14_reg4_dinov2"], 1, 16)

    def train(**fields):
        condition = Condition(**fields)
        return cost_of(condition, Questions.published(condition), sizes).train_flops

    levels = [train(ablation=level) for level in (100, 90, 70, 50, 30, 10)]
    assert all(less < more for less, more in pairwise(levels))
    # Two questions an image at 100 %, 4.75 at 10 %, less what questions cost of their own: what `fast` promises.
    assert 1.7 < train() / train(order="images") < 2
    assert 3 < train(ablation=10) / train(ablation=10, order="images") < 4.75


def test_durations_for_people():
    assert [duration(s) for s in (3, 119, 200, 7200 + 60, 5e5)] == ["3 s", "119 s", "3.3 min", "2.0 h", "5.8 days"]


def test_known_models_are_those_of_the_presets():
    assert {run.lm for run in read_sweep(load_preset("grid"))} == set(KNOWN)
