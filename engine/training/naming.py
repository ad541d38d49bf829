"""Evaluation of the task `name`: the log-probability of every candidate's phrase after an image, and scores from them.

A score is the log-probability of a phrase minus its mean over the images that the same split asks about the category.
So a frequent word does not win, nor one that the projector makes likely whatever it sees. The answer is yes from zero
on. No label is read; since as many images are asked with the answer yes as with no, the mean lies between the two.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from cachegen.common.device import keeps_bytes
from engine.lm.language_model import FrozenLM
from engine.lm.projector import Projector
from engine.lm.prompts import PromptTokens
from engine.training.batches import PackedRow, pack
from engine.training.evaluation import read_rows, scored
from engine.training.features import Features, InMemory
from engine.training.loop import prompt_row

KEYS = ["image", "kind", "category"]


@torch.no_grad()
def log_probabilities(
    projector: Projector,
    lm: FrozenLM,
    features: Features | InMemory,
    tokens: PromptTokens,
    image: np.ndarray,
    suffix: np.ndarray,
    *,
    max_tokens: int,
    advance: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """(N,) float32: of the phrase in each row `suffix` (N,) of `tokens`, and what ends it, after each `image` (N,).

    All candidates of an image share its prefix; more than fit into `max_tokens` are split over rows.
    """
    prefix, width = tokens.shared + features.patches, tokens.suffixes.shape[1]
    most = max(1, (max_tokens - prefix) // width)
    order = np.argsort(image, kind="stable")
    starts = np.searchsorted(image[order], image)  # of each candidate's image in this order
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    part = (rank - starts) // most  # which of its image's rows a candidate stands in; `pack` takes it for a run
    count = int(part.max(initial=0)) + 1
    rows = pack(image, part, count, prefix, width, max_tokens, lm.way == "shared", not keeps_bytes(lm.device))

    def read(row: PackedRow, images: list[torch.Tensor]) -> torch.Tensor:
        own = suffix[row.question]
        return scored(lm, tokens, own, prompt_row(lm, tokens, row, [projector] * count, images, own))

    return read_rows(rows, features, read, len(image), advance)


def unconditional(projector: Projector, lm: FrozenLM, tokens: PromptTokens, max_tokens: int) -> np.ndarray:
    """(Q,) log-probability of each phrase in the sentence alone, without an image; NaN where nothing comes before."""
    rows = np.arange(len(tokens.suffixes))
    if not tokens.shared:
        return np.full(len(rows), np.nan, dtype=np.float32)
    none = InMemory(torch.empty(1, 0, projector.hidden.in_features, device=lm.device))  # one image of no patches
    return log_probabilities(projector, lm, none, tokens, np.zeros_like(rows), rows, max_tokens=max_tokens)


def name_candidates(
    projector: Projector,
    lm: FrozenLM,
    features: Features,
    tokens: PromptTokens,
    candidates: pd.DataFrame,
    *,
    max_tokens: int,
    advance: Callable[[int], None] = lambda _: None,
) -> pd.DataFrame:
    """`candidates` (see `engine.design.candidates`) with log_p and log_p_alone, without an image."""
    suffix = tokens.row_numbers(candidates)
    image = candidates["image"].to_numpy()
    log_p = log_probabilities(projector, lm, features, tokens, image, suffix, max_tokens=max_tokens, advance=advance)
    return candidates.assign(log_p=log_p, log_p_alone=unconditional(projector, lm, tokens, max_tokens)[suffix])


def answers_of_names(questions: pd.DataFrame, named: pd.DataFrame) -> pd.DataFrame:
    """The answers' columns for each of `questions`: logit_yes, the score; logit_no, 0; mass, the phrase's probability.

    `named`: log_p of each image, kind and category that is asked about.
    """
    log_p = questions[KEYS].merge(named[[*KEYS, "log_p"]], on=KEYS, how="left", validate="m:1")["log_p"]
    log_p = log_p.set_axis(questions.index).astype(float)
    mean = log_p.groupby([questions[name] for name in ("split", "kind", "category")]).transform("mean")
    columns = {"logit_yes": log_p - mean, "logit_no": 0.0, "mass": np.exp(log_p)}
    return pd.DataFrame(columns, index=questions.index).astype(np.float32)
