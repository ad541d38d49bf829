"""What processes that work for this one do first."""

import io
import multiprocessing
import os
import signal
import sys
import threading


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
    """A worker whose parent was killed would wait for work, and hold its GPU, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # answered at a checkpoint where a group is being trained
