"""The paper's means, from the release: figures 3, 4, 6, 10, 11 and 12, Table 5, removed hypernyms, probe."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from analysis.published import CELLS, MORE_CELLS, Published
from analysis.release.claims import Claim, Found, Said, Statement, check, without_source
from analysis.release.files import DEPTHWISE, EXPERIMENTS, AbsentError, find, read_table
from analysis.release.scores import HELDOUT, LEAVES, Release
from cachegen.things.names import HYPERNYMS

CELL = ["lm", "encoder", "random_lm", "shuffle", "ablation", "amount"]
COLUMNS = [*CELL, "experiment", "n", "mean", "sd"]


def mean_and_sd(values: Iterable[float]) -> tuple[int, float, float]:
    """n, mean and standard deviation (n - 1; missing for one value), from correctly rounded sums in any order."""
    found = list(values)
    n = len(found)
    mean = math.fsum(found) / n
    return n, mean, math.sqrt(math.fsum((x - mean) ** 2 for x in found) / (n - 1)) if n > 1 else math.nan


def cell_means(release: Release) -> pd.DataFrame:
    """Every cell of the main experiments, in 0..1; n counts runs x categories.

    Columns: lm, encoder, random_lm, shuffle (Original | Across-category | Within-category), ablation (Full | Random |
    Systematic), amount (percent of leaves or number of hypernyms), experiment (Held-Out Hypernyms | Seen Hypernyms |
    Leaves), n, mean, sd (over runs and categories together, as the figures' bands have it).
    """
    rows = []
    for experiment in EXPERIMENTS:
        try:
            scores = release.runs(experiment)
        except AbsentError:
            continue
        for cell, group in scores.groupby(CELL, sort=True):
            rows.append((*cell, experiment, *mean_and_sd(group["f1"])))
    return pd.DataFrame(rows, columns=COLUMNS)


SEEDS = 3
SHUFFLES = {"original": "Original", "across": "Across-category", "within": "Within-category"}
# Hypernyms whose name a leaf carries ("a bird", "a toy"), so that questions about them are trained on as leaf questions
# at any ablation; the other 42 are clean. `cachegen.data.taxonomy.homonyms_of` finds them in the taxonomy.
HOMONYMS = frozenset(
    ("bird", "candy", "container", "dessert", "drink", "fruit", "jewelry", "plant", "tool", "toy", "vegetable")
)


def cell_claims(release: Release) -> list[Claim]:
    """Held-out and leaf macro F1 of every cell that the paper prints, in points."""
    claims = []
    for cell in (*CELLS, *MORE_CELLS):
        name, words = _name(cell), cell_words(cell)
        heldout = Statement(f"heldout/{name}", cell.heldout, 1, f"held-out hypernyms, {words}", _said(cell))
        claims += check([heldout], partial(_heldout, release, cell))
        if not math.isnan(cell.leaf):
            leaves = Statement(f"leaves/{name}", cell.leaf, 1, f"leaves, {words}", Said(_said(cell).where, TRAINED))
            claims += check([leaves], partial(_leaves, release, cell))
    return claims


TRAINED = "Leaf questions, which training has, are answered well under every condition."
SENTENCES = {  # initialisation of the LM, labels -> what the paper says of held-out hypernyms
    ("pretrained", "original"): "A pretrained LM answers hypernym questions about images without training on any.",
    ("pretrained", "across"): "With images dealt across categories, hypernym answers fall to about chance.",
    ("pretrained", "within"): "With images dealt within categories, hypernym answers stay as good as before.",
    ("random", "original"): "With a randomly initialised LM, hypernym answers are near chance.",
}


def cell_words(cell: Published) -> str:
    """A cell in words: its LM, what else is not the paper's default, and its labels."""
    other = [cell.encoder] * (cell.encoder != "DINOv2") + ["random-init LM"] * (cell.lm_init == "random")
    labels = f"{SHUFFLES[cell.shuffle].lower()} labels"
    return ", ".join((cell.lm, *other, labels))


def _said(cell: Published) -> Said:
    if cell.lm.startswith("Llama"):
        where = "Figure 10"
    elif cell.lm == "Qwen3-8B":
        where = "Table 5"
    else:
        where = "Figure 4" if cell.lm_init == "random" else "Figure 3" if cell.shuffle == "original" else "Figure 6"
    return Said(where, SENTENCES[cell.condition])


def _name(cell: Published) -> str:
    """The LM, what else is not the paper's default, and the labels."""
    other = [cell.encoder] * (cell.encoder != "DINOv2") + ["random-init"] * (cell.lm_init == "random")
    return "/".join((cell.lm, *other, cell.shuffle)).lower()


def fields_of(cell: Published) -> dict[str, object]:
    return {
        "lm": cell.lm,
        "encoder": cell.encoder,
        "random_lm": cell.lm_init == "random",
        "shuffle": SHUFFLES[cell.shuffle],
        "ablation": "Full",
    }


def _leaves(release: Release, cell: Published) -> list[Found]:
    rows = release.runs(LEAVES, **fields_of(cell))
    n, mean, _ = mean_and_sd(rows["f1"])
    return [Found(100 * mean, n, _few_seeds(rows))]


def _heldout(release: Release, cell: Published) -> list[Found]:
    rows = release.runs(HELDOUT, **fields_of(cell))
    homonym = rows["category"].isin(HOMONYMS)
    (n, mean, _), (_, clean, _), (_, named, _) = (
        mean_and_sd(values) for values in (rows["f1"], rows.loc[~homonym, "f1"], rows.loc[homonym, "f1"])
    )
    note = f"On the 42 hypernyms that are no leaf's name {100 * clean:.1f}, on the other 11 {100 * named:.1f}."
    parts = (_few_seeds(rows), note, _weighted(release, list(rows["run_name"].unique())))
    return [Found(100 * mean, n, " ".join(part for part in parts if part), weighted=release.rest_on_weighted(rows))]


def _few_seeds(rows: pd.DataFrame) -> str:
    seeds = rows["seed"].nunique()
    return f"Of the paper's {SEEDS} seeds only {seeds} here." if seeds < SEEDS else ""


def _weighted(release: Release, names: Sequence[str]) -> str:
    """What the support-weighted file says of the same runs, where there is one."""
    try:
        table = release.weighted
    except AbsentError:
        return ""
    if release.copied.issuperset(names):
        return "These are the support-weighted file's own values, not macro F1."
    known = [name for name in names if name in table.index]
    return f"Support-weighted F1 would be {100 * np.nanmean(table.loc[known].to_numpy()):.1f}." if known else ""


LMS = ("Qwen3-0.6B", "Qwen3-1.7B")  # of the release's own table
DECIMALS = 9  # of a file, not of a page
_FIELDS = {"encoder": "DINOv2", "random_lm": False, "shuffle": "Original", "ablation": "Full"}

DepthMean = dict[tuple[str, int], tuple[float, float]]


def depth_claims(release: Release) -> list[Claim]:
    """Mean and sd (0..1) by LM and depth beside the release's own table; other LMs of the files have no paper value."""
    try:
        published = _published(release)
    except AbsentError:
        published = {}
    claims = []
    said = Said("Figure 12", "Hypernyms directly above the leaves fare best, those at the top of the taxonomy worst.")
    for lm in dict.fromkeys((*LMS, *release.lms(HELDOUT, **_FIELDS))):
        for depth in sorted({row.depth for row in HYPERNYMS.values()}):
            paper = published.get((lm, depth), (None, None))
            names = [f"fig12/{lm}/depth{depth}/{what}".lower() for what in ("mean", "sd")]
            words = [f"{which} over hypernyms of depth {depth}, {lm}" for which in ("mean F1", "SD of F1")]
            statements = [
                Statement(name, value, DECIMALS, what, said)
                for name, value, what in zip(names, paper, words, strict=True)
            ]
            claims += check(statements, partial(_cell, release, lm, depth, lm in LMS and not published))
    return claims


def _cell(release: Release, lm: str, depth: int, unpublished: bool) -> Sequence[Found]:
    if unpublished:
        raise AbsentError(DEPTHWISE)
    rows = release.runs(HELDOUT, lm=lm, **_FIELDS)
    of_depth = rows["category"].map({name: row.depth for name, row in HYPERNYMS.items()}) == depth
    n, mean, sd = mean_and_sd(rows.loc[of_depth, "f1"])
    weighted = release.rest_on_weighted(rows)
    return [Found(mean, n, weighted=weighted), Found(sd, n, weighted=weighted)]


def _published(release: Release) -> DepthMean:
    """(LM, depth) -> mean and sd of the release's table."""
    path = find(release.root, DEPTHWISE)
    words = ["experiment", "lm", "ablation_type", "random"]
    table = read_table(path, words, ["depth", "acc", "sd"], key=["lm", "depth"])
    rows = table[["lm", "depth", "acc", "sd"]].itertuples(index=False, name=None)
    return {(lm, int(depth)): (mean, sd) for lm, depth, mean, sd in rows}


PROBED = Said("Section 4", "In text alone, the LMs know most of the taxonomy.")
STATEMENTS = {
    "Qwen3-0.6B": Statement("probe/qwen3-0.6b", 78.5, 1, "text probe, Qwen3-0.6B, F1", PROBED),
    "Qwen3-1.7B": Statement("probe/qwen3-1.7b", 88.5, 1, "text probe, Qwen3-1.7B, F1", PROBED),
    "majority": Statement("probe/majority", 46.7, 1, "text probe, majority answer, F1", PROBED),
}
ABSENT = "source not available: the release has no file of the probe's questions with their answers."


def probe_claims(release: Release) -> list[Claim]:
    """Rows without a source; their notes tell what `coherence_backbone.csv` has of the same LM."""
    return [
        without_source(each, " ".join(filter(None, (ABSENT, _by_hypernym(release, lm)))))
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


# Heights of Figure 4's systematic curve for Qwen3-0.6B, in points.
FIGURE_4 = {10: 73.2, 20: 65.3, 30: 70.1, 40: 69.0}
LM = "Qwen3-0.6B"
_REMOVED_FIELDS = {"encoder": "DINOv2", "random_lm": False, "shuffle": "Original", "ablation": "Systematic"}

REMOVED = "Hypernyms that training never mentions as true are answered well all the same."
Removed = Mapping[int, Collection[str]]  # number of hypernyms -> their taxonomy names, Table 4


def removed_claims(release: Release, removed: Removed) -> list[Claim]:
    """Held-out F1 (points) under systematic ablation, over all 53 hypernyms and over the removed ones of Table 4."""
    claims = []
    for lm in dict.fromkeys((LM, *release.lms(HELDOUT, **_REMOVED_FIELDS))):
        for amount, names in sorted(removed.items()):
            paper = FIGURE_4.get(amount) if lm == LM else None
            said = Said("Figure 10" if lm.startswith("Llama") else "Figure 4", REMOVED)
            statements = [
                Statement(f"systematic/{lm}/{amount}/{which}".lower(), paper, 1, what, said, other=which == "removed")
                for which, what in (
                    ("all", f"{amount} hypernyms removed, mean over all {len(HYPERNYMS)}, {lm}"),
                    ("removed", f"{amount} hypernyms removed, mean over these, {lm}"),
                )
            ]
            claims += check(statements, partial(_removed_cell, release, lm, amount, frozenset(names)))
    return claims


def _removed_cell(release: Release, lm: str, amount: int, names: frozenset[str]) -> list[Found]:
    rows = release.runs(HELDOUT, lm=lm, amount=amount, **_REMOVED_FIELDS)
    out = rows["category"].isin(names)
    (n, mean, _), (n_out, mean_out, _), (_, mean_kept, _) = (
        mean_and_sd(values) for values in (rows["f1"], rows.loc[out, "f1"], rows.loc[~out, "f1"])
    )
    note = (
        f"On the {len(names)} removed hypernyms only; the published mean is over all {len(HYPERNYMS)}, of which "
        f"{len(HYPERNYMS) - len(names)} were kept ({100 * mean_kept:.1f} there): they are unseen only for leaves that "
        "have a removed hypernym too."
    )
    weighted = release.rest_on_weighted(rows)
    return [Found(100 * mean, n, weighted=weighted), Found(100 * mean_out, n_out, note, weighted=weighted)]
