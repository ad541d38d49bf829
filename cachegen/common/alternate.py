"""Fair timing on a noisy machine: all ways in turn, in one process, compared round by round."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

Ways = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]

TOKENS, WIDTH, INNER = 1024, 1024, 3072  # an MLP product of a 0.6B LM over a packed row
OPERATIONS = 2 * TOKENS * WIDTH * INNER


def alternate(
    ways: Ways, rounds: int, *, wait: Callable[[], None] = lambda: None, advance: Callable[[int], None] = lambda _: None
) -> Seconds:
    """Seconds of each way in each of `rounds` rounds, after one round that warms up.

    `wait` blocks until the device has finished what it was given; `advance(1)` is called after every call.
    """
    seconds: Seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            wait()
            started = time.perf_counter()
            way()
            wait()
            if number:
                seconds[name].append(time.perf_counter() - started)
            advance(1)
    return seconds


def median(seconds: Seconds, way: str) -> float:
    """Median seconds of a way."""
    return statistics.median(seconds[way])


def ratio(seconds: Seconds, slow: str, fast: str) -> float:
    """How many times `fast` is as fast as `slow`: the median of the rounds' own ratios."""
    return statistics.median(one / other for one, other in zip(seconds[slow], seconds[fast], strict=True))


def matrix_products(device: torch.device, dtype: torch.dtype, count: int) -> Callable[[], None]:
    """A function that starts `count` products of `OPERATIONS` floating-point operations each."""
    x = torch.ones(TOKENS, WIDTH, dtype=dtype, device=device)
    weight = torch.ones(WIDTH, INNER, dtype=dtype, device=device)
    out = torch.empty(TOKENS, INNER, dtype=dtype, device=device)

    def products() -> None:
        for _ in range(count):
            torch.matmul(x, weight, out=out)

    return products


def wait_for(device: torch.device) -> Callable[[], None]:
    """A function that returns when the device has done all it was given."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
