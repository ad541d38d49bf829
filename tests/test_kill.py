"""Whatever is killed (-9), however often and wherever, loses nothing that was done and ends in the same bytes."""

import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kill_commands import evaluation, extraction, make_encoder, make_pictures, sweep, tune
from kill_harness import Command, Kill, count_points, points, random_times, survives

from cachegen.common.errors import CrosstaxError
from cachegen.features.store import DONE
from cachegen.features.writer import StoreWriter
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep
from engine.sweeps.tune.table import TuneTable

COMMANDS = ("extraction", "sweep", "tune", "evaluation")
TUNE = {"trials": 3, "batch": 2, "sampler": "random", "space": {"learning_rate": {"low": 1e-4, "high": 1e-2}}}
SEED = 6

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def commands(small_study, tmp_path_factory) -> dict[str, Command]:
    home = tmp_path_factory.mktemp("commands")
    finished = run_sweep(small_study.sweep(), home / "finished", Execution(device="cpu"))[0]
    runs = small_study.sweep(run_seed=[1, 2, 3], epochs=1, batch=96)
    pictures = extraction(make_pictures(home / "pictures"), make_encoder(home / "encoder"))
    study = tune(
        TuneTable.model_validate(TUNE), lambda params: small_study.sweep(ablation=50, epochs=1, batch=96, **params)
    )
    return {command.name: command for command in (pictures, sweep(runs), study, evaluation(finished))}


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody kills."""

    points: int
    seconds: float
    final: dict[str, Any]


def watch(command: Command, home: Path) -> Undisturbed:
    (home / "runs").mkdir()
    began = time.monotonic()
    number = count_points(lambda: command.run(home / "runs"), home / "log")
    seconds = time.monotonic() - began
    final = command.final(home / "runs")
    assert final
    return Undisturbed(number, seconds, final)


@pytest.fixture(scope="module")
def undisturbed(commands, tmp_path_factory) -> dict[str, Undisturbed]:
    return {name: watch(command, tmp_path_factory.mktemp(name)) for name, command in commands.items()}


def same_end(command: Command, folder: Path, kills: list[Kill], final: dict[str, Any]) -> int:
    """How many kills the command met; at the end it has the bytes of a run that nobody killed."""
    met = survives(command, folder, kills)
    assert command.final(folder) == final
    return met


def spread(number: int, count: int) -> list[int]:
    """`count` of the points 1 to `number`, from the first to the last."""
    return [1 + step * (number - 1) // (count - 1) for step in range(count)]


@pytest.mark.parametrize(("name", "count"), [("extraction", 3), ("sweep", 3), ("tune", 2), ("evaluation", 2)])
def test_killed_between_steps_on_the_file_system(commands, undisturbed, tmp_path, name, count):
    known = undisturbed[name]
    for point in spread(known.points, count):
        assert same_end(commands[name], tmp_path / str(point), points([point]), known.final) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(commands, undisturbed, tmp_path, name):
    known = undisturbed[name]
    kills = random_times(random.Random(f"{SEED} {name}"), known.seconds)
    same_end(commands[name], tmp_path / "killed", kills, known.final)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_every_point(commands, undisturbed, tmp_path, name):
    """Each point once, and the run that goes on from it again at a point that is drawn."""
    known, rng = undisturbed[name], random.Random(f"{SEED} every {name}")
    for point in range(1, known.points + 1):
        again = rng.randint(1, known.points)
        assert same_end(commands[name], tmp_path / str(point), points([point, again]), known.final) > 0
        shutil.rmtree(tmp_path / str(point))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_many_random_moments(commands, undisturbed, tmp_path, name):
    known, rng = undisturbed[name], random.Random(f"{SEED} many {name}")
    kills = [random_times(rng, known.seconds) for _ in range(40)]
    met = sum(same_end(commands[name], tmp_path / str(i), each, known.final) for i, each in enumerate(kills))
    assert met > 20


# Negative controls: the harness finds what loses work.


def replaced_by_halves(self: Path, target: Path) -> None:
    """A rename that is a copy: what was there is gone before the new content is."""
    content = self.read_bytes()
    with Path(target).open("wb") as handle:
        handle.write(content[: len(content) // 2])
        handle.flush()
        os.fsync(handle.fileno())  # a point, and so a moment to die
        handle.write(content[len(content) // 2 :])
    self.unlink()


def flags_first(self: StoreWriter, start: int, features: Sequence[np.ndarray], reasons: dict[int, str]) -> None:
    """Rows that are marked as done before they are there."""
    self._pwrite("done", start, np.full(len(features[0]), DONE, np.uint8))
    WRITE(self, start, features, reasons)


WRITE = StoreWriter.write


@pytest.mark.parametrize(
    ("name", "owner", "method", "broken"),
    [("sweep", Path, "replace", replaced_by_halves), ("extraction", StoreWriter, "write", flags_first)],
)
def test_negative_control_a_broken_writer_is_found(
    commands, undisturbed, tmp_path, monkeypatch, name, owner, method, broken
):
    monkeypatch.setattr(owner, method, broken)
    with pytest.raises((AssertionError, CrosstaxError)):
        same_end(commands[name], tmp_path / "killed", points(range(1, 80)), undisturbed[name].final)
