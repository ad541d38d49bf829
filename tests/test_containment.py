"""One failure stops nobody: whatever a group raises is its own, and is recorded; what concerns all ends the command."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import all_bytes, bytes_of, places_of, sweep_file
from small_study import SETTINGS, word_tokenizer, write_features
from test_executors import planned
from tiny import tiny_lm
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

from cachegen.data.dataset import load_dataset
from engine.runs.directory import RunDirectory
from engine.runs.planned import Execution
from engine.sweeps import plan
from engine.sweeps import task as task_module
from engine.sweeps.executors import in_this_process, run_elsewhere
from engine.sweeps.executors import local as local_executor
from engine.sweeps.executors.local import local
from engine.sweeps.status import status_text, sweep_status
from engine.sweeps.sweep import UnplannedError, run_sweep
from engine.sweeps.timing import read_events
from engine.training import group
from engine.training import loop as training

ALONE = Execution(device="cpu", group_size=1)
EVERY_STEP = replace(ALONE, checkpoint_seconds=0.0)
TINY = {"vocab_size": 61, "bos_token_id": 0, "eos_token_id": 0}
LAYERS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def file_of(path, study, lms):
    fields = {**places_of(study), **SETTINGS, "epochs": 1}
    del fields["lm"]
    return sweep_file(path, fields, f"[[grid]]\nlm = {json.dumps(list(map(str, lms)))}")


def saved(model, folder, study):
    """A model in a folder of its own, with the tokenizer of the study's LM."""
    shutil.copytree(study.lm, folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return folder


def gpt2(folder, study):
    return saved(
        AutoModelForCausalLM.from_config(GPT2Config(**TINY, n_positions=7, n_embd=16, n_layer=1, n_head=2)),
        folder,
        study,
    )


def opt(folder, study):
    sizes = {**LAYERS, "ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 7, "pad_token_id": 1}
    return saved(AutoModelForCausalLM.from_config(OPTConfig(**TINY | sizes)), folder, study)


def rotary(folder, study):
    return saved(tiny_lm("qwen3", max_position_embeddings=7), folder, study)


def without(name):
    def make(folder, study):
        shutil.copytree(study.lm, folder)
        (folder / name).unlink()
        return folder

    return make


def with_config(**changed):
    def make(folder, study):
        shutil.copytree(study.lm, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changed))
        return folder

    return make


def cut_off(folder, study):
    shutil.copytree(study.lm, folder)
    os.truncate(folder / "model.safetensors", 1000)
    return folder


def with_small_vocabulary(folder, study):
    """Its tokenizer does not know the answers' words."""
    shutil.copytree(study.lm, folder)
    word_tokenizer(["is", "are", "there", "a", "an"]).save_pretrained(folder)
    return folder


def nowhere(folder, _study):
    return folder


# name -> the LM, what is said of it, and whether it can be known before anything is loaded
BAD = {
    "few learned positions": (gpt2, "positions", True),
    "few positions with an offset": (opt, "positions", True),
    "few rotary positions": (rotary, "positions", True),
    "no tokenizer": (without("tokenizer.json"), "tokenizer", True),
    "answers unknown": (with_small_vocabulary, "answer", True),
    "no causal LM": (with_config(model_type="dinov2", architectures=["Dinov2Model"]), "causal", True),
    "of no known type": (with_config(model_type="qwen99"), "qwen99", True),
    "no heads": (with_config(num_attention_heads=0), "", None),
    "layers a text": (with_config(num_hidden_layers="many"), "num_hidden_layers", None),
    "weights of another width": (with_config(hidden_size=64), "other shapes", False),
    "weights cut off": (cut_off, "model.safetensors is cut off", True),
    "of no known activation": (with_config(hidden_act="swoosh"), "no 'swoosh' is known", False),
    "weights missing": (without("model.safetensors"), "model.safetensors", None),
    "config missing": (without("config.json"), "config.json", True),
    "folder missing": (nowhere, "folder missing", True),
}


@pytest.fixture(scope="module")
def good(small_study, tmp_path_factory):
    """The bytes of the healthy run."""
    (folder,) = run_sweep(small_study.sweep(run_seed=1), tmp_path_factory.mktemp("good"), ALONE)
    return bytes_of(folder)


def test_bad_lms_fail_alone(small_study, good, tmp_path):
    """In a sweep over all of them and a good one; of what is known beforehand, nothing is queued."""
    bad = {str(make(tmp_path / name, small_study)): name for name, (make, _, _) in BAD.items()}
    out, queued = tmp_path / "runs", []

    def executor(tasks):
        queued.extend(tasks)
        local(workers=1)(tasks)

    with pytest.raises(UnplannedError) as error:
        run_sweep(small_study.sweep(lm=[*bad, str(small_study.lm)], run_seed=1), out, ALONE, executor=executor)
    *failed, sound = error.value.folders
    reasons = {lm: text for text in error.value.unplanned for lm in bad if f"{lm}: " in text}
    planned_ones = [lm for lm in bad if lm not in reasons]
    reasons |= {lm: RunDirectory(folder).reason for lm, folder in zip(planned_ones, failed, strict=True)}
    shown = status_text(sweep_status(out))
    tried = {task.runs[0].inputs.lm for task in queued}
    for lm, name in bad.items():
        _, says, beforehand = BAD[name]
        assert says in reasons[lm]
        assert reasons[lm].isprintable()
        assert reasons[lm] in shown
        assert beforehand is None or beforehand == (lm not in tried)
    assert bytes_of(sound) == good


def test_the_command_says_what_failed_and_skips_it(small_study, tmp_path, crosstax):
    """Exit code 1; the same command again skips it and says how to try it; --retry-failed does, once it is mended."""
    bad = gpt2(tmp_path / "bad", small_study)
    file = file_of(tmp_path / "sweep.toml", small_study, [bad, small_study.lm])
    words = ["sweep", file, "--out", tmp_path / "runs", "--device", "cpu"]
    code, _, err = crosstax(*words)
    assert code == 1
    assert "1 runs done, 1 failed" in err
    assert "positions" in err
    code, out, err = crosstax(*words, "--json")
    assert code == 1
    assert "skipped" in err
    assert "--retry-failed" in err
    assert len(json.loads(out)["failed"]) == 1
    assert "positions" in crosstax("status", tmp_path / "runs")[2]
    config = json.loads((bad / "config.json").read_text())
    assert crosstax(*words, "--retry-failed")[0] == 1
    shutil.rmtree(bad)
    shutil.copytree(small_study.lm, bad)
    assert config["model_type"] == "gpt2"
    assert crosstax(*words, "--retry-failed")[0] == 0


def test_what_could_not_be_planned_is_listed_until_it_can(small_study, tmp_path, crosstax):
    lm = tmp_path / "later"
    words = ["sweep", file_of(tmp_path / "sweep.toml", small_study, [lm, small_study.lm])]
    words += ["--out", tmp_path / "runs", "--device", "cpu"]
    for _ in range(2):
        code, out, err = crosstax(*words, "--json")
        assert code == 1
        assert "1 runs done, 1 failed" in err
        assert str(lm) in err
        assert len(json.loads(out)["unplanned"]) == 1
        assert str(lm) in crosstax("status", tmp_path / "runs")[2]
    shutil.copytree(small_study.lm, lm)
    shutil.copytree(tiny_saved(tmp_path / "other"), lm, dirs_exist_ok=True)
    assert crosstax(*words)[0] == 0
    assert str(lm) not in crosstax("status", tmp_path / "runs")[2]


def tiny_saved(folder):
    tiny_lm("qwen3", seed=5).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [gpt2, nowhere, without("tokenizer.json")], ids=["positions", "missing", "tokenizer"])
