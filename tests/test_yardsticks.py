"""The yardsticks: they answer the runs' own questions, see what can be seen, and know nothing they should not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from synthetic_sweep import CELLS, World, answer_questions, standing_in, write_probe, write_run, write_sweep

from analysis.predictions import derive_answers, load_sweep
from analysis.probes import read_probes
from analysis.report.experiments import yardstick_sentences
from analysis.scores.coherence import label_map
from analysis.scores.neighbours import find_neighbours
from analysis.scores.yardsticks import (
    VISUAL,
    Eye,
    composed_margins,
    fair_thresholds,
    look,
    matched_votes,
    measure_yardstick,
)
from analysis.statistics.contrasts import Contrast
from analysis.statistics.difference import Decision
from analysis.study import Study, measure
from cachegen.common.errors import RunError

WORLD = World(families=6, per_leaf=16, parents=True)


def of_kind(study: Study, kind: str) -> list[Contrast]:
    return [c for c in study.compared if c.kind == kind]


def asked_of(world: World, shuffle: str) -> pd.DataFrame:
    """Test questions with groups, as `SavedRuns.answers` has them."""
    questions = world.questions(shuffle, 100).assign(removed=False, logit_yes=0.0, logit_no=0.0)
    return derive_answers(questions[questions["split"] == "test"])


def eye_of(world: World, shuffle: str, coherent: float) -> Eye:
    train, test = (world.images[world.images["split"] == split].sort_values("key") for split in ("train", "test"))
    lists = (train["key"].tolist(), train["leaf"].to_numpy(str), test["key"].tolist(), test["leaf"].to_numpy(str))
    found = find_neighbours(world.store(coherent=coherent), *lists)
    return look(found, label_map(world.questions(shuffle, 100)), world.dataset)


def scores(world: World, shuffle: str, coherent: float) -> pd.DataFrame:
    """Mean F1 (0..100) and AUC per yardstick (index) on held-out hypernyms."""
    eye, asked = eye_of(world, shuffle, coherent), asked_of(world, shuffle)
    tables = {name: measure_yardstick(asked, eye.margins(name, asked)) for name in VISUAL}
    return pd.DataFrame({name: t.loc[t["group"] == "heldout", ["f1", "auc"]].mean() for name, t in tables.items()}).T


def test_the_control_sees_families_that_look_alike() -> None:
    seen = scores(WORLD, "original", coherent=2.0)
    assert (seen["auc"] > 0.9).all()
    assert (seen["f1"] > 80).all()
    within = scores(WORLD, "within", coherent=2.0)
    assert (within.loc[["knn", "knn_whitened"], "auc"] > 0.9).all()


@pytest.mark.parametrize(("shuffle", "coherent"), [("across", 2.0), ("original", 0.0)])
def test_the_control_is_at_chance_where_looks_tell_nothing_and_the_oracle_is_not(shuffle: str, coherent: float) -> None:
    """Shuffled labels, or leaves that look like nothing else: knowing one's own leaf would give the answer away."""
    seen = scores(WORLD, shuffle, coherent)
    assert (seen.loc[["knn", "knn_whitened"], "auc"] < 0.65).all()
    assert seen.loc["oracle", "auc"] > 0.95
    assert seen.loc["oracle", "f1"] > seen.loc[["knn", "knn_whitened"], "f1"].max() + 25


@pytest.mark.parametrize("shuffle", ["original", "across"])
def test_the_control_is_unbiased_where_features_tell_nothing(shuffle: str) -> None:
    worlds = [World(families=8, per_leaf=8, seed=seed) for seed in range(8)]
    areas = np.array([scores(world, shuffle, coherent=0.0).loc["knn", "auc"] for world in worlds])
    error = areas.std(ddof=1) / np.sqrt(len(areas))
    assert error < 0.03
    assert abs(areas.mean() - 0.5) < 3 * error


