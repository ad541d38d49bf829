"""Shared image prefixes against Hugging Face's own forward, one question at a time: logits and projector gradients.

Bounds come from the data: the reference is computed in float64, and the shared float32 result may be at most a few
times as far from it as Hugging Face's own float32 result is.
"""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from few import few
from tiny import CONFIGS, tiny_lm
from torch.nn import functional

from engine.lm import attention as matmul_attention
from engine.lm import prefix_sharing
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.lm.prompts import PromptTokens
from engine.training.batches import pack
from engine.training.loop import prompt_row

PATCHES, WIDTH, YES, NO = 6, 20, 3, 5
SLACK = 8
IMAGE = np.array([2, 0, 0, 1, 0, 3, 1, 0])  # four, two, one and one questions
ANSWER = np.array([1, 0, 1, 1, 0, 0, 1, 0], dtype=bool)


def study(prefix=(7, 9)):
    rng = np.random.default_rng(0)
    suffixes = rng.integers(0, 61, (len(IMAGE), 5))
    lengths = np.array([5, 3, 4, 5, 2, 1, 5, 4])
    features = torch.randn(4, PATCHES, WIDTH, generator=torch.Generator().manual_seed(1))
    return PromptTokens(np.array(prefix, dtype=np.int64), suffixes, lengths, {}, YES, NO), features


def loss_of(logits, answer):
    target = torch.where(torch.from_numpy(answer), YES, NO)
    return functional.cross_entropy(logits, target)


def shared(family, tokens, features, max_tokens=10_000, device="cpu"):
    lm = FrozenLM.wrap(tiny_lm(family), None, torch.device(device))
    projector = new_projector((WIDTH, lm.width), torch.float32, 0, None, lm.embedding_rms).to(device)
    prefix = len(tokens.prefix) + PATCHES
    logits = torch.empty(len(IMAGE), 61)
    for row in pack(IMAGE, np.zeros_like(IMAGE), 1, prefix, tokens.suffixes.shape[1], max_tokens):
        states = prompt_row(lm, tokens, row, [projector], [features[row.items[0]].to(device)], row.question)
        logits[torch.from_numpy(row.question)] = lm.vocabulary_logits(states).cpu()
    loss_of(logits, ANSWER).backward()
    return logits.detach(), [p.grad.cpu() for p in projector.parameters()]


@cache
def one_at_a_time(family, prefix=(7, 9), dtype=torch.float64):
    """Hugging Face's forward on each question by itself, in eager attention."""
    tokens, features = study(prefix)
    model = tiny_lm(family).to(dtype).requires_grad_(False)
    model.set_attn_implementation("eager")
    embed = model.get_input_embeddings()
    rms = tiny_lm(family).get_input_embeddings().weight.float().square().mean().sqrt().item()
    projector = new_projector((WIDTH, embed.weight.shape[1]), torch.float32, 0, None, rms).to(dtype)
    projector.dtype = dtype
    logits = []
    for question, image in enumerate(IMAGE):
        parts = [embed(torch.from_numpy(tokens.prefix)), projector(features[[image]].to(dtype))[0]]
        parts.append(embed(torch.from_numpy(tokens.suffixes[question, : tokens.lengths[question]])))
        logits.append(model(inputs_embeds=torch.cat(parts)[None], use_cache=False).logits[0, -1])
    logits = torch.stack(logits)
    loss_of(logits, ANSWER).backward()
    return logits.detach(), [p.grad for p in projector.parameters()]


def distances(result, exact):
    """Largest deviation of logits and of each gradient from the float64 reference."""
    logits, gradients = result
    assert logits.numel() > 0
    assert all(g.numel() > 0 and g.abs().max() > 0 for g in gradients)
    pairs = [(logits, exact[0]), *zip(gradients, exact[1], strict=True)]
    return np.array([(a.double() - b).abs().max().item() for a, b in pairs])


