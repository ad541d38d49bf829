"""Prompts as tokens: text before the image, then after it, and the two answers (EXPERIMENT section 4).

The whole text is tokenised first and cut at the image afterwards, because BPE merges depend on what
follows; each answer is tokenised together with its prompt for the same reason.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cachegen.errors import ConditionError
from engine.condition import Condition

MARK = "{image}"


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of all questions of a study.

    `prefix`: (B,) ids before the image, shared by all questions. `suffixes`: (Q, S) ids after the image, filled up
    on the right; `lengths`: (Q,) true lengths. `rows`: (phrase, number) -> row of `suffixes`. `yes`, `no`: answer ids.
    `eos`: id that ends the text, where training asks for it.
    """

    prefix: np.ndarray
    suffixes: np.ndarray
    lengths: np.ndarray
    rows: dict[tuple[str, str], int]
    yes: int
    no: int
    eos: int | None = None

    def answered(self) -> "PromptTokens":
        """Every suffix followed by its answer: rows 0 to Q - 1 by yes, rows Q to 2 Q - 1 by no."""
        count, width = self.suffixes.shape
        table = np.zeros((2 * count, width + 1), dtype=np.int64)
        table[:, :width] = np.tile(self.suffixes, (2, 1))
        lengths = np.tile(self.lengths, 2)
        table[np.arange(2 * count), lengths] = np.repeat([self.yes, self.no], count)
        return replace(self, suffixes=table, lengths=lengths + 1, rows={})


def question_text(condition: Condition, phrase: str, number: str) -> str:
    """The question in words, for example "Are there scissors in this image?"."""
    form = condition.question_singular if number == "singular" else condition.question_plural
    return form.replace("{phrase}", phrase)


def tokenise(condition: Condition, tokenizer: Any, asked: Iterable[tuple[str, str]]) -> PromptTokens:
    """Tokens of every (phrase, number) in `asked`, which must be all of the study, not of a batch:
    the suffix length is a constant of the study, since attention kernels' last bits depend on it.

    Raises `ConditionError` if a token spans the image position, if the text before the image depends on the
    question, or if an answer is not exactly one further token.
    """
    asked = sorted(set(asked))
    marked = [condition.template.replace("{question}", question_text(condition, *question)) for question in asked]
    texts = [text.replace(MARK, "") for text in marked]
    encoded = tokenizer(texts, return_offsets_mapping=True)
    cuts = [
        _cut(offsets, text.index(MARK), text) if MARK in text else 1
        for offsets, text in zip(encoded["offset_mapping"], marked, strict=True)
    ]
    prefixes = {tuple(ids[:cut]) for ids, cut in zip(encoded["input_ids"], cuts, strict=True)}
    if len(prefixes) > 1:
        raise ConditionError(
            "the template's tokens before the image differ between questions; put {question} after {image}"
        )
    suffixes = [ids[cut:] for ids, cut in zip(encoded["input_ids"], cuts, strict=True)]
    lengths = np.array([len(ids) for ids in suffixes])
    if not lengths.min():
        raise ConditionError("the template leaves no token after the image to answer at; put text after {image}")
    padded = np.zeros((len(suffixes), lengths.max()), dtype=np.int64)
    for row, ids in enumerate(suffixes):
        padded[row, : len(ids)] = ids
    yes, no = (
        _answer_token(tokenizer, texts, encoded["input_ids"], text)
        for text in (condition.answer_yes, condition.answer_no)
    )
    if yes == no:
        raise ConditionError(
            "answer_yes and answer_no have the same token; choose answers that the tokenizer tells apart"
        )
    eos = tokenizer.eos_token_id if condition.supervise == "answer_eos" else None
    if eos is None and condition.supervise == "answer_eos":
        raise ConditionError("supervise = 'answer_eos': this tokenizer has no EOS token; use supervise = 'answer'")
    rows = {question: row for row, question in enumerate(asked)}
    return PromptTokens(np.array(prefixes.pop(), dtype=np.int64), padded, lengths, rows, yes, no, eos)


def _cut(offsets: list[tuple[int, int]], position: int, text: str) -> int:
    """Number of tokens that end at or before the character `position` of the image."""
    before = [end <= position for _, end in offsets]
    cut = sum(before)
    if not all(before[:cut]):
        raise ConditionError("the tokenizer adds a token after the prompt; this engine needs the answer to come last")
    if cut < len(offsets) and offsets[cut][0] < position:
        raise ConditionError(
            f"a token spans the image position in {text!r}; put a space or a line break beside {{image}} "
            "in the template"
        )
    return cut


def _answer_token(tokenizer: Any, texts: list[str], prompts: list[list[int]], answer: str) -> int:
    """The one token that `answer` adds to every prompt."""
    joint = tokenizer([text + answer for text in texts])["input_ids"]
    added = set()
    for text, ids, with_answer in zip(texts, prompts, joint, strict=True):
        if ids and ids[-1] == with_answer[-1] and ids[-1] in tokenizer.all_special_ids:
            raise ConditionError(
                f"the tokenizer adds {tokenizer.decode(ids[-1:])!r} to every text, where the answer must come last; "
                "turn that off in its tokenizer_config.json (add_eos_token) or tokenizer.json (post_processor)"
            )
        if not _adds_one(ids, with_answer):
            problem = _why_not_one(tokenizer, ids, with_answer)
            raise ConditionError(
                f"answer {answer!r} is not exactly one token after {text!r}: {problem}; "
                f"{_what_would_be_one(tokenizer, texts, answer)}"
            )
        added.add(with_answer[-1])
    if len(added) > 1:
        raise ConditionError(
            f"answer {answer!r} is another token after other questions; end the template in a fixed word"
        )
    if added == {tokenizer.unk_token_id}:
        raise ConditionError(
            f"answer {answer!r} has no token of its own in this vocabulary; choose another answer word"
        )
    return int(added.pop())


def _adds_one(ids: list[int], with_answer: list[int]) -> bool:
    return with_answer[:-1] == ids


def _why_not_one(tokenizer: Any, ids: list[int], with_answer: list[int]) -> str:
    """What the end of a prompt becomes when an answer follows."""
    same = next((i for i, (a, b) in enumerate(zip(ids, with_answer, strict=False)) if a != b), len(ids))
    before, after = (" ".join(repr(tokenizer.decode([token])) for token in each[same:]) for each in (ids, with_answer))
    return f"the tokens {before} become {after}" if before else f"it becomes {after}"


def _what_would_be_one(tokenizer: Any, texts: list[str], answer: str) -> str:
    """Ways of writing template and answer that make it one token after every prompt, tried with this tokenizer."""
    bare, spaced = answer.strip(), f" {answer.strip()}"
    trimmed = [text.rstrip() for text in texts]
    ways = {
        f"{bare!r} after a line break": ([text + "\n" for text in trimmed], bare),
        f"{spaced!r} after a template without white space at its end": (trimmed, spaced),
    }
    works = [
        way
        for way, (prompts, form) in ways.items()
        if all(
            map(_adds_one, tokenizer(prompts)["input_ids"], tokenizer([text + form for text in prompts])["input_ids"])
        )
    ]
    if not works:
        return "choose another answer word"
    return f"with this tokenizer it is one as {', or as '.join(works)}: change template, answer_yes and answer_no"
