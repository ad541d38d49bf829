"""Mixed-effects models as the page shows them: what each asks, its tables, and how far it can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.report.page import Data, Page
from analysis.report.table import Column, Table, table
from analysis.statistics.difference import EQUIVALENCE_MARGIN, Difference
from analysis.statistics.mixed_effects import MixedModel
from analysis.statistics.models import Fitted
from analysis.statistics.residuals import Residuals, check_residuals
from analysis.words import number, p_text


@dataclass(frozen=True)
class ModelReport:
    """One model, ready to be shown; its intervals are taken to be at 95 %.

    question: what it was fitted to answer, in a sentence. status: "confirmatory" where it was fixed before any result,
    else "exploratory". unit: of the response, for example "held-out F1, in points". model: None where it could not be
    fitted, and then `notes` say why; with one they are said beside the model's own. tests: (effect, test), in the
    unit of the response. labels: formula term -> what it stands for.
    """

    title: str
    question: str
    status: str
    unit: str
    formula: str
    model: MixedModel | None
    notes: tuple[str, ...] = ()
    tests: tuple[tuple[str, Difference], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Its name in links."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())

    @property
    def sentences(self) -> list[str]:
        """Fixed effects as papers print them, without the intercept, then the tests of equivalence."""
        effects = [] if self.model is None else self.model.fixed.to_dict("records")
        said = [
            f"{self._named(row)[0]}: b = {number(row['estimate'], 2)}, SE = {number(row['se'], 2)}, "
            f"t({number(row['df'])}) = {number(row['t'], 2)}, {p_text(row['p'])}."
            for row in effects
            if row["term"] != "Intercept"
        ]
        return said + [test_sentence(effect, test) for effect, test in self.tests]

    @property
    def diagnostics(self) -> list[str]:
        """How the fit went: rows and levels, convergence, singularity, and what has to be known."""
        if self.model is None:
            return list(self.notes)
        levels = ", ".join(f"{name} {count}" for name, count in self.model.groups.items())
        went = "The fit converged" if self.model.converged else "The fit did not converge"
        kind = "singular" if self.model.singular else "not singular"
        size = f"{self.model.n} rows; levels of the random effects: {levels}."
        return [
            size,
            f"{went} and is {kind}; REML criterion {self.model.criterion:.2f}.",
            residual_sentence(check_residuals(self.model)),
            *self.notes,
            *self.model.notes,
        ]

    @property
    def effects(self) -> Table:
        """Fixed effects of a fitted model, one row per term."""
        assert self.model is not None
        columns = [
            Column("effect", self._named, "noted"),
            Column("estimate", "estimate", digits=3, sign=True),
            Column("SE", "se", digits=3),
            Column("95 % interval", lambda row: (row["low"], row["high"]), "between", digits=3, sign=True),
            Column("df", "df"),
            Column("t", "t", digits=2),
            Column("p", "p", "p"),
        ]
        caption = f"{self.title}: fixed effects on {self.unit}; df and p by Satterthwaite’s method."
        return table(f"model-{self.slug}", caption, self.model.fixed.to_dict("records"), columns)

    @property
    def variances(self) -> Table:
        """Random effects of a fitted model, one row per effect of a group, and the residual."""
        assert self.model is not None
        residual = {"group": "residual", "term": "", "sd": self.model.sigma, "correlations": ()}
        columns = [
            Column("group", "group", "text"),
            Column("effect", "term", "text"),
            Column("SD", "sd", digits=3),
            Column("correlation with the effects above it", lambda row: _listed(row["correlations"]), "text"),
        ]
        caption = f"{self.title}: standard deviations and correlations of the random effects."
        rows = [*self.model.random.to_dict("records"), residual]
        return table(f"random-{self.slug}", caption, rows, columns)

    def _named(self, row: Mapping[Any, Any]) -> tuple[str, str]:
        """What a term stands for, and below it the term where that is something else."""
        term = str(row["term"])
        label = self.labels.get(term, term)
        return label, "" if label == term else term


def test_sentence(effect: str, test: Difference) -> str:
    """What the model alone says of an effect, in one sentence."""
    low, high = (number(value, 2, sign=True) for value in (test.low90, test.high90))
    return (
        f"{effect}: difference {number(test.estimate, 2, sign=True)}, 90 % interval {low} to {high}, equivalence "
        f"within ±{test.margin:g} {p_text(test.p_equivalence)} (two one-sided tests); by this model alone "
        f"{test.decision}."
    )


def residual_sentence(checks: Residuals) -> str:
    """The checks of a model's residuals, each beside what a normal distribution would give."""
    low, high = number(checks.sd_low), number(checks.sd_high)
    outside = f"; {100 * checks.outside_share:.1f} % of fitted values lie outside 0 to 100" * bool(checks.outside_share)
    return (
        f"Residuals: skewness {number(checks.skewness, 2, sign=True)} and excess kurtosis "
        f"{number(checks.kurtosis, 2, sign=True)} (0 if normal), {100 * checks.far_share:.1f} % beyond three SDs "
        f"(0.3 % if normal), the farthest at {number(checks.largest, sign=True)}; SD {low} in the third with the "
        f"lowest fitted values, {high} in that with the highest{outside}."
    )


