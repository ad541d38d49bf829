"""Mistakes on the command line, reported in one line as all other errors are."""

import re
import sys

import typer

from cachegen.common.errors import CrosstaxError
from cachegen.common.files import expanded

HOME_PATH = re.compile(r"(-{0,2}[\w-]+=)?(~[^/]*/.*)", re.DOTALL)


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
