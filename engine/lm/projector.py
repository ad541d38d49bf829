"""The projector (paper section 3.2): two linear layers from patch features to LM embeddings, or the release's three.

    2 layers: Linear(V, D) -> GELU -> Linear(D, D)
    3 layers: Linear(V, 4 V) -> GELU -> Linear(4 V, D) -> GELU -> Linear(D, D)

V is the encoder's width, D the LM's. The release uses three layers for fused encoders only.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from cachegen.common.rng import stream_seed


class Projector(nn.Module):
    """Maps (I, P, V) patch features to (I, P, D) input embeddings of the LM.

    Weights are float32 masters; the products run in `dtype`. `statistics`, if given, are the per-dimension mean
    and standard deviation, (2, V), by which features are standardised first. `output_rms`, if given, is the
    root mean square that every output vector is scaled to.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        dtype: torch.dtype,
        statistics: torch.Tensor | None = None,
        output_rms: float | None = None,
        layers: Literal[2, 3] = 2,
    ) -> None:
        super().__init__()
        vision, lm = widths
        inner = lm if layers == 2 else 4 * vision
        self.hidden = nn.Linear(vision, inner)
        self.middle = nn.Linear(inner, lm) if layers == 3 else None
        self.output = nn.Linear(lm, lm)
        self.register_buffer("statistics", statistics)
        self.output_rms = output_rms
        self.dtype = dtype

    def forward(self, features_IPV: torch.Tensor) -> torch.Tensor:
        x = features_IPV
        if isinstance(self.statistics, torch.Tensor):
            mean, sd = self.statistics
            x = (x.float() - mean) / sd
        x = functional.gelu(self._linear(self.hidden, x.to(self.dtype)))
        if self.middle is not None:
            x = functional.gelu(self._linear(self.middle, x))
        x = self._linear(self.output, x)
        if self.output_rms is not None:
            x = x * (self.output_rms / x.float().square().mean(-1, keepdim=True).add(1e-12).sqrt()).to(x.dtype)
        return x

    def _linear(self, layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, layer.weight.to(self.dtype), layer.bias.to(self.dtype))


def new_projector(
    widths: tuple[int, int],
    dtype: torch.dtype,
    seed: int | Literal["shared"],
    statistics: torch.Tensor | None,
    output_rms: float | None,
    layers: Literal[2, 3] = 2,
) -> Projector:
    """Projector with PyTorch's default initial weights from the stream of `seed`; "shared" is the same for all runs.

    `widths`: (V, D), of the encoder and of the LM.
    """
    stream = (0, "projector", "shared") if seed == "shared" else (seed, "projector")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(*stream))
        return Projector(widths, dtype, statistics, output_rms, layers)