def test_train_says_it_in_one_line(small_study, tmp_path, crosstax, make):
    words = [
        "--dataset",
        small_study.dataset,
        "--features",
        small_study.features,
        "--lm",
        make(tmp_path / "lm", small_study),
    ]
    code, _, err = crosstax("train", *words, "--out", tmp_path / "runs", "--device", "cpu", "epochs=1", "batch=16")
    assert code == 2
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["few learned positions", "no tokenizer", "answers unknown"])
def test_a_dry_run_makes_the_same_checks(small_study, tmp_path, crosstax, name):
    make, says, _ = BAD[name]
    lms = [make(tmp_path / "bad", small_study), small_study.lm, "nobody/nothing"]
    file = file_of(tmp_path / "sweep.toml", small_study, lms)
    code, out, err = crosstax("sweep", file, "--dry-run", "--device", "cpu", "--json")
    assert code == 0, err
    bad, sound, elsewhere = json.loads(out.splitlines()[-1])["lms"].values()
    assert says in bad["problem"]
    assert sound == {"checked": True, "problem": None}
    assert elsewhere == {"checked": False, "problem": None}
    assert says in err
    assert not (tmp_path / "runs").exists()


# Whatever is raised, wherever


class Panic(BaseException):
    """As what comes out of libraries written in Rust."""


