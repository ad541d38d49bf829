"""Full and read-only disks, inputs that vanish, second processes, clocks that jump, Ctrl-C: one line, nothing lost."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from few import few
from kill_commands import make_encoder, make_pictures
from kill_harness import ended, spawn
from run_folders import places_of, sweep_file
from small_study import SETTINGS, make_small_study

import cli
from cachegen.common.files import append_text
from cachegen.common.locks import exclusive_lock
from cachegen.encoders import Encoder
from cachegen.features.store import PENDING, FeatureStore
from engine.runs.directory import HASHED, RunDirectory
from engine.runs.planned import Execution
from engine.sweeps.executors.local import local
from engine.sweeps.plan_file import read_plan
from engine.sweeps.status import status_text, sweep_status
from engine.sweeps.sweep import run_sweep
from engine.sweeps.timing import append_event, checkpoint_step, read_events
from engine.training import group
from engine.training import loop as training

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the commands read: pictures and an encoder, a small study, a sweep file of two runs, a finished run."""
    home = tmp_path_factory.mktemp("inputs")
    make_pictures(home / "pictures")
    (home / "pictures" / "images" / "crow" / "4.png").unlink()
    make_encoder(home / "encoder")
    fields = {**places_of(make_small_study(home / "study")), **SETTINGS, "epochs": 1}
    sweep_file(home / "sweep.toml", fields, "[[grid]]\nrun_seed = [1, 2]")
    return home


def extracting(home, out):
    return ["extract", home / "pictures", "--encoder", home / "encoder", "--out", out / "f.h5", "--batch", 2]


def sweeping(home, out):
    return ["sweep", home / "sweep.toml", "--out", out / "runs", "--device", "cpu"]


def evaluating(home, out):
    return ["evaluate", home / "finished", "--out", out / "answers.parquet", "--device", "cpu"]


COMMANDS = {"extract": extracting, "sweep": sweeping, "evaluate": evaluating}


def crosstax_in_a_fork(words, log: Path, before: Callable[[], object] = lambda: None) -> tuple[int, list[str]]:
    """Exit code of the command, and the lines that it says; `before` prepares the fork."""

    def work():
        before()
        sys.argv = ["crosstax", *map(str, words)]
        cli.main()

    code = ended(spawn(work, log), log)
    return code, log.read_text().splitlines()


def results(out: Path) -> dict[str, bytes]:
    """Bytes of everything that counts below `out`."""
    wanted = [out / "f.h5", out / "answers.parquet", *(path for name in HASHED for path in out.glob(f"runs/*/{name}"))]
    return {str(path.relative_to(out)): path.read_bytes() for path in wanted if path.is_file()}


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """name -> results of a command that nothing befalls."""
    out = tmp_path_factory.mktemp("whole")
    found = {}
    for name, words in COMMANDS.items():
        (out / name).mkdir()
        code, lines = crosstax_in_a_fork(words(inputs, out / name), out / "log")
        assert code == 0, lines
        found[name] = results(out / name)
        assert found[name]
        if name == "sweep":
            shutil.copytree(next((out / name).glob("runs/*/DONE")).parent, inputs / "finished")
    return found


def one_line(code: int, lines: list[str]) -> str:
    """The error line of a command that ended as it should for what a user can mend."""
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == 2, "\n".join(lines)
    assert len(errors) == 1, lines
    listed = lines[lines.index(errors[0]) :]  # where there are several problems, each has a line below
    assert all(line.startswith("  ") for line in listed[1:]), lines
    assert "Traceback" not in "".join(lines)
    return "\n".join(listed)


