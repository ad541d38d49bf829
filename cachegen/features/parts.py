"""Parts of a feature store: which rows a task of several writes, and locks that keep them apart.

Rows a, ..., b - 1 of a store are locked as bytes [a, b) of the sidecar `STORE.lock`: the kernel finds overlaps, and
frees what a killed process held. The sidecar's text says who holds which rows. One more byte, far behind all rows, is
held for moments by a process that creates the store or writes into a file that all parts share.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cachegen.common.errors import RunError, StoreError

Part = tuple[int, int]
"""(i, n): the i-th of n parts, from 1."""

ANY_ROW = range(1 << 40)
SHARED_BYTE = range(1 << 40, (1 << 40) + 1)


def parse_part(text: str) -> Part:
    """The part that "2/8" names. Raises `StoreError` unless it is I/N with 1 <= I <= N."""
    words = text.split("/")
    if len(words) == 2 and all(word.isascii() and word.isdigit() for word in words):
        i, n = map(int, words)
        if 1 <= i <= n:
            return i, n
    raise StoreError(f"part {text}: write I/N with I from 1 to N, for example 2/8")


def part_rows(images: int, batch: int, part: Part | None) -> range:
    """Rows of a part: contiguous, disjoint, and whole blocks of `batch`, so that parts encode the same blocks as one.

    Empty where there are more parts than blocks. None is the part of all rows.
    """
    i, n = part or (1, 1)
    blocks = -(-images // batch)
    return range(blocks * (i - 1) // n * batch, min(blocks * i // n * batch, images))


class RowLocks:
    """The open lock sidecar of a store. Locks belong to the process, so that one process writes one part at a time."""

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
        mine = f"{socket.gethostname()} pid {os.getpid()}, {task}"
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
