"""What differs between operating systems, and how worker processes begin."""

import io
import multiprocessing
import os
import signal
import sys
import threading


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sync_data(descriptor: int) -> None:
    """Wait until a file's bytes are on the disk."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Take the space of the first `size` bytes of a file, whose contents stay. Raises `OSError` where there is none."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    step = os.fstat(descriptor).st_blksize
    for end in range(step, size + step, step):  # a byte written takes its block
        offset = min(end, size) - 1
        os.pwrite(descriptor, os.pread(descriptor, 1, offset) or b"\0", offset)


class _NoTerminal(io.TextIOWrapper):
    """Stderr without progress bars, which several processes would draw over each other."""

    def isatty(self) -> bool:
        return False


def begin_worker() -> None:
    """Leave Ctrl-C to the parent, draw nothing on its terminal, and never outlive it: call it first in a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stderr = _NoTerminal(io.FileIO(2, "w", closefd=False), line_buffering=True)


def _end_with_parent() -> None:
    """End this worker when its parent is killed; otherwise it would wait for work, and hold its GPU, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # answered at a checkpoint where a group is being trained
