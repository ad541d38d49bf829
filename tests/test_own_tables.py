"""Tables of a study that has runs of every kind: against the runs' own scores, each other, and their description."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from sklearn.metrics import f1_score
from statsmodels.stats.multitest import multipletests
from synthetic_sweep import CELLS, World, id_of, mark_done, standing_in, write_probe, write_sweep

from analysis.cells import label_runs, seed_units
from analysis.figures.contents import Figures
from analysis.predictions import load_sweep
from analysis.probes import read_probes
from analysis.report import files as study_files
from analysis.report import files as tables_module
from analysis.report.dictionary import CAPTIONS, SETTING, describe_columns
from analysis.report.files import study_tables, write_tables
from analysis.report.summary import essentials, overview
from analysis.scores.baselines import permuted_macro_f1
from analysis.scores.means import FEW_EACH, OVER
from analysis.statistics.difference import holm
from analysis.statistics.intervals import crossed_bootstrap
from analysis.statistics.swap_tests import DECIDES, HYPERNYMS, MIXED, PAIRED, WELCH
from analysis.study import Study, measure

WORLD = World(families=4, per_leaf=16, parents=True)
TRANSFER = {("pretrained", "original"): (1.8, 1.2, 0.0)}
SEEDS = (0, 1, 2)


LENS = {"lens", "lens_layers", "lens_names", "lens_words"}
ELSEWHERE = {"naming", "transfer", "transfer_groups"} | LENS  # of other runs


@pytest.fixture(scope="module", autouse=True)
def _inputs() -> Iterator[None]:
    """Stand-ins for the dataset and the store; the real ones are read in test_coherence."""
    with standing_in(WORLD):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    sweep, about = root / "sweep", {"paths": {"dataset": str(root), "features": str(root)}, "seeds": SEEDS}
    write_sweep(sweep, WORLD, CELLS, **about)
    write_sweep(sweep, WORLD, TRANSFER, encoder="/x/siglip", **about)
    for removed in (1, 2):
        write_sweep(sweep, WORLD, TRANSFER, ablation=removed, ablation_kind="systematic", **about)
    for permutation in (0, 1):
        write_sweep(
            sweep, WORLD, {("pretrained", "across"): (1.6, 0.5, 0)}, shuffled=50, permutation=permutation, **about
        )
    swap = TRANSFER | {("pretrained", "swap"): (1.8, 0.7, 0.0)}
    write_sweep(sweep, WORLD, swap, subset="swap", **about)
    write_probe(root / "probe.parquet", WORLD, 1.5)
    return root


def runs_of(folder: Path, arm: str) -> list[str]:
    """Runs of the first sweep's pretrained cell, by seed."""
    return [id_of(folder / "sweep" / f"pretrained-{arm}-r{seed}") for seed in SEEDS]


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return measure(load_sweep(folder / "sweep"), read_probes([folder]))


@pytest.fixture(scope="module")
def tables(study: Study) -> dict[str, pd.DataFrame]:
    return study_tables(study)


def test_every_table_is_there_and_described(tables: dict[str, pd.DataFrame]) -> None:
    assert set(tables) == set(CAPTIONS) - {"columns", *ELSEWHERE}
    for name, table in tables.items():
        assert len(table) > 0, name
        assert isinstance(table.index, pd.RangeIndex) or table.index.is_unique
        assert all(isinstance(column, str) for column in table.columns)
    described = describe_columns(tables).set_index(["table", "column"])
    assert described.index.is_unique
    settings = described.index[described["meaning"] == SETTING[0]]
    assert set(settings.get_level_values("table")) == {"results"}
    assert {"run_seed", "shuffle"} <= set(settings.get_level_values("column"))
    assert not any(name.startswith(("leaf_", "heldout_", "validation_")) for _, name in settings)
    assert described.loc[("results", "heldout_auc"), "meaning"].startswith("test, held-out hypernyms: area")
    assert described.loc[("reliability", "n"), "meaning"] != described.loc[("models", "n"), "meaning"]
    with pytest.raises(KeyError, match="unheard_of"):
        describe_columns({"f1": pd.DataFrame(columns=["unheard_of"])})


