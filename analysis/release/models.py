"""The published mixed models on the release's rows, and nulls read honestly (EXPERIMENT sections 8 and 9)."""

from typing import NamedTuple

import pandas as pd
from scipy.special import stdtrit

from analysis.contrasts import EQUIVALENCE_MARGIN
from analysis.equivalence import Equivalence, tost
from analysis.mixed_effects import MixedModel, mixed_model
from analysis.mixed_formula import MixedModelError
from analysis.release.claims import interval, signed
from analysis.release.files import AbsentError


def fit(formula: str, data: pd.DataFrame) -> MixedModel:
    """`mixed_model`, where the rows allow it. Raises AbsentError where too few runs are there."""
    try:
        return mixed_model(formula, data)
    except MixedModelError as error:
        raise AbsentError(f"too few runs for the model ({error})") from None


class Effect(NamedTuple):
    """One fixed effect: a row of `MixedModel.fixed`."""

    estimate: float
    se: float
    df: float
    t: float
    p: float
    low: float
    high: float


def effect(model: MixedModel, term: str) -> Effect:
    """The fixed effect of `term`."""
    row = model.fixed.loc[model.fixed["term"] == term, list(Effect._fields)]
    return Effect(*row.to_numpy(float)[0])


def describe(model: MixedModel) -> str:
    """The model in one sentence."""
    faults = ["singular fit"] * model.singular + ["NOT CONVERGED"] * (not model.converged)
    return ", ".join([f"{model.formula}, REML", *faults]) + "."


def null_sentence(what: str, estimate: float, se: float, df: float) -> str:
    """`what` (in points) with its 95 % interval and the equivalence test at `EQUIVALENCE_MARGIN` points."""
    half = float(stdtrit(df, 0.975)) * se
    test = tost(estimate, se, df, margin=EQUIVALENCE_MARGIN)
    return f"{what} {signed(estimate)} points, {interval(estimate - half, estimate + half)}; {verdict(test)}."


def verdict(test: Equivalence) -> str:
    """An equivalence test in words."""
    return f"{test.verdict}, TOST at ±{test.margin:g}: p {p_text(test.p)}"


def p_text(p: float) -> str:
    """A p for a sentence: = .412, < .001."""
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".")
