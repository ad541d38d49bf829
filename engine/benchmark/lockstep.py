"""What training runs side by side brings: time of a step per run, beside the least it can take."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cachegen.common.alternate import alternate, median, ratio, wait_for
from cachegen.common.progress import progress_bar
from cachegen.common.random_init import random_init_lm
from engine.benchmark.models import bench_lm_config, step_sizes
from engine.benchmark.work import Engine, Work
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.sweeps.plan import longest_row

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}


class _Recorder(TorchDispatchMode):
    """Notes every matrix product that runs, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.calls.append((func, tuple(map(_described, args)), kwargs or {}))
        return func(*args, **(kwargs or {}))


def _described(argument: Any) -> Any:
    if not isinstance(argument, torch.Tensor):
        return argument
    return tuple(argument.shape), argument.stride(), argument.dtype, argument.device


def products_of(step: Callable[[], object]) -> Callable[[], None]:
    """A function that runs the matrix products of `step`, which is called once, and nothing else.

    Equal shapes share operands, so caches help the floor more than they help the step.
    """
    with _Recorder() as recorder:
        step()
    operands: dict[Any, torch.Tensor] = {}

    def operand(description: Any) -> Any:
        if not isinstance(description, tuple):
            return description
        if description not in operands:
            shape, stride, dtype, device = description
            operands[description] = torch.empty_strided(shape, stride, dtype=dtype, device=device).fill_(0.5)
        return operands[description]

    calls = [(func, tuple(map(operand, args)), kwargs) for func, args, kwargs in recorder.calls]

    def replay() -> None:
        for func, args, kwargs in calls:
            func(*args, **kwargs)

    return torch.no_grad()(replay)


RUNS = (1, 2, 4, 8)
IMAGES = (8, 32)  # of a step of one run, two questions each
REDUCED = 2  # layers of a large LM: what a step costs per run and layer does not depend on their number


def lockstep(lm_name: str, dtype: torch.dtype, device: torch.device, rounds: int) -> dict[str, Any]:
    """Images of a step -> K -> seconds of a step per run, its floor, share of the floor, and gain over K = 1.

    `floor`: seconds of the step's matrix products alone; `of_floor`: floor / seconds; `gain`: times as fast as K = 1.
    Only the LM "tiny" has all its layers; `layers` says how many there were.
    """
    layers = bench_lm_config(lm_name).num_hidden_layers if lm_name == "tiny" else REDUCED
    lm = FrozenLM.wrap(random_init_lm(bench_lm_config(lm_name, layers), 0).to(dtype), None, device)
    result: dict[str, Any] = {"lm": lm_name, "layers": layers}
    with progress_bar("bench lockstep", len(IMAGES) * 2 * len(RUNS) * (rounds + 1), "steps") as advance:
        for images in IMAGES:
            ways = {}
            for runs in RUNS:
                step = _step(lm, lm_name, images, runs)
                ways[f"{runs}"], ways[f"{runs} floor"] = step, products_of(step)
            seconds = alternate(ways, rounds, wait=wait_for(device), advance=advance)
            for runs in RUNS:
                for name in (f"{runs}", f"{runs} floor"):
                    seconds[name] = [value / runs for value in seconds[name]]
            result[str(images)] = {
                str(runs): {
                    "seconds": median(seconds, f"{runs}"),
                    "floor": median(seconds, f"{runs} floor"),
                    "of_floor": ratio(seconds, f"{runs} floor", f"{runs}"),
                    "gain": ratio(seconds, "1", f"{runs}"),
                }
                for runs in RUNS
            }
    return result


def _step(lm: FrozenLM, lm_name: str, images: int, runs: int) -> Any:
    patches, width, suffix = step_sizes(lm_name)
    work = Work.draw((2,) * images, 1, patches, width, suffix, lm.model.config.vocab_size, lm.device, lm.dtype)
    projectors = [new_projector((width, lm.width), lm.dtype, seed, None, None).to(lm.device) for seed in range(runs)]
    engine = Engine(lm, projectors, longest_row(lm.device))
    return lambda: engine.train(work)
