"""What fits where: row and lockstep group that the engine chooses, LM by LM and device by device."""

from typing import Any

from engine.benchmark.scaling_curves import IMAGES, LMS, base_condition, base_sizes
from engine.plan import GIB, choose_sizes, memory_needs

DEVICES = {"laptop, 16 GB": 16, "laptop, 32 GB": 32, "GPU, 24 GB": 24, "GPU, 80 GB": 80, "GPU, 141 GB": 141}


def memory_table(here: int) -> list[dict[str, Any]]:
    """One row for each device and preset LM, on the images of THINGS; `here`: bytes of this device.

    Keys: device, memory, lm, max_tokens (of a row), group_size (K), bytes `resident` (LM and features), of the `row`
    and of each `run`, and whether all of it `fits`.
    """
    condition, rows = base_condition(), []
    for device, memory in {"this device": here, **{name: size * GIB for name, size in DEVICES.items()}}.items():
        for lm in LMS:
            sizes = base_sizes(lm)
            tokens, together, _ = choose_sizes(memory, condition, IMAGES, sizes)
            resident, token, run = memory_needs(memory, condition, IMAGES, sizes)
            rows.append(
                {
                    "device": device,
                    "memory": memory,
                    "lm": lm,
                    "max_tokens": tokens,
                    "group_size": together,
                    "resident": resident,
                    "row": tokens * token,
                    "run": run,
                    "fits": resident + tokens * token + together * run <= memory,
                }
            )
    return rows
