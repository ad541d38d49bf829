"""Visual coherence in the release: its means, and how it goes with held-out F1 (paper section 5, Figure 7)."""

from collections.abc import Sequence

import pandas as pd
from scipy import stats

from analysis.release.claims import Claim, Found, Said, Statement, check
from analysis.release.files import BACKBONE, VISUAL_COHERENCE, WEIGHTED, AbsentError, find, read_table
from analysis.release.means import mean_and_sd
from analysis.release.models import describe, fit, null_sentence, verdict
from analysis.release.scores import HELDOUT, Release, taxonomy_names
from analysis.statistics.difference import judged
from analysis.statistics.intervals import correlation
from analysis.words import interval, number

FORMULA = "f1 ~ backbone_f1 + avg_cosine + (backbone_f1 + avg_cosine || category) + (1 | model:seed)"
LMS = ("Qwen3-0.6B", "Qwen3-1.7B")
FIGURE_7 = "align-dinov2+1b-things-7"
SHUFFLE_TYPES = ("original", "shuffled", "local_shuffled")  # original, across, within
COSINE_MARGIN = 0.05  # a sixth of the gap between original and across

ALIKE = Said("Section 5", "Hypernyms whose images look more alike are answered better.")
KNOWN = Said("Section 5", "How well the LM knows a hypernym in text does not tell how well it fares on images.")
SHOWN = Said("Figure 7", "Held-out F1 rises with the visual coherence of the hypernym.")
AVERAGE = Said("Section 5", "Dealing images across categories lowers visual coherence; dealing them within does not.")
MODEL = (
    Statement("coherence/t", 3.338, 3, "mixed model: t of visual coherence", ALIKE),
    Statement("coherence/p", "< 0.01", 2, "mixed model: p of visual coherence", ALIKE),
    Statement("coherence/df", None, 2, "mixed model: df of visual coherence", ALIKE),
    Statement("coherence/estimate", None, 2, "mixed model: slope of visual coherence", ALIKE),
    Statement("lm_f1/t", 0.047, 3, "mixed model: t of the LM's own F1 in text", KNOWN),
    Statement("lm_f1/p", 0.962, 3, "mixed model: p of the LM's own F1 in text", KNOWN),
    Statement("lm_f1/df", None, 2, "mixed model: df of the LM's own F1 in text", KNOWN),
)
WEIGHTED_R = Statement("fig7/r/weighted_f1", 0.43, 2, "correlation with coherence, support-weighted F1", SHOWN)
MACRO_R = Statement("fig7/r/macro_f1", 0.43, 2, "correlation with coherence, macro F1", SHOWN, other=True)
MEANS = (
    Statement("visual_coherence/original/mean", 0.27, 2, "visual coherence, original labels: mean", AVERAGE),
    Statement("visual_coherence/original/sd", 0.07, 2, "visual coherence, original labels: SD", AVERAGE),
    Statement("visual_coherence/across/mean", 0.12, 2, "visual coherence, across-category labels: mean", AVERAGE),
    Statement("visual_coherence/across/sd", 0.02, 2, "visual coherence, across-category labels: SD", AVERAGE),
    Statement("visual_coherence/within/mean", 0.27, 2, "visual coherence, within-category labels: mean", AVERAGE),
    Statement("visual_coherence/original/bird", 0.30, 2, "visual coherence of birds, original labels", AVERAGE),
)


def coherence_claims(release: Release) -> list[Claim]:
    """The mixed model of held-out F1 on coherence and the LM's own F1; Figure 7's correlation; means of coherence."""
    return [
        *check(MODEL, lambda: _model(release)),
        *check([WEIGHTED_R], lambda: [_figure_7_weighted(release)]),
        *check([MACRO_R], lambda: [_figure_7_macro(release)]),
        *check(MEANS, lambda: _means(release)),
    ]


def coherence_data(release: Release) -> pd.DataFrame:
    """Original labels at 100 % ablation, DINOv2, both Qwen3, one row per run and hypernym.

    Columns: run_name, model, seed, category (hypernym), f1 (held-out, macro), backbone_f1 (the LM's in text; both in
    0..1), avg_cosine. Raises AbsentError unless both LMs are there.
    """
    fields = {"encoder": "DINOv2", "random_lm": False, "shuffle": "Original", "ablation": "Full"}
    rows = pd.concat([release.runs(HELDOUT, lm=lm, **fields) for lm in LMS], ignore_index=True)
    own = release.backbone.query("shuffle_type == 'original'").rename(columns={"hypernym": "category"})
    joined = rows.merge(own, on=["lm", "category"], validate="many_to_one").rename(columns={"lm": "model"})
    if lacking := set(LMS) - set(joined["model"]):
        raise AbsentError(f"no {min(lacking)} with original labels in {BACKBONE}")
    return joined[["run_name", "model", "seed", "category", "f1", "backbone_f1", "avg_cosine"]]


