"""A reanalysis for a terminal: one table, its notes in a column where there is room, below it where there is none."""

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.release.reanalyze import Reanalysis

WIDE = 150  # columns from which notes have a column of their own
VERDICTS = {True: ("yes", "green"), False: ("no", "bold red"), None: ("–", "dim")}


def reanalysis_text(found: Reanalysis, width: int) -> RenderableType:
    """Table, notes and summary for a console of `width` columns."""
    parts: list[RenderableType] = [_table(found.claims, notes=width >= WIDE)]
    if width < WIDE:
        parts += ["", *_notes(found.claims)]
    return Group(*parts, "", Text(summary(found)), *map(Text, found.notes))


def summary(found: Reanalysis) -> str:
    """One line: how many numbers agree, differ, are not printed in the paper or have no source; how many means."""
    agrees, recomputed = found.claims["agrees"], found.claims["recomputed"].notna()
    counts = {
        "agree": agrees.eq(True).sum(),
        "differ": agrees.eq(False).sum(),
        "are not printed in the paper": (recomputed & agrees.isna()).sum(),
        "have no source here": (~recomputed).sum(),
    }
    parts = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{len(found.claims)} numbers of the paper: {parts}. Means of {len(found.means)} cells."


def _table(claims: pd.DataFrame, notes: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("statement", overflow="fold")
    for name in ("paper", "recomputed", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("agrees?", no_wrap=True)
    if notes:
        table.add_column("note", overflow="fold")
    for row in claims.to_dict("records"):
        numbers = [Text(_short(row[name])) for name in ("paper", "recomputed", "n")]
        agrees = Text(*(("no source", "dim") if row["recomputed"] is None else VERDICTS[row["agrees"]]))
        table.add_row(Text(row["id"]), *numbers, agrees, *([Text(row["note"], "dim")] if notes else []))
    return table


def _notes(claims: pd.DataFrame) -> list[Text]:
    """The notes of what was recomputed, each under its statement's name."""
    rows = claims[claims["recomputed"].notna() & (claims["note"] != "")].to_dict("records")
    return [Text.assemble((row["id"], "bold"), f": {row['note']}") for row in rows]


def _short(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
