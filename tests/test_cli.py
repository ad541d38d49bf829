"""The command line, in process: one JSON line, one line per error, exit code 2, nothing heavy at import."""

import json
import re
import subprocess
import sys

import pytest
from run_folders import last_json, places_of, sweep_file
from small_study import SETTINGS

from engine.sweeps.timing import read_events


def inputs_of(study):
    return ["--dataset", study.dataset, "--features", study.features, "--lm", study.lm, "--threads", 1]


def settings(**more):
    return [f"{name}={json.dumps(value)}" for name, value in {**SETTINGS, **more}.items()]


def file_of(study, folder, grids):
    return sweep_file(folder / "sweep.toml", places_of(study) | SETTINGS, grids)


@pytest.mark.usefixtures("no_models")
def test_train_evaluate_and_analyze_one_condition(crosstax, small_study, tmp_path):
    code, out, _ = crosstax(
        "train", *inputs_of(small_study), "--out", tmp_path / "runs", "--json", *settings(run_seed=3)
    )
    assert code == 0
    trained = last_json(out)
    assert trained["failed"] == []
    run = tmp_path / "runs" / trained["runs"][0]
    answers = tmp_path / "answers.parquet"
    code, out, _ = crosstax("evaluate", run, "--threads", 1, "--out", answers, "--json")
    assert code == 0
    again = last_json(out)
    assert again["questions"] == 12 * 2 * 4
    import pandas as pd

    saved = pd.read_parquet(run / "predictions.parquet").set_index("question")
    fresh = pd.read_parquet(answers).set_index("question")
    pd.testing.assert_frame_equal(fresh[saved.columns], saved.loc[fresh.index], atol=1e-5)
    code, out, _ = crosstax("analyze", tmp_path / "runs", "--out", tmp_path / "results", "--json")
    assert code == 0
    results = pd.read_csv(tmp_path / "results" / "results.csv")
    for group in ("leaf", "heldout"):
        assert results[f"{group}_macro_f1"].item() == pytest.approx(again["macro_f1"][group], abs=1e-6)


def test_a_sweep_file_is_forecast_run_and_skipped(crosstax, small_study, tmp_path):
    file = sweep_file(
        tmp_path / "sweep.toml", places_of(small_study) | SETTINGS, '[[grid]]\nshuffle = ["original", "within"]\n'
    )
    code, out, err = crosstax("sweep", file, "--threads", 1, "--dry-run", "--json")
    assert code == 0
    assert last_json(out)["runs"] == last_json(out)["total"]["known"] == 2
    assert "pretrained, within" in err
    first = crosstax("sweep", file, "--out", tmp_path / "runs", "--threads", 1, "--json")
    second = crosstax("sweep", file, "--out", tmp_path / "runs", "--threads", 1, "--json")
    assert first[0] == second[0] == 0
    assert last_json(first[1]) == last_json(second[1])


def test_parts_of_a_sweep_failures_and_status(crosstax, small_study, tmp_path):
    grids = '[[grid]]\nrun_seed = [1, 2]\n[[grid]]\nablation_kind = "systematic"\nablation = 10\n'
    file, out = file_of(small_study, tmp_path, grids), tmp_path / "runs"
    words = ["sweep", file, "--out", out, "--threads", 1, "--json"]
    assert len(last_json(crosstax(*words, "--only", "run_seed=2")[1])["runs"]) == 1
    assert len(last_json(crosstax(*words, "--limit", 1)[1])["runs"]) == 1
    code, stdout, err = crosstax(*words)
    assert code == 1
    assert (len(last_json(stdout)["runs"]), len(last_json(stdout)["failed"])) == (3, 1)
    assert "2 runs done, 1 failed" in err
    code, stdout, err = crosstax("status", out, "--json")
    assert code == 0
    assert last_json(stdout)["counts"] == {"done": 2, "running": 0, "stopped": 0, "failed": 1, "pending": 0}
    assert "more than the 4 hypernyms" in err
    assert crosstax(*words, "--retry-failed")[0] == 1  # it is still impossible


