"""A wrong command line said as every other mistake: one line."""

import os
import re
import sys

import typer

from cachegen.errors import CrosstaxError


def run(app: typer.Typer) -> None:
    """Run the command and exit with its code. Raises `CrosstaxError` for a command line that cannot be understood."""
    try:
        code = app(list(map(_at_home, sys.argv[1:])), prog_name="crosstax", standalone_mode=False)
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


def _at_home(word: str) -> str:
    """A word of a command line with the home folder for "~/", also after "--lm=" and "lm=", where shells leave it."""
    name, place = re.fullmatch(r"((?:--)?[a-z_-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]
    return name + os.path.expanduser(place) if place == "~" or place.startswith("~/") else word  # noqa: PTH111
