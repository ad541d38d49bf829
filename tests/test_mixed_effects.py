"""Mixed models against R's published output, a dense second implementation, statsmodels, and simulated truth."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from lme4_data import dyestuff, dyestuff2, pastes, penicillin, sleepstudy
from scipy import stats
from scipy.linalg import block_diag

from analysis.statistics import mixed_effects
from analysis.statistics.formula import MixedModelError, build_design, parse_formula
from analysis.statistics.mixed_effects import MixedModel, mixed_model
from analysis.statistics.reml import Evaluation, cross_products

# As lme4 and lmerTest print them for lme4's example data (help pages, tutorials), to a unit of the last digit.
# Formula, data, REML criterion; sds of the random effects, then the residual; estimate, se, df (None: not printed).
PUBLISHED = [
    ("Yield ~ 1 + (1 | Batch)", dyestuff, 319.6543, [42.00, 49.51], [(1527.50, 19.38, None)]),
    ("Yield ~ 1 + (1 | Batch)", dyestuff2, 161.8283, [0.000, 3.716], [(5.6656, 0.6784, 29.0000)]),
    (
        "diameter ~ 1 + (1 | plate) + (1 | sample)", penicillin, 330.8606, [0.8467, 1.9316, 0.5499],
        [(22.9722, 0.8086, None)],
    ),
    ("strength ~ 1 + (1 | batch/cask)", pastes, 246.9907, [1.2874, 2.9041, 0.8234], [(60.0533, 0.6769, None)]),
    (
        "Reaction ~ Days + (1 | Subject)", sleepstudy, 1786.4651, [37.12, 30.99],
        [(251.4051, 9.7467, 22.8102), (10.4673, 0.8042, 161.0000)],
    ),
    (
        "Reaction ~ Days + (Days | Subject)", sleepstudy, 1743.6283, [24.7404, 5.9221, 25.5918],
        [(251.405, 6.8246, 17.000), (10.467, 1.5458, 17.000)],
    ),
    (
        "Reaction ~ Days + (Days || Subject)", sleepstudy, 1743.669, [25.051, 5.988, 25.565],
        [(251.405, 6.885, None), (10.467, 1.560, None)],
    ),
]  # fmt: skip


def like_printed(number: float) -> float:
    """One unit of the last digit of a number as typed."""
    digits = str(number).partition(".")[2]
    return 10.0 ** -len(digits)


@pytest.mark.parametrize(("formula", "data", "criterion", "sds", "effects"), PUBLISHED)
def test_lme4_examples(formula, data, criterion, sds, effects) -> None:
    model = mixed_model(formula, data())
    assert model.converged
    assert model.criterion == pytest.approx(criterion, abs=like_printed(criterion))
    for found, expected in zip([*model.random["sd"], model.sigma], sds, strict=True):
        assert found == pytest.approx(expected, abs=like_printed(expected))
    for row, (estimate, se, df) in zip(model.fixed.itertuples(), effects, strict=True):
        assert row.estimate == pytest.approx(estimate, abs=like_printed(estimate))
        assert row.se == pytest.approx(se, abs=like_printed(se))
        assert row.t == pytest.approx(estimate / se, rel=1e-3)
        if df is not None:
            assert row.df == pytest.approx(df, abs=1e-3)


def test_the_whole_answer_for_sleepstudy() -> None:
    model = mixed_model("Reaction ~ Days + (Days | Subject)", sleepstudy())
    assert list(model.fixed) == ["term", "estimate", "se", "df", "t", "p", "low", "high"]
    assert model.fixed["term"].tolist() == ["Intercept", "Days"]
    assert model.fixed["p"][1] == pytest.approx(3.264e-06, rel=1e-3)  # pbkrtest's help page prints it
    half = stats.t.ppf(0.975, 17) * model.fixed["se"]
    np.testing.assert_allclose(model.fixed["high"] - model.fixed["estimate"], half, rtol=1e-6)
    np.testing.assert_allclose(model.fixed["estimate"] - model.fixed["low"], half, rtol=1e-6)
    assert model.random[["group", "term"]].to_numpy().tolist() == [["Subject", "Intercept"], ["Subject", "Days"]]
    (first, second) = model.random["correlations"]
    assert first == ()
    assert second[0] == pytest.approx(0.066, abs=1e-3)
    assert (model.n, model.groups, model.singular, model.notes) == (180, {"Subject": 18}, False, ())
    wide = mixed_model("Reaction ~ Days + (Days | Subject)", sleepstudy(), level=0.99).fixed
    assert (wide["high"] > model.fixed["high"]).all()


# "Scaled residuals" of R's summary: residuals over sigma.
SCALED_RESIDUALS = [
    ("Reaction ~ Days + (Days | Subject)", sleepstudy, [-3.9536, -0.4634, 0.0231, 0.4634, 5.1793]),
    ("diameter ~ 1 + (1 | plate) + (1 | sample)", penicillin, [-2.07923, -0.67140, 0.06292, 0.58377, 2.97959]),
    ("Yield ~ 1 + (1 | Batch)", dyestuff, [-1.4117, -0.7634, 0.1418, 0.7792, 1.8296]),
]


@pytest.mark.parametrize(("formula", "data", "quartiles"), SCALED_RESIDUALS)
def test_residuals_are_those_that_r_prints(formula, data, quartiles) -> None:
    table = data()
    model = mixed_model(formula, table)
    found = np.quantile(model.rows["residual"] / model.sigma, [0, 0.25, 0.5, 0.75, 1])
    for one, expected in zip(found, quartiles, strict=True):
        assert one == pytest.approx(expected, abs=like_printed(expected))
    response = table[formula.partition(" ~")[0]]
    assert (model.rows.sum(axis=1) - response).abs().max() < 1e-9 * response.abs().max()


def test_a_singular_fit_is_said_and_keeps_its_numbers() -> None:
    model = mixed_model("Yield ~ 1 + (1 | Batch)", dyestuff2())
    assert model.singular
    assert model.converged
    assert len(model.notes) == 1
    assert model.notes[0].startswith("Singular fit: a random effect of Batch")
    plain = smf.ols("Yield ~ 1", dyestuff2()).fit()
    assert model.fixed["t"][0] == pytest.approx(plain.tvalues.iloc[0])
    assert model.fixed["p"][0] == pytest.approx(plain.pvalues.iloc[0])


# --- A second implementation: dense matrices and finite differences, as lmerTest does it, on nobody's published data.


def crossed(seed: int = 0, subjects: int = 9, items: int = 7, missing: float = 0.3) -> pd.DataFrame:
    """Unbalanced crossed data with known effects: x 0.5, condition "b" -0.4, correlated intercepts and slopes."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        [(s, i, c) for s in range(subjects) for i in range(items) for c in "ab"], columns=["s", "i", "c"]
    )
    covariance = [[0.6, 0.2], [0.2, 0.25]]
    own = rng.multivariate_normal([0, 0], covariance, subjects, method="cholesky")  # an SVD has other signs elsewhere
    of_item = rng.normal(0, 0.5, items)
    table["x"] = rng.normal(1, 1, len(table))
    noise = rng.normal(0, 0.8, len(table))
    s, i = table["s"].to_numpy(), table["i"].to_numpy()
    table["y"] = 2 + own[s, 0] + of_item[i] + (0.5 + own[s, 1]) * table["x"] - 0.4 * (table["c"] == "b") + noise
    return table[rng.random(len(table)) >= missing].reset_index(drop=True)


