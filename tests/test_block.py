"""Fused decoder blocks against Hugging Face's own: the same bits, or they are not taken."""

import pytest
import torch
from tiny import SIZE, SPECIAL, tiny_lm
from transformers import AutoModelForCausalLM, MistralConfig, Qwen2Config

from engine.lm import block, language_model
from engine.lm.language_model import FrozenLM
from engine.lm.prefix_sharing import Layout

CPU = torch.device("cpu")
# Buckets (images, questions of each): the last row has so few answers that its last block is not fused.
ROWS = [((3, 8),), ((2, 1), (1, 3), (4, 6)), ((40, 2),), ((1, 2),)]


def qwen3(**size):
    return tiny_lm("qwen3", **size)


def llama(**size):
    return tiny_lm("llama", **size)


def qwen2(**size):  # with biases
    return random(Qwen2Config(**SIZE | SPECIAL | {"num_key_value_heads": 2} | size))


def mistral(**size):  # with windows
    return random(MistralConfig(**SIZE | SPECIAL | {"num_key_value_heads": 2, "sliding_window": 6} | size))


def random(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def wrapped(make, fused, **size):
    """A frozen LM whose norms and biases are not those of an untrained one."""
    model = make(**size)
    rng = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=rng)
    with pytest.MonkeyPatch.context() as patch:
        if not fused:
            patch.setattr(language_model, "fuse", lambda *_: None)
        lm = FrozenLM.wrap(model, None, CPU)
    assert lm.way == "shared"
    assert lm.prunes
    return lm


def is_fused(lm):
    """Whether the last block goes on at the answers only."""
    sizes = []
    with lm.decoder.norm.register_forward_pre_hook(lambda _, x: sizes.append(x[0].shape[1])):
        _, gradient = answered(lm, ROWS[0])
    assert set(sizes) in ({24}, {len(gradient)})
    return set(sizes) == {24}


def answered(lm, buckets, gradient=True):
    """Final states at the answers, and the gradient of a sum of them at the row."""
    layout = Layout(buckets, prefix=9, suffix=4)
    rng = torch.Generator().manual_seed(0)
    row = torch.randn(layout.images * 9 + layout.questions * 4, lm.width, generator=rng)
    ends = layout.answer_rows(torch.randint(1, 5, (layout.questions,), generator=rng))
    with torch.set_grad_enabled(gradient):
        states = lm.answer_states(row.requires_grad_(gradient) * 1, layout, ends)
        weight = torch.randn(states.shape, generator=rng)
        return states.detach(), *(torch.autograd.grad((states * weight).sum(), row) if gradient else ())


@pytest.mark.parametrize("make", [qwen3, llama, qwen2, mistral])
def test_every_bit_is_the_same(make):
    fused, own = wrapped(make, True), wrapped(make, False)
    assert is_fused(fused)
    assert not is_fused(own)
    for buckets in ROWS:
        found, right = answered(fused, buckets), answered(own, buckets)
        assert found[1].abs().max() > 0
        assert all(map(torch.equal, found, right))
        assert torch.equal(answered(fused, buckets, gradient=False)[0], right[0])


def test_states_of_every_layer_are_the_same():
    fused, own = wrapped(qwen3, True), wrapped(qwen3, False)
    with fused.watched() as found, own.watched() as right:
        answered(fused, ROWS[0])
        answered(own, ROWS[0])
    assert torch.equal(found[0], right[0])


def test_its_own_forward_is_hugging_faces():
    """What a fused LM is compared with is not fused."""
    fused, own = wrapped(qwen3, True), wrapped(qwen3, False)
    ids = torch.arange(7)

    def broken(*_):
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "_norm", broken)
        logits = fused.plain_logits(fused.embed(ids), ids)
        with pytest.raises(AssertionError):
            answered(fused, ROWS[0])
    assert torch.equal(logits, own.plain_logits(own.embed(ids), ids))
    assert is_fused(fused)


@pytest.mark.parametrize("part", ["_turn", "_turn_back", "_norm", "_norm_backward", "_linear"])
def test_what_moves_a_bit_is_not_taken(part, monkeypatch):
    """Negative control: a part that is off by the last bit."""
    right = getattr(block, part)

    def off(*given):
        made = right(*given)
        up = torch.nextafter(made[0] if isinstance(made, tuple) else made, torch.tensor(torch.inf))
        return (up, *made[1:]) if isinstance(made, tuple) else up

    monkeypatch.setattr(block, part, off)
    assert not is_fused(wrapped(qwen3, True))


@pytest.mark.parametrize("family", ["gpt_neox", "olmo", "olmo2"])
def test_blocks_of_another_form_are_left_alone(family):
    lm = FrozenLM.wrap(tiny_lm(family), None, CPU)
    assert lm.way == "shared"
    assert not any("forward" in vars(each) for each in lm.decoder.layers)
