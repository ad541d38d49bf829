"""How fast this device multiplies matrices: the rate that all time estimates start from."""

import time
from collections.abc import Callable

import torch

TOKENS, WIDTH, INNER = 1024, 1024, 3072  # an MLP product of a 0.6B LM over a packed row
OPERATIONS = 2 * TOKENS * WIDTH * INNER
SECONDS = 0.3


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a matrix product in `dtype`, measured in about a second."""
    wait = wait_for(device)
    # A precision that a CPU lacks is emulated at a thousandth of its speed: begin with fewer tokens.
    for tokens in (TOKENS // 64, TOKENS // 8, TOKENS) if device.type == "cpu" else (TOKENS,):
        product = matrix_product(device, dtype, tokens)
        started = time.perf_counter()
        product()
        wait()
        if time.perf_counter() - started > SECONDS:
            return OPERATIONS * tokens / TOKENS / (time.perf_counter() - started)
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        for _ in range(1 if device.type == "cpu" else 100):
            product()
            count += 1
        wait()
    return OPERATIONS * count / elapsed


def matrix_product(device: torch.device, dtype: torch.dtype, tokens: int = TOKENS) -> Callable[[], None]:
    """A function that starts one product of `OPERATIONS` floating-point operations, of fewer with fewer `tokens`."""
    x = torch.ones(tokens, WIDTH, dtype=dtype, device=device)
    weight = torch.ones(WIDTH, INNER, dtype=dtype, device=device)
    out = torch.empty(tokens, INNER, dtype=dtype, device=device)

    def product() -> None:
        torch.matmul(x, weight, out=out)

    return product


def wait_for(device: torch.device) -> Callable[[], None]:
    """A function that returns when the device has done all it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def device_name(device: torch.device) -> str:
    """What a timing log records of the device: its model and, on a CPU, the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
