"""Contrasts, intervals and verdicts; which runs may be averaged at all."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from few import few
from rich.console import Console
from synthetic_sweep import CELLS, World, write_sweep

from analysis.cells import label_runs, seed_text, short_name, shown_runs
from analysis.predictions import load_sweep
from analysis.report.page import cell_rows
from analysis.report.result import headline
from analysis.report.summary import overview
from analysis.statistics.contrasts import CONFIRMATORY, Contrast
from analysis.statistics.difference import OVER_BOTH, THESE_SEEDS, Decision
from analysis.statistics.robustness import HeldoutQuestions, macro_f1_draws
from analysis.study import Study, measure

WORLD = World(families=6, per_leaf=16)


def study_of(folder: Path, cells: dict[tuple[str, str], tuple[float, float, float]] = CELLS) -> Study:
    return measure(load_sweep(write_sweep(folder, WORLD, cells)))


def confirmatory(study: Study, kind: str = "contrast") -> list[Contrast]:
    return [c for c in study.compared if (c.status, c.kind) == (CONFIRMATORY, kind)]


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study_of(tmp_path_factory.mktemp("transfer"))


def test_contrasts_of_a_study_with_transfer(transfer: Study) -> None:
    study = transfer
    contrasts = confirmatory(study)
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
    assert contrasts[1].f1.estimate == pytest.approx(gap)
    assert contrasts[1].f1.verdict == f"above by {gap:.1f} points"
    assert all(c.f1.decision is Decision.ABOVE and c.f1.basis == OVER_BOTH for c in contrasts)
    assert [c.f1.paired for c in contrasts[:3]] == [True, False, True]  # each random-init run has an LM of its own
    assert (study.contrasts["p_holm"].notna() == (study.contrasts["kind"] == "contrast")).sum() > 6


def test_the_largest_baseline_counts_not_a_convenient_one(tmp_path: Path) -> None:
    cells = {("pretrained", "original"): (1.5, 1.0, 0.0)}
    study = study_of(tmp_path, cells)
    heldout = study.test("heldout")
    largest = max(heldout[name].mean() for name in ("majority_f1", "coin_f1", "permuted_f1"))
    (contrast,) = confirmatory(study)
    assert contrast.f1.estimate == pytest.approx(heldout["macro_f1"].mean() - largest)


def test_setups_without_a_counterpart_are_not_counted(tmp_path: Path) -> None:
    write_sweep(tmp_path, WORLD, CELLS)
    write_sweep(tmp_path, WORLD, {("pretrained", "original"): (1.5, 0.0, 0.0)}, lm="/somewhere/worlds/demo-7/twin")
    study = measure(load_sweep(tmp_path))
    contrasts = confirmatory(study)
    assert len(contrasts) == 6
    assert {c.setup for c in contrasts} == {"lm"}


def test_setups_are_compared_hypernym_by_hypernym(tmp_path: Path) -> None:
    write_sweep(tmp_path, WORLD, CELLS, encoder="dino")
    write_sweep(tmp_path, WORLD, {("pretrained", "within"): (1.5, 0.3, 0.0)}, encoder="siglip")
    write_sweep(tmp_path, WORLD, {("pretrained", "swap"): (1.5, 0.3, 0.0)}, encoder="siglip", subset="swap")
    study = measure(load_sweep(tmp_path))
    (gap,) = (c for c in study.compared if c.kind == "setup")
    f1 = study.test("heldout")["macro_f1"].groupby([study.runs["encoder"], study.runs["arm"]]).mean()
    assert gap.above.startswith("pretrained LM, within")
    assert gap.means == pytest.approx((f1["dino", "within"], f1["siglip", "within"]))
    assert gap.f1.estimate == pytest.approx(gap.means[0] - gap.means[1])
    assert gap.f1.low > 0


def test_no_transfer_is_not_shown_and_chance_is_tested_for(tmp_path: Path) -> None:
    cells = {("pretrained", "original"): (1.5, 0.0, 0.0), ("pretrained", "across"): (1.5, 0.0, 0.0)}
    study = measure(load_sweep(write_sweep(tmp_path, World(families=6, per_leaf=60), cells, seeds=range(8))))
    assert not any(c.f1.decision is Decision.ABOVE for c in confirmatory(study))
    (null,) = confirmatory(study, "chance")
    assert null.f1.decision is Decision.EQUIVALENT


def test_an_across_with_transfer_is_called_above_chance(tmp_path: Path) -> None:
    study = study_of(tmp_path, {("pretrained", "across"): (1.5, 0.8, 0.0)})
    assert confirmatory(study) == []
    (null,) = confirmatory(study, "chance")
    assert null.f1.verdict == f"above by {null.f1.estimate:.1f} points"


def test_one_seed_is_said_wherever_a_decision_is(tmp_path: Path) -> None:
    study = measure(load_sweep(write_sweep(tmp_path, WORLD, CELLS, seeds=(0,))))
    assert set(study.contrasts["basis"]) == {THESE_SEEDS} == set(study.f1["basis"])
    assert study.contrasts["verdict"].str.endswith(f"({THESE_SEEDS})").all()


@pytest.mark.parametrize("number", few(range(12), 0))
def test_everything_said_of_a_contrast_is_its_one_decision(tmp_path: Path, number: int) -> None:
    """Studies drawn at random: tables, sentences, models and the terminal must not contradict each other."""
    rng = np.random.default_rng(number)
    names = [("pretrained", "original"), ("pretrained", "within"), ("pretrained", "across"), ("random", "original")]
    cells = {name: (1.5, float(rng.choice([0, 0.15, 0.4, 1.2])), float(rng.uniform(0, 0.6))) for name in names}
    seeds = tuple(range(int(rng.choice([1, 3, 5]))))
    write_sweep(tmp_path, WORLD, cells, seeds=seeds)
    swap = {("pretrained", name): (1.5, float(rng.choice([0.1, 0.9])), 0.0) for name in ("original", "swap")}
    write_sweep(tmp_path, WORLD, swap, seeds=seeds, subset="swap")
    study = measure(load_sweep(tmp_path))
    decided = {(c.setup, c.above, c.below): c.f1 for c in study.compared if c.kind != "chance"}
    assert len(decided) == len([c for c in study.compared if c.kind != "chance"])
    table = study.contrasts
    for row, c in zip(table.to_dict("records"), study.compared, strict=True):
        assert (row["decision"], row["verdict"]) == (str(c.f1.decision), c.f1.verdict)
    words = cell_rows(study, shown_runs(study.runs))
    said = " ".join(headline(words, study.compared))
    fixed = confirmatory(study)
    above = sum(c.f1.decision is Decision.ABOVE for c in fixed)
    assert (f"All {len(fixed)} contrasts" if above == len(fixed) else f"{above} of the {len(fixed)} contrasts") in said
    assert (THESE_SEEDS in said) == (len(seeds) == 1)
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(overview(study))
    printed = console.export_text()
    assert all(f"{c.above} − {c.below}" in printed and c.f1.verdict in printed for c in fixed)
    assert (THESE_SEEDS in printed) == (len(seeds) == 1)
    models, checked = study.models[study.models["tost_step"].notna()], 0
    for row in models[models["question"].isin(["pretraining", "labels"])].to_dict("records"):
        one, other = row["comparison"].split(" − ")
        if row["question"] == "pretraining":
            one = f"pretrained LM, {other.split(', ')[1]}"
        else:
            one, other = f"pretrained LM, {one}", f"pretrained LM, {other}"
        if (row["setup"], one, other) in decided:
            assert row["verdict"] == decided[row["setup"], one, other].verdict
            checked += 1
    assert checked >= 3
    (swapped,) = (c for c in study.compared if c.kind == "swap")
    assert study.swap["verdict"].tolist()[0] == swapped.f1.verdict
    assert not any(study.swap["verdict"].tolist()[1:])
    checks = study.robustness
    assert set(checks["check"]) == {"leaves resampled"}
    for row in checks.to_dict("records"):
        same = str(decided[row["setup"], row["above"], row["below"]].decision)
        assert row["agrees"] == row["verdict"].startswith(same)


def test_hypernyms_that_share_leaves_are_drawn_together(tmp_path: Path) -> None:
    """Two names for the same leaves are one hypernym's worth of evidence: the interval is that of one of them."""
    leaf = np.repeat(np.arange(40), 12)
    rng = np.random.default_rng(0)
    gold, yes = np.tile([True, False], 240), rng.random(480) < 0.5
    yes = np.where(rng.random(40)[leaf] < 0.5, gold, yes)  # leaves are known or not
    once = pd.DataFrame({"label_leaf": leaf.astype(str), "category": "a", "key": "", "answer": gold})
    twice = pd.concat([once, once.assign(category="b")], ignore_index=True)
    draws = [macro_f1_draws(HeldoutQuestions.of(asked), np.tile(yes, n)) for n, asked in ((1, once), (2, twice))]
    np.testing.assert_allclose(*draws)
    alone = twice.assign(label_leaf=twice["category"] + twice["label_leaf"])  # as if they shared nothing
    assert macro_f1_draws(HeldoutQuestions.of(alone), np.tile(yes, 2)).std() < 0.85 * draws[0].std()


def test_nested_hypernyms_can_be_left_out(transfer: Study) -> None:
    study = transfer
    depths = pd.DataFrame({"category": WORLD.hypernyms, "depth": [1, 1, 1, 2, 2, 2], "dataset_path": ""})
    checks = replace(study, depths=depths).robustness
    checks = checks[checks["check"] == "depth 1"]
    assert (checks["n_hypernyms"] == 3).all()
    assert len(checks) == len(confirmatory(study))


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
