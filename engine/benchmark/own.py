"""The engine's own steps on the benchmark's work: packing, features, passes, clipping and optimizer, as in a sweep."""

import numpy as np
import torch

from engine.batches import pack
from engine.benchmark.work import NO, YES, Work
from engine.language_model import FrozenLM
from engine.projector import Projector
from engine.training import Step, prompt_row, step_loss


class Engine:
    """A lockstep group of as many runs as there are projectors; each works on all of the work it is given."""

    def __init__(self, lm: FrozenLM, projectors: list[Projector], max_tokens: int) -> None:
        self.lm, self.projectors, self.max_tokens = lm, projectors, max_tokens
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
        patches, suffix = work.features.shape[1], work.suffixes.shape[1]
        for row in pack(work.image[number], run, runs, patches, suffix, self.max_tokens):
            features = [work.fetch(items) for items in row.items]
            loss, _ = step_loss(self.lm, work.tokens, step, row, self.projectors, features, "vocabulary")
            loss.backward()
        for projector in self.projectors:
            torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self, work: Work) -> torch.Tensor:
        """Answer logits (Q, 2) of the first run, with the probability mass that `engine.evaluation` also takes."""
        patches, suffix = work.features.shape[1], work.suffixes.shape[1]
        rows = pack(work.image, np.zeros_like(work.image), 1, patches, suffix, self.max_tokens)
        answers = []
        for row in rows:
            features = [work.fetch(items) for items in row.items]
            states = prompt_row(self.lm, work.tokens, row, self.projectors[:1], features, row.question)
            shares = torch.softmax(self.lm.vocabulary_logits(states), dim=-1)
            shares[:, YES] + shares[:, NO]
            answers.append(self.lm.answer_logits(states, YES, NO))
        found = torch.empty(len(work.image), 2)
        for row, values in zip(rows, answers, strict=True):  # at the end, as `engine.evaluation`
            found[torch.from_numpy(row.question)] = values.cpu()
        return found
