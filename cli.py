"""The `crosstax` command: its subcommands, from `commands/`, in the panels that `--help` shows.

Heavy libraries are imported inside the commands, so that `--help` answers at once. Human output goes to
stderr; with --json the last line on stdout is one JSON object.
"""

import os
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from cachegen.common.errors import ITEM, LONGEST, CrosstaxError, shortened
from cachegen.common.files import REMEDIES, reason_of, remedy_of
from commands.data import (
    data_cifar100,
    data_pictograms,
    data_subset,
    data_taxonomy,
    data_things,
    extract,
    features_import,
    stats,
)
from commands.finished import evaluate, lens, transfer_ask, transfer_make
from commands.machine import bench, doctor
from commands.models import ask, export, probe
from commands.options import say
from commands.process import open_streams, run, stoppable
from commands.results import analyze, reanalyze, report
from commands.runs import presets, status, sweep, train, tune
from commands.study import demo, world, world_replicate

PANELS = {
    "Prepare": (extract, stats),
    "Run": (demo, train, sweep, tune, presets, status, probe),
    "Look": (analyze, report, reanalyze, evaluate, ask, lens),
    "Take away": (export,),
    "Machine": (doctor, bench),
}


class InOrder(TyperGroup):
    """The commands in the order of the panels; Typer would list the groups `data` and `world` last."""

    def list_commands(self, _context: typer.Context) -> list[str]:  # type: ignore[override]
        names = [command.__name__ for commands in PANELS.values() for command in commands]
        return [
            "data",
            "features",
            "world",
            *names[: names.index("analyze")],
            "transfer",
            *names[names.index("analyze") :],
        ]


app = typer.Typer(
    name="crosstax",
    cls=InOrder,
    help="Ask what a frozen language model knows about images that it was never told.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Make a dataset folder from published images, or a taxonomy for your own.", no_args_is_help=True
)
data_app.command("things")(data_things)
data_app.command("pictograms")(data_pictograms)
data_app.command("cifar100")(data_cifar100)
data_app.command("taxonomy")(data_taxonomy)
data_app.command("subset")(data_subset)
features_app = typer.Typer(help="Bring features of your own.", no_args_is_help=True)
features_app.command("import")(features_import)
world_app = typer.Typer()
world_app.callback(invoke_without_command=True)(world)
world_app.command("replicate")(world_replicate)
transfer_app = typer.Typer(help="Put any questions to finished runs.", no_args_is_help=True)
transfer_app.command("ask")(transfer_ask)
transfer_app.command("make")(transfer_make)
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(data_app, name="data", rich_help_panel="Prepare")
app.add_typer(features_app, name="features", rich_help_panel="Prepare")
app.add_typer(world_app, name="world", rich_help_panel="Prepare")
app.add_typer(transfer_app, name="transfer", rich_help_panel="Look")


@app.callback()
def common(
    _debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing; HF_HUB_OFFLINE=1 does the same.")
    ] = False,
) -> None:
    """Options before the command; `main` looks for --debug itself, since it also catches errors in this parsing."""
    if offline:
        from cachegen.common.hub import go_offline

        go_offline()


def main() -> None:
    """Run the command; what a user can cause is one line and exit code 2."""
    if sys.platform == "win32":
        say("error: crosstax needs Linux or macOS; on Windows, run it in WSL")
        sys.exit(2)
    if sys.getfilesystemencoding() != "utf-8":  # names of folders would not be those that taxonomy.csv has
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    open_streams()
    try:
        _run()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has closed the pipe, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run() -> None:
    try:
        with stoppable():
            run(app)
    except (CrosstaxError, OSError) as error:
        expected = isinstance(error, CrosstaxError) or error.errno in REMEDIES
        if "--debug" in sys.argv or not expected:
            raise
        say(f"error: {_in_short(error)}")
        sys.exit(2)


def _in_short(error: Exception) -> str:
    """An error as the user sees it: one line, or a list of problems. The system's own errors get a remedy too."""
    if not isinstance(error, OSError):
        return ITEM.join(shortened(" ".join(line.split("\n")), LONGEST) for line in str(error).split(ITEM))
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason_of(error)}; {remedy_of(error)}"


if __name__ == "__main__":
    main()
