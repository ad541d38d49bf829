"""Every family of LMs that transformers has, as a tiny model, against Hugging Face's own forward.

A quick part has one family for each mechanism; `pytest -m slow` has all, and compares them with the table in
docs/models.md. A new version of transformers shows what is new there.
"""

from itertools import cycle, product
from pathlib import Path

import pytest
import torch
from few import few
from lm_families import documented, examine, families, tiny_of

from cachegen.common.errors import ModelError
from engine.lm import language_model, prefix_sharing
from engine.lm.language_model import FrozenLM
from engine.lm.prefix_sharing import Layout
from engine.lm.shape import UNSHARED

CPU = torch.device("cpu")
LAYOUTS = {prefix: Layout(((1, 1), (1, 3)), prefix, suffix=5) for prefix in (9, 150)}
LENGTHS = [5, 2, 4, 5]
QUICK = {
    "gemma2": "shared",  # soft caps in attention and after the head, windows
    "gpt_oss": "shared",  # sinks
    "cohere": "shared",  # a scale after the head
    "deepseek_v3": "shared",  # values narrower than keys
    "stablelm": "shared",  # layers that hand nothing on to attention
    "llama4_text": "shared",  # chunks, scaled rotary positions
    "gemma4_text": "shared",  # inputs in every layer
    "qwen3_vl": "shared",  # a text part
    "lfm2": "unshared",  # convolutions
    "falcon": "unshared",  # an attention of its own
    "deepseek_v32": "single",  # attention that picks tokens by rank
}
TABLE = documented(Path(__file__).parents[1] / "docs" / "models.md")


def distances(lm, prefix=9):
    """Largest deviations of logits and gradients from the plain forward, as shares of what may be."""
    layout = LAYOUTS[prefix]
    rng = torch.Generator().manual_seed(7)
    ids_T = torch.cat([torch.full((2 * prefix,), -1), torch.randint(8, lm.rows, (20,), generator=rng)])
    row_TD = torch.randn(2 * prefix, lm.width, generator=rng) * lm.embedding_rms
    row_TD = torch.cat([row_TD, lm.embed(ids_T[2 * prefix :])]).detach().requires_grad_()
    states = lm.answer_states(row_TD * 1, layout, layout.answer_rows(torch.tensor(LENGTHS)), ids_T)
    logits = lm.vocabulary_logits(states)
    weights = torch.randn(logits.shape, generator=rng)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), row_TD)

    def plain(noise):
        x = (row_TD * (1 + noise * torch.randn(row_TD.shape, generator=rng).sign())).detach().requires_grad_()
        found = []
        for places, length in zip(layout.prompts(CPU), LENGTHS, strict=True):
            places = places[: prefix + length]
            found.append(lm.plain_logits(x[places] * 1, ids_T[places]))
        return torch.stack(found).detach(), torch.autograd.grad((torch.stack(found) * weights).sum(), x)[0]

    exact, moved = plain(0), plain(torch.finfo(torch.float32).eps)
    bounds = [1e-5 * e.abs().max() + 8 * (m - e).abs().max() for e, m in zip(exact, moved, strict=True)]
    return [((a - e).abs().max() / b).item() for a, e, b in zip((logits, gradient), exact, bounds, strict=True)]


@pytest.mark.parametrize("kind", QUICK)
def test_each_mechanism_is_hugging_faces(kind):
    lm = FrozenLM.wrap(tiny_of(kind), None, CPU)
    assert lm.way == QUICK[kind] == TABLE.get(kind, (QUICK[kind],))[0]
    assert max(distances(lm)) < 1
    assert FrozenLM.wrap(tiny_of(kind).bfloat16(), None, CPU).way == QUICK[kind]


def test_soft_caps_are_kept_where_transformers_would_drop_them():
    """Version 5.17 lets SDPA take attention with soft caps, and leaves them out."""
    model = tiny_of("gemma2")
    model.config._attn_implementation = "sdpa"
    assert FrozenLM.wrap(model, None, CPU).way == "shared"


FAULTS = {
    "positions": lambda patch: patch.setattr(
        Layout,
        "position_ids",
        lambda self, _: torch.arange(self.images * self.prefix + self.questions * self.suffix)[None],
    ),
    "windows": lambda patch: patch.setattr(prefix_sharing, "composed_attention", without_pattern),
    "soft caps": lambda patch: patch.setattr(prefix_sharing, "composed_attention", without_soft_cap),
    "head": lambda patch: patch.setattr(FrozenLM, "_applies_nothing_after_head", lambda _: True),
}


def without_pattern(q, k, v, layout, scale, _, softcap, sinks, composed=prefix_sharing.composed_attention):
    return composed(q, k, v, layout, scale, None, softcap, sinks)


def without_soft_cap(q, k, v, layout, scale, pattern, _, sinks, composed=prefix_sharing.composed_attention):
    return composed(q, k, v, layout, scale, pattern, None, sinks)


def in_turn(kinds):
    """Every kind in both precisions; the normal run takes them in turn."""
    precisions = (torch.float32, torch.bfloat16)
    return few([*product(kinds, precisions)], *zip(kinds, cycle(precisions), strict=False))


@pytest.mark.parametrize(("fault", "dtype"), in_turn(FAULTS))
def test_the_check_sees_each_fault_in_each_precision(fault, dtype, monkeypatch):
    """Also with weights as small as an untrained LM's, where answers hardly depend on the order of tokens."""
    FAULTS[fault](monkeypatch)
    for scale in (1,) if fault == "soft caps" else (1, 0.1):  # small scores are under no cap
        model = tiny_of("gemma2").to(dtype)
        for weights in model.model.layers.parameters():
            if weights.dim() > 1:
                weights.data *= scale
        if fault == "head":
            with pytest.raises(ModelError, match="differ from Hugging Face's own"):
                FrozenLM.wrap(model, None, CPU)
        else:
            assert FrozenLM.wrap(model, None, CPU).way == "unshared"


@pytest.mark.parametrize(("kind", "dtype"), in_turn(["lfm2", "mamba2", "qwen3_5_text", "jamba"]))
def test_a_state_that_leaks_is_seen_in_each_precision(kind, dtype):
    lm = FrozenLM.wrap(tiny_of(kind).to(dtype), None, CPU)
    assert (lm.way, lm.reason) == ("unshared", "a question's answer depends on other questions or images")


def test_a_wide_model_in_bfloat16_is_compared_as_it_is_where_memory_is_short(monkeypatch):
    """The bound without float32 lets a sound model pass, and no wrong position."""
    monkeypatch.setattr("engine.lm.check._free_memory", lambda _: 0)
    model = tiny_of("llama").bfloat16()
    assert FrozenLM.wrap(model, None, CPU).way == "shared"
    FAULTS["positions"](monkeypatch)
    assert FrozenLM.wrap(model, None, CPU).way == "unshared"


@pytest.mark.slow
@pytest.mark.parametrize("kind", families())
def test_a_family_does_what_its_table_says(kind):
    way, reason = examine(kind)
    assert way == TABLE[kind][0], reason
    if way in ("refused", "not tried"):
        return
    assert (way != "shared") == (kind in UNSHARED)
    lm = FrozenLM.wrap(tiny_of(kind), None, CPU)
    assert max(distances(lm) + distances(lm, prefix=150)) < 1
    assert FrozenLM.wrap(tiny_of(kind).bfloat16(), None, CPU).way == way
    assert language_model.FrozenLM.wrap(tiny_of(kind), None, CPU, sharing="never").way in ("unshared", "single")
