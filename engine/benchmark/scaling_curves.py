"""Cost on paper along one axis at a time, the engine's two orders beside the naive loop.

From operations (engine/cost.py, engine/benchmark/naive_cost.py) at the proportions of the paper's THINGS set. The
engine extracts all features once, which its curves contain; the naive loop encodes an image for every question. All are
given one rate, so that they differ by their operations alone.
"""

from collections.abc import Sequence
from typing import Any

from engine.benchmark.naive_cost import KNOWN_ENCODERS, naive_cost_of
from engine.condition import Condition
from engine.cost import (
    KNOWN_PATCHES,
    THINGS_EVALUATED,
    THINGS_IMAGES,
    THINGS_TRAINED,
    Questions,
    Sizes,
    cost_of,
    text_tokens,
)
from engine.lm_shape import lm_shape
from engine.plan import choose_sizes
from engine.sweep_file import default_fields

ENCODER = "vit_large_patch14_reg4_dinov2"
LM = "Qwen/Qwen3-0.6B"
LMS = (LM, "meta-llama/Llama-3.2-1B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B")
SERIES = ("images", "pairs", "naive")  # the engine's two orders, and the loop without an order to profit from

IMAGES, FOLDERS = sum(THINGS_IMAGES.values()), 1_222  # a folder is a leaf
TRAIN_SHARE = THINGS_IMAGES["train"] / IMAGES
TRAINED = {ablation: asked / THINGS_IMAGES["train"] for ablation, asked in THINGS_TRAINED["random"].items()}
EVALUATED = THINGS_EVALUATED / (IMAGES - THINGS_IMAGES["train"])
THINGS_TEST = 9_394 + 15_702  # of THINGS_EVALUATED

FACTORS = (1 / 16, 1 / 4, 1, 4, 16)
QUESTIONS = (1, 2, 4, 8, 16, 32)
RUNS = (1, 4, 16, 64, 256)


def base_condition() -> Condition:
    """The release's settings."""
    return Condition.model_validate(default_fields("release"))


def base_sizes(lm: str) -> Sizes:
    """Sizes of a preset's LM behind DINOv2-L at 224 px. Raises `KeyError` for another LM."""
    shape = lm_shape(lm)
    if shape is None:
        raise KeyError(lm)
    return Sizes(shape, *KNOWN_PATCHES[ENCODER], *text_tokens(base_condition()))


def curves(flops_per_second: float, memory: int) -> dict[str, Any]:
    """Axis -> its `label`, what is `fixed`, and for each of `SERIES` rows of x, flops, tokens and seconds.

    `memory`: bytes of the device, from which the size of lockstep groups is chosen. Rows of `runs` also say how many
    times an LM is loaded, rows of `lm` which it is.
    """
    base, whole = base_sizes(LM), _asked(IMAGES, TRAINED[100], EVALUATED)
    _, together, _ = choose_sizes(memory, base_condition(), IMAGES, base)
    models = sorted(((lm, base_sizes(lm)) for lm in LMS), key=lambda model: model[1].lm.weights)

    def rows(points: Sequence[tuple[int, int, Questions, int, Sizes]], series: str) -> list[dict[str, Any]]:
        return [
            {"x": x, **_totals(series, images, asked, runs, sizes, flops_per_second)}
            for x, images, asked, runs, sizes in points
        ]

    by_images = [round(IMAGES * factor) for factor in FACTORS]
    by_leaves = [(round(FOLDERS * factor), round(IMAGES * factor)) for factor in FACTORS]
    axes = {
        "images": (
            "images",
            f"one run, {TRAINED[100]:.1f} questions of an image in training, {EVALUATED:.1f} in evaluation",
            [(n, n, _asked(n, TRAINED[100], EVALUATED), 1, base) for n in by_images],
        ),
        "questions": (
            "questions of an image",
            f"one run on {IMAGES:,} images, training and evaluation alike",
            [(q, IMAGES, _asked(IMAGES, q, q), 1, base) for q in QUESTIONS],
        ),
        "leaves": (
            "leaves",
            f"one run at 10 % ablation: {IMAGES / FOLDERS:.0f} images of a leaf, {TRAINED[10]:.1f} questions of an "
            f"image in training, {EVALUATED:.1f} in evaluation",
            [(leaves, n, _asked(n, TRAINED[10], EVALUATED), 1, base) for leaves, n in by_leaves],
        ),
        "runs": (
            "runs",
            f"on {IMAGES:,} images at 100 % ablation; runs share the features and, {together} at a time, the LM",
            [(runs, IMAGES, whole, runs, base) for runs in RUNS],
        ),
        "lm": (
            "weights of the LM",
            f"one run on {IMAGES:,} images at 100 % ablation",
            [(sizes.lm.weights, IMAGES, whole, 1, sizes) for _, sizes in models],
        ),
    }
    result: dict[str, Any] = {
        axis: {"label": label, "fixed": fixed} | {series: rows(points, series) for series in SERIES}
        for axis, (label, fixed, points) in axes.items()
    }
    for series in SERIES:
        for row in result["runs"][series]:
            row["lm_loads"] = row["x"] if series == "naive" else -(-row["x"] // together)
        for row, (lm, _) in zip(result["lm"][series], models, strict=True):
            row["lm"] = lm
    return result


def ratios() -> list[dict[str, Any]]:
    """Operations of the naive loop over the engine's, for an image with all its questions, once encoded.

    Rows: `of`, `questions` of an image, `order` of the engine, `ratio`, and `cached`, to a naive loop with features.
    """
    train = THINGS_IMAGES["train"]
    cases = [
        (f"training, {ablation} % ablation", "train_flops", THINGS_TRAINED["random"][ablation], train, order)
        for ablation in (100, 10)
        for order in ("images", "pairs")
    ]
    cases.append(("evaluation, test questions", "evaluated_flops", THINGS_TEST, THINGS_IMAGES["test"], "images"))
    sizes, rows = base_sizes(LM), []
    for of, kind, asked, images, order in cases:
        # In order "images" a step that ends between two images.
        batch = asked if order == "images" else base_condition().batch
        condition = base_condition().model_copy(update={"order": order, "batch": batch})
        questions = Questions(asked, images, asked, images)
        own = getattr(cost_of(condition, questions, sizes), kind)
        naive, cached = (
            getattr(naive_cost_of(condition, questions, sizes, encoder), kind)
            for encoder in (KNOWN_ENCODERS[ENCODER], None)
        )
        rows.append(
            {"of": of, "questions": asked / images, "order": order, "ratio": naive / own, "cached": cached / own}
        )
    return rows


def _asked(images: int, trained: float, evaluated: float) -> Questions:
    """Questions about `images` images, given how many there are of one in training and in evaluation."""
    train = round(TRAIN_SHARE * images)
    return Questions(round(trained * train), train, round(evaluated * (images - train)), images - train)


def _totals(
    series: str, images: int, asked: Questions, runs: int, sizes: Sizes, flops_per_second: float
) -> dict[str, float]:
    encoder = KNOWN_ENCODERS[ENCODER]
    if series == "naive":
        cost, extraction = naive_cost_of(base_condition(), asked, sizes, encoder), 0.0
    else:
        cost = cost_of(base_condition().model_copy(update={"order": series}), asked, sizes)
        extraction = images * encoder.flops
    flops = runs * cost.flops + extraction
    return {"flops": flops, "tokens": runs * cost.tokens, "seconds": flops / flops_per_second}
