"""The published mixed models on the release's rows (Figure 3), with equivalence tests for claims of no difference."""

from collections.abc import Sequence

import pandas as pd

from analysis.release.claims import Claim, Found, Said, Statement, check
from analysis.release.files import AbsentError
from analysis.release.scores import HELDOUT, Release
from analysis.statistics.difference import Difference, judged
from analysis.statistics.formula import MixedModelError
from analysis.statistics.mixed_effects import MixedModel, mixed_model
from analysis.words import interval, p_text, points


def fit(formula: str, data: pd.DataFrame) -> MixedModel:
    """`mixed_model`, where the rows allow it. Raises AbsentError where too few runs are there."""
    try:
        return mixed_model(formula, data)
    except MixedModelError as error:
        raise AbsentError(f"too few runs for the model ({error})") from None


def describe(model: MixedModel) -> str:
    """The model in one sentence."""
    faults = ["singular fit"] * model.singular + ["NOT CONVERGED"] * (not model.converged)
    return ", ".join([f"{model.formula}, REML", *faults]) + "."


def null_sentence(what: str, estimate: float, se: float, df: float) -> str:
    """`what` (in points) with its 95 % interval and the equivalence test at 5 points."""
    test = judged(estimate, se, df)
    return f"{what} {points(estimate)}, {interval(test.low, test.high)}; {verdict(test)}."


def verdict(test: Difference) -> str:
    """An equivalence test in words."""
    return f"{test.verdict}, TOST at ±{test.margin:g}: {p_text(test.p_equivalence)}"


FORMULA = "f1 ~ enc*lm + (1+enc*lm | seed) + (1+enc*lm | hypernym)"
ENCODERS = {"DINOv2": 1, "SigLIP": -1}
LMS = {"Qwen3-0.6B": 1, "Qwen3-1.7B": -1}

SAID = Said("Figure 3", "An image encoder that was trained with text does no better than one that was not.")
STATEMENTS = (
    Statement("encoder/t", 0.91, 2, "mixed model: t of the image encoder", SAID),
    Statement("encoder/p", 0.45, 2, "mixed model: p of the image encoder", SAID),
    Statement("encoder/df", None, 2, "mixed model: df of the image encoder", SAID),
    Statement("encoder/estimate", None, 2, "mixed model: half of DINOv2 minus SigLIP", SAID),
)


def encoder_claims(release: Release) -> list[Claim]:
    """The effect of the encoder, both coded +1 and -1, with the two Qwen3."""
    return check(STATEMENTS, lambda: _recompute(release))


def encoder_data(release: Release) -> pd.DataFrame:
    """Columns f1 (0..1), enc, lm (+1 or -1), seed, hypernym; raises AbsentError unless all four cells are there."""
    cells = [
        release.runs(HELDOUT, lm=lm, encoder=encoder, random_lm=False, shuffle="Original", ablation="Full")
        for lm in LMS
        for encoder in ENCODERS
    ]
    rows = pd.concat(cells, ignore_index=True)
    if rows["seed"].nunique() < 2:
        raise AbsentError("only runs of one seed, where the model needs several")
    coded = rows.assign(enc=rows["encoder"].map(ENCODERS), lm=rows["lm"].map(LMS))
    return coded.rename(columns={"category": "hypernym"})[["f1", "enc", "lm", "seed", "hypernym"]]


def _recompute(release: Release) -> Sequence[Found]:
    data = encoder_data(release)
    model = fit(FORMULA, data)
    encoder = model.effect("enc")
    # The coding is +1 against -1, so the difference is twice the estimate.
    gap = null_sentence("DINOv2 minus SigLIP", 200 * encoder.estimate, 200 * encoder.se, encoder.df)
    seeds = data["seed"].nunique()
    few = f"With {seeds} seeds df is {encoder.df:.1f}: a large p does not show agreement. " if encoder.p >= 0.05 else ""
    n = len(data)
    return [
        Found(encoder.t, n, f"{gap} {few}{describe(model)}"),
        Found(encoder.p, n),
        Found(encoder.df, n, "Satterthwaite; not printed in the paper."),
        Found(encoder.estimate, n, "Half of DINOv2 minus SigLIP, F1 in 0..1; not printed in the paper."),
    ]
