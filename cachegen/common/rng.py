"""Named random generators: every draw comes from a seed *and* a name.

Adding a draw elsewhere, or taking draws in another order, changes nothing here: the stream of
`generator(7, "negatives")` depends on those two values only. No global random state is used anywhere.
"""

import hashlib

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """64-bit seed of the stream `names` under `seed`; the same on every machine and Python version."""
    text = "\x1f".join(["crosstax", str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """NumPy generator of the stream `names` under `seed`, for example `generator(7, "order", epoch)`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))
