"""What is searched, what comes next, and what decides: without a run."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.scores.f1 import mean_macro_f1
from cachegen.common.errors import ConditionError, CrosstaxError, RunError
from engine.sweeps.presets import load_preset
from engine.sweeps.sweep_file import read_sweep
from engine.sweeps.tune.objective import decisive, run_scores
from engine.sweeps.tune.record import Record, Rung, Trial, read_tune_record, write_record
from engine.sweeps.tune.sampler import ENOUGH, importance, propose
from engine.sweeps.tune.study import run_tune
from engine.sweeps.tune.table import TuneTable, best_toml, read_tune

RATE = {"low": 1e-4, "high": 1e-1, "log": True}
SPACE = {"learning_rate": RATE, "batch": [16, 32], "weight_decay": {"low": 0.0, "high": 0.3}}


def table(**fields):
    return TuneTable.model_validate({"trials": 40, "batch": 4, "startup": 8, "space": SPACE} | fields)


def tried(number, params, value, state="complete"):
    rung = Rung(epochs=2, value=value, groups={"leaf": value}, runs=(f"run-{number}",))
    return Trial(number=number, params=params, state=state, value=value if state == "complete" else None, rungs=(rung,))


def score(params):
    """Best at a learning rate of 3e-3; nothing else matters."""
    return round(100 - 20 * abs(np.log10(params["learning_rate"] / 3e-3)), 6)


def searched(asked, value=score):
    """Trials of a whole study of made-up values."""
    trials = []
    while len(trials) < asked.count:
        trials += [
            tried(len(trials) + place, params, value(params)) for place, params in enumerate(propose(asked, trials))
        ]
    return trials


# --- the table


WRONG = {
    "unknown field": ("[tune.space]\nlearning_rte = [1, 2]", "learning_rte: no field .* did you mean 'learning_rate'"),
    "empty list": ("[tune.space]\nbatch = []", "batch: empty"),
    "value twice": ("[tune.space]\nbatch = [8, 8]", "batch: a value stands twice"),
    "no list": ("[tune.space]\nbatch = 8", "batch: neither a list of values nor a range"),
    "nested": ("[tune.space]\nbatch = [[8]]", "neither number, text nor"),
    "low above high": ("[tune.space]\nlearning_rate = {low = 1e-2, high = 1e-3}", "low, 0.01, is not below high"),
    "low is high": ("[tune.space]\nbatch = {low = 8, high = 8}", "low, 8, is not below high, 8"),
    "log of zero": ("[tune.space]\nweight_decay = {low = 0.0, high = 1.0, log = true}", "has no logarithm"),
    "nan": ("[tune.space]\nweight_decay = {low = nan, high = 1.0}", "no finite number"),
    "infinite": ("[tune.space]\nweight_decay = {low = 0.0, high = inf}", "no finite number"),
    "true": ("[tune.space]\nweight_decay = {low = false, high = 1.0}", "weight_decay.low: False is no finite"),
    "half a range": ("[tune.space]\nlearning_rate = {low = 1e-2}", "high: Field required"),
    "unknown key": ("[tune.space]\nlearning_rate = {low = 1e-3, high = 1e-2, lag = true}", "lag: there is no"),
    "step and log": ("[tune.space]\nbatch = {low = 8, high = 64, step = 8, log = true}", "step and log exclude"),
    "step of zero": ("[tune.space]\nbatch = {low = 8, high = 64, step = 0}", "step is 0"),
    "range of text": ("[tune.space]\nshuffle = {low = 0, high = 1}", "shuffle: no number"),
    "range of LMs": ("[tune.space]\nlm = {low = 0, high = 1}", "lm: no number"),
    "broken integer": ("[tune.space]\nbatch = {low = 8, high = 16.5}", "counts in whole numbers"),
    "no trials": ("[tune.space]\nbatch = [8]", "trials is missing"),
    "trials 0": ("trials = 0\n[tune.space]\nbatch = [8]", "trials: .* greater than or equal to 1"),
    "batch 0": ("batch = 0\n[tune.space]\nbatch = [8]", "batch: .* greater than or equal to 1"),
    "trials in words": ("trials = 'many'\n[tune.space]\nbatch = [8]", "trials: .* valid integer"),
    "no space": ("trials = 3", "space: Field required"),
    "empty space": ("trials = 3\nspace = {}", "space: .* at least 1"),
    "space is a list": ("trials = 3\nspace = [1]", "space: no table"),
    "sampler": ("trials = 3\nsampler = 'luck'\n[tune.space]\nbatch = [8]", "sampler: .*'grid'"),
    "objective": ("trials = 3\nobjective = 'test'\n[tune.space]\nbatch = [8]", "objective: .*'unseen'"),
    "grid of a range": ("sampler = 'grid'\n[tune.space]\nbatch = {low = 8, high = 9}", "a grid needs a list"),
    "falling rungs": ("trials = 3\nprune = {epochs = [2, 1]}\n[tune.space]\nbatch = [8]", "prune: epochs do not rise"),
    "no rung": ("trials = 3\nprune = {epochs = []}\n[tune.space]\nbatch = [8]", "prune.epochs: .* at least 1"),
    "all go on": ("trials = 3\nprune = {epochs = [1], keep = 1.0}\n[tune.space]\nbatch = [8]", "keep: .* less than 1"),
    "searched rungs": ("trials = 3\nprune = {epochs = [1]}\n[tune.space]\nepochs = [2, 4]", "prune shortens epochs"),
    "no table": ("trials = 3", None),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_answered_in_one_line_that_names_the_field(tmp_path, name):
    text, message = WRONG[name]
    file = tmp_path / "file.toml"
    if message is None:
        file.write_text("tune = 3\n")
        message = "tune: not a table"
    else:
        given = text if "trials" in text or name in ("no trials", "grid of a range") else f"trials = 3\n{text}"
        file.write_text(f"[tune]\n{given}\n")
    with pytest.raises(ConditionError, match=message) as error:
        read_tune(file, str(file))
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def test_the_order_of_fields_in_the_file_moves_nothing():
    assert propose(table(), []) == propose(table(space=dict(reversed(SPACE.items()))), [])
    assert table().identity == table(space=dict(reversed(SPACE.items())), trials=7).identity


def test_the_preset_is_sound():
    preset = load_preset("tune")
    asked = read_tune(preset, "preset tune")
    assert asked.count == 24
    for params in asked.extremes:
        runs = read_sweep(preset, overrides={"lm": "world/lm", **params})
        assert [run.condition.run_seed for run in runs] == [1, 2]
        assert all(getattr(run.condition, name) == value for run in runs for name, value in params.items())


def test_a_sweep_of_a_file_that_is_tuned_is_refused(tmp_path):
    file = tmp_path / "file.toml"
    file.write_text('[defaults]\nlm = "a"\n[tune]\ntrials = 3\n[tune.space]\nbatch = [8, 16]\n')
    with pytest.raises(ConditionError, match=r"leaves batch to be searched; use `crosstax tune`"):
        read_sweep(file)
    assert [run.condition.batch for run in read_sweep(file, overrides={"batch": 8})] == [8]


# --- what comes next


def test_suggestions_follow_from_the_trials_alone():
    """Whoever asks, and however often: a killed search proposes the same."""
    asked, trials = table(), searched(table(trials=16))
    assert propose(asked, trials) == propose(asked, [trial.model_copy() for trial in trials])
    assert trials[:8] == searched(table(trials=8))
    loaded = Record.model_validate_json(Record(table={}, trials=tuple(trials)).model_dump_json()).trials
    assert propose(asked, loaded) == propose(asked, trials)


def test_negative_control_seed_and_values_move_suggestions():
    asked, trials = table(), searched(table(trials=16))
    assert propose(table(seed=1), trials) != propose(asked, trials)
    assert propose(table(seed=1), []) != propose(asked, [])
    worse = [tried(trial.number, trial.params, 100 - trial.value) for trial in trials]
    assert propose(asked, worse) != propose(asked, trials)


def test_settings_of_one_batch_differ():
    batch = propose(table(batch=8), searched(table(trials=16)))
    assert len({json.dumps(params) for params in batch}) == 8


def test_suggestions_stay_in_the_space_and_are_short():
    for params in propose(table(trials=60, batch=60, sampler="random"), []):
        assert list(params) == sorted(SPACE)
        assert RATE["low"] <= params["learning_rate"] <= RATE["high"]
        assert float(f"{params['learning_rate']:.4g}") == params["learning_rate"]
        assert params["batch"] in SPACE["batch"]
    edge = table(space={"weight_decay": {"low": 0.123456, "high": 0.1234561}}, trials=3)
    assert all(0.123456 <= params["weight_decay"] <= 0.1234561 for params in propose(edge, []))


def test_whole_numbers_and_steps():
    space = {"batch": {"low": 8, "high": 64, "step": 8}, "epochs": {"low": 1, "high": 9, "log": True}}
    batch = propose(table(trials=20, batch=20, space=space), [])
    assert {params["batch"] % 8 for params in batch} == {0}
    assert all(isinstance(value, int) for params in batch for value in params.values())


def test_tpe_comes_nearer_to_the_best_than_chance():
    def late(sampler):
        return np.mean([trial.value for trial in searched(table(sampler=sampler))[-16:]])

    assert late("tpe") > late("random") + 5


def test_a_grid_is_walked_in_order_whatever_the_values():
    space = {"weight_decay": [0.0, 0.1], "batch": [16, 32, 64]}
    asked = table(sampler="grid", trials=None, space=space, batch=4)
    walked = [(trial.params["batch"], trial.params["weight_decay"]) for trial in searched(asked, lambda _: 1.0)]
    assert walked == [(16, 0.0), (16, 0.1), (32, 0.0), (32, 0.1), (64, 0.0), (64, 0.1)]
    assert table(sampler="grid", trials=5, space=space).count == 5


def test_pruned_and_failed_trials_are_learnt_from():
    """Every trial above 3e-3 fails or is pruned: later ones stay below more often than chance would."""

    def outcome(trial):
        if trial.params["learning_rate"] > 3e-3:
            return trial.model_copy(update={"state": ("failed", "pruned")[trial.number % 2], "value": None})
        return trial

    def late_failures(sampler):
        asked, trials = table(sampler=sampler), []
        while len(trials) < asked.count:
            new = [tried(len(trials) + n, params, 50.0) for n, params in enumerate(propose(asked, trials))]
            trials += map(outcome, new)
        return sum(trial.state != "complete" for trial in trials[-20:])

    assert late_failures("tpe") <= late_failures("random") // 2


def test_importance_finds_what_matters():
    trials = searched(table(sampler="random"))
    shares = importance(table(), trials)
    assert max(shares, key=shares.get) == "learning_rate"
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert importance(table(), trials[: ENOUGH - 1]) is None


def test_without_optuna_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConditionError, match=r"needs optuna; pip install 'crosstax\[tune\]'"):
        run_tune(table(), lambda params: None, tmp_path, None)


# --- the record


def test_a_record_is_read_back_and_the_first_of_the_best_wins(tmp_path):
    trials = tuple(tried(number, {"batch": 16}, value) for number, value in enumerate([1.0, 3.0, 3.0]))
    record = Record(table=table().identity, trials=trials)
    write_record(tmp_path, record)
    assert read_tune_record(tmp_path) == record
    assert record.best.number == 1
    assert read_tune_record(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not readable JSON"), ("[]", "another version"), ('{"schema": 1}', "damaged")]
)
def test_a_damaged_record_is_named(tmp_path, text, message):
    (tmp_path / "tune.json").write_text(text)
    with pytest.raises(CrosstaxError, match=message):
        read_tune_record(tmp_path)


def test_the_best_setting_as_a_sweep_file_means_the_same_runs(tmp_path):
    """With quotes, backslashes, line ends and tables in it."""
    grid = {"lm": 'a "b" \\ c', "template": "{image}\n{question}", "standardise": True, "run_seed": [1, 2]}
    grid |= {"together": [{"lm_seed": 1, "weight_decay": 1e-05}], "learning_rate": 1e-05}
    file = tmp_path / "best.toml"
    file.write_text(best_toml(tried(3, {"learning_rate": 1e-05}, 50.0), [grid], exploratory=True))
    runs = read_sweep(file)
    assert [run.condition.run_seed for run in runs] == [1, 2]
    condition = runs[0].condition
    assert (runs[0].lm, condition.template) == ('a "b" \\ c', "{image}\n{question}")
    assert (condition.lm_seed, condition.weight_decay, condition.learning_rate) == (1, 1e-05, 1e-05)
    assert "EXPLORATORY" in file.read_text()


# --- what decides


def made_up_run(folder, seed=0, categories=6, questions=600):
    """Questions of all splits and groups with random answers."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["leaf", "hypernym"], questions)
    table = pd.DataFrame(
        {
            "question": np.arange(questions, dtype=np.int32),
            "kind": kind,
            "category": [f"{kind[n][0]}{rng.integers(categories)}" for n in range(questions)],
            "phrase": [f"phrase {n}" for n in range(questions)],
            "split": rng.choice(["train", "validation", "test"], questions),
            "seen": (kind == "leaf") | rng.choice([True, False], questions),
            "answer": rng.choice([True, False], questions),
            "veridical": rng.choice([True, False], questions),
        }
    )
    answers = pd.DataFrame(rng.standard_normal((questions, 2)).astype(np.float32), columns=["logit_yes", "logit_no"])
    answers.insert(0, "question", table["question"])
    answers["mass"] = np.float32(1)
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / "questions.parquet")
    answers[table["split"] != "train"].to_parquet(folder / "predictions.parquet")
    return table, answers