Panic.__name__ = "PanicException"
RAISED = [AttributeError("no such thing"), IndexError(), KeyError("x" * 5000), RecursionError("deep\nand deeper"),
          OSError(5, "Input/output error", "/elsewhere"), AssertionError("\udcff"), Panic("panicked")]  # fmt: skip
PLACES = [(group, "load_dataset"), (group, "load_lm"), (group, "prompt_tokens"), (group, "build_questions"),
          (group, "new_projector"), (training, "step_loss"), (group, "evaluate")]  # fmt: skip


def raising_at(monkeypatch, place, error, which=1):
    """Let the function raise at its calls up to the first one of the next group."""
    module, name = place
    original, calls = getattr(module, name), []

    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == which:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapper)


@pytest.fixture(scope="module")
def whole(small_study, tmp_path_factory):
    """The bytes of two runs that nothing befalls."""
    return all_bytes(run_sweep(small_study.sweep(run_seed=[1, 2], epochs=1), tmp_path_factory.mktemp("whole"), ALONE))


@pytest.mark.parametrize(("place", "error"), [*zip(PLACES, RAISED, strict=True)], ids=[name for _, name in PLACES])
def test_whatever_is_raised_is_one_groups(small_study, whole, tmp_path, monkeypatch, place, error):
    runs = small_study.sweep(run_seed=[1, 2], epochs=1)
    out = tmp_path / "runs"
    with monkeypatch.context() as patch:
        raising_at(patch, place, error)
        first, second = run_sweep(runs, out, ALONE)
    assert bytes_of(second) == whole[1]
    failed = RunDirectory(first)
    record = json.loads((first / "FAILED").read_text())
    assert record["type"] == type(error).__name__
    assert type(error).__name__ in failed.reason
    assert "traceback.txt" in failed.reason
    assert failed.reason.isprintable()
    assert "raise error" in (first / "traceback.txt").read_text()
    assert [entry["run"] for entry in sweep_status(out)["failed"]] == [first.name]
    with monkeypatch.context() as patch:
        patch.setattr(task_module, "run_group", lambda *args: pytest.fail("went on"))
        run_sweep(runs, out, ALONE)
    assert all_bytes(run_sweep(runs, out, ALONE, retry_failed=True)) == whole
    assert not (first / "traceback.txt").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), OSError(28, "No space left on device")])
def test_what_concerns_all_ends_the_command(small_study, tmp_path, monkeypatch, error):
    """Negative control: nothing is marked FAILED, and the same command goes on."""
    runs = small_study.sweep(run_seed=[1, 2], epochs=1)
    with monkeypatch.context() as patch:
        raising_at(patch, (training, "step_loss"), error, which=3)
        with pytest.raises(type(error)):
            run_sweep(runs, tmp_path, EVERY_STEP)
    assert not list(tmp_path.glob("*/FAILED"))
    assert all(RunDirectory(folder).done for folder in run_sweep(runs, tmp_path, ALONE))


def test_a_group_that_failed_in_training_goes_on_from_its_checkpoint(small_study, whole, tmp_path, monkeypatch):
    """As after a store that could not be read for a moment; the bytes are those of one that never failed."""
    runs = small_study.sweep(run_seed=[1, 2], epochs=1)
    together = Execution(device="cpu", checkpoint_seconds=0.0)
    out = tmp_path / "runs"
    with monkeypatch.context() as patch:
        raising_at(patch, (training, "step_loss"), OSError(116, "Stale file handle", "/elsewhere"), which=4)
        folders = run_sweep(runs, out, together)
    assert all(RunDirectory(folder).failed for folder in folders)
    run_sweep(runs, out, together)
    assert all_bytes(run_sweep(runs, out, together, retry_failed=True)) == whole
    assert [event["from_step"] for event in read_events(out) if event["event"] == "begin"] == [0, 3]


# Elsewhere


