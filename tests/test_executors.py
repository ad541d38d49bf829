"""Executors: the same bytes wherever the groups are carried out, nothing twice, and nothing lost when some die."""

import builtins
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace

import pytest
import torch
from real_slurm import slurm_of_one_node
from run_folders import begun, bytes_in, wait_for
from small_study import make_small_study

from cachegen.common.errors import ConditionError
from engine.runs.directory import HASHED, RunDirectory
from engine.runs.planned import Execution
from engine.sweeps import task as task_module
from engine.sweeps.executors import choose_executor, run_elsewhere, sbatch_options
from engine.sweeps.executors.local import local, visible_gpus
from engine.sweeps.plan_file import plan_lock, read_plan
from engine.sweeps.status import status_text, sweep_status
from engine.sweeps.sweep import run_sweep
from engine.sweeps.timing import read_events

PAIRS = Execution(device="cpu", group_size=1)
EVERY_STEP = replace(PAIRS, checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def runs(small_study):
    """Two groups of one run."""
    return small_study.sweep(run_seed=[1, 2])


@pytest.fixture(scope="module")
def reference(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference")
    run_sweep(runs, out, PAIRS)
    found = bytes_in(out)
    assert len(found) == 2 * (len(HASHED) + 1)
    return found


@pytest.fixture(scope="module")
def long_runs(small_study):
    """Two groups that take seconds each."""
    return small_study.sweep(run_seed=[1, 2], epochs=20)


@pytest.fixture(scope="module")
def long_reference(long_runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("long")
    run_sweep(long_runs, out, PAIRS)
    return bytes_in(out)


def planned(runs, out, execution=PAIRS):
    """Tasks of a sweep that is planned and not carried out."""
    tasks = []
    run_sweep(runs, out, execution, executor=tasks.extend)
    return tasks


# Tasks


def test_a_task_is_carried_out_once(runs, reference, tmp_path, monkeypatch):
    first, second = planned(runs, tmp_path)
    run_elsewhere(first, patience=0)
    run_elsewhere(second, patience=0)
    assert bytes_in(tmp_path) == reference
    with monkeypatch.context() as patch:
        patch.setattr(task_module, "run_group", lambda *args: pytest.fail("went on"))
        run_elsewhere(first, patience=0)
    assert len(begun(tmp_path)) == 2


def held_by_a_child(out, group):
    """A process that holds a group until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with group.held(out):
            os.write(writer, b"x")
            signal.pause()
    os.read(reader, 1)
    return child


def test_a_group_that_is_held_is_left_alone_and_seen(runs, reference, tmp_path, capsys):
    first, second = planned(runs, tmp_path)
    child = held_by_a_child(tmp_path, first.group)
    try:
        run_elsewhere(first, patience=0)
        assert f"pid {child}" in capsys.readouterr().err
        assert begun(tmp_path) == []
        found = sweep_status(tmp_path)
        assert [group["state"] for group in found["groups"]] == ["running", "pending"]
        assert found["groups"][0]["holder"]["pid"] == child
        assert "worked on by 1 processes" in status_text(found)
        # Another sweep leaves the group its own, though it has no checkpoint yet, and does the rest.
        (other,) = planned(runs, tmp_path, replace(PAIRS, group_size=2))[1:]
        assert [group.runs for group in read_plan(tmp_path)] == [first.group.runs, second.group.runs]
        run_elsewhere(other, patience=0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run_elsewhere(first, patience=0)
    assert bytes_in(tmp_path) == reference


def test_who_died_holding_a_group_is_waited_for(runs, tmp_path):
    first = planned(runs, tmp_path)[0]
    child = held_by_a_child(tmp_path, first.group)
    killer = os.fork()
    if killer == 0:
        time.sleep(1)
        os.kill(child, signal.SIGKILL)
        os._exit(0)
    run_elsewhere(first, patience=60)
    assert all(RunDirectory(tmp_path / run).done for run in first.group.runs)
    for process in (child, killer):
        os.waitpid(process, 0)


def test_a_task_follows_the_plan_as_it_is_now(small_study, tmp_path):
    """A group that was split, by an attempt that has died since, is carried out whole; one that is gone is not."""
    (task,) = planned(small_study.sweep(run_seed=[1, 2]), tmp_path, Execution(device="cpu"))
    (again, _) = planned(small_study.sweep(run_seed=[1, 2]), tmp_path, PAIRS)
    run_elsewhere(task, patience=0)
    assert [len(group.runs) for group in read_plan(tmp_path)] == [1, 1]
    assert all(RunDirectory(tmp_path / run).done for run in task.group.runs)
    (tmp_path / "plan.json").unlink()
    shutil.rmtree(tmp_path / again.group.runs[0])
    run_elsewhere(again, patience=0)
    assert not (tmp_path / again.group.runs[0]).exists()


def test_inputs_that_changed_since_submission_are_refused(tmp_path):
    study = make_small_study(tmp_path / "study")
    first = planned(study.sweep(run_seed=[1]), tmp_path / "runs")[0]
    taxonomy = study.dataset / "taxonomy.csv"
    taxonomy.write_text(taxonomy.read_text().replace("a hammer", "a mallet"))
    run_elsewhere(first, patience=0)
    assert "have changed since it was submitted" in RunDirectory(tmp_path / "runs" / first.name).reason
    assert begun(tmp_path / "runs") == []


def test_the_plan_stands_still_while_it_is_held(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with plan_lock(tmp_path):
            os.write(writer, b"x")
            time.sleep(0.5)
            (tmp_path / "released").touch()
        os._exit(0)
    os.read(reader, 1)
    with plan_lock(tmp_path):
        assert (tmp_path / "released").exists()
    os.waitpid(child, 0)


# This machine


@pytest.mark.slow
def test_two_workers(runs, reference, tmp_path):
    run_sweep(runs, tmp_path, PAIRS, executor=local(workers=2))
    assert bytes_in(tmp_path) == reference
    workers = [event["by"] for event in begun(tmp_path)]
    assert len(workers) == 2
    assert f"{socket.gethostname()} pid {os.getpid()}" not in workers


@pytest.mark.slow
def test_inputs_that_are_gone_fail_their_runs_in_a_worker(tmp_path):
    study = make_small_study(tmp_path / "study")
    tasks = planned(study.sweep(run_seed=[1, 2]), tmp_path / "runs")
    study.features.unlink()
    local(workers=2)(tasks)
    reasons = [RunDirectory(tmp_path / "runs" / task.name).reason for task in tasks]
    assert all("no feature store there" in reason for reason in reasons)


def test_gpus_are_those_that_can_be_seen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus("auto") == ["0", "1", "2"]
    assert visible_gpus("cuda:1") == visible_gpus("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5f,7")
    assert visible_gpus("cuda") == ["GPU-5f", "7"]


# Choice and options


def test_options_are_checked():
    assert sbatch_options(["partition=gpu", "signal-delay-s=30"]) == {"partition": "gpu", "signal_delay_s": "30"}
    wrong = [("local", ["a=b"]), ("slurm", ["partition"]), ("slurm", None, None, 3), ("slurm", None, "head:6379")]
    for words in [*wrong, ("cloud",)]:
        with pytest.raises(ConditionError):
            choose_executor(*words)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit")])
def test_an_extra_that_is_not_installed_is_named(monkeypatch, name, package):
    original = builtins.__import__

    def without(module, *args, **kwargs):
        if module == package:
            raise ImportError
        return original(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConditionError, match=rf"needs {package}; pip install 'crosstax\[{name}\]'"):
        choose_executor(name)


# Slurm, through submitit


@pytest.fixture
def submitit():
    return pytest.importorskip("submitit", reason="the extra crosstax[slurm] is not installed")


def test_slurm_without_a_cluster(submitit, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConditionError, match="slurm: "):
        run_sweep(runs, tmp_path, PAIRS, executor=choose_executor("slurm"))


def test_an_option_that_slurm_does_not_have(submitit, runs, tmp_path):
    from engine.sweeps.executors.slurm import slurm

    with pytest.raises(ConditionError, match="Unknown argument 'partitoin'"):
        run_sweep(runs, tmp_path, PAIRS, executor=slurm({"partitoin": "gpu"}, cluster="debug"))


def test_submitit_in_this_process(submitit, runs, reference, tmp_path):
    from engine.sweeps.executors.slurm import slurm

    run_sweep(runs, tmp_path, PAIRS, executor=slurm({"partition": "gpu"}, wait=True, cluster="debug"))
    assert bytes_in(tmp_path) == reference


@pytest.mark.slow
def test_a_job_that_is_interrupted_goes_on_from_its_checkpoint(submitit, long_runs, long_reference, tmp_path):
    """Submitit's processes on this machine, one told that its time is up as Slurm tells it."""
    from engine.sweeps.executors.slurm import slurm

    run_sweep(long_runs, tmp_path, EVERY_STEP, executor=slurm({}, cluster="local"))
    submitted = [event for event in read_events(tmp_path) if event["event"] == "submitted"]
    assert [group["job"] for group in sweep_status(tmp_path)["groups"]] == [event["job"] for event in submitted]
    interrupted = tmp_path / f"{submitted[0]['group']}.checkpoint.safetensors"
    wait_for(interrupted.exists)
    (worker,) = [int(event["by"].split()[-1]) for event in begun(tmp_path) if event["group"] == submitted[0]["group"]]
    os.kill(worker, signal.SIGUSR2)
    wait_for(lambda: sweep_status(tmp_path)["counts"]["done"] == 2)
    assert bytes_in(tmp_path) == long_reference
    starts = [event["from_step"] for event in begun(tmp_path) if event["group"] == submitted[0]["group"]]
    assert starts[0] == 0 < starts[1]
    assert all((tmp_path / event["log"]).is_file() for event in submitted)


@pytest.fixture
def slurm_cluster(tmp_path, monkeypatch):
    yield from slurm_of_one_node(tmp_path / "slurm", monkeypatch)


@pytest.mark.slow
def test_a_real_slurm(submitit, slurm_cluster, long_runs, long_reference, tmp_path):
    """A job array; one of its jobs is told that its time is up, waits in the queue again, and goes on."""
    from engine.sweeps.executors.slurm import slurm

    out = tmp_path / "runs"
    run_sweep(long_runs, out, EVERY_STEP, executor=slurm({"partition": "main", "time": "10"}))
    first, second = [event for event in read_events(out) if event["event"] == "submitted"]
    assert first["job"].split("_")[0] == second["job"].split("_")[0]
    wait_for((out / f"{first['group']}.checkpoint.safetensors").exists)
    assert first["job"] in status_text(sweep_status(out))
    subprocess.run(["scancel", "--signal", "USR2", first["job"]], check=True)
    wait_for(lambda: sweep_status(out)["counts"]["done"] == 2, seconds=400)
    assert bytes_in(out) == long_reference
    starts = [event["from_step"] for event in begun(out) if event["group"] == first["group"]]
    assert starts[0] == 0 < starts[1]
    assert all((out / event["log"]).is_file() for event in (first, second))


@pytest.mark.slow
def test_slurms_own_clock(submitit, slurm_cluster, small_study, tmp_path):
    """Three minutes are too short, and Slurm says so: the job goes on from its checkpoint until it is done."""
    from engine.sweeps.executors.slurm import slurm

    runs = small_study.sweep(run_seed=[1], epochs=600)
    run_sweep(runs, tmp_path / "reference", PAIRS)
    # Slurm tells a job a minute before its end, or up to a minute before that: Python has started by then.
    options = {"partition": "main", "time": "3", "signal_delay_s": "60"}
    run_sweep(runs, tmp_path / "runs", EVERY_STEP, executor=slurm(options))
    wait_for(lambda: sweep_status(tmp_path / "runs")["counts"]["done"] == 1, seconds=900)
    assert bytes_in(tmp_path / "runs") == bytes_in(tmp_path / "reference")
    starts = [event["from_step"] for event in begun(tmp_path / "runs")]
    assert len(starts) > 1
    assert starts == sorted(set(starts))