def test_scores_are_those_of_the_analysis(tmp_path):
    questions, answers = made_up_run(tmp_path)
    asked = questions[questions["split"] == "validation"].merge(answers, on="question")
    ours = mean_macro_f1(asked)
    assert run_scores(tmp_path, "seen") == pytest.approx({"leaf": ours["leaf"], "seen": ours["seen"]})
    assert run_scores(tmp_path, "unseen") == pytest.approx({"unseen": ours["heldout"]})


@pytest.mark.parametrize("objective", ["seen", "unseen"])
def test_no_other_answer_moves_a_score(tmp_path, objective):
    questions, answers = made_up_run(tmp_path)
    before = run_scores(tmp_path, objective)
    decides = answers["question"].isin(decisive(questions, objective)["question"])
    assert 0 < decides.sum() < len(answers)
    changed = answers.copy()
    changed.loc[~decides, ["logit_yes", "logit_no"]] = np.nan
    changed.to_parquet(tmp_path / "predictions.parquet")
    assert run_scores(tmp_path, objective) == before
    for group in decisive(questions, objective)["group"].unique():  # the control: each that decides does move it
        rows = decisive(questions, objective).query("group == @group")["question"]
        changed = answers.copy()
        changed.loc[changed["question"].isin(rows), "logit_yes"] += 100
        changed.to_parquet(tmp_path / "predictions.parquet")
        assert run_scores(tmp_path, objective)[group] != before[group]


def test_only_validation_questions_decide(tmp_path):
    questions, _ = made_up_run(tmp_path)
    kept = questions.set_index("question").loc[decisive(questions, "seen")["question"]]
    assert set(kept["split"]) == {"validation"}
    assert kept["seen"].all()
    assert not questions.set_index("question").loc[decisive(questions, "unseen")["question"], "seen"].any()


def test_logits_that_are_not_finite_give_no_score_and_no_question_is_an_error(tmp_path):
    questions, answers = made_up_run(tmp_path)
    answers.assign(logit_yes=np.float32(np.nan)).to_parquet(tmp_path / "predictions.parquet")
    assert run_scores(tmp_path, "seen") == {}
    questions[questions["split"] != "validation"].to_parquet(tmp_path / "questions.parquet")
    with pytest.raises(RunError, match="no validation question on leaves or seen hypernyms"):
        run_scores(tmp_path, "seen")
