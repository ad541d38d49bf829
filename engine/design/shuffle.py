"""Counterfactual image-label mappings (paper section 3.3, Algorithms 1 and 2).

A map is an integer array `image_of_label` over the sorted leaves: the images of leaf `image_of_label[i]`
carry the label of leaf `i`. It is always a bijection; the inverse gives each image leaf its label leaf.
"""

from collections.abc import Sequence

import numpy as np

from cachegen.common.errors import ConditionError

Groups = list[np.ndarray]


def shuffle_map(
    kind: str, rule: str, hypernyms: Sequence[frozenset[str]], rng: np.random.Generator, shuffled: int = 100
) -> np.ndarray:
    """Map of one condition.

    `hypernyms[i]` is the hypernym set of leaf `i`; `kind` is original, across or within; `rule` is
    `paper` or `disjoint` for across, `paper`, `deranged` or `release` for within. `shuffled` is the percentage of
    leaves that an across shuffle moves among themselves; the leaves of a smaller dose are among those of a larger one.
    Raises `ConditionError` where no such map exists.
    """
    n = len(hypernyms)
    image_of_label = np.arange(n)
    if kind == "original":
        return image_of_label
    if kind == "across":
        moved = image_of_label if shuffled == 100 else _even_order(hypernyms, rng)[: round(n * shuffled / 100)]
        if rule == "paper":
            image_of_label[moved] = rng.permutation(moved)
        elif len(moved):
            image_of_label[moved] = moved[_disjoint([hypernyms[int(leaf)] for leaf in moved], rng)]
        return image_of_label
    groups = _release_groups(hypernyms) if rule == "release" else _groups(hypernyms)
    for group in groups:
        image_of_label[group] = rng.permutation(group) if rule == "paper" else _derangement(group, rng)
    return image_of_label


def _even_order(hypernyms: Sequence[frozenset[str]], rng: np.random.Generator) -> np.ndarray:
    """All leaves in a random order of which every beginning has about the same share of each hypernym set.

    So a small dose touches all categories alike, and leaves of another category are at hand to exchange with.
    """
    place = np.empty(len(hypernyms))
    for group in _groups(hypernyms):
        # The group's leaves lie evenly in [0, 1), one in each of its equal steps, at a random point of that step.
        place[rng.permutation(group)] = (np.arange(len(group)) + rng.random(len(group))) / len(group)
    return np.argsort(place, kind="stable")


def _groups(hypernyms: Sequence[frozenset[str]]) -> Groups:
    """Leaves with exactly the same hypernym set, in leaf order."""
    members: dict[frozenset[str], list[int]] = {}
    for leaf, own in enumerate(hypernyms):
        members.setdefault(own, []).append(leaf)
    return [np.array(group) for group in members.values()]


def _release_groups(hypernyms: Sequence[frozenset[str]]) -> Groups:
    """The release's groups: a leaf alone joins the most specific larger group whose set is a subset of its own.

    Leaves still alone form one group of their own.
    """
    groups = _groups(hypernyms)
    larger = {hypernyms[g[0]]: list(g) for g in groups if len(g) > 1}
    home = dict(larger)
    orphans: list[int] = []
    for (leaf,) in (g for g in groups if len(g) == 1):
        fitting = [own for own in home if own < hypernyms[leaf]]
        if fitting:
            larger[max(fitting, key=lambda own: (len(own), sorted(own)))].append(leaf)
        else:
            orphans.append(int(leaf))
    return [np.array(sorted(g)) for g in [*larger.values(), orphans] if g]


def _derangement(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uniform permutation of `group` without fixed points; a single leaf stays where it is."""
    if len(group) == 1:
        return group
    while True:
        drawn = rng.permutation(group)
        if not (drawn == group).any():
            return drawn


def _disjoint(hypernyms: Sequence[frozenset[str]], rng: np.random.Generator) -> np.ndarray:
    """Permutation in which no leaf takes the images of a leaf that shares a hypernym with it.

    Starts from a uniform permutation and swaps offenders with random partners until none is left.
    """
    names = sorted(set().union(*hypernyms))
    has = np.array([[name in own for name in names] for own in hypernyms], dtype=np.float32)  # (L, H)
    clash = (has @ has.T) > 0  # (L, L): the two leaves share a hypernym
    labels = np.arange(len(hypernyms))
    image_of_label = rng.permutation(len(hypernyms))
    for _ in range(1000):
        offenders = np.flatnonzero(clash[labels, image_of_label])
        if not len(offenders):
            return image_of_label
        for label in offenders:
            # Partners for which the swap leaves both sides without a clash; else any, to leave a dead end.
            fits = ~clash[label, image_of_label] & ~clash[labels, image_of_label[label]]
            partner = rng.choice(np.flatnonzero(fits)) if fits.any() else rng.integers(len(labels))
            image_of_label[[label, partner]] = image_of_label[[partner, label]]
    raise ConditionError(
        "across_rule = 'disjoint': found no permutation in which every leaf takes images of another hypernym; "
        "one hypernym covers about half of the leaves to shuffle or more, use across_rule = 'paper' (or another "
        "share of shuffled leaves)"
    )
