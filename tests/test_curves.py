"""Ablation curves, dose-response and depth: their tables against the runs' own scores, and what is drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_sweep import CELLS, World, standing_in, write_sweep

from analysis.cells import shown_runs
from analysis.figures.contents import FIGURES, draw_figures
from analysis.figures.style import Drawn
from analysis.predictions import load_sweep
from analysis.report.report import write_report
from analysis.scores.ablation import ablation_sentences
from analysis.scores.dose import dose_sentences, dose_table
from analysis.scores.means import depth_scores
from analysis.study import Study, measure

WORLD = World(families=8, per_leaf=8, parents=True)
HEADLINE, CURVES = ("main", "auc", "coherence", "loss", "yardsticks"), ("ablation", "ablation_auc", "depth", "dose")
PRETRAINED = {("pretrained", "original"): (1.8, 1.2, 0.0)}
RANDOM = {("random", "original"): (1.4, 0.1, 0.8)}
LEVELS = (30, 100)
REMOVED = (2, 5)
DOSES = (25, 75)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of everything that varies by degree."""
    root = tmp_path_factory.mktemp("curves")
    sweep, about = root / "sweep", {"paths": {"dataset": str(root), "features": str(root)}, "seeds": (0, 1)}
    write_sweep(sweep, WORLD, CELLS, **about)
    for cells in (PRETRAINED, RANDOM):
        for level in LEVELS[:-1]:
            write_sweep(sweep, WORLD, cells, ablation=level, **about)
        for count in REMOVED:
            write_sweep(sweep, WORLD, cells, ablation=count, ablation_kind="systematic", **about)
    for dose in DOSES:
        for permutation in (0, 1):
            across = {("pretrained", "across"): (1.6, 1.2 - dose / 100, 0.0)}
            write_sweep(sweep, WORLD, across, shuffled=dose, permutation=permutation, **about)
    return root


@pytest.fixture(scope="module", autouse=True)
def _inputs() -> object:
    with standing_in(WORLD):
        yield


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return measure(load_sweep(folder / "sweep"))


@pytest.fixture(scope="module")
def drawn(study: Study) -> dict[str, Drawn]:
    return {name: figure for name in (*HEADLINE, *CURVES) if (figure := FIGURES[name](study))}


def test_curves_are_the_runs_means(study: Study) -> None:
    curves = study.ablation.set_index(["lm_init", "kind", "ablation", "group", "over"])
    for lm_init in ("pretrained", "random"):
        for level in LEVELS:
            runs = study.runs.query("lm_init == @lm_init and arm == 'original' and kind == 'random'")
            runs = runs.index[runs["ablation"] == level]
            row = curves.loc[(lm_init, "random", level, "heldout", "all")]
            scores = study.test("heldout").loc[runs]
            assert row["n_runs"] == len(runs)
            assert row["f1"] == pytest.approx(scores["macro_f1"].mean())
            assert (row["f1_low"], row["f1_high"]) == (scores["macro_f1"].min(), scores["macro_f1"].max())
            assert row["auc"] == pytest.approx(scores["auc"].mean())
            assert row["coin_f1"] == pytest.approx(scores["coin_f1"].mean())
    assert set(study.ablation["arm"]) == {"original"}  # across and within have one level, no curve
    assert set(study.ablation["group"]) == {"leaf", "seen", "heldout"}


def test_removed_hypernyms_have_a_mean_of_their_own(study: Study) -> None:
    curves = study.ablation.set_index(["lm_init", "kind", "ablation", "group", "over"])
    for count in REMOVED:
        row = curves.loc[("pretrained", "systematic", count, "heldout", "removed only")]
        runs = study.runs.query("lm_init == 'pretrained' and kind == 'systematic'")
        rows = study.categories[study.categories["run_id"].isin(runs.index[runs["ablation"] == count])]
        rows = rows[(rows["split"] == "test") & (rows["group"] == "heldout")]
        removed = rows[rows["category"].isin(WORLD.hypernyms[:count])]
        assert row["n_categories"] == count < rows["category"].nunique()
        assert row["f1"] == pytest.approx(removed.groupby("run_id")["f1"].mean().mean())
        assert row["f1"] != pytest.approx(curves.loc[("pretrained", "systematic", count, "heldout", "all"), "f1"])
        own = study.test("heldout").loc[runs.index[runs["ablation"] == count]]
        assert row["f1"] == pytest.approx(own["macro_f1_removed"].mean())
        assert own["n_removed"].eq(count).all()
    assert not study.categories.loc[study.categories["group"] == "leaf", "removed"].any()
    assert study.test("heldout").loc[study.runs["kind"] == "random", "macro_f1_removed"].isna().all()


def test_sentences_name_the_ends_of_the_curves(study: Study) -> None:
    sentences = ablation_sentences(study.ablation)
    assert len(sentences) == 4
    curve = study.ablation.query("kind == 'random' and lm_init == 'random' and group == 'heldout'").set_index(
        "ablation"
    )
    (said,) = (text for text in sentences if text.startswith("Random ablation, random-init LM"))
    assert f"held-out F1 {curve.loc[30, 'f1']:.1f} with 30 % withheld, {curve.loc[100, 'f1']:.1f} with 100 %." in said
    assert all("on removed hypernyms only" in text for text in sentences if text.startswith("Systematic"))


