"""What a step holds: the order of training questions, and their packing into one row.

A batch counts (image, question) pairs in both orders, so that the number of steps and the schedule do not
depend on the order: `pairs` draws questions at random (the paper), `images` draws images and takes their
questions together, which is when sharing pays most.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.common.rng import generator
from engine.lm.prefix_sharing import Layout

PADDING = 1.0  # repeated questions, at most, in tokens of the others: another row would start all kernels again


@dataclass(frozen=True)
class QuestionArrays:
    """A run's questions as arrays of length N: image number, row of the suffix table, answer."""

    image: np.ndarray
    suffix: np.ndarray
    answer: np.ndarray

    def take(self, rows: np.ndarray) -> "QuestionArrays":
        return QuestionArrays(self.image[rows], self.suffix[rows], self.answer[rows])


def n_batches(questions: int, batch: int) -> int:
    """Steps of one epoch."""
    return -(-questions // batch)


def epoch_batches(image: np.ndarray, order: str, batch: int, run_seed: int, epoch: int) -> list[np.ndarray]:
    """Row numbers of each batch of one epoch; every row of `image` (N,) occurs once."""
    rng = generator(run_seed, "order", epoch)
    if order == "pairs":
        rows = rng.permutation(len(image))
    else:
        # Images in random order, each one's questions together, in the order in which the table has them.
        rank = np.empty(image.max() + 1, dtype=np.int64)
        present = np.unique(image)
        rank[rng.permutation(present)] = np.arange(len(present))
        rows = np.argsort(rank[image], kind="stable")
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]


@dataclass(frozen=True)
class PackedRow:
    """Questions of one or several runs, packed into one row.

    An *item* is one image of one run. Items are listed run by run (`items[r]`: image numbers of run r), the row
    holds them sorted by their number of questions: `place` (I,) says which listed item stands where. `question` (Q,)
    are the positions of the row's questions in the arrays they came from, `run` (Q,) their runs. A question may stand
    in a row several times: `share` (Q,) is 1 over how often it does.
    """

    layout: Layout
    items: list[np.ndarray]
    place: torch.Tensor
    question: np.ndarray
    run: np.ndarray
    share: np.ndarray

    @property
    def asked(self) -> int:
        """How many different questions there are."""
        return len(np.unique(self.question))


def pack(
    image: np.ndarray,
    run: np.ndarray,
    n_runs: int,
    prefix: int,
    suffix: int,
    max_tokens: int,
    shared: bool = True,
    even: bool = False,
) -> list[PackedRow]:
    """Pack questions, given by image and run, (Q,) each, into as few rows of `max_tokens` as they fill.

    An image whose own questions exceed `max_tokens` has a row to itself. Unless `shared`, every question has an image
    of its own, since an LM that does not share them reads it anew for each.

    `even`, for a GPU: rows of about equal length, which take less memory than full ones and a rest; and in each of them
    all images have equally many questions, those of an image with fewer being repeated. So a row is one bucket, which
    starts fewer kernels, and for which layers are compiled once. Where that would add more than `PADDING`, a new row
    begins.
    """
    keys = np.stack([run, image] if shared else [run, image, np.arange(len(image))])
    pairs, item_of_question, counts = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    # pairs (2 or 3, I): run and image of each item, in (run, image) order; counts (I,): its questions. Sorted by count,
    # items of equally many questions stand side by side and are one bucket of the layout: none is padded to the most.
    order = np.argsort(counts, kind="stable")  # equal counts stay in (run, image) order

    def cut(limit: int) -> list[slice]:
        return _cuts(counts[order], prefix, suffix, limit, even)

    cuts = cut(max_tokens)
    if even and len(cuts) > 1:
        # The shortest rows of which as many are enough.
        limits = range((prefix * len(counts) + suffix * len(image)) // len(cuts), max_tokens)
        fewest = bisect_left(limits, True, key=lambda limit: len(cut(limit)) <= len(cuts))
        cuts = cut(limits.start + fewest)
    return [_row(pairs, item_of_question, counts, order[each], n_runs, prefix, suffix, even) for each in cuts]


def _cuts(counts: np.ndarray, prefix: int, suffix: int, max_tokens: int, even: bool) -> list[slice]:
    """Consecutive items of at most `max_tokens` together, or one that has more; `counts` (I,), rising: questions."""
    cuts, start = [], 0
    while start < len(counts):
        # No later item has fewer tokens than this one, so the row ends among so many items.
        costs = prefix + suffix * counts[start : start + max_tokens // (prefix + suffix * int(counts[start])) + 1]
        tokens = np.cumsum(costs)  # of a row from here up to each item
        fits = tokens <= max_tokens
        if even:
            filled = np.arange(1, len(tokens) + 1) * costs
            fits = (filled <= max_tokens) & (filled <= (1 + PADDING) * tokens)
        stop = start + max(1, len(fits) if fits.all() else int(fits.argmin()))
        cuts.append(slice(start, stop))
        start = stop
    return cuts


def _row(
    pairs: np.ndarray,
    item_of_question: np.ndarray,
    counts: np.ndarray,
    chosen: np.ndarray,
    n_runs: int,
    prefix: int,
    suffix: int,
    even: bool,
) -> PackedRow:
    # `chosen` (I,): this row's items, by count. Buckets (sizes, values): so many items with so many questions each.
    own = counts[chosen]
    values, sizes = np.unique(np.full_like(own, own.max()) if even else own, return_counts=True)
    layout = Layout(tuple(zip(sizes.tolist(), values.tolist(), strict=True)), prefix, suffix)
    listed = np.argsort(pairs[0, chosen], kind="stable")  # run by run
    items = [pairs[1, chosen[listed]][pairs[0, chosen[listed]] == number] for number in range(n_runs)]
    # Features come run by run (`listed`), the row is by count (`chosen`): place[in the row] = in the list.
    place = np.empty(len(chosen), dtype=np.int64)
    place[listed] = np.arange(len(chosen))
    # rank (I,): an item's place in this row; those of other rows come last and are cut off.
    rank = np.full(pairs.shape[1], len(chosen))
    rank[chosen] = np.arange(len(chosen))
    # Questions in the order of their items, those of one item in table order; the layout's Q are this row's.
    by_item = np.argsort(rank[item_of_question], kind="stable")
    question, share = by_item[: own.sum()], np.ones(layout.questions, dtype=np.float32)
    if even:
        # (I, most): an item's questions, from the first again where it has fewer than the most.
        number = np.arange(own.max()) % own[:, None]
        question = question[(np.cumsum(own) - own)[:, None] + number].flatten()
        share = (1 / (own.max() // own[:, None] + (number < own.max() % own[:, None]))).flatten().astype(np.float32)
    return PackedRow(layout, items, torch.from_numpy(place), question, pairs[0, item_of_question[question]], share)