def test_f1_means_are_those_of_the_runs(study: Study) -> None:
    table = study.f1
    assert not table.duplicated(["setup", "arm", "lm_init", "group"]).any()
    own = study.runs[["setup", "arm", "lm_init"]]
    for row in table.to_dict("records"):
        chosen = own.index[(own == pd.Series({name: row[name] for name in own})).all(axis=1)]
        scores = study.test(row["group"]).loc[chosen]
        assert row["n_runs"] == len(chosen)
        assert row["f1"] == pytest.approx(scores["macro_f1"].mean())
        assert row["permuted_f1"] == pytest.approx(scores["permuted_f1"].mean())
        assert row["boot_low"] < row["f1"] < row["boot_high"]
        assert row["low"] < row["f1"] < row["high"]
        assert row["seed_lowest"] <= row["f1"] <= row["seed_highest"]
    whole = table[table["arm"] == "original"]
    assert (whole["n_seeds"] == 3).all()
    assert (whole["basis"] == "seeds and hypernyms").all()
    partial = table[table["arm"] == "across 50 %"]
    assert (partial["n_runs"] == 6).all()
    assert (partial["n_seeds"] == 2).all()  # two permutations: their runs share a label map
    assert not partial["shown"].any()


def test_an_interval_is_that_of_its_own_table(study: Study, folder: Path) -> None:
    run_ids = runs_of(folder, "original")
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    wide = test[test["run_id"].isin(run_ids)].pivot(index="run_id", columns="category", values="f1")
    setup = study.runs.loc[run_ids[0], "setup"]
    row = study.f1[(study.f1["setup"] == setup) & (study.f1["arm"] == "original") & (study.f1["group"] == "heldout")]
    row = row[row["lm_init"] == "pretrained"].iloc[0]
    assert (row["boot_low"], row["boot_high"]) == pytest.approx(crossed_bootstrap(wide.to_numpy()))


def test_seed_units() -> None:
    runs = pd.DataFrame(
        {
            "cell": ["a", "a", "b", "b", "b", "c", "c"], "lm_init": ["pretrained"] * 5 + ["random"] * 2,
            "data_seed": [0, 0, 0, 0, 1, 0, 0], "permutation": [0, 0, 0, 1, 0, 0, 0], "run_seed": [7, 8, 7, 7, 8, 7, 7],
            "lm_seed": [0, 1, 0, 0, 0, 3, 4],
        }
    )  # fmt: skip
    assert seed_units(runs).tolist() == [
        *("run_seed 7", "run_seed 8"),
        *("data_seed 0, permutation 0", "data_seed 0, permutation 1", "data_seed 1, permutation 0"),
        *("lm_seed 3", "lm_seed 4"),
    ]


def test_parts_of_the_hypernyms(study: Study) -> None:
    table = study.heldout
    systematic = table[table["setup"].str.contains("2 hypernyms removed")].set_index("over")
    assert {"all", "removed only"} <= set(systematic.index)
    removed = sorted(WORLD.hypernyms)[:2]
    test = study.categories[study.categories["run_id"].str.contains("-s2-")]
    test = test[(test["split"] == "test") & (test["group"] == "heldout")]
    assert systematic.loc["removed only", "n_categories"] == 2
    assert systematic.loc["removed only", "f1"] == pytest.approx(test[test["category"].isin(removed)]["f1"].mean())
    assert systematic.loc["all", "f1"] == pytest.approx(test["f1"].mean())
    few = table[table["over"] == FEW_EACH]
    assert (few["n_categories"] < table["n_categories"].max()).all()
    assert set(table["over"]) <= set(OVER)


