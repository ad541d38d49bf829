"""Sweeps that are killed, repeated, damaged or started twice: same bytes, nothing lost, nothing done twice."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from few import few
from run_folders import all_bytes, kill_on_call, killed
from safetensors.torch import load_file

from cachegen.common.errors import RunError
from engine.runs.directory import RunDirectory
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep
from engine.sweeps.timing import read_events
from engine.training import checkpoint, group
from engine.training import loop as training

EVERY_STEP = Execution(device="cpu", checkpoint_seconds=0.0)
CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def runs(small_study):
    return small_study.sweep(shuffle=["original", "across"])


@pytest.fixture(scope="module")
def uninterrupted(runs, tmp_path_factory):
    return all_bytes(run_sweep(runs, tmp_path_factory.mktemp("whole"), CPU))


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [pytest.param(training, "write_checkpoint", 1, id="before the first checkpoint", marks=pytest.mark.slow),
     pytest.param(training, "write_checkpoint", 9, id="after the log was written"),
     pytest.param(training, "_write_log", 5, id="between checkpoints", marks=pytest.mark.slow),
     pytest.param(group, "evaluate", 1, id="before evaluation", marks=pytest.mark.slow),
     pytest.param(group, "evaluate", 2, id="between evaluations")],
)  # fmt: skip
def test_killed_and_resumed_equals_uninterrupted(runs, uninterrupted, tmp_path, monkeypatch, module, name, number):
    with monkeypatch.context() as patch:
        kill_on_call(patch, module, name, number)
        killed(lambda: run_sweep(runs, tmp_path, EVERY_STEP))
    (planned,) = json.loads((tmp_path / "plan.json").read_text())["groups"]
    assert not all(RunDirectory(tmp_path / run).done for run in planned["runs"])
    folders = run_sweep(runs, tmp_path, CPU)
    assert all_bytes(folders) == uninterrupted
    assert not list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_negative_control_moments_matter(runs, uninterrupted, tmp_path, monkeypatch):
    """Resuming without the optimizer's moments gives other bytes: the comparison can fail."""
    with monkeypatch.context() as patch:
        kill_on_call(patch, training, "write_checkpoint", 9)
        killed(lambda: run_sweep(runs, tmp_path, EVERY_STEP))
    original = checkpoint.read_checkpoint

    def forgetful(path, projectors, optimizer, directories):
        step = original(path, projectors, optimizer, directories)
        optimizer.state.clear()
        return step

    monkeypatch.setattr(training, "read_checkpoint", forgetful)
    assert (
        all_bytes(run_sweep(runs, tmp_path, CPU))[0]["projector.safetensors"]
        != uninterrupted[0]["projector.safetensors"]
    )


def test_what_is_done_is_skipped_and_a_changed_file_is_not_done(runs, uninterrupted, tmp_path, monkeypatch):
    folders = run_sweep(runs, tmp_path, CPU)
    with monkeypatch.context() as patch:
        patch.setattr(group, "train_group", lambda *args, **kwargs: pytest.fail("trained again"))
        assert run_sweep(runs, tmp_path, CPU) == folders
    predictions = folders[0] / "predictions.parquet"
    predictions.write_bytes(predictions.read_bytes()[:-1])
    assert not RunDirectory(folders[0]).done
    assert all_bytes(run_sweep(runs, tmp_path, CPU)) == uninterrupted


def test_new_runs_join_an_old_sweep_in_groups_of_their_own(small_study, runs, uninterrupted, tmp_path):
    first = run_sweep(runs, tmp_path, CPU)
    both = run_sweep(small_study.sweep(shuffle=["original", "across", "within"]), tmp_path, CPU)
    assert both[:2] == first
    assert all_bytes(first) == uninterrupted
    groups = json.loads((tmp_path / "plan.json").read_text())["groups"]
    assert [len(group["runs"]) for group in groups] == [2, 1]


def test_group_size_splits_a_sweep_and_moves_no_result(runs, uninterrupted, tmp_path):
    folders = run_sweep(runs, tmp_path, Execution(device="cpu", group_size=1))
    assert len(json.loads((tmp_path / "plan.json").read_text())["groups"]) == 2
    for folder, reference in zip(folders, uninterrupted, strict=True):
        assert (folder / "questions.parquet").read_bytes() == reference["questions.parquet"]


@pytest.fixture(scope="module")
def stopped(runs, tmp_path_factory):
    """A sweep folder as a kill after the second checkpoint leaves it."""
    out = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        kill_on_call(patch, training, "write_checkpoint", 3)
        killed(lambda: run_sweep(runs, out, EVERY_STEP))
    return out