class Dense:
    """y = X beta + Z Lambda u + e by n x n matrices, nothing cached, nothing scaled."""

    def __init__(self, formula: str, data: pd.DataFrame) -> None:
        self.design = build_design(parse_formula(formula), data)
        self.free = [
            (s, i, j) for s, b in enumerate(self.design.blocks) for i in range(len(b.names)) for j in range(i + 1)
        ]

    def covariance(self, theta: np.ndarray) -> np.ndarray:
        T = [np.zeros((len(b.names), len(b.names))) for b in self.design.blocks]
        for (s, i, j), value in zip(self.free, theta, strict=True):
            T[s][i, j] = value
        columns, factors = [], []
        for block, factor in zip(self.design.blocks, T, strict=True):
            for level in range(block.levels):
                columns.append(block.values_nk * (block.level_n == level)[:, None])
                factors.append(factor)
        root = np.hstack(columns) @ block_diag(*factors)
        return np.eye(len(root)) + root @ root.T

    def parts(self, theta: np.ndarray) -> tuple[float, np.ndarray, float]:
        """log|V| + log|X'V^-1X|, (X'V^-1X)^-1 and the weighted residual sum of squares."""
        V, X, y = self.covariance(theta), self.design.X_np, self.design.y_n
        S = X.T @ np.linalg.solve(V, X)
        rest = y - X @ np.linalg.solve(S, X.T @ np.linalg.solve(V, y))
        return (
            np.linalg.slogdet(V)[1] + np.linalg.slogdet(S)[1],
            np.linalg.inv(S),
            float(rest @ np.linalg.solve(V, rest)),
        )

    def deviance(self, theta_sigma: np.ndarray) -> float:
        logs, _, squares = self.parts(theta_sigma[:-1])
        free = len(self.design.y_n) - self.design.X_np.shape[1]
        return logs + free * np.log(2 * np.pi * theta_sigma[-1] ** 2) + squares / theta_sigma[-1] ** 2

    def variances(self, theta_sigma: np.ndarray) -> np.ndarray:
        return theta_sigma[-1] ** 2 * np.diagonal(self.parts(theta_sigma[:-1])[1])

    def df(self, at: np.ndarray) -> np.ndarray:
        """Satterthwaite's df by finite differences in (theta, sigma)."""
        step, unit = 1e-3, np.eye(len(at))
        f = self.deviance
        H = np.array(
            [
                [(f(at + a + b) - f(at + a - b) - f(at - a + b) + f(at - a - b)) / (4 * step**2) for b in step * unit]
                for a in step * unit
            ]
        )
        g = np.array([(self.variances(at + a) - self.variances(at - a)) / (2 * step) for a in step * unit])
        return 2 * self.variances(at) ** 2 / np.einsum("ap,ab,bp->p", g, 2 * np.linalg.inv(H), g)


