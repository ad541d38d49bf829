"""Contrasts, intervals and verdicts; which runs may be averaged at all."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from synthetic_sweep import CELLS, World, write_sweep

from analysis.cells import label_runs, seed_text, short_name
from analysis.predictions import load_sweep
from analysis.statistics.comparisons import compare_setups
from analysis.statistics.contrasts import chance_checks, confirmatory_contrasts, correlation, mean_interval
from analysis.study import Study, measure

WORLD = World(families=6, per_leaf=16)


def study_of(folder: Path, cells: dict[tuple[str, str], tuple[float, float, float]] = CELLS) -> Study:
    return measure(load_sweep(write_sweep(folder, WORLD, cells)))


def test_interval_equals_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 9)
    mean, low, high = mean_interval(values, 0.95)
    assert mean == pytest.approx(values.mean())
    expected = stats.t.interval(0.95, 8, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    assert np.isnan(mean_interval(values[:1], 0.95)[1])


def test_correlation_equals_scipy() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    expected = stats.pearsonr(x, y)
    r, low, high, n = correlation(np.r_[x, np.nan], np.r_[y, 1.0])
    assert (r, n) == (pytest.approx(expected.statistic), 12)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert np.isnan(correlation(x, np.ones(12))[0])
    assert np.isnan(correlation(x[:3], y[:3])[1])


@pytest.mark.parametrize("level", [0.1, 33.3, -1e9])
def test_values_that_are_equal_but_for_rounding_have_no_correlation(level: float) -> None:
    rounded = np.array([level, level * 3 / 3, level + level / 10 - level / 10, np.nextafter(level, 0), level])
    assert np.ptp(rounded) > 0
    assert np.isnan(correlation(np.arange(5.0), rounded)[:3]).all()


def test_contrasts_of_a_study_with_transfer(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    contrasts = confirmatory_contrasts(study.categories, study.runs)
    assert [(c.above, c.below) for c in contrasts] == [
        ("pretrained LM, original", "largest baseline (its own answers, permuted)"),
        ("pretrained LM, original", "random-init LM, original"),
        ("pretrained LM, original", "pretrained LM, across"),
        ("pretrained LM, within", "largest baseline (its own answers, permuted)"),
        ("pretrained LM, within", "random-init LM, original"),
        ("pretrained LM, within", "pretrained LM, across"),
    ]
    heldout = study.test("heldout")["macro_f1"].groupby([study.runs["lm_init"], study.runs["arm"]]).mean()
    gap = heldout["pretrained", "original"] - heldout["random", "original"]
    assert contrasts[1].difference == pytest.approx(gap)
    assert contrasts[1].verdict == f"above by {gap:.1f} points"
    assert all(c.shown and c.low < c.difference < c.high for c in contrasts)
    runs = study.test("heldout")["macro_f1"]
    original, across = (
        runs[study.runs["arm"].eq(arm) & study.runs["lm_init"].eq("pretrained")] for arm in ("original", "across")
    )
    assert contrasts[2].worst == pytest.approx(original.min() - across.max())


def test_the_largest_baseline_counts_not_a_convenient_one(tmp_path: Path) -> None:
    cells = {("pretrained", "original"): (1.5, 1.0, 0.0)}
    study = study_of(tmp_path, cells)
    heldout = study.test("heldout")
    largest = max(heldout[name].mean() for name in ("majority_f1", "coin_f1", "permuted_f1"))
    (contrast,) = confirmatory_contrasts(study.categories, study.runs)
    assert contrast.difference == pytest.approx(heldout["macro_f1"].mean() - largest)


def test_setups_without_a_counterpart_are_not_counted(tmp_path: Path) -> None:
    write_sweep(tmp_path, WORLD, CELLS)
    write_sweep(tmp_path, WORLD, {("pretrained", "original"): (1.5, 0.0, 0.0)}, lm="/somewhere/worlds/demo-7/twin")
    study = measure(load_sweep(tmp_path))
    contrasts = confirmatory_contrasts(study.categories, study.runs)
    assert len(contrasts) == 6
    assert {c.setup for c in contrasts} == {"lm"}


def test_setups_are_compared_hypernym_by_hypernym(tmp_path: Path) -> None:
    write_sweep(tmp_path, WORLD, CELLS, encoder="dino")
    write_sweep(tmp_path, WORLD, {("pretrained", "within"): (1.5, 0.3, 0.0)}, encoder="siglip")
    write_sweep(tmp_path, WORLD, {("pretrained", "swap"): (1.5, 0.3, 0.0)}, encoder="siglip", subset="swap")
    study = measure(load_sweep(tmp_path))
    (gap,) = compare_setups(study.runs, study.categories)
    f1 = study.test("heldout")["macro_f1"].groupby([study.runs["encoder"], study.runs["arm"]]).mean()
    assert gap.cell == "pretrained LM, within"
    assert (gap.f1, gap.other_f1) == pytest.approx((f1["dino", "within"], f1["siglip", "within"]))
    assert gap.f1_gap[0] == pytest.approx(gap.f1 - gap.other_f1)
    assert gap.f1_gap[1] > 0


def test_no_transfer_is_not_shown_and_chance_is_tested_for(tmp_path: Path) -> None:
    cells = {("pretrained", "original"): (1.5, 0.0, 0.0), ("pretrained", "across"): (1.5, 0.0, 0.0)}
    study = study_of(tmp_path, cells)
    contrasts = confirmatory_contrasts(study.categories, study.runs)
    assert not any(c.shown for c in contrasts)
    assert all(c.verdict.startswith("not shown") for c in contrasts)
    (null,) = chance_checks(study.categories, study.runs)
    assert null.equivalent
    assert null.verdict == "equivalent to chance within 5 points"


def test_an_across_with_transfer_is_called_above_chance(tmp_path: Path) -> None:
    cells = {("pretrained", "across"): (1.5, 0.8, 0.0)}
    study = study_of(tmp_path, cells)
    assert confirmatory_contrasts(study.categories, study.runs) == []
    (null,) = chance_checks(study.categories, study.runs)
    assert null.verdict == f"above chance by {null.difference:.1f} points"


def test_orders_are_never_averaged_together(tmp_path: Path) -> None:
    cells = {("pretrained", "original"): (1.5, 1.0, 0.0)}
    for order in ("images", "pairs"):
        write_sweep(tmp_path, WORLD, cells, seeds=(0,), order=order)
    runs = label_runs(load_sweep(tmp_path).runs)
    assert runs["setup"].tolist() == ["order images", "order pairs"]


def test_setups_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    cells = {("pretrained", "original"): (1.5, 1.0, 0.0)}
    for ablation in (100, 50):
        write_sweep(tmp_path, WORLD, cells, seeds=(0,), ablation=ablation)
    assert label_runs(load_sweep(tmp_path).runs)["setup"].tolist() == ["ablation 50 %", "ablation 100 %"]


def test_random_twins_and_rules_share_a_setup(tmp_path: Path) -> None:
    write_sweep(tmp_path, WORLD, {("pretrained", "original"): CELLS["pretrained", "original"]}, seeds=(0,))
    random = {("random", "original"): CELLS["random", "original"]}
    for twin in (0, 1):
        write_sweep(tmp_path, WORLD, random, seeds=(twin,), lm=f"/somewhere/worlds/demo-7/lm-random-{twin}")
    across = {("pretrained", "across"): CELLS["pretrained", "across"]}
    for rule in ("paper", "disjoint"):
        write_sweep(tmp_path, WORLD, across, seeds=(0,), across_rule=rule)
    runs = label_runs(load_sweep(tmp_path).runs)
    assert set(runs["setup"]) == {""}
    assert list(dict.fromkeys(runs["arm"])) == ["original", "across (disjoint)", "across (paper)"]
    assert "lm_seed (of the random-init LM) varied over 0, 1" in seed_text(runs)
    assert "data_seed was fixed at 0" in seed_text(runs)


def test_short_names() -> None:
    assert short_name("/somewhere/worlds/demo-7/encoder/") == "demo-7/encoder"
    assert short_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
