"""`crosstax status`: read while a sweep runs, after it was killed, and when it is over; it touches nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from run_folders import wait_for

from cachegen.common.errors import RunError
from cachegen.common.locks import exclusive_lock, lock_holder
from engine.design.condition import Sweep
from engine.runs.directory import RunDirectory
from engine.runs.planned import Execution
from engine.sweeps.plan_file import read_plan
from engine.sweeps.status import status_text, sweep_status
from engine.sweeps.sweep import run_sweep
from engine.sweeps.timing import append_event
from engine.training import group
from engine.training import loop as training

EVERY_STEP = Execution(device="cpu", checkpoint_seconds=0.0, group_size=2)
IMPOSSIBLE = {"ablation_kind": "systematic", "ablation": 10}


@pytest.fixture
def runs(small_study):
    """Two groups of two runs."""
    return small_study.sweep(run_seed=[1, 2, 3, 4])


def child(work):
    """Fork that does `work` and exits with 0, or 1 if it raises."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(1)
    return process


GONE = set()


def reaped(process):
    """Kill a child, once: afterwards its number may be another's."""
    if process not in GONE:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        GONE.add(process)


@pytest.fixture
def in_the_second_group(runs, tmp_path, monkeypatch):
    """A sweep in another process that has finished its first group and holds still after ten steps of the second."""
    write_checkpoint, begun = training.write_checkpoint, []
    original = group.train_group

    def train_group(*args, **kwargs):
        begun.append(1)
        return original(*args, **kwargs)

    def hold(path, projectors, optimizer, step, sizes):
        write_checkpoint(path, projectors, optimizer, step, sizes)
        if len(begun) == 2 and step == 10:
            (tmp_path / "holding").touch()
            signal.pause()

    monkeypatch.setattr(group, "train_group", train_group)
    monkeypatch.setattr(training, "write_checkpoint", hold)
    monkeypatch.setattr(training, "LOG_EVERY", 5)
    out = tmp_path / "runs"
    process = child(lambda: run_sweep(runs, out, EVERY_STEP))
    wait_for((tmp_path / "holding").exists)
    yield process, out
    reaped(process)


def snapshot(out):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in out.rglob("*") if path.is_file()}


def test_a_running_sweep(in_the_second_group):
    process, out = in_the_second_group
    before = snapshot(out)
    found = sweep_status(out)
    assert snapshot(out) == before
    assert found["counts"] == {"done": 2, "running": 2, "stopped": 0, "failed": 0, "pending": 0}
    first, second = found["groups"]
    assert (first["state"], first["step"]) == ("done", first["steps"])
    steps = RunDirectory(out / second["first"]).steps
    assert (second["state"], second["step"], second["steps"]) == ("running", 10, steps)
    assert steps > 10
    assert found["writer"]["pid"] == process
    assert found["errors"] == []
    # The rest of the second group at the rate of the first: between a tenth and ten times what the first took.
    (ended,) = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines() if '"end"' in line]
    (works,) = [each.work for each in read_plan(out) if each.runs[0] == second["first"]]
    left = sum(train * (1 - 10 / steps) + evaluate for train, evaluate in works)
    assert found["seconds_left"] == pytest.approx(left * ended["seconds"] / ended["flops"], abs=0.06)
    text = status_text(found)
    assert f"written to by pid {process}" in text
    assert f"step 10 of {steps}" in text


def test_a_killed_sweep_goes_on_where_status_says(in_the_second_group, runs):
    process, out = in_the_second_group
    reaped(process)
    found = sweep_status(out)
    assert found["writer"] is None
    assert found["counts"]["stopped"] == 2
    assert found["groups"][1]["step"] == 10
    assert "goes on from step 10" in status_text(found)


