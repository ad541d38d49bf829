"""What a user's machine brings along: locale, streams, home, umask, file systems, terminals; and progress in a log."""

import errno
import fcntl
import itertools
import json
import multiprocessing
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_study import SETTINGS

from cachegen.common import files, progress
from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.files import default_cache, digest_file, give_own_modes, read_json, remedy_of, write_json
from cachegen.common.locks import exclusive_lock
from cachegen.microworld import world as worlds
from cachegen.microworld.world import World, build_world
from commands.process import with_home

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "import cli; cli.main()"]
HOSTILE = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "COLUMNS": "0",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "TMPDIR": "/nowhere",
    "MPLCONFIGDIR": "/proc/nowhere",
    "HOME": "/proc/nowhere",
}
MATPLOTLIBRC = "text.usetex: True\nfont.size: 20\nsavefig.bbox: tight\nbackend: nonsense\naxes.facecolor: red\n"


def accented(root: Path) -> Path:
    rows = ["leaf,leaf_phrase,number,hypernym,hypernym_phrase"]
    for leaf, kind in (("caf\u00e9", "place"), ("\u00f6de", "place"), ("axe", "tool"), ("saw", "tool")):
        rows.append(f"{leaf},a {leaf},singular,{kind},a {kind}")
        (root / "images" / leaf).mkdir(parents=True)
        for number in range(4):
            (root / "images" / leaf / f"{number}.jpg").write_bytes(b"x")
    (root / "taxonomy.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def command(folder: Path, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(
        [*COMMAND, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_tables_and_figures_are_the_same_in_hostile_surroundings(tmp_path: Path) -> None:
    accented(tmp_path / "data")
    (tmp_path / "matplotlibrc").write_text(MATPLOTLIBRC)
    words = ["stats", "data", "--json", "--out"]
    plain = command(tmp_path, *words, "plain", MATPLOTLIBRC="/dev/null")
    hostile = command(tmp_path, *words, "hostile", **HOSTILE)
    assert (plain.returncode, hostile.returncode) == (0, 0), plain.stderr + hostile.stderr
    assert json.loads(hostile.stdout) == json.loads(plain.stdout)
    files = files_of(tmp_path / "plain")
    assert {name.rpartition(".")[2] for name in files} >= {"svg", "pdf", "png", "csv"}
    assert files_of(tmp_path / "hostile") == files


def test_closed_streams_lose_nothing(tmp_path: Path) -> None:
    accented(tmp_path / "data")
    line = f"'{sys.executable}' -c 'import cli; cli.main()'"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def shell(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = shell(f"{line} stats data --json --out out 2>&-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["dataset"] == "data"  # and nothing of what was meant for stderr
    assert (tmp_path / "out" / "hypernyms_per_leaf.svg").is_file()
    done = shell(f"{line} presets fig6 | true; {line} presets --json 2>/dev/null | true")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    ("word", "after"),
    [
        ("--out=~/x", "--out=/home/me/x"),
        ("~/x", "/home/me/x"),
        ("lm=~/models/x", "lm=/home/me/models/x"),
        ("-o=~/x", "-o=/home/me/x"),
        ("--out=~nobody-of-this-name/x", "--out=~nobody-of-this-name/x"),
        ("Is this a ~/x?", "Is this a ~/x?"),
        ("x~/y", "x~/y"),
        ("~", "~"),
    ],
)
def test_a_home_folder_is_expanded_wherever_a_path_may_stand(
    monkeypatch: pytest.MonkeyPatch, word: str, after: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert with_home(word) == after


def test_every_option_knows_the_home_folder(crosstax: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    accented(tmp_path / "data")
    assert crosstax("stats", "~/data", "--out=~/out")[0] == 0
    assert (tmp_path / "out").is_dir()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user: no entry among the users, no $HOME."""

    def unknown(*_: object) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("CROSSTAX_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_home_is_told_what_to_set(crosstax: Any, tmp_path: Path, monkeypatch: Any) -> None:
    code, _, err = crosstax("world", "--size", "smoke")
    assert (code, err.count("\n")) == (2, 1)
    assert "CROSSTAX_CACHE" in err
    assert crosstax("doctor")[0] == 0
    monkeypatch.setenv("CROSSTAX_CACHE", str(tmp_path))
    assert default_cache() == tmp_path


def test_a_whole_world_is_only_read(smoke_world: World, world_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "exclusive_lock", None)
    assert build_world("smoke", smoke_world.seed, world_cache) == smoke_world


def test_a_cache_that_cannot_be_written_names_the_option_that_helps(crosstax: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = crosstax("world", "--size", "smoke", "--cache", tmp_path / "file" / "cache")
    assert (code, err.count("\n")) == (2, 1)
    assert "--cache" in err
    assert "CROSSTAX_CACHE" in err


# Who may read what is written


@pytest.fixture(params=[0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def wrong_modes(folder: Path, umask: int) -> dict[str, str]:
    wanted = {True: 0o777 & ~umask, False: 0o666 & ~umask}
    paths = [path for path in folder.rglob("*") if path.stat().st_mode & 0o777 != wanted[path.is_dir()]]
    return {path.relative_to(folder).as_posix(): oct(path.stat().st_mode) for path in paths}


def test_files_of_a_world_are_for_whom_the_umask_says(smoke_world: World) -> None:
    os.umask(now := os.umask(0))
    assert any(smoke_world.path.rglob("*.safetensors"))
    assert wrong_modes(smoke_world.path, now) == {}


def test_files_of_others_get_the_modes_of_the_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    save_file({"a": np.zeros(2)}, folder / "deep" / "model.safetensors")
    (folder / "other").write_text("x")
    give_own_modes(folder)
    assert wrong_modes(tmp_path, umask) == {}


def test_files_of_a_run_are_for_whom_the_umask_says(
    crosstax: Any, small_study: Any, tmp_path: Path, umask: int
) -> None:
    places = ["--dataset", small_study.dataset, "--features", small_study.features, "--lm", small_study.lm]
    settings = [f"{name}={json.dumps(value)}" for name, value in {**SETTINGS, "epochs": 1}.items()]
    out = tmp_path / "runs"
    assert crosstax("train", *places, "--out", out, "--threads", 1, *settings)[0] == 0
    assert list(out.rglob("projector.safetensors"))
    assert wrong_modes(tmp_path, umask) == {}


# What a file system says


def advice(number: int) -> str:
    return remedy_of(OSError(number, os.strerror(number)))


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("permissions", {errno.EACCES, errno.EPERM}),
        ("locks", {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}),
        ("make room", {errno.ENOSPC, errno.EDQUOT}),
        ("read-only", {errno.EROFS}),
        ("mounted", {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ENOTCONN,
                     errno.EHOSTDOWN, errno.EREMOTE}),
        ("ulimit -n", {errno.EMFILE, errno.ENFILE}),
        ("shorter", {errno.ENAMETOOLONG}),
        ("link", {errno.ELOOP}),
        ("memory", {errno.ENOMEM}),
        ("another program", {errno.EBUSY, errno.ETXTBSY}),
        ("folder where a file", {errno.EISDIR}),
        ("file where a folder", {errno.ENOTDIR}),
    ],
)  # fmt: skip
def test_each_advice_is_for_those_errors_only(words: str, numbers: set[int]) -> None:
    assert {number for number in errno.errorcode if words in advice(number)} == numbers


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(RunError, match="locks"), exclusive_lock(tmp_path / "lock", "sweep"):
        pass


READERS: dict[str, Callable[[Path], object]] = {"HDF5": h5py.File, "safetensors": load_file}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", ["gone", "folder", "loop", "garbage", "empty"])
def test_a_file_system_s_error_is_no_damage(tmp_path: Path, reader: str, what: str) -> None:
    path = tmp_path / "file"
    if what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to("file")
    elif what != "gone":
        path.write_bytes(b"" if what == "empty" else b"garbage" * 100)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the libraries raise
        READERS[reader](path)
    assert (remedy_of(caught.value, "made anew") == "made anew") == (what in ("garbage", "empty"))


@pytest.mark.parametrize(
    ("error", "damaged"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), False),
        (OSError("Can't read data (file read failed: errno = 5, error message = 'Input/output error')"), False),
        (OSError("No such device (os error 19)"), False),
        (MemoryError(), False),
        (OSError("Can't open: truncated file: eof = 96, stored eof = 2048"), True),
        (KeyError("patches"), True),
    ],
)  # fmt: skip
def test_errors_that_come_as_text_are_told_apart(error: Exception, damaged: bool) -> None:
    assert (remedy_of(error, "made anew") == "made anew") == (damaged or isinstance(error, MemoryError))


def test_a_path_that_is_not_utf8_can_be_written_and_read(tmp_path: Path) -> None:
    value = {"path": os.fsdecode(b"caf\xe9/\xff"), "plain": "caf\u00e9"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "caf\u00e9" in (tmp_path / "x.json").read_text(encoding="utf-8")


# Progress in a log


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress, "clock", lambda: now[0])
    return now


def test_long_work_prints_a_line_every_half_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("train", 1000, "steps") as advance:
        for _ in range(200):
            clock[0] += 0.5
            advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # at 30, 60 and 90 of 100 seconds
    assert lines[1].startswith("train: 600/1,000 steps, 10 steps/s, 0:01:00 elapsed, 0:00:40 left")


def test_short_work_prints_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("train", 100, "steps") as advance:
        for _ in range(100):
            clock[0] += 0.29
            advance(1)
    assert capsys.readouterr() == ("", "")


def test_what_an_earlier_process_did_does_not_count_as_speed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress_bar("train", 1000, "steps") as advance:
        clock[0] += 5  # a checkpoint is read
        advance(900)
        for _ in range(5):
            clock[0] += 10
            advance(1)
    first, *_ = capsys.readouterr().err.splitlines()
    assert "903/1,000 steps, 0.086 steps/s" in first
    assert "0:18:52 left" in first


def test_large_files_have_the_same_digest_and_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "clock", itertools.count(0, 31).__next__)
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 2**14)
    small = digest_file(path)
    monkeypatch.setattr(files, "LARGE", 1)
    monkeypatch.setattr(files, "CHUNK", 2**20)
    assert digest_file(path) == small
    assert "hash weights: 4/4 MiB" in capsys.readouterr().err


def test_lines_of_a_worker_say_whose_they_are(clock: list[float], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    with progress.progress_bar("train", 9, "steps") as advance:
        clock[0] += 31
        advance(3)
    assert f"[{multiprocessing.current_process().name}] train: 3/9" in capsys.readouterr().err


@pytest.mark.parametrize(("total", "unit", "step"), [(0, "runs", 0), (3, "jobs", 1), (2, "jobs", 5)])
def test_odd_totals_do_no_harm(
    clock: list[float], capsys: pytest.CaptureFixture[str], total: int, unit: str, step: int
) -> None:
    with progress.progress_bar("odd", total, unit) as advance:
        for _ in range(3):
            clock[0] += 31
            advance(step)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("odd: ") for line in lines)


def test_the_same_world_needs_no_room_for_a_lock(smoke_world: World, tmp_path: Path) -> None:
    """A copy in another cache is as good, and stays as it is."""
    copy = tmp_path / "worlds" / smoke_world.path.name
    shutil.copytree(smoke_world.path, copy)
    assert build_world("smoke", smoke_world.seed, tmp_path).path == copy
    assert [path.name for path in (tmp_path / "worlds").iterdir()] == [copy.name]


def test_a_line_for_a_user_is_one_line_or_a_list(crosstax: Any, tmp_path: Path) -> None:
    root = accented(tmp_path / "data")
    for number in range(30):
        (root / "images" / f"extra{number}").mkdir()
    code, out, err = crosstax("stats", root)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 22
    assert "10 more" in err.splitlines()[-1]
    with pytest.raises(CrosstaxError):
        crosstax("--debug", "stats", root)
