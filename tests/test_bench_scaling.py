"""What growth costs: formulas against what torch counts, tables against the code they describe, and the figure."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny import tiny_lm
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from analysis.scaling_figure import scaling_figure
from cachegen.random_init import random_init_lm
from engine.benchmark import scaling_measured
from engine.benchmark.naive_cost import KNOWN_ENCODERS, EncoderShape, naive_cost_of
from engine.benchmark.scaling import scaling
from engine.benchmark.scaling_curves import IMAGES, LMS, SERIES, base_condition, base_sizes, curves, ratios
from engine.benchmark.scaling_grid import grid_flops, grid_hours
from engine.benchmark.scaling_measured import Reduced, _Point
from engine.benchmark.scaling_memory import memory_table
from engine.benchmark.scaling_schedule import GPUS, GROUP_SIZES, grid_schedule, makespan
from engine.benchmark.scaling_text import scaling_text
from engine.benchmark.speed import ASSUMED_SPEEDS, Speed
from engine.condition import Condition
from engine.cost import Questions, Sizes, cost_of
from engine.dry_run import dry_run
from engine.language_model import FrozenLM
from engine.lm_shape import lm_shape
from engine.plan import GIB, choose_sizes, memory_needs
from engine.presets import load_preset
from engine.projector import new_projector
from engine.sweep_file import locate, read_sweep

CPU = torch.device("cpu")
PATCHES, WIDTH, PREFIX, SUFFIX = 7, 24, 2, 6
TINY = Reduced(width=128, layers=2, patches=8, images=2)
HERE = Speed("a <fast> & $cheap$ -- device", "float32", 1e12, 0.5, "assumed")


def counted(function):
    """(products with weights, those of attention): operations that torch counts in a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    flops = {str(op): number for op, number in counter.get_flop_counts()["Global"].items()}
    attention = sum(number for op, number in flops.items() if "attention" in op or "bmm" in op)
    return sum(flops.values()) - attention, attention


def without_attention(sizes):
    """The same products, but queries so short that scores cost nothing: all of it is in the key's width."""
    return replace(sizes, lm=replace(sizes.lm, query=0, key=sizes.lm.key + sizes.lm.query))


# --- the naive loop ---


def tiny_encoder():
    model = VisionTransformer(
        img_size=42, patch_size=14, embed_dim=32, depth=3, num_heads=2, reg_tokens=4, num_classes=0, mlp_ratio=3
    )
    for block in model.blocks:
        block.attn.fused_attn = False  # products, which torch counts exactly
    return model.eval()


def test_an_encoder_computes_what_its_shape_says():
    model = tiny_encoder()
    shape = EncoderShape.of(model)
    operations = sum(counted(lambda: model.forward_features(torch.zeros(1, 3, 42, 42))))
    assert shape.flops == operations
    assert replace(shape, others=0).flops != operations


@pytest.mark.parametrize("name", KNOWN_ENCODERS)
def test_known_encoders_are_those_of_timm(name):
    with torch.device("meta"):
        assert EncoderShape.of(timm.create_model(name, img_size=224)) == KNOWN_ENCODERS[name]


def naive_logits(model, projector, questions):
    images = projector(torch.ones(questions, PATCHES, WIDTH))
    text = model.get_input_embeddings()(torch.ones(questions, PREFIX + SUFFIX, dtype=torch.int64))
    row = torch.cat([text[:, :PREFIX], images, text[:, PREFIX:]], dim=1)
    return model(inputs_embeds=row, use_cache=False).logits[:, -1]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("layers", [2, 3])
