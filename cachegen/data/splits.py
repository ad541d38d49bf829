"""The 70/5/25 rule of the paper: which images of a leaf train, validate and test."""

import numpy as np

# Ends of training and validation as shares of a leaf's images, rounded down, as in the release.
TRAIN_END, VALIDATION_END = 0.70, 0.75


def draw_split(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count,) split names of a leaf's images in the order of their names, after a shuffle by `rng`."""
    order = rng.permutation(count)
    split = np.full(count, "test", dtype=object)
    split[order[: int(VALIDATION_END * count)]] = "validation"
    split[order[: int(TRAIN_END * count)]] = "train"
    return split
