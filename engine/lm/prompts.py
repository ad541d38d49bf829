"""Prompts as tokens: text before the image, then after it, and the two answers (paper section 3.2, and the release).

Of the task `name`, a sentence, and which of its tokens are the phrase that is learned and scored. The whole text is
tokenised first and cut at the image afterwards, because BPE merges depend on what follows; each answer is tokenised
together with its prompt for the same reason.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from cachegen.common.errors import ConditionError, ModelError, is_fault
from cachegen.common.hub import first_line
from cachegen.data.dataset import Dataset
from engine.design.condition import MOST_CHARACTERS, Condition
from engine.design.questions import question_text

MARK = "{image}"


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of all questions of a study.

    `prefix`: (B,) ids before the image, shared by all questions. `suffixes`: (Q, S) ids after the image, filled up
    on the right; `lengths`: (Q,) true lengths. `rows`: (phrase, number) -> row of `suffixes`. `yes`, `no`: answer ids.
    `eos`: id that ends the text, where training asks for it.

    Names: `between`, (C,) ids after the image with which all sentences begin, are no part of `suffixes`; `targets`,
    (Q, S), are the ids to be predicted at each place of a suffix, -1 where none is: the phrase and what follows it.
    `rows`: (phrase, kind) -> row.
    """

    prefix: np.ndarray
    suffixes: np.ndarray
    lengths: np.ndarray
    rows: dict[tuple[str, str], int]
    yes: int
    no: int
    eos: int | None = None
    between: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    targets: np.ndarray | None = None

    @property
    def shared(self) -> int:
        """Tokens of text that all questions about an image share."""
        return len(self.prefix) + len(self.between)

    def row_numbers(self, questions: pd.DataFrame) -> np.ndarray:
        """(N,) row of `suffixes` of each row of a table with phrase, number and kind. Raises `KeyError`."""
        asked = zip(questions["phrase"], questions["number" if self.targets is None else "kind"], strict=True)
        return np.array([self.rows[question] for question in asked], dtype=np.int64)

    def answered(self) -> "PromptTokens":
        """Every suffix followed by its answer: rows 0 to Q - 1 by yes, rows Q to 2 Q - 1 by no."""
        count, width = self.suffixes.shape
        table = np.zeros((2 * count, width + 1), dtype=np.int64)
        table[:, :width] = np.tile(self.suffixes, (2, 1))
        lengths = np.tile(self.lengths, 2)
        table[np.arange(2 * count), lengths] = np.repeat([self.yes, self.no], count)
        return replace(self, suffixes=table, lengths=lengths + 1, rows={})


def prompt_tokens(condition: Condition, tokenizer: Any, dataset: Dataset, rows: int | None = None) -> PromptTokens:
    """Tokens of everything that a condition may ask of a dataset: `tokenise`, or `tokenise_names`."""
    tables = {"leaf": dataset.leaves, "hypernym": dataset.hypernyms}
    if condition.task == "name":
        named = [(phrase, kind) for kind, table in tables.items() for phrase in table["phrase"]]
        return tokenise_names(condition, tokenizer, named, rows)
    asked = pd.concat([table[["phrase", "number"]] for table in tables.values()])
    return tokenise(condition, tokenizer, asked.itertuples(index=False, name=None), rows)


def tokenise(
    condition: Condition, tokenizer: Any, asked: Iterable[tuple[str, str]], rows: int | None = None
) -> PromptTokens:
    """Tokens of every (phrase, number) in `asked`, which must be all of the study, not of a batch:
    the suffix length is a constant of the study, since attention kernels' last bits depend on it.

    `rows`: how many tokens the LM embeds. Raises `ConditionError` if a phrase is too long or holds a special token, if
    a token spans the image position, if the text before the image depends on the question, or if an answer is not
    exactly one further token; `ModelError` if a token is beyond the rows, or the tokenizer fails.
    """
    asked = sorted(set(asked))
    refuse_phrases(tokenizer, [phrase for phrase, _ in asked])
    marked = [condition.template.replace("{question}", question_text(condition, *question)) for question in asked]
    texts = [text.replace(MARK, "") for text in marked]
    ids, _, prefix, suffixes = _cut_all(tokenizer, marked)
    lengths = np.array([len(ids) for ids in suffixes])
    if not lengths.min():
        raise ConditionError("the template leaves no token after the image to answer at; put text after {image}")
    yes, no = (_answer_token(tokenizer, texts, ids, text) for text in (condition.answer_yes, condition.answer_no))
    if yes == no:
        raise ConditionError(
            "answer_yes and answer_no have the same token; choose answers that the tokenizer tells apart"
        )
    eos = tokenizer.eos_token_id if condition.supervise == "answer_eos" else None
    if eos is None and condition.supervise == "answer_eos":
        raise ConditionError("supervise = 'answer_eos': this tokenizer has no EOS token; use supervise = 'answer'")
    refuse_beyond(tokenizer, rows, [*ids, [yes, no, eos or 0]])
    numbers = {question: row for row, question in enumerate(asked)}
    return PromptTokens(prefix, _padded(suffixes, 0), lengths, numbers, yes, no, eos)


