"""Macro F1 per category, all categories at once: what tuning maximises, and what the analysis reports.

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