def test_homonyms_are_left_out(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, WORLD, TRANSFER, seeds=(0, 1))
    study = measure(load_sweep(sweep))
    clean = study.categories.assign(homonym=study.categories["category"].isin(["bird", "fish"]))
    table = replace(study, categories=clean).heldout
    row = table[table["over"] == "no homonyms"].iloc[0]
    kept = clean[(clean["split"] == "test") & (clean["group"] == "heldout") & ~clean["homonym"]]
    assert row["n_categories"] == len(WORLD.hypernyms) - 2
    assert row["f1"] == pytest.approx(kept["f1"].mean())


def test_veridical_means_under_a_shuffle(study: Study, folder: Path) -> None:
    table = study.heldout[study.heldout["over"] == "all"]
    assert set(table.loc[table["labels"] == "veridical", "arm"]) == {"across", "across 50 %", "swap"}
    whole = table[(table["arm"] == "across") & (table["labels"] == "veridical")].iloc[0]
    per_run = []
    for seed in SEEDS:
        run = folder / "sweep" / f"pretrained-across-r{seed}"
        rows = pd.read_parquet(run / "questions.parquet").merge(pd.read_parquet(run / "predictions.parquet"))
        rows = rows[(rows["split"] == "test") & (rows["kind"] == "hypernym")]
        rows = rows.assign(said=rows["logit_yes"] >= rows["logit_no"])
        groups = [group for _, group in rows.groupby("category")]
        per_run.append(np.mean([f1_score(group["veridical"], group["said"], average="macro") for group in groups]))
    assert whole["f1"] == pytest.approx(100 * np.mean(per_run))
    gold = table[(table["arm"] == "across") & (table["labels"] == "gold")].iloc[0]
    assert gold["f1"] != pytest.approx(whole["f1"], abs=1)
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    test = test[test["run_id"].isin(runs_of(folder, "across"))]
    n = test["n_yes"] + test["n_no"]
    chance, _ = permuted_macro_f1(test["n_veridical_yes"], n - test["n_veridical_yes"], test["said_yes"])
    assert whole["permuted_f1"] == pytest.approx(100 * chance.mean())


def test_contrasts_fixed_in_advance_come_first_and_are_one_family(study: Study) -> None:
    table = study.contrasts
    fixed = table[table["status"] == "confirmatory"]
    assert list(fixed.index) == list(range(len(fixed)))
    planned = fixed["p"].where(fixed["kind"] == "contrast", fixed["tost_p"])
    adjusted = fixed["p_holm"].where(fixed["kind"] == "contrast", fixed["tost_p_holm"])
    np.testing.assert_allclose(adjusted, multipletests(planned, method="holm")[1])
    assert table.loc[table["status"] == "exploratory", ["p_holm", "tost_p_holm"]].isna().all(axis=None)
    assert set(table["kind"]) == {"contrast", "chance", "yardstick", "setup", "swap"}
    assert (table["low"] < table["difference"]).all()
    assert (table["boot_low"] < table["difference"]).all()


def test_a_contrast_is_the_difference_of_its_own_tables(study: Study, folder: Path) -> None:
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    one, other = (
        test[test["run_id"].isin(runs_of(folder, arm))].pivot(index="run_id", columns="category", values="f1")
        for arm in ("original", "across")
    )
    gaps = one.to_numpy() - other.to_numpy()  # by seed
    row = study.contrasts.query("above == 'pretrained LM, original' and below == 'pretrained LM, across'").iloc[0]
    assert row["difference"] == pytest.approx(gaps.mean())
    assert (row["boot_low"], row["boot_high"]) == pytest.approx(crossed_bootstrap(gaps))
    assert row["standardised"] == pytest.approx(gaps.mean() / one.to_numpy().std(ddof=1))


