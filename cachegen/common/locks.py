"""Locks between processes, also of several machines: of one writer, of moments, of rows of a feature store.

All are fcntl locks on sidecar files. They belong to the process, and the kernel frees them when it dies, so that a
killed writer blocks nobody; it also frees them when the process closes any handle of that file. A sidecar's text says
who holds it: "HOST pid PID".
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cachegen.common.errors import RunError
from cachegen.common.files import writing

HELD = (errno.EACCES, errno.EAGAIN)
FLOCK = "qqihh" if sys.platform == "darwin" else "hhqqi4x"  # C's `struct flock`
ANY_ROW = range(1 << 40)
SHARED_BYTE = range(1 << 40, (1 << 40) + 1)


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the only writer's lock on `path` (a sidecar that names host and pid), or raise `RunError`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("ab+", buffering=0)
    with handle:
        with writing(path):
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in HELD:
                    raise
                handle.seek(0)
                holder = handle.read().decode(errors="replace").strip() or "another process"
                raise RunError(f"{what} is being written by {holder}; wait for it or stop it") from None
            handle.truncate(0)
            handle.write(_me().encode())
        yield


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Wait for, and hold, the lock on `path`: for what takes moments, so that nobody needs to be told who holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


def lock_holder(path: Path) -> dict[str, Any] | None:
    """Who holds the writer's lock, asked of the kernel without taking it: host, pid, since when; None if free."""
    try:
        with path.open("rb") as handle:
            pid = _holder_pid(handle.fileno())
            named = handle.read().decode().split(" pid ")
    except OSError:
        return None
    if pid is None:
        return None
    host = named[0] if len(named) == 2 else "unknown host"
    since = round(max(0.0, time.time() - path.stat().st_mtime), 1)  # a clock can have been set back since
    return {"host": host, "pid": int(named[1]) if len(named) == 2 and named[1].isdigit() else pid, "seconds": since}


def _holder_pid(descriptor: int) -> int | None:
    """The process that holds a write lock on a file, asked of the kernel without taking it; None if it is free."""
    mac = sys.platform == "darwin"
    wanted = (0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET) if mac else (fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(FLOCK, *wanted)))
    kind, pid = (answer[3], answer[2]) if mac else (answer[0], answer[4])
    return None if kind == fcntl.F_UNLCK else pid


class RowLocks:
    """The open lock sidecar of a feature store, of which several processes write parts.

    Rows a, ..., b - 1 of the store are locked as bytes [a, b) of the sidecar: the kernel finds overlaps. The sidecar's
    text says who holds which rows. One more byte, far behind all rows, is held for moments by whoever creates the store
    or writes into a file that all parts share. One process writes one part at a time.
    """

    def __init__(self, path: Path, what: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._what = what

    def close(self) -> None:
        """Free all rows, also for a thread that still would lock: this number may soon be another file's."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Wait for, and hold, what all parts share. No rows are taken or given back meanwhile."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, SHARED_BYTE.start)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, SHARED_BYTE.start)

    def nobody_writes(self) -> bool:
        """Whether no rows are held; asked within `shared`, before `take`."""
        free = self._try(ANY_ROW)
        if free:
            self._free(ANY_ROW)
        return free

    def take(self, rows: range, task: str) -> None:
        """Hold `rows`; within `shared`. Raises `RunError` that names the holder if another process has one of them."""
        if not rows:
            return
        holders = self._holders()
        if not self._try(rows):
            names = [name for held, name in holders if _overlap(held, rows) and not self._is_free(held)]
            raise RunError(
                f"{self._what} is being written by {' and '.join(names) or 'another process'}; wait for it or stop it"
            )
        mine = f"{_me()}, {task}"
        # Whoever is said to hold rows that now are ours has died.
        self._write_holders([(held, name) for held, name in holders if not _overlap(held, rows)] + [(rows, mine)])

    def _is_free(self, rows: range) -> bool:
        free = self._try(rows)
        if free:
            self._free(rows)
        return free

    def _try(self, rows: range) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, len(rows), rows.start)
        except (BlockingIOError, PermissionError):  # as POSIX allows either
            return False
        return True

    def _free(self, rows: range) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, len(rows), rows.start)

    def _holders(self) -> list[tuple[range, str]]:
        """Who took rows, by the sidecar's lines "START STOP NAME"; they may have died since."""
        text = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0).decode(errors="replace")
        words = [line.split(" ", 2) for line in text.splitlines()]
        return [
            (range(int(start), int(stop)), name)
            for start, stop, name in (found for found in words if len(found) == 3)
            if start.isdigit() and stop.isdigit() and int(start) < int(stop)
        ]

    def _write_holders(self, holders: list[tuple[range, str]]) -> None:
        lines = [f"{rows.start} {rows.stop} {name}\n" for rows, name in holders]
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, "".join(lines).encode(), 0)


def _overlap(a: range, b: range) -> bool:
    return a.start < b.stop and b.start < a.stop


def _me() -> str:
    return f"{socket.gethostname()} pid {os.getpid()}"
