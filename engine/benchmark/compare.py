"""The engine against the naive loop, per image with all its questions, at an LM's full depth.

Full depth is run on a GPU. A CPU would need an hour, so two shallower models are timed there, and every way's seconds
follow the line a + b L through them. The encoder is never made shallower: at reduced depth encoder and vocabulary
dominate and every ratio flatters, so nothing measured there is reported by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cachegen.common.alternate import OPERATIONS, Seconds, alternate, matrix_products, median, ratio, wait_for
from cachegen.common.device import keeps_bytes
from cachegen.common.errors import ConditionError
from cachegen.common.progress import progress_bar, tell
from cachegen.common.random_init import random_init_lm
from engine.benchmark.models import SUFFIX, bench_lm_config, vision_model
from engine.benchmark.naive import ROWS, EncoderShape, Loop, Masked, Naive, naive_cost_of
from engine.benchmark.work import Engine, Work
from engine.design.condition import Condition
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.lm.shape import shape_of_config
from engine.sweeps.cost import Questions, Sizes, cost_of
from engine.sweeps.plan import longest_row

# Questions of each image, near the means of THINGS: 2 and 4.75 in training (Table 2), 5.34 in evaluation. A training
# step has about the paper's 16 pairs, a row of evaluation as many images as fill it.
TRAINED = {100: (2,) * 8, 10: (4, 5, 5, 5)}
EVALUATED = (5, 5, 6)
DEPTHS = (4, 8)  # of a large LM on a CPU
LOOPS = ("cached", "kept", "masked")  # on cached features, in batches of the size that is fastest
PRODUCTS = {"cpu": 20, "cuda": 2000}  # timed beside the ways, for the rate


@dataclass(frozen=True)
class Setting:
    """What is compared: an LM by its short name, ablation level, precision, device and rounds of timing.

    `compiled`: the engine compiles layers on a GPU. The loops compile nothing.
    """

    lm: str
    ablation: int
    dtype: torch.dtype
    device: torch.device
    rounds: int
    compiled: bool = True

    @property
    def trained(self) -> tuple[int, ...]:
        return TRAINED[self.ablation]

    @property
    def suffix(self) -> int:
        return SUFFIX.get(self.lm, SUFFIX["paper"])


def read_depths(text: str | None) -> tuple[int, ...] | None:
    """One or two depths out of "8" or "4,8". Raises `ConditionError`."""
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) >= 2 for word in words) or len({*map(int, words)}) not in (1, 2):
        raise ConditionError(f"--layers {text}: give one or two different depths of at least 2, such as 4,8")
    return tuple(sorted({*map(int, words)}))


def compare_ways(setting: Setting, depths: tuple[int, ...] | None = None) -> dict[str, Any]:
    """`train`, `eval`, `layers`, `extrapolated`, `gemm_tflops` and, if extrapolated, `depths` with what it rests on.

    `depths`: layers to time, one or two; None: the full depth, for a large LM on a CPU `DEPTHS`.
    Times are seconds per image with all its questions; a ratio above 1 means that the engine is faster. Of two depths,
    ratios are those of the extrapolated times; of one, medians of the rounds' own ratios.
    """
    encoder = vision_model(setting.lm)
    full = bench_lm_config(setting.lm).num_hidden_layers
    work = _operations(setting, EncoderShape.of(encoder))
    depths = depths or (DEPTHS if setting.device.type == "cpu" and full > max(DEPTHS) else (full,))
    if len(depths) == 1 and depths != (full,):
        raise ConditionError(f"--layers {depths[0]}: one depth must be the full one, {full}; else give two")
    encoder = encoder.to(setting.device, setting.dtype)
    timed = {}
    with progress_bar("bench", len(depths) * 13 * (setting.rounds + 1), "steps") as advance:
        for depth in depths:
            timed[depth] = _time(setting, depth, encoder, advance)
    extrapolated = depths != (full,)
    gemm = PRODUCTS[setting.device.type] * OPERATIONS / min(median(seconds, "gemm") for seconds in timed.values())
    result: dict[str, Any] = {
        "layers": full,
        "extrapolated": extrapolated,
        "gemm_tflops": gemm / 1e12,
        "train": _table(timed, "train", full, ["naive", *LOOPS, "engine", "engine_pairs"]),
        "eval": _table(timed, "eval", full, ["naive", *LOOPS, "one_by_one", "engine"]),
    }
    result["eval"]["ratio_one_by_one"] = _ratio(timed, "eval", full, "one_by_one")
    for stage in ("train", "eval"):
        part = result[stage]
        part["ratio"] = _ratio(timed, stage, full, "naive")
        part |= {f"ratio_{way}": _ratio(timed, stage, full, way) for way in LOOPS}
        own, naive = work[stage]
        part["flop_ratio"], part["mfu"] = naive / own, own / part["engine"] / gemm
        part["mfu_naive"] = naive / part["naive"] / gemm
    if extrapolated:
        result["depths"] = {
            str(depth): {name: median(seconds, name) for name in seconds} for depth, seconds in timed.items()
        }
    return result


def _time(setting: Setting, layers: int, encoder: Any, advance: Callable[[int], None]) -> Seconds:
    """Seconds per image of every way, round by round; of `gemm`, of `PRODUCTS` matrix products."""
    lm = FrozenLM.wrap(random_init_lm(bench_lm_config(setting.lm, layers), 0).to(setting.dtype), None, setting.device)
    if setting.compiled and not keeps_bytes(setting.device) and (problem := lm.compile_layers()):
        tell(f"layers are not compiled ({problem})")
    patches, width = encoder.patch_embed.num_patches, encoder.embed_dim
    side = encoder.patch_embed.img_size[0]

    def draw(counts: tuple[int, ...]) -> Work:
        vocabulary = lm.model.config.vocab_size
        return Work.draw(counts, side, patches, width, setting.suffix, vocabulary, setting.device, setting.dtype)

    def projector() -> Any:
        return new_projector((width, lm.width), setting.dtype, 0, None, None).to(setting.device)

    train, pairs, asked = draw(setting.trained), draw((1,) * sum(setting.trained)), draw(EVALUATED)
    longest = longest_row(setting.device)
    filled = draw(EVALUATED * max(1, longest // (len(EVALUATED) * patches + sum(EVALUATED) * setting.suffix)))
    own, most = Engine(lm, [projector()], longest), max(1, longest // (patches + setting.suffix))
    many = draw(EVALUATED * -(-most // sum(EVALUATED)))  # for loops, whose batches it fills
    alone = Naive(lm.model, encoder, projector(), rows=1)

    def plainly(way: Callable[[Work], object], work: Work) -> Callable[[], object]:
        def run() -> object:
            with lm.plain():
                return way(work)

        return run

    def tuned(loop: Loop, stage: str, work: Work) -> Callable[[], object]:
        """A step of the loop in batches of a few sequences or of as many as may be, whichever is faster."""
        limit = min(most, work.images if isinstance(loop, Masked) else len(work.image))
        run = plainly(getattr(loop, stage), work)

        def in_batches(rows: int) -> Callable[[], None]:
            def sized() -> None:
                loop.rows = rows
                run()

            return sized

        ways = {str(rows): in_batches(rows) for rows in sorted({min(ROWS, limit), limit})}
        if len(ways) == 1:
            return next(iter(ways.values()))
        seconds = alternate(ways, 1, wait=wait_for(setting.device))
        return ways[min(ways, key=lambda rows: median(seconds, rows))]

    ways: dict[str, Callable[[], object]] = {
        "gemm": matrix_products(setting.device, setting.dtype, PRODUCTS[setting.device.type])
    }
    for stage, work, few in (("train", train, train), ("evaluate", many, asked)):
        name = "eval" if stage == "evaluate" else stage
        loops = {"kept": Naive(lm.model, None, projector(), keep=True), "masked": Masked(lm.model, projector())}
        loops = {"cached": Naive(lm.model, None, projector())} | loops
        ways[f"{name} naive"] = plainly(getattr(Naive(lm.model, encoder, projector()), stage), few)
        ways |= {f"{name} {way}": tuned(loop, stage, work) for way, loop in loops.items()}
    ways |= {
        "train engine": lambda: own.train(train),
        "train engine_pairs": lambda: own.train(pairs),
        "eval one_by_one": plainly(alone.evaluate, asked),
        "eval engine": lambda: own.evaluate(filled),
    }
    seconds = alternate(ways, setting.rounds, wait=wait_for(setting.device), advance=advance)
    images = {"gemm": 1, "train": train.images, "eval": asked.images}
    per = {name: images[name.split()[0]] for name in ways} | {"eval engine": filled.images}
    per |= {f"eval {way}": many.images for way in LOOPS}
    return {name: [value / per[name] for value in values] for name, values in seconds.items()}


def _operations(setting: Setting, encoder: EncoderShape) -> dict[str, tuple[float, float]]:
    """Floating-point operations per image at full depth: (engine, naive), in training and in evaluation."""
    shape = shape_of_config(bench_lm_config(setting.lm).to_dict())
    sizes = Sizes(shape, encoder.patches, encoder.width, 0, setting.suffix)
    asked, images = sum(setting.trained), len(setting.trained)
    condition = Condition.of({"order": "images", "epochs": 1, "batch": asked}, "bench")
    questions = Questions(asked, images, sum(EVALUATED), len(EVALUATED))
    own, naive = cost_of(condition, questions, sizes), naive_cost_of(condition, questions, sizes, encoder)
    return {
        "train": (own.train_flops / images, naive.train_flops / images),
        "eval": (own.evaluated_flops / len(EVALUATED), naive.evaluated_flops / len(EVALUATED)),
    }


def _at(timed: dict[int, Seconds], way: str, layers: int) -> float:
    """Seconds of a way at full depth: its median there, or on the line through two depths' medians."""
    if layers in timed:
        return median(timed[layers], way)
    (short, low), (deep, high) = sorted((depth, median(seconds, way)) for depth, seconds in timed.items())
    return low + (high - low) / (deep - short) * (layers - short)


def _table(timed: dict[int, Seconds], stage: str, layers: int, ways: list[str]) -> dict[str, float]:
    return {way: _at(timed, f"{stage} {way}", layers) for way in ways}


def _ratio(timed: dict[int, Seconds], stage: str, layers: int, slow: str) -> float:
    if layers in timed:
        return ratio(timed[layers], f"{stage} {slow}", f"{stage} engine")
    return _at(timed, f"{stage} {slow}", layers) / _at(timed, f"{stage} engine", layers)