def test_single_hypernyms_are_adjusted_within_their_comparison(study: Study, folder: Path) -> None:
    table = study.hypernyms
    for _, family in table.groupby(["setup", "above", "below"]):
        assert len(family) == len(WORLD.hypernyms)
        np.testing.assert_allclose(family["p_holm"], holm(family["p"]))
    chance = table[table["below"] == "its own answers, permuted"]
    transfer = chance[chance["above"] == "pretrained LM, original"]
    assert (transfer["p_holm"] < 0.05).mean() > 0.9
    assert (chance.loc[chance["above"] == "random-init LM, original", "p_holm"] > 0.05).all()
    against = table[(table["above"] == "pretrained LM, original") & (table["below"] == "pretrained LM, across")]
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    bird = test[test["category"] == "bird"].set_index("run_id")["f1"]
    one, other = (bird[runs_of(folder, arm)].to_numpy(float) for arm in ("original", "across"))
    expected = stats.ttest_ind(one, other, equal_var=False)
    row = against[against["category"] == "bird"].iloc[0]
    assert (row["statistic"], row["p"]) == pytest.approx((expected.statistic, expected.pvalue))


def test_answers_that_are_all_alike_are_no_evidence(tmp_path: Path) -> None:
    """A cell that always says no: its F1 is that of its permuted answers, whatever its value."""
    study = measure(load_sweep(write_sweep(tmp_path, WORLD, {("pretrained", "original"): (1.5, 0.0, 50.0)}, (0, 1))))
    assert (study.hypernyms["p"] == 1).all()
    assert (study.hypernyms["difference"].abs() < 1e-9).all()


def test_models_of_a_study(study: Study) -> None:
    table = study.models
    assert set(table["question"]) == {"pretraining", "labels", "encoder", "coherence"}
    statuses = table["status"].tolist()
    assert statuses == sorted(statuses)  # confirmatory before exploratory
    assert table["estimate"].notna().all()
    encoder = table[(table["question"] == "encoder") & (table["term"] == "encoder")]
    assert encoder["reduced"].tolist() in ([False], [False, True])
    assert {"probe_f1", "coherence"} <= set(table.loc[table["question"] == "coherence", "term"])
    assert {fitted.about["question"] for fitted in study.fitted} == set(table["question"])
    assert study.fitted is study.fitted  # fitted once
    gap = study.contrasts.query("above == 'pretrained LM, original' and below == 'pretrained LM, across'")["difference"]
    row = table[(table["comparison"] == "original − across") & (table["term"] == "labels")].iloc[0]
    assert row["estimate"] == pytest.approx(gap.iloc[0], abs=0.5)


def test_swap_tests_stand_side_by_side(study: Study) -> None:
    table = study.swap
    assert table["test"].tolist() == [DECIDES, WELCH, PAIRED, HYPERNYMS, MIXED]
    gap = study.contrasts.loc[study.contrasts["kind"] == "swap"].iloc[0]
    decides = table.iloc[0]
    assert (decides["difference"], decides["low"], decides["p"]) == pytest.approx(
        (gap["difference"], gap["low"], gap["p"])
    )
    assert (table["verdict"] != "").tolist() == [True] + 4 * [False]


def test_one_run_alone_gives_every_table(tmp_path: Path) -> None:
    study = measure(load_sweep(write_sweep(tmp_path / "sweep", WORLD, TRANSFER, seeds=(0,))))
    row = study.f1[study.f1["group"] == "heldout"].iloc[0]
    assert row["basis"] == "these seeds only"
    assert study.models.empty
    assert study.swap.empty
    assert len(study.contrasts) == 1
    assert write_tables(study, tmp_path / "out")[0] == "results.csv"
    assert len(essentials(study)["f1"]) == 2
    _text(study)


