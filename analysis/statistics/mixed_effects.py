"""Linear mixed-effects models equal to R's lme4 and lmerTest: REML, Satterthwaite's df, p, intervals."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from analysis.statistics.formula import Design, MixedModelError, build_design, parse_formula
from analysis.statistics.reml import Evaluation, Products, cross_products

Array = NDArray[np.float64]

SMALLEST = 1e-8  # lmerTest's bound: directions of H with a smaller eigenvalue carry no information and are dropped


@dataclass(frozen=True)
class FixedEffects:
    """Estimate, standard error and degrees of freedom (each length p), and the number of directions dropped."""

    estimate_p: Array
    se_p: Array
    df_p: Array
    dropped: int


def fixed_effects(fit: Evaluation) -> FixedEffects:
    """Fixed effects at the optimum `fit`, on the scale of the rows as given."""
    products, variance = fit.products, fit.variance
    values, vectors = np.linalg.eigh(_unprofiled_hessian(fit))
    kept = values > SMALLEST
    root = vectors[:, kept] * np.sqrt(2 / values[kept])  # A = root root'
    R_inverse_pp = np.linalg.inv(products.R_pp)
    u_pp = np.linalg.solve(fit.S_pp, R_inverse_pp.T)  # column j: V(beta) e_j / sigma^2, on the orthonormal effects
    v_p = variance * np.einsum("jp,pj->j", R_inverse_pp, u_pp)
    df = []
    for u_p, v in zip(u_pp.T, v_p, strict=True):
        a_q = fit.zvq_qp @ u_p
        slope_t = 2 * variance * fit.by_entry(a_q, fit.times_lambda(a_q[None])[0])
        df.append(2 * v**2 / np.sum((np.append(slope_t, 2 * v) @ root) ** 2))
    estimate_p = R_inverse_pp @ (products.ols_p + products.y_scale * fit.gamma_p)
    return FixedEffects(estimate_p, products.y_scale * np.sqrt(v_p), np.array(df), int((~kept).sum()))


def _unprofiled_hessian(fit: Evaluation) -> Array:
    """Second derivative in (theta, s), s = sigma / its estimate, of log|V| + log|S| + 2 (n - p) log s + r^2 / s^2."""
    cross = -2 * fit.residual_gradient / fit.variance
    corner = 4 * (fit.products.n - fit.products.p)
    return np.block([[fit.unprofiled_hessian, cross[:, None]], [cross[None], np.array([[corner]])]])


STARTS = (1.0, 0.1, 3.0)  # sd of every effect over the residual sd; lme4 starts at 1. One correlated start is added
SAME = 1e-4  # starts whose criteria differ by less found the same optimum
FLAT = 1e-6  # at an optimum a Newton step promises less than this from the criterion
SINGULAR = 1e-4  # lme4's bound on the diagonal of T, here with effects scaled to mean square 1
EXACT = 1e-8  # a smaller residual variance, over that around the fixed effects alone, is rounding
FEW_LEVELS = 5  # fewer levels than this and a note says so


class Effect(NamedTuple):
    """One fixed effect, a row of `MixedModel.fixed`."""

    estimate: float
    se: float
    df: float
    t: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class MixedModel:
    """A fitted linear mixed-effects model; made by `mixed_model`.

    Attributes:
        formula: The formula that was fitted.
        fixed: Columns term, estimate, se, df (Satterthwaite), t, p (two-sided), low, high. The intercept is
            "Intercept"; x[T.b] is level b of factor x against its reference level.
        random: Columns group, term, sd, correlations. The last is a tuple of correlations with the earlier effects of
            the same block, as lme4 prints them: empty for the first effect, NaN beside an effect without variance.
        sigma: Residual standard deviation, in units of the response.
        criterion: REML criterion (-2 times the restricted log-likelihood).
        n: Number of rows.
        groups: Number of levels of each grouping factor.
        singular: Some effect, or some combination of the effects of a block, has no variance.
        converged: The gradient is zero, no direction leads down, and at least two starting points ended here.
        rows: Index of the data; columns fitted (fixed and predicted random effects) and residual.
        notes: What a reader of the table must know, one sentence each.
        data: The columns that the formula names, in the order of the rows.
    """

    formula: str
    fixed: pd.DataFrame
    random: pd.DataFrame
    sigma: float
    criterion: float
    n: int
    groups: dict[str, int]
    singular: bool
    converged: bool
    rows: pd.DataFrame
    notes: tuple[str, ...]
    data: pd.DataFrame

    def effect(self, term: str) -> Effect:
        """The fixed effect of `term`."""
        row = self.fixed.loc[self.fixed["term"] == term, list(Effect._fields)]
        return Effect(*row.to_numpy(float)[0])


def mixed_model(formula: str, data: pd.DataFrame, *, level: float = 0.95) -> MixedModel:
    """Fit a linear mixed-effects model by REML, as lme4 and lmerTest do.

    Args:
        formula: lme4 syntax, such as "f1 ~ arm + (1 | run_seed) + (1 | category)".
        data: One row per observation. Missing values are refused, not dropped.
        level: Level of the intervals.

    Returns:
        The model. A singular fit is a result and not an error: see `singular` and `notes`.

    Raises:
        MixedModelError: The formula cannot be read, or the data cannot support it.
    """
    if not 0 < level < 1:
        raise MixedModelError(f"level is {level:g}; give a number between 0 and 1, for example 0.95")
    design = build_design(parse_formula(formula), data)
    products = cross_products(design)
    with threadpool_limits(1, "blas"):  # such small matrices take three times as long on two threads
        fits = sorted((_minimise(products, start) for start in _starts(products)), key=lambda fit: fit.value)
    best = fits[0]
    if best.variance < EXACT:
        raise MixedModelError(f'the random effects of "{formula}" explain the response exactly; leave some out')
    agreeing = sum(fit.value - best.value < SAME for fit in fits)
    effects = fixed_effects(best)
    t = effects.estimate_p / effects.se_p
    half = stats.t.ppf(0.5 + level / 2, effects.df_p) * effects.se_p
    fixed = pd.DataFrame(
        {
            "term": design.names,
            "estimate": effects.estimate_p,
            "se": effects.se_p,
            "df": effects.df_p,
            "t": t,
            "p": 2 * stats.t.sf(np.abs(t), effects.df_p),
            "low": effects.estimate_p - half,
            "high": effects.estimate_p + half,
        }
    )
    groups = {block.group: block.levels for block in design.blocks}
    singular = [
        block.group for block, T in zip(design.blocks, best.T, strict=True) if np.abs(np.diagonal(T)).min() < SINGULAR
    ]
    flat = _is_optimum(best)
    return MixedModel(
        formula,
        fixed,
        _random_effects(design, best),
        products.y_scale * float(np.sqrt(best.variance)),
        best.criterion,
        products.n,
        groups,
        bool(singular),
        flat and agreeing > 1,
        pd.DataFrame(_rows(design, best, effects.estimate_p), index=data.index),
        _notes(groups, singular, flat, agreeing, fits, effects.dropped),
        design.data,
    )


def _starts(products: Products) -> list[Array]:
    diagonal = np.array([i == j for _, i, j in products.free], float)
    correlated = np.array([0.5 * (-1) ** (i + j) for _, i, j in products.free])
    return [*(size * diagonal for size in STARTS), correlated]


def _minimise(products: Products, start: Array) -> Evaluation:
    """The optimum reached from `start`; the minimiser asks for value, gradient and Hessian of one theta separately."""
    latest = Evaluation(products, start)

    def at(theta: Array) -> Evaluation:
        nonlocal latest
        if not np.array_equal(theta, latest.theta_t):
            latest = Evaluation(products, theta)
        return latest

    found = minimize(
        lambda theta: at(theta).value,
        start,
        method="trust-exact",
        jac=lambda theta: at(theta).gradient,
        hess=lambda theta: at(theta).hessian,
        options={"gtol": 1e-7},
    )
    return at(found.x)


def _is_optimum(fit: Evaluation) -> bool:
    values, vectors = np.linalg.eigh(fit.hessian)
    promise = np.sum((vectors.T @ fit.gradient) ** 2 / np.maximum(np.abs(values), 1e-6)) / 2
    return bool(promise < FLAT and values[0] > -1e-6 * max(1.0, values[-1]))


def _random_effects(design: Design, fit: Evaluation) -> pd.DataFrame:
    sigma = fit.products.y_scale * np.sqrt(fit.variance)
    rows = []
    for block, T, scale_k in zip(design.blocks, fit.T, fit.products.z_scale, strict=True):
        length_k = np.linalg.norm(T, axis=1)
        unit = T / np.where(length_k > 1e-6, length_k, np.nan)[:, None]
        correlation = np.clip(unit @ unit.T, -1, 1)
        for i, name in enumerate(block.names):
            earlier = tuple(float(r) for r in correlation[i, :i])
            rows.append((block.group, name, float(sigma * length_k[i] / scale_k[i]), earlier))
    return pd.DataFrame(rows, columns=["group", "term", "sd", "correlations"])


def _rows(design: Design, fit: Evaluation, estimate_p: Array) -> dict[str, Array]:
    """Fitted values and residuals, with the random effects as `ranef` of lme4 predicts them."""
    fitted_n, products = design.X_np @ estimate_p, fit.products
    for block, span, scale_k in zip(design.blocks, products.spans, products.z_scale, strict=True):
        effect_km = products.y_scale * fit.modes_q[span.columns].reshape(span.k, span.m) / scale_k[:, None]
        fitted_n = fitted_n + (block.values_nk * effect_km[:, block.level_n].T).sum(axis=1)
    return {"fitted": fitted_n, "residual": design.y_n - fitted_n}


def _notes(
    groups: dict[str, int], singular: list[str], flat: bool, agreeing: int, fits: list[Evaluation], dropped: int
) -> tuple[str, ...]:
    notes = []
    if singular:
        notes.append(
            f"Singular fit: a random effect of {' and '.join(dict.fromkeys(singular))}, or a combination of them, has "
            "an estimated variance of zero, so it adds nothing to standard errors, and the degrees of freedom rest on "
            "the other variances alone."
        )
    if not flat:
        notes.append("Not converged: the criterion still falls at the best point found, so do not use these numbers.")
    if agreeing < len(fits):
        gap = fits[-1].value - fits[0].value
        notes.append(
            f"{agreeing} of {len(fits)} starts found the best criterion; the worst ended {gap:.2g} above it, "
            "at another optimum or short of one."
        )
    if dropped:
        notes.append(
            f"{dropped} of {len(fits[0].theta_t) + 1} directions of the variance parameters are not determined by the "
            "data and were left out of the degrees of freedom; sds and standard errors that rest on them are arbitrary."
        )
    few = [f"{name} ({levels})" for name, levels in groups.items() if levels < FEW_LEVELS]
    if few:
        notes.append(f"Few levels: {', '.join(few)}; variances between so few can barely be estimated.")
    return tuple(notes)