def test_the_naive_loop_computes_what_its_cost_says(family, layers, tmp_path):
    """Products to the last operation, attention at most what the kernels compute; the engine's cost is another."""
    questions = 6
    model = tiny_lm(family).requires_grad_(False)
    model.save_pretrained(tmp_path)
    sizes = Sizes(lm_shape(str(tmp_path)), PATCHES, WIDTH, PREFIX, SUFFIX)
    projector = new_projector((WIDTH, sizes.lm.width), torch.float32, 0, None, None, layers)
    condition = Condition(projector_layers=layers, epochs=1, batch=questions, order="images")
    asked = Questions(questions, 3, questions, 3)
    shape = EncoderShape.of(tiny_encoder())
    whole, bare = (naive_cost_of(condition, asked, each, shape) for each in (sizes, without_attention(sizes)))

    def train():
        answers = naive_logits(model, projector, questions)
        functional.cross_entropy(answers, torch.ones(questions, dtype=torch.int64)).backward()

    def evaluate():
        with torch.no_grad():
            naive_logits(model, projector, questions)

    encoding = questions * shape.flops
    for step, name in ((train, "train_flops"), (evaluate, "evaluated_flops")):
        products, attention = counted(step)
        assert getattr(bare, name) - encoding == products
        assert 0 < getattr(whole, name) - getattr(bare, name) <= attention
        assert getattr(naive_cost_of(condition, asked, sizes, None), name) == getattr(whole, name) - encoding
        assert getattr(cost_of(condition, asked, without_attention(sizes)), name) < 0.9 * products
    assert whole.train_tokens == whole.evaluated_tokens == questions * (PREFIX + PATCHES + SUFFIX)


def test_end_of_sequence_is_one_more_token_in_training():
    asked, sizes = Questions(10, 5, 10, 5), base_sizes(LMS[0])
    answer, both = (
        naive_cost_of(Condition(supervise=supervise, epochs=3), asked, sizes, None)
        for supervise in ("answer", "answer_eos")
    )
    assert both.train_tokens - answer.train_tokens == 3 * 10
    assert both.train_flops > answer.train_flops
    assert both.evaluated_flops == answer.evaluated_flops


def test_ratios_are_those_of_the_design():
    """3.3, 7.0 and 9.2 are for questions of about ten tokens; the longest has 15, and all are filled up to it."""
    found = {(row["of"], row["order"]): row for row in ratios()}
    targets = {"training, 100 % ablation": 3.3, "training, 10 % ablation": 7.0, "evaluation, test questions": 9.2}
    for of, target in targets.items():
        row = found[of, "images"]
        assert row["ratio"] == pytest.approx(target, rel=0.08)
        assert 1 < row["cached"] < row["ratio"]
    assert found["training, 10 % ablation", "pairs"]["ratio"] < 2

    condition = Condition(order="images", epochs=1, batch=10**6)
    short = replace(base_sizes(LMS[0]), suffix=10)
    encoder = KNOWN_ENCODERS["vit_large_patch14_reg4_dinov2"]
    for (trained, images), target in {(23_250, 11_625): 3.3, (55_270, 11_625): 7.0}.items():
        asked = Questions(trained, images, 0, 0)
        naive, own = naive_cost_of(condition, asked, short, encoder), cost_of(condition, asked, short)
        assert naive.train_flops / own.train_flops == pytest.approx(target, rel=0.02)


# --- on paper ---


def test_costs_grow_along_every_axis_and_the_engine_costs_less():
    found = curves(1e12, 80 * GIB)
    assert list(found) == ["images", "questions", "leaves", "runs", "lm"]
    for curve in found.values():
        for series in SERIES:
            rows = curve[series]
            assert all(less["flops"] < more["flops"] for less, more in pairwise(rows))
            assert all(less["tokens"] <= more["tokens"] for less, more in pairwise(rows))
            assert all(row["seconds"] == row["flops"] / 1e12 for row in rows)
        for own, pairs, naive in zip(*(curve[series] for series in SERIES), strict=True):
            assert own["x"] == pairs["x"] == naive["x"]
            assert own["flops"] <= 1.001 * pairs["flops"] < naive["flops"]


def test_curves_meet_where_they_describe_the_same_run():
    """THINGS at 100 % ablation stands in three of them; its cost is the run's own, and extraction once."""
    found = curves(1e12, 80 * GIB)
    condition, sizes = base_condition(), base_sizes(LMS[0])
    extraction = IMAGES * KNOWN_ENCODERS["vit_large_patch14_reg4_dinov2"].flops
    questions = Questions.published(condition)
    for order in ("images", "pairs"):
        cost = cost_of(condition.model_copy(update={"order": order}), questions, sizes)
        (by_images,) = (row for row in found["images"][order] if row["x"] == IMAGES)
        (by_runs,) = (row for row in found["runs"][order] if row["x"] == 1)
        (by_lm,) = (row for row in found["lm"][order] if row["lm"] == LMS[0])
        assert by_images["flops"] == by_runs["flops"] == by_lm["flops"]
        assert by_images["flops"] == pytest.approx(cost.flops + extraction, rel=1e-4)
    first, last = found["runs"]["images"][0], found["runs"]["images"][-1]
    assert last["flops"] - extraction == pytest.approx(last["x"] * (first["flops"] - extraction))
    assert [row["lm_loads"] for row in found["runs"]["images"]] == [1, 1, 1, 4, 16]
    assert [row["lm_loads"] for row in found["runs"]["naive"]] == [1, 4, 16, 64, 256]


