"""Fixtures shared by all tests: one thread, and one small study that nobody may change.

Heavy imports stand inside of them: the process that only hands out the tests reads this file too, before all others.
"""

import fcntl
import gc
import os
import signal
import sys

# Before torch and numpy start their pools: threads must not spin or wait while another process needs the core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that they stop with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples everywhere, however slow the machine.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")


# Files that run whole studies, many commands or figures: `--quick` (of `make quick`) leaves them out.
LONG = """
    all_families ask bad_input_data bad_input_runs bench cli compiled containment contrasts curves demo docs
    every_encoder executors export extract extraction_tasks fake_gpu figures fuzz item_model items kill lens
    lm_families lm_folders lm_views microworld moved_runs offline own_dataset own_models own_tables page
    page_browser presets probe ray real_demo reanalyze reliability replicate report resume same_bytes same_pictures
    surroundings sweep system things tracking transfer tune_runs wheel yardsticks
"""


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="only tests that take moments each")


def pytest_ignore_collect(collection_path, config):
    return True if config.option.quick and collection_path.stem.removeprefix("test_") in LONG.split() else None


# A process takes whole files: those that take longest are begun first, so that all processes end together.
FIRST = """
    demo replicate figures docs reliability compiled report reanalyze containment kill fake_gpu own_tables sweep
    moved_runs all_families curves tune_runs resume lens yardsticks contrasts pictures every_encoder training
    export lm_families probe cli microworld own_models presets bench prefix_sharing tracking transfer naming
    bad_input_runs
"""


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(FIRST.split())}
    items.sort(key=lambda item: place.get(item.path.stem.removeprefix("test_"), len(place)))


gc.disable()  # nothing that is imported while tests are collected is garbage


def pytest_collection_finish():
    gc.freeze()  # modules are not looked through again and again
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """What a killed process has written stays with the system, and no test pulls the plug.

    A descriptor that is closed is still an error.
    """

    def looked_at(file):
        os.fstat(file if isinstance(file, int) else file.fileno())

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, looked_at, raising=False)  # macOS has no fdatasync
        yield


@pytest.fixture(scope="session", autouse=True)
def _svg_only():
    """PDF and PNG take a third of a report's time; only `test_figures.py`, which looks at them, has them drawn."""
    from analysis.figures.style import Drawn

    with pytest.MonkeyPatch.context() as patch:
        for kind in ("pdf", "png"):
            patch.setattr(Drawn, kind, lambda _, kind=kind: f"a {kind} that no test looks at".encode())
        yield


@pytest.fixture
def no_models(monkeypatch):
    """Mixed models and models of answers take half of a report's time; tests of its other parts do without."""
    import pandas as pd

    from analysis import study
    from analysis.statistics.item_model import COLUMNS

    monkeypatch.setattr(study, "fit_models", lambda *_: [])
    monkeypatch.setattr(study, "item_table", lambda *_: pd.DataFrame(columns=COLUMNS))


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """Dataset, features and LM with random contents: quick to train on, with nothing to learn."""
    from small_study import make_small_study

    return make_small_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Fill a folder of that name once for all processes of this test session; nobody may change it afterwards."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name, fill):
        place, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the session may be filling it
            if not done.exists():
                place.mkdir()
                fill(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def sound_study(once):
    """A study from pictures to a finished run, of which tests break copies (see `bad_input`)."""
    from bad_input.study import make_sound_study

    return once("sound", make_sound_study)


@pytest.fixture(scope="session")
def picture_run(once):
    """A run over extracted pictures, by a tiny DINOv2 and a tiny LM that lie beside its folder of runs."""
    from picture_study import save_encoder, train_run, write_lm

    root = once("pictures", lambda r: train_run(r, save_encoder("dinov2", "hf", r / "encoder"), write_lm(r / "lm")))
    return next((root / "runs").glob("*/DONE")).parent


@pytest.fixture(scope="session")
def world_cache(once):
    """The one cache of worlds of this test session, in all of its processes."""
    return once("worlds", lambda _: None)


@pytest.fixture(scope="session")
def smoke_world(once, world_cache):
    """The smoke world of seed 0."""
    from cachegen.microworld.world import build_world

    once("smoke", lambda _: build_world("smoke", 0, world_cache))
    return build_world("smoke", 0, world_cache)


@pytest.fixture
def crosstax(monkeypatch, capsys):
    """Run the command; returns (exit code, stdout, stderr)."""
    import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["crosstax", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run
