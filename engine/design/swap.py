"""The hypernym-level swap (the paper's toy experiment): leaf labels exchanged between pairs of hypernyms.

Leaves are sampled from each of a few hypernyms, paired so that both sides are about equally coherent, and the labels
of one take the images of the other. Only these leaves and hypernyms are asked about; the control is the same data
without the exchange.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from cachegen.common.errors import ConditionError
from cachegen.common.rng import generator
from engine.design.condition import Condition
from engine.design.published import SWAP_PAIRS

MOST_PAIRS = len(SWAP_PAIRS)
LARGEST_DIFFERENCE = 0.02  # in visual coherence, between the two hypernyms of a pair


@dataclass(frozen=True)
class SwapSample:
    """Pairs of hypernym columns, and the sampled leaf numbers of each hypernym column, in drawn order."""

    pairs: tuple[tuple[int, int], ...]
    leaves: dict[int, np.ndarray]

    def image_of_label(self, n_leaves: int) -> np.ndarray:
        """The exchange as a map over all leaves (see `engine.design.shuffle`); leaves outside the sample stay."""
        image_of_label = np.arange(n_leaves)
        for one, other in self.pairs:
            image_of_label[self.leaves[one]] = self.leaves[other]
            image_of_label[self.leaves[other]] = self.leaves[one]
        return image_of_label


def sample_swap(
    condition: Condition,
    members: np.ndarray,
    hypernyms: Sequence[str],
    image_leaf: np.ndarray,
    pooled: np.ndarray | None,
) -> SwapSample:
    """Hypernyms, pairs and leaves of the swap.

    `members` (L, H) bool; `image_leaf` (I,) and `pooled` (I, V): leaf and pooled features of each *training* image,
    needed where pairs are chosen by coherence. Leaves true of two of the chosen hypernyms are not sampled, save for
    the published pairs where a hypernym has too few others (medical equipment and school supply have 19), as in the
    release. Raises `ConditionError` if no pair is possible.
    """
    orders = {
        column: generator(condition.data_seed, "swap", name).permutation(np.flatnonzero(members[:, column]))
        for column, name in enumerate(hypernyms)
    }

    def sample(pairs: Sequence[tuple[int, int]], shared: bool = False) -> SwapSample | None:
        chosen = np.array([column for pair in pairs for column in pair])
        times = members[:, chosen].sum(axis=1)  # (L,): how many of the chosen hypernyms each leaf is true of
        leaves: dict[int, np.ndarray] = {}
        used = np.zeros(len(members), dtype=bool)
        # Hypernyms with the fewest leaves of their own choose first, before others take the leaves they share.
        for column in chosen[np.argsort((members[:, chosen] & (times == 1)[:, None]).sum(axis=0), kind="stable")]:
            order = orders[int(column)]
            preferred = [order[times[order] == 1], order[(times[order] > 1) & ~used[order]] if shared else order[:0]]
            leaves[int(column)] = np.concatenate(preferred)[: condition.swap_leaves]
            used[leaves[int(column)]] = True
        if min(map(len, leaves.values())) < condition.swap_leaves:
            return None
        return SwapSample(tuple(pairs), leaves)

    if condition.swap_rule == "published":
        return _published(partial(sample, shared=True), hypernyms, condition.swap_leaves)
    if pooled is None:
        raise ConditionError(
            "swap_rule = 'coherence' needs pooled features; give a feature store or use swap_rule = 'published'"
        )
    return _by_coherence(sample, _Coherence(pooled, image_leaf, len(members)), members, condition.swap_leaves)


def _published(
    sample: Callable[[Sequence[tuple[int, int]]], SwapSample | None], hypernyms: Sequence[str], count: int
) -> SwapSample:
    missing = sorted({name for pair in SWAP_PAIRS for name in pair} - set(hypernyms))
    if missing:
        raise ConditionError(
            f"swap_rule = 'published' names the hypernym {missing[0]!r}, which this dataset lacks; use 'coherence'"
        )
    found = sample([(hypernyms.index(one), hypernyms.index(other)) for one, other in SWAP_PAIRS])
    if found is None:
        raise ConditionError(f"a hypernym of the published swap has fewer than {count} leaves; lower swap_leaves")
    return found


def _by_coherence(
    sample: Callable[[Sequence[tuple[int, int]]], SwapSample | None],
    coherence: "_Coherence",
    members: np.ndarray,
    count: int,
) -> SwapSample:
    """Greedily the pairs of most similar coherence, as long as enough leaves are left to each hypernym."""
    large = [column for column in range(members.shape[1]) if members[:, column].sum() >= count]
    alone = {pair: sample([pair]) for pair in combinations(large, 2)}
    candidates = sorted((coherence.difference(pair, found), pair) for pair, found in alone.items() if found is not None)
    best: SwapSample | None = None
    for _, pair in candidates:
        chosen = best.pairs if best is not None else ()
        if len(chosen) == MOST_PAIRS or any(column in other for other in chosen for column in pair):
            continue
        found = sample([*chosen, pair])
        if found is not None and all(coherence.difference(p, found) < LARGEST_DIFFERENCE for p in found.pairs):
            best = found
    if best is None:
        raise ConditionError(
            f"no two hypernyms have {count} leaves of their own and a coherence within {LARGEST_DIFFERENCE}; "
            "lower swap_leaves"
        )
    return best


class _Coherence:
    """Mean pairwise cosine similarity of the training images of a set of leaves, from sums per leaf."""

    def __init__(self, pooled: np.ndarray, image_leaf: np.ndarray, n_leaves: int) -> None:
        length = np.linalg.norm(pooled.astype(float), axis=1)
        readable = length > 0  # an unreadable image has no features
        # (L, V): a set's sum is that of its leaves, so candidates cost nothing in the number of images.
        self._sums = np.zeros((n_leaves, pooled.shape[1]))
        np.add.at(self._sums, image_leaf[readable], pooled[readable] / length[readable, None])
        self._counts = np.bincount(image_leaf[readable], minlength=n_leaves)

    def of(self, leaves: np.ndarray) -> float:
        # |sum u|^2 counts every pair of the n unit vectors twice, and each vector with itself.
        n = self._counts[leaves].sum()
        return float((np.square(self._sums[leaves].sum(axis=0)).sum() - n) / (n * (n - 1)))

    def difference(self, pair: tuple[int, int], sample: SwapSample) -> float:
        return abs(self.of(sample.leaves[pair[0]]) - self.of(sample.leaves[pair[1]]))
