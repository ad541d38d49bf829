"""The loop that the engine is compared with, written as well as a plain one can be.

One question per row: patches and question through Hugging Face's own forward, logits over the whole vocabulary at
every position. Rows are batched, all of one length (no padding), in the same precision and with the same threads;
nothing is kept that a row does not need; only the answer's logits enter the loss.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from engine.benchmark.work import NO, YES, Work
from engine.projector import Projector

ROWS = 8  # of a batch: more gain nothing on CPUs and cost memory


class Naive:
    """`encoder`: encodes the images of every row anew; None: reads cached features."""

    def __init__(self, lm: Any, encoder: Any | None, projector: Projector, rows: int = ROWS) -> None:
        self.lm, self.encoder, self.projector, self.rows = lm, encoder, projector, rows
        self.optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-6)

    def train(self, work: Work) -> torch.Tensor:
        """One optimizer step over all questions; their answer logits (Q, 2)."""
        targets, found = work.targets(), []
        for part in self._batches(work):
            logits = self._logits(work, part)
            loss = functional.cross_entropy(logits, targets[part], reduction="sum") / len(targets)
            loss.backward()
            found.append(logits[:, [YES, NO]].detach())
        torch.nn.utils.clip_grad_norm_(self.projector.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat(found)

    @torch.no_grad()
    def evaluate(self, work: Work) -> torch.Tensor:
        """Answer logits (Q, 2)."""
        return torch.cat([self._logits(work, part)[:, [YES, NO]] for part in self._batches(work)])

    def _batches(self, work: Work) -> Iterator[slice]:
        for start in range(0, len(work.image), self.rows):
            yield slice(start, start + self.rows)

    def _logits(self, work: Work, part: slice) -> torch.Tensor:
        """(rows, vocabulary) float32 at the answers."""
        images = torch.from_numpy(work.image[part]).to(work.features.device)
        patches = self.projector(self._features(work, images)).to(work.pixels.dtype)
        suffixes = torch.from_numpy(work.suffixes[part]).to(patches.device)
        row = torch.cat([patches, self.lm.get_input_embeddings()(suffixes)], dim=1)
        return self.lm(inputs_embeds=row, use_cache=False).logits[:, -1].float()

    def _features(self, work: Work, images: torch.Tensor) -> torch.Tensor:
        if self.encoder is None:
            return work.features[images]
        with torch.no_grad():
            return penultimate(self.encoder, work.pixels[images])


def penultimate(encoder: Any, pixels: torch.Tensor) -> torch.Tensor:
    """(B, P, V) patch features of a timm vision transformer's penultimate block, as the paper's release takes them."""
    kept: list[torch.Tensor] = []
    handle = encoder.blocks[-2].register_forward_hook(lambda _block, _inputs, output: kept.append(output))
    try:
        encoder.forward_features(pixels)
    finally:
        handle.remove()
    return kept[0][:, encoder.num_prefix_tokens :]
