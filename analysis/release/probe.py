"""The text-only probe: of its published scores the release has no file of questions with their answers."""

from analysis.release.claims import Claim, Statement
from analysis.release.files import AbsentError
from analysis.release.scores import Release

STATEMENTS = {
    "Qwen3-0.6B": Statement("probe/qwen3-0.6b", 78.5, 1),
    "Qwen3-1.7B": Statement("probe/qwen3-1.7b", 88.5, 1),
    "majority": Statement("probe/majority", 46.7, 1),
}
ABSENT = "source not available: the release has no file of the probe's questions with their answers."


def probe_claims(release: Release) -> list[Claim]:
    """Rows without a source; their notes tell what `coherence_backbone.csv` has of the same LM."""
    return [
        Claim(each.id, each.paper, None, None, None, " ".join(filter(None, (ABSENT, _by_hypernym(release, lm)))))
        for lm, each in STATEMENTS.items()
    ]


def _by_hypernym(release: Release, lm: str) -> str:
    try:
        table = release.backbone
    except AbsentError:
        return ""
    own = table[(table["lm"] == lm) & (table["shuffle_type"] == "original")]["backbone_f1"]
    if own.empty:
        return ""
    return f"Mean over {len(own)} hypernyms, each on its own items: {100 * own.mean():.1f} (coherence_backbone.csv)."
