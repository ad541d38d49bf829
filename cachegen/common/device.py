"""The device that models run on."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cachegen.common.errors import ModelError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU. Raises `ModelError`."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"there is no device {name!r}; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise ModelError(f"device {name!r} is not used here; use auto, cpu or cuda")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ModelError(f"device {name}: PyTorch finds no CUDA device; use --device cpu, or see `crosstax doctor`")
        if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ):
            # Rows differ in length: without it, memory that was freed fits none of the later ones.
            os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        if (device.index or 0) >= torch.cuda.device_count():
            raise ModelError(f"device {name}: PyTorch finds {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
        if device.index is not None:
            torch.cuda.set_device(device)  # else events, waits and pinned memory were those of cuda:0
    return device


def keeps_bytes(device: torch.device) -> bool:
    """Whether equal work gives equal bytes there. On a GPU kernels add in an order that nothing here fixes."""
    return device.type == "cpu"


def visible_gpus(device: str) -> list[str]:
    """The GPUs that `device` may mean, as `CUDA_VISIBLE_DEVICES` names them."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def workers_each(device: str, workers: int) -> int:
    """How many of `workers` processes share one GPU; 1 on a CPU."""
    if choose_device(device).type == "cpu":
        return 1
    return max(1, -(-workers // max(1, len(visible_gpus(device)))))


def device_name(device: torch.device) -> str:
    """What timings record of a device: its model and, on a CPU, the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def on_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values in the CPU's memory as a tensor on `device`; copying to a GPU does not block."""
    tensor = torch.as_tensor(values)
    if device.type == "cpu":
        return tensor
    # A thread begins with cuda:0 as its own, where pinning would take memory.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return tensor.pin_memory().to(device, non_blocking=True)


def best_dtype(device: torch.device) -> tuple[Literal["float32", "bfloat16"], str]:
    """The faster precision of large models there, bfloat16 where it is native, and why."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "native on this GPU"
        return "float32", "this GPU has no native bfloat16"
    if torch.cpu._is_amx_tile_supported():
        return "bfloat16", "this CPU has AMX"
    if torch.cpu._is_avx512_bf16_supported():
        return "bfloat16", "this CPU has AVX512-BF16"
    return "float32", "this CPU has no bfloat16 arithmetic"


def emulated(device: torch.device, dtype: str) -> str:
    """What to do where `device` only emulates that precision, hundreds of times slower; "" where it does not."""
    best, why = best_dtype(device)
    if device.type == "cpu" and dtype != best and dtype == "bfloat16":
        return f"{why}, so bfloat16 is emulated, hundreds of times slower; use --set dtype=auto"
    return ""


def device_memory(device: torch.device) -> int:
    """All memory of a device in bytes: of a CPU the control group's share of it, of a GPU what this process may take.

    Not the part that is free now: a sweep planned twice on one machine gets one plan.
    """
    if device.type == "cuda":
        share = torch.cuda.get_per_process_memory_fraction(device)
        return int(share * torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total
