"""What macro F1 is worth on these very questions: baselines per run and split, never a constant.

All three follow from one fact. Fix how many questions of a category are answered yes (k of n) and let chance decide
which: then F1's denominators are constants, and its expectation needs only the mean of a hypergeometric, k n_yes / n.
So "the run's own answers permuted within the category" has an exact expectation and variance, and a fair coin is the
same with k binomial. Nothing is simulated.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

Array = NDArray[np.float64]


def permuted_macro_f1(n_yes: ArrayLike, n_no: ArrayLike, said_yes: ArrayLike) -> tuple[Array, Array]:
    """Expectation and standard deviation (0..1) of macro F1 when `said_yes` answers are permuted in the category.

    Arguments and results are (C,). Labels that occur in neither gold nor answers are left out, as in `macro_f1`.
    """
    n_yes, n_no, said_yes = (np.asarray(values, float) for values in (n_yes, n_no, said_yes))
    n = n_yes + n_no
    use_yes, use_no = said_yes + n_yes, (n - said_yes) + n_no  # occurrences of each label in gold plus in answers
    labels = (use_yes > 0).astype(float) + (use_no > 0)
    slope_yes = np.divide(2.0, use_yes, out=np.zeros_like(n), where=use_yes > 0)
    slope_no = np.divide(2.0, use_no, out=np.zeros_like(n), where=use_no > 0)
    share = np.divide(n_yes, n, out=np.zeros_like(n), where=n > 0)
    mean = (slope_yes * said_yes * share + slope_no * (n - said_yes) * (1 - share)) / np.maximum(labels, 1)
    # right "no" answers = right "yes" answers + constant, so macro F1 is linear in one hypergeometric count
    variance = said_yes * share * (1 - share) * (n - said_yes) / np.maximum(n - 1, 1)
    deviation = (slope_yes + slope_no) / np.maximum(labels, 1) * np.sqrt(variance)
    return np.where(n > 0, mean, np.nan), np.where(n > 0, deviation, np.nan)


def coin_macro_f1(n_yes: ArrayLike, n_no: ArrayLike) -> Array:
    """Exact expected macro F1 (0..1) of a fair coin per category (C,); NaN for a category without questions."""
    counts = np.stack([np.asarray(n_yes, np.int64), np.asarray(n_no, np.int64)], axis=1)
    pairs, inverse = np.unique(counts, axis=0, return_inverse=True)
    n = pairs.sum(axis=1)
    row = np.repeat(np.arange(len(pairs)), n + 1)  # every number of yes answers 0..n of every pair, laid end to end
    heads = np.arange(len(row)) - np.repeat(np.cumsum(n + 1) - (n + 1), n + 1)
    weight = np.exp(gammaln(n[row] + 1.0) - gammaln(heads + 1.0) - gammaln(n[row] - heads + 1.0) - n[row] * np.log(2.0))
    mean, _ = permuted_macro_f1(pairs[row, 0].astype(float), pairs[row, 1].astype(float), heads.astype(float))
    expected: Array = np.bincount(row, weights=weight * mean, minlength=len(pairs)).astype(float)
    return expected[inverse.reshape(-1)]


def majority_macro_f1(n_yes: ArrayLike, n_no: ArrayLike) -> Array:
    """Macro F1 (0..1) per category (C,) of always giving the category's more frequent answer in this split."""
    n_yes, n_no = np.asarray(n_yes, float), np.asarray(n_no, float)
    most, n = np.maximum(n_yes, n_no), n_yes + n_no
    f1 = np.divide(2 * most, n + most, out=np.full_like(n, np.nan), where=n > 0)
    return np.where(np.minimum(n_yes, n_no) > 0, f1 / 2, f1)


def add_baselines(categories: pd.DataFrame) -> pd.DataFrame:
    """`measure_categories` plus majority_f1, coin_f1, permuted_f1, permuted_sd (all 0..100) per category."""
    n_yes, n_no, said_yes = (categories[name].to_numpy(float) for name in ("n_yes", "n_no", "said_yes"))
    permuted, deviation = permuted_macro_f1(n_yes, n_no, said_yes)
    return categories.assign(
        majority_f1=100 * majority_macro_f1(n_yes, n_no),
        coin_f1=100 * coin_macro_f1(n_yes, n_no),
        permuted_f1=100 * permuted,
        permuted_sd=100 * deviation,
    )
