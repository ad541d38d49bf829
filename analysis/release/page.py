"""The reanalysis as one self-contained HTML page, in the looks of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.published import PAPER
from analysis.release.claims import DIFFERS, NO_SOURCE, NOT_PRINTED, OTHER, SAME
from analysis.report.report import inline_files, template_environment
from analysis.report.table import Column, Table, table
from analysis.words import MISSING, number

HEADINGS = {  # in the order of the page; state -> heading, and what it means
    DIFFERS: ("Does not reproduce", "The authors’ own files give another number than the paper."),
    OTHER: (
        "Another analysis gives another answer",
        "The paper’s number may well be right. The question behind it, analysed in another way, has another answer.",
    ),
    SAME: ("Reproduces", "The files give the paper’s number, rounded or cut off, or a test bears out its sentence."),
    NOT_PRINTED: ("Not printed in the paper", "Recomputed from the same files, with nothing to compare to."),
    NO_SOURCE: ("No source", "This copy of the release does not hold what the number rests on."),
}
MEANS = "Means behind the figures, F1 in 0..1: n runs × categories, and the SD over both."


def render(claims: pd.DataFrame, means: pd.DataFrame, summary: str, notes: Sequence[str]) -> str:
    """The page as HTML. `claims`, `means`: see `analysis.release.reanalyze.Reanalysis`."""
    parts = []
    for place, (state, (heading, meaning)) in enumerate(HEADINGS.items()):
        rows = claims[claims["state"] == state].to_dict("records")
        if rows:
            parts.append(
                {"name": f"state-{place}", "heading": heading, "meaning": meaning, "table": _claims(place, rows)}
            )
    return (
        template_environment()
        .get_template("reanalysis.html")
        .render(
            **inline_files(),
            paper=PAPER,
            summary=summary,
            notes=notes,
            parts=parts,
            means=_means(means),
            page={"tables": ["claims.csv", "means.csv"], "figures": {}},
        )
    )


def _claims(place: int, rows: Sequence[Mapping[Any, Any]]) -> Table:
    columns = [
        Column("number", lambda row: (row["what"], "support-weighted F1, not macro F1" * row["weighted"]), "noted"),
        Column("the paper says", lambda row: f"{row['where']}: {row['sentence']}", "prose"),
        Column("paper", lambda row: _number(row["paper"]), "text"),
        Column("recomputed", lambda row: _number(row["recomputed"]), "text"),
        Column("n", lambda row: row["n"], digits=0),
        Column("what to know", "note", "prose"),
    ]
    return table(f"claims-{place}", "Numbers of the paper beside the recomputed ones.", rows, columns, "claims.csv")


def _number(value: object) -> str:
    """As many digits as a reader compares: bounds as printed, small numbers with three, F1 in points with two."""
    if value is None:
        return MISSING
    return number(value, 3 if abs(value) < 1 else 2) if isinstance(value, float) else str(value)


def _means(means: pd.DataFrame) -> Table:
    words = ("lm", "encoder", "shuffle", "ablation", "experiment")
    columns = [Column(name, name, "text") for name in words]
    columns += [
        Column("LM’s weights", lambda row: "random-init" if row["random_lm"] else "pretrained", "text"),
        Column("amount", "amount", digits=0),
        Column("n", "n", digits=0),
        Column("mean", "mean", digits=4),
        Column("SD", "sd", digits=4),
    ]
    return table("means", MEANS, means.to_dict("records"), columns, "means.csv")
