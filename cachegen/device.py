"""The device that models run on."""

import torch

from cachegen.errors import ModelError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU. Raises `ModelError`."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"there is no device {name!r}; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {name}: PyTorch finds no CUDA device; use --device cpu, or see `crosstax doctor`")
    return device