@pytest.fixture(params=["products", "sdpa"], autouse=True)
def attention(request, monkeypatch):
    """Both ways of computing attention, that of CPUs and that of GPUs, pass the same tests."""
    if request.param == "sdpa":
        monkeypatch.setattr(prefix_sharing, "matmul_attention", prefix_sharing.sdpa_attention)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("family", "prefix"), few([*product(CONFIGS, [(7, 9), ()])], *((each, (7, 9)) for each in CONFIGS), ("qwen3", ()))
)
def test_shared_equals_one_question_at_a_time(family, prefix, device):
    tokens, features = study(prefix)
    exact = one_at_a_time(family, prefix)
    plain = distances(one_at_a_time(family, prefix, torch.float32), exact)
    # In one row, and cut into several.
    for max_tokens in (10_000, 20):
        assert (distances(shared(family, tokens, features, max_tokens, device), exact) <= SLACK * plain).all()


def _no_block(questions, prefix, suffix, device):
    """A mask that is causal over all suffixes of an image: each sees the ones before it."""
    own = torch.ones(questions * suffix, questions * suffix, dtype=torch.bool, device=device).tril()
    return torch.cat([torch.ones(len(own), prefix, dtype=torch.bool, device=device), own], dim=1)


def remove_masks(monkeypatch):
    monkeypatch.setattr(prefix_sharing, "_own_suffix_mask", _no_block)
    monkeypatch.setattr(
        matmul_attention, "_future", lambda length, repeats, dtype: torch.zeros(repeats * length, length, dtype=dtype)
    )


@pytest.mark.parametrize("fault", ["mask", "positions", "rows"])
@pytest.mark.parametrize("family", few(CONFIGS, "qwen3", "gpt_neox"))
def test_negative_control(family, fault, monkeypatch):
    """Faults that a wrong implementation would have are far outside the same bound."""
    tokens, features = study()
    exact = one_at_a_time(family)
    plain = distances(one_at_a_time(family, dtype=torch.float32), exact)
    monkeypatch.setattr("engine.lm.language_model.check", lambda lm: None)
    if fault == "mask":
        remove_masks(monkeypatch)
    elif fault == "positions":
        monkeypatch.setattr(
            prefix_sharing.Layout,
            "position_ids",
            lambda self, device: torch.arange(self.images * self.prefix + self.questions * self.suffix)[None],
        )
    else:
        original = prefix_sharing.Layout.answer_rows
        monkeypatch.setattr(prefix_sharing.Layout, "answer_rows", lambda self, lengths: original(self, lengths) - 1)
    assert (distances(shared(family, tokens, features), exact) > 100 * SLACK * plain).all()


def test_a_mask_row_by_hand():
    """Two questions of two tokens after a prefix of three: the last token of question two sees five tokens."""
    mask = prefix_sharing._own_suffix_mask(2, 3, 2, torch.device("cpu")).int().tolist()
    assert mask == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 1]]


@pytest.mark.parametrize("family", CONFIGS)
def test_nan_of_one_image_stays_there(family):
    tokens, features = study()
    clean, _ = shared(family, tokens, features)
    features[1] = torch.nan
    spoilt, _ = shared(family, tokens, features)
    touched = IMAGE == 1
    assert spoilt[touched].isnan().all()
    assert torch.equal(spoilt[~touched], clean[~touched])


def test_pruning_the_last_block_changes_nothing():
    tokens, features = study()
    pruned, _ = shared("qwen3", tokens, features)
    lm = FrozenLM.wrap(tiny_lm("qwen3"), None, torch.device("cpu"))
    assert lm.prunes
    mlp = lm.model.model.layers[-1].mlp
    mlp._forward_pre_hooks.clear()
    mlp._forward_hooks.clear()
    projector = new_projector((WIDTH, lm.width), torch.float32, 0, None, lm.embedding_rms)
    (row,) = pack(IMAGE, np.zeros_like(IMAGE), 1, len(tokens.prefix) + PATCHES, 5, 10_000)
    states = prompt_row(lm, tokens, row, [projector], [features[row.items[0]]], row.question)
    full = torch.empty(len(IMAGE), 61)
    full[torch.from_numpy(row.question)] = lm.vocabulary_logits(states).detach()
    assert (full - pruned).abs().max() <= 64 * torch.finfo(torch.float32).eps * full.abs().max()
