"""The logistic model of single answers beside glmer's estimates, and on answers whose truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import World, write_sweep

from analysis.predictions import load_sweep
from analysis.statistics.contrasts import CONFIRMATORY, measure_table, signal_detection
from analysis.statistics.item_model import answer_rows, item_model
from analysis.statistics.laplace import Problem, Term, fit_logistic
from analysis.study import Study, measure

SUPPORT = Path(__file__).with_name("support")
DATA = pd.read_csv(SUPPORT / "glmer_data.csv.gz")
FITS = pd.read_csv(SUPPORT / "glmer_fits.csv", keep_default_na=False).replace("(Intercept)", "Intercept")


def fixture(name: str, without: str = "") -> tuple[np.ndarray, np.ndarray, list[Term], pd.DataFrame]:
    """Answers, fixed effects and random terms as glmer had them, but those of the group `without`; its estimates."""
    data, fits = DATA[DATA["fixture"] == name], FITS[FITS["fixture"] == name]
    gold, condition = data["gold"].to_numpy(float), data["condition"].to_numpy(float)
    values = {"Intercept": np.ones(len(data)), "gold": gold, "condition": condition, "gold:condition": gold * condition}
    terms = []
    for row in fits[(fits["part"] == "sd") & (fits["group"] != without)].itertuples():
        level_n, levels = pd.factorize(data[row.group])
        terms.append(Term(row.group, row.term, values[row.term], level_n, len(levels)))
    return data["yes"].to_numpy(bool), np.column_stack(list(values.values())), terms, fits


@pytest.mark.parametrize("name", ["small", "middle", "large"])
def test_estimates_are_those_of_glmer(name: str) -> None:
    y, X, terms, fits = fixture(name)
    fitted = fit_logistic(y, X, terms)
    fixed, sd, deviance = (fits[fits["part"] == part] for part in ("fixed", "sd", "deviance"))
    assert fitted.converged
    assert fitted.deviance == pytest.approx(deviance["value"].item(), abs=0.001)
    np.testing.assert_allclose(fitted.beta_p, fixed["value"], rtol=0.001)
    np.testing.assert_allclose(np.sqrt(np.diagonal(fitted.covariance_pp)), fixed["se"].astype(float), rtol=0.003)
    np.testing.assert_allclose(fitted.sds, sd["value"], rtol=0.002)


def test_a_model_without_one_factor_is_told_from_glmers() -> None:
    """The same comparison fails for a model that is wrong in one respect."""
    y, X, terms, fits = fixture("small", without="image")
    fitted = fit_logistic(y, X, terms)
    gap = np.abs(fitted.beta_p / fits.loc[fits["part"] == "fixed", "value"] - 1)
    assert gap.max() > 0.02


@pytest.mark.parametrize("label_maps", [0, 1, 5])
def test_gradient_is_the_derivative(label_maps: int) -> None:
    """With images nested in leaves, in two leaves each (the labels of two conditions), and in so many that all meet."""
    y, X, terms, _ = fixture("middle")
    rng, runs = np.random.default_rng(0), next(t.level_n for t in terms if t.group == "run")
    for run in range(label_maps):
        moved = {t.group: rng.permutation(t.levels) for t in terms}["leaf"]
        terms = [
            replace(t, level_n=np.where(runs == run, moved[t.level_n], t.level_n)) if t.group == "leaf" else t
            for t in terms
        ]
    at = np.r_[-0.3, 1.0, 0.2, 0.8, np.linspace(0.2, 1.1, len(terms))]
    problem, step = Problem(y, X, terms), 1e-3
    assert bool(problem.g) == (label_maps < 5)  # whether leaves are eliminated sparsely
    by_hand = [(problem.at(at + e).value - problem.at(at - e).value) / (2 * step) for e in step * np.eye(len(at))]
    gradient = problem.value_and_gradient(at)[1]
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-3, atol=1e-3)
    assert np.abs(gradient).max() > 1  # not at the optimum, where all would be zero


def test_a_variance_of_zero_stays_out_of_the_errors() -> None:
    y, X, terms, _ = fixture("small")
    none = Term("run", "none", np.ones(len(y)), np.arange(len(y)) % 2, 2)  # levels dealt out at random
    with_it, without = fit_logistic(y, X, [*terms, none]), fit_logistic(y, X, terms)
    assert with_it.sds[-1] < 0.1
    np.testing.assert_allclose(with_it.covariance_pp, without.covariance_pp, rtol=0.01, atol=1e-4)


def test_signal_detection_from_counts() -> None:
    rows = pd.DataFrame({"n_yes": [9, 9, 0], "n_no": [19, 19, 19], "said_yes": [9, 14, 3], "right": [28, 14, 16]})
    known = signal_detection(rows)
    assert known["d_prime"][0] == pytest.approx(1.6449 + 1.9600, abs=1e-4)  # all right: z(.95), and z(.975) for .025
    assert known["criterion"][0] == pytest.approx(-(1.6449 - 1.9600) / 2, abs=1e-4)
    assert known["criterion"][1] < known["criterion"][0]  # hits 9 of 9, false alarms 5 to 10 of 19
    assert known.loc[2, ["d_prime", "criterion"]].isna().all()  # only one right answer


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two conditions that know equally much, and one that knows nothing."""
    cells = {("pretrained", "original"): (1.5, 1.0, 0.0), ("pretrained", "across"): (1.5, 1.0, 0.0)}
    cells |= {("random", "original"): (1.5, 0.0, 0.0)}
    return measure(load_sweep(write_sweep(tmp_path_factory.mktemp("items"), World(families=6, per_leaf=16), cells)))


