"""The engine against the plainest loop on this machine, at the microworld's size: ratios from one alternating run.

The plain loop gets what a batch can give it: cached features, one question per row, rows padded to one length, one
batched Hugging Face forward with its own attention and logits over the whole vocabulary at every position.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import Qwen3Config

from cachegen.random_init import random_init_lm
from cachegen.rng import generator, stream_seed
from engine.batches import pack
from engine.language_model import FrozenLM
from engine.projector import Projector, new_projector
from engine.prompts import PromptTokens
from engine.training import prompt_row

PATCHES, WIDTH, SUFFIX, VOCABULARY = 16, 96, 4, 250
QUESTIONS = {"train": (32, 2), "evaluate": (64, 4)}  # images of a step, questions of an image


@dataclass(frozen=True)
class _Work:
    """One step's images and questions."""

    features: torch.Tensor
    image: np.ndarray
    tokens: PromptTokens

    @classmethod
    def draw(cls, images: int, questions: int) -> "_Work":
        rng = generator(0, "bench", images)
        count = images * questions
        suffixes = rng.integers(0, VOCABULARY, (count, SUFFIX))
        tokens = PromptTokens(np.empty(0, dtype=np.int64), suffixes, np.full(count, SUFFIX), {}, 1, 2)
        noise = torch.Generator().manual_seed(stream_seed(0, "bench", "features"))
        features = torch.randn(images, PATCHES, WIDTH, generator=noise)
        return cls(features, np.repeat(np.arange(images), questions), tokens)


def bench(rounds: int = 15) -> dict[str, Any]:
    """Seconds per step of both ways, for training and evaluation, and the median of their paired ratios."""
    lm = FrozenLM.wrap(random_init_lm(_config(), 0), None, torch.device("cpu"))
    plain_lm = random_init_lm(_config(), 0).eval().requires_grad_(False)
    projector = new_projector((WIDTH, lm.width), torch.float32, 0, None, lm.embedding_rms)
    result: dict[str, Any] = {"device": "cpu", "threads": torch.get_num_threads(), "rounds": rounds}
    for name, size in QUESTIONS.items():
        work = _Work.draw(*size)
        train = name == "train"
        ways = {
            "plain": lambda work=work: _plain_logits(plain_lm, projector, work),
            "engine": lambda work=work: _engine_logits(lm, projector, work),
        }
        difference = (ways["plain"]() - ways["engine"]()).abs().max().item()
        seconds: dict[str, list[float]] = {"plain": [], "engine": []}
        for _ in range(rounds + 1):  # the first round warms up
            for way, logits in ways.items():
                seconds[way].append(_timed(logits, projector, train))
        ratios = [plain / own for plain, own in zip(seconds["plain"][1:], seconds["engine"][1:], strict=True)]
        result[name] = {
            "plain": statistics.median(seconds["plain"][1:]),
            "engine": statistics.median(seconds["engine"][1:]),
            "ratio": statistics.median(ratios),
            "largest_logit_difference": difference,
        }
    return result


def _config() -> Qwen3Config:
    """A new object for each model: transformers keeps the attention implementation in it."""
    return Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip


def _timed(logits: Callable[[], torch.Tensor], projector: Projector, train: bool) -> float:
    started = time.perf_counter()
    if train:
        answers = logits()
        functional.cross_entropy(answers, torch.ones(len(answers), dtype=torch.int64)).backward()
        projector.zero_grad()
    else:
        with torch.no_grad():
            logits()
    return time.perf_counter() - started


def _plain_logits(model: Any, projector: Projector, work: _Work) -> torch.Tensor:
    images = projector(work.features[work.image])
    suffixes = model.get_input_embeddings()(torch.from_numpy(work.tokens.suffixes))
    return model(inputs_embeds=torch.cat([images, suffixes], dim=1), use_cache=False).logits[:, -1]


def _engine_logits(lm: FrozenLM, projector: Projector, work: _Work) -> torch.Tensor:
    (row,) = pack(work.image, np.zeros_like(work.image), 1, PATCHES, SUFFIX, 1 << 30)
    return lm.vocabulary_logits(prompt_row(lm, work.tokens, row, [projector], [work.features], row.question))
