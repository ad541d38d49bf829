"""How fast whole runs go on a device, and what that number rests on."""

from dataclasses import dataclass

import torch

from engine.dry_run import ASSUMED_EFFICIENCY
from engine.rate import device_name, gemm_rate


@dataclass(frozen=True)
class Speed:
    """`products`: operations per second of large matrix products; `efficiency`: the share of it that runs reach.

    `basis` says which of the two were measured, and where.
    """

    device: str
    dtype: str
    products: float
    efficiency: float
    basis: str

    @property
    def flops_per_second(self) -> float:
        return self.products * self.efficiency


def measured_speed(device: torch.device, dtype: str) -> Speed:
    """This device's rate of products, measured now, and the share of it that runs are taken to reach."""
    rate = gemm_rate(device, getattr(torch, dtype))
    return Speed(device_name(device), dtype, rate, ASSUMED_EFFICIENCY, "products measured here, share assumed")


# Dense bfloat16 rates of NVIDIA's data sheets, of which large products reach about four fifths.
DATA_SHEETS = {"RTX 4090": 165e12, "A100": 312e12, "H100 or H200": 989e12}
PRODUCTS_REACH = 0.8

ASSUMED_SPEEDS = tuple(
    Speed(
        name,
        "bfloat16",
        PRODUCTS_REACH * rate,
        ASSUMED_EFFICIENCY,
        f"assumed: {PRODUCTS_REACH * ASSUMED_EFFICIENCY:.0%} of the data sheet's {rate / 1e12:.0f} TFLOP/s",
    )
    for name, rate in DATA_SHEETS.items()
)
