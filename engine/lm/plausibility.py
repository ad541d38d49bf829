"""Plausibility: log-probabilities of phrases after a carrier sentence, all phrases of a carrier in one shared pass.

Carrier and phrase are tokenised together. The phrase's tokens are those that end behind the carrier, by their offsets;
its score is the sum of their log-probabilities, in nats, each given all tokens before it. A special token that the
tokenizer writes at the beginning (BOS) stays; one that it writes at the end is neither read nor scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cachegen.common.errors import ConditionError, ModelError
from engine.lm.language_model import FrozenLM
from engine.lm.prefix_sharing import Layout
from engine.lm.prompts import encode, quoted, refuse_beyond, refuse_phrases


@dataclass(frozen=True)
class Continuations:
    """`ids`: tokens of each text, carrier and phrase; `starts`: place of the phrase's first token."""

    ids: list[list[int]]
    starts: list[int]

    @property
    def counts(self) -> np.ndarray:
        """(N,) number of scored tokens of each text."""
        return np.array([len(ids) - start for ids, start in zip(self.ids, self.starts, strict=True)], dtype=np.int32)


def tokenise_continuations(
    tokenizer: Any, carriers: Sequence[str], phrases: Sequence[str], rows: int | None = None
) -> Continuations:
    """Tokens of every carrier followed by its phrase; a space between them belongs to the phrase.

    `rows`: how many tokens the LM embeds. Raises `ConditionError` where fewer than two tokens stand before a phrase
    (the last of them predicts it, the others are shared), and what `engine.lm.prompts` raises.
    """
    carriers = [carrier.rstrip(" ") for carrier in carriers]
    texts = [carrier + phrase for carrier, phrase in zip(carriers, phrases, strict=True)]
    refuse_phrases(tokenizer, texts)
    encoded = encode(tokenizer, texts, return_offsets_mapping=True, return_special_tokens_mask=True)
    found, starts = [], []
    for number, (ids, offsets) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
        own = [
            place
            for place, (_, end) in enumerate(offsets)
            if end > len(carriers[number]) and not encoded["special_tokens_mask"][number][place]
        ]
        if not own or own[0] < 2:
            raise ConditionError(
                f"{quoted(texts[number])}: the tokenizer leaves fewer than two tokens before {phrases[number]!r}, or "
                "none of it; give a longer carrier"
            )
        found.append(list(ids[: own[-1] + 1]))
        starts.append(own[0])
    refuse_beyond(tokenizer, rows, found)
    return Continuations(found, starts)


# Shapes: I carriers of a row, Q phrases of each, P tokens shared by a carrier's phrases, S of a phrase, D width,
# T tokens of the row, V vocabulary, N scored tokens.


@torch.no_grad()
def log_probabilities(
    lm: FrozenLM, texts: Continuations, max_tokens: int, advance: Callable[[int], None]
) -> np.ndarray:
    """(texts,) float64 sums of the log-probabilities of each phrase's tokens.

    Raises `ModelError` for logits that are not finite.
    """
    sums = np.full(len(texts.ids), np.nan)
    # A carrier's last token predicts the first of the phrase: it stands with each phrase, not in the prefix.
    of_prefix: dict[tuple[int, ...], list[int]] = {}
    for number, (ids, start) in enumerate(zip(texts.ids, texts.starts, strict=True)):
        of_prefix.setdefault(tuple(ids[: start - 1]), []).append(number)
    for prefixes in _rows(of_prefix, texts, max_tokens):
        numbers = [number for _, asked in prefixes for number in asked]
        sums[numbers] = _score(lm, texts, prefixes)
        advance(len(numbers))
    if not np.isfinite(sums).all():
        raise ModelError(f"{type(lm.model).__name__} gives log-probabilities that are not finite; try another --dtype")
    return sums


Prefixes = list[tuple[tuple[int, ...], list[int]]]  # tokens of each, and numbers of the texts that begin with them


def _rows(of_prefix: dict[tuple[int, ...], list[int]], texts: Continuations, max_tokens: int) -> list[Prefixes]:
    """Prefixes of equal length with equally many texts, as many as `max_tokens` hold; at least one text."""
    alike: dict[tuple[int, int], Prefixes] = {}
    longest = int(texts.counts.max())
    for prefix, numbers in of_prefix.items():
        most = max(1, (max_tokens - len(prefix)) // longest)
        for part in (numbers[first : first + most] for first in range(0, len(numbers), most)):
            alike.setdefault((len(prefix), len(part)), []).append((prefix, part))
    rows = []
    for (length, count), prefixes in alike.items():
        together = max(1, max_tokens // (length + count * longest))
        rows += [prefixes[first : first + together] for first in range(0, len(prefixes), together)]
    return rows


def _score(lm: FrozenLM, texts: Continuations, prefixes: Prefixes) -> np.ndarray:
    """(I Q,) sums of one row, in the order of its prefixes and their texts."""
    numbers = [number for _, asked in prefixes for number in asked]
    counts_Q = texts.counts[numbers]
    suffix = int(counts_Q.max())
    shape = (len(prefixes), len(numbers) // len(prefixes))
    layout = Layout(buckets=(shape,), prefix=len(prefixes[0][0]), suffix=suffix)
    ids_QS = np.zeros((len(numbers), suffix + 1), dtype=np.int64)  # and one column more, for what is predicted last
    for row, number in enumerate(numbers):
        tail = texts.ids[number][texts.starts[number] - 1 :]
        ids_QS[row, : len(tail)] = tail
    ids_T = torch.tensor(
        np.concatenate([np.ravel([prefix for prefix, _ in prefixes]), ids_QS[:, :-1].ravel()]).astype(int)
    )
    ids_T = ids_T.to(lm.device)
    question_N, place_N = np.nonzero(np.arange(suffix) < counts_Q[:, None])
    rows_N = torch.from_numpy(layout.images * layout.prefix + question_N * suffix + place_N).to(lm.device)
    states_ND = lm.answer_states(lm.embed(ids_T), layout, rows_N, ids_T if lm.reads_tokens else None)
    targets_N = torch.from_numpy(ids_QS[question_N, place_N + 1]).to(lm.device)
    found_N = lm.log_probabilities(states_ND, targets_N).cpu().double().numpy()
    return np.bincount(question_N, weights=found_N, minlength=len(numbers))
