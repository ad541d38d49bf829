"""The least a step can take on this machine: its matrix products alone, at their own shapes."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
