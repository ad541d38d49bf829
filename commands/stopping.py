"""Ctrl-C and a scheduler's SIGTERM: the state is saved, and one line says how to resume."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from commands.options import say

REASONS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn the first signal into `KeyboardInterrupt`, then exit with code 128 + signal; a second one ends at once.

    Files are whole or absent, so that ending at once is safe too.
    """
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if received:
            os.write(2, b"stopped at once\n")
            os._exit(128 + number)
        received.append(number)
        raise KeyboardInterrupt

    # A shell's background job is born with Ctrl-C ignored, and stays so.
    before = {number: signal.getsignal(number) for number in REASONS}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except BaseException:
        if not received or "--debug" in sys.argv:
            raise
        command = shlex.join(["crosstax", *sys.argv[1:]])
        say(f"stopped by {REASONS[signal.Signals(received[0])]}; to go on: {command}")
        sys.exit(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
