"""Mixed-effects models as the page shows them: what each asks, its tables, and how far it can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.report.page import Data, Page
from analysis.report.table import Column, Table, table
from analysis.statistics.difference import EQUIVALENCE_MARGIN, Difference
from analysis.statistics.models import Fitted, check_residuals
from analysis.words import number, p_text

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
    fitted = page.study.fitted
    if not fitted:
        return None
    return {"effects": _effects(page), "reports": list(map(ModelReport, fitted)), "margin": EQUIVALENCE_MARGIN}


@dataclass(frozen=True)
class ModelReport:
    """A model of `analysis.statistics.models` as the page shows it."""

    fitted: Fitted

    @property
    def title(self) -> str:
        """Its question, and what it compares."""
        about = self.fitted.about
        return f"{about['question']}: {', '.join(filter(None, (about['comparison'], about['setup'])))}"

    @property
    def slug(self) -> str:
        """Its name in links."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())

    @property
    def question(self) -> str:
        """What it was fitted to answer, in a sentence."""
        return QUESTIONS.get(self.fitted.about["question"], self.fitted.about["question"])

    @property
    def tests(self) -> list[str]:
        """What it says by itself of each step that is tested for equivalence."""
        model, steps = self.fitted.model, self.fitted.steps
        terms = set() if model is None else set(model.fixed["term"])
        return [_tested(steps[term][1], self.fitted.difference(term)) for term in steps if term in terms]

    @property
    def diagnostics(self) -> list[str]:
        """How the fit went: rows and levels, convergence, singularity, and what has to be known."""
        model, notes = self.fitted.model, [self.fitted.note] * bool(self.fitted.note)
        if model is None:
            return notes
        levels = ", ".join(f"{name} {count}" for name, count in model.groups.items())
        went = "The fit converged" if model.converged else "The fit did not converge"
        kind = "singular" if model.singular else "not singular"
        return [
            f"{model.n} rows; levels of the random effects: {levels}.",
            f"{went} and is {kind}; REML criterion {model.criterion:.2f}.",
            _residuals(check_residuals(model)),
            *notes,
            *model.notes,
        ]

    @property
    def effects(self) -> Table:
        """Fixed effects of a fitted model, one row per term."""
        assert self.fitted.model is not None
        columns = [
            Column("effect", self._named, "noted"),
            Column("estimate", "estimate", digits=3, sign=True),
            Column("SE", "se", digits=3),
            Column("95 % interval", ("low", "high"), "between", digits=3, sign=True),
            Column("df", "df"),
            Column("t", "t", digits=2),
            Column("p", "p", "p"),
        ]
        caption = f"{self.title}: fixed effects on {UNIT}; df and p by Satterthwaite’s method."
        return table(f"model-{self.slug}", caption, self.fitted.model.fixed.to_dict("records"), columns)

    @property
    def variances(self) -> Table:
        """Random effects of a fitted model, one row per effect of a group, and the residual."""
        columns = [
            Column("group", "group", "text"),
            Column("effect", "term", "text"),
            Column("SD", "sd", digits=3),
            Column("correlation with the effects above it", lambda row: row["correlations"].replace("-", "−"), "text"),
        ]
        caption = f"{self.title}: standard deviations and correlations of the random effects."
        return table(f"random-{self.slug}", caption, self.fitted.variances(), columns)

    def _named(self, row: Mapping[Any, Any]) -> tuple[str, str]:
        """What a term stands for, and below it the term where that is something else."""
        term = str(row["term"])
        unit, step, _ = self.fitted.steps.get(term, ("points", term, 1.0))
        if unit != "points":
            return f"{term} ({unit})", term
        return step, "" if step == term else term


def _tested(effect: str, test: Difference) -> str:
    """What the model alone says of an effect, in one sentence."""
    low, high = (number(value, 2, sign=True) for value in (test.low90, test.high90))
    return (
        f"{effect}: difference {number(test.estimate, 2, sign=True)}, 90 % interval {low} to {high}, equivalence "
        f"within ±{test.margin:g} {p_text(test.p_equivalence)} (two one-sided tests); by this model alone "
        f"{test.decision}."
    )


def _residuals(checks: Mapping[str, float]) -> str:
    """The checks of a model's residuals, each beside what a normal distribution would give."""
    low, high = number(checks["sd_low"]), number(checks["sd_high"])
    share = checks["outside_share"]
    outside = f"; {100 * share:.1f} % of fitted values lie outside 0 to 100" * bool(share)
    return (
        f"Residuals: skewness {number(checks['skewness'], 2, sign=True)} and excess kurtosis "
        f"{number(checks['kurtosis'], 2, sign=True)} (0 if normal), {100 * checks['far_share']:.1f} % beyond three SDs "
        f"(0.3 % if normal), the farthest at {number(checks['largest'], sign=True)}; SD {low} in the third with the "
        f"lowest fitted values, {high} in that with the highest{outside}."
    )


def _effects(page: Page) -> Table:
    """Every effect but the intercepts, of every model."""
    effects = page.study.models
    rows = effects[effects["term"].notna() & (effects["term"] != "Intercept")]
    columns = [
        Column("question", "question", "text"),
        Column("effect", lambda row: (_effect(row), _where(row)), "noted"),
        Column("estimate", ("estimate", "low", "high"), "interval", digits=2, sign=True),
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
