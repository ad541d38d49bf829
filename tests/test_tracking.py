"""Trackers show what `metrics.jsonl` holds, once and whole, also after a kill, and move no byte of a run."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
from few import few
from run_folders import all_bytes, kill_on_call, killed

from cachegen.common.errors import ConditionError
from engine.runs.planned import Execution
from engine.sweeps.executors.local import local
from engine.sweeps.sweep import run_sweep
from engine.training import loop as training
from engine.training import tracking

BOTH = ("tensorboard", "wandb")


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """No account, no choice of mode, and a home that holds neither."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))


@pytest.fixture(scope="module")
def runs(small_study):
    """Two runs in lockstep, of different length."""
    return small_study.sweep(epochs=[1, 2])


@pytest.fixture(scope="module")
def untracked(runs, tmp_path_factory):
    return all_bytes(run_sweep(runs, tmp_path_factory.mktemp("untracked"), execution()))


def execution(*track, seconds=60.0):
    return Execution(device="cpu", checkpoint_seconds=seconds, track=track)


def saved(folder):
    """(name, step) -> value of a run's own log."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    curves = {(name, line["step"]): line[name] for line in lines for name in ("loss", "lr", "grad_norm")}
    assert len(curves) > 3
    return curves


def shown_by_tensorboard(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder.parent / "tensorboard" / folder.name), {"scalars": 0}).Reload()
    found = [(name, event.step, event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name)]
    assert len({(name, step) for name, step, _ in found}) == len(found)  # no step twice
    return {(name.removeprefix("train/"), step): value for name, step, value in found}


def wandb_records(folder):
    """Every record of the one offline run of a folder: its file is a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (folder.parent / "wandb" / folder.name).glob("wandb/offline-run-*/*.wandb")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, whole, records = 7, b"", []
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:  # a block's end, too short for another header
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last piece
            records.append(Record.FromString(whole))
            whole = b""
    return records


def shown_by_wandb(folder):
    found = []
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if name.startswith("train/"):
                    step = record.history.step.num
                    found.append((name.removeprefix("train/"), step, json.loads(item.value_json)))
    assert len({(name, step) for name, step, _ in found}) == len(found)
    return {(name, step): value for name, step, value in found}


def float32(curves):
    return {key: struct.unpack("f", struct.pack("f", value))[0] for key, value in curves.items()}


def test_both_show_what_is_saved_and_move_no_byte(runs, untracked, tmp_path):
    """Stopped in the middle of training and resumed in the same process, for W&B as much as for TensorBoard."""
    for name in BOTH:
        pytest.importorskip(name)
    folders = stopped_and_resumed(runs, tmp_path, execution(*BOTH, seconds=0.0))
    assert all_bytes(folders) == untracked
    assert len(saved(folders[0])) < len(saved(folders[1]))
    for folder in folders:
        assert shown_by_tensorboard(folder) == float32(saved(folder))
        assert shown_by_wandb(folder) == saved(folder)
    started = next(record.run for record in wandb_records(folders[0]) if record.WhichOneof("record_type") == "run")
    assert (started.display_name, started.project) == (folders[0].name, "crosstax")
    kinds = {record.WhichOneof("record_type") for record in wandb_records(folders[0])}
    assert not kinds & {"stats", "output", "output_raw"}  # neither this machine nor its console


def stopped_and_resumed(runs, out, how):
    """The run directories of a sweep that Ctrl-C ended after six steps."""
    plain, calls = training.write_checkpoint, iter(range(99))

    def interrupted(*args):
        plain(*args)
        if next(calls) == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(runs, out, how)
    assert len(list((out / "tensorboard").glob("*/events*"))) == 2
    return run_sweep(runs, out, how)


