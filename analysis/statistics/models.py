"""Mixed models on a study's own runs, one function per question (the paper's own among them).

All are of held-out test F1 per run and hypernym, in points, over the runs of the headline, fitted as lme4 and lmerTest
do. Two conditions are coded +0.5 and -0.5, so that an estimate is the difference between them; coherence counts in
hundredths of cosine. Where seeds or hypernyms are too few for a formula, the next simpler one is taken and the note
says so; where none can be fitted, the row says why.

Where a model is about the same two cells as one of `statistics.contrasts`, that contrast decides and its verdict is
repeated here; `alone` is what the model by itself would say. Where a fit is singular, a reduced model follows as a row
of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.cells import CELL, LM_NAMES, Cell, Input, Names, Setup, encoder_names, parts, setup_of, short_name, where
from analysis.statistics.contrasts import CONFIRMATORY, EXPLORATORY, Contrast
from analysis.statistics.difference import Difference, judged
from analysis.statistics.formula import MixedModelError
from analysis.statistics.mixed_effects import MixedModel, mixed_model

ABOUT = ["status", "question", "setup", "comparison"]
EFFECT_COLUMNS = [
    *(*ABOUT, "term", "estimate", "unit", "se", "df", "t", "p", "low", "high"),
    *("tost_step", "tost_difference", "tost_p", "alone", "verdict"),
    *("n", "levels", "singular", "reduced", "converged", "formula", "note"),
]
VARIANCE_COLUMNS = [*ABOUT, "group", "term", "sd", "correlations"]
CHECKS = ("skewness", "kurtosis", "far_share", "largest", "sd_low", "sd_high", "outside_share")
FAR = 3.0  # residual sds; of a normal distribution 0.3 % lie beyond
DIFFERENCE = (  # x: the coded factor; draw: empty, or a random intercept
    "f1 ~ {x} + (1 + {x} | seed) + (1 + {x} | category){draw}",
    "f1 ~ {x} + (1 | seed) + (1 + {x} | category){draw}",
    "f1 ~ {x} + (1 | seed) + (1 | category){draw}",
    "f1 ~ {x} + (1 + {x} | category){draw}",
    "f1 ~ {x} + (1 | category){draw}",
)
ENCODER_AND_TWO_LMS = "f1 ~ encoder*lm + (1 + encoder*lm | seed) + (1 + encoder*lm | category)"  # the paper's
ENCODER_AND_MORE_LMS = "f1 ~ encoder*C(lm, contr.sum) + (1 + encoder | seed) + (1 + encoder | category)"
COHERENCES = {  # its definition, and whether predictors are centred: in words
    ("all_pairs", False): "as in the paper",
    ("all_pairs", True): "predictors centred",
    ("centred", True): "predictors centred, cosine without the mean image",
}
COHERENCE = (
    "f1 ~ {x} + ({x} || category) + (1 | lm:seed)",  # the paper's, with the probe
    "f1 ~ {x} + (1 | category) + (1 | lm:seed)",
    "f1 ~ {x} + (1 | category)",
)


def fit_models(
    runs: pd.DataFrame, categories: pd.DataFrame, coherence: pd.DataFrame, text: pd.DataFrame
) -> list["Fitted"]:
    """The models of all questions, confirmatory ones first.

    `runs`: `shown_runs`; `coherence`: columns map, category, all_pairs, centred; `text`: of `probe_points`.
    """
    rows = model_rows(runs, categories)
    found = [*weights_models(rows), *label_models(rows), *encoder_models(rows), *lm_models(rows)]
    found += coherence_models(rows, coherence, text)
    return sorted(found, key=lambda fitted: fitted.about["status"] != CONFIRMATORY)


def effects_table(models: Sequence["Fitted"], contrasts: Sequence[Contrast] = ()) -> pd.DataFrame:
    """One row per model and fixed effect.

    Columns: status, question, setup, comparison (which model); term, estimate with its unit, se, df (Satterthwaite),
    t, p, low, high (95 %); tost_step: the change whose effect tost_difference (points) is tested for equivalence, with
    tost_p; alone (the model's own decision), verdict (of the contrast of the same cells where there is one); n (rows),
    levels (of each group), singular, reduced (the simpler model beside a singular one), converged, formula, note. A
    model that could not be fitted is one row without numbers, the reason in its note.
    """
    decided = {(c.one, c.other): c.f1 for c in contrasts if c.kind != "chance"}
    rows = [row for fitted in models for row in fitted.effects(decided.get(fitted.cells) if fitted.cells else None)]
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def variances_table(models: Sequence["Fitted"]) -> pd.DataFrame:
    """One row per model and random effect: its sd in points ("residual" last), and as text its correlations with the
    earlier effects of its block. Columns: status, question, setup, comparison, group, term, sd, correlations."""
    return pd.DataFrame([row for fitted in models for row in fitted.variances()], columns=VARIANCE_COLUMNS)


def check_residuals(model: MixedModel) -> dict[str, float]:
    """Do the residuals of a model of F1 look as it assumes: normal, and as wide at every fitted value?

    F1 lies between 0 and 100, so both must fail somewhat where scores come near an end. Estimates bear that well;
    intervals and p less so, hence the bootstrap beside them (`analysis.statistics.intervals`), which assumes neither.

    Returns:
        skewness, kurtosis (in excess of the normal distribution's): 0 if normal. far_share: beyond 3 sds, 0..1 (normal:
        .003). largest: in sds, with its sign. sd_low, sd_high: of the rows with the lowest and the highest third of
        fitted values, in points. outside_share: fitted values below 0 or above 100, 0..1.
    """
    residual, fitted = model.rows["residual"].to_numpy(float), model.rows["fitted"].to_numpy(float)
    scaled = residual / model.sigma
    low, high = np.quantile(fitted, [1 / 3, 2 / 3])
    found = (
        stats.skew(residual),
        stats.kurtosis(residual),
        (np.abs(scaled) > FAR).mean(),
        scaled[np.abs(scaled).argmax()],
        residual[fitted <= low].std(),
        residual[fitted >= high].std(),
        ((fitted < 0) | (fitted > 100)).mean(),
    )
    return dict(zip(CHECKS, map(float, found), strict=True))


def checks_table(models: Sequence["Fitted"]) -> pd.DataFrame:
    """One row per model that was fitted: which one, n (rows), and its `check_residuals`."""
    fits = [(fitted.about, fitted.model) for fitted in models if fitted.model is not None]
    rows = [{**about, "n": model.n, **check_residuals(model)} for about, model in fits]
    return pd.DataFrame(rows, columns=[*ABOUT, "n", *CHECKS])


def model_rows(runs: pd.DataFrame, categories: pd.DataFrame) -> pd.DataFrame:
    """Held-out test F1, one row per run and hypernym, with what models need of the runs.

    Columns: run_id, category, f1, cell, CELL, encoder, lm, map, seed (data and run seed, shared by conditions), draw
    (permutation of a shuffle, seed of a random LM), rest (what else tells setups apart, as text).
    """
    names = Names(runs["cell"])
    rest = [names.rest(cell.setup) for cell in runs["cell"]]
    about = runs[["cell", *CELL, "encoder", "lm", "map"]].assign(
        seed="data " + runs["data_seed"].astype(str) + ", run " + runs["run_seed"].astype(str),
        draw=runs["permutation"].astype(str) + ", " + runs["lm_seed"].where(runs["lm_init"] == "random", 0).astype(str),
        rest=[f" · {words}" if words else "" for words in rest],
    )
    heldout = categories[(categories["split"] == "test") & (categories["group"] == "heldout")]
    return heldout[["run_id", "category", "f1"]].merge(about, left_on="run_id", right_index=True)


@dataclass(frozen=True)
class Fitted:
    """One model of one question; `model` is None where `note` says why it could not be fitted.

    steps: term -> (unit of its estimate; the change tested for equivalence, and how many units that is). cells: the two
    whose difference it is, where it is that of two. reduced: a simpler model beside a singular one.
    """

    about: dict[str, str]
    model: MixedModel | None
    formula: str
    note: str
    steps: dict[str, tuple[str, str, float]]
    cells: tuple[Cell, Cell] | None = None
    reduced: "Fitted | None" = None

    def difference(self, term: str) -> Difference:
        """The effect of the step of `term`, in points. For a model that was fitted."""
        assert self.model is not None
        effect, size = self.model.effect(term), self.steps[term][2]
        return judged(size * effect.estimate, size * effect.se, effect.df)

    def effects(self, decided: Difference | None = None, reduced: bool = False) -> Iterator[dict[str, Any]]:
        """Rows of `effects_table`; `decided`: the contrast of the same cells."""
        if self.model is None:
            yield {**self.about, "formula": self.formula, "note": self.note}
            return
        levels = ", ".join(f"{name} {number}" for name, number in self.model.groups.items())
        fit = {"n": self.model.n, "levels": levels, "singular": self.model.singular, "converged": self.model.converged}
        fit |= {
            "reduced": reduced,
            "formula": self.formula,
            "note": " ".join(filter(None, [self.note, *self.model.notes])),
        }
        for term in self.model.fixed["term"]:
            unit, step, _ = self.steps.get(term, ("points", "", np.nan))
            row: dict[str, Any] = {**self.about, "term": term, "unit": unit, **self.model.effect(term)._asdict(), **fit}
            if not step:
                yield row | {"verdict": ""}
                continue
            test = self.difference(term)
            row |= {"tost_step": step, "tost_difference": test.estimate, "tost_p": test.p_equivalence}
            yield row | {"alone": str(test.decision), "verdict": (decided or test).verdict}
        if self.reduced is not None:
            yield from self.reduced.effects(decided, reduced=True)

    def variances(self) -> Iterator[dict[str, Any]]:
        """Rows of `variances_table`."""
        if self.model is None:
            return
        for row in self.model.random.to_dict("records"):
            told = ", ".join(f"{r:.2f}" if np.isfinite(r) else "undefined" for r in row["correlations"])
            yield {**self.about, "group": row["group"], "term": row["term"], "sd": row["sd"], "correlations": told}
        yield {**self.about, "group": "residual", "term": "", "sd": self.model.sigma, "correlations": ""}


def fit_first(
    about: dict[str, str],
    formulas: Sequence[str],
    data: pd.DataFrame,
    steps: dict[str, tuple[str, str, float]],
    cells: tuple[Cell, Cell] | None = None,
) -> Fitted:
    """The first of `formulas`, richest first, that the rows of `data` can support; with a simpler one if singular."""
    refused = ""
    for place, formula in enumerate(formulas):
        try:
            model = mixed_model(formula, data)
        except MixedModelError as error:
            refused = refused or f"{formula} could not be fitted: {error}."
            continue
        note = f"Simplified, since {refused}" if refused else ""
        reduced = _reduced(about, formulas[place + 1 :], data, steps) if model.singular else None
        return Fitted(about, model, formula, note, steps, cells, reduced)
    return Fitted(about, None, formulas[0], refused, steps, cells)


def _reduced(
    about: dict[str, str], simpler: Sequence[str], data: pd.DataFrame, steps: dict[str, tuple[str, str, float]]
) -> Fitted | None:
    """The first simpler model that is not singular, or the simplest that can be fitted."""
    found = None
    for formula in simpler:
        try:
            model = mixed_model(formula, data)
        except MixedModelError:
            continue
        found = Fitted(about, model, formula, "Reduced, since the richer model is singular.", steps)
        if not model.singular:
            break
    return found


def difference(
    about: dict[str, str], factor: str, one: pd.DataFrame, other: pd.DataFrame, formulas: Sequence[str] = ()
) -> Fitted:
    """`one` less `other`, sets of `model_rows`, on the hypernyms that both have; by `formulas`, else `DIFFERENCE`.

    `factor` names the column that is +0.5 in the one and -0.5 in the other.
    """
    data = pd.concat([one.assign(**{factor: 0.5}), other.assign(**{factor: -0.5})], ignore_index=True)
    data = data[data["category"].isin(set(one["category"]) & set(other["category"]))]
    paired = data.groupby("seed")[factor].nunique().max() > 1
    # A permutation, or a random LM, moves all its runs; it can be told from their seeds only where the two are crossed.
    draws = data.groupby(factor)[["draw", "seed"]].nunique()
    pairs = data[[factor, "draw", "seed"]].drop_duplicates().groupby(factor).size()
    draw = f" + (1 | draw:{factor})" if ((draws["draw"] > 1) & (pairs > draws["seed"])).any() else ""
    plain = DIFFERENCE if paired else DIFFERENCE[1:]
    ladder = [*formulas, *(formula.format(x=factor, draw=draw) for formula in plain)]
    sides = [list(side["cell"].unique()) for side in (one, other)]
    cells = (sides[0][0], sides[1][0]) if [len(side) for side in sides] == [1, 1] else None
    return fit_first(about, ladder, data, {factor: ("points", about["comparison"], 1.0)}, cells)


def weights_models(rows: pd.DataFrame) -> list[Fitted]:
    """Does pretraining matter? Pretrained against random-init LM, for each setup and arm that has both."""
    found = []
    for here in parts(rows, lambda cell: (cell.setup, cell.labels)).values():
        cells = dict(iter(here.groupby("lm_init")))
        if len(cells) == 2:
            setup, arm = here[["setup", "arm"]].iloc[0]
            comparison = f"{LM_NAMES['pretrained']} − {LM_NAMES['random']}, {arm}"
            about = _about(CONFIRMATORY, "pretraining", setup, comparison)
            found.append(difference(about, "weights", cells["pretrained"], cells["random"]))
    return found


def label_models(rows: pd.DataFrame) -> list[Fitted]:
    """Does it survive other labels? Original, within- and across-category labels pair by pair, pretrained LM."""
    found = []
    order = ["original", "within", "across"]
    pretrained = where(rows, lambda cell: cell.pretrained and cell.labels.shuffle in order)
    for here in parts(pretrained, setup_of).values():
        known = parts(here, lambda cell: cell.labels)
        ordered = sorted(known, key=lambda labels: (order.index(labels.shuffle), labels))
        for one, other in combinations(ordered, 2):
            if one.shuffle != other.shuffle:
                (setup, arm), other_arm = known[one][["setup", "arm"]].iloc[0], known[other]["arm"].iloc[0]
                status = CONFIRMATORY if other.shuffle == "across" else EXPLORATORY
                about = _about(status, "labels", setup, f"{arm} − {other_arm}")
                found.append(difference(about, "labels", known[one], known[other]))
    return found


def encoder_models(rows: pd.DataFrame) -> list[Fitted]:
    """Does the image encoder matter? The first against each other one, on LMs that both were run with.

    Original labels, pretrained LMs. With two LMs this is the paper's model; its term encoder:lm asks whether the
    difference depends on the LM.
    """
    found = []
    names = encoder_names(rows["encoder"].unique())
    for here in parts(_originals(rows), lambda cell: cell.setup.rest).values():
        rest = here["rest"].iloc[0]
        encoders = dict(iter(here.groupby("encoder", sort=False)))
        first, *others = encoders
        for encoder in others:
            one, other = encoders[first], encoders[encoder]
            lms = [lm for lm in one["lm"].unique() if lm in set(other["lm"])]
            comparison = f"{names[str(first)]} − {names[str(encoder)]}"
            about = _about(EXPLORATORY, "encoder", _listed(lms) + str(rest), comparison)
            if not lms:
                formula = DIFFERENCE[0].format(x="encoder", draw="")
                found.append(Fitted(about, None, formula, "No LM was run with both.", {}))
                continue
            formulas: tuple[str, ...] = ()
            one, other = one[one["lm"].isin(lms)], other[other["lm"].isin(lms)]
            if len(lms) == 2:
                formulas = (ENCODER_AND_TWO_LMS,)
                one, other = (part.assign(lm=part["lm"].map({lms[0]: 0.5, lms[1]: -0.5})) for part in (one, other))
            elif len(lms) > 2:
                formulas = (ENCODER_AND_MORE_LMS,)
            fitted = difference(about, "encoder", one, other, formulas)
            if len(lms) == 2:
                fitted.steps["lm"] = ("points", f"{short_name(lms[0])} − {short_name(lms[1])}", 1.0)
                fitted.steps["encoder:lm"] = ("points", "difference of the two differences", 1.0)
            found.append(fitted)
    return found


def lm_models(rows: pd.DataFrame) -> list[Fitted]:
    """Does the LM matter? The first against each other one with the same encoder; original labels, pretrained."""
    found, names = [], encoder_names(rows["encoder"].unique())
    for here in parts(_originals(rows), _encoder_and_rest).values():
        encoder, rest = here[["encoder", "rest"]].iloc[0]
        lms = dict(iter(here.groupby("lm", sort=False)))
        first, *others = lms
        for lm in others:
            about = _about(EXPLORATORY, "LM", f"{names[str(encoder)]}{rest}", f"{short_name(first)} − {short_name(lm)}")
            found.append(difference(about, "lm", lms[first], lms[lm]))
    return found


def coherence_models(rows: pd.DataFrame, coherence: pd.DataFrame, text: pd.DataFrame) -> list[Fitted]:
    """Do hypernyms that look alike fare better, beside what the LM knows of them in text? Original labels, pretrained.

    One model per encoder over its LMs for each of `COHERENCES`. coherence: in hundredths of cosine, pooled as in the
    paper; probe_f1: item F1 of the text probe, in points. Random slopes that are independent of the intercept mean
    something else where zero is elsewhere: centred predictors are less their means over these rows, so that the
    intercept is F1 at average coherence. Without a probe of an LM's own, coherence alone.
    """
    return [fitted for kind in COHERENCES for fitted in _coherence_models(rows, coherence, text, *kind)]


def _coherence_models(
    rows: pd.DataFrame, coherence: pd.DataFrame, text: pd.DataFrame, column: str, centred: bool
) -> list[Fitted]:
    known = coherence[["map", "category"]].assign(coherence=100 * coherence[column])
    data = _originals(rows).merge(known, on=["map", "category"])
    data = data.merge(text[["cell", "category", "text_item_f1"]], on=["cell", "category"], how="left")
    data = data.rename(columns={"text_item_f1": "probe_f1"})
    found, encoders = [], encoder_names(rows["encoder"].unique())
    for here in parts(data, _encoder_and_rest).values():
        encoder, rest = here[["encoder", "rest"]].iloc[0]
        probed = here[here["probe_f1"].notna()].astype({"probe_f1": float})
        use, names = (probed, ["probe_f1", "coherence"]) if len(probed) else (here, ["coherence"])
        comparison = f"{encoders[str(encoder)]}, {COHERENCES[column, centred]}"
        about = _about(EXPLORATORY, "coherence", f"{_listed(use['lm'].unique())}{rest}", comparison)
        spread = {name: float(use.drop_duplicates(["lm", "category"])[name].std()) for name in names}
        units = {"coherence": "points by 0.01 of cosine", "probe_f1": "points by point of text F1, items"}
        words = {"coherence": f"one SD more ({spread['coherence'] / 100:.3f} of cosine)"}
        words["probe_f1"] = f"one SD more ({spread.get('probe_f1', np.nan):.1f} points of text F1, items)"
        use = use.assign(**{name: use[name] - centred * use[name].mean() for name in names})
        steps = {name: (units[name], words[name], spread[name]) for name in names}
        fitted = fit_first(about, [formula.format(x=" + ".join(names)) for formula in COHERENCE], use, steps)
        told = []
        if len(names) == 1:
            told.append("No text probe of these LMs was given, so what they know in text is not held constant.")
        elif lacking := sorted(set(here["lm"]) - set(use["lm"])):
            told.append(f"Without a text probe, left out: {_listed(lacking)}.")
        note = " ".join(filter(None, [*told, fitted.note]))
        found.append(replace(fitted, note=note))
    return found


def _originals(rows: pd.DataFrame) -> pd.DataFrame:
    return where(rows, lambda cell: cell.pretrained and cell.labels.shuffle == "original")


def _encoder_and_rest(cell: Cell) -> tuple[str, Input, Setup]:
    return cell.setup.encoder, cell.setup.features, cell.setup.rest


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(short_name, names))


def _about(status: str, question: str, setup: object, comparison: str) -> dict[str, str]:
    return {"status": status, "question": question, "setup": str(setup), "comparison": comparison}
