"""Real optimizer steps of the engine on a reduced LM against the operations that the cost model counts for them.

If the model is right, seconds are one line over operations, seconds = start + operations / rate, whichever way a step
grows: more images, more questions of an image, or more runs side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import Qwen3Config

from cachegen.random_init import random_init_lm
from engine.benchmark.alternate import alternate
from engine.benchmark.own import Engine
from engine.benchmark.work import Work
from engine.condition import Condition
from engine.cost import Questions, Sizes, cost_of
from engine.language_model import FrozenLM
from engine.lm_shape import shape_of_config
from engine.projector import new_projector
from engine.rate import wait_for

VOCABULARY, HEAD, SUFFIX = 4_096, 128, 16
MULTIPLES = (1, 2, 4, 8)  # of the smallest step


@dataclass(frozen=True)
class Reduced:
    """Sizes of the measurement: a Qwen3 of this width and depth, patches of an image, images of the smallest step."""

    width: int
    layers: int
    patches: int
    images: int


# Small enough for a minute on one core; on a GPU large enough that products, not launches, take the time.
REDUCED = {"cpu": Reduced(256, 4, 64, 4), "cuda": Reduced(1024, 8, 256, 16)}


@dataclass(frozen=True)
class _Point:
    """A step: `runs` side by side, each with `images` images of `questions` questions."""

    images: int
    questions: int
    runs: int


def measured_scaling(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> dict[str, Any]:
    """Seconds of steps (forward, backward, optimizer) that grow along one axis at a time, and their fit.

    A step's time is its shortest of `rounds`: what else the machine does adds to a time and never takes from it.

    Keys: `points` (axis, x, flops, tokens, seconds, deviation: seconds over the fit's, less 1), `start` (seconds),
    `flops_per_second` (of the fit over all points, least in relative deviations), `exponents` (axis -> slope of log
    seconds over log operations; 1: time grows as the cost model says), and the sizes of the LM.
    """
    reduced = REDUCED[device.type]
    base = _Point(reduced.images, 2, 1)
    axes = {
        "images": [(base.images * by, _Point(base.images * by, 2, 1)) for by in MULTIPLES],
        "questions": [(2 * by, _Point(base.images, 2 * by, 1)) for by in MULTIPLES],
        "runs": [(by, _Point(base.images, 2, by)) for by in MULTIPLES],
    }
    different = dict.fromkeys(point for points in axes.values() for _, point in points)
    lm = FrozenLM.wrap(random_init_lm(_config(reduced), 0).to(dtype), None, device)
    ways = {str(point): _step(lm, reduced, point) for point in different}
    seconds = alternate(ways, rounds, wait=wait_for(device))
    time = {point: min(seconds[str(point)]) for point in different}
    work = {point: _work(reduced, point) for point in different}
    start, per_flop = _line([work[point][1] for point in different], list(time.values()))
    rows = [
        {
            "axis": axis,
            "x": x,
            "flops": work[point][1],
            "tokens": work[point][0],
            "seconds": time[point],
            "deviation": time[point] / (start + per_flop * work[point][1]) - 1,
        }
        for axis, points in axes.items()
        for x, point in points
    ]
    return {
        "lm": {"width": reduced.width, "layers": reduced.layers, "patches": reduced.patches},
        "points": rows,
        "start": start,
        "flops_per_second": 1 / per_flop,
        "exponents": {axis: _exponent([row for row in rows if row["axis"] == axis]) for axis in axes},
    }


def _line(flops: list[float], seconds: list[float]) -> tuple[float, float]:
    """(start, seconds per operation), neither negative, with the least squares of relative deviations."""
    each = np.array([[1 / s, f / s] for f, s in zip(flops, seconds, strict=True)])
    scale = each.max(0)  # both columns near 1
    (start, slope), _ = nnls(each / scale, np.ones(len(each)))
    return float(start / scale[0]), float(slope / scale[1])


def _exponent(rows: list[dict[str, Any]]) -> float:
    x, y = (np.log([row[name] for row in rows]) for name in ("flops", "seconds"))
    return float(np.polyfit(x, y, 1)[0])


def _work(reduced: Reduced, point: _Point) -> tuple[float, float]:
    """Tokens and operations of a step, as the cost model counts them."""
    asked = point.images * point.questions
    condition = Condition.model_validate({"order": "images", "epochs": 1, "batch": asked})
    sizes = Sizes(shape_of_config(_config(reduced).to_dict()), reduced.patches, reduced.width, 0, SUFFIX)
    cost = cost_of(condition, Questions(asked, point.images, 0, 0), sizes)
    return point.runs * cost.train_tokens, point.runs * cost.train_flops


def _step(lm: FrozenLM, reduced: Reduced, point: _Point) -> Callable[[], None]:
    """One optimizer step of a lockstep group on random features and questions."""
    counts, width = (point.questions,) * point.images, reduced.width
    work = Work.draw(counts, 1, reduced.patches, width, SUFFIX, VOCABULARY, lm.device, lm.dtype)
    projectors = [new_projector((width, lm.width), lm.dtype, n, None, None).to(lm.device) for n in range(point.runs)]
    engine = Engine(lm, projectors, max_tokens=1 << 30)
    return lambda: engine.train(work)


def _config(reduced: Reduced) -> Qwen3Config:
    """Proportions of Qwen3-0.6B: queries of twice the width, keys of the width, an MLP of three times the width."""
    w = reduced.width
    return Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=w, intermediate_size=3 * w, num_hidden_layers=reduced.layers,
        num_attention_heads=2 * w // HEAD, num_key_value_heads=w // HEAD, head_dim=HEAD, max_position_embeddings=1024,
        tie_word_embeddings=True,
    )  # fmt: skip