def test_the_control_never_uses_images_of_the_same_leaf() -> None:
    """Its answers about a leaf are the same when that leaf's own training images are anything else."""
    store = WORLD.store(coherent=1.0)
    train = WORLD.images["split"].eq("train").to_numpy()
    own = train & WORLD.images["leaf"].eq("crow").to_numpy()
    answers = []
    for noise in (0.0, 30.0):
        moved = store.pooled_patches.copy()
        moved[own] += noise
        store.pooled_patches = moved
        rows = WORLD.images[train].sort_values("key")
        lists = (rows["key"].tolist(), rows["leaf"].to_numpy(str))
        crows = WORLD.images[~train & WORLD.images["leaf"].eq("crow").to_numpy()]
        found = find_neighbours(store, *lists, crows["key"].tolist(), crows["leaf"].to_numpy(str))["plain"]
        answers.append(found.asked)
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("matched", [True, False])
def test_leaving_leaves_out_does_not_tell_the_answer(matched: bool) -> None:
    """Neighbours in random order tell nothing; if only the own leaf is left out, AUC falls far below chance."""
    rng = np.random.default_rng(0)
    label_n, k = np.repeat(np.arange(8), 10), 20
    member = np.arange(8)[:, None] // 2 == np.arange(4)  # four hypernyms of two leaves
    label_q = rng.integers(0, 8, 1500)
    order = np.argsort(rng.random((1500, 80)), axis=1)
    others = np.array([row[label_n[row] != own] for row, own in zip(order, label_q, strict=True)])
    if matched:
        votes = matched_votes(others, k, label_n, label_q, member, list("abcd"))
    else:
        votes = member[label_n[others[:, :k]]].mean(axis=1)
    area = np.mean([roc_auc_score(member[label_q, column], votes[:, column]) for column in range(4)])
    assert (abs(area - 0.5) < 0.04) if matched else (area < 0.2)


def test_scores_are_scikit_learns_on_the_same_questions() -> None:
    eye, asked = eye_of(WORLD, "original", 1.0), asked_of(WORLD, "original")
    margin = eye.margins("knn", asked)
    assert np.isnan(margin[(asked["kind"] == "leaf").to_numpy()]).all()  # it cannot answer those
    table = measure_yardstick(asked, margin).set_index("category")
    birds = (asked["category"] == "bird").to_numpy() & (asked["kind"] == "hypernym").to_numpy()
    gold = asked["answer"].to_numpy()[birds]
    assert table.loc["bird", "f1"] == pytest.approx(100 * f1_score(gold, margin[birds] >= 0, average="macro"))
    assert table.loc["bird", "auc"] == pytest.approx(roc_auc_score(gold, margin[birds]))
    assert table.loc["bird", ["n_yes", "n_no"]].tolist() == [gold.sum(), (~gold).sum()]


def test_the_oracle_is_nearest_leaf_then_taxonomy() -> None:
    eye, asked = eye_of(WORLD, "original", 1.0), asked_of(WORLD, "original")
    nearest = np.asarray(eye.leaves)[eye.nearest.argmax(axis=1)]
    said = pd.Series(nearest, index=eye.images)
    by_rule = [
        category == said[key] or category in WORLD.own(said[key])
        for key, category in asked[["key", "category"]].itertuples(index=False)
    ]
    np.testing.assert_array_equal(eye.margins("oracle", asked) >= 0, by_rule)
    assert 0.1 < np.mean(by_rule) < 0.9


def test_thresholds_are_where_right_answers_of_both_kinds_are_most() -> None:
    rng = np.random.default_rng(0)
    k, own = 5, rng.random((200, 3)) < [0.5, 0.1, 0.02]
    votes = np.clip(rng.binomial(k, np.where(own, 0.6, 0.2)), 0, k) / k
    thresholds = fair_thresholds(votes, own, k)
    for column in range(3):
        mine, truth = votes[:, column], own[:, column]
        gains = [np.mean(mine[truth] >= t) - np.mean(mine[~truth] >= t) for t in np.arange(1, k + 1) / k]
        best = np.flatnonzero(np.isclose(gains, max(gains))) + 1
        assert thresholds[column] == pytest.approx((best[0] + best[-1]) / (2 * k))
    assert (thresholds < 0.7).all()  # a small category is not simply denied


def composed(rows: list[tuple[str, str, str, float]], text: dict[tuple[str, str], float]) -> list[float]:
    """Margins of questions (kind, category, label leaf, margin) about one image."""
    table = pd.DataFrame(rows, columns=["kind", "category", "label_leaf", "margin"]).assign(key="i")
    index = pd.MultiIndex.from_tuples(list(text), names=["leaf", "hypernym"])
    return composed_margins(table, pd.Series(list(text.values()), index=index)).tolist()


def test_composition_asks_both_halves() -> None:
    text = {("crow", "bird"): 3.0, ("crow", "tool"): -2.0, ("saw", "tool"): 4.0, ("saw", "bird"): -1.0}
    hypernyms = [("hypernym", "bird", "crow", 0.0), ("hypernym", "tool", "crow", 0.0)]
    right = [("leaf", "crow", "crow", 1.0), ("leaf", "saw", "crow", -5.0), *hypernyms]
    assert composed(right, text)[2:] == [1.0, -2.0]  # yes to crow and crow is a bird; no way to a tool
    wrong = [("leaf", "crow", "crow", -1.0), ("leaf", "saw", "crow", 2.0), *hypernyms]
    assert composed(wrong, text)[2:] == [-1.0, 2.0]  # takes it for a saw, and a saw is a tool
    neither = [("leaf", "crow", "crow", -1.0), ("leaf", "saw", "crow", -2.0), *hypernyms]
    assert all(margin < 0 for margin in composed(neither, text)[2:])
    assert np.isnan(composed(right, text)[:2]).all()