# Disks


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ballast = path / "ballast"

    def fill(self, leave: int) -> None:
        """Leave so many bytes free."""
        self.ballast.unlink(missing_ok=True)
        size = shutil.disk_usage(self.path).free - leave
        with self.ballast.open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, max(1, size))

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True, text=True
        )
        reason = made.stderr.strip()
    except FileNotFoundError as error:
        made, reason = None, str(error)
    if made is None or made.returncode:
        pytest.skip(f"no file system can be mounted here: {reason}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def checkpoint_every_step():
    defaults = Execution.__init__.__defaults__
    assert defaults.count(60.0) == 1
    Execution.__init__.__defaults__ = tuple(0.0 if value == 60.0 else value for value in defaults)


@pytest.mark.parametrize("name", few(COMMANDS, "extract", "sweep"))
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(inputs, whole, disk, tmp_path, name):
    """Room comes bit by bit, so that the disk is full at ever later moments."""
    words, refused = COMMANDS[name](inputs, disk.path), 0
    for pages in (0, 1, 2, 4, 9, 20, 40, 80, 160, 480):
        disk.fill(leave=4096 * pages)
        code, lines = crosstax_in_a_fork(words, tmp_path / "log", checkpoint_every_step)
        if code == 0:
            break
        assert "make room" in one_line(code, lines)
        refused += 1
        assert not list(disk.path.rglob(".*.tmp"))
        done = [path.parent for path in disk.path.rglob("DONE")]
        assert all(RunDirectory(run).done for run in done)
    assert code == 0
    assert refused > 1
    assert results(disk.path) == whole[name]


@pytest.mark.parametrize("name", few(COMMANDS, "evaluate", "sweep"))
def test_a_read_only_disk_is_one_line(inputs, whole, disk, tmp_path, name):
    words = COMMANDS[name](inputs, disk.path)
    disk.remount("ro")
    assert "Read-only file system" in one_line(*crosstax_in_a_fork(words, tmp_path / "log"))
    disk.remount("rw")
    assert crosstax_in_a_fork(words, tmp_path / "log")[0] == 0
    assert results(disk.path) == whole[name]


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_finished_store_on_a_read_only_disk_needs_nothing(inputs, whole, disk, tmp_path, tasks):
    words = extracting(inputs, disk.path)
    assert crosstax_in_a_fork(words, tmp_path / "log")[0] == 0
    (disk.path / "f.h5.lock").unlink()
    for cache in (True, False):
        before = {path.name: path.stat().st_mtime_ns for path in disk.path.iterdir()}
        disk.remount("ro")
        code, lines = crosstax_in_a_fork([*words, "--tasks", tasks, "--json"], tmp_path / "log")
        disk.remount("rw")
        assert code == 0, lines
        assert json.loads(lines[-1])["pending"] == 0
        assert {path.name: path.stat().st_mtime_ns for path in disk.path.iterdir()} == before
        if cache:
            (disk.path / "f.h5.times").unlink()
    assert results(disk.path) == whole["extract"]


# Inputs that vanish


def killed_in_training(home, out, log):
    """A sweep with a checkpoint of its second step."""
    code, _ = crosstax_in_a_fork(sweeping(home, out), log, lambda: on_call(training, "step_loss", 3, signal.SIGINT))
    assert code == 130


def on_call(module, name, number, *signals):
    """Send this process signals when `module.name` is called for the `number`-th time."""
    original, calls = getattr(module, name), []

    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            for each in signals:
                os.kill(os.getpid(), each)
        return original(*args, **kwargs)

    setattr(module, name, wrapper)


@pytest.mark.parametrize("gone", few(["dataset", "features.h5", "lm"], "features.h5"))
def test_an_input_that_is_gone_is_named_and_restored(inputs, whole, tmp_path, gone):
    killed_in_training(inputs, tmp_path, tmp_path / "log")
    there, aside = inputs / "study" / gone, inputs / "study" / f"{gone}-aside"
    there.rename(aside)
    try:
        assert str(there) in one_line(*crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log"))
    finally:
        aside.rename(there)
    assert crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log")[0] == 0
    assert [event["from_step"] for event in read_events(tmp_path / "runs") if event["event"] == "begin"] == [0, 3]
    assert results(tmp_path) == whole["sweep"]


def test_images_that_vanish_during_extraction(inputs, whole, tmp_path):
    images, aside = inputs / "pictures" / "images" / "saw", inputs / "pictures" / "aside"

    def before():
        original = Encoder.__call__

        def vanish(self, pixels):
            if images.exists():
                images.rename(aside)
            return original(self, pixels)

        Encoder.__call__ = vanish

    words = extracting(inputs, tmp_path)
    try:
        message = one_line(*crosstax_in_a_fork(words, tmp_path / "log", before))
    finally:
        aside.rename(images)
    assert "cannot be read" in message
    assert str(images) in message
    assert crosstax_in_a_fork(words, tmp_path / "log")[0] == 0
    assert results(tmp_path) == whole["extract"]


def test_a_sweep_folder_that_vanishes_is_one_line(inputs, whole, tmp_path):
    def before():
        original = training.step_loss

        def vanish(*args):
            shutil.rmtree(tmp_path / "runs", ignore_errors=True)
            return original(*args)

        training.step_loss = vanish

    one_line(*crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log", before))
    assert crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log")[0] == 0
    assert results(tmp_path) == whole["sweep"]


def test_a_log_that_vanished_is_not_filled_with_zeros(inputs, whole, tmp_path):
    """As when somebody deletes the folder of one run, but not the checkpoint of its group."""
    killed_in_training(inputs, tmp_path, tmp_path / "log")
    (planned,) = read_plan(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / planned.runs[1])
    code, lines = crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log")
    assert code == 1
    assert sum("does not reach so far" in line and planned.runs[1] in line for line in lines) >= 1
    assert crosstax_in_a_fork([*sweeping(inputs, tmp_path), "--retry-failed"], tmp_path / "log")[0] == 0
    assert results(tmp_path) == whole["sweep"]


@pytest.mark.parametrize("how", few(["read-only", "another user's"], "another user's"))
def test_a_finished_sweep_in_a_folder_that_cannot_be_written_is_done(inputs, whole, disk, tmp_path, how):
    """Nothing is left to do, so that nothing is written; negative control: one more run is refused."""
    words = sweeping(inputs, disk.path)
    assert crosstax_in_a_fork(words, tmp_path / "log")[0] == 0
    before = results(disk.path)
    if how == "read-only":
        disk.remount("ro")
        code, lines = crosstax_in_a_fork(words, tmp_path / "log")
        more = [*words, "--set", "epochs=2"]
        assert "Read-only file system" in one_line(*crosstax_in_a_fork(more, tmp_path / "log2"))
    else:
        readable = [Path(folder) for folder in (tmp_path, *tmp_path.parents) if folder.stat().st_uid == os.getuid()]
        modes = {folder: folder.stat().st_mode for folder in {*readable, inputs}}
        for folder in modes:
            folder.chmod(modes[folder] | 0o555)
        subprocess.run(["chmod", "-R", "a+rX", str(inputs), str(disk.path)], check=True)
        try:
            code, lines = crosstax_in_a_fork(words, tmp_path / "log", lambda: os.setuid(65534))
        finally:
            for folder, mode in modes.items():
                folder.chmod(mode)
    assert (code, [line for line in lines if "2 runs done" in line] != []) == (0, True), lines
    assert results(disk.path) == before == whole["sweep"]


# Two processes


def test_a_second_process_is_refused_and_the_first_named(inputs, tmp_path):
    """On one sweep; tests/test_store.py has two on one store."""

    def hold():
        with exclusive_lock(tmp_path / "runs" / ".lock", "it"):
            (tmp_path / "held").touch()
            signal.pause()

    holder = spawn(hold, tmp_path / "holder.log")
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    try:
        message = one_line(*crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log"))
    finally:
        os.kill(holder, signal.SIGKILL)
        ended(holder, tmp_path / "holder.log")
    assert f"is being written by {os.uname().nodename} pid {holder}; wait for it or stop it" in message
    assert not results(tmp_path)


# Clocks


def test_a_clock_that_jumps_moves_nothing(inputs, whole, tmp_path):
    """Ten years ahead, then back before anything here was made, at every look."""

    def jumping():
        real, years = time.time, [10, -10, 3, -60]
        time.time = lambda: real() + 31556952 * years[int(real() * 1e4) % 4]

    killed_in_training(inputs, tmp_path, tmp_path / "log")
    for _ in range(2):
        code, lines = crosstax_in_a_fork(["status", tmp_path / "runs"], tmp_path / "log", jumping)
        assert (code, any("time left" in line or " left" in line for line in lines)) == (0, True)
    assert crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log", jumping)[0] == 0
    assert results(tmp_path) == whole["sweep"]
    assert sweep_status(tmp_path / "runs")["counts"]["done"] == 2


def test_status_of_a_clock_that_was_set_back(tmp_path, small_study):
    out = tmp_path / "runs"
    run_sweep(small_study.sweep(run_seed=[1]), out, CPU)
    shutil.rmtree(next(out.glob("*/DONE")).parent)
    (planned,) = read_plan(out)
    later = time.time() + 1e9
    with exclusive_lock(planned.lock(out), "it"):
        os.utime(planned.lock(out), (later, later))
        child = spawn(lambda: report_status(out), tmp_path / "log")
        assert ended(child, tmp_path / "log") == 0
    assert "-" not in (tmp_path / "log").read_text().split("pid")[0]


def report_status(out):
    found = sweep_status(out)
    assert all(each["holder"]["seconds"] >= 0 for each in found["groups"])
    assert found["seconds_left"] is None or found["seconds_left"] >= 0
    print(status_text(found).splitlines()[0].rpartition(":")[2])


# Ctrl-C and SIGTERM


@pytest.mark.parametrize(("sent", "code", "named"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_sweep_stops_at_a_checkpoint(inputs, whole, tmp_path, sent, code, named):
    words = sweeping(inputs, tmp_path)
    found, lines = crosstax_in_a_fork(words, tmp_path / "log", lambda: on_call(training, "step_loss", 2, sent))
    assert found == code
    assert lines == [f"stopped by {named}; to go on: crosstax {' '.join(map(str, words))}"]
    (planned,) = read_plan(tmp_path / "runs")
    assert checkpoint_step(planned.checkpoint(tmp_path / "runs")) == 2
    assert crosstax_in_a_fork(words, tmp_path / "log")[0] == 0
    assert [event["from_step"] for event in read_events(tmp_path / "runs") if event["event"] == "begin"] == [0, 2]
    assert results(tmp_path) == whole["sweep"]


def test_a_second_ctrl_c_stops_at_once(inputs, whole, tmp_path):
    words = sweeping(inputs, tmp_path)
    twice = (signal.SIGINT, signal.SIGTERM)
    found, _ = crosstax_in_a_fork(words, tmp_path / "log", lambda: on_call(training, "step_loss", 2, *twice))
    assert found in (130, 143)
    (planned,) = read_plan(tmp_path / "runs")
    assert checkpoint_step(planned.checkpoint(tmp_path / "runs")) == 0
    assert crosstax_in_a_fork(words, tmp_path / "log")[0] == 0
    assert results(tmp_path) == whole["sweep"]


def test_ctrl_c_during_the_evaluation_of_a_sweep_keeps_the_training(inputs, whole, tmp_path):
    words = sweeping(inputs, tmp_path)
    found, lines = crosstax_in_a_fork(words, tmp_path / "log", lambda: on_call(group, "evaluate", 2, signal.SIGINT))
    assert (found, len(lines)) == (130, 1)
    assert sweep_status(tmp_path / "runs")["counts"]["done"] == 1
    (planned,) = read_plan(tmp_path / "runs")
    steps = RunDirectory(tmp_path / "runs" / planned.runs[0]).steps
    assert checkpoint_step(planned.checkpoint(tmp_path / "runs")) == steps > 0
    assert crosstax_in_a_fork(words, tmp_path / "log")[0] == 0
    assert results(tmp_path) == whole["sweep"]


@pytest.mark.parametrize("number", few([1, 2, 4], 2))
def test_ctrl_c_during_extraction_keeps_what_is_encoded(inputs, whole, tmp_path, number):
    words = extracting(inputs, tmp_path)
    stop = lambda: on_call(Encoder, "__call__", number, signal.SIGINT)  # noqa: E731
    code, lines = crosstax_in_a_fork(words, tmp_path / "log", stop)
    assert code == 130
    assert lines[-1] == f"stopped by Ctrl-C; to go on: crosstax {' '.join(map(str, words))}"
    done = FeatureStore.open(tmp_path / "f.h5", allow_pending=True).done
    assert (done != PENDING).sum() >= 2 * (number - 1)
    assert (done == PENDING).any()
    assert crosstax_in_a_fork(words, tmp_path / "log")[0] == 0
    assert results(tmp_path) == whole["extract"]


def test_ctrl_c_during_evaluation_leaves_no_file(inputs, whole, tmp_path):
    from engine.training import evaluation

    words = evaluating(inputs, tmp_path)
    stop = lambda: on_call(evaluation, "prompt_row", 1, signal.SIGINT)  # noqa: E731
    code, lines = crosstax_in_a_fork(words, tmp_path / "log", stop)
    assert (code, len(lines)) == (130, 1)
    assert not results(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_ctrl_c_that_a_shell_ignores_stays_ignored(inputs, whole, tmp_path):
    """As for a job that a script starts with &."""

    def before():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        on_call(training, "step_loss", 2, signal.SIGINT)

    assert crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log", before)[0] == 0
    assert results(tmp_path) == whole["sweep"]


@pytest.mark.slow
def test_workers_do_not_outlive_a_sweep_that_is_killed(small_study, tmp_path):
    runs = small_study.sweep(run_seed=[1, 2], epochs=200)
    execution, log = Execution(device="cpu", group_size=1, max_tokens=4096), tmp_path / "log"
    parent = spawn(lambda: run_sweep(runs, tmp_path / "runs", execution, executor=local(workers=2)), log)
    until = time.monotonic() + 120
    while sum(path.stat().st_size > 0 for path in tmp_path.glob("runs/*/metrics.jsonl")) < 2:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    os.kill(parent, signal.SIGKILL)
    ended(parent, log)
    workers = [int(event["by"].split()[-1]) for event in read_events(tmp_path / "runs")]
    assert parent not in workers
    while any(Path(f"/proc/{worker}/stat").exists() for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert all(group.checkpoint(tmp_path / "runs").is_file() for group in read_plan(tmp_path / "runs"))


# What is done stays as it is


def interrupted_between_runs(sweep, out, log):
    """A sweep of one group that is killed when its first run is done; that run's folder."""

    def work():
        on_call(group, "evaluate", 2, signal.SIGKILL)
        run_sweep(sweep, out, CPU)

    assert ended(spawn(work, log), log) == -signal.SIGKILL
    (done,) = [path.parent for path in out.glob("*/DONE")]
    return done


def stamps(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_done_run_is_not_touched_when_its_group_goes_on_with_a_store_that_was_moved(small_study, tmp_path):
    runs = small_study.sweep(run_seed=[1, 2], epochs=1)
    done = interrupted_between_runs(runs, tmp_path / "runs", tmp_path / "log")
    before = stamps(done)
    moved = replace(small_study, features=shutil.copy(small_study.features, tmp_path / "moved.h5"))
    run_sweep(moved.sweep(run_seed=[1, 2], epochs=1), tmp_path / "runs", CPU)
    assert stamps(done) == before
    assert sweep_status(tmp_path / "runs")["counts"]["done"] == 2


def test_a_done_run_is_not_touched_when_its_group_is_trained_again(small_study, tmp_path):
    """Another run of its group was damaged; the done one takes part, for the other's bytes, and keeps its own."""
    first, second = run_sweep(small_study.sweep(run_seed=[1, 2], epochs=1), tmp_path, CPU)
    before, wanted = stamps(first), (second / "projector.safetensors").read_bytes()
    (second / "projector.safetensors").write_bytes(wanted[:-1])
    log = tmp_path.with_suffix(".log")

    def work():
        on_call(training, "write_checkpoint", 1, signal.SIGKILL)
        run_sweep(small_study.sweep(run_seed=[1, 2], epochs=1), tmp_path, CPU)

    assert ended(spawn(work, log), log) == -signal.SIGKILL
    assert stamps(first) == before
    run_sweep(small_study.sweep(run_seed=[1, 2], epochs=1), tmp_path, CPU)
    assert stamps(first) == before
    assert (second / "projector.safetensors").read_bytes() == wanted


def test_trying_failed_runs_again_and_dying_leaves_the_done_ones(small_study, tmp_path):
    runs = small_study.sweep(learning_rate=[3e-3, 1e30], epochs=1)
    folders = run_sweep(runs, tmp_path / "runs", CPU)
    (done,) = [folder for folder in folders if RunDirectory(folder).done]
    assert [RunDirectory(folder).failed for folder in folders].count(True) == 1
    before, log = stamps(done), tmp_path / "log"

    def work():
        on_call(RunDirectory, "forget_failure", 1, signal.SIGKILL)
        run_sweep(runs, tmp_path / "runs", CPU, retry_failed=True)

    assert ended(spawn(work, log), log) == -signal.SIGKILL
    run_sweep(runs, tmp_path / "runs", CPU, retry_failed=True)
    assert stamps(done) == before
    assert sweep_status(tmp_path / "runs")["counts"]["failed"] == 1


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path):
    append_event(tmp_path, "begin", group="a")
    with (tmp_path / "timing.jsonl").open("a") as handle:
        handle.write('{"event": "en')
    append_event(tmp_path, "end", group="a")
    append_event(tmp_path, "begin", group="b")
    assert [event["event"] for event in read_events(tmp_path)] == ["begin", "end", "begin"]
    size = append_text(tmp_path / "timing.jsonl", "")
    assert size == (tmp_path / "timing.jsonl").stat().st_size


def test_negative_control_without_the_hold_ctrl_c_saves_nothing(inputs, tmp_path):
    def before():
        group.held_signals = contextlib.contextmanager(lambda: (yield training.HeldSignals()))
        on_call(training, "step_loss", 2, signal.SIGINT)

    assert crosstax_in_a_fork(sweeping(inputs, tmp_path), tmp_path / "log", before)[0] == 130
    (planned,) = read_plan(tmp_path / "runs")
    assert checkpoint_step(planned.checkpoint(tmp_path / "runs")) == 0
