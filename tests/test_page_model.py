"""A mixed-effects model on the page: tests, tables and diagnostics that follow from its numbers."""

import numpy as np
import pandas as pd
import pytest
from html_page import HtmlPage

from analysis.report.models import ModelReport
from analysis.report.report import template_environment
from analysis.statistics.mixed_effects import MixedModel, mixed_model
from analysis.statistics.models import Fitted


@pytest.fixture(scope="module")
def model() -> MixedModel:
    """F1 of 12 hypernyms under 4 seeds with two conditions, 8 points apart."""
    rng = np.random.default_rng(5)
    seed, category, half = (grid.ravel() for grid in np.meshgrid(range(4), range(12), (0.5, -0.5), indexing="ij"))
    f1 = 60 + 8 * half + rng.normal(0, 4, 12)[category] + rng.normal(0, 2, 4)[seed] + rng.normal(0, 1, len(seed))
    data = pd.DataFrame({"f1": f1, "labels": half, "seed": seed.astype(str), "category": category.astype(str)})
    return mixed_model("f1 ~ labels + (1 | seed) + (1 | category)", data)


def fitted(model: MixedModel | None, note: str) -> Fitted:
    about = {"status": "confirmatory", "question": "labels", "setup": "", "comparison": "<within> & across"}
    formula = "f1 ~ labels + (1 | seed) + (1 | category)"
    return Fitted(about, model, formula, note, {"labels": ("points", "original − across", 1.0)})


@pytest.fixture(scope="module")
def report(model: MixedModel) -> ModelReport:
    return ModelReport(fitted(model, "A note."))


def test_the_test_of_a_step_is_said_in_its_numbers(report: ModelReport, model: MixedModel) -> None:
    effect = model.fixed.set_index("term").loc["labels"]
    (said,) = report.tests
    assert said.startswith(f"original − across: difference +{effect['estimate']:.2f}, 90 % interval")
    assert said.endswith("by this model alone above.")
    assert report.slug == "labels-within-across"


def test_tables_hold_every_effect(report: ModelReport, model: MixedModel) -> None:
    terms = [row[0] for row in report.effects.rows]
    assert terms == [("Intercept", ""), ("original − across", "labels")]
    assert [row[1] for row in report.effects.rows] == model.fixed["estimate"].tolist()
    assert [(row[0], row[2]) for row in report.variances.rows] == [
        *zip(model.random["group"], model.random["sd"], strict=True),
        ("residual", model.sigma),
    ]
    size, went, residuals, note, *_ = report.diagnostics
    assert size == "96 rows; levels of the random effects: seed 4, category 12."
    assert went.startswith("The fit converged and is not singular")
    assert residuals.startswith("Residuals: skewness ")
    assert note == "A note."


def rendered(report: ModelReport) -> HtmlPage:
    class Beside:
        tables: tuple[str, ...] = ()

    return HtmlPage(template_environment().get_template("model.html").render(report=report, page=Beside()))


def test_the_partial_shows_it(report: ModelReport) -> None:
    page = rendered(report)
    assert "f1 ~ labels + (1 | seed) + (1 | category)" in page.text
    assert "labels: <within> & across" in page.text
    assert not page.all("within")
    assert all(sentence in page.text for sentence in report.tests)
    assert len(page.all("table")) == 2
    assert "not fitted" not in page.text


def test_a_model_that_could_not_be_fitted_says_why() -> None:
    report = ModelReport(fitted(None, "Too few seeds."))
    assert report.tests == []
    page = rendered(report)
    assert "not fitted" in page.text
    assert "Too few seeds." in page.text
    assert not page.all("table")
