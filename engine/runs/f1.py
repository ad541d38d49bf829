"""Macro F1 and AUC per category, all categories at once: what tuning maximises, and what the analysis reports.

Legend: C = categories. A confusion table `counts` is (C, 2, 2): category x gold x predicted, index 1 = yes.
The F1 rule is the published one, scikit-learn's default: the mean of the F1 of the labels that occur in gold *or*
prediction. So a category with one label, all right, scores 1.0, and one wrong answer drops it below 0.5: always read
n_yes and n_no beside it.
"""

import numpy as np
from numpy.typing import NDArray


def confusion_counts(
    codes: NDArray[np.integer], gold: NDArray[np.bool_], predicted: NDArray[np.bool_], size: int
) -> NDArray[np.int64]:
    """Counts (C, 2, 2) of gold x predicted for questions with category number `codes` in 0..size-1."""
    cells = codes.astype(np.int64) * 4 + gold * 2 + predicted
    return np.bincount(cells, minlength=size * 4).reshape(size, 2, 2)


def macro_f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Macro F1 in 0..1 per category (C,) from counts (C, 2, 2); NaN for a category without questions."""
    hits = counts[:, [0, 1], [0, 1]].astype(float)  # (C, label): answers right for "no" and "yes"
    used = counts.sum(axis=2) + counts.sum(axis=1)  # (C, label): times the label occurs in gold plus in prediction
    f1 = np.divide(2 * hits, used, out=np.zeros_like(hits), where=used > 0)
    labels = (used > 0).sum(axis=1)
    return np.divide(f1.sum(axis=1), labels, out=np.full(len(counts), np.nan), where=labels > 0)


def auc(
    codes: NDArray[np.integer], gold: NDArray[np.bool_], score: NDArray[np.floating], size: int
) -> NDArray[np.float64]:
    """Area under the ROC curve per category (C,), ties counted half.

    NaN where only one answer occurs, or where a score is NaN, which has no rank; infinite scores have one.
    """
    order = np.lexsort((score, codes))
    codes, gold, score = codes[order], gold[order], score[order]
    new_tie = np.r_[True, (codes[1:] != codes[:-1]) | (score[1:] != score[:-1])][: len(codes)]
    tie = np.cumsum(new_tie) - 1
    first = np.flatnonzero(new_tie)
    last = np.r_[first[1:], len(codes)] - 1
    start = np.searchsorted(codes, codes)  # position of the first question of the same category
    rank = (0.5 * (first + last))[tie] - start + 1 if len(codes) else np.empty(0)
    yes = np.bincount(codes, weights=gold, minlength=size)
    no = np.bincount(codes, minlength=size) - yes
    above = np.bincount(codes, weights=rank * gold, minlength=size) - yes * (yes + 1) / 2
    ranked = np.bincount(codes, weights=np.isnan(score), minlength=size) == 0
    return np.divide(above, yes * no, out=np.full(size, np.nan), where=(yes * no > 0) & ranked)
