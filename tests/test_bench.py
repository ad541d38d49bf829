"""The benchmark compares equal computations, counts what it says, and extrapolates along lines."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cachegen.common.alternate import alternate, median, ratio
from cachegen.common.errors import ConditionError
from cachegen.common.random_init import random_init_lm
from engine.benchmark import compare as comparing
from engine.benchmark.compare import LOOPS, Setting, compare_ways, read_depths
from engine.benchmark.lockstep import lockstep, products_of
from engine.benchmark.models import SUFFIX, bench_lm_config, vision_model
from engine.benchmark.naive import Masked, Naive, penultimate
from engine.benchmark.work import Engine, Work
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.lm.shape import KNOWN, shape_of_config

CPU = torch.device("cpu")
SETTING = Setting("tiny", 10, torch.float32, CPU, rounds=1)


@pytest.fixture(scope="module")
def models():
    """Tiny LM and encoder, and work whose cached features are the encoder's own."""
    lm = FrozenLM.wrap(random_init_lm(bench_lm_config("tiny"), 0), None, CPU)
    encoder = vision_model("tiny")
    work = Work.draw((3, 1, 2), 48, 16, 96, SUFFIX["tiny"], 250, CPU, torch.float32)
    features = penultimate(encoder, work.pixels)
    return lm, encoder, Work(work.pixels, features, work.image, work.suffixes, work.answer)


def projector(lm):
    return new_projector((96, lm.width), torch.float32, 0, None, None)


def loops_of(lm, encoder):
    naive = [Naive(lm.model, each, projector(lm), rows) for each, rows in ((encoder, 4), (None, 4), (encoder, 1))]
    return [*naive, Naive(lm.model, None, projector(lm), 4, keep=True), Masked(lm.model, projector(lm), 2)]


def gradients(step, weights, monkeypatch):
    """Of one training step, before clipping."""
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, limit: None)
        patch.setattr(torch.optim.AdamW, "step", lambda self: kept.extend(p.grad.clone() for p in weights.parameters()))
        step()
    return kept


def test_all_ways_answer_alike(models):
    lm, encoder, work = models
    own = Engine(lm, [projector(lm)], 60).evaluate(work)
    assert own.shape == (6, 2)
    assert own.std() > 0
    with lm.plain():
        for loop in loops_of(lm, encoder):
            torch.testing.assert_close(loop.evaluate(work), own)
        other = Work(work.pixels.flip(0), work.features, work.image, work.suffixes, work.answer)
        wrong = Naive(lm.model, encoder, projector(lm)).evaluate(other)
    assert (wrong - own).abs().max() > 1e-3  # negative control: other images


