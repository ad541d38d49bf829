"""Parts of a feature store: which rows a task of several writes; `RowLocks` keeps them apart."""

from cachegen.common.errors import StoreError

Part = tuple[int, int]
"""(i, n): the i-th of n parts, from 1."""


def parse_part(text: str) -> Part:
    """The part that "2/8" names. Raises `StoreError` unless it is I/N with 1 <= I <= N."""
    words = text.split("/")
    if len(words) == 2 and all(word.isascii() and word.isdigit() for word in words):
        i, n = map(int, words)
        if 1 <= i <= n:
            return i, n
    raise StoreError(f"part {text}: write I/N with I from 1 to N, for example 2/8")


def part_rows(images: int, batch: int, part: Part | None) -> range:
    """Rows of a part: contiguous, disjoint, and whole blocks of `batch`, so that parts encode the same blocks as one.

    Empty where there are more parts than blocks. None is the part of all rows.
    """
    i, n = part or (1, 1)
    blocks = -(-images // batch)
    return range(blocks * (i - 1) // n * batch, min(blocks * i // n * batch, images))
