"""Simulation of the paper's full grid on many GPUs: which group runs where, and when the last one ends.

List scheduling: a GPU that is free takes the next group. A group's time is its runs' operations at the device's rate,
and what every group needs before its first step. What of this is assumed is said in the result.
"""

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.benchmark.scaling_curves import IMAGES, base_sizes
from engine.benchmark.scaling_grid import encoder_of, run_flops
from engine.benchmark.speed import Speed
from engine.cost import KNOWN_PATCHES, Sizes, store_bytes
from engine.plan import GIB, choose_sizes
from engine.presets import load_preset
from engine.sweep_file import Wanted, read_sweep

GPUS = (1, 8, 64, 512)
GROUP_SIZES = (16, 8, 4, 2, 1)
MEMORY = 80 * GIB  # of an H100; an H200 has more, which moves no group of the grid's LMs
START = 30.0  # seconds until a process has imported what it needs; the most that `crosstax bench --scheduling` showed
READ = 1e9  # bytes a second at which a group reads its LM and features


@dataclass(frozen=True)
class _Group:
    """Seconds of a group's runs, and seconds until its first step."""

    work: float
    start: float

    @property
    def seconds(self) -> float:
        return self.work + self.start


def grid_schedule(speed: Speed, start: float = START) -> dict[str, Any]:
    """Hours of the grid for each of `GPUS` and most runs in a group, with `assumed`: on what they rest.

    Keys of each of `rows`: group_size, groups, gpus, hours (longest group first), hours_plan (in the plan's order),
    bound (hours that no order can beat), used (share of the GPUs' time that is runs' work) and start (hours of all
    GPUs that pass before first steps). `best`: for each number of GPUs the group size with the fewest hours.
    """
    runs = read_sweep(load_preset("grid"))
    seconds, unknown = _seconds(runs, speed.flops_per_second)
    rows = []
    for size in GROUP_SIZES:
        groups = _cut(runs, seconds, size, start)
        rows += [{"group_size": size, **_row(groups, gpus)} for gpus in GPUS]
    return {
        "device": asdict(speed) | {"flops_per_second": speed.flops_per_second},
        "runs": len(runs),
        "rows": rows,
        "best": {
            str(gpus): min((row for row in rows if row["gpus"] == gpus), key=lambda row: row["hours"])["group_size"]
            for gpus in GPUS
        },
        "assumed": [
            f"{speed.device}: {speed.basis}",
            "the same rate in groups of every size",
            f"{start:g} s until a group's process has imported what it needs, its LM and features read at "
            f"{READ / 1e9:g} GB/s, by each group anew",
            f"{unknown} runs of the hypernym swap, whose questions are not published, cost as much as the mean of "
            "their LM's other runs",
            f"{MEMORY / GIB:.0f} GiB of memory on each GPU; features are extracted before",
        ],
    }


def makespan(seconds: Sequence[float], gpus: int) -> float:
    """When the last of `seconds` ends, if each, in this order, is taken by the GPU that is free first."""
    free = [0.0] * gpus
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def _row(groups: Sequence[_Group], gpus: int) -> dict[str, float]:
    seconds = [group.seconds for group in groups]
    longest_first = makespan(sorted(seconds, reverse=True), gpus)
    return {
        "groups": len(groups),
        "gpus": gpus,
        "hours": longest_first / 3600,
        "hours_plan": makespan(seconds, gpus) / 3600,
        "bound": max(max(seconds), sum(seconds) / gpus) / 3600,
        "used": sum(group.work for group in groups) / (gpus * longest_first),
        "start": sum(group.start for group in groups) / 3600,
    }


def _seconds(runs: Sequence[Wanted], rate: float) -> tuple[list[float], int]:
    """Seconds of each run in the order of batches that it asks for, and how many are the mean of others."""
    flops = [found[run.condition.order] if (found := run_flops(run)) else None for run in runs]
    seconds = []
    for run, known in zip(runs, flops, strict=True):
        alike = [each for other, each in zip(runs, flops, strict=True) if each is not None and other.lm == run.lm]
        seconds.append((known if known is not None else float(np.mean(alike))) / rate)
    return seconds, flops.count(None)


def _cut(runs: Sequence[Wanted], seconds: Sequence[float], size: int, start: float) -> list[_Group]:
    """Groups in the plan's order, LM by LM, of runs that may train together: at most `size`, and what memory holds."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, run in enumerate(runs):
        c = run.condition
        weights = (run.lm, c.dtype, c.lm_seed if c.lm_init == "random" else None)
        alike.setdefault((weights, run.encoder, c.template, c.loss, c.supervise), []).append(number)
    lms = list(dict.fromkeys(weights for weights, *_ in alike))
    groups = []
    for key in sorted(alike, key=lambda key: lms.index(key[0])):
        numbers, run = alike[key], runs[alike[key][0]]
        base = base_sizes(run.lm)
        sizes = Sizes(base.lm, *KNOWN_PATCHES[encoder_of(run)], base.prefix, base.suffix)
        together = min(size, choose_sizes(MEMORY, run.condition, IMAGES, sizes)[1])
        value = 2 if run.condition.dtype == "bfloat16" else 4
        read = value * sizes.lm.weights + store_bytes(IMAGES, sizes.patches, sizes.width)
        for part in np.array_split(numbers, -(-len(numbers) // together)):
            groups.append(_Group(sum(seconds[number] for number in part), start + read / READ))
    return groups
