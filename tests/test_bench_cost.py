"""What the naive loop costs on paper, against what torch counts."""

from dataclasses import astuple, replace

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny import tiny_lm
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from engine.benchmark.naive import EncoderShape, naive_cost_of
from engine.design.condition import Condition
from engine.lm.projector import new_projector
from engine.lm.shape import lm_shape
from engine.sweeps.cost import KNOWN_PATCHES, Questions, Sizes, cost_of

PATCHES, WIDTH, PREFIX, SUFFIX = 7, 24, 2, 6


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


@pytest.mark.parametrize("name", KNOWN_PATCHES)
def test_known_encoders_are_those_of_timm(name):
    with torch.device("meta"):
        shape = EncoderShape.of(timm.create_model(name, img_size=224))
    assert (shape.patches, shape.width) == KNOWN_PATCHES[name]


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
    asked, sizes = Questions(10, 5, 10, 5), Sizes(lm_shape("Qwen/Qwen3-0.6B"), 256, 1024, 1, 12)
    answer, both, name = (
        naive_cost_of(Condition(**fields, epochs=3), asked, sizes, None)
        for fields in ({"supervise": "answer"}, {"supervise": "answer_eos"}, {"task": "name"})
    )
    assert both.train_tokens - answer.train_tokens == 3 * 10
    assert both.train_flops > answer.train_flops
    assert both.evaluated_flops == answer.evaluated_flops
    assert astuple(name) == pytest.approx(astuple(answer), rel=1e-12)  # its head sees every token, whatever it predicts