def test_all_ways_learn_alike(models, monkeypatch):
    lm, encoder, work = models
    engine = Engine(lm, [projector(lm)], 60)
    own = gradients(lambda: engine.train(work), engine.projectors[0], monkeypatch)
    assert all(g.abs().max() > 0 for g in own)
    with lm.plain():
        for loop in loops_of(lm, encoder):
            plain = gradients(lambda loop=loop: loop.train(work), loop.projector, monkeypatch)
            for a, b in zip(plain, own, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_floor_is_the_steps_own_products(models):
    lm, _, work = models
    engine = Engine(lm, [projector(lm)], 60)
    floor = products_of(lambda: engine.train(work))
    with FlopCounterMode(display=False) as step:
        engine.train(work)
    with FlopCounterMode(display=False) as alone:
        floor()
    assert alone.get_total_flops() == step.get_total_flops() > 0
    with FlopCounterMode(display=False) as other:
        products_of(lambda: engine.evaluate(work))()
    assert other.get_total_flops() < alone.get_total_flops()


def test_a_comparison_has_what_it_promises(monkeypatch):
    monkeypatch.setattr(comparing, "longest_row", lambda _: 500)
    result = compare_ways(SETTING)
    assert (result["layers"], result["extrapolated"]) == (4, False)
    assert set(result["train"]) >= {"naive", "cached", "engine", "engine_pairs", "ratio", "flop_ratio", "mfu"}
    assert set(result["eval"]) >= {*("naive", "one_by_one", "engine", "ratio", "ratio_one_by_one", "flop_ratio", "mfu")}
    values = [*result["train"].values(), *result["eval"].values(), result["gemm_tflops"]]
    assert min(values) > 0
    assert json.dumps(result)
    for stage in ("train", "eval"):
        part = result[stage]
        # Equal operations in the ratio, the shares and the times.
        assert part["ratio"] == pytest.approx(part["naive"] / part["engine"])
        assert part["mfu"] / part["mfu_naive"] == pytest.approx(part["ratio"] / part["flop_ratio"])


def test_two_depths_lie_on_a_line(monkeypatch):
    """Times that grow by a fixed amount per layer are extrapolated exactly."""

    def timed(setting, depth, encoder, advance):
        ways = ["gemm", *(f"train {way}" for way in ("naive", *LOOPS, "engine", "engine_pairs"))]
        ways += [f"eval {way}" for way in ("naive", *LOOPS, "one_by_one", "engine")]
        return {way: [number + (number + 1) * depth] for number, way in enumerate(ways)}

    monkeypatch.setattr(comparing, "_time", timed)
    result = compare_ways(SETTING, (2, 3))
    assert result["extrapolated"]
    assert result["train"]["naive"] == 1 + 2 * 4
    assert result["train"]["ratio"] == pytest.approx((1 + 2 * 4) / (5 + 6 * 4))
    assert set(result["depths"]) == {"2", "3"}


@pytest.mark.parametrize("text", ["", "a", "4,", "1,4", "4,8,12", "4,4,5,6", "-4", "4.5"])
def test_depths_that_cannot_be_read(text):
    with pytest.raises(ConditionError, match="--layers"):
        read_depths(text)


def test_depths():
    assert read_depths(None) is None
    assert read_depths("8,4") == (4, 8)
    with pytest.raises(ConditionError, match="full one, 4"):
        compare_ways(SETTING, (2,))


@pytest.mark.parametrize("name", ["0.6b", "1.7b", "llama-1b"])
def test_sizes_are_the_papers(name):
    ids = {"0.6b": "Qwen/Qwen3-0.6B", "1.7b": "Qwen/Qwen3-1.7B", "llama-1b": "meta-llama/Llama-3.2-1B"}
    shape = shape_of_config(bench_lm_config(name).to_dict())
    assert shape == shape_of_config(KNOWN[ids[name]])
    assert bench_lm_config(name, 3).num_hidden_layers == 3


def test_lockstep_reports_every_way(monkeypatch):
    monkeypatch.setattr("engine.benchmark.lockstep.IMAGES", (2, 4))
    curve = lockstep("tiny", torch.float32, CPU, rounds=1)
    assert curve["2"]["1"]["gain"] == 1
    for images in ("2", "4"):
        assert list(curve[images]) == ["1", "2", "4", "8"]
        assert all(row["floor"] > 0 and row["seconds"] > 0 for row in curve[images].values())


def test_alternation_pairs_rounds():
    calls = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]
    assert ratio({"slow": [2.0, 9.0, 4.0], "fast": [1.0, 3.0, 2.0]}, "slow", "fast") == 2
    assert median({"a": [3.0, 1.0, 2.0]}, "a") == 2


@pytest.mark.slow
def test_bench_command(crosstax):
    code, out, err = crosstax("bench", "--lm-config", "tiny", "--rounds", "1", "--threads", "1", "--json")
    assert code == 0
    result = json.loads(out.strip().splitlines()[-1])
    wanted = {"device", "dtype", "threads", "layers", "extrapolated", "gemm_tflops"}
    assert wanted | {"train", "eval", "lockstep"} <= set(result)
    assert "times as fast as the naive loop" in err
    assert crosstax("bench", "--layers", "x")[0] == 2
