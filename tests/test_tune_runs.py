"""Tuning studies of real runs: killed, tampered with, refused, and shown."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from run_folders import kill_on_call, killed, last_json, places_of, seal, sweep_file
from small_study import SETTINGS

pytest.importorskip("optuna")

from analysis.figures.tuning import draw_tuning
from analysis.predictions import load_sweep
from analysis.tuning import read_tuning
from cachegen.common.errors import ConditionError, RunError
from cachegen.common.locks import exclusive_lock
from engine.runs.directory import HASHED, RunDirectory
from engine.runs.planned import Execution
from engine.sweeps.plan_file import read_plan
from engine.sweeps.tune import study as tune_study
from engine.sweeps.tune.objective import decisive
from engine.sweeps.tune.record import Record, read_tune_record
from engine.sweeps.tune.study import run_tune
from engine.sweeps.tune.table import TuneTable
from engine.training import group

CPU = Execution(device="cpu")
EVERY_STEP = Execution(device="cpu", checkpoint_seconds=0.0)
TABLE = {
    "trials": 4,
    "batch": 2,
    "startup": 2,
    "prune": {"epochs": [1], "keep": 0.5},
    "space": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "warmup": [0.0, 0.1]},
}


def table(**fields):
    return TuneTable.model_validate(TABLE | fields)


@pytest.fixture(scope="module")
def runs_of(small_study) -> Callable:
    """Each setting is two runs, one for each of two seeds; half of the hypernym questions are seen."""
    return lambda params: small_study.sweep(run_seed=[1, 2], ablation=50, batch=64, **params)


def tree(out: Path) -> dict[str, bytes]:
    """Every file that is under the promise on bytes."""
    kept = [out / "tune.json", *(path for path in out.rglob("*") if path.name in (*HASHED, "DONE"))]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(kept)}


@pytest.fixture(scope="module")
def whole(runs_of, tmp_path_factory):
    """A study that nothing disturbed: its folder, and its record."""
    out = tmp_path_factory.mktemp("tune") / "whole"
    return out, run_tune(table(), runs_of, out, CPU)


def test_a_study_prunes_and_keeps_a_best_trial(whole):
    out, record = whole
    states = [trial.state for trial in record.trials]
    assert states.count("complete") >= 2
    assert "pruned" in states
    for trial in record.trials:
        assert [rung.epochs for rung in trial.rungs] == ([1] if trial.state == "pruned" else [1, 2])
        for rung in trial.rungs:
            assert set(rung.groups) == {"leaf", "seen"}
            assert rung.value == pytest.approx(sum(rung.groups.values()) / 2)
            assert [RunDirectory(out / name).done for name in rung.runs] == [True, True]
    assert record.best.value == max(trial.value for trial in record.trials if trial.value is not None)


def test_a_batch_trains_in_lockstep(whole):
    """Two trials of two seeds each: four runs in one group, though learning rate and warm-up differ."""
    out, _ = whole
    assert len(read_plan(out)[0].runs) == 4
    rates = {json.loads((out / run / "config.json").read_text())["condition"]["learning_rate"]
             for run in read_plan(out)[0].runs}  # fmt: skip
    assert len(rates) == 2


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        (group, "evaluate", 5),
        pytest.param(tune_study, "write_record", 2, marks=pytest.mark.slow),
        pytest.param(group, "evaluate", 3, marks=pytest.mark.slow),
        pytest.param(tune_study, "write_record", 1, marks=pytest.mark.slow),
    ],
    ids=["in the second rung", "between batches", "in the first rung", "before the first record"],
)
def test_killed_and_resumed_equals_undisturbed(whole, runs_of, tmp_path, monkeypatch, module, name, number):
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        kill_on_call(patch, module, name, number)
        killed(lambda: run_tune(table(), runs_of, out, EVERY_STEP))
    assert len((read_tune_record(out) or Record(table={})).trials) < table().count
    run_tune(table(), runs_of, out, CPU)
    assert tree(out) == tree(whole[0])


def test_what_a_killed_writer_left_is_removed(runs_of, tmp_path):
    left = tmp_path / ".tune.json.1.tmp"
    left.write_text("{")
    run_tune(table(trials=1, batch=1, prune=None), runs_of, tmp_path, CPU)
    assert (tmp_path / "tune.json").is_file()
    assert not left.exists()


def test_what_is_over_is_not_run_again(whole, runs_of, monkeypatch):
    monkeypatch.setattr(tune_study, "run_sweep", lambda *args, **kwargs: pytest.fail("carried out again"))
    assert run_tune(table(), runs_of, whole[0], CPU) == whole[1]


def test_more_trials_go_on_from_those_there_are(whole, runs_of, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "more")
    record = run_tune(table(trials=5), runs_of, out, CPU)
    assert record.trials[:4] == whole[1].trials
    assert len(record.trials) == 5


def tamper(out: Path, decides: bool) -> None:
    """Turn every answer that does (or does not) decide into its opposite, in every run, and sign for it."""
    for done in out.glob("*/DONE"):
        run = done.parent
        answers, questions = (pd.read_parquet(run / f"{name}.parquet") for name in ("predictions", "questions"))
        rows = answers["question"].isin(decisive(questions, "seen")["question"])
        rows = rows if decides else ~rows
        assert 0 < rows.sum() < len(rows)
        answers.loc[rows, ["logit_yes", "logit_no"]] = answers.loc[rows, ["logit_no", "logit_yes"]].to_numpy()
        answers.to_parquet(run / "predictions.parquet", index=False)
        seal(run)


def test_test_answers_and_unseen_hypernyms_move_nothing(whole, runs_of, tmp_path, monkeypatch):
    """The study is rebuilt over runs whose other answers are all reversed: same suggestions, values and best."""
    out = shutil.copytree(whole[0], tmp_path / "tampered")
    tamper(out, decides=False)
    (out / "tune.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_group", lambda *args, **kwargs: pytest.fail("a suggestion moved"))
        run_tune(table(), runs_of, out, CPU)
    assert (out / "tune.json").read_bytes() == (whole[0] / "tune.json").read_bytes()


def test_negative_control_answers_that_decide_do_move_it(whole, runs_of, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "tampered")
    tamper(out, decides=True)
    (out / "tune.json").unlink()
    record = run_tune(table(trials=2), runs_of, out, CPU)
    assert [trial.params for trial in record.trials] == [trial.params for trial in whole[1].trials[:2]]
    assert record.trials[0].rungs[0].value != whole[1].trials[0].rungs[0].value


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"seed": 1}, "seed was 0, now it is 1"), ({"batch": 3}, "batch was 2"), ({"objective": "unseen"}, "objective"),
     ({"space": {"warmup": [0.0, 0.1]}}, "space.learning_rate was .*, now it is absent"),
     ({"space": TABLE["space"] | {"warmup": [0.0, 0.2]}}, "space.warmup")],
)  # fmt: skip
def test_another_study_in_the_folder_is_refused(whole, runs_of, fields, named):
    with pytest.raises(RunError, match=f"is another study: {named}"):
        run_tune(table(**fields), runs_of, whole[0], CPU)


def test_other_fixed_fields_in_the_folder_are_refused(whole, small_study):
    with pytest.raises(RunError, match=r"is another study: .* is now .* fixed fields"):
        run_tune(
            table(), lambda params: small_study.sweep(run_seed=[1, 2], ablation=40, batch=64, **params), whole[0], CPU
        )


def test_two_processes_on_one_study_are_refused(runs_of, tmp_path, monkeypatch):
    """The lock is the kernel's, by process: the child finds it held by its parent."""
    import os

    with exclusive_lock(tmp_path / ".tune.lock", "study"):
        child = os.fork()
        if child == 0:
            try:
                run_tune(table(), runs_of, tmp_path, CPU)
            except RunError as error:
                os._exit(7 if "is being written by" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_space_that_the_fields_do_not_take_is_refused_before_anything_runs(small_study, runs_of, tmp_path):
    for space, message in [
        ({"learning_rate": {"low": -1.0, "high": 1.0}}, "learning_rate: Input should be greater than 0"),
        ({"shuffle": ["original", "sideways"]}, "shuffle: Input should be"),
    ]:
        with pytest.raises(ConditionError, match=message):
            run_tune(table(space=space), runs_of, tmp_path / "out", CPU)
    with pytest.raises(ConditionError, match="2 epochs are no less than those of the whole training"):
        run_tune(table(prune={"epochs": [1, 2]}), runs_of, tmp_path / "out", CPU)

    def hidden(params):
        return small_study.sweep(**params, together=[{"warmup": 0.05, "run_seed": 1}])

    with pytest.raises(ConditionError, match="warmup is searched, but"):
        run_tune(table(), hidden, tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()


def test_trials_that_fail_or_contradict_themselves_stop_nobody(small_study, tmp_path):
    """A setting that no condition allows, a prompt that the tokenizer lacks a token for, a run that diverges."""
    space = {"learning_rate": [1e-3, 1e30], "loss": ["vocabulary", "answers"], "supervise": ["answer", "answer_eos"]}
    asked = TuneTable.model_validate({"sampler": "grid", "batch": 5, "trials": 5, "space": space})
    record = run_tune(asked, lambda params: small_study.sweep(epochs=1, batch=64, **params), tmp_path, CPU)
    assert [trial.state for trial in record.trials] == ["complete", "failed", "complete", "failed", "failed"]
    assert "no EOS token" in record.trials[1].reason
    assert "needs loss = 'vocabulary'" in record.trials[3].reason
    assert "not finite" in record.trials[4].reason
    assert list(load_sweep(tmp_path).runs.index) == list(record.best.rungs[-1].runs)
    assert load_sweep(tmp_path).failed.empty
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that collapses is a warning
        drawn = draw_tuning(read_tuning(tmp_path))
    assert "(2 complete, 0 pruned, 3 failed)" in drawn.alt
    assert drawn.svg().startswith("<?xml")


def test_only_the_best_trial_is_analysed(whole):
    out, record = whole
    assert sorted(load_sweep(out).runs.index) == sorted(record.best.rungs[-1].runs)
    assert len(list(out.glob("*/DONE"))) > 2
    assert read_tuning(out).runs == set(record.best.rungs[-1].runs)


# --- the command


def tune_file(study, path, tune):
    fields = {**places_of(study), **SETTINGS, "run_seed": 1, "ablation": 50, "epochs": 1, "batch": 64}
    return sweep_file(path, fields, f"[tune]\n{tune}")


GRID = 'sampler = "grid"\nbatch = 8\n[tune.space]\nlearning_rate = [1e-4, 3e-4, 1e-3, 3e-3]\nwarmup = [0.0, 0.1]\n'


@pytest.fixture(scope="module")
def tuned(small_study, tmp_path_factory):
    """Folder of a study by the command's own steps, eight trials of a grid, and the file that was tuned."""
    folder = tmp_path_factory.mktemp("tuned")
    return folder, tune_file(small_study, folder / "file.toml", GRID)


@pytest.mark.usefixtures("no_models")
def test_tune_report_and_sweep_of_the_best(crosstax, tuned):
    folder, file = tuned
    code, stdout, err = crosstax("tune", file, "--out", folder / "out", "--threads", 1, "--json")
    assert code == 0, err
    found = last_json(stdout)
    assert len(found["trials"]) == 8
    assert not found["exploratory"]
    assert found == {"out": str(folder / "out"), "toml": str(folder / "out/best.toml")} | json.loads(
        (folder / "out/tune.json").read_text()
    )
    assert sum(found["importance"].values()) == pytest.approx(1, abs=1e-5)
    assert "EXPLORATORY" not in err
    assert (folder / "out" / "figures" / "tuning.svg").stat().st_size > 5000
    assert {path.suffix for path in (folder / "out" / "figures").glob("tuning.*")} == {".svg", ".pdf", ".png"}
    best = found["best"]["params"]
    assert f"learning_rate = {best['learning_rate']!r}" in (folder / "out/best.toml").read_text()

    code, stdout, _ = crosstax("sweep", folder / "out/best.toml", "--out", folder / "out", "--threads", 1, "--json")
    assert code == 0
    assert last_json(stdout)["runs"] == found["trials"][found["best"]["number"]]["rungs"][-1]["runs"]
    code, _, err = crosstax("sweep", file, "--out", folder / "other")
    assert (code, "use `crosstax tune`" in err) == (2, True)
    code, _, err = crosstax("status", folder / "out")
    assert (code, "8 done" in err) == (0, True)

    code, stdout, _ = crosstax("report", folder / "out", "--out", folder / "report", "--json")
    assert code == 0
    assert last_json(stdout)["tuning"] == {"exploratory": False, "best": found["best"]}
    assert len(last_json(stdout)["conditions"]) == 1
    page = (folder / "report" / "index.html").read_text()
    assert '<section id="tuning">' in page
    assert "Answers on unseen hypernyms and the test set had no part in it" in page
    assert "EXPLORATORY" not in page
    assert (folder / "report" / "figures" / "tuning.svg").is_file()


def test_a_study_that_looks_at_unseen_hypernyms_says_so_everywhere(crosstax, small_study, tmp_path):
    text = 'trials = 2\nbatch = 2\nsampler = "random"\n[tune.space]\nlearning_rate = {low = 1e-4, high = 1e-2}\n'
    file, out = tune_file(small_study, tmp_path / "file.toml", text), tmp_path / "out"
    code, stdout, err = crosstax("tune", file, "--out", out, "--threads", 1, "--allow-unseen", "--json")
    assert code == 0
    assert last_json(stdout)["exploratory"] is True
    assert list(last_json(stdout)["trials"][0]["rungs"][0]["groups"]) == ["unseen"]
    assert "EXPLORATORY" in err
    assert "EXPLORATORY" in (out / "best.toml").read_text()
    assert "EXPLORATORY" in (out / "figures" / "tuning.svg").read_text()
    code, _, err = crosstax("tune", file, "--out", out, "--threads", 1)
    assert (code, "objective was unseen, now it is seen" in err) == (2, True)


@pytest.mark.slow
def test_the_report_of_such_a_study_says_so_at_its_head(crosstax, small_study, tmp_path):
    text = 'objective = "unseen"\nsampler = "grid"\n[tune.space]\nlearning_rate = [1e-3, 3e-3]\n'
    file, out = tune_file(small_study, tmp_path / "file.toml", text), tmp_path / "out"
    assert crosstax("tune", file, "--out", out, "--threads", 1)[0] == 0
    code, stdout, _ = crosstax("report", out, "--out", tmp_path / "report", "--json")
    assert (code, last_json(stdout)["tuning"]["exploratory"]) == (0, True)
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.index("EXPLORATORY") < page.index("<section")
    assert "had no part in it" not in page


def test_what_the_command_refuses(crosstax, small_study, tmp_path):
    file, out = tune_file(small_study, tmp_path / "file.toml", GRID), tmp_path / "out"
    for words, message in [
        ([], "give a sweep file or --preset NAME"),
        ([tmp_path / "none.toml"], "does not exist"),
        (["--preset", "fig6"], "has no [tune] table"),
        ([file, "--set", "warmup=0.2"], "warmup is searched by"),
        (["--preset", "tune", "--set", "lm=nowhere"], "leaves the dataset open"),
    ]:
        code, _, err = crosstax("tune", *words, "--out", out)
        assert (code, message in err) == (2, True), err
    assert not out.exists()


def test_a_study_whose_every_trial_fails_says_why(crosstax, small_study, tmp_path):
    file = tune_file(small_study, tmp_path / "file.toml", 'sampler = "grid"\n[tune.space]\nlearning_rate = [1e30]\n')
    code, stdout, err = crosstax("tune", file, "--out", tmp_path / "out", "--threads", 1, "--json")
    assert (code, "no trial is complete; the first failed" in err) == (1, True)
    assert last_json(stdout)["best"] is None
    code, _, err = crosstax("report", tmp_path / "out", "--out", tmp_path / "report")
    assert (code, "without a best trial yet" in err) == (2, True)