def test_measures_are_confirmatory_and_of_one_family_each(study: Study) -> None:
    table = study.sensitivity
    assert set(table["measure"]) == {"AUC", "d′", "criterion"}
    assert table.loc[table["measure"] == "criterion", "p_holm"].isna().all()
    for measure_name in ("AUC", "d′"):
        rows = table[table["measure"] == measure_name]
        assert (rows["status"] == CONFIRMATORY).all()
        planned = rows["p"].where(rows["kind"] == "contrast", rows["tost_p"])
        adjusted = rows["p_holm"].fillna(rows["tost_p_holm"])
        assert adjusted.min() == pytest.approx(min(1, planned.min() * len(rows)))
    of_auc = table[(table["measure"] == "AUC") & (table["kind"] == "contrast")]
    shown = study.contrasts[(study.contrasts["status"] == CONFIRMATORY) & (study.contrasts["kind"] == "contrast")]
    assert of_auc["verdict"].tolist() == shown["auc_verdict"].tolist()  # one decision wherever it is told


def test_the_items_agree_with_the_contrasts(study: Study) -> None:
    table = study.items
    shown = study.sensitivity.set_index(["above", "below", "measure"])
    for effect, name in (("sensitivity, difference", "d′"), ("criterion, difference", "criterion")):
        rows = table[table["effect"] == effect]
        assert len(rows) == 2  # original less across, and less random-init
        for row in rows.to_dict("records"):
            contrast = shown.loc[(row["above"], row["below"], name)]
            assert row["verdict"] == contrast["verdict"]
            assert row["estimate"] / 1.7 == pytest.approx(contrast["difference"], abs=0.5)
    assert set(table.loc[table["effect"] == "SD", "group"]) == {"category", "leaf", "image", "run"}


def test_a_bias_moves_the_intercept(study: Study) -> None:
    """The same runs on both sides do not differ; where one side's answers turn to no, its criterion does."""
    own = [run for run in study.runs.index if study.runs.at[run, "cell"].pretrained][:3]
    rows = answer_rows([own, own], study.runs, study.answers)
    rows["run"] += rows["condition"].astype(str)
    turned = (rows["condition"] > 0) & (np.random.default_rng(0).random(len(rows)) < 0.4)
    same, moved = (item_model(rows.assign(yes=rows["yes"] & kept))[0] for kept in (True, ~turned))
    assert same.beta_p[2:] == pytest.approx(0, abs=0.05)
    assert moved.beta_p[2] < -0.5


def test_label_maps_are_a_factor_where_they_are_crossed_with_seeds(study: Study) -> None:
    runs = study.runs[[cell.pretrained for cell in study.runs["cell"]]]
    maps = runs.assign(permutation=np.arange(len(runs)) % 2)
    ids = [list(here.index) for _, here in maps.groupby("cell", sort=False)]
    for table, factor in ((maps, True), (runs, False)):
        _, terms = item_model(answer_rows(ids, table, study.answers))
        assert ("map" in {term.group for term in terms}) == factor


def test_answers_that_are_all_alike_have_no_model(study: Study) -> None:
    silent = {run: (asked, said & False) for run, (asked, said) in study.answers.items()}
    table = replace(study, answers=silent).items
    assert table["estimate"].isna().all()
    assert table["note"].str.startswith("Not fitted").all()
    assert len(measure_table(study.compared)) == len(study.sensitivity)
