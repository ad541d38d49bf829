"""Held-out F1 by the depth of the hypernym (Figure 12); the depths are those of `cachegen.things.names`."""

from collections.abc import Sequence
from functools import partial

from analysis.release.claims import Claim, Found, Statement, check
from analysis.release.files import DEPTHWISE, AbsentError, find, read_table
from analysis.release.means import mean_and_sd
from analysis.release.scores import HELDOUT, Release
from cachegen.things.names import HYPERNYMS

LMS = ("Qwen3-0.6B", "Qwen3-1.7B")  # of the release's own table
DECIMALS = 9  # of a file, not of a page
_FIELDS = {"encoder": "DINOv2", "random_lm": False, "shuffle": "Original", "ablation": "Full"}

Published = dict[tuple[str, int], tuple[float, float]]


def depth_claims(release: Release) -> list[Claim]:
    """Mean and sd (0..1) by LM and depth beside the release's own table; other LMs of the files have no paper value."""
    try:
        published = _published(release)
    except AbsentError:
        published = {}
    claims = []
    for lm in dict.fromkeys((*LMS, *release.lms(HELDOUT, **_FIELDS))):
        for depth in sorted({row.depth for row in HYPERNYMS.values()}):
            paper = published.get((lm, depth), (None, None))
            names = [f"fig12/{lm}/depth{depth}/{what}".lower() for what in ("mean", "sd")]
            statements = [Statement(name, value, DECIMALS) for name, value in zip(names, paper, strict=True)]
            claims += check(statements, partial(_cell, release, lm, depth, lm in LMS and not published))
    return claims


def _cell(release: Release, lm: str, depth: int, unpublished: bool) -> Sequence[Found]:
    if unpublished:
        raise AbsentError(DEPTHWISE)
    rows = release.runs(HELDOUT, lm=lm, **_FIELDS)
    of_depth = rows["category"].map({name: row.depth for name, row in HYPERNYMS.items()}) == depth
    n, mean, sd = mean_and_sd(rows.loc[of_depth, "f1"])
    return [Found(mean, n), Found(sd, n)]


def _published(release: Release) -> Published:
    """(LM, depth) -> mean and sd of the release's table."""
    path = find(release.root, DEPTHWISE)
    words = ["experiment", "lm", "ablation_type", "random"]
    table = read_table(path, words, ["depth", "acc", "sd"], key=["lm", "depth"])
    rows = table[["lm", "depth", "acc", "sd"]].itertuples(index=False, name=None)
    return {(lm, int(depth)): (mean, sd) for lm, depth, mean, sd in rows}
