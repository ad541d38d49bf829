"""The projector: the paper's two layers and the release's three, against plain modules; bytes that may not move."""

import pytest
import torch
from torch import nn

from cachegen.common.files import digest_bytes
from engine.lm.projector import new_projector

VISION, LM = 20, 48


def fresh(layers, seed=7, dtype=torch.float32, statistics=None, output_rms=None):
    return new_projector((VISION, LM), dtype, seed, statistics, output_rms, layers=layers)


def features(images=3):
    return torch.randn(images, 5, VISION, generator=torch.Generator().manual_seed(1))


def reference(projector):
    """The same weights in PyTorch's own modules."""
    linears = [module for module in projector.children() if isinstance(module, nn.Linear)]
    parts = [part for linear in linears for part in (linear, nn.GELU())]
    return nn.Sequential(*parts[:-1])


@pytest.mark.parametrize(
    ("layers", "shapes"),
    [
        (2, {"hidden": (LM, VISION), "output": (LM, LM)}),
        (3, {"hidden": (4 * VISION, VISION), "middle": (LM, 4 * VISION), "output": (LM, LM)}),
    ],
)
def test_names_and_shapes(layers, shapes):
    state = fresh(layers).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        f"{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in shapes.items()
        for kind in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("seed", "digest"),
    [
        (7, "ad89f454a311f17f992f8cea09ff3cb29f341949a80276625b36b2fbb17a0c39"),
        ("shared", "e7403c599574349f148f44b6b575a485635e461706b1aadb08981f68cfbe7a57"),
    ],
)
def test_two_layers_keep_the_bytes_they_had_before_a_third_was_offered(seed, digest):
    """Older run directories and checkpoints start from these weights."""
    state = new_projector((VISION, LM), torch.float32, seed, None, None).state_dict()
    assert list(state) == ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]
    assert digest_bytes(*(tensor.numpy().tobytes() for tensor in state.values())) == digest


@pytest.mark.parametrize("layers", [2, 3])
def test_values_and_gradients_are_those_of_plain_modules(layers):
    projector = fresh(layers)
    plain = reference(fresh(layers))
    assert len(plain) == 2 * layers - 1
    weight = torch.randn(3, 5, LM, generator=torch.Generator().manual_seed(2))
    results = []
    for module in (projector, plain):
        output = module(features())
        (output * weight).sum().backward()
        results.append((output.detach(), [parameter.grad for parameter in module.parameters()]))
    assert results[0][0].shape == (3, 5, LM)
    assert torch.equal(results[0][0], results[1][0])
    assert len(results[0][1]) == 2 * layers
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert theirs.abs().max() > 0
        assert torch.equal(ours, theirs)
    approximate = nn.Sequential(*[nn.GELU("tanh") if isinstance(m, nn.GELU) else m for m in plain])
    assert not torch.equal(results[0][0], approximate(features()))  # the release's GELU is the exact one


@pytest.mark.parametrize("layers", [2, 3])
def test_seeds_statistics_and_output_scale(layers):
    statistics = torch.stack([features().mean((0, 1)), features().std((0, 1))])
    plain, scaled = fresh(layers), fresh(layers, statistics=statistics, output_rms=0.02)
    for ours, theirs in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(plain.hidden.weight, fresh(layers, seed=8).hidden.weight)
    standardised = (features() - statistics[0]) / statistics[1]
    expected = nn.functional.normalize(plain(standardised), dim=-1) * 0.02 * LM**0.5
    torch.testing.assert_close(scaled(features()), expected, rtol=1e-5, atol=1e-7)


def test_masters_stay_float32_and_products_run_in_bfloat16():
    projector = fresh(3, dtype=torch.bfloat16)
    output = projector(features().bfloat16())
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert {parameter.grad.dtype for parameter in projector.parameters()} == {torch.float32}
    difference = (output.float() - fresh(3)(features())).abs().max()
    assert 0 < difference < 0.05 * output.abs().max()