@pytest.mark.slow
def test_workers_of_a_sweep_give_the_bytes_of_one_process(crosstax, small_study, tmp_path):
    file = file_of(small_study, tmp_path, "[[grid]]\nrun_seed = [1, 2]\n")
    for name, more in (("one", ()), ("two", ("--workers", 2))):
        words = ["sweep", file, "--out", tmp_path / name, "--group-size", 1, "--threads", 1, *more]
        assert crosstax(*words)[0] == 0
    one, two = (
        {path.parent.name: path.read_bytes() for path in (tmp_path / name).glob("*/predictions.parquet")}
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 2
    assert len({event["by"] for event in read_events(tmp_path / "two") if event["event"] == "begin"}) == 2


def test_workers_are_of_this_machine_only(crosstax, small_study, tmp_path):
    file = file_of(small_study, tmp_path, "[[grid]]\nrun_seed = [1, 2]\n")
    code, _, err = crosstax("sweep", file, "--out", tmp_path / "out", "--executor", "slurm", "--workers", 2)
    assert (code, err) == (2, "error: --workers needs --executor local\n")
    assert not (tmp_path / "out").exists()


def test_presets_are_listed_printed_and_used(crosstax, small_study, tmp_path):
    code, out, err = crosstax("presets", "--json")
    assert code == 0
    assert {"paper", "release", "fast", "fig3", "fig12", "table5", "swap", "probe"} <= set(last_json(out)["presets"])
    assert "Figure 6: " in err
    text = crosstax("presets", "fig6")[1]
    (tmp_path / "mine.toml").write_text(text)
    forecasts = [
        last_json(crosstax("sweep", *words, "--dry-run", "--threads", 1, "--json")[1])["total"]["flops"]
        for words in (["--preset", "fig6"], [tmp_path / "mine.toml"], ["--preset", "fig6", "--settings", "fast"])
    ]
    assert forecasts[0] == forecasts[1] > 1.5 * forecasts[2]
    # A figure on other data and models, down to what a tiny tokenizer can say.
    sets = [f"{name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    sets += [f"lm={small_study.lm}", "encoder=random", "dtype=float32", "supervise=answer", "run_seed=[1, 2]"]
    words = [word for each in sets for word in ("--set", each)]
    places = ["--dataset", small_study.dataset, "--features", small_study.features, "--out", tmp_path / "runs"]
    code, out, _ = crosstax(
        "sweep", "--preset", "fig6", *words, *places, "--only", "ablation=100", "--only", "shuffle=within",
        "--threads", 1, "--json",
    )  # fmt: skip
    assert code == 0
    assert ["within-a100" in run for run in last_json(out)["runs"]] == [True, True]


def test_a_sweep_of_probes_is_what_probe_does_for_each_lm(crosstax, small_study, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("commands.runs.probe", lambda dataset, **given: asked.update(given))
    file = tmp_path / "probe.toml"
    file.write_text('[probe]\nlm = ["one", "two"]\nnegatives = "distinct"\ndtype = "bfloat16"\n')
    code, _, _ = crosstax("sweep", file, "--dataset", small_study.dataset, "--out", tmp_path / "probes")
    assert code == 0
    assert (list(asked["lm"]), asked["out"], asked["negatives"]) == (["one", "two"], tmp_path / "probes", "distinct")
    assert (asked["dtype"], asked["lm_init"], asked["data_seed"]) == ("bfloat16", "pretrained", 0)
    code, out, err = crosstax("sweep", file, "--dataset", small_study.dataset, "--dry-run", "--json")
    assert code == 0
    assert set(last_json(out)["lm"]) == {"one", "two"}
    assert "one, two" in err


def test_train_starts_from_settings(crosstax, small_study, tmp_path):
    words = ["train", *inputs_of(small_study), "--settings", "release", "--out", tmp_path, "--json", "--threads", 1]
    sets = settings(run_seed=3, dtype="float32", supervise="answer")
    code, out, _ = crosstax(*words, *sets)
    assert code == 0
    config = json.loads((tmp_path / last_json(out)["runs"][0] / "config.json").read_text())
    assert config["condition"]["within_rule"] == "release"
    assert config["condition"]["weight_decay"] == 0
    assert config["condition"]["learning_rate"] == SETTINGS["learning_rate"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "shuffle=accross"], "shuffle: Input should be 'original', 'across', 'within' or 'swap'"),
        (["train", "no_such_field=1"], "is not NAME=VALUE"),
        (["train", "epoch=1"], "a field of a condition, did you mean 'epochs'; fields are lm_init"),
        (["train", "x" * 100_000], "is not NAME=VALUE"),
        (["train", "answer_yes=certainly"], "no token of its own"),
        (["train", "--device", "gpu"], "there is no device 'gpu'"),
        (["train", "--device", "cuda:99"], "cuda:99"),
        (["sweep", "nowhere.toml"], "nowhere.toml does not exist"),
        (["sweep", "fig6"], "give the preset of this name as --preset fig6"),
        (["sweep", "--preset", "fig13"], "there is no preset 'fig13'"),
        (["sweep", "--preset", "fig3", "--dataset", "things"], "`crosstax extract things --encoder vit_large"),
        (["sweep", "--preset", "fig3", "--only", "lm=gpt2"], "no run fits --only lm=gpt2"),
        (["sweep", "--preset", "probe"], "give --dataset DIR"),
        (["presets", "fig13"], "there is no preset 'fig13'"),
        (["status", "nowhere"], "no sweep has started there"),
        (["evaluate", "nowhere"], "config.json does not exist"),
        (["extract", "nowhere", "--encoder", "x", "--out", "x.h5"], "nowhere"),
        (["analyze", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(crosstax, small_study, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    if words[0] == "train":
        words = ["train", *inputs_of(small_study), *settings(), *words[1:]]
    code, out, err = crosstax(*words)
    assert code == 2
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert len(errors[0]) < 5_000
    assert message in errors[0]
    assert "Traceback" not in err


def test_a_missing_lm_folder_says_so(crosstax, small_study, tmp_path):
    words = ["--dataset", small_study.dataset, "--features", small_study.features, "--lm", tmp_path / "no lm"]
    code, _, err = crosstax("train", *words)
    assert code == 2
    assert "no lm" in err


def test_debug_keeps_the_traceback(crosstax):
    from cachegen.common.errors import CrosstaxError

    with pytest.raises(CrosstaxError):
        crosstax("--debug", "sweep", "nowhere.toml")


def test_doctor_names_what_it_found(crosstax):
    code, out, err = crosstax("doctor", "--json")
    assert code == 0
    assert {"torch", "device", "dtype", "attention", "memory", "worlds"} <= set(last_json(out))
    assert "dtype" in err


def test_doctor_checks_data_on_request(crosstax, small_study):
    code, _, err = crosstax("doctor", "--features", small_study.features)
    assert code == 0
    assert "96 images" in err
    code, _, err = crosstax("doctor", "--dataset", small_study.dataset)
    assert code == 2
    assert "96 unreadable images" in err
    assert str(small_study.dataset / "images" / "axe" / "axe_00.png") in err


def test_importing_the_command_and_reading_configs_loads_nothing_heavy():
    code = (
        "import sys, cli\n"
        "light = {'torch', 'transformers', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "import engine.design.condition, cachegen.data.dataset\n"
        "import engine.sweeps.sweep_file, engine.sweeps.status\n"
        "print(sorted(light), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def words_lost(text):
    """What a help text in rich's markup says in square brackets after a word, which is not printed."""
    return re.findall(r"\w\[[a-z]\w*\]", text or "")


def test_help_prints_every_word():
    import typer.main

    from cli import app

    def texts(command):
        yield command.help
        yield from (parameter.help for parameter in command.params if hasattr(parameter, "help"))
        for below in getattr(command, "commands", {}).values():
            yield from texts(below)

    found = list(texts(typer.main.get_command(app)))
    assert len(found) > 100
    assert not [text for text in found if words_lost(text)]
    assert words_lost("it needs crosstax[pictograms].") == ["x[pictograms]"]