def name_text(condition: Condition, phrase: str, kind: str) -> str:
    """The sentence that names a category, for example "This is a picture of a crow."."""
    return carrier(condition, kind).replace("{phrase}", phrase)


def carrier(condition: Condition, kind: str) -> str:
    """The sentence of leaves or of hypernyms."""
    return condition.carrier_leaf if kind == "leaf" else condition.carrier_hypernym


def tokenise_names(
    condition: Condition, tokenizer: Any, named: Iterable[tuple[str, str]], rows: int | None = None
) -> PromptTokens:
    """Tokens of the sentence for every (phrase, kind) in `named`, which must be all of the study, as for `tokenise`.

    What is predicted begins with the first token that reaches into a phrase, or earlier where the sentences of a kind
    already differ, and goes on to the end of the sentence: what follows a phrase ends it, so that no phrase is the
    beginning of another. Raises as `tokenise`.
    """
    named = sorted(set(named))
    refuse_phrases(tokenizer, [phrase for phrase, _ in named])
    before, _, after = condition.template.partition("{question}")
    if MARK in after:
        raise ConditionError("a name needs its image before it; put {image} before {question} in the template")
    ids, offsets, prefix, suffixes = _cut_all(tokenizer, [before + name_text(condition, *name) for name in named])
    kinds = [kind for _, kind in named]
    starts = dict.fromkeys(kinds, 0)
    for kind in starts:
        own = [row for row, each in enumerate(kinds) if each == kind]
        place = len(before.replace(MARK, "")) + carrier(condition, kind).index("{phrase}")
        first = min(sum(end <= place for _, end in offsets[row]) - len(ids[row]) + len(suffixes[row]) for row in own)
        starts[kind] = _common([suffixes[row][:first] for row in own])
    if min(starts.values()) < 1:
        raise ConditionError("no token between the image and {phrase} can predict the name; put text before {phrase}")
    # The last token before a phrase stays in the suffix: the phrase's first token is predicted there.
    between = _common([suffix[: starts[kind] - 1] for suffix, kind in zip(suffixes, kinds, strict=True)])
    inputs = [suffix[between:-1] for suffix in suffixes]
    targets = [
        [token if place >= starts[kind] else -1 for place, token in enumerate(suffix) if place > between]
        for suffix, kind in zip(suffixes, kinds, strict=True)
    ]
    refuse_beyond(tokenizer, rows, ids)
    lengths = np.array([len(each) for each in inputs])
    numbers = {name: row for row, name in enumerate(named)}
    shared = np.array(suffixes[0][:between], dtype=np.int64)
    return PromptTokens(
        prefix, _padded(inputs, 0), lengths, numbers, -1, -1, between=shared, targets=_padded(targets, -1)
    )


