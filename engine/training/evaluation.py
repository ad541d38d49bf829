"""Evaluation (paper section 3.4): all questions of an image in one pass, yes and no compared at the answer.

`layer_scores` reads the same answers off earlier layers.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from cachegen.common.device import keeps_bytes, on_device
from engine.lm.language_model import FrozenLM
from engine.lm.projector import Projector
from engine.lm.prompts import PromptTokens
from engine.training.batches import QuestionArrays, pack
from engine.training.features import Features, prefetched
from engine.training.loop import named_tokens, prompt_row

Finish = Callable[[torch.Tensor], torch.Tensor]  # what follows a decoder's last block


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

    A score is logit_yes - logit_no, of the task `name` the log-probability of the phrase. `finish`: see
    `engine.lm.lens.last_norm`.
    """
    prefix, suffix = tokens.shared + features.patches, tokens.suffixes.shape[1]
    run = np.zeros_like(questions.image)
    rows = pack(questions.image, run, 1, prefix, suffix, max_tokens, lm.way == "shared")
    scores: np.ndarray | None = None
    for row, images in prefetched(rows, lambda row: (row, features.fetch(row.items[0]))):
        own = questions.suffix[row.question]
        with lm.watched() as watched:
            prompt_row(lm, tokens, row, [projector], [images], own)
        layers_LRD = watched[0]
        if scores is None:
            scores = np.empty((len(layers_LRD), len(questions.image)), dtype=np.float32)
        for layer, states in enumerate(layers_LRD):
            states_RD = states if layer == len(layers_LRD) - 1 else finish(states)
            scores[layer, row.question] = _scored(lm, tokens, own, states_RD).cpu().numpy()
        advance(len(own))
    assert scores is not None
    return scores


def _scored(lm: FrozenLM, tokens: PromptTokens, suffix: np.ndarray, states_RD: torch.Tensor) -> torch.Tensor:
    """(Q,) scores from the states that `prompt_row` reads."""
    if tokens.targets is None:
        yes, no = lm.answer_logits(states_RD, tokens.yes, tokens.no).unbind(dim=1)
        return yes - no
    question, _, target = (on_device(each, lm.device) for each in named_tokens(tokens, suffix))
    said = lm.log_probabilities(states_RD, target)
    return torch.zeros(len(suffix), device=lm.device).index_add(0, question, said)
