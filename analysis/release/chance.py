"""The majority answer in the release's guess files, and the dashed line that Figure 3 draws for it."""

from collections.abc import Sequence

from analysis.release.claims import Claim, Found, Statement, check
from analysis.release.files import MACRO, AbsentError, find, read_f1
from analysis.release.means import mean_and_sd
from analysis.release.scores import Release
from cachegen.things.names import HYPERNYMS

GUESSES = {"hypernyms": f"{MACRO}/all_hyp_guess_f1_scores.csv", "leaves": f"{MACRO}/all_leaf_guess_f1_scores.csv"}
RUNS = {"hypernyms": "test_hyp", "leaves": "test"}  # original labels, 100 % ablation


def chance_claims(release: Release) -> list[Claim]:
    """Macro F1 of the majority answer at 100 % ablation, in points."""
    return [
        *check([Statement("majority/hypernyms", 39.2, 1)], lambda: [_majority(release, "hypernyms")]),
        *check([Statement("majority/leaves", 38.9, 1)], lambda: [_majority(release, "leaves")]),
        *check([Statement("fig3/dashed_line", 47.1, 1)], lambda: _dashed_line(release)),
    ]


def _majority(release: Release, kind: str) -> Found:
    table = read_f1(find(release.root, GUESSES[kind]), HYPERNYMS if kind == "hypernyms" else None)
    if RUNS[kind] not in table.index:
        raise AbsentError(f"no run {RUNS[kind]} in {GUESSES[kind]}")
    n, mean, _ = mean_and_sd(table.T[RUNS[kind]].dropna())
    return Found(100 * mean, n)


def _dashed_line(release: Release) -> Sequence[Found]:
    found = _majority(release, "hypernyms")
    return [found._replace(note="The line stands for chance: the majority answer's macro F1 is what it should show.")]
