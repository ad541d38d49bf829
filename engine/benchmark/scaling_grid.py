"""Predicted hours of the paper's full grid (preset `grid`) on one device."""

from collections.abc import Sequence
from typing import Any

from engine.benchmark.naive_cost import KNOWN_ENCODERS, naive_cost_of
from engine.benchmark.scaling_curves import IMAGES, SERIES
from engine.benchmark.speed import Speed
from engine.cost import KNOWN_PATCHES, Questions, Sizes, cost_of, text_tokens
from engine.lm_shape import lm_shape
from engine.presets import load_preset
from engine.sweep_file import Wanted, read_sweep, timm_name

DINO = "vit_large_patch14_reg4_dinov2"
FAMILIES = {
    "Qwen/Qwen3-0.6B": "Qwen3-0.6B and 1.7B",
    "Qwen/Qwen3-1.7B": "Qwen3-0.6B and 1.7B",
    "Qwen/Qwen3-8B": "Qwen3-8B",
    "meta-llama/Llama-3.2-1B": "Llama-3.2-1B and Instruct",
    "meta-llama/Llama-3.2-1B-Instruct": "Llama-3.2-1B and Instruct",
}
EXTRACTION = "feature extraction, once"


def grid_flops() -> list[dict[str, Any]]:
    """Operations of each family of runs: `family`, `runs`, how many of them are `known`, and one key of `SERIES` each.

    Questions are counted as published for THINGS; the hypernym swap has no published counts. `images` and `pairs` are
    the engine's orders (the grid asks for pairs). The last row is what the engine needs once for all of them.
    """
    runs = read_sweep(load_preset("grid"))
    rows: dict[str, dict[str, Any]] = {}
    for run in runs:
        row = rows.setdefault(_family(run), {"runs": 0, "known": 0} | dict.fromkeys(SERIES, 0.0))
        row["runs"] += 1
        if flops := run_flops(run):
            row["known"] += 1
            for series in SERIES:
                row[series] += flops[series]
    encoders = {encoder_of(run) for run in runs}
    once = IMAGES * sum(KNOWN_ENCODERS[name].flops for name in encoders)
    rows[EXTRACTION] = {"runs": 0, "known": 0, "images": once, "pairs": once, "naive": 0.0}
    return [{"family": family, **row} for family, row in rows.items()]


def grid_hours(families: Sequence[dict[str, Any]], speeds: Sequence[Speed]) -> list[dict[str, Any]]:
    """Hours of each of `grid_flops` and of their sum ("all") on one device of each speed, with what they rest on."""
    total = {"family": "all"} | {key: sum(row[key] for row in families) for key in ("runs", "known", *SERIES)}
    return [
        {
            "device": speed.device,
            "flops_per_second": speed.flops_per_second,
            "basis": speed.basis,
            **{key: row[key] for key in ("family", "runs", "known")},
            **{series: row[series] / speed.flops_per_second / 3600 for series in SERIES},
        }
        for speed in speeds
        for row in (*families, total)
    ]


def _family(run: Wanted) -> str:
    if run.condition.subset == "swap":
        return "hypernym swap"
    return FAMILIES[run.lm] if encoder_of(run) == DINO else "SigLIP with Qwen3"


def encoder_of(run: Wanted) -> str:
    return timm_name(run.encoder or "")[0]


def run_flops(run: Wanted) -> dict[str, float] | None:
    """Operations of one run, one number for each of `SERIES`; None where its questions are not published."""
    questions, shape = Questions.published(run.condition), lm_shape(run.lm)
    if questions is None or shape is None:
        return None
    sizes = Sizes(shape, *KNOWN_PATCHES[encoder_of(run)], *text_tokens(run.condition))
    orders = {order: run.condition.model_copy(update={"order": order}) for order in ("images", "pairs")}
    naive = naive_cost_of(run.condition, questions, sizes, KNOWN_ENCODERS[encoder_of(run)])
    return {order: cost_of(condition, questions, sizes).flops for order, condition in orders.items()} | {
        "naive": naive.flops
    }