def test_memory_is_what_the_plan_counts():
    """The plan's reason has the same bytes, rounded; an 8B is refused by a small laptop."""
    condition = base_condition()
    for row in memory_table(48 * GIB):
        sizes = base_sizes(row["lm"])
        tokens, together, why = choose_sizes(row["memory"], condition, IMAGES, sizes)
        assert (row["max_tokens"], row["group_size"]) == (tokens, together)
        total, resident, packed, run = (float(number) for number in re.findall(r"(\d+\.\d+)", why))
        assert total == pytest.approx(row["memory"] / GIB, abs=0.05)
        assert resident == pytest.approx(row["resident"] / GIB, abs=0.051)
        assert packed == pytest.approx(row["row"] / GIB, abs=0.051)
        assert run == pytest.approx(row["run"] / GIB, abs=0.0051)
    fits = {(row["device"], row["lm"]): row["fits"] for row in memory_table(48 * GIB)}
    assert fits["GPU, 80 GB", "Qwen/Qwen3-8B"]
    assert not fits["laptop, 16 GB", "Qwen/Qwen3-8B"]
    assert memory_needs(GIB, condition.model_copy(update={"dtype": "float32"}), IMAGES, sizes)[1] > row["row"] / tokens


def test_hours_of_the_grid_are_those_of_a_dry_run(tmp_path):
    families = {row["family"]: row for row in grid_flops()}
    assert [(row["runs"], row["known"]) for row in families.values()] == [
        (240, 240), (6, 6), (180, 180), (9, 9), (6, 0), (0, 0),
    ]  # fmt: skip
    runs = locate(read_sweep(load_preset("grid")), None, [])
    total = dry_run(runs, tmp_path, "cpu")["total"]
    extraction = families["feature extraction, once"]
    known = sum(row["pairs"] for row in families.values()) - extraction["pairs"]
    assert known == pytest.approx(total["flops"], rel=1e-3)
    assert all(row["images"] < row["pairs"] < row["naive"] for row in families.values() if row["known"])

    table = grid_hours(list(families.values()), [HERE, *ASSUMED_SPEEDS])
    for speed in (HERE, *ASSUMED_SPEEDS):
        rows = [row for row in table if row["device"] == speed.device]
        assert rows[-1]["family"] == "all"
        assert rows[-1]["runs"] == total["runs"]
        assert {row["basis"] for row in rows} == {speed.basis}
        for series in SERIES:
            assert rows[-1][series] == pytest.approx(sum(row[series] for row in rows[:-1]))
            summed = sum(row[series] for row in families.values())
            assert rows[-1][series] * 3600 == pytest.approx(summed / speed.flops_per_second)


def test_the_gpu_that_is_free_first_takes_the_next_group():
    seconds = [3.0, 1.0, 1.0, 4.0]
    assert makespan(seconds, 1) == sum(seconds)
    assert makespan(seconds, 2) == 6.0  # 3 | 1 1 4
    assert makespan(sorted(seconds, reverse=True), 2) == 5.0  # 4 1 | 3 1
    assert makespan(seconds, 3) == 5.0
    assert makespan(seconds, 4) == makespan(seconds, 512) == 4.0


@pytest.fixture(scope="module")
def schedule():
    return grid_schedule(ASSUMED_SPEEDS[-1])


