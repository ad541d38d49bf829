"""Everything `crosstax bench` measures, as one JSON-ready object."""

from typing import Any

import torch

from cachegen.common.device import device_name, keeps_bytes
from engine.benchmark.compare import Setting, compare_ways
from engine.benchmark.lockstep import lockstep


def bench(setting: Setting, depths: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Keys: device, dtype, threads, compiled, lm, ablation, what `compare_ways` gives, and lockstep (by LM)."""
    dtype, device, rounds = setting.dtype, setting.device, setting.rounds
    small = {"tiny": lockstep("tiny", torch.float32, device, 3 * rounds)}
    return {
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "compiled": setting.compiled and not keeps_bytes(device),
        "lm": setting.lm,
        "ablation": setting.ablation,
        **compare_ways(setting, depths),
        "lockstep": small if setting.lm == "tiny" else small | {setting.lm: lockstep(setting.lm, dtype, device, 1)},
    }


def bench_text(result: dict[str, Any]) -> str:
    """The same as a few small tables for people."""
    lines = [
        f"{result['device']}, {result['dtype']}: matrix products run at {result['gemm_tflops']:.3g} TFLOP/s",
        f"LM {result['lm']}, {result['layers']} layers{', compiled in the engine' if result['compiled'] else ''}"
        + (f", on the line through {' and '.join(result['depths'])} layers" if result["extrapolated"] else ""),
    ]
    for stage, name in (("train", f"training, {result['ablation']} % ablation"), ("eval", "evaluation")):
        part = result[stage]
        lines += ["", f"{name}: seconds per image with all its questions"]
        for way, words in WAYS.items():
            if way in part:
                gain = f"{part[way] / part['engine']:6.2f}x" if way != "engine" else ""
                lines.append(f"  {words:<58}{part[way]:9.4f} {gain}")
        lines.append(
            f"  {part['ratio']:.2f} times as fast as the naive loop, which computes {part['flop_ratio']:.2f} times as "
            f"much; share of the rate of products: engine {part['mfu']:.2f}, naive loop {part['mfu_naive']:.2f}"
        )
    for curve in result["lockstep"].values():
        lines += ["", f"lockstep, LM {curve['lm']}, {curve['layers']} layers: milliseconds of a step per run"]
        lines.append(f"  {'images a step':<16}{'K':>3}{'engine':>10}{'products':>10}{'of floor':>10}{'over K = 1':>12}")
        for images in (key for key in curve if key.isdigit()):
            lines += [
                f"  {images:<16}{runs:>3}{1e3 * row['seconds']:10.2f}{1e3 * row['floor']:10.2f}"
                f"{row['of_floor']:10.2f}{row['gain']:11.2f}x"
                for runs, row in curve[images].items()
            ]
    return "\n".join(lines)


WAYS = {
    "naive": "naive loop, image encoded for every question",
    "cached": "naive loop, cached features",
    "kept": "the same, and the head at the last position only",
    "masked": "an image's questions in one sequence, 4-D mask",
    "one_by_one": "naive loop, one question at a time",
    "engine_pairs": "engine, order pairs (no image twice in a step)",
    "engine": "engine, order images",
}
