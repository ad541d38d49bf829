"""Logistic regression with crossed random effects by Laplace's approximation, as lme4's `glmer` with nAGQ = 1.

P(y = 1) = 1 / (1 + exp(-eta)), eta = X beta + sum over terms of sigma_t x_t u_t[level], u ~ N(0, 1). A term is one
effect of one group, independent of the others, as `(1 + x || group)` has them. With M the (n, q) matrix of all
sigma_t x_t at their levels, u at its mode, W = diag(w), w = mu (1 - mu) and A = M'WM + I, the deviance

    -2 log likelihood(beta, u) + u'u + log|A|

is minimal at the estimates of (beta, sigma). Its gradient is exact, so that a fit takes a few dozen evaluations (glmer,
which has none, takes hundreds). M is never formed: cross-products are sums over pairs of levels. The term with most
levels (images) has a diagonal block in A, which is eliminated first. What this leaves of the next group (leaves) is
sparse where a leaf shares images with few others: none where images keep their labels, two where labels are exchanged
between leaves. It is eliminated next by a sparse factor. The rest (categories, runs) is dense and small.

statsmodels' `BinomialBayesMixedGLM` was not taken: its variational posterior treats effects as independent of each
other, and needs a prior for the variances that moves them where levels are few.

Legend: n rows, p fixed effects, T terms, q levels of all terms together: m of the largest term, g of the next group if
that is sparse (else 0), r of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, diags_array, tril, triu
from scipy.sparse.linalg import SuperLU, splu
from scipy.special import expit

Array = NDArray[np.float64]

SPARSE = 8  # levels that meet each of a group's; with more, eliminating it first saves nothing
NEWTON_STEPS, NEWTON_SMALL = 100, 1e-14  # of the mode; the decrement, half of what a step gains of the deviance
SLOW = 0.1  # a step whose gain is not this much smaller than the last one calls for a new factor
LARGEST = 20.0  # of a fixed effect or standard deviation in log odds; beyond it an estimate is infinite
ZERO = 0.01  # a smaller standard deviation, in log odds, counts as none
STEP = 1e-4  # of the numerical derivative of the gradient


@dataclass(frozen=True, eq=False)
class Term:
    """An effect that varies over a group: its values (n,) and the level (0 .. levels - 1) of every row."""

    group: str
    name: str
    value_n: Array
    level_n: NDArray[np.int64]
    levels: int


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fitted model: fixed effects with their covariance, and the standard deviation of every term.

    sds: of the terms (T,). covariance_pp: by the second derivative of the deviance in all parameters but those at zero.
    """

    beta_p: Array
    covariance_pp: Array
    sds: Array
    deviance: float
    converged: bool
    evaluations: int


def fit_logistic(y_n: NDArray[np.bool_], X_np: Array, terms: Sequence[Term]) -> Logistic:
    """Fit by quasi-Newton steps from the model without random effects."""
    problem = Problem(y_n, X_np, terms)
    p = X_np.shape[1]
    found = minimize(
        problem.value_and_gradient,
        np.r_[_plain(y_n, X_np), np.full(len(terms), 0.5)],
        jac=True,
        method="L-BFGS-B",
        # At zero the deviance has no slope in sigma, whose sign is free: with a bound there a search would end at it.
        bounds=[(-LARGEST, LARGEST)] * (p + len(terms)),
        options={"maxiter": 200, "maxcor": 20, "ftol": 1e-8, "gtol": 1e-2},
    )
    free = np.r_[np.ones(p, bool), np.abs(found.x[p:]) > ZERO]
    gradient, hessian = problem.curvature(found.x, free)
    inverse = np.linalg.inv(hessian)
    estimate = found.x - inverse @ gradient  # the search stops early, and this last step is free
    covariance = 2 * inverse[:p, :p]
    sound = bool((np.abs(estimate) < LARGEST).all() and (np.linalg.eigvalsh(hessian) > 0).all())
    deviance = float(found.fun - gradient @ inverse @ gradient / 2)
    sd = np.abs(estimate[p:]) * free[p:]
    return Logistic(
        estimate[:p], np.asarray(covariance, float), sd, deviance, bool(found.success) and sound, found.nfev
    )


