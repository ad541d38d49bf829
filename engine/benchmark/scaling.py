"""How cost grows, on paper and by measurement: what `crosstax bench --scaling` shows."""

from dataclasses import asdict
from typing import Any

import torch

from engine.benchmark.scaling_curves import curves, ratios
from engine.benchmark.scaling_grid import grid_flops, grid_hours
from engine.benchmark.scaling_measured import measured_scaling
from engine.benchmark.scaling_memory import memory_table
from engine.benchmark.scaling_schedule import grid_schedule
from engine.benchmark.speed import ASSUMED_SPEEDS, Speed


def scaling(here: Speed, memory: int, device: torch.device, rounds: int = 5) -> dict[str, Any]:
    """One JSON-ready object, in about half a minute: nearly all of it for the measured steps.

    `here`: this device's speed, from which the curves' seconds are; `memory`: its bytes. Keys: speed, ratios, curves,
    memory, grid (operations, and hours here and on GPUs whose speed is assumed), schedule (of the grid on many of the
    last of these), measured.
    """
    families = grid_flops()
    return {
        "speed": asdict(here) | {"flops_per_second": here.flops_per_second},
        "ratios": ratios(),
        "curves": curves(here.flops_per_second, memory),
        "memory": memory_table(memory),
        "grid": {"flops": families, "hours": grid_hours(families, (here, *ASSUMED_SPEEDS))},
        "schedule": grid_schedule(ASSUMED_SPEEDS[-1]),
        "measured": measured_scaling(device, getattr(torch, here.dtype), rounds),
    }
