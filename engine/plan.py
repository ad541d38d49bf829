"""The plan of a sweep: which runs it has, under which ids, and which of them train together.

`plan.json` fixes lockstep groups and the size of packed rows, since both can move last bits; a sweep that is
started again follows its plan, and adds groups for runs that are new.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cachegen.dataset import load_dataset
from cachegen.errors import RunError
from cachegen.files import read_json, write_json
from cachegen.store import FeatureStore
from engine.condition import SCHEMA, Condition, Inputs, Sweep
from engine.language_model import lm_digests, resolve_lm


@dataclass(frozen=True)
class Execution:
    """How runs are carried out; none of it is part of a run's identity.

    `max_tokens`: tokens of one packed row, which bounds memory (a 0.6B LM keeps about 2.4 MB of float32 activations
    a token, by its shapes); `group_size`: most runs in one lockstep group (both fixed by the plan
    once a sweep has started); `checkpoint_seconds`: time between checkpoints.
    """

    device: str = "auto"
    max_tokens: int = 4096
    group_size: int = 16
    checkpoint_seconds: float = 60.0


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
    def shares(self) -> tuple[Any, ...]:
        """What runs of one lockstep group have in common: dataset, store, LM weights, precision, prompt and loss."""
        c = self.condition
        weights = (c.lm_init, c.lm_seed if c.lm_init == "random" else None, c.dtype)
        prompt = (c.template, c.question_singular, c.question_plural, c.answer_yes, c.answer_no)
        return (self.inputs, tuple(sorted(self.digests.items())), weights, prompt, c.loss, c.supervise)


def plan_runs(sweep: Sweep) -> list[PlannedRun]:
    """Open every input once and give each run its digests."""
    dataset_digest = lru_cache(lambda path: load_dataset(path).digest)
    store = lru_cache(lambda path: FeatureStore.open(path))
    lm = lru_cache(lambda name, init: lm_digests(resolve_lm(name), init))
    planned = []
    for inputs, condition in sweep.runs:
        features = store(inputs.features)
        digests = {
            "dataset": dataset_digest(inputs.dataset),
            "store": features.digest,
            **lm(inputs.lm, condition.lm_init),
        }
        planned.append(PlannedRun(inputs, condition, str(features.attributes["encoder"]), digests))
    return planned


def group_runs(runs: dict[str, PlannedRun], out: Path, execution: Execution) -> dict[str, Any]:
    """Read or extend `plan.json`: runs that share everything the LM sees, at most `group_size` to a group."""
    path = out / "plan.json"
    plan: dict[str, Any] = {"schema": SCHEMA, "max_tokens": execution.max_tokens, "groups": []}
    if path.exists():
        plan = read_json(path)
    if plan.get("schema") != SCHEMA:
        raise RunError(f"{path} was written by another version of crosstax; choose another --out")
    known = {run_id for group in plan["groups"] for run_id in group}
    alike: dict[tuple[Any, ...], list[str]] = {}
    for run_id, run in runs.items():
        if run_id not in known:
            alike.setdefault(run.shares, []).append(run_id)
    for ids in alike.values():
        parts = -(-len(ids) // execution.group_size)
        plan["groups"] += [part.tolist() for part in np.array_split(ids, parts)]
    write_json(path, plan)
    return plan
