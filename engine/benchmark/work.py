"""What one step of the benchmark answers, and the engine's own steps on it."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from cachegen.common.device import keeps_bytes
from cachegen.common.rng import generator, stream_seed
from engine.lm.language_model import FrozenLM
from engine.lm.projector import Projector
from engine.lm.prompts import PromptTokens
from engine.runs.tables import LOGITS
from engine.training.batches import QuestionArrays, pack
from engine.training.evaluation import evaluate
from engine.training.features import InMemory
from engine.training.loop import Step, step_loss

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


class Engine:
    """A lockstep group of as many runs as there are projectors; each works on all of the work it is given."""

    def __init__(self, lm: FrozenLM, projectors: list[Projector], max_tokens: int) -> None:
        self.lm, self.projectors, self.max_tokens = lm, projectors, max_tokens
        self.even = not keeps_bytes(lm.device)
        self.optimizer = torch.optim.AdamW(
            [{"params": list(p.parameters())} for p in projectors], lr=1e-6, foreach=True
        )

    def train(self, work: Work) -> None:
        """One optimizer step of every run."""
        runs, asked = len(self.projectors), len(work.image)
        number = np.tile(np.arange(asked), runs)
        weight = np.full(runs * asked, 1 / asked, dtype=np.float32)
        run = np.repeat(np.arange(runs), asked)
        step = Step(number, work.answer[number], weight, [])
        patches, suffix, images = work.features.shape[1], work.suffixes.shape[1], InMemory(work.features)
        for row in pack(work.image[number], run, runs, patches, suffix, self.max_tokens, even=self.even):
            features = [images.fetch(items) for items in row.items]
            loss, _ = step_loss(self.lm, work.tokens, step, row, self.projectors, features, "vocabulary")
            loss.backward()
        for projector in self.projectors:
            torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def evaluate(self, work: Work) -> torch.Tensor:
        """Answer logits (Q, 2) of the first run."""
        answers = evaluate(
            self.projectors[0], self.lm, InMemory(work.features), work.tokens, work.questions,
            max_tokens=self.max_tokens, advance=lambda _: None,
        )  # fmt: skip
        return torch.tensor(answers[LOGITS].to_numpy())