def test_killed_and_resumed_shows_each_step_once(runs, tmp_path, monkeypatch):
    """SIGKILL when steps are shown that no checkpoint has: they are cut from the log, and trained and shown again."""
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as patch:
        patch.setattr(training, "LOG_EVERY", 2)
        kill_on_call(patch, training, "_write_log", 5)
        killed(lambda: run_sweep(runs, tmp_path, execution("tensorboard")))
    (before,) = {len(list(folder.iterdir())) for folder in (tmp_path / "tensorboard").iterdir()}
    assert before == 1
    begun = [path.parent for path in tmp_path.glob("*/metrics.jsonl")]
    assert [{step for _, step in shown_by_tensorboard(folder)} for folder in begun] == [set(range(8))] * 2
    for folder in run_sweep(runs, tmp_path, execution("tensorboard")):
        assert shown_by_tensorboard(folder) == float32(saved(folder))


def test_what_was_trained_is_shown_when_only_evaluation_is_left(runs, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from engine.training import group

    with monkeypatch.context() as patch:
        patch.setattr(group, "evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_sweep(runs, tmp_path, execution())
    for folder in run_sweep(runs, tmp_path, execution("tensorboard")):
        assert shown_by_tensorboard(folder) == float32(saved(folder))


def test_a_tracker_that_cannot_begin_stops_nothing_and_is_said_once(runs, untracked, tmp_path, capfd):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    assert all_bytes(run_sweep(runs, tmp_path, execution("tensorboard"))) == untracked
    assert capfd.readouterr().err.count("tensorboard stopped (") == 1


@pytest.mark.parametrize("method", few(["log", "flush", "close"], "log"))
def test_a_tracker_that_fails_later_is_dropped_and_others_go_on(runs, untracked, tmp_path, monkeypatch, capfd, method):
    pytest.importorskip("tensorboard")

    class Failing(tracking.Tracker):
        pass

    def fail(*_):
        raise RuntimeError("the server\nis away")

    setattr(Failing, method, fail)
    monkeypatch.setitem(tracking._OPEN, "wandb", lambda _: Failing())
    folders = run_sweep(runs, tmp_path, execution("wandb", "tensorboard"))
    assert all_bytes(folders) == untracked
    said = capfd.readouterr().err
    assert said.count("wandb stopped (the server is away); training goes on, metrics.jsonl has everything") == 1
    for folder in folders:
        assert shown_by_tensorboard(folder) == float32(saved(folder))


def test_values_that_are_not_finite_are_left_out(tmp_path):
    from engine.runs.directory import RunDirectory

    pytest.importorskip("tensorboard")
    directory = RunDirectory(tmp_path / "sweep" / "run")
    directory.path.mkdir(parents=True)
    with tracking.tracking(("tensorboard",), [directory]) as logged:
        for step, loss in enumerate([1.0, float("nan"), 0.5]):
            directory.append_metrics([{"step": step, "loss": loss, "lr": 0.25}])
            logged()
    expected = {("loss", 0): 1.0, ("loss", 2): 0.5} | {("lr", step): 0.25 for step in range(3)}
    assert shown_by_tensorboard(directory.path) == expected


def test_wandb_online_without_an_account_asks_nothing(runs, untracked, tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert all_bytes(run_sweep(runs, tmp_path, execution("wandb"))) == untracked
    assert "wandb stopped (not logged in; run `wandb login`, or leave WANDB_MODE unset)" in capfd.readouterr().err
    assert not list((tmp_path / "wandb").glob("*/wandb/*"))


@pytest.mark.parametrize("name", BOTH)
def test_a_missing_package_is_named_with_its_extra_before_anything_is_made(runs, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConditionError, match=rf"--track {name} needs .*pip install 'crosstax\[{name}\]'"):
        run_sweep(runs, tmp_path / "out", execution(name))
    assert not (tmp_path / "out").exists()


def test_an_unknown_tracker_is_refused(runs, tmp_path):
    with pytest.raises(ConditionError, match="no tracker 'mlflow'; choose one of tensorboard, wandb"):
        run_sweep(runs, tmp_path, execution("mlflow"))


@pytest.mark.slow
def test_worker_processes_track_too(runs, tmp_path):
    for name in BOTH:
        pytest.importorskip(name)
    how = Execution(device="cpu", group_size=1, track=BOTH)
    for folder in run_sweep(runs, tmp_path, how, executor=local(2)):
        assert shown_by_tensorboard(folder) == float32(saved(folder))
        assert shown_by_wandb(Path(folder)) == saved(folder)