def _plain(y_n: NDArray[np.bool_], X_np: Array) -> Array:
    """Fixed effects without random ones, by Newton's method."""
    beta_p = np.zeros(X_np.shape[1])
    for _ in range(25):
        mu_n = expit(X_np @ beta_p)
        step = np.linalg.solve((X_np.T * (mu_n * (1 - mu_n))) @ X_np, X_np.T @ (y_n - mu_n))
        beta_p = beta_p + step
        if np.abs(step).max() < 1e-8:
            break
    return np.clip(beta_p, -LARGEST / 2, LARGEST / 2)


class Meeting(NamedTuple):
    """Two terms, and the k pairs of their levels that have rows.

    x_n: product of the terms' values. place_n: the pair of each row. first_k, second_k: the levels, as places in A.
    """

    a: int
    b: int
    x_n: Array
    place_n: NDArray[np.int64]
    first_k: NDArray[np.int64]
    second_k: NDArray[np.int64]


class Problem:
    """The deviance and its gradient in (beta, sigma). It remembers the last mode, from which the next search starts."""

    def __init__(self, y_n: NDArray[np.bool_], X_np: Array, terms: Sequence[Term]) -> None:
        by_size = sorted(range(len(terms)), key=lambda t: -terms[t].levels)
        first, inner = by_size[0], [t for t in by_size[1:] if terms[t].group == terms[by_size[1]].group]
        self.order = [first, *inner, *(t for t in by_size[1:] if t not in inner)]
        self.terms = [terms[t] for t in self.order]
        rows = np.argsort(self.terms[0].level_n, kind="stable")  # what is read together lies together
        self.y_n, self.X_np = y_n[rows].astype(float), X_np[rows]
        self.edges = np.cumsum([0, *(term.levels for term in self.terms)])
        self.m, self.q = self.terms[0].levels, int(self.edges[-1])
        self.level_Tn = np.array([term.level_n[rows] for term in self.terms])
        self.place_Tn = self.level_Tn + self.edges[:-1, None]
        self.x_Tn = np.array([term.value_n[rows] for term in self.terms])
        self.u_q = np.zeros(self.q)
        self.factor: Factor | None = None
        self.meetings = [self._meeting(a, b) for a in range(len(terms)) for b in range(a, len(terms))]
        self.inner = len(inner) if inner and self._joined() <= SPARSE else 0
        self.g = int(self.edges[1 + self.inner]) - self.m

    def _meeting(self, a: int, b: int) -> Meeting:
        pairs_k, place_n = np.unique(self.place_Tn[a] * self.q + self.place_Tn[b], return_inverse=True)
        return Meeting(a, b, self.x_Tn[a] * self.x_Tn[b], place_n, *divmod(pairs_k, self.q))

    def _joined(self) -> float:
        """How many levels of the second group the levels of the largest term join with each of them, on average."""
        _, _, _, _, first_k, second_k = self.meetings[1]
        joins = csr_matrix((np.ones(len(first_k)), (first_k, second_k - self.m)))
        return float((joins.T @ joins).nnz / self.terms[1].levels)

    def at(self, parameters: Array) -> "Mode":
        p = self.X_np.shape[1]
        return Mode(self, parameters[:p], parameters[p:][self.order])

    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        mode = self.at(parameters)
        return mode.value, mode.gradient

    def curvature(self, parameters: Array, free: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Gradient and, by differences, second derivative in the free parameters; of the others zero and identity."""
        gradient, hessian = self.at(parameters).gradient * free, np.eye(len(parameters))
        for k in np.flatnonzero(free):
            there = self.at(parameters + STEP * (np.arange(len(parameters)) == k))
            hessian[free, k] = (there.gradient - gradient)[free] / STEP
        return gradient, (hessian + hessian.T) / 2


class Mode:
    """The deviance at one (beta, sigma), with u at its mode."""

    def __init__(self, problem: Problem, beta_p: Array, sigma_T: Array) -> None:
        self.problem, self.sigma_T = problem, sigma_T
        self.scaled_Tn = sigma_T[:, None] * problem.x_Tn
        self.fixed_n = problem.X_np @ beta_p
        self._find(problem.u_q, problem.factor)
        problem.u_q, problem.factor = self.u_q, self.factor

    def _find(self, u_q: Array, factor: "Factor | None") -> None:
        """Newton's method, with the last factor for as long as that gets on."""
        problem = self.problem
        y_n, eta_n = problem.y_n, self.fixed_n + self.times(u_q)
        joint, last = _joint(y_n, eta_n, u_q), float("inf")
        for _ in range(NEWTON_STEPS):
            mu_n = expit(eta_n)
            slope_q = self.transposed(y_n - mu_n) - u_q
            step_q = slope_q if factor is None else factor.solve(slope_q)
            if factor is None or slope_q @ step_q > SLOW * last:
                factor = Factor(problem, self.sigma_T, mu_n * (1 - mu_n))
                step_q = factor.solve(slope_q)
            last = float(slope_q @ step_q)
            size, along_n = 1.0, self.times(step_q)
            # A gain smaller than the deviance's rounding is not looked for.
            while (moved := _joint(y_n, eta_n + size * along_n, u_q + size * step_q)) > joint and size**2 * last > 1e-6:
                size /= 2
            u_q, eta_n, joint = u_q + size * step_q, eta_n + size * along_n, moved
            if last < NEWTON_SMALL:
                break
        self.u_q, self.mu_n = u_q, expit(eta_n)
        self.factor = Factor(problem, self.sigma_T, self.mu_n * (1 - self.mu_n))
        self.value = joint + self.factor.log_det

    def times(self, u_q: Array) -> Array:
        """M u (n,)."""
        product_n: Array = np.einsum("tn,tn->n", self.scaled_Tn, u_q[self.problem.place_Tn])
        return product_n

    def transposed(self, v_n: Array) -> Array:
        """M' v (q,)."""
        return _by_level(self.problem, self.scaled_Tn * v_n)

    @cached_property
    def gradient(self) -> Array:
        """Derivative of the deviance in beta and sigma, in the order they came, by the implicit function theorem."""
        problem = self.problem
        left_n, w_n = problem.y_n - self.mu_n, self.factor.w_n
        inverse = self.factor.inverse_at(problem)  # (pairs, n): entries of A^-1 where the levels of two terms meet
        own_Tn = np.zeros_like(self.scaled_Tn)  # A^-1 M' at each row's own levels
        for (a, b, *_), inverse_n in zip(problem.meetings, inverse, strict=True):
            own_Tn[a] += inverse_n * self.scaled_Tn[b]
            if a != b:
                own_Tn[b] += inverse_n * self.scaled_Tn[a]
        leverage_n = np.einsum("tn,tn->n", own_Tn, self.scaled_Tn)
        # Twice the gradient of log|A| / 2 in eta, and what it does through the mode.
        bend_n = w_n * (1 - 2 * self.mu_n) * leverage_n
        through_q = self.factor.solve(self.transposed(bend_n))
        passed_n = self.times(through_q)
        direct_n = -2 * left_n + bend_n - w_n * passed_n  # by any change of eta at u fixed
        by_sigma_Tn = problem.x_Tn * self.u_q[problem.place_Tn]
        sigma_T = by_sigma_Tn @ direct_n + 2 * (own_Tn * problem.x_Tn) @ w_n
        sigma_T += (problem.x_Tn * through_q[problem.place_Tn]) @ left_n
        ordered_T = np.empty_like(sigma_T)
        ordered_T[problem.order] = sigma_T
        return np.r_[problem.X_np.T @ direct_n, ordered_T]


class Factor:
    """A = M'WM + I, factored block by block: (m) the largest term, (g) the second group, (r) the others.

    The first block is diagonal, d (m,); X (m, g + r) is what joins it to the others, divided by d. Without it (g) is
    sparse, as a leaf shares images with few others. Y (g, r) solves (g) for what joins it to (r), and root_rr is the
    root of what is then left of (r).
    """

    def __init__(self, problem: Problem, sigma_T: Array, w_n: Array) -> None:
        m, g, q = self.m, self.g, _ = problem.m, problem.g, problem.q
        self.w_n = w_n
        self.sums = [
            sigma_T[a] * sigma_T[b] * np.bincount(place_n, x_n * w_n, len(first_k))
            for a, b, x_n, place_n, first_k, _ in problem.meetings
        ]
        first, second = (np.concatenate([*(meeting[k] for meeting in problem.meetings), np.arange(q)]) for k in (4, 5))
        upper_qq = csr_matrix((np.concatenate([*self.sums, np.ones(q)]), (first, second)), (q, q))
        self.d_m = upper_qq.diagonal()[:m]
        joins, rest = upper_qq[:m, m:], upper_qq[m:, m:]
        self.X = (diags_array(1 / self.d_m) @ joins).tocsr()
        left = (rest + triu(rest, 1).T - joins.T @ self.X).tocsr()
        G_gr = left[:g, g:].toarray()
        self.K, self.Y_gr, log_det = left[:g, :g].tocsc(), G_gr, 0.0
        if g:
            self.lu = splu(self.K, "MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True})
            self.Y_gr, log_det = self.lu.solve(G_gr), np.log(self.lu.U.diagonal()).sum()
        self.root_rr = cholesky(left[g:, g:].toarray() - G_gr.T @ self.Y_gr, overwrite_a=True, check_finite=False)
        self.log_det = float(np.log(self.d_m).sum() + log_det + 2 * np.log(np.diagonal(self.root_rr)).sum())

    def solve(self, v_q: Array) -> Array:
        """A^-1 v."""
        v_g, v_r = np.split(v_q[self.m :] - self.X.T @ v_q[: self.m], [self.g])
        x_r = cho_solve((self.root_rr, False), v_r - self.Y_gr.T @ v_g, check_finite=False)
        x_g = self.lu.solve(v_g) - self.Y_gr @ x_r if self.g else v_g
        x = np.r_[x_g, x_r]
        return np.r_[v_q[: self.m] / self.d_m - self.X @ x, x]

    def inverse_at(self, problem: Problem) -> list[Array]:
        """Entries of A^-1 at the levels of each row (n,), for every pair of terms."""
        m, g = self.m, self.g
        upper_rr, _ = dpotri(self.root_rr)
        inverse_rr = np.triu(upper_rr) + np.triu(upper_rr, 1).T
        inverse_gr = -self.Y_gr @ inverse_rr
        inverse_wr = np.r_[inverse_gr, inverse_rr]  # w = g + r
        inverse_mr = -(self.X @ inverse_wr)
        if g:
            near_gg, place_g = inverse_where_filled(self.lu), self.lu.perm_c
            i, j = self.K.nonzero()
            inverse_k = near_gg[place_g[i], place_g[j]] - np.einsum("kr,kr->k", inverse_gr[i], self.Y_gr[j])
            inverse_gg = csr_matrix((inverse_k, (i, j)), (g, g))
            inner_mg, X_mr = (self.X[:, :g] @ inverse_gg).tocsr(), self.X[:, g:]

        def entries(a: int, b: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> Array:
            if b > problem.inner:
                return inverse_mr[i, j - m - g] if a == 0 else inverse_wr[i - m, j - m - g]
            if a > 0:
                return np.asarray(inverse_gg[i - m, j - m]).ravel()
            rows = X_mr[i]
            at = np.repeat(np.arange(len(i)), np.diff(rows.indptr))
            outer = np.bincount(at, rows.data * inverse_gr[j[at] - m, rows.indices], len(i))
            return -np.asarray(inner_mg[i, j - m]).ravel() - outer

        found, d_m = [], 1 / self.d_m
        for (a, b, _, place_n, i, j), sum_k in zip(problem.meetings[1:], self.sums[1:], strict=True):
            inverse_k = entries(a, b, i, j)
            if a == 0:
                d_m -= np.bincount(i, sum_k * inverse_k, m) / self.d_m
            found.append(inverse_k[place_n])
        return [d_m[problem.level_Tn[0]], *found]


def inverse_where_filled(lu: SuperLU) -> Array:
    """The inverse of a symmetric matrix, in the order of its factor, at the places where that has entries; else zero.

    By the equations of Takahashi, Fagan and Chin (1973), from the last row to the first.
    """
    below, d_g = tril(lu.L, -1, format="csc"), lu.U.diagonal()
    found_gg = np.zeros(below.shape)
    for j in range(len(d_g) - 1, -1, -1):
        of_column = slice(below.indptr[j], below.indptr[j + 1])
        i, v = below.indices[of_column], below.data[of_column]
        column = -(found_gg[i[:, None], i] @ v)
        found_gg[i, j] = found_gg[j, i] = column
        found_gg[j, j] = 1 / d_g[j] - v @ column
    return found_gg


def _by_level(problem: Problem, v_Tn: Array) -> Array:
    levels = [term.levels for term in problem.terms]
    return np.concatenate(list(map(np.bincount, problem.level_Tn, v_Tn, levels)))


def _joint(y_n: Array, eta_n: Array, u_q: Array) -> float:
    """-2 log likelihood + u'u."""
    return float(2 * (np.logaddexp(0, eta_n) - y_n * eta_n).sum() + u_q @ u_q)
