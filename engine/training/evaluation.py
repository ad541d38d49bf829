"""Evaluation (paper section 3.4): all questions of an image in one pass, yes and no compared at the answer.

`layer_scores` reads the same answers off earlier layers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from cachegen.common.device import keeps_bytes, on_device
from engine.lm.language_model import FrozenLM
from engine.lm.projector import Projector
from engine.lm.prompts import PromptTokens
from engine.training.batches import PackedRow, QuestionArrays, pack
from engine.training.features import Features, InMemory, prefetched
from engine.training.loop import named_tokens, prompt_row

Finish = Callable[[torch.Tensor], torch.Tensor]  # what follows a decoder's last block


def read_rows(
    rows: Sequence[PackedRow],
    features: Features | InMemory,
    read: Callable[[PackedRow, list[torch.Tensor]], torch.Tensor],
    count: int,
    advance: Callable[[int], None],
) -> np.ndarray:
    """(N, ...) float32 of `count` questions, in order: what `read` gives (Q, ...) for a row and its images' features.

    `advance(n)` counts answered questions.
    """
    found = []
    for row, images in prefetched(rows, lambda row: (row, [features.fetch(items) for items in row.items])):
        found.append(read(row, images))
        advance(row.asked)
    values = np.empty((count, *(found[0].shape[1:] if found else ())), dtype=np.float32)
    for row, each in zip(rows, found, strict=True):  # at the end, so that no row waits for the one before it
        values[row.question] = each.cpu().numpy()
    return values


@torch.no_grad()
def evaluate(
    projector: Projector,
    lm: FrozenLM,
    features: Features | InMemory,
    tokens: PromptTokens,
    questions: QuestionArrays,
    *,
    max_tokens: int,
    advance: Callable[[int], None],
) -> pd.DataFrame:
    """Logits of every question, in order: `logit_yes`, `logit_no` (float32) and `mass` = p(yes) + p(no).

    `advance(n)` counts answered questions. The predicted answer is yes where logit_yes >= logit_no.
    """
    prefix, suffix = len(tokens.prefix) + features.patches, tokens.suffixes.shape[1]
    run = np.zeros_like(questions.image)
    rows = pack(questions.image, run, 1, prefix, suffix, max_tokens, lm.way == "shared", not keeps_bytes(lm.device))

    def read(row: PackedRow, images: list[torch.Tensor]) -> torch.Tensor:
        states = prompt_row(lm, tokens, row, [projector], images, questions.suffix[row.question])
        answers = lm.answer_logits(states, tokens.yes, tokens.no)
        vocabulary = lm.vocabulary_logits(states)
        shares = torch.softmax(vocabulary, dim=-1)
        mass = shares[:, tokens.yes] + shares[:, tokens.no]
        return torch.cat([answers, mass[:, None]], dim=1)

    count = len(questions.image)
    table = read_rows(rows, features, read, count, advance).reshape(count, 3)
    return pd.DataFrame(table, columns=["logit_yes", "logit_no", "mass"])


@torch.no_grad()
def layer_scores(
    projector: Projector,
    lm: FrozenLM,
    features: Features,
    tokens: PromptTokens,
    questions: QuestionArrays,
    finish: Finish,
    *,
    max_tokens: int,
    advance: Callable[[int], None],
) -> np.ndarray:
    """(L + 1, N) float32 score of every question at every layer (logit lens), the last row as in evaluation.

    `finish`: see `engine.lm.lens.last_norm`.
    """
    prefix, suffix = tokens.shared + features.patches, tokens.suffixes.shape[1]
    run = np.zeros_like(questions.image)
    rows = pack(questions.image, run, 1, prefix, suffix, max_tokens, lm.way == "shared")

    def read(row: PackedRow, images: list[torch.Tensor]) -> torch.Tensor:
        own = questions.suffix[row.question]
        with lm.watched() as watched:
            prompt_row(lm, tokens, row, [projector], images, own)
        *earlier, last = watched[0]
        return torch.stack([scored(lm, tokens, own, states) for states in [*map(finish, earlier), last]], dim=1)

    return read_rows(rows, features, read, len(questions.image), advance).T


def scored(lm: FrozenLM, tokens: PromptTokens, suffix: np.ndarray, states_RD: torch.Tensor) -> torch.Tensor:
    """(Q,) scores from the states that `prompt_row` reads: logit_yes - logit_no, or a phrase's log-probability."""
    if tokens.targets is None:
        yes, no = lm.answer_logits(states_RD, tokens.yes, tokens.no).unbind(dim=1)
        return yes - no
    question, _, target = (on_device(each, lm.device) for each in named_tokens(tokens, suffix))
    said = lm.log_probabilities(states_RD, target)
    return torch.zeros(len(suffix), device=lm.device).index_add(0, question, said)
