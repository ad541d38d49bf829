"""A run before it is carried out: all that its id depends on, and how it is carried out, which is no part of that."""

from dataclasses import dataclass
from typing import Any

from engine.design.condition import Condition, Inputs, Mark, marked


@dataclass(frozen=True)
class Execution:
    """How runs are carried out; none of it is part of a run's identity.

    `max_tokens`: tokens of one packed row; `group_size`: most runs in one lockstep group. Both are chosen from the
    device's memory where they are None, and fixed by the plan once a group has started. `checkpoint_seconds`: time
    between checkpoints; `track`: where metrics are shown besides their log (`engine.training.tracking`).
    """

    device: str = "auto"
    max_tokens: int | None = None
    group_size: int | None = None
    checkpoint_seconds: float = 60.0
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
        return (self.inputs.lm, c.dtype, c.lm_seed if c.lm_init == "random" else None)

    @property
    def shares(self) -> tuple[Any, ...]:
        """What runs of one lockstep group have in common: dataset, store, LM weights, precision, prompt and loss."""
        fields = [getattr(self.condition, name) for name in marked(Mark.GROUP)]
        return (self.inputs, tuple(sorted(self.digests.items())), self.weights, *fields)
