"""The paper's published results, recomputed from a checkout of the authors' release."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.release.cells import cell_claims
from analysis.release.chance import chance_claims
from analysis.release.claims import Claim
from analysis.release.coherence import coherence_claims
from analysis.release.depth import depth_claims
from analysis.release.encoder import encoder_claims
from analysis.release.means import cell_means
from analysis.release.probe import probe_claims
from analysis.release.removed import Removed, removed_claims
from analysis.release.scores import Release
from analysis.release.swap import swap_claims
from cachegen.files import write_json, write_text


@dataclass(frozen=True)
class Reanalysis:
    """claims: columns id, paper, recomputed, n, agrees, note (see `analysis.release.claims.Claim`), in the order of
    the paper. means: see `analysis.release.means.cell_means`. notes: what else a reader of the means must know.
    """

    claims: pd.DataFrame
    means: pd.DataFrame
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """{"claims": [...], "means": [...]}, missing values as None."""
        return {"claims": _records(self.claims), "means": _records(self.means)}


def reanalyze(root: Path, removed: Removed) -> Reanalysis:
    """Every published statistic that the files under `root` allow, beside the paper's, and the means of the figures.

    `removed`: the hypernyms of Table 4 by their number (`engine.published.REMOVED_HYPERNYMS`), by taxonomy names.
    Any subset of the release's files works: rows without their source say so. Raises ReleaseError for a folder
    without any of them, and for a malformed file, naming file and line.
    """
    release = Release(root)
    claims = [
        *cell_claims(release),
        *chance_claims(release),
        *removed_claims(release, removed),
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
    """Write claims.csv, means.csv and claims.json (both, as printed by --json) into the folder `out`."""
    write_text(out / "claims.csv", found.claims.to_csv(index=False))
    write_text(out / "means.csv", found.means.to_csv(index=False))
    write_json(out / "claims.json", found.as_json())


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.astype(object).where(table.notna(), None)
    return [dict(zip(table.columns, row, strict=True)) for row in rows.itertuples(index=False, name=None)]
