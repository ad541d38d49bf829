"""What one step of the benchmark answers: random images, each with all its questions.

Shape letters: I images, Q questions in all, S suffix tokens, C the image's side in pixels, P patches, V the
encoder's width.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from cachegen.device import on_device
from cachegen.rng import generator, stream_seed
from engine.batches import QuestionArrays
from engine.prompts import PromptTokens

YES, NO = 1, 2


@dataclass(frozen=True)
class Work:
    """`pixels` (I, 3, C, C) and `features` (I, P, V) of the same images; `image` (Q,), `suffixes` (Q, S), `answer`."""

    pixels: torch.Tensor
    features: torch.Tensor
    image: np.ndarray
    suffixes: np.ndarray
    answer: np.ndarray

    @classmethod
    def draw(
        cls, counts: tuple[int, ...], side: int, patches: int, width: int, suffix: int, vocabulary: int,
        device: torch.device, dtype: torch.dtype,
    ) -> Self:  # fmt: skip
        """Work with `counts[i]` questions about image i."""
        rng = generator(0, "bench", "questions")
        noise = torch.Generator().manual_seed(stream_seed(0, "bench", "images"))
        asked = sum(counts)
        return cls(
            pixels=torch.randn(len(counts), 3, side, side, generator=noise).to(device, dtype),
            features=torch.randn(len(counts), patches, width, generator=noise).to(device, torch.bfloat16),
            image=np.repeat(np.arange(len(counts)), counts),
            suffixes=rng.integers(0, vocabulary, (asked, suffix)),
            answer=rng.random(asked) < 0.5,
        )

    @property
    def images(self) -> int:
        return len(self.features)

    def fetch(self, images: np.ndarray) -> torch.Tensor:
        """(I, P, V) features of these images, as `engine.features` gives them."""
        return self.features.index_select(0, on_device(images, self.features.device))

    @property
    def tokens(self) -> PromptTokens:
        """The questions as the engine has them; the image comes first."""
        lengths = np.full(len(self.suffixes), self.suffixes.shape[1])
        return PromptTokens(np.empty(0, dtype=np.int64), self.suffixes, lengths, {}, YES, NO)

    @property
    def questions(self) -> QuestionArrays:
        return QuestionArrays(self.image, np.arange(len(self.image)), self.answer)

    def targets(self) -> torch.Tensor:
        """(Q,) the right answers' tokens."""
        return torch.from_numpy(np.where(self.answer, YES, NO)).to(self.features.device)
