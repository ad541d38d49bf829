"""Fixed effects with standard errors and Satterthwaite's degrees of freedom, as in lmerTest (Kuznetsova et al. 2017).

The variance v of a fixed effect is a function of the variance parameters, so it is itself an estimate. Its sampling
variance is g' A g with g its gradient and A = 2 H^-1, H the Hessian of the unprofiled REML deviance, and
df = 2 v^2 / (g' A g). lmerTest takes H and g by finite differences in (theta, sigma); here both are exact, in
(theta, sigma / estimate), which changes nothing but the units.

Legend: p fixed effects, q random effects in all, t free entries of theta.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.mixed_reml import Evaluation

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
