"""`plan.json`: which runs of a sweep train together, and how their rows are packed.

Both can move last bits, so they are fixed before a group starts and followed when it is resumed; a digest shows when
they were edited. The file also keeps what the plan was based on, and the work each run means, from which `crosstax
status` estimates the time left.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cachegen.common.errors import RunError
from cachegen.common.files import digest_bytes, read_json, remove_leftovers, write_json
from cachegen.common.locks import exclusive_lock, waiting_lock
from cachegen.data.taxonomy import name_problem

SCHEMA = 3
FILE = "plan.json"
MAX_GROUP = 16  # runs in lockstep, however much memory there is


@dataclass(frozen=True)
class Group:
    """One lockstep group: the unit of checkpoint.

    `runs`: their ids; `max_tokens`: of one packed row; `why`: what the sizes were chosen from; `work`: for each run
    its floating-point operations in training and in evaluation, None where they are not known.
    """

    runs: tuple[str, ...]
    max_tokens: int
    why: str
    work: tuple[tuple[float, float] | None, ...]

    def part(self, runs: Sequence[str]) -> "Group":
        """This group with only those of its runs."""
        kept = [(run, work) for run, work in zip(self.runs, self.work, strict=True) if run in runs]
        return replace(self, runs=tuple(run for run, _ in kept), work=tuple(work for _, work in kept))

    def checkpoint(self, out: Path) -> Path:
        """Where its checkpoint stands in the sweep folder `out`."""
        return out / f"{self.runs[0]}.checkpoint.safetensors"

    def lock(self, out: Path) -> Path:
        """What the process that works on it holds."""
        return out / ".locks" / self.runs[0]

    def held(self, out: Path) -> AbstractContextManager[None]:
        """Hold it while working on it. Raises `RunError`, which names the holder, if another process does."""
        return exclusive_lock(self.lock(out), f"group {out / self.runs[0]}")


def plan_lock(out: Path) -> AbstractContextManager[None]:
    """Hold the plan of the sweep folder `out`: it neither changes nor is a group of it begun meanwhile."""
    return waiting_lock(out / ".locks" / "plan")


def read_plan(out: Path) -> list[Group]:
    """Groups planned in the sweep folder `out`; none if it has no plan.

    Raises `RunError` for a plan that is damaged, edited, or another version's.
    """
    if not (out / FILE).exists():
        return []
    plan = read_json(out / FILE)
    if not isinstance(plan, dict) or plan.get("schema") != SCHEMA:
        raise RunError(f"{out / FILE} was written by another version of crosstax; choose another --out")
    if plan.get("digest") != _digest(plan.get("groups")):
        raise RunError(
            f"{out / FILE} was changed by something else than crosstax; restore it, or delete it together with the "
            "checkpoints beside it (*.checkpoint.safetensors): runs that are done stay, others begin anew"
        )
    try:
        return [_group(**group) for group in plan["groups"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{out / FILE} is damaged ({error}); restore it, or choose another --out") from None


def _group(runs: list[str], max_tokens: int, why: str, work: list[tuple[float, float] | None]) -> Group:
    """A group as it is written in the file. Raises `TypeError` or `ValueError`."""
    if not runs or (strange := [run for run in runs if name_problem(run)]):
        raise ValueError(f"a group has {f'the run {strange[0]!r}' if runs else 'no runs'}")
    if type(max_tokens) is not int or max_tokens < 1 or len(work) != len(runs):
        raise ValueError("a group's max_tokens or work is none")
    known = tuple(None if each is None else (0.0 + each[0], 0.0 + each[1]) for each in work)
    return Group(tuple(runs), max_tokens, str(why), known)


def write_plan(out: Path, groups: Sequence[Group]) -> None:
    """Write the plan of the sweep folder `out`, whose lock the caller holds."""
    remove_leftovers(out / FILE)
    listed = [asdict(group) for group in groups]
    write_json(out / FILE, {"schema": SCHEMA, "groups": listed, "digest": _digest(listed)})


def _digest(groups: Any) -> str:
    """Of all that the file says about its groups."""
    return digest_bytes(json.dumps(groups, sort_keys=True).encode())