def test_hours_on_many_gpus_are_those_of_one_that_are_shared_out(schedule):
    rows = {(row["group_size"], row["gpus"]): row for row in schedule["rows"]}
    assert set(rows) == {(size, gpus) for size in GROUP_SIZES for gpus in GPUS}
    assert [rows[1, gpus]["groups"] for gpus in GPUS] == [schedule["runs"]] * 4 == [441] * 4
    (known,) = [row for row in grid_hours(grid_flops(), ASSUMED_SPEEDS[-1:]) if row["family"] == "all"]
    work = {size: rows[size, 1]["hours"] - rows[size, 1]["start"] for size in GROUP_SIZES}
    assert len({round(hours, 6) for hours in work.values()}) == 1
    assert known["pairs"] < work[1] < 1.05 * known["pairs"]  # with the swap, without extraction
    for row in rows.values():
        assert row["bound"] <= row["hours"] * (1 + 1e-9)
        assert row["hours"] < row["bound"] * (2 - 1 / row["gpus"]) + 1e-9  # Graham's bound of list scheduling
        assert row["used"] * row["gpus"] * row["hours"] == pytest.approx(work[1])


def test_small_groups_pay_on_many_gpus_alone(schedule):
    rows = {(row["group_size"], row["gpus"]): row["hours"] for row in schedule["rows"]}
    assert rows[16, 1] < rows[1, 1]
    assert rows[1, 512] < rows[16, 512] / 4
    assert schedule["best"]["1"] == 16
    assert schedule["best"]["512"] == 1
    later = grid_schedule(ASSUMED_SPEEDS[-1], start=3600)
    assert later["rows"][0]["start"] > 30 * schedule["rows"][0]["start"]
    assert any("assumed" in line for line in schedule["assumed"])


# --- by measurement ---


@pytest.mark.parametrize("point", [_Point(2, 2, 1), _Point(3, 4, 1), _Point(2, 2, 3)])
def test_a_measured_step_computes_what_is_counted_for_it(point):
    model = random_init_lm(scaling_measured._config(TINY), 0)
    step = scaling_measured._step(FrozenLM.wrap(model, None, CPU), TINY, point)
    products, attention = counted(step)
    tokens, flops = scaling_measured._work(TINY, point)
    assert tokens == point.runs * point.images * (TINY.patches + point.questions * scaling_measured.SUFFIX)
    assert products < flops <= products + attention


def test_a_line_is_found_and_what_is_no_line_is_far_off_it():
    flops = np.array([1e9, 2e9, 4e9, 3e10])
    start, slope = scaling_measured._line(list(flops), list(0.02 + flops / 5e10))
    assert (start, 1 / slope) == (pytest.approx(0.02), pytest.approx(5e10))
    start, slope = scaling_measured._line(list(flops), list(flops**2 / 1e19))
    assert max(abs(flops**2 / 1e19 / (start + slope * flops) - 1)) > 0.5
    rows = [{"flops": f, "seconds": f**2} for f in flops]
    assert scaling_measured._exponent(rows) == pytest.approx(2)


@pytest.fixture(scope="module")
def result():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scaling_measured.REDUCED, "cpu", TINY)
        return scaling(HERE, 16 * GIB, CPU, rounds=2)


def test_measured_points_are_beside_their_line(result):
    measured = result["measured"]
    assert [sum(point["axis"] == axis for point in measured["points"]) for axis in ("images", "questions", "runs")] == [
        4, 4, 4,
    ]  # fmt: skip
    for point in measured["points"]:
        predicted = measured["start"] + point["flops"] / measured["flops_per_second"]
        assert point["seconds"] == pytest.approx(predicted * (1 + point["deviation"]))
    assert all(slope > 0 for slope in measured["exponents"].values())


def test_all_of_it_is_json_and_text(result):
    assert json.loads(json.dumps(result)) == result
    text = scaling_text(result)
    assert "0.5 TFLOP/s on a <fast> & $cheap$ -- device in float32, 50% of its products' rate (assumed)" in text
    assert "441 (435 known)" in text
    assert "not known" in text
    assert "441 runs, simulated" in text
    assert text.count("engine, order pairs") == len(result["curves"]) + 1


def test_the_figure_is_svg_whatever_the_device_is_called(result):
    svg = scaling_figure(result)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "<fast>" not in svg
    assert svg == scaling_figure(result)
    panels = [node for node in root.iter() if node.get("id", "").startswith("axes_")]
    assert len(panels) == len(result["curves"]) + 1
    slower = json.loads(json.dumps(result))
    slower["measured"]["points"][0]["seconds"] *= 3
    assert scaling_figure(slower) != svg