def test_composition_is_silent_without_the_true_leafs_pair_only() -> None:
    rows = [("leaf", "crow", "crow", 1.0), ("leaf", "saw", "crow", 9.0), ("hypernym", "bird", "crow", 0.0)]
    assert composed(rows, {("crow", "bird"): 3.0})[2] == 1.0  # an unknown pair of the wrong leaf is a no
    assert np.isnan(composed(rows, {("saw", "bird"): 3.0})[2])


@pytest.fixture
def study_inputs(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Paths that exist, with the world's stand-ins behind them."""
    with standing_in(WORLD):
        yield {"dataset": str(tmp_path), "features": str(tmp_path)}


def test_a_study_scores_them_beside_its_runs(study_inputs: dict[str, str], tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", WORLD, CELLS, seeds=(0, 1), paths=study_inputs)
    study = measure(load_sweep(tmp_path / "sweep"))
    own = study.categories[(study.categories["group"] == "heldout") & (study.categories["split"] == "test")]
    for name in VISUAL:
        theirs = study.yardsticks[(study.yardsticks["yardstick"] == name) & (study.yardsticks["group"] == "heldout")]
        columns = ["run_id", "category", "n_yes", "n_no", "majority_f1", "coin_f1"]
        pd.testing.assert_frame_equal(own[columns].reset_index(drop=True), theirs[columns].reset_index(drop=True))
    comparisons = of_kind(study, "yardstick")
    assert [(c.one.lm_init, c.one.labels.shuffle) for c in comparisons[::3]] == [
        *[("pretrained", "original"), ("random", "original")],
        *[("pretrained", "across"), ("pretrained", "within")],
    ]
    one = next(c for c in comparisons if (c.above, c.other) == ("pretrained LM, within", "knn"))
    mine = study.test("heldout").loc[study.runs["arm"] == "within", ["macro_f1", "auc"]].mean()
    assert (one.means[0], one.auc_means[0]) == pytest.approx(tuple(mine))
    assert one.f1.estimate == pytest.approx(one.means[0] - one.means[1])
    assert one.by["AUC"].difference.estimate == pytest.approx(one.auc_means[0] - one.auc_means[1])


def test_sentences_follow_the_numbers(study_inputs: dict[str, str], tmp_path: Path) -> None:
    """A run that knows what nobody can see, and one that does not know what anybody can."""
    cells = {("pretrained", "across"): (2.0, 5.0, 0.0), ("pretrained", "original"): (2.0, 0.0, 0.0)}
    study = measure(load_sweep(write_sweep(tmp_path / "sweep", WORLD, cells, paths=study_inputs)))
    original, across = yardstick_sentences(of_kind(study, "yardstick"))
    assert across.endswith(": more than looking alike gives.")
    assert original.endswith(": less than looking alike gives.")
    f1 = study.test("heldout")["macro_f1"].groupby(study.runs["arm"]).mean()
    assert f"held-out F1 {f1['across']:.1f}" in across


def test_across_labels_that_can_still_be_seen_are_said(study_inputs: dict[str, str], tmp_path: Path) -> None:
    """Labels exchanged between whole families leave each of them as coherent as it was."""
    for name, shuffle in (("mixed", "across"), ("whole", "swap")):
        questions = WORLD.questions(shuffle, 100)
        answers = answer_questions(questions[questions["split"] != "train"], {"leaf": 2.0, "hypernym": 0.5}, 0.0, 0)
        write_run(tmp_path / name, "run", {"shuffle": "across"}, questions, answers, study_inputs)
    says = {}
    for name in ("mixed", "whole"):
        study = measure(load_sweep(tmp_path / name))
        says[name] = " ".join(yardstick_sentences(of_kind(study, "yardstick")))
    assert "Caution: in pretrained LM, across looks still tell hypernyms apart" in says["whole"]
    assert "Caution" not in says["mixed"]


def with_probe(folder: Path, text_strength: float, **how: object) -> Study:
    cells = {("pretrained", "original"): (2.0, 0.3, 0.0), ("random", "original"): (0.0, 0.0, 0.0)}
    paths = {"dataset": str(folder), "features": str(folder)}
    sweep = write_sweep(folder / "sweep", WORLD, cells, seeds=(0, 1), paths=paths)
    return measure(load_sweep(sweep), read_probes([write_probe(folder / "lm.parquet", WORLD, text_strength, **how)]))


def test_composition_uses_the_probe_of_the_runs_own_lm(study_inputs: dict[str, str], tmp_path: Path) -> None:
    study = with_probe(tmp_path, text_strength=9.0)
    composed = study.yardsticks[study.yardsticks["yardstick"] == "composition"]
    assert set(composed["run_id"]) == set(study.runs.index[study.runs["lm_init"] == "pretrained"])
    means = study.yardstick_scores.set_index(["yardstick", "run_id"])["macro_f1"]
    own = study.test("heldout")["macro_f1"]
    for run_id in study.probes:
        assert (
            means["composition", run_id] > own[run_id] + 20
        )  # text and leaves are good, the run's own answers are not
    assert study.notes == ()


def test_composition_knows_no_more_than_the_text(study_inputs: dict[str, str], tmp_path: Path) -> None:
    study = with_probe(tmp_path, text_strength=0.0)
    scores = study.yardstick_scores.set_index("yardstick").loc["composition"]
    assert (scores["auc"] < 0.65).all()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"lm_digest": "another"}, "probe lm.parquet fits no run"),
        ({"dataset_digest": "another"}, "probe lm.parquet fits no run"),
        ({"lm_init": "random", "lm_seed": 7}, "probe lm.parquet fits no run"),
        ({"drop": 3}, "lacks pairs that its runs ask about"),
    ],
)
def test_a_probe_that_does_not_fit_is_said(
    study_inputs: dict[str, str], tmp_path: Path, how: dict[str, object], says: str
) -> None:
    study = with_probe(tmp_path, 9.0, **how)
    assert any(says in note for note in study.notes)
    assert "composition" not in set(study.yardsticks["yardstick"])


