"""Evaluation (paper section 3.4): all questions of an image in one pass, yes and no compared at the answer."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from cachegen.common.device import keeps_bytes
from engine.lm.language_model import FrozenLM
from engine.lm.projector import Projector
from engine.lm.prompts import PromptTokens
from engine.training.batches import QuestionArrays, pack
from engine.training.features import Features, prefetched
from engine.training.loop import prompt_row


@torch.no_grad()
def evaluate(
    projector: Projector,
    lm: FrozenLM,
    features: Features,
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
    found = []
    loads = prefetched(rows, lambda row: (row, features.fetch(row.items[0])))
    for row, images in loads:
        states = prompt_row(lm, tokens, row, [projector], [images], questions.suffix[row.question])
        answers = lm.answer_logits(states, tokens.yes, tokens.no)
        vocabulary = lm.vocabulary_logits(states)
        shares = torch.softmax(vocabulary, dim=-1)
        mass = shares[:, tokens.yes] + shares[:, tokens.no]
        found.append(torch.cat([answers, mass[:, None]], dim=1))
        advance(row.asked)
    table = np.empty((len(questions.image), 3), dtype=np.float32)
    for row, values in zip(rows, found, strict=True):  # at the end, so that no row waits for the one before it
        table[row.question] = values.cpu().numpy()
    return pd.DataFrame(table, columns=["logit_yes", "logit_no", "mass"])
