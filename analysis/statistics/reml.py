"""The REML deviance of a linear mixed model over its relative covariance factor, with exact gradient and Hessian.

y = X beta + Z b + e, with b ~ N(0, sigma^2 Lambda Lambda') and Lambda block-diagonal: one lower-triangular T (k x k)
per block, repeated for each of its m levels (Bates et al. 2015, "Fitting linear mixed-effects models using lme4").
Everything is computed from cross-products, so that an evaluation never touches the n rows: with
V = I + Z Lambda Lambda' Z', the push-through identity V^-1 Z Lambda = Z Lambda A^-1, A = Lambda' Z'Z Lambda + I, leaves
only systems of size q = all random effects together. Of these the largest block costs next to nothing, see `Cholesky`.

The rows are first put on neutral scales: fixed effects orthonormal, the response free of them with mean square
1 (n - p in the denominator), columns of Z with mean square 1 over the n rows. So nothing below depends on units.

Legend: n rows, p fixed effects, q random effects in all, k effects and m levels of a block, t = free entries of all T.
Columns of Z run effect by effect within a block: column (i, g) of a block stands at start + i * m + g.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_array, hstack

from analysis.statistics.formula import Design

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """Where a block lies among the q columns, and its size."""

    start: int
    k: int
    m: int

    @property
    def columns(self) -> slice:
        return slice(self.start, self.start + self.k * self.m)


@dataclass(frozen=True)
class Products:
    """Cross-products of the scaled rows. Q'Q is the identity and Q'y is zero by construction.

    R: X = Q R; ols: Q'y before y was freed of the fixed effects; y_scale and z_scale (a length k per block): what y and
    the columns of Z were divided by.
    """

    spans: tuple[Span, ...]
    ZZ_qq: Array
    ZQ_qp: Array
    Zy_q: Array
    n: int
    R_pp: Array
    ols_p: Array
    y_scale: float
    z_scale: tuple[Array, ...]

    @property
    def p(self) -> int:
        return len(self.R_pp)

    @cached_property
    def free(self) -> list[tuple[int, int, int]]:
        """(block, row, column) of the entries that theta lists: lower triangles, row by row."""
        return [(s, i, j) for s, span in enumerate(self.spans) for i in range(span.k) for j in range(i + 1)]

    def triangles(self, theta_t: Array) -> list[Array]:
        T = [np.zeros((span.k, span.k)) for span in self.spans]
        for (s, i, j), value in zip(self.free, theta_t, strict=True):
            T[s][i, j] = value
        return T


def cross_products(design: Design) -> Products:
    """Scale the rows and sum them up once."""
    n = len(design.y_n)
    Q_np, R_pp = np.linalg.qr(design.X_np)
    ols_p = Q_np.T @ design.y_n
    y_n = design.y_n - Q_np @ ols_p
    y_scale = float(np.sqrt(y_n @ y_n / (n - R_pp.shape[0])))
    y_n = y_n / y_scale
    spans, z_scale, columns, start = [], [], [], 0
    for block in design.blocks:
        scale_k = np.sqrt((block.values_nk**2).mean(axis=0))
        k, m = len(scale_k), block.levels
        # A row has k entries among a block's k * m columns, those of its level: a dense Z would be nearly all zeros.
        place_nk = np.arange(k) * m + block.level_n[:, None]
        entries = ((block.values_nk / scale_k).ravel(), (np.repeat(np.arange(n), k), place_nk.ravel()))
        columns.append(csr_array(entries, shape=(n, k * m)))
        spans.append(Span(start, k, m))
        z_scale.append(scale_k)
        start += k * m
    Z_qn = hstack(columns, format="csr").T
    ZZ_qq: Array = (Z_qn @ Z_qn.T).toarray()
    return Products(tuple(spans), ZZ_qq, Z_qn @ Q_np, Z_qn @ y_n, n, R_pp, ols_p, y_scale, tuple(z_scale))


class Cholesky:
    """A = L L' of a positive definite A (q, q), the `largest` block first, as `half` = L^-1 and `log_det` = log|A|.

    No row of the data is of two levels of one factor, so within the largest block A is block-diagonal: m small (k, k)
    matrices, one per level. They are factored side by side, and only what is left of the other r = q - k * m columns
    once the largest block is taken out, the Schur complement, is a dense (r, r) system:

        A = [A_11 A_1r]    L = [L_11  0  ]    L_11: m blocks (k, k);  B_1r = L_11^-1 A_1r;
            [A_r1 A_rr]        [B_1r' L_rr]   L_rr L_rr' = A_rr - B_1r' B_1r

    Everything asked of A^-1 is a product x' A^-1 y = (L^-1 x)' (L^-1 y), so no second, backward solution is needed.
    """

    def __init__(self, A_qq: Array, largest: Span) -> None:
        self._largest = largest
        self._rest = np.delete(np.arange(len(A_qq)), largest.columns)
        # Columns run effect by effect, so level g has rows and columns (i, g) and (j, g) of (k, m, k, m).
        L_mkk = np.linalg.cholesky(np.einsum("igjg->gij", _four(A_qq, largest, largest)))
        self._inverse_mkk = np.linalg.inv(L_mkk)
        self._B_1r = self._by_level(A_qq[largest.columns][:, self._rest])
        S_rr = A_qq[np.ix_(self._rest, self._rest)] - self._B_1r.T @ self._B_1r
        self._L_rr = cholesky(S_rr, lower=True, check_finite=False)
        diagonals = (np.diagonal(L_mkk, axis1=1, axis2=2).ravel(), np.diagonal(self._L_rr))
        self.log_det = float(2 * sum(np.log(diagonal).sum() for diagonal in diagonals))

    def half(self, X_qc: Array) -> Array:
        """L^-1 X, (q, c), its rows in the order of L: the largest block's, then the others'."""
        top_1c = self._by_level(X_qc[self._largest.columns])
        rest_rc = X_qc[self._rest] - self._B_1r.T @ top_1c
        return np.vstack([top_1c, solve_triangular(self._L_rr, rest_rc, lower=True, check_finite=False)])

    def _by_level(self, X_1c: Array) -> Array:
        """L_11^-1 X, for the rows of the largest block: each level's k rows by its own (k, k) matrix."""
        k, m = self._largest.k, self._largest.m
        return np.einsum("gij,jgc->igc", self._inverse_mkk, X_1c.reshape(k, m, -1)).reshape(k * m, -1)


class Evaluation:
    """The model at one theta; expensive parts are computed on first use.

    value: the profiled REML deviance up to the constant of `criterion`; residual: r^2 = y' P y, the penalised residual
    sum of squares on the scale of the products; S_pp = Q' V^-1 Q; gamma_p: the fixed effects on Q.
    """

    def __init__(self, products: Products, theta_t: Array) -> None:
        self.products = products
        self.theta_t = np.array(theta_t, float)
        self.T = products.triangles(self.theta_t)
        # A = Lambda' Z'Z Lambda + I: Lambda' M is (M' Lambda)', so that `times_lambda` serves for either side.
        self._ZZL_qq = self.times_lambda(products.ZZ_qq)
        A_qq = self.times_lambda(self._ZZL_qq.T)
        A_qq[np.diag_indices_from(A_qq)] += 1
        self._A = Cholesky(A_qq, max(products.spans, key=lambda span: span.k * span.m))
        right = self.times_lambda(np.column_stack([products.ZQ_qp, products.Zy_q]).T).T
        self._half = self._A.half(right)
        # By the push-through identity [Q y]' V^-1 [Q y] = [Q y]'[Q y] + inner, with inner = -right' A^-1 right,
        # (p + 1, p + 1), and right = Lambda' Z' [Q y], (q, p + 1); and Q'Q = I, Q'y = 0, y'y = n - p.
        inner: Array = -self._half.T @ self._half
        self.S_pp = np.eye(products.p) + inner[:-1, :-1]
        self.gamma_p: Array = np.linalg.solve(self.S_pp, inner[:-1, -1]).astype(float)
        self.residual = float(products.n - products.p + inner[-1, -1] - inner[:-1, -1] @ self.gamma_p)
        sign, log_det = np.linalg.slogdet(self.S_pp)
        log_residual = np.log(self.residual) if self.residual > 0 and sign > 0 else np.inf  # lost to rounding
        self.value = float(self._A.log_det + log_det + (products.n - products.p) * log_residual)

    @property
    def variance(self) -> float:
        """sigma^2 on the scale of the products."""
        return self.residual / (self.products.n - self.products.p)

    def times_lambda(self, M: Array) -> Array:
        """M Lambda, for M with q columns."""
        out = np.empty_like(M)
        for span, T in zip(self.products.spans, self.T, strict=True):
            # Columns run effect by effect: (rows, k, m); T mixes a level's k effects and is the same for all m levels.
            block = M[:, span.columns].reshape(len(M), span.k, span.m)
            out[:, span.columns] = np.einsum("rim,ij->rjm", block, T).reshape(len(M), -1)
        return out

    @cached_property
    def _half_qq(self) -> Array:
        """L^-1 Lambda' Z'Z, whose products with itself and with L^-1 Lambda' Z' [Q y] are Z' (I - V^-1) [Z Q y]."""
        return self._A.half(self._ZZL_qq.T)

    @cached_property
    def zvq_qp(self) -> Array:
        """Z' V^-1 Q."""
        return self.products.ZQ_qp - self._half_qq.T @ self._half[:, :-1]

    @cached_property
    def zpy_q(self) -> Array:
        """Z' P y = Z' V^-1 (y - Q gamma)."""
        return self.products.Zy_q - self._half_qq.T @ self._half[:, -1] - self.zvq_qp @ self.gamma_p

    @cached_property
    def modes_q(self) -> Array:
        """Predicted random effects Lambda Lambda' Z' P y, on the scale of the products."""
        modes_q = np.empty_like(self.zpy_q)
        for span, T in zip(self.products.spans, self.T, strict=True):
            modes_q[span.columns] = (T @ T.T @ self.zpy_q[span.columns].reshape(span.k, span.m)).ravel()
        return modes_q

    @cached_property
    def zpz_qq(self) -> Array:
        """Z' P Z, with P = V^-1 - V^-1 Q S^-1 Q' V^-1."""
        W_qq = self.products.ZZ_qq - self._half_qq.T @ self._half_qq  # BLAS computes M'M at half the cost
        return W_qq - self.zvq_qp @ np.linalg.solve(self.S_pp, self.zvq_qp.T)

    def by_entry(self, left_q: Array, right_q: Array) -> Array:
        """Sum over levels of left[(i, g)] right[(j, g)] for every free entry (i, j) of T: (t,)."""
        parts = [
            left_q[span.columns].reshape(span.k, span.m) @ right_q[span.columns].reshape(span.k, span.m).T
            for span in self.products.spans
        ]
        return np.array([parts[s][i, j] for s, i, j in self.products.free])

    @cached_property
    def residual_gradient(self) -> Array:
        """Derivative of `residual` in theta (t,)."""
        return -2 * self.by_entry(self.zpy_q, self.times_lambda(self.zpy_q[None])[0])

    @cached_property
    def gradient(self) -> Array:
        """Derivative of `value` in theta (t,), with K_k as in `unprofiled_hessian`: tr(N K_k) - h' K_k h / sigma^2."""
        NL_qq = self.times_lambda(self.zpz_qq)
        parts = [np.einsum("igjg->ij", _four(NL_qq, span, span)) for span in self.products.spans]
        trace = np.array([parts[s][i, j] for s, i, j in self.products.free])
        return 2 * trace + self.residual_gradient / self.variance

    @cached_property
    def unprofiled_hessian(self) -> Array:
        """Second derivative (t, t) in theta of log|V| + log|S| + r^2 / sigma^2, at sigma^2 = `variance`.

        With N = Z' P Z, h = Z' P y, and K_k, K_kl the derivatives of K = Lambda Lambda':
        tr(N K_kl) - tr(N K_k N K_l) + (2 h' K_k N K_l h - h' K_kl h) / sigma^2.
        """
        products, N_qq, h_q = self.products, self.zpz_qq, self.zpy_q
        B_qq = self.times_lambda(N_qq)
        C_qq = self.times_lambda(B_qq.T)
        edges = np.cumsum([0, *(span.k**2 for span in products.spans)])
        full = np.zeros((edges[-1], edges[-1]))  # all entries of all T; the free ones are picked at the end
        for s, one in enumerate(products.spans):
            rows = slice(edges[s], edges[s + 1])
            for t, other in enumerate(products.spans):
                # Entries (i, j) of `one` and (a, b) of `other`, summed over the levels g and h of either.
                B_igbh, B_ahjg = _four(B_qq, one, other), _four(B_qq, other, one)
                N_ahig, C_jgbh = _four(N_qq, other, one), _four(C_qq, one, other)
                crossed_ibaj = np.tensordot(B_igbh, B_ahjg, axes=([1, 3], [3, 1]))
                straight_aijb = np.tensordot(N_ahig, C_jgbh, axes=([1, 3], [3, 1]))
                both_ijab = crossed_ibaj.transpose(0, 3, 2, 1) + straight_aijb.transpose(1, 2, 0, 3)
                full[rows, edges[t] : edges[t + 1]] = -2 * both_ijab.reshape(one.k**2, other.k**2)
            # K_kl is zero unless both entries share a column j of one block.
            h_km = h_q[one.columns].reshape(one.k, one.m)
            shared_ia = np.einsum("agig->ia", _four(N_qq, one, one)) - h_km @ h_km.T / self.variance
            same_ijab = np.einsum("ia,jb->ijab", shared_ia, np.eye(one.k))
            full[rows, rows] += 2 * same_ijab.reshape(one.k**2, one.k**2)
        chosen = [edges[s] + i * products.spans[s].k + j for s, i, j in products.free]
        moved_qt = self._moved()
        return full[np.ix_(chosen, chosen)] + 2 / self.variance * moved_qt.T @ N_qq @ moved_qt

    def _moved(self) -> Array:
        """K_l h for every free entry l: (q, t)."""
        w_q = self.times_lambda(self.zpy_q[None])[0]
        moved_qt = np.zeros((len(w_q), len(self.products.free)))
        for column, (s, i, j) in enumerate(self.products.free):
            span = self.products.spans[s]
            h_km, w_km = (v[span.columns].reshape(span.k, span.m) for v in (self.zpy_q, w_q))
            moved = self.T[s][:, j][:, None] * h_km[i]
            moved[i] += w_km[j]
            moved_qt[span.columns, column] = moved.ravel()
        return moved_qt

    @cached_property
    def hessian(self) -> Array:
        """Second derivative of `value` (t, t): the unprofiled one with sigma following theta."""
        slope = self.residual_gradient / self.residual
        return self.unprofiled_hessian - (self.products.n - self.products.p) * np.outer(slope, slope)

    @property
    def criterion(self) -> float:
        """The REML criterion (-2 restricted log-likelihood) of the rows as given, on lme4's scale."""
        products = self.products
        free = products.n - products.p
        log_scale = 2 * np.log(np.abs(np.diagonal(products.R_pp))).sum() + 2 * free * np.log(products.y_scale)
        return self.value + float(log_scale + free * (1 + np.log(2 * np.pi / free)))


def _four(M_qq: Array, rows: Span, columns: Span) -> Array:
    """A block of M as (k, m, k, m)."""
    return M_qq[rows.columns, columns.columns].reshape(rows.k, rows.m, columns.k, columns.m)
