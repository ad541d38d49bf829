"""A run before it is trained: everything its id depends on, and how it is carried out, which its id ignores."""

from dataclasses import dataclass
from typing import Any

from engine.design.condition import Condition, Inputs, Mark, marked


@dataclass(frozen=True)
class Execution:
    """How runs are carried out. Nothing here is part of a run's id.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1", ...
        max_tokens: Tokens in one packed row. None: as many as memory allows. The plan fixes it when a group starts.
        group_size: Largest number of runs in a lockstep group. None: as many as memory allows; fixed as above.
        workers: Processes on this machine at once; those on one GPU share its memory.
        checkpoint_seconds: Time between checkpoints.
        compile: Whether decoder layers are compiled for a GPU where training is long enough to pay for it.
        track: Where metrics are sent besides their log: "tensorboard", "wandb".
    """

    device: str = "auto"
    max_tokens: int | None = None
    group_size: int | None = None
    workers: int = 1
    checkpoint_seconds: float = 60.0
    compile: bool = True
    track: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """A run with everything its id depends on."""

    inputs: Inputs
    condition: Condition
    encoder: str
    digests: dict[str, str]

    @property
    def id(self) -> str:
        return self.condition.run_id(self.encoder, self.inputs.lm, self.digests)

    @property
    def weights(self) -> tuple[Any, ...]:
        """Which LM weights are loaded, and how."""
        c = self.condition
        return (self.inputs.lm, c.dtype, c.lm_seed if c.lm_init == "random" else None, c.lm_sharing)

    @property
    def shares(self) -> tuple[Any, ...]:
        """What runs of one lockstep group have in common: dataset, store, LM weights, precision, prompt and loss."""
        fields = [getattr(self.condition, name) for name in marked(Mark.GROUP)]
        return (self.inputs, tuple(sorted(self.digests.items())), self.weights, *fields)
