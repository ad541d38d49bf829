"""The device that models run on."""

import os
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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {name}: PyTorch finds no CUDA device; use --device cpu, or see `crosstax doctor`")
    return device


def device_name(device: torch.device) -> str:
    """What timings record of a device: its model and, on a CPU, the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def on_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values in the CPU's memory as a tensor on `device`; copying to a GPU does not block."""
    tensor = torch.as_tensor(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


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
    """All memory of a device in bytes, of a CPU the control group's share of it.

    Not the part that is free now: a sweep planned twice on one machine gets one plan.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total
