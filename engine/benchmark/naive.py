"""The loop that the engine is compared with, written as well as a plain one can be, and what it costs on paper."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional

from engine.benchmark.work import NO, YES, Work
from engine.design.condition import Condition
from engine.lm.projector import Projector
from engine.sweeps.cost import Cost, Questions, Sizes, cost_of


@dataclass(frozen=True)
class EncoderShape:
    """A vision transformer: blocks, width D, inner width of its MLPs, patches, values of a patch, tokens besides."""

    layers: int
    width: int
    mlp: int
    patches: int
    values: int
    others: int

    @classmethod
    def of(cls, model: Any) -> Self:
        """Shape of a timm vision transformer."""
        patch = model.patch_embed
        height, wide = patch.patch_size
        return cls(
            layers=len(model.blocks),
            width=model.embed_dim,
            mlp=model.blocks[0].mlp.fc1.out_features,
            patches=patch.num_patches,
            values=patch.proj.in_channels * height * wide,
            others=model.num_prefix_tokens,
        )

    @property
    def tokens(self) -> int:
        return self.patches + self.others

    @property
    def flops(self) -> float:
        """Operations of one image, without a pooling head."""
        block = 4 * self.width**2 + 2 * self.width * self.mlp
        attention = 4 * self.width * self.tokens**2
        return self.layers * (2 * self.tokens * block + attention) + 2 * self.patches * self.values * self.width


def naive_cost_of(condition: Condition, questions: Questions, sizes: Sizes, encoder: EncoderShape | None) -> Cost:
    """Cost of one run, as `cost_of` has it for the engine; without an encoder its features are cached.

    Each question reads its image anew, and the head sees every token.
    """
    alone = cost_of(condition.model_copy(update={"lm_sharing": "never"}), questions, sizes)
    trained, evaluated = condition.epochs * questions.trained, questions.evaluated
    read = sizes.suffix if condition.task == "name" else 1  # tokens that `cost_of` lets the head see
    answers = read + (1 if condition.supervise == "answer_eos" else 0)
    head, encoding = 2 * sizes.lm.vocabulary * sizes.lm.width, encoder.flops if encoder else 0.0
    return Cost(
        alone.train_tokens,
        alone.evaluated_tokens,
        alone.train_flops + 2 * head * (alone.train_tokens - answers * trained) + trained * encoding,
        alone.evaluated_flops + head * (alone.evaluated_tokens - read * evaluated) + evaluated * encoding,
    )


ROWS = 8  # of a batch, where nothing was tried


class Loop:
    """A plain training loop. `rows`: how many sequences are in a batch; subclasses say what a sequence holds."""

    def __init__(self, lm: Any, projector: Projector, rows: int = ROWS) -> None:
        self.lm, self.projector, self.rows = lm, projector, rows
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
        """The questions of each batch."""
        for start in range(0, len(work.image), self.rows):
            yield slice(start, start + self.rows)

    def _logits(self, work: Work, part: slice) -> torch.Tensor:
        """(questions, vocabulary) float32 at the answers."""
        raise NotImplementedError


class Naive(Loop):
    """One question in each sequence.

    `encoder`: encodes the images of every row anew; None: reads cached features. `keep`: the head sees the last
    position only (`logits_to_keep`), not all of them.
    """

    def __init__(
        self, lm: Any, encoder: Any | None, projector: Projector, rows: int = ROWS, keep: bool = False
    ) -> None:
        super().__init__(lm, projector, rows)
        self.encoder, self.given = encoder, {"logits_to_keep": 1} if keep else {}

    def _logits(self, work: Work, part: slice) -> torch.Tensor:
        images = torch.from_numpy(work.image[part]).to(work.features.device)
        patches = self.projector(self._features(work, images)).to(work.pixels.dtype)
        suffixes = torch.from_numpy(work.suffixes[part]).to(patches.device)
        row = torch.cat([patches, self.lm.get_input_embeddings()(suffixes)], dim=1)
        return self.lm(inputs_embeds=row, use_cache=False, **self.given).logits[:, -1].float()

    def _features(self, work: Work, images: torch.Tensor) -> torch.Tensor:
        if self.encoder is None:
            return work.features[images]
        with torch.no_grad():
            return penultimate(self.encoder, work.pixels[images])


class Masked(Loop):
    """All questions of an image behind it in one sequence, kept apart by a mask of four dimensions.

    Features are cached, the head sees the answers only. Images with fewer questions than others are filled up.
    """

    def _batches(self, work: Work) -> Iterator[slice]:
        ends = np.cumsum(np.bincount(work.image))
        for start in range(0, len(ends), self.rows):
            yield slice(int(ends[start - 1]) if start else 0, int(ends[min(start + self.rows, len(ends)) - 1]))

    def _logits(self, work: Work, part: slice) -> torch.Tensor:
        image, device = work.image[part], work.features.device
        shown, row, counts = np.unique(image, return_inverse=True, return_counts=True)
        most, suffix = int(counts.max()), work.suffixes.shape[1]
        number = np.arange(len(image)) - (np.cumsum(counts) - counts)[row]  # of a question among its image's
        filled = np.zeros((len(shown), most, suffix), dtype=np.int64)
        filled[row, number] = work.suffixes[part]
        patches = self.projector(work.features[torch.from_numpy(shown).to(device)]).to(work.pixels.dtype)
        texts = self.lm.get_input_embeddings()(torch.from_numpy(filled).to(device)).flatten(1, 2)
        prefix, place = patches.shape[1], torch.arange(most * suffix, device=device)
        whole = torch.ones(prefix + len(place), prefix + len(place), dtype=torch.bool, device=device).tril()
        whole[prefix:, prefix:] &= place[:, None] // suffix == place // suffix
        positions = torch.cat([torch.arange(prefix, device=device), prefix + place % suffix])
        logits = self.lm(
            inputs_embeds=torch.cat([patches, texts], dim=1),
            attention_mask=whole.expand(len(shown), 1, -1, -1),
            position_ids=positions[None].expand(len(shown), -1),
            use_cache=False,
            logits_to_keep=prefix + suffix * torch.arange(1, most + 1, device=device) - 1,
        ).logits
        return logits.flatten(0, 1)[torch.from_numpy(row * most + number).to(device)].float()


def penultimate(encoder: Any, pixels: torch.Tensor) -> torch.Tensor:
    """(B, P, V) patch features of a timm vision transformer's penultimate block, as the paper's release takes them."""
    kept: list[torch.Tensor] = []
    handle = encoder.blocks[-2].register_forward_hook(lambda _block, _inputs, output: kept.append(output))
    try:
        encoder.forward_features(pixels)
    finally:
        handle.remove()
    return kept[0][:, encoder.num_prefix_tokens :]
