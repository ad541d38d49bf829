"""The command line, in process: one JSON line, one line per error, exit code 2, nothing heavy at import."""

import json
import subprocess
import sys

import pytest
from small_study import SETTINGS

import cli


@pytest.fixture
def crosstax(monkeypatch, capsys):
    """Run the command; returns (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["crosstax", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run


def last_json(stdout):
    return json.loads(stdout.strip().splitlines()[-1])


def inputs_of(study):
    return ["--dataset", study.dataset, "--features", study.features, "--lm", study.lm, "--threads", 1]


def settings(**more):
    return [f"{name}={json.dumps(value)}" for name, value in {**SETTINGS, **more}.items()]


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
    assert again["questions"] == 12 * 3 * 4
    import pandas as pd

    saved = pd.read_parquet(run / "predictions.parquet").set_index("question")
    fresh = pd.read_parquet(answers).set_index("question")
    pd.testing.assert_frame_equal(fresh[saved.columns], saved.loc[fresh.index], atol=1e-5)
    code, out, _ = crosstax("analyze", tmp_path / "runs", "--out", tmp_path / "results", "--json")
    assert code == 0
    results = pd.read_csv(tmp_path / "results" / "results.csv")
    for group in ("leaf", "heldout"):
        assert results[f"{group}_macro_f1"].item() == pytest.approx(again["macro_f1"][group], abs=1e-6)


def test_a_sweep_file_is_listed_run_and_skipped(crosstax, small_study, tmp_path):
    file = tmp_path / "sweep.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in SETTINGS.items()]
    paths = f'dataset = "{small_study.dataset}"\nfeatures = "{small_study.features}"\nlm = "{small_study.lm}"\n'
    file.write_text("[defaults]\n" + paths + "\n".join(lines) + '\n[[grid]]\nshuffle = ["original", "within"]\n')
    code, out, err = crosstax("sweep", file, "--dry-run", "--json")
    assert (code, last_json(out)) == (0, {"runs": 2})
    assert "'shuffle': 'within'" in err
    first = crosstax("sweep", file, "--out", tmp_path / "runs", "--threads", 1, "--json")
    second = crosstax("sweep", file, "--out", tmp_path / "runs", "--threads", 1, "--json")
    assert first[0] == second[0] == 0
    assert last_json(first[1]) == last_json(second[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "shuffle=accross"], "shuffle: Input should be 'original', 'across' or 'within'"),
        (["train", "no_such_field=1"], "is not NAME=VALUE"),
        (["train", "answer_yes=certainly"], "no token of its own"),
        (["train", "--device", "gpu"], "there is no device 'gpu'"),
        (["train", "--device", "cuda:99"], "cuda:99"),
        (["sweep", "nowhere.toml"], "nowhere.toml does not exist"),
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
    assert message in errors[0]
    assert "Traceback" not in err


def test_a_missing_lm_folder_says_so(crosstax, small_study, tmp_path):
    words = ["--dataset", small_study.dataset, "--features", small_study.features, "--lm", tmp_path / "no lm"]
    code, _, err = crosstax("train", *words)
    assert code == 2
    assert "no lm" in err


def test_debug_keeps_the_traceback(crosstax):
    from cachegen.errors import CrosstaxError

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
    assert "144 images" in err
    code, _, err = crosstax("doctor", "--dataset", small_study.dataset)
    assert code == 2
    assert "144 unreadable images" in err
    assert str(small_study.dataset / "images" / "axe" / "axe_00.png") in err


def test_importing_the_command_and_reading_configs_loads_nothing_heavy():
    code = (
        "import sys, cli\n"
        "light = {'torch', 'transformers', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "import engine.condition, cachegen.dataset\n"
        "print(sorted(light), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_bench_compares_equal_computations():
    from engine.bench import bench

    result = bench(rounds=1)
    for name in ("train", "evaluate"):
        assert result[name]["largest_logit_difference"] < 1e-4
        assert min(result[name][way] for way in ("plain", "engine", "ratio")) > 0
