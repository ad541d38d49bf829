"""Attention as matrix products against PyTorch's fused kernels: outputs and gradients, in float32 and bfloat16."""

import pytest
import torch

from engine.lm import attention as products
from engine.lm.attention import matmul_attention
from engine.lm.prefix_sharing import Layout, sdpa_attention

LAYOUTS = {
    "equal": Layout(((3, 2),), prefix=9, suffix=4),
    "buckets": Layout(((2, 1), (1, 3), (2, 5)), prefix=9, suffix=4),
    "one image": Layout(((1, 1),), prefix=1, suffix=1),
}
HEADS = {"own keys": (4, 4), "shared keys": (4, 2), "one key head": (3, 1)}
WIDTH = 8


def drawn(layout, heads, groups, amplitude=1.0):
    """Query, key, value and gradient of the output, in the memory order that a decoder gives them."""
    rng = torch.Generator().manual_seed(0)
    tokens = layout.images * layout.prefix + layout.questions * layout.suffix
    sizes = (heads, groups, groups, heads)
    query, key, value, grad = (torch.randn(1, tokens, n, WIDTH, generator=rng, dtype=torch.float64) for n in sizes)
    # A common part in values is what rounding of gradients would suffer from.
    return (query * amplitude).transpose(1, 2), key.transpose(1, 2), (value + 1).transpose(1, 2), grad


def results(attend, inputs, layout, dtype):
    """Output and the three gradients, as float64."""
    query, key, value, grad = (x.to(dtype) for x in inputs)
    parts = [x.detach().requires_grad_() for x in (query, key, value)]
    out = attend(*parts, layout, WIDTH**-0.5)
    out.backward(grad)
    return [out.detach().double(), *(x.grad.double() for x in parts)]


def distances(found, exact):
    assert all(b.numel() and b.norm() > 0 for b in exact)
    return torch.tensor([((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)])


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("layout", ["equal", "buckets"])
def test_float32_equals_the_fused_kernels(layout, heads):
    inputs, layout = drawn(LAYOUTS[layout], *HEADS[heads]), LAYOUTS[layout]
    exact = results(sdpa_attention, inputs, layout, torch.float64)
    fused = distances(results(sdpa_attention, inputs, layout, torch.float32), exact)
    assert (distances(results(matmul_attention, inputs, layout, torch.float32), exact) <= 4 * fused).all()


@pytest.mark.parametrize("amplitude", [1, 8, 30])
@pytest.mark.parametrize("heads", HEADS)
def test_bfloat16_is_as_exact_as_the_fused_kernels(heads, amplitude):
    """Up to a factor of two, however large the scores are."""
    layout = LAYOUTS["buckets"]
    inputs = [x.bfloat16().double() for x in drawn(layout, *HEADS[heads], amplitude)]
    exact = results(sdpa_attention, inputs, layout, torch.float64)
    fused = distances(results(sdpa_attention, inputs, layout, torch.bfloat16), exact)
    assert (distances(results(matmul_attention, inputs, layout, torch.bfloat16), exact) <= 2 * fused).all()


def test_rounding_the_scores_themselves_would_not_be(monkeypatch):
    """Negative control: without subtraction inside the products, large scores lose their last digits."""
    layout = LAYOUTS["buckets"]
    inputs = [x.bfloat16().double() for x in drawn(layout, 4, 2, amplitude=30)]
    exact = results(sdpa_attention, inputs, layout, torch.float64)
    fused = distances(results(sdpa_attention, inputs, layout, torch.bfloat16), exact)
    monkeypatch.setattr(products, "_rounds", lambda x: False)
    assert (distances(results(matmul_attention, inputs, layout, torch.bfloat16), exact) > 2 * fused).any()


@pytest.mark.parametrize("fault", ["_over_itself", "_over_prefix_and_itself"])
def test_seeing_the_future_is_outside_the_bound(fault, monkeypatch):
    layout = LAYOUTS["buckets"]
    inputs = drawn(layout, 4, 2)
    exact = results(sdpa_attention, inputs, layout, torch.float64)
    right = getattr(products, fault)

    def unmasked(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(products, "_future", lambda length, repeats, dtype: torch.zeros(1, 1, dtype=dtype))
            return right(*arguments)

    monkeypatch.setattr(products, fault, unmasked)
    assert distances(results(matmul_attention, inputs, layout, torch.float32), exact).max() > 1e-2


def test_a_text_of_one_token_takes_what_there_is():
    """One image token, one question token: the image sees itself, the question both."""
    layout = LAYOUTS["one image"]
    query, key, value, _ = (x.float() for x in drawn(layout, 1, 1))
    out = matmul_attention(query, key, value, layout, 1.0)[0, :, 0]
    share = torch.softmax(query[0, 0, 1] @ key[0, 0].T, -1)
    torch.testing.assert_close(out, torch.stack([value[0, 0, 0], share @ value[0, 0]]))


def test_a_nan_stays_in_its_image():
    layout = LAYOUTS["buckets"]
    query, key, value, grad = (x.float() for x in drawn(layout, 4, 2))
    clean = results(matmul_attention, (query, key, value, grad), layout, torch.float32)
    key[:, :, : layout.prefix] = torch.nan  # the first image, which has one question
    spoilt = results(matmul_attention, (query, key, value, grad), layout, torch.float32)
    border = layout.images * layout.prefix
    rows = torch.ones(len(grad[0]), dtype=torch.bool)
    rows[: layout.prefix] = rows[border : border + layout.suffix] = False
    assert spoilt[0][0, ~rows].isnan().all()
    assert torch.equal(spoilt[0][0, rows], clean[0][0, rows])
    for got, wanted in zip(spoilt[1:], clean[1:], strict=True):
        assert torch.equal(got[0][:, rows], wanted[0][:, rows])