def _listed(correlations: tuple[float, ...]) -> str:
    return ", ".join(number(value, 2) if np.isfinite(value) else "undefined" for value in correlations)


QUESTIONS = {
    "pretraining": "Does pretraining of the LM matter?",
    "labels": "Does the result survive other labels?",
    "encoder": "Does the image encoder matter?",
    "LM": "Does the LM matter?",
    "coherence": "Do hypernyms whose images look alike fare better, beside what the LM knows of them in text?",
}
UNIT = "held-out F1, in points"


def models(page: Page) -> Data | None:
    """All effects in one table, and a report of each model; None without any."""
    if not page.study.fitted:
        return None
    reports = [report_of(fitted) for fitted in page.study.fitted]
    return {"effects": _effects(page), "reports": reports, "margin": EQUIVALENCE_MARGIN}


def report_of(fitted: Fitted) -> ModelReport:
    """The report of a model of `analysis.statistics.models`."""
    about, steps = fitted.about, fitted.steps
    tested = [] if fitted.model is None else [term for term in steps if term in set(fitted.model.fixed["term"])]
    units = {term: unit for term, (unit, _, _) in steps.items() if unit != "points"}
    return ModelReport(
        title=f"{about['question']}: {', '.join(filter(None, (about['comparison'], about['setup'])))}",
        question=QUESTIONS.get(about["question"], about["question"]),
        status=about["status"],
        unit=UNIT,
        formula=fitted.formula,
        model=fitted.model,
        notes=(fitted.note,) if fitted.note else (),
        tests=tuple((steps[term][1], fitted.difference(term)) for term in tested),
        labels=fitted.labels | {term: f"{term} ({unit})" for term, unit in units.items()},
    )


def _effects(page: Page) -> Table:
    """Every effect but the intercepts, of every model."""
    effects = page.study.models
    rows = effects[effects["term"].notna() & (effects["term"] != "Intercept")]
    columns = [
        Column("question", "question", "text"),
        Column("effect", lambda row: (_effect(row), _where(row)), "noted"),
        Column("estimate", lambda row: (row["estimate"], row["low"], row["high"]), "interval", digits=2, sign=True),
        Column("df", "df"),
        Column("t", "t", digits=2),
        Column("p", "p", "p"),
        Column("alone", "alone", "text"),
        Column("verdict", "verdict", "prose"),
        Column("fit", lambda row: "reduced" if row["reduced"] else "singular" if row["singular"] else "", "text"),
        Column("status", "status", "text"),
    ]
    caption = f"Effects on {UNIT} unless another unit is named, with 95 % intervals; df by Satterthwaite’s method. "
    caption += (
        "“Verdict”: of the contrast of the same two conditions, where there is one; “alone”: what the model by itself "
        "would say. “Singular”: a variance was estimated as zero, so it adds nothing to the standard error and df rest "
        "on the others; the reduced model below it leaves that effect out."
    )
    return table("models", caption, rows.to_dict("records"), columns, "models.csv")


def _effect(row: Mapping[Any, Any]) -> str:
    """What an effect means: a difference, or a number of points per unit of something."""
    return str(row["tost_step"]) if row["unit"] == "points" else f"{row['term']} ({row['unit']})"


def _where(row: Mapping[Any, Any]) -> str:
    """The setup of an effect, and which model it is from where the effect does not say so."""
    named = [row["setup"]] if row["unit"] == "points" else [row["comparison"], row["setup"]]
    return ", ".join(filter(None, named))
