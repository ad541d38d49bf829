"""Reading runs: what is joined and derived, what is listed as failed, what is refused in one line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import World, answer_questions, id_of, mark_done, write_run, write_sweep

from analysis.predictions import load_sweep
from cachegen.common.errors import RunError

WORLD = World(families=2, per_leaf=4)
ORIGINAL = {("pretrained", "original"): (1.5, 1.0, 0.0)}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep", WORLD, ORIGINAL, seeds=(1, 0))


def first_run(sweep: Path) -> Path:
    return sorted(sweep.iterdir())[0]


def test_runs_carry_their_conditions(sweep: Path) -> None:
    (sweep / "plan.json").write_text("{}")
    (sweep / "report").mkdir()  # neither is a run
    loaded = load_sweep(sweep)
    assert list(loaded.runs.index) == sorted(map(id_of, sweep.glob("pretrained*")))
    assert loaded.runs["run_seed"].tolist() == [0, 1]
    assert loaded.runs["ablation"].tolist() == [100, 100]
    assert loaded.failed.empty


def test_answers_join_questions_and_logits(sweep: Path) -> None:
    loaded = load_sweep(sweep)
    run = loaded.runs.index[0]
    questions, answers = loaded.questions(run), loaded.answers(run)
    assert len(answers) == (questions["split"] != "train").sum() > 0
    margin = answers["logit_yes"].astype(float) - answers["logit_no"]
    assert (answers["predicted"] == (margin >= 0)).all()
    assert answers["p_yes"].to_numpy() == pytest.approx(1 / (1 + np.exp(-margin.to_numpy())))
    assert set(answers["group"]) == {"leaf", "heldout"}
    losses = loaded.losses(run)
    assert losses["step"].tolist() == list(range(190))
    assert losses["loss"].is_monotonic_decreasing


def test_a_tie_is_yes(tmp_path: Path) -> None:
    questions = WORLD.questions("original", 100)
    asked = questions[questions["split"] != "train"]
    predictions = answer_questions(asked, {"leaf": 1, "hypernym": 1}, 0, 0).assign(logit_yes=0.0, logit_no=0.0)
    write_run(tmp_path, "ties", {}, questions, predictions.sample(frac=1, random_state=0))
    answers = load_sweep(tmp_path).answers(id_of(tmp_path / "ties"))
    assert answers["predicted"].all()
    assert answers["tie"].all()


def test_seen_hypernyms_are_their_own_group(tmp_path: Path) -> None:
    write_sweep(tmp_path, WORLD, ORIGINAL, seeds=(0,), ablation=50)
    loaded = load_sweep(tmp_path)
    answers = loaded.answers(loaded.runs.index[0])
    assert set(answers["group"]) == {"leaf", "seen", "heldout"}
    assert answers.loc[answers["group"] == "seen", "seen"].all()


def test_failed_runs_are_listed_not_read(sweep: Path) -> None:
    (first_run(sweep) / "DONE").unlink()
    (first_run(sweep) / "FAILED").write_text(json.dumps({"reason": "loss is NaN at step 7"}))
    loaded = load_sweep(sweep)
    assert loaded.failed.to_dict("records") == [{"run_id": "pretrained-original-r0", "reason": "loss is NaN at step 7"}]
    assert list(loaded.runs.index) == [id_of(sweep / "pretrained-original-r1")]


def test_a_sweep_in_progress_shows_what_is_there(sweep: Path) -> None:
    (first_run(sweep) / "DONE").unlink()
    loaded = load_sweep(sweep)
    assert loaded.failed["run_id"].tolist() == ["pretrained-original-r0"]
    assert "not finished" in loaded.failed["reason"].item()
    assert list(loaded.runs.index) == [id_of(sweep / "pretrained-original-r1")]
    (sweep / "pretrained-original-r1" / "DONE").unlink()
    with pytest.raises(RunError, match=r"none of the 2 runs .* not finished"):
        load_sweep(sweep)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_make_a_failed_run(sweep: Path, bad: float) -> None:
    place = first_run(sweep) / "predictions.parquet"
    table = pd.read_parquet(place)
    table.loc[[0, 3], "logit_no"] = bad
    table.to_parquet(place, index=False)
    mark_done(first_run(sweep))
    loaded = load_sweep(sweep)
    assert loaded.failed["reason"].tolist() == [f"2 of {len(table)} predictions have logits that are not finite"]


def damage_byte(run: Path) -> None:
    data = (run / "predictions.parquet").read_bytes()
    (run / "predictions.parquet").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def damage_missing(run: Path) -> None:
    (run / "questions.parquet").unlink()


def damage_unlisted(run: Path) -> None:
    hashes = json.loads((run / "DONE").read_text())
    del hashes["predictions.parquet"]
    (run / "DONE").write_text(json.dumps(hashes))


def damage_schema(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "schema": 99}))
    mark_done(run)


def damage_condition(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["condition"]["encoder"]
    (run / "config.json").write_text(json.dumps(config))
    mark_done(run)


def damage_table(run: Path) -> None:
    (run / "predictions.parquet").write_bytes(b"not a table")
    mark_done(run)


def damage_column(run: Path) -> None:
    table = pd.read_parquet(run / "predictions.parquet")
    table.drop(columns="logit_no").to_parquet(run / "predictions.parquet")
    mark_done(run)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_byte, "changed after the run finished"),
        (damage_missing, "is missing though DONE lists it"),
        (damage_unlisted, "no hash of predictions.parquet"),
        (damage_schema, "has schema 99"),
        (damage_condition, "names no encoder"),
        (damage_table, "not a readable table"),
        (damage_column, "not a readable table"),
    ],
)
def test_damaged_runs_are_refused_in_one_line(sweep: Path, damage, says: str) -> None:
    damage(first_run(sweep))
    with pytest.raises(RunError, match=says) as caught:
        load_sweep(sweep)
    assert "\n" not in str(caught.value)
    assert first_run(sweep).name in str(caught.value)


def test_all_damaged_runs_are_named_at_once_and_moving_them_helps(sweep: Path, tmp_path: Path) -> None:
    write_sweep(sweep, WORLD, ORIGINAL, seeds=(2, 3))
    kinds = (damage_byte, damage_schema, damage_table)
    damaged = sorted(sweep.iterdir())[: len(kinds)]
    for damage, run in zip(kinds, damaged, strict=True):
        damage(run)
    with pytest.raises(RunError) as caught:
        load_sweep(sweep)
    head, *lines = str(caught.value).splitlines()
    assert "3 runs" in head
    assert [run.name in line for run, line in zip(damaged, lines, strict=True)] == [True] * 3
    for run in damaged:
        run.rename(tmp_path / f"moved-{run.name}")
    assert len(load_sweep(sweep).runs) == 1


@pytest.mark.parametrize("change", ["drop", "repeat", "stranger"])
def test_every_question_is_answered_once(sweep: Path, change: str) -> None:
    place = first_run(sweep) / "predictions.parquet"
    table = pd.read_parquet(place)
    changed = {
        "drop": table.iloc[1:],
        "repeat": pd.concat([table, table.iloc[:1]]),
        "stranger": table.assign(question=table["question"] + 1),
    }[change]
    changed.astype({"question": "int32"}).to_parquet(place, index=False)
    mark_done(first_run(sweep))
    loaded = load_sweep(sweep)
    with pytest.raises(RunError, match="exactly once"):
        loaded.answers(id_of(first_run(sweep)))


def test_folders_without_finished_runs_are_refused(tmp_path: Path, sweep: Path) -> None:
    with pytest.raises(RunError, match="is not a folder"):
        load_sweep(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no runs in"):
        load_sweep(tmp_path / "empty")
    for run in sweep.iterdir():
        (run / "FAILED").write_text('{"reason": "NaN"}')
    with pytest.raises(RunError, match=r"none of the 2 runs .* has results; the first: NaN"):
        load_sweep(sweep)