def _model(release: Release) -> Sequence[Found]:
    data = coherence_data(release)
    n, model = len(data), fit(FORMULA, data)
    coherence, own = model.effect("avg_cosine"), model.effect("backbone_f1")
    # A hundredth of cosine is to F1 in points what one is to F1 in 0..1.
    ends = interval(coherence.low, coherence.high)
    slope = f"{number(coherence.estimate, sign=True)} points of F1 for 0.01 more cosine, {ends}."
    spread = 100 * float(data["backbone_f1"].std())
    null = null_sentence("One SD more of the LM's own F1 goes with", spread * own.estimate, spread * own.se, own.df)
    unprinted = "Satterthwaite; not printed in the paper."
    return [
        Found(coherence.t, n, f"{slope} {describe(model)}"),
        Found(coherence.p, n),
        Found(coherence.df, n, unprinted),
        Found(coherence.estimate, n, "F1 in 0..1 by cosine; not printed in the paper."),
        Found(own.t, n, null),
        Found(own.p, n),
        Found(own.df, n, unprinted),
    ]


def _figure_7(release: Release) -> pd.DataFrame:
    """Rows of `coherence_data` of the run that the figure shows."""
    run = coherence_data(release).query("run_name == @FIGURE_7")
    if run.empty:
        raise AbsentError(f"no run {FIGURE_7}")
    return run


def _figure_7_weighted(release: Release) -> Found:
    run, table = _figure_7(release), release.weighted
    if FIGURE_7 not in table.index:
        raise AbsentError(f"no run {FIGURE_7} in {WEIGHTED}")
    f1 = table.T[FIGURE_7].reindex(run["category"]).to_numpy(float)
    r, low, high, n = correlation(f1, run["avg_cosine"].to_numpy())
    return Found(r, n, f"With support-weighted F1, which the figure shows; {interval(low, high, 2)}.")


def _figure_7_macro(release: Release) -> Found:
    runs = {name: _correlation(rows) for name, rows in coherence_data(release).groupby("run_name")}
    r, low, high, n = _correlation(_figure_7(release))
    every = [each for each, *_ in runs.values()]
    least, most = (number(end, 2, sign=True) for end in (min(every), max(every)))
    note = (
        "With macro F1, the measure of the rest of the paper; the figure shows support-weighted F1. "
        f"{interval(low, high, 2)}; over the {len(every)} runs r is {least} to {most}."
    )
    return Found(r, n, note)


def _correlation(run: pd.DataFrame) -> tuple[float, float, float, int]:
    return correlation(run["f1"].to_numpy(), run["avg_cosine"].to_numpy())


def _means(release: Release) -> Sequence[Found]:
    path = find(release.root, VISUAL_COHERENCE)
    words = ["shuffle_type", "category"]
    table = read_table(path, words, ["avg_cosine"], key=words)
    table["category"] = taxonomy_names(path, table["category"])
    wide = table.pivot(index="category", columns="shuffle_type", values="avg_cosine")
    if lacking := set(SHUFFLE_TYPES) - set(wide.columns):
        raise AbsentError(f"no shuffle_type {min(lacking)} in {VISUAL_COHERENCE}")
    (n, original, original_sd), (_, across, across_sd), (_, within, _) = (
        mean_and_sd(wide[name]) for name in SHUFFLE_TYPES
    )
    gaps = (wide["local_shuffled"] - wide["original"]).to_numpy(float)
    test = judged(float(gaps.mean()), float(stats.sem(gaps)), n - 1, margin=COSINE_MARGIN, unit="cosine")
    same = (
        f"The paper calls it identical to the original's: difference {number(test.estimate, 4, sign=True)}, "
        f"{interval(test.low, test.high, 4)}, paired by hypernym; {verdict(test)}."
    )
    return [
        Found(original, n),
        Found(original_sd, n),
        Found(across, n),
        Found(across_sd, n),
        Found(within, n, same),
        Found(float(wide["original"]["bird"]), 1),
    ]
