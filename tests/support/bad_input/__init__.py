"""Bad input: one sound study, cases that each break a copy of it, and what every refusal must be."""

import itertools
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

HANGS = 60  # seconds after which a case counts as hanging; none comes near
# What a stopped command may leave behind: locks, and the folder a lock stands in.
LOCK = re.compile(r"(^|/)(\.lock|\.locks(/.*)?|.*\.lock|.*\.h5\.times)$")


@dataclass(frozen=True)
class Case:
    """One broken input: `spoil(study)` breaks a copy, `command` is given there, one line that fits `says` comes back.

    `leaves`: a pattern of files that may remain since the same command resumes from them.
    """

    name: str
    spoil: Callable[[Path], object]
    command: str
    says: str
    leaves: str = "(?!)"


def ids(cases):
    """Keyword arguments that name parametrised cases, each name once; a text among them heads a class of faults.

    The normal run takes the first case of each class; `-m "slow or not slow"` takes all of them.
    """
    names = [case.name for case in cases if isinstance(case, Case)]
    assert len(set(names)) == len(names), "two cases of one name"
    assert not isinstance(cases[0], Case), "name the first class"
    marked = [
        pytest.param(case, id=case.name, marks=pytest.mark.slow if isinstance(before, Case) else ())
        for before, case in itertools.pairwise(cases)
        if isinstance(case, Case)
    ]
    return {"argvalues": marked}


def copy_of(study: Path, place: Path) -> Path:
    """A copy of the study to break. No hard links: logs are appended to and cut in place."""
    return Path(shutil.copytree(study, place, symlinks=True))


def write(path: Path, content: str | bytes) -> Path:
    """Replace a file, or make it."""
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def loop(path: Path) -> None:
    """Put a symbolic link to itself there."""
    remove(path)
    path.symlink_to(path.name)


def folder_there(path: Path) -> None:
    remove(path)
    path.mkdir()


def cut(path: Path, size: int) -> Path:
    """Keep the first `size` bytes, or with a negative size leave out the last."""
    return write(path, path.read_bytes()[:size])


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below `folder` but locks and caches, with what changes when it is written to."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not LOCK.search(name) and (path.is_symlink() or not path.is_dir()):
            status = path.lstat()
            found[name] = status.st_size, status.st_mtime_ns
    return found


def check(case: Case, study: Path, place: Path, crosstax, monkeypatch) -> None:
    """Break a copy of the study, give the command, and hold its answer against what is promised."""
    home = copy_of(study, place)
    monkeypatch.chdir(home)
    case.spoil(home)
    before = listing(home)
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(HANGS)
    try:
        code, out, err = crosstax(*_words(case.command))
    finally:
        signal.alarm(0)
    after = listing(home)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    message = err[err.index("error: ") :]  # of a dataset, a line for every problem follows
    assert re.search(case.says, message), message
    assert all(line.isprintable() for line in message.splitlines()), repr(message)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    left = {name for name in changed if not re.search(case.leaves, name)}
    assert not left, f"left behind or changed: {sorted(left)}"


def _words(command: str) -> list[str]:
    """The words of a command line; those with a space stand in double quotes."""
    return [word.strip('"') for word in re.findall(r'(?:"[^"]*"|[^\s"])+', command)]


def _hangs(*_):
    raise TimeoutError(f"no answer after {HANGS} seconds")