def test_before_a_group_has_ended_the_rate_is_that_of_the_steps_so_far(runs, tmp_path, monkeypatch):
    original = training.write_checkpoint

    def hold(path, projectors, optimizer, step, sizes):
        original(path, projectors, optimizer, step, sizes)
        if step == 10:
            (tmp_path / "holding").touch()
            signal.pause()

    monkeypatch.setattr(training, "write_checkpoint", hold)
    monkeypatch.setattr(training, "LOG_EVERY", 5)
    process = child(lambda: run_sweep(runs, tmp_path / "runs", EVERY_STEP))
    try:
        wait_for((tmp_path / "holding").exists)
        found = sweep_status(tmp_path / "runs")
    finally:
        reaped(process)
    assert found["counts"] == {"done": 0, "running": 2, "stopped": 0, "failed": 0, "pending": 2}
    assert found["seconds_left"] > 0


def test_a_finished_sweep_with_failures(small_study, tmp_path):
    sweeps = [small_study.sweep(), small_study.sweep(**IMPOSSIBLE)]
    run_sweep(Sweep(runs=tuple(run for each in sweeps for run in each.runs)), tmp_path, Execution(device="cpu"))
    found = sweep_status(tmp_path)
    assert found["counts"] == {"done": 1, "running": 0, "stopped": 0, "failed": 1, "pending": 0}
    assert found["seconds_left"] == 0
    (failed,) = found["failed"]
    assert "more than the 4 hypernyms" in failed["reason"]
    text = status_text(found)
    assert f"failed: {failed['run']}: " in text
    assert "all that was planned is over; nobody works on it" in text
    assert "--retry-failed" in text


def test_what_stopped_a_sweep_is_shown(small_study, tmp_path):
    run_sweep(small_study.sweep(), tmp_path, Execution(device="cpu"))
    append_event(tmp_path, "error", message="the disk is full; make room")
    found = sweep_status(tmp_path)
    assert found["errors"] == ["the disk is full; make room"]
    assert "stopped by: the disk is full; make room" in status_text(found)


def test_a_folder_without_a_sweep_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no sweep has started there"):
        sweep_status(tmp_path)


def test_half_written_lines_are_not_read(small_study, tmp_path):
    (folder,) = run_sweep(small_study.sweep(), tmp_path, Execution(device="cpu"))
    (folder / "DONE").unlink()
    for name in ("timing.jsonl", f"{folder.name}/metrics.jsonl"):
        with (tmp_path / name).open("a") as handle:
            handle.write('{"event": "beg')
    assert sweep_status(tmp_path)["counts"]["stopped"] == 1


def test_the_lock_is_asked_and_not_taken(tmp_path):
    path = tmp_path / ".lock"
    assert lock_holder(path) is None
    reader, writer = os.pipe()

    def hold():
        with exclusive_lock(path, "sweep"):
            os.write(writer, b"x")
            signal.pause()

    process = child(hold)
    os.read(reader, 1)
    try:
        holder = lock_holder(path)
        assert holder["pid"] == process
        assert holder["host"] == os.uname().nodename
        assert 0 <= holder["seconds"] < 60
    finally:
        reaped(process)
    assert lock_holder(path) is None
    with exclusive_lock(path, "sweep"):
        pass


def test_status_imports_nothing_heavy():
    code = "import sys, engine.sweeps.status; print({'torch', 'transformers', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_damaged_run_is_not_done_and_hides_nobody(small_study, tmp_path):
    """Also one whose configuration cannot be read; the same command mends both, and status says so."""
    runs = small_study.sweep(run_seed=[1, 2, 3])
    first, second, third = run_sweep(runs, tmp_path, Execution(device="cpu", group_size=1))
    (first / "projector.safetensors").unlink()
    (second / "config.json").write_text("{}")
    status = sweep_status(tmp_path)
    assert (status["counts"]["done"], status["counts"]["stopped"]) == (1, 2)
    assert "evaluating" not in status_text(status).split(second.name)[0].splitlines()[-1]
    for file in third.iterdir():  # another run's files under its name
        shutil.copy2(file, first / file.name)
    assert sweep_status(tmp_path)["counts"]["done"] == 1
    run_sweep(runs, tmp_path, Execution(device="cpu", group_size=1))
    assert sweep_status(tmp_path)["counts"]["done"] == 3