def test_doses_run_from_original_to_across(study: Study) -> None:
    table = dose_table(study.dose).set_index(["lm_init", "dose"])
    assert table.loc["pretrained"].index.tolist() == [0, *DOSES, 100]
    assert table.loc["random"].index.tolist() == [0]
    runs = study.runs[(study.runs["lm_init"] == "pretrained") & (study.runs["ablation"] == 100)]
    heldout = study.test("heldout")["macro_f1"]
    for dose, arm in ((0, "original"), (25, "across 25 %"), (75, "across 75 %"), (100, "across")):
        own = runs.index[(runs["arm"] == arm) & (runs["kind"] == "random")]
        row = table.loc[("pretrained", dose)]
        assert row["n_runs"] == len(own) == (4 if dose in DOSES else 2)
        assert row["f1"] == pytest.approx(heldout[own].mean())
    doses = table.loc["pretrained"]
    assert doses["coherence"].is_monotonic_decreasing
    assert doses["coherence_centred"].is_monotonic_decreasing
    assert doses["pairs_kept"].tolist() == sorted(doses["pairs_kept"], reverse=True)
    assert doses.loc[0, "pairs_kept"] == 1


def test_the_correlation_of_doses_is_over_label_maps(study: Study) -> None:
    rows = study.dose[study.dose["lm_init"] == "pretrained"]
    maps = rows.groupby("map")[["coherence_centred", "f1"]].mean().astype(float)
    assert len(maps) == 6 < len(rows)  # original, across, and two permutations of two doses
    r = stats.pearsonr(maps["coherence_centred"], maps["f1"]).statistic
    (said,) = dose_sentences(study.dose[study.dose["lm_init"] == "pretrained"])
    assert f"over 6 label maps {r:.2f}" in said
    assert "falls at every step from" in said


def test_depth_is_the_taxonomys(study: Study) -> None:
    row = study.depth.set_index(["lm_init", "arm", "depth"]).loc[("pretrained", "within", 2)]
    runs = study.runs.index[(study.runs["arm"] == "within")]
    rows = study.categories[study.categories["run_id"].isin(runs) & (study.categories["split"] == "test")]
    rows = rows[(rows["group"] == "heldout") & rows["category"].isin(["animal", "artifact", "plant"])]
    by_hypernym = rows.groupby("category")["f1"].mean()
    assert row["n_hypernyms"] == 3
    assert row["f1"] == pytest.approx(by_hypernym.mean())
    # Wider than Student's t over hypernyms alone, which takes the seeds as given.
    low, high = stats.t.interval(0.95, 2, loc=by_hypernym.mean(), scale=stats.sem(by_hypernym))
    assert row["f1_low"] < low < high < row["f1_high"]
    assert row["f1_low"] + row["f1_high"] == pytest.approx(2 * row["f1"])
    assert set(study.depth["arm"]) == {"original", "across", "within"}  # the headline's cells only


def test_one_depth_is_nothing_to_compare(study: Study) -> None:
    assert depth_scores(shown_runs(study.runs), study.categories, study.depths.assign(depth=1)).empty


def test_the_main_figure_keeps_the_headline_only(drawn: dict[str, Drawn], tmp_path: Path, folder: Path) -> None:
    """The same bytes as from a sweep that has nothing else: levels and doses are left to the curves."""
    write_sweep(tmp_path / "sweep", WORLD, CELLS, seeds=(0, 1), paths={"dataset": str(folder), "features": str(folder)})
    alone = measure(load_sweep(tmp_path / "sweep"))
    for name in (*HEADLINE, "depth"):
        assert drawn[name].svg() == FIGURES[name](alone).svg(), name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.figures.contents.FIGURES", {name: FIGURES[name] for name in CURVES})
        assert set(draw_figures(alone).drawn) == {"depth"}


@pytest.mark.usefixtures("no_models")
def test_sections_and_summary_appear_with_their_runs(
    folder: Path, study: Study, drawn: dict[str, Drawn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ("ablation", "depth", "dose")
    monkeypatch.setattr("analysis.report.report.measure", lambda *_: study)
    monkeypatch.setattr("analysis.figures.contents.FIGURES", {name: FIGURES[name] for name in here})
    summary = write_report(load_sweep(folder / "sweep"), tmp_path, world=None, seconds={})
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    for title in ("Ablation curves", "Dose and response", "Depth", "Measured against what can be seen"):
        assert f"<h2>{title}</h2>" in html
    for title in ("What the LM knows in text", "The hypernym-level swap"):
        assert title not in html
    assert {path.name for path in tmp_path.glob("*.csv")} >= {"ablation.csv", "dose.csv", "depth.csv"}
    table = pd.read_csv(tmp_path / "ablation.csv")
    assert len(summary["ablation"]) == len(table)
    np.testing.assert_allclose([row["f1"] for row in summary["ablation"]], table["f1"])
    assert [row["dose"] for row in summary["dose"] if row["lm_init"] == "pretrained"] == [0, *DOSES, 100]
    written = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "figures").glob("*.svg")}
    assert written == {name: drawn[name].svg() for name in here}  # the same bytes twice
