"""Reliability, calibration error, probability off the answers, ties and bias, against answers made to have them."""

import numpy as np
import pandas as pd
import pytest

from analysis.predictions import derive_answers
from analysis.scores.calibration import BINS, answer_bins, answers_table, reliability_table

RUNS = pd.DataFrame(
    {"cell": ["one", "one", "other"], "setup": "", "arm": ["original", "original", "across"], "lm_init": "pretrained"},
    index=["a", "b", "c"],
)


def answers(seed: int, n: int = 20_000, sharpness: float = 1.0, off: float = 0.02) -> pd.DataFrame:
    """Answers whose gold is yes with just the probability p, told as `sharpness` times their logit; half are leaves."""
    rng = np.random.default_rng(seed)
    margin = 2 * rng.normal(size=n)
    gold = rng.random(n) < 1 / (1 + np.exp(-margin))
    table = pd.DataFrame({"logit_yes": sharpness * margin, "logit_no": 0.0, "answer": gold, "mass": 1 - off})
    kind = np.where(np.arange(n) % 2, "leaf", "hypernym")
    return derive_answers(table.assign(kind=kind, seen=False, split=np.where(np.arange(n) % 10, "test", "validation")))


def bins_of(**runs: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([answer_bins(table).assign(run_id=run_id) for run_id, table in runs.items()], ignore_index=True)


def scores() -> pd.DataFrame:
    rows = [(run, "test", group) for run in RUNS.index for group in ("leaf", "heldout")]
    table = pd.DataFrame(rows, columns=["run_id", "split", "group"])
    return table.assign(yes_share=0.5, gold_yes_share=0.5, tie_share=np.where(table["run_id"] == "a", 0.1, 0.3))


def test_bins_count_every_test_answer_once() -> None:
    table = answers(0)
    test = table[table["split"] == "test"]
    bins = answer_bins(table)
    assert bins["n"].sum() == len(test)
    assert list(bins["group"].unique()) == ["leaf", "heldout"]
    assert bins["p_sum"].sum() == pytest.approx(test["p_yes"].sum())
    assert bins["n_yes"].sum() == test["answer"].sum()
    third = bins[(bins["group"] == "leaf") & (bins["bin"] == 2)].iloc[0]
    inside = test[(test["group"] == "leaf") & test["p_yes"].between(0.2, 0.3, inclusive="left")]
    assert (third["n"], third["n_yes"]) == (len(inside), inside["answer"].sum())
    edge = derive_answers(pd.DataFrame({"logit_yes": [800.0, -800.0], "logit_no": 0.0, "kind": "leaf", "seen": True}))
    ends = answer_bins(edge.assign(split="test", answer=True, mass=1.0))
    assert ends.loc[ends["n"] > 0, "bin"].tolist() == [0, BINS - 1]  # p of exactly 1 is in the last bin


def test_calibrated_answers_lie_on_the_diagonal_and_overconfident_ones_do_not() -> None:
    bins = bins_of(a=answers(1), b=answers(2), c=answers(3, sharpness=3))
    table = reliability_table(RUNS, bins)
    distance = (table["mean_p"] - table["yes_share"]).abs()
    assert distance[table["arm"] == "original"].max() < 0.04
    assert distance[table["arm"] == "across"].max() > 0.1
    assert table["mean_p"].between(table["p_low"], table["p_high"]).all()
    assert table["n"].sum() == bins["n"].sum()
    error = answers_table(RUNS, bins, scores()).set_index(["arm", "group"])["ece"]
    assert (error["original"] < 0.02).all()
    assert (error["across"] > 0.08).all()


def test_error_equals_its_definition_and_is_never_pooled() -> None:
    """One run says yes too often, the other too seldom: pooled they would look calibrated."""
    tables = {}
    for run, shift in (("a", 1.0), ("b", -1.0)):
        table = answers(4)
        tables[run] = derive_answers(table.assign(logit_yes=table["logit_yes"] + shift).drop(columns="group"))
    bins = bins_of(**tables)
    row = answers_table(RUNS.loc[["a", "b"]], bins, scores()).set_index("group").loc["heldout"]
    expected = []
    for table in tables.values():
        test = table[(table["split"] == "test") & (table["group"] == "heldout")]
        cut = pd.cut(test["p_yes"], np.linspace(0, 1, BINS + 1), right=False)
        means = test.groupby(cut, observed=True)[["p_yes", "answer"]].mean()
        share = test.groupby(cut, observed=True).size() / len(test)
        expected.append(((means["p_yes"] - means["answer"]).abs() * share).sum())
    assert row["ece"] == pytest.approx(np.mean(expected))
    assert (row["ece_low"], row["ece_high"]) == pytest.approx((min(expected), max(expected)))
    pooled = reliability_table(RUNS.loc[["a", "b"]], bins).query("group == 'heldout'")
    pooled_error = ((pooled["mean_p"] - pooled["yes_share"]).abs() * pooled["n"]).sum() / pooled["n"].sum()
    assert pooled_error < 0.5 * row["ece"]


def test_probability_off_the_answers() -> None:
    half = answers(5, off=0.1)
    half.loc[half.index[: len(half) // 2], "mass"] = 0.3
    table = answers_table(RUNS, bins_of(a=answers(6, off=0.1), b=half, c=answers(7, off=-1e-7)), scores())
    rows = table.set_index(["arm", "group"])
    assert rows.loc[("original", "leaf"), "off_mass"] == pytest.approx((0.1 + (0.7 + 0.1) / 2) / 2, abs=1e-3)
    assert rows.loc[("original", "leaf"), "off_mass_worst"] == pytest.approx((0.7 + 0.1) / 2, abs=1e-3)
    assert rows.loc[("original", "leaf"), "low_mass_share"] == pytest.approx(0.25, abs=1e-3)
    assert rows.loc[("original", "leaf"), "tie_share"] == pytest.approx(0.2)
    assert rows.loc[("across", "leaf"), "off_mass"] == 0  # rounding is no probability
    assert table["arm"].tolist() == ["original", "original", "across", "across"]  # in the order of the runs
    assert table["group"].tolist() == ["leaf", "heldout"] * 2
