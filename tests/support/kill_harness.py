"""Kill a command at any moment, in forks of a process that has everything loaded, and check what is left.

Two kinds of moments. A *point* stands between two steps on the file system: before and after each call that writes,
renames, deletes or syncs, and in the middle of a write. An undisturbed run counts its points; the n-th is met by the
child itself, so that each of them can be tried. A *time* is drawn from the length of an undisturbed run, and the
parent kills then.

A command is a `Command`: what to run, what must stay once it is there, and what must be there in the end.
"""

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

CALLS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync", "fdatasync", "pwrite", "posix_fallocate")
WRITING = os.O_WRONLY | os.O_RDWR
PATIENCE = 120.0


Kill = Callable[[Callable[[], object], Path], bool]
"""Does some work in a fork that it kills, with a file for its log; whether the work was still going on then."""


@dataclass(frozen=True)
class Command:
    """A command that is killed and given again.

    `run(folder)` carries it out; `kept(folder)`: what is finished by now, name -> content, none of which may go or
    change later; `progress(folder)`: name -> how far something unfinished is, which may not sink; `final(folder)`: all
    that counts when it is over.
    """

    name: str
    run: Callable[[Path], object]
    kept: Callable[[Path], dict[str, Any]]
    final: Callable[[Path], dict[str, Any]]
    progress: Callable[[Path], dict[str, int]] = lambda _: {}


def spawn(work: Callable[[], object], log: Path) -> int:
    """A fork, leader of a session of its own, that does `work` and exits with 0, or says why not in `log`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        sys.stdout = sys.stderr = log.open("w", buffering=1)  # pytest's own are objects, not descriptors
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end(child: int) -> None:
    """Kill a child that nobody has waited for, and all that it started, if it has got as far as `setsid`."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)


def ended(child: int, log: Path) -> int:
    """Wait for a child and return its exit code, negative for a signal; one that hangs is killed and is an error."""
    until = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            end(child)
            os.waitpid(child, 0)
            raise AssertionError(f"it hangs: {log.read_text()}")
        time.sleep(0.002)


def killed_after(seconds: float, work: Callable[[], object], log: Path) -> bool:
    """Do `work` in a fork that is killed after `seconds`; whether it was still running then."""
    child = spawn(work, log)
    time.sleep(seconds)
    end(child)
    code = ended(child, log)
    assert code in (0, -signal.SIGKILL), log.read_text()
    return code != 0


def killed_at(point: int, work: Callable[[], object], log: Path) -> bool:
    """Do `work` in a fork that dies at its `point`-th point; False if it ends before."""
    code = ended(spawn(lambda: at_points(work, lambda number: number == point), log), log)
    assert code in (0, -signal.SIGKILL), log.read_text()
    return code != 0


def count_points(work: Callable[[], object], log: Path) -> int:
    """Points of an undisturbed run."""
    counter = log.with_suffix(".points")

    def counted() -> None:
        last = 0

        def note(number: int) -> bool:
            nonlocal last
            last = number
            return False

        try:
            at_points(work, note)
        finally:
            counter.write_text(str(last))

    code = ended(spawn(counted, log), log)
    assert code == 0, log.read_text()
    return int(counter.read_text())


def at_points(work: Callable[[], object], dies: Callable[[int], bool]) -> None:
    """Do `work` in this process, which is not needed afterwards, and kill it at the first point that `dies`."""
    number = 0

    def point() -> bool:
        nonlocal number
        number += 1
        return dies(number)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watched(call: Callable[..., Any], is_write: bool) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if point():
                die()
            if is_write and point():
                call(args[0], args[1][: len(args[1]) // 2], *args[2:])
                die()
            result = call(*args, **kwargs)
            if point():
                die()
            return result

        return wrapper

    def opened(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & WRITING and point():
            die()

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name), name == "pwrite"))
    sys.addaudithook(opened)
    work()


def check(command: Command, folder: Path, before: tuple[dict[str, Any], dict[str, int]]) -> tuple[dict, dict]:
    """What is finished and how far the rest is, after a kill; nothing of `before` may be lost."""
    kept, progress = command.kept(folder), command.progress(folder)
    for name, content in before[0].items():
        assert name in kept, f"{command.name}: {name} was finished and no longer is"
        assert kept[name] == content, f"{command.name}: {name} was finished and has changed"
    for name, step in before[1].items():
        assert progress.get(name, step) >= step, f"{command.name}: {name} went back from {step} to {progress[name]}"
    return kept, progress


def survives(command: Command, folder: Path, kills: Sequence[Kill]) -> int:
    """Kill the command as `kills` say, one after the other; then let it finish, and return how many kills met it.

    `AssertionError` where something that was finished is lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, met, before = folder.with_suffix(".log"), 0, ({}, {})
    for kill in kills:
        met += kill(lambda: command.run(folder), log)
        before = check(command, folder, before)
    code = ended(spawn(lambda: command.run(folder), log), log)
    assert code == 0, log.read_text()
    check(command, folder, before)
    return met


def random_times(rng: random.Random, seconds: float) -> list[Kill]:
    """One to three kills at random moments of a run of that length."""
    return [partial(killed_after, rng.uniform(0, seconds)) for _ in range(rng.randint(1, 3))]


def points(numbers: Sequence[int]) -> list[Kill]:
    """A kill at each of these points, one run after the other."""
    return [partial(killed_at, number) for number in numbers]