def test_without_held_out_questions_nothing_is_compared(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", WORLD, CELLS, seeds=(0, 1), ablation=0)
    for run in sweep.iterdir():
        questions = pd.read_parquet(run / "questions.parquet").assign(seen=True)
        questions.to_parquet(run / "questions.parquet", index=False)
        mark_done(run)
    study = measure(load_sweep(sweep))
    assert set(study.f1["group"]) == {"leaf", "seen"}
    for table in (study.heldout, study.contrasts, study.hypernyms, study.models, study.swap):
        assert table.empty
        assert len(table.columns) > 5
    write_tables(study, tmp_path / "out")
    assert "leaves" in _text(study)


def test_runs_share_what_they_share(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Question tables are read once for all runs that have the same, and the results are as if read for each."""
    sweep = load_sweep(folder / "sweep")
    read: list[str] = []
    whole = type(sweep).questions
    monkeypatch.setattr(type(sweep), "questions", lambda self, run_id: read.append(run_id) or whole(self, run_id))
    study = measure(sweep)
    digests = {sweep.questions_digest(run_id) for run_id in sweep.runs.index}
    assert len(read) == len(digests) < len(sweep.runs)
    assert study.categories["run_id"].unique().tolist() == label_runs(sweep.runs).index.tolist()
    one = sweep.runs.index[-1]
    alone = measure(replace(sweep, runs=sweep.runs.loc[[one]]))
    pd.testing.assert_frame_equal(
        study.categories[study.categories["run_id"] == one].reset_index(drop=True), alone.categories
    )
    assert set(study.yardsticks["run_id"]) == set(sweep.runs.index)
    mine = study.yardsticks[study.yardsticks["run_id"] == one].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, alone.yardsticks)


def test_files(study: Study, tables: dict[str, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_tables(study, tmp_path / "one")
    assert set(names) == {f"{name}.csv" for name in set(CAPTIONS) - ELSEWHERE}
    for name in sorted(set(CAPTIONS) - ELSEWHERE):
        typed = pd.read_parquet(tmp_path / "one" / "parquet" / f"{name}.parquet")
        flat = pd.read_csv(tmp_path / "one" / f"{name}.csv")
        assert list(typed.columns) == list(flat.columns)
        assert len(typed) == len(flat) == (len(tables[name]) if name in tables else len(flat))
        number = typed.select_dtypes("number").columns
        np.testing.assert_allclose(typed[number].astype(float), flat[number].astype(float), rtol=1e-8, atol=1e-12)
    write_tables(study, tmp_path / "two")
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    monkeypatch.setattr(tables_module, "LARGE", len(study.categories) - 1)
    names = write_tables(study, tmp_path / "three")
    assert "parquet/categories.parquet" in names
    assert not (tmp_path / "three" / "categories.csv").exists()


def test_analyze_prints_the_essentials(
    study: Study, folder: Path, tmp_path: Path, crosstax, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_files, "draw_figures", lambda *_: Figures({}, {}))  # slow, and tested for themselves
    words = ["--probe", folder / "probe.parquet", "--out", tmp_path / "out", "--json"]
    given = []
    monkeypatch.setattr(study_files, "measure", lambda *inputs: given.append(inputs) or study)
    code, out, err = crosstax("analyze", folder / "sweep", *words)
    assert code == 0
    assert [(len(sweep.runs), len(probes)) for sweep, probes, *_ in given] == [(len(study.runs), 1)]
    found = json.loads(out.strip().splitlines()[-1])
    assert found == {"out": str(tmp_path / "out"), **essentials(study)}
    assert "fixed in advance" in err
    assert (tmp_path / "out" / "models.csv").is_file()


def _text(study: Study, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(overview(study))
    return console.export_text()


def test_overview_and_essentials(study: Study) -> None:
    text = _text(study, 200)
    row = study.f1[(study.f1["arm"] == "across") & (study.f1["group"] == "heldout")].iloc[0]
    line = next(line for line in text.splitlines() if "pretrained LM, across" in line)
    assert f"{row['f1']:.1f} [{row['low']:.1f}, {row['high']:.1f}]" in line
    assert "above by" in text
    assert "mixed model" in text
    assert "probability on neither answer up to 3.0 %" in text
    assert len(text.splitlines()) < 60
    assert max(map(len, _text(study, 80).splitlines())) <= 80
    found = essentials(study)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["runs"] == len(study.runs)
    assert len(found["contrasts"]) == len(study.contrasts)
    assert {row["arm"] for row in found["f1"]} == {"original", "across", "within", "swap"}
    assert found["models"][0]["status"] == "confirmatory"
