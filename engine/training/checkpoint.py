"""The checkpoint of a lockstep group: one safetensors file, written whole, never pickled.

Tensors: every projector's weights and AdamW moments. Header: the step, the size each run's metrics log had then, the
ids of the runs (which stand for their conditions and inputs), the tokens of their rows, and a digest of the whole file.
Batches come from named generators, so the step is all the random state there is.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from cachegen.common.errors import RunError
from cachegen.common.files import remove_leftovers, write_atomically
from engine.runs.directory import RunDirectory

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
UNSIGNED = b"0" * 64  # where the digest comes to stand
REMEDY = "the same command, for a sweep with --retry-failed, trains its runs anew"


class CheckpointError(RunError):
    """A checkpoint that its group cannot go on from: damaged, or of other runs."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a group: where it is, and the runs and tokens of a row that it must be of.

    `longer`: whether it may be of longer rows, from before memory was short.
    """

    path: Path
    runs: tuple[str, ...]
    max_tokens: int
    longer: bool = False

    @property
    def identity(self) -> dict[str, str]:
        return {"runs": json.dumps(self.runs), "max_tokens": str(self.max_tokens)}


def write_checkpoint(
    checkpoint: Checkpoint,
    projectors: Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    step: int,
    log_sizes: list[int],
) -> None:
    """Write the group's state after `step` steps."""
    tensors = {}
    for number, projector in enumerate(projectors):
        for name, parameter in projector.named_parameters():
            tensors[f"{number}.{name}"] = parameter.detach()
            state = optimizer.state.get(parameter, {})
            tensors |= {f"{number}.{name}.{moment}": state[moment] for moment in MOMENTS if state}
    header = {"step": str(step), "log_sizes": json.dumps(log_sizes), **checkpoint.identity, "digest": UNSIGNED.decode()}
    content = memoryview(save(tensors, metadata=header))  # its own writer leaves temporary files when it is killed
    place = _header(content).index(UNSIGNED)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(content[:place])
            file.write(_digest(content, place).encode())
            file.write(content[place + len(UNSIGNED) :])

    write_atomically(checkpoint.path, write)


def read_checkpoint(
    checkpoint: Checkpoint,
    projectors: Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    directories: list[RunDirectory],
) -> int:
    """Restore projectors and optimizer, cut the metrics logs to match, and return the number of steps taken.

    Without a checkpoint the logs are emptied and 0 is returned. Raises `CheckpointError` on a file that is damaged or
    another group's, and where a log is shorter than it was then. The caller holds the group.
    """
    path = checkpoint.path
    remove_leftovers(path)
    sizes = [0] * len(directories)
    step = 0
    if path.is_file():
        content = path.read_bytes()
        try:
            header = json.loads(_header(memoryview(content))[8:])["__metadata__"]
            _check(memoryview(content), header, checkpoint)
            step, sizes = int(header["step"]), [int(size) for size in json.loads(header["log_sizes"])]
            if step < 0 or min(sizes) < 0 or len(sizes) != len(directories):
                raise ValueError("its step or the sizes of its logs are impossible")
            _restore(load(content), projectors, optimizer)
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint {path} cannot be used ({_reason(error)}); {REMEDY}") from None
    short = [each.path for each, size in zip(directories, sizes, strict=True) if each.log_size < size]
    if short:
        raise CheckpointError(
            f"checkpoint {path} stands at step {step:,}, but {short[0] / 'metrics.jsonl'} does not reach so far; "
            f"{REMEDY}"
        )
    for directory, size in zip(directories, sizes, strict=True):
        directory.cut_metrics(size)
    return step


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _header(content: memoryview) -> bytes:
    """The bytes before the tensors: their length, and JSON."""
    return bytes(content[: 8 + int.from_bytes(content[:8], "little")])


def _digest(content: memoryview, place: int) -> str:
    """Of the whole file, as it was before a digest stood in it."""
    total = hashlib.sha256(content[:place])
    total.update(UNSIGNED)
    total.update(content[place + len(UNSIGNED) :])
    return total.hexdigest()


def _check(content: memoryview, header: dict[str, str], checkpoint: Checkpoint) -> None:
    """Raise `ValueError` if a file is not whole, or is not the checkpoint of these runs."""
    place = _header(content).find(header["digest"].encode())
    if place < 0 or len(header["digest"]) != len(UNSIGNED) or _digest(content, place) != header["digest"]:
        raise ValueError("its digest does not agree: it was damaged or changed")
    for name, value in checkpoint.identity.items():
        if name == "max_tokens" and checkpoint.longer and int(header[name]) > checkpoint.max_tokens:
            continue
        if header.get(name) != value:
            raise ValueError(f"it is of other {'runs' if name == 'runs' else 'rows'}")


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
