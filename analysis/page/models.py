"""Mixed-effects models fitted to the study, confirmatory ones first."""

from collections.abc import Callable, Mapping
from typing import Any

from analysis.contrasts import EQUIVALENCE_MARGIN
from analysis.models import Fitted
from analysis.page.model import ModelReport
from analysis.page.page import Data, Page
from analysis.page.table import Column, Table, table

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
    reports = [report_of(fitted, page.short) for fitted in page.study.fitted]
    return {"effects": _effects(page), "reports": reports, "margin": EQUIVALENCE_MARGIN}


def report_of(fitted: Fitted, short: Callable[[str], str] = str) -> ModelReport:
    """The report of a model of `analysis.models`; `short` shortens names in its title."""
    about, steps = fitted.about, fitted.steps
    tested = [] if fitted.model is None else [term for term in steps if term in set(fitted.model.fixed["term"])]
    units = {term: unit for term, (unit, _, _) in steps.items() if unit != "points"}
    return ModelReport(
        title=short(f"{about['question']}: {', '.join(filter(None, (about['comparison'], about['setup'])))}"),
        question=QUESTIONS.get(about["question"], about["question"]),
        status=about["status"],
        unit=UNIT,
        formula=fitted.formula,
        model=fitted.model,
        notes=(fitted.note,) if fitted.note else (),
        equivalence=tuple((steps[term][1], fitted.equivalence(term)) for term in tested),
        labels=fitted.labels | {term: f"{term} ({unit})" for term, unit in units.items()},
    )


def _effects(page: Page) -> Table:
    """Every effect but the intercepts, of every model."""
    effects = page.study.models
    rows = effects[effects["term"].notna() & (effects["term"] != "Intercept")]
    columns = [
        Column("question", "question", "text"),
        Column("effect", lambda row: (page.short(_effect(row)), page.short(row["setup"])), "noted"),
        Column("estimate", lambda row: (row["estimate"], row["low"], row["high"]), "interval", digits=2, sign=True),
        Column("df", "df"),
        Column("t", "t", digits=2),
        Column("p", "p", "p"),
        Column("equivalence", "verdict", "prose"),
        Column("status", "status", "text"),
    ]
    caption = f"Effects on {UNIT} unless another unit is named, with 95 % intervals; df by Satterthwaite’s method."
    return table("models", caption, rows.to_dict("records"), columns, "models.csv")


def _effect(row: Mapping[Any, Any]) -> str:
    """What an effect stands for: a difference, or so many points by something."""
    return str(row["tost_step"]) if row["unit"] == "points" else f"{row['term']} ({row['unit']})"
