"""The checkpoint of a lockstep group: one safetensors file, written whole, never pickled.

Tensors: every projector's weights and AdamW moments. Header: the step, and the size each run's metrics log
had then. Batches come from named generators, so the step is all the random state there is.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from cachegen.errors import RunError
from cachegen.files import remove_leftovers, write_atomically
from engine.runs.directory import RunDirectory

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def write_checkpoint(
    path: Path, projectors: Sequence[nn.Module], optimizer: torch.optim.Optimizer, step: int, log_sizes: list[int]
) -> None:
    """Write the group's state after `step` steps."""
    tensors = {}
    for number, projector in enumerate(projectors):
        for name, parameter in projector.named_parameters():
            tensors[f"{number}.{name}"] = parameter.detach()
            state = optimizer.state.get(parameter, {})
            tensors |= {f"{number}.{name}.{moment}": state[moment] for moment in MOMENTS if state}
    header = {"step": str(step), "log_sizes": json.dumps(log_sizes)}
    content = save(tensors, metadata=header)  # its own writer leaves temporary files when it is killed
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_checkpoint(
    path: Path, projectors: Sequence[nn.Module], optimizer: torch.optim.Optimizer, directories: list[RunDirectory]
) -> int:
    """Restore projectors and optimizer, cut the metrics logs to match, and return the number of steps taken.

    Without a checkpoint the logs are emptied and 0 is returned. Raises `RunError` on a damaged file, and where a
    log is shorter than it was then. The caller holds the group.
    """
    remove_leftovers(path)
    if not path.is_file():
        for directory in directories:
            directory.cut_metrics(0)
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        step, log_sizes = int(header["step"]), [int(size) for size in json.loads(header["log_sizes"])]
        if step < 0 or min(log_sizes) < 0 or len(log_sizes) != len(directories):
            raise ValueError("its step or the sizes of its logs are none")
        _restore(load_file(path), projectors, optimizer)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise RunError(f"checkpoint {path} is damaged ({error}); delete it to train its runs anew") from None
    short = [each.path for each, size in zip(directories, log_sizes, strict=True) if each.log_size < size]
    if short:
        raise RunError(
            f"checkpoint {path} stands at step {step:,}, but {short[0] / 'metrics.jsonl'} does not reach so far; "
            "restore it, or delete the checkpoint to train its runs anew"
        )
    for directory, size in zip(directories, log_sizes, strict=True):
        directory.cut_metrics(size)
    return step


def _restore(
    tensors: dict[str, torch.Tensor], projectors: Sequence[nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Put weights and moments in place. Raises KeyError, RuntimeError or ValueError for tensors of another group."""
    for number, projector in enumerate(projectors):
        for name, parameter in projector.named_parameters():
            with torch.no_grad():
                parameter.copy_(tensors[f"{number}.{name}"])
            if f"{number}.{name}.step" in tensors:
                moments = {moment: tensors[f"{number}.{name}.{moment}"] for moment in MOMENTS}
                moments |= {moment: moments[moment].to(parameter.device) for moment in MOMENTS[1:]}
                if any(moments[moment].shape != parameter.shape for moment in MOMENTS[1:]):
                    raise ValueError(f"the moments of {name} are of another shape")
                optimizer.state[parameter] = moments