FORMULAS = [
    "y ~ x + c + (1 + x | s) + (1 | i)",
    "y ~ x * c + (1 + x || s) + (1 | i)",
    "y ~ 0 + c + I(x**2) + (0 + x | s) + (1 | i:c)",
]


def theta_of(model: MixedModel) -> np.ndarray:
    """lme4's theta from the table of random effects: the Cholesky factor of each block's covariance over sigma^2."""
    starts = [row for row, earlier in enumerate(model.random["correlations"]) if not earlier]
    theta = []
    for start, end in zip(starts, [*starts[1:], len(model.random)], strict=True):
        block = model.random.iloc[start:end]
        lower = np.zeros((len(block), len(block)))
        for i, earlier in enumerate(block["correlations"]):
            lower[i, : i + 1] = [*earlier, 1]
        correlation = np.tril(lower, -1) + lower.T
        root = np.linalg.cholesky(correlation * np.outer(block["sd"], block["sd"])) / model.sigma
        theta.append(root[np.tril_indices(len(block))])
    return np.concatenate(theta)


@pytest.mark.parametrize("formula", FORMULAS)
def test_equals_dense_matrices_with_finite_differences(formula) -> None:
    data = crossed(1)  # no correlation at the edge
    model, dense = mixed_model(formula, data), Dense(formula, data)
    at = np.append(theta_of(model), model.sigma)
    assert model.criterion == pytest.approx(dense.deviance(at), abs=1e-8)
    np.testing.assert_allclose(model.fixed["se"], np.sqrt(dense.variances(at)), rtol=1e-6)
    np.testing.assert_allclose(model.fixed["df"], dense.df(at), rtol=1e-3)
    nearby = np.random.default_rng(0).normal(0, 0.05, (20, len(at)))
    assert all(dense.deviance(at + away) > model.criterion for away in nearby)


@pytest.mark.parametrize("formula", FORMULAS)
def test_gradient_and_hessian_equal_finite_differences(formula) -> None:
    products = cross_products(build_design(parse_formula(formula), crossed()))
    theta = np.random.default_rng(1).normal(0.5, 0.4, len(products.free))
    here, step = Evaluation(products, theta), 1e-5
    ends = [(Evaluation(products, theta + d), Evaluation(products, theta - d)) for d in step * np.eye(len(theta))]
    gradient = [(up.value - down.value) / (2 * step) for up, down in ends]
    hessian = [(up.gradient - down.gradient) / (2 * step) for up, down in ends]
    np.testing.assert_allclose(here.gradient, gradient, rtol=1e-5, atol=1e-6 * np.abs(gradient).max())
    np.testing.assert_allclose(here.hessian, hessian, rtol=1e-5, atol=1e-6 * np.abs(hessian).max())


# --- statsmodels, where it can express the model: one group, estimates and variances (its standard errors differ).


