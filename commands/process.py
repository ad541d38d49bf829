"""How a command begins and ends: its words, its streams, Ctrl-C and SIGTERM, and mistakes reported in one line."""

import contextlib
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import typer

from cachegen.common.errors import CrosstaxError
from cachegen.common.files import expanded
from commands.options import say

REASONS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
HOME_PATH = re.compile(r"(-{0,2}[\w-]+=)?(~[^/]*/.*)", re.DOTALL)
NARROWEST = 20  # columns in which a table can be read


def open_streams() -> None:
    """Let any name be printed, whatever the locale and the terminal say; what nobody reads goes nowhere.

    A standard stream that was closed is None, and its number would be given to the next file that is opened.
    """
    if os.environ.get("COLUMNS", "").isdecimal() and int(os.environ["COLUMNS"]) < NARROWEST:
        del os.environ["COLUMNS"]  # what has no terminal says 0, and help would be empty
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def with_home(word: str) -> str:
    """The word with its leading ~ replaced: shells leave it as it is in --out=~/x, and notebooks everywhere."""
    match = HOME_PATH.fullmatch(word)
    if match is None:
        return word
    return (match[1] or "") + str(expanded(match[2]))


def run(app: typer.Typer) -> None:
    """Run the command and exit with its code. Raises `CrosstaxError` for a command line that cannot be understood."""
    try:
        code = app([with_home(word) for word in sys.argv[1:]], prog_name="crosstax", standalone_mode=False)
    except Exception as error:
        # Typer carries a copy of click: its errors have no name that holds for all versions.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # the help has been printed
            sys.exit(2)
        context = getattr(error, "ctx", None)
        asked = context.command_path if context else "crosstax"
        raise CrosstaxError(f"{' '.join(error.format_message().split()).rstrip('.')}; see `{asked} --help`") from None
    sys.exit(code or 0)


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
