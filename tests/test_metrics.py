"""Macro F1 and AUC against scikit-learn, category by category, and the means over categories."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from analysis.scores.baselines import add_baselines
from analysis.scores.f1 import mean_macro_f1, measure_categories, summarise
from engine.runs.f1 import auc, confusion_counts, macro_f1

question = st.tuples(st.integers(0, 4), st.booleans(), st.integers(-2, 2))  # category, gold, margin in few values: ties
tables = st.lists(question, min_size=1, max_size=60)


def columns(table: list[tuple[int, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes, gold, margin = map(np.array, zip(*table, strict=True))
    return codes, gold.astype(bool), margin.astype(float)


@settings(max_examples=80, deadline=None)
@given(tables)
def test_macro_f1_equals_scikit_learn(table: list[tuple[int, bool, int]]) -> None:
    codes, gold, margin = columns(table)
    predicted = margin >= 0
    ours = macro_f1(confusion_counts(codes, gold, predicted, 5))
    for category in range(5):
        mine = codes == category
        if mine.any():
            expected = f1_score(gold[mine], predicted[mine], average="macro")
            assert ours[category] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(ours[category])


@settings(max_examples=80, deadline=None)
@given(tables)
def test_auc_equals_scikit_learn_with_ties(table: list[tuple[int, bool, int]]) -> None:
    codes, gold, margin = columns(table)
    ours = auc(codes, gold, margin, 5)
    for category in range(5):
        mine = codes == category
        if len(set(gold[mine])) == 2:
            assert ours[category] == pytest.approx(roc_auc_score(gold[mine], margin[mine]), abs=1e-12)
        else:
            assert np.isnan(ours[category])


def test_one_label_categories_follow_the_published_rule() -> None:
    all_yes = np.ones(4, bool)
    one_wrong = np.array([True, True, True, False])
    codes = np.zeros(4, int)
    assert macro_f1(confusion_counts(codes, all_yes, all_yes, 1))[0] == 1.0
    assert macro_f1(confusion_counts(codes, all_yes, one_wrong, 1))[0] == pytest.approx(6 / 7 / 2)
    # Counting both labels whatever occurs, as other implementations do, would give 0.5 for a perfect category.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert f1_score(all_yes, all_yes, average="macro", labels=[False, True]) == 0.5


def answers_table(rows: list[tuple[str, str, str, bool, bool, float]]) -> pd.DataFrame:
    """split, group, category, answer, veridical, margin."""
    table = pd.DataFrame(rows, columns=["split", "group", "category", "answer", "veridical", "margin"])
    margin = table["margin"]
    return table.assign(predicted=margin >= 0, tie=margin == 0, phrase="a " + table["category"], removed=False)


def test_categories_are_scored_apart_and_counted() -> None:
    table = measure_categories(
        answers_table(
            [
                ("test", "leaf", "crow", True, True, 2.0),
                ("test", "leaf", "crow", False, False, 0.0),
                ("test", "heldout", "crow", True, True, -1.0),
                ("validation", "leaf", "crow", True, True, 1.0),
            ]
        )
    )
    assert table["group"].tolist() == ["heldout", "leaf", "leaf"]
    leaf = table[(table["split"] == "test") & (table["group"] == "leaf")].iloc[0]
    assert (leaf["n_yes"], leaf["n_no"], leaf["said_yes"], leaf["ties"], leaf["right"]) == (1, 1, 2, 1, 1)
    assert leaf["f1"] == pytest.approx(100 / 3)
    assert leaf["auc"] == 1.0
    assert table["homonym"].tolist() == [True, False, False]  # the hypernym "crow" is a leaf's name too


def test_means_are_over_categories_and_over_well_filled_ones() -> None:
    rows = [("test", "heldout", "big", i % 2 == 0, i % 2 == 0, 1.0 if i % 2 == 0 else -1.0) for i in range(20)]
    rows += [("test", "heldout", "small", True, True, -1.0), ("test", "heldout", "small", True, True, 1.0)]
    row = summarise(add_baselines(measure_categories(answers_table(rows)))).iloc[0]
    assert row["macro_f1"] == pytest.approx((100 + 100 / 3) / 2)
    assert row["macro_f1_min10"] == 100
    assert (row["n_categories"], row["n_categories_min10"], row["auc_undefined"]) == (2, 1, 1)
    assert row["auc"] == 1.0  # the undefined one is missing, not 0 or 0.5
    assert row["majority_f1"] == pytest.approx((100 / 3 + 100) / 2)


@pytest.mark.parametrize(
    ("margins", "expected"),
    [((1, 1, -1, -1), 1.0), ((-1, -1, 1, 1), 0.0), ((-1, -1, -1, -1), 0.5), ((1, -1, -1, 1), 0.5)],
)
def test_by_vision_is_balanced_against_a_bias(margins: tuple[float, ...], expected: float) -> None:
    truths = [(False, True), (False, True), (True, False), (True, False)]  # gold by the map, veridical
    rows = [("test", "heldout", "bird", *truth, float(m)) for truth, m in zip(truths, margins, strict=True)]
    rows.append(("test", "heldout", "bird", True, True, -1.0))  # map and image agree: says nothing
    row = summarise(measure_categories(answers_table(rows))).iloc[0]
    assert row["by_vision"] == expected
    assert row["n_disagree"] == 4


def test_no_disagreement_leaves_by_vision_missing() -> None:
    row = summarise(measure_categories(answers_table([("test", "leaf", "crow", True, True, 1.0)]))).iloc[0]
    assert np.isnan(row["by_vision"])
    assert row["veridical_agreement"] == 1.0


def test_mean_macro_f1_of_questions_with_logits() -> None:
    rows = [
        ("leaf", True, "crow", True, 1.0),
        ("leaf", True, "crow", False, -1.0),
        ("hypernym", False, "bird", True, -1.0),
        ("hypernym", True, "bird", True, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["kind", "seen", "category", "answer", "logit_yes"])
    table = table.assign(logit_no=0.0, phrase=table["category"], veridical=table["answer"])
    assert mean_macro_f1(table) == {"heldout": 0.0, "leaf": 100.0, "seen": 100.0}


@pytest.mark.parametrize("where", ["yes", "no"])
def test_auc_of_scores_without_a_rank_is_missing_in_their_category_only(where: str) -> None:
    gold = np.array([True, False, True, False])
    score = np.array([2.0, 1.0, 2.0, 1.0])
    score[2 if where == "yes" else 3] = np.nan
    found = auc(np.array([0, 0, 1, 1]), gold, score, 3)
    assert found[0] == 1
    assert np.isnan(found[1:]).all()


def test_auc_ranks_infinite_scores_as_scikit_learn_ranks_large_ones() -> None:
    gold = np.array([True, False, True, False, True, False])
    score = np.array([np.inf, np.inf, -np.inf, 0.0, 3.0, -np.inf])
    finite = np.clip(score, -9, 9)
    assert auc(np.zeros(6, int), gold, score, 1)[0] == roc_auc_score(gold, finite)


@pytest.mark.parametrize("size", [0, 2])
def test_without_questions_every_score_is_missing(size: int) -> None:
    empty = np.empty(0, int)
    assert np.isnan(auc(empty, empty.astype(bool), empty.astype(float), size)).tolist() == [True] * size
    assert np.isnan(macro_f1(confusion_counts(empty, empty.astype(bool), empty.astype(bool), size))).all()
