"""How fast this device multiplies matrices: the rate that all time estimates start from."""

import time

import torch

TOKENS, WIDTH, INNER = 1024, 1024, 3072  # an MLP product of a 0.6B LM over a packed row
SECONDS = 0.3


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a matrix product in `dtype`, measured in well under a second."""
    x = torch.ones(TOKENS, WIDTH, dtype=dtype, device=device)
    weight = torch.ones(WIDTH, INNER, dtype=dtype, device=device)
    out = x @ weight
    _wait(device)
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        for _ in range(1 if device.type == "cpu" else 100):
            torch.matmul(x, weight, out=out)
            count += 1
        _wait(device)
    return 2 * TOKENS * WIDTH * INNER * count / elapsed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """What a timing log records of the device: its model and, on a CPU, the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
