"""The run's prompts as text with an image token in it, for a processor that expands that token."""

from typing import Any

import numpy as np
from tokenizers import AddedToken

from cachegen.common.errors import ConditionError
from engine.design.condition import Condition
from engine.lm.prompts import MARK, PromptTokens


def image_token(condition: Condition) -> str:
    """A text for the image token that the prompts do not hold already: the release has "<image>" as plain text."""
    return "<image>" if "<image>" not in condition.template else "<|image|>"


def add_image_token(tokenizer: Any, token: str) -> int:
    """Give the tokenizer a special token for the image's place; its id."""
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(token))


def prompt_text(condition: Condition, tokenizer: Any, question: str, token: str) -> str:
    """The template around `question`, with `token` where the patches go: at {image}, else behind the first token.

    `tokenizer` must be the run's own, without an image token.
    """
    marked = condition.template.replace("{question}", question)
    if MARK in marked:
        return marked.replace(MARK, token)
    place = tokenizer(marked, return_offsets_mapping=True)["offset_mapping"][0][1]
    return marked[:place] + token + marked[place:]


def check_tokens(processor: Any, prompts: list[str], tokens: PromptTokens, patches: int) -> None:
    """Raise `ConditionError` unless the processor's ids of every prompt are those that the run was asked with.

    `prompts` are in the order of the rows of `tokens`.
    """
    image = [processor.image_token_id] * patches
    expanded = [text.replace(processor.image_token, processor.image_token * patches) for text in prompts]
    for text, ids, row, length in zip(
        prompts, processor.tokenizer(expanded)["input_ids"], tokens.suffixes, tokens.lengths, strict=True
    ):
        if not np.array_equal(ids, [*tokens.prefix, *image, *row[:length]]):
            raise ConditionError(
                f"with an image token in it, the prompt {text!r} has other tokens than the run was trained with; this "
                "template and tokenizer have no form in LLaVA, put a line break on both sides of {image}"
            )