@pytest.mark.parametrize("random", ["1", "x"])
def test_equals_statsmodels_with_one_group(random) -> None:
    data = crossed(3)
    ours = mixed_model(f"y ~ x * c + ({random} | s)", data)
    theirs = smf.mixedlm("y ~ x * c", data, groups="s", re_formula=random).fit(reml=True, gtol=1e-8)
    ours_by_name = ours.fixed.set_index("term")["estimate"].reindex(theirs.fe_params.index)
    np.testing.assert_allclose(ours_by_name, theirs.fe_params, atol=1e-6)
    np.testing.assert_allclose(ours.random["sd"], np.sqrt(np.diagonal(theirs.cov_re)), rtol=1e-4)
    assert ours.sigma**2 == pytest.approx(theirs.scale, rel=1e-5)
    assert ours.criterion == pytest.approx(-2 * theirs.llf, abs=1e-6)


# --- What must not change, and what must.


def same(one: MixedModel, other: MixedModel, columns: list[str], factor: float = 1.0, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(other.fixed[columns], factor * one.fixed[columns], rtol=rtol)


def test_row_order_names_of_levels_and_units_do_not_matter() -> None:
    data, formula = crossed(), "y ~ x + c + (1 + x | s) + (1 | i)"
    model = mixed_model(formula, data)
    numbers = ["estimate", "se", "df", "t", "p", "low", "high"]
    same(model, mixed_model(formula, data.sample(frac=1, random_state=1)), numbers)
    same(model, mixed_model(formula, data.set_index(np.zeros(len(data), int))), numbers)
    same(model, mixed_model(formula, data.assign(s=(data["s"] * 7919 % 11).map("s{}".format))), numbers)
    same(model, mixed_model("y ~ x + c + (1 | i) + (x | s)", data), numbers)
    for factor in (1e-6, 1e6):
        scaled = mixed_model(formula, data.assign(y=factor * data["y"]))
        same(model, scaled, ["estimate", "se", "low", "high"], factor)
        same(model, scaled, ["df", "t", "p"])
        np.testing.assert_allclose(scaled.random["sd"], factor * model.random["sd"], rtol=1e-5)
        slope = mixed_model(formula, data.assign(x=data["x"] / factor))
        same(model, slope, ["df", "t", "p"])
        assert slope.fixed["estimate"][1] == pytest.approx(factor * model.fixed["estimate"][1])
    shifted = mixed_model(formula, data.assign(y=data["y"] + 1e6))
    np.testing.assert_allclose(shifted.fixed["t"][1:], model.fixed["t"][1:], rtol=1e-5)


def test_short_forms_mean_the_long_ones() -> None:
    data, numbers = crossed(), ["estimate", "se", "df"]
    pairs = [
        ("y ~ x + (x || s)", "y ~ x + (1 | s) + (0 + x | s)"),
        ("y ~ x + (1 | s/i)", "y ~ x + (1 | s) + (1 | s:i)"),
        ("y ~ x + (1 + x*c || s)", "y ~ x + (1 | s) + (0 + x | s) + (0 + c | s) + (0 + x:c | s)"),
        ("y ~ (1|s)+x", "y ~ 1 + x + ( 1 | (s) )"),
        ("y ~ 0 + x + (1 | s)", "y ~ x - 1 + (1 | s)"),
    ]
    for short, long in pairs:
        same(mixed_model(long, data), mixed_model(short, data), numbers, rtol=1e-7)
    assert mixed_model("y ~ x + (1 | s/i)", data).groups == {"s": 9, "s:i": data.groupby(["s", "i"]).ngroups}


def test_correlated_effects_and_other_groups_are_other_models() -> None:
    data = crossed()
    se = [
        mixed_model(f"y ~ x + {random}", data).fixed["se"][1]
        for random in ("(1 | s)", "(x || s)", "(x | s)", "(x | i)", "(x | s) + (1 | i)", "(1 | s:i)")
    ]
    assert np.diff(sorted(se)).min() > 1e-5 * max(se)


def test_factors_with_unused_levels_and_names_with_spaces() -> None:
    data = crossed()
    levels = pd.Categorical(data["c"], categories=["z", "b", "a"])
    model = mixed_model("y ~ `a name` + (1 | s)", data.assign(**{"a name": levels}))
    assert model.fixed["term"].tolist() == ["Intercept", "a name[T.a]"]
    assert model.fixed["t"][1] == pytest.approx(-mixed_model("y ~ c + (1 | s)", data).fixed["t"][1])


def test_honest_about_starts_few_levels_and_undetermined_variances(monkeypatch) -> None:
    data = crossed(subjects=3)
    model = mixed_model("y ~ x + (1 | s) + (1 | i)", data)
    assert model.notes == ("Few levels: s (3); variances between so few can barely be estimated.",)
    confounded = mixed_model("y ~ C(i) + (1 | i)", crossed())
    assert any(note.startswith("1 of 2 directions") and "arbitrary" in note for note in confounded.notes)
    monkeypatch.setattr(mixed_effects, "minimize", lambda fun, start, **_: type("Found", (), {"x": start}))
    stopped = mixed_model("y ~ x + (1 | s) + (1 | i)", data)
    assert not stopped.converged
    assert stopped.notes[0].startswith("Not converged")
    assert "1 of 4 starts" in stopped.notes[1]


@pytest.mark.parametrize(
    ("formula", "complaint"),
    [
        ("y ~ x", "no random term"),
        ("y + (1 | s)", "not of the form"),
        ("y ~ x + 1 | s", "brackets of its own"),
        ("y ~ x + (1 | s", "brackets do not match"),
        ("y ~ x + (1 | s | i)", "more than one bar"),
        ("y ~ x + ( | s)", "incomplete"),
        ("y ~ x + (0 | s)", "no effects"),
        ("y ~ x + (1 | s*i)", 'must be columns joined by ":"'),
        ("y ~ x +* c + (1 | s)", "cannot be used"),
        ("y ~ I(x^2) + (1 | s)", "cannot be used"),
        ("y ~ nope + (1 | s)", '"nope" is not a column'),
        ("y ~ x + (1 | nope)", '"nope" is not a column'),
        ("y ~ gap + (1 | s)", 'column "gap" has 1 missing values'),
        ("gap ~ x + (1 | s)", 'column "gap" has 1 missing values'),
        ("y ~ x + (1 | gap)", 'column "gap" has 1 missing values'),
        ("y ~ log(x) + (1 | s)", "missing or not finite"),
        ("y ~ x + one + (1 | s)", 'factor "one" has one level'),
        ("y ~ x + (one | s)", 'factor "one" has one level'),
        ("y ~ x + const + (1 | s)", "const in .* constant"),
        ("y ~ x + twice + (1 | s)", "twice in .* combination"),
        ("y ~ x + (1 + const | s)", "const in .* constant"),
        ("y ~ x + (1 | one)", "one level only"),
        ("y ~ x + (1 | row)", "random effects for .* rows"),
        ("y ~ x + (1 | s) + (x | s)", '"Intercept" of s is written twice'),
        ("y ~ x + (1 | s:i) + (1 | i:s)", "written twice"),
        ("c ~ x + (1 | s)", "not one numeric column"),
        ("const ~ x + (1 | s)", "leave nothing to explain"),
        ("mean ~ 1 + (1 | s)", "explain the response exactly"),
        ("y ~ 0 + (1 | s)", "0 fixed effects"),
    ],
)
def test_mistakes_are_named(formula, complaint) -> None:
    data = crossed()
    data = data.assign(
        gap=data["x"].where(data.index != 3),
        one="q",
        const=1.0,
        twice=2 * data["x"] + 1,
        row=np.arange(len(data)),
        mean=data.groupby("s")["y"].transform("mean"),
    )
    with pytest.raises(MixedModelError, match=complaint):
        mixed_model(formula, data)


def test_the_level_of_the_intervals_is_checked() -> None:
    with pytest.raises(MixedModelError, match="level is 95"):
        mixed_model("y ~ x + (1 | s)", crossed(), level=95)


# --- Simulated truth.


def coverage(runs: int) -> tuple[int, int]:
    """How often 95 % intervals hold the true slope .5: of the mixed model, and of a regression blind to subjects."""
    held = np.zeros(2, int)
    for seed in range(runs):
        data = crossed(1000 + seed, subjects=10, items=5)
        mixed = mixed_model("y ~ x + c + (x | s) + (1 | i)", data).fixed.iloc[1]
        blind = smf.ols("y ~ x + c", data).fit().conf_int().loc["x"]
        held += [mixed["low"] < 0.5 < mixed["high"], blind[0] < 0.5 < blind[1]]
    return int(held[0]), int(held[1])


def check_coverage(runs: int) -> None:
    held, blind = coverage(runs)
    low, high = stats.binom.ppf([0.001, 0.999], runs, 0.95)
    assert low <= held <= high
    assert blind < low


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    check_coverage(1000)
