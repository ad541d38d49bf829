"""Full matrices of cases of which the normal run takes a few."""

import pytest


def few(values, *normal):
    """The values as parameters; those that are not in `normal` are for `-m slow`."""
    assert set(normal) <= set(values)
    cells = [(value, value if isinstance(value, tuple) else (value,)) for value in values]
    return [pytest.param(*cell, marks=() if value in normal else pytest.mark.slow) for value, cell in cells]