def _cut_all(tokenizer: Any, marked: list[str]) -> tuple[list[list[int]], list[Any], np.ndarray, list[list[int]]]:
    """Tokens and offsets of each text; and cut at the image: tokens before it, the same for all, and after it."""
    texts = [text.replace(MARK, "") for text in marked]
    encoded = encode(tokenizer, texts, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    _refuse_end(tokenizer, texts[0], ids[0])
    cuts = [
        _cut(each, text.index(MARK), text) if MARK in text else 1 for each, text in zip(offsets, marked, strict=True)
    ]
    prefixes = {tuple(each[:cut]) for each, cut in zip(ids, cuts, strict=True)}
    if len(prefixes) > 1:
        raise ConditionError(
            "the template's tokens before the image differ between questions; put {question} after {image}"
        )
    suffixes = [each[cut:] for each, cut in zip(ids, cuts, strict=True)]
    return ids, offsets, np.array(prefixes.pop(), dtype=np.int64), suffixes


def _common(texts: list[list[int]]) -> int:
    """Number of tokens with which all of them begin."""
    first, last = min(texts), max(texts)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _padded(texts: list[list[int]], fill: int) -> np.ndarray:
    """(Q, S), filled up on the right."""
    table = np.full((len(texts), max(map(len, texts))), fill, dtype=np.int64)
    for row, ids in enumerate(texts):
        table[row, : len(ids)] = ids
    return table


def encode(tokenizer: Any, texts: list[str], **options: Any) -> Any:
    """`tokenizer(texts)`; whatever it raises is a `ModelError` of one line.

    The longest text goes first: an expression that explodes takes seconds for each, and Rust prints a page about it.
    """
    longest = max(texts, key=len)
    try:
        with _quiet():
            tokenizer(longest)
        return tokenizer(texts, **options)
    except BaseException as error:
        if not is_fault(error):
            raise
        raise ModelError(
            f"the LM's tokenizer fails on {quoted(longest)} ({first_line(error)[:200]}); choose another LM"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is printed to stderr, by no library."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def refuse_phrases(tokenizer: Any, phrases: Iterable[str]) -> None:
    """Raise `ConditionError` for what a user wrote that is too long, or would be read as a sign of the tokenizer's.

    A template may hold such signs ("<|im_start|>"); in "a </s> crow" the LM would see the end of a text.
    """
    signs = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for phrase in phrases:
        if len(phrase) > MOST_CHARACTERS:
            raise ConditionError(
                f"a question of {len(phrase):,} characters: {quoted(phrase)}; write at most {MOST_CHARACTERS:,}"
            )
        if found := next((sign for sign in signs if sign in phrase), None):
            raise ConditionError(
                f"{quoted(phrase)} holds {found!r}, a special token of this tokenizer, no text; write it otherwise"
            )


def refuse_beyond(tokenizer: Any, rows: int | None, ids: Iterable[Iterable[int]]) -> None:
    """Raise `ModelError` for a token that the LM has no row for.

    Tokenizers may have tokens that no text uses, beyond the LM's table: Gemma 3's of 1B has the image's.
    """
    last = max((token for each in ids for token in each), default=0)
    if rows is not None and last >= rows:
        raise ModelError(
            f"a prompt has the token {tokenizer.convert_ids_to_tokens(last)!r}, number {last} of the tokenizer, but "
            f"the LM embeds {rows}; they do not belong together, copy the tokenizer's files from where the LM came from"
        )


def _refuse_end(tokenizer: Any, text: str, ids: list[int]) -> None:
    """Raise `ConditionError` if the tokenizer ends every text with a token of its own: the answer must come last."""
    plain = encode(tokenizer, [text], add_special_tokens=False)["input_ids"][0]
    before = next((n for n in range(len(ids) - len(plain) + 1) if ids[n : n + len(plain)] == plain), len(ids))
    if added := ids[before + len(plain) :]:
        raise ConditionError(
            f"the tokenizer adds {tokenizer.decode(added)!r} to every text, where the answer must come last; remove it "
            "from post_processor in its tokenizer.json"
        )


def quoted(text: str) -> str:
    """A text in quotes, of a long one its end."""
    return repr(text if len(text) <= 200 else f"...{text[-160:]}")


def _cut(offsets: list[tuple[int, int]], position: int, text: str) -> int:
    """Number of tokens that end at or before the character `position` of the image."""
    before = [end <= position for _, end in offsets]
    cut = sum(before)
    if not all(before[:cut]):
        raise ConditionError("the tokenizer adds a token after the prompt; this engine needs the answer to come last")
    if cut < len(offsets) and offsets[cut][0] < position:
        raise ConditionError(
            f"a token spans the image position in {quoted(text)}; put a space or a line break beside {{image}} "
            "in the template"
        )
    return cut


def _answer_token(tokenizer: Any, texts: list[str], prompts: list[list[int]], answer: str) -> int:
    """The one token that `answer` adds to every prompt."""
    joint = encode(tokenizer, [text + answer for text in texts])["input_ids"]
    added = set()
    for text, ids, with_answer in zip(texts, prompts, joint, strict=True):
        if not _adds_one(ids, with_answer):
            problem = _why_not_one(tokenizer, ids, with_answer)
            raise ConditionError(
                f"answer {answer!r} is not exactly one token after {quoted(text)}: {problem}; "
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
    return bool(with_answer) and with_answer[:-1] == ids


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