def test_a_random_twins_probe_fits_its_seed_only(study_inputs: dict[str, str], tmp_path: Path) -> None:
    study = with_probe(tmp_path, 0.0, lm_init="random", lm_seed=1)
    assert list(study.probes) == list(
        study.runs.index[study.runs["lm_seed"].eq(1) & study.runs["lm_init"].eq("random")]
    )


def test_two_probes_of_one_lm_are_refused(study_inputs: dict[str, str], tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", WORLD, {("pretrained", "original"): (1.0, 1.0, 0.0)}, seeds=(0,))
    probes = [write_probe(tmp_path / f"{name}.parquet", WORLD, 1.0) for name in "ab"]
    with pytest.raises(RunError, match=r"a\.parquet and .*b\.parquet are probes of one LM"):
        measure(load_sweep(sweep), read_probes(probes))


def test_text_beside_images_per_hypernym(study_inputs: dict[str, str], tmp_path: Path) -> None:
    study = with_probe(tmp_path, text_strength=2.0)
    assert set(study.text["lm_init"]) == {"pretrained"}
    assert study.text["category"].tolist() == WORLD.hypernyms
    assert study.text["text_f1"].between(0, 100).all()
    own = study.categories[study.categories["run_id"].isin(study.probes)]
    own = own[(own["split"] == "test") & (own["group"] == "heldout")].groupby("category")["f1"].mean()
    np.testing.assert_allclose(study.text["f1"], own.loc[study.text["category"]])


def test_the_swap_is_compared_with_its_control_pair_by_pair(tmp_path: Path) -> None:
    for shuffle, strength in (("original", 2.5), ("swap", 0.2)):
        cells = {("pretrained", shuffle): (2.0, strength, 0.0)}
        write_sweep(tmp_path, WORLD, cells, seeds=(0, 1), subset="swap")
    study = measure(load_sweep(tmp_path))
    (swap,) = of_kind(study, "swap")
    runs = study.test("heldout")["macro_f1"].groupby(study.runs["arm"]).mean()
    assert swap.means == pytest.approx((runs["original"], runs["swap"]))
    assert swap.f1.estimate == pytest.approx(runs["original"] - runs["swap"])
    assert swap.f1.decision is Decision.ABOVE


def test_an_equal_swap_is_called_equivalent(tmp_path: Path) -> None:
    for shuffle in ("original", "swap"):
        questions = WORLD.questions("original", 100)
        asked = questions[questions["split"] != "train"]
        answers = answer_questions(asked, {"leaf": 2.0, "hypernym": 1.0}, 0.0, 0)
        write_run(tmp_path, shuffle, {"shuffle": shuffle, "subset": "swap"}, questions, answers)
    study = measure(load_sweep(tmp_path))
    (swap,) = of_kind(study, "swap")
    assert swap.f1.decision is Decision.EQUIVALENT
