"""What Linux has and macOS lacks: the same bytes without it, and a full disk is noticed as early."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from cachegen.common.system import cores, reserve, sync_data

LINUX_ONLY = ("sched_getaffinity", "posix_fallocate", "fdatasync")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def as_on_macos(monkeypatch):
    for name in LINUX_ONLY:
        monkeypatch.delattr(os, name)


@pytest.mark.parametrize("size", [1, 4096, 10_000, 1_000_003])
def test_space_is_taken_and_contents_stay(as_on_macos, tmp_path, size):
    path = tmp_path / "file"
    with path.open("wb") as handle:
        handle.write(b"head")
        handle.seek(size + 7)
        handle.write(b"tail")  # between them is a hole
    before = path.read_bytes()
    with path.open("rb+") as handle:
        reserve(handle.fileno(), size)
    assert path.read_bytes() == before
    assert path.stat().st_blocks * 512 >= size


def test_a_new_file_gets_its_size(as_on_macos, tmp_path):
    with (tmp_path / "file").open("wb+") as handle:
        reserve(handle.fileno(), 10_000)
    assert (tmp_path / "file").read_bytes() == bytes(10_000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_noticed(as_on_macos):
    with Path("/dev/full").open("rb+", buffering=0) as handle, pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        reserve(handle.fileno(), 10_000)


def test_cores_without_affinity_are_all(as_on_macos, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_data_are_synced(as_on_macos, tmp_path):
    with (tmp_path / "file").open("wb") as handle:
        handle.write(b"bytes")
        handle.flush()
        sync_data(handle.fileno())
    assert (tmp_path / "file").read_bytes() == b"bytes"


def test_windows_is_told_what_to_do(crosstax, monkeypatch):
    monkeypatch.setattr(cli.sys, "platform", "win32")
    code, out, err = crosstax("presets")
    assert (code, out) == (2, "")
    assert err == "error: crosstax needs Linux or macOS; on Windows, run it in WSL\n"


@pytest.mark.slow
def test_nothing_else_is_used_that_macos_lacks(tmp_path):
    """By the type checker, which knows what each platform's modules have."""
    mypy = [sys.executable, "-m", "mypy", "--platform", "darwin", "--cache-dir", str(tmp_path)]
    done = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