def flipped(place):
    """One byte changed, at this share of the file."""

    def change(file, _runs):
        content = bytearray(file.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        file.write_bytes(content)

    return change


def of_another_sweep(**changed):
    """Put the checkpoint of an equal sweep of other runs in its place."""

    def change(file, small_study):
        out = file.parent / "other"
        with pytest.MonkeyPatch.context() as patch:
            kill_on_call(patch, training, "write_checkpoint", 3)
            execution = replace(EVERY_STEP, group_size=2, max_tokens=changed.pop("max_tokens", None))
            other = small_study.sweep(shuffle=["original", "across"], **changed)
            killed(lambda: run_sweep(other, out, execution))
        (found,) = out.glob("*.safetensors")
        found.rename(file)

    return change


DAMAGES = {
    "cut": lambda file, _: file.write_bytes(file.read_bytes()[:-10]),
    "another learning rate": of_another_sweep(learning_rate=1e-3),
    "other rows": of_another_sweep(max_tokens=600),
    **{f"byte at {place}": flipped(place) for place in (0, 0.02, 0.5, 1)},
}


@pytest.mark.parametrize("damage", few(DAMAGES, "another learning rate", "byte at 0.5"))
def test_a_checkpoint_that_is_not_its_groups_never_counts(small_study, runs, uninterrupted, stopped, tmp_path, damage):
    """Its runs fail, and --retry-failed trains them anew, as the message says."""
    out = shutil.copytree(stopped, tmp_path / "runs")
    (file,) = out.glob("*.safetensors")
    DAMAGES[damage](file, small_study)
    folders = run_sweep(runs, out, CPU)
    reasons = [RunDirectory(folder).reason for folder in folders]
    assert all("checkpoint" in reason and "--retry-failed" in reason for reason in reasons)
    assert all((folder / "traceback.txt").is_file() for folder in folders)
    assert run_sweep(runs, out, CPU) == folders
    assert not any(RunDirectory(folder).done for folder in folders)
    assert all_bytes(run_sweep(runs, out, CPU, retry_failed=True)) == uninterrupted
    assert not any((folder / "traceback.txt").exists() for folder in folders)


def test_negative_control_an_untouched_checkpoint_counts(runs, uninterrupted, stopped, tmp_path):
    out = shutil.copytree(stopped, tmp_path / "runs")
    assert all_bytes(run_sweep(runs, out, CPU)) == uninterrupted
    assert [event["from_step"] for event in read_events(out) if event["event"] == "begin"] == [0, 2]


def edited(**changed):
    def change(plan):
        plan["groups"][0] |= changed

    return change


def backwards(plan):
    for name in ("runs", "work"):
        plan["groups"][0][name].reverse()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(edited(max_tokens=600), id="rows", marks=pytest.mark.slow),
        pytest.param(backwards, id="order"),
        pytest.param(lambda plan: plan["groups"].append(plan["groups"][0]), id="a group twice", marks=pytest.mark.slow),
    ],
)
def test_a_plan_that_was_edited_is_refused(runs, uninterrupted, stopped, tmp_path, change):
    """Both ways out that the message names lead out."""
    out = shutil.copytree(stopped, tmp_path / "runs")
    file = out / "plan.json"
    whole = file.read_bytes()
    plan = json.loads(whole)
    change(plan)
    file.write_text(json.dumps(plan))
    with pytest.raises(RunError, match=r"plan\.json .* restore it, or delete it"):
        run_sweep(runs, out, CPU)
    deleted = shutil.copytree(out, tmp_path / "deleted")
    for path in [deleted / "plan.json", *deleted.glob("*.checkpoint.safetensors")]:
        path.unlink()
    file.write_bytes(whole)
    for folder in (out, deleted):
        assert all_bytes(run_sweep(runs, folder, CPU)) == uninterrupted


def test_two_writers_at_once_are_refused(runs, tmp_path):
    from cachegen.common.locks import exclusive_lock

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with exclusive_lock(tmp_path / ".lock", "sweep"):
            os.write(writer, b"x")
            signal.pause()
    os.read(reader, 1)
    try:
        with pytest.raises(RunError, match=rf"is being written by .* pid {child}; wait"):
            run_sweep(runs, tmp_path, CPU)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_checkpoints_hold_tensors_and_no_pickle(runs, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_on_call(patch, training, "write_checkpoint", 5)
        killed(lambda: run_sweep(runs, tmp_path, EVERY_STEP))
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    assert {name.split(".", 1)[0] for name in tensors} == {"0", "1"}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
