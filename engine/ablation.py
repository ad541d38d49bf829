"""Random ablation of hypernym questions (paper section 3.1, Table 2), at the level of leaves.

The paper removes sampled (leaf, hypernym) mappings; its counts are those of the release, which removes all
hypernym questions of every leaf sampled for any of its hypernyms. That second rule is the one here.
"""

from collections.abc import Sequence

import numpy as np

from cachegen.rng import generator


def ablated_leaves(percent: int, hypernyms: Sequence[frozenset[str]], data_seed: int) -> np.ndarray:
    """Boolean array over leaves: True where all hypernym questions of the leaf are withheld from training.

    Per hypernym, max(1, int(n * percent / 100)) of its n leaves are sampled, the union is taken. Each
    hypernym's order is drawn once per data seed, so samples are nested across levels. 0 withholds nothing.
    """
    withheld = np.zeros(len(hypernyms), dtype=bool)
    if percent == 0:
        return withheld
    for name in sorted(set().union(*hypernyms)):
        members = np.array([leaf for leaf, own in enumerate(hypernyms) if name in own])
        count = max(1, int(len(members) * (percent / 100)))
        withheld[generator(data_seed, "ablation", name).permutation(members)[:count]] = True
    return withheld
