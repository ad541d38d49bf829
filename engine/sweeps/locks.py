"""Locks inside a sweep folder, for processes that share it: one for the plan, and one for each group."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from cachegen.common.files import exclusive_lock
from engine.sweeps.plan_file import Group


@contextlib.contextmanager
def plan_lock(out: Path) -> Iterator[None]:
    """Wait for, and hold, the plan of the sweep folder `out`: it neither changes nor is a group of it begun meanwhile.

    Freed by the kernel when its process dies. Held for moments only, so that nobody needs to be told who holds it.
    """
    path = out / ".locks" / "plan"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


def group_lock(out: Path, group: Group) -> contextlib.AbstractContextManager[None]:
    """Hold a group while working on it. Raises `RunError`, which names the holder, if another process does."""
    return exclusive_lock(group.lock(out), f"group {out / group.runs[0]}")