def test_a_job_whose_inputs_are_gone_fails_and_the_next_goes_on(small_study, tmp_path):
    dataset = load_dataset(small_study.dataset)
    other = write_features(tmp_path / "other.h5", dataset, unreadable=[dataset.images["key"][0]])
    runs = small_study.sweep(features=[str(other), str(small_study.features)])
    tasks = planned(runs, tmp_path / "runs")
    other.unlink()
    for task in tasks:
        run_elsewhere(task, patience=0)
    bad, good = (RunDirectory(tmp_path / "runs" / task.name) for task in tasks)
    assert str(other) in bad.reason
    assert good.done


DEADLY = """
import os, signal, sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "engine.sweeps.executors.local" and self in sys.meta_path:
            sys.meta_path.remove(self)
            from engine.training import group
            load_lm = group.load_lm
            def deadly(folder, *rest):
                if (folder / "deadly").exists():
                    os.kill(os.getpid(), signal.SIGKILL)
                return load_lm(folder, *rest)
            group.load_lm = deadly
sys.meta_path.insert(0, Hook())
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_concerns_its_group(small_study, tmp_path, monkeypatch):
    """As by the kernel for want of memory: tried once more, alone, then recorded; the others are done."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *sys.path]))
    deadly = Path(shutil.copytree(small_study.lm, tmp_path / "deadly"))
    tiny_lm("qwen3", seed=5).save_pretrained(deadly)
    (deadly / "deadly").touch()
    runs = small_study.sweep(lm=[str(deadly), str(small_study.lm)], run_seed=[1, 2], epochs=1)
    out = tmp_path / "runs"
    folders = run_sweep(runs, out, ALONE, executor=local(workers=2))
    assert [RunDirectory(folder).failed for folder in folders] == [True, True, False, False]
    assert all(RunDirectory(folder).done for folder in folders[2:])
    assert "killed" in RunDirectory(folders[0]).reason
    tries = [event["group"] for event in read_events(out) if event["event"] == "begin"]
    assert [tries.count(folder.name) for folder in folders[:2]] == [2, 2]
    (deadly / "deadly").unlink()
    assert all(RunDirectory(folder).done for folder in run_sweep(runs, out, ALONE, retry_failed=True))


def test_a_device_that_is_lost_is_left_to_another_process(small_study, tmp_path, monkeypatch):
    """After an illegal access nothing runs in a process any more: the others are not marked FAILED for that."""
    runs = small_study.sweep(run_seed=[1, 2, 3], epochs=1)
    out, elsewhere = tmp_path / "runs", []
    lost = lambda _opener: (_ for _ in ()).throw(group.DeviceLostError("cuda:0 does not answer"))  # noqa: E731
    monkeypatch.setattr(group.Opener, "check_device", lost)
    raising_at(monkeypatch, (training, "step_loss"), RuntimeError("CUDA error: an illegal memory access"))
    monkeypatch.setattr(local_executor, "_in_workers", lambda jobs, count, gpus: elsewhere.append((jobs, count)))
    run_sweep(runs, out, ALONE, executor=local(workers=1))
    counts = sweep_status(out)["counts"]
    assert (counts["failed"], counts["pending"]) == (1, 2)
    ((jobs, count),) = elsewhere
    assert count == 1
    in_this_process(jobs)
    assert sweep_status(out)["counts"]["done"] == 2


# A finished folder


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob("*")]}


def test_a_finished_folder_is_left_as_it_is(small_study, tmp_path, crosstax):
    """So that it may be read-only, or somebody else's; what has failed there is said."""
    lms = [gpt2(tmp_path / "bad", small_study), small_study.lm]
    words = ["sweep", file_of(tmp_path / "sweep.toml", small_study, lms)]
    words += ["--out", tmp_path / "runs", "--device", "cpu"]
    assert crosstax(*words)[0] == 1
    before = snapshot(tmp_path / "runs")
    code, _, err = crosstax(*words)
    assert (code, "skipped" in err) == (1, True)
    assert snapshot(tmp_path / "runs") == before


def test_nothing_that_can_be_planned_is_one_line(small_study, tmp_path, crosstax, monkeypatch):
    """Also for an error that nobody expected."""
    monkeypatch.setattr(plan, "lm_digests", lambda *_: {}["weights"])
    words = ["sweep", file_of(tmp_path / "sweep.toml", small_study, [small_study.lm])]
    code, _, err = crosstax(*words, "--out", tmp_path / "runs", "--device", "cpu")
    assert code == 2
    assert "KeyError" in err
    assert "Traceback" not in err
