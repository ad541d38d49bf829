"""Baselines against brute force, a simulation, scikit-learn and the paper's own counts."""

from itertools import permutations, product
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from analysis.scores.baselines import add_baselines, coin_macro_f1, majority_macro_f1, permuted_macro_f1
from cachegen.common.rng import generator
from engine.runs.f1 import confusion_counts, macro_f1

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "authors_test_hyp_counts_100pct.csv"
counts = st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda pair: sum(pair) > 0)


def score(gold: np.ndarray, predicted: np.ndarray) -> float:
    return float(macro_f1(confusion_counts(np.zeros(len(gold), int), gold, predicted, 1))[0])


@settings(max_examples=25, deadline=None)
@given(counts)
def test_coin_is_the_mean_over_all_answer_sheets(pair: tuple[int, int]) -> None:
    n_yes, n_no = pair
    gold = np.arange(n_yes + n_no) < n_yes
    sheets = [score(gold, np.array(sheet)) for sheet in product([False, True], repeat=len(gold))]
    assert coin_macro_f1([n_yes], [n_no])[0] == pytest.approx(np.mean(sheets), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(counts.filter(lambda pair: sum(pair) <= 6), st.data())
def test_permuted_is_the_mean_over_all_permutations(pair: tuple[int, int], data: st.DataObject) -> None:
    n_yes, n_no = pair
    said_yes = data.draw(st.integers(0, n_yes + n_no))
    gold = np.arange(n_yes + n_no) < n_yes
    answers = np.arange(n_yes + n_no) < said_yes
    sheets = [score(gold, np.array(sheet)) for sheet in permutations(answers)]
    mean, deviation = permuted_macro_f1([n_yes], [n_no], [said_yes])
    assert mean[0] == pytest.approx(np.mean(sheets), abs=1e-12)
    assert deviation[0] == pytest.approx(np.std(sheets), abs=1e-9)


def test_closed_forms_agree_with_a_seeded_simulation() -> None:
    rng = generator(0, "baselines")
    n_yes, n_no, said_yes, repeats = 129, 148, 60, 4000
    gold = np.arange(n_yes + n_no) < n_yes
    codes = np.repeat(np.arange(repeats), len(gold))
    golds = np.tile(gold, repeats)
    coins = macro_f1(confusion_counts(codes, golds, rng.random(len(codes)) < 0.5, repeats))
    mixed = rng.permuted(np.tile(np.arange(len(gold)) < said_yes, (repeats, 1)), axis=1).ravel()
    permuted = macro_f1(confusion_counts(codes, golds, mixed, repeats))
    mean, deviation = permuted_macro_f1([n_yes], [n_no], [said_yes])
    for sample, expected in ((coins, coin_macro_f1([n_yes], [n_no])[0]), (permuted, mean[0])):
        assert abs(sample.mean() - expected) < 4 * sample.std() / sqrt(repeats)
    assert permuted.std() == pytest.approx(deviation[0], rel=0.05)
    assert abs(coins.mean() - mean[0]) > 0.02  # the two baselines differ, so neither test is idle


@pytest.mark.parametrize(("n_yes", "n_no"), [(7, 3), (3, 7), (5, 5), (4, 0), (0, 4)])
def test_majority_equals_scikit_learn(n_yes: int, n_no: int) -> None:
    gold = np.arange(n_yes + n_no) < n_yes
    expected = f1_score(gold, np.full(len(gold), n_yes >= n_no), average="macro")
    assert majority_macro_f1([n_yes], [n_no])[0] == pytest.approx(expected)


def test_categories_without_questions_are_missing() -> None:
    assert np.isnan(majority_macro_f1([0], [0])[0])
    assert np.isnan(coin_macro_f1([0], [0])[0])
    assert np.isnan(permuted_macro_f1([0], [0], [0])[0][0])


def test_baselines_are_added_per_category() -> None:
    table = add_baselines(pd.DataFrame({"n_yes": [7, 2], "n_no": [3, 2], "said_yes": [10, 2]}))
    assert table["majority_f1"].tolist() == pytest.approx([100 * 0.7 * 2 / 1.7 / 2, 100 / 3])
    assert table["permuted_f1"].iloc[0] == pytest.approx(table["majority_f1"].iloc[0])  # always yes = the majority
    assert table["permuted_f1"].iloc[1] == pytest.approx(50)
    assert table["permuted_sd"].tolist() == pytest.approx([0, 100 / (2 * sqrt(3))])


@pytest.mark.skipif(not REFERENCE.exists(), reason="the authors' counts are not beside this checkout")
def test_published_baselines_on_the_authors_counts() -> None:
    table = pd.read_csv(REFERENCE)
    majority = majority_macro_f1(table["n_yes"], table["n_no"])
    np.testing.assert_allclose(majority, table["majority_macro_f1"], atol=1e-12)
    assert majority.mean() == pytest.approx(0.392, abs=5e-4)
    assert coin_macro_f1(table["n_yes"], table["n_no"]).mean() == pytest.approx(0.483, abs=5e-4)
