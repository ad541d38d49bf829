"""The paper's published results, recomputed from a checkout of the authors' release; as data and in words."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.release.chance import above_chance_claims, chance_claims, table5_claims
from analysis.release.claims import DIFFERS, NO_SOURCE, NOT_PRINTED, OTHER, SAME, STATES, Claim
from analysis.release.coherence import coherence_claims
from analysis.release.means import cell_claims, cell_means, depth_claims, probe_claims, removed_claims
from analysis.release.models import encoder_claims
from analysis.release.scores import Release
from analysis.release.swap import swap_claims
from analysis.words import MISSING, json_rows
from cachegen.common.files import write_json, write_text
from engine.design.published import REMOVED_HYPERNYMS


@dataclass(frozen=True)
class Reanalysis:
    """The claims, the means, and what a reader of the means must know besides (notes).

    claims: the columns of `analysis.release.claims.Claim`, in the order of the paper. means: see
    `analysis.release.means.cell_means`.
    """

    claims: pd.DataFrame
    means: pd.DataFrame
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """{"claims": [...], "means": [...]}, missing values as None."""
        return {"claims": json_rows(self.claims), "means": json_rows(self.means)}


def reanalyze(root: Path) -> Reanalysis:
    """Every published number that the files under `root` allow, beside the paper's, and the means of the figures.

    Any subset of the release's files works: rows without their source say so. Raises ReleaseError for a folder
    without any of them, and for a malformed file, naming file and line.
    """
    release = Release(root)
    claims = [
        *cell_claims(release),
        *table5_claims(release),
        *chance_claims(release),
        *above_chance_claims(release, REMOVED_HYPERNYMS),
        *removed_claims(release, REMOVED_HYPERNYMS),
        *encoder_claims(release),
        *coherence_claims(release),
        *probe_claims(release),
        *swap_claims(release),
        *depth_claims(release),
    ]
    means = cell_means(release)
    columns = [field.name for field in fields(Claim)]
    table = pd.DataFrame([asdict(claim) for claim in claims], columns=columns, dtype=object)
    return Reanalysis(table, means, release.notes())


def write_reanalysis(found: Reanalysis, out: Path) -> None:
    """Write index.html, claims.csv, means.csv and claims.json (both, as printed by --json) into the folder `out`."""
    from analysis.release.page import render  # the report's templates come with its drawing library

    write_text(out / "claims.csv", found.claims.to_csv(index=False))
    write_text(out / "means.csv", found.means.to_csv(index=False))
    write_json(out / "claims.json", found.as_json())
    write_text(out / "index.html", render(found.claims, found.means, summary(found), found.notes))


WIDE = 150  # columns from which notes have a column of their own
WEIGHTED = "(support-weighted F1)"
STYLES = {DIFFERS: "bold red", OTHER: "yellow", SAME: "green", NOT_PRINTED: "dim", NO_SOURCE: "dim"}
SHORT = {
    DIFFERS: "differs",
    OTHER: "other analysis",
    SAME: "reproduces",
    NOT_PRINTED: "not printed",
    NO_SOURCE: "no source",
}


def reanalysis_text(found: Reanalysis, width: int) -> RenderableType:
    """Table, notes and summary for a console of `width` columns; what differs comes first."""
    claims = by_state(found.claims)
    parts: list[RenderableType] = [_table(claims, notes=width >= WIDE)]
    if width < WIDE:
        parts += ["", *_notes(claims)]
    return Group(*parts, "", Text(summary(found)), *map(Text, found.notes))


def by_state(claims: pd.DataFrame) -> pd.DataFrame:
    """The rows that differ first, then those of other analyses; within a state in the order of the paper."""
    return claims.sort_values("state", key=lambda state: state.map(STATES.index), kind="stable", ignore_index=True)


def summary(found: Reanalysis) -> str:
    """One line: how many numbers reproduce, do not, are of other analyses, not printed or without source; the means."""
    counts = found.claims["state"].value_counts()
    words = {
        SAME: "reproduce",
        DIFFERS: "do not",
        OTHER: "are other analyses with another answer",
        NOT_PRINTED: "are not printed in the paper",
        NO_SOURCE: "have no source here",
    }
    parts = ", ".join(f"{counts[state]} {what}" for state, what in words.items() if state in counts)
    return f"{len(found.claims)} numbers of the paper: {parts}. Means of {len(found.means)} cells."


def _table(claims: pd.DataFrame, notes: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("statement", overflow="fold")
    table.add_column("where", overflow="fold")
    for name in ("paper", "recomputed", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("result", overflow="fold")
    if notes:
        table.add_column("note", overflow="fold")
    for row in claims.to_dict("records"):
        numbers = [Text(_short(row[name])) for name in ("paper", "recomputed", "n")]
        state = Text(SHORT[row["state"]], STYLES[row["state"]])
        words = Text(" ".join((row["what"], WEIGHTED) if row["weighted"] else (row["what"],)))
        note = [Text(row["note"], "dim")] if notes else []
        table.add_row(words, Text(row["where"], "dim"), *numbers, state, *note)
    return table


def _notes(claims: pd.DataFrame) -> list[Text]:
    """The notes of what was recomputed, each under its statement's words."""
    rows = claims[claims["recomputed"].notna() & (claims["note"] != "")].to_dict("records")
    return [Text.assemble((row["what"], "bold"), f": {row['note']}") for row in rows]


def _short(value: object) -> str:
    return MISSING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
