"""Signals that wait: Ctrl-C and a scheduler's TERM are answered when the state of training is saved.

Not submitit's warning that time is up: a job that answers it late is not put back into the queue.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """The signal that waits, if any. The same one again is not held: it does what it did before."""

    def __init__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self._waiting: int | None = None

    @property
    def waiting(self) -> bool:
        return self._waiting is not None

    def hold(self) -> None:
        """Let signals wait from now on; those that are ignored stay ignored."""
        for number, handler in self._before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, self._keep)

    def release(self) -> None:
        """Answer signals as before."""
        for number, handler in self._before.items():
            if handler is not None:
                signal.signal(number, handler)

    def deliver(self) -> None:
        """Answer the one that waits now; who answers may end everything, or let the work go on."""
        number, self._waiting = self._waiting, None
        if number is not None:
            self.release()
            signal.raise_signal(number)
            self.hold()

    def _keep(self, number: int, _frame: FrameType | None) -> None:
        again, self._waiting = self.waiting, number
        if again:
            self.deliver()


@contextlib.contextmanager
def held_signals() -> Iterator[HeldSignals]:
    """Hold signals inside; `deliver` is called where the state is saved. Python lets only its main thread do so.

    One that still waits at the end is answered then, unless something failed.
    """
    held = HeldSignals()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    held.hold()
    try:
        yield held
    finally:
        held.release()
    held.deliver()
