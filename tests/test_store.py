"""The feature store: what a reader gets, what a killed writer leaves, what is refused."""

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from cachegen.common.errors import RunError, StoreError
from cachegen.features.store import DONE, FEATURES, IDENTITY, PENDING, UNREADABLE, FeatureStore, reasons_path
from cachegen.features.writer import open_writer, parse_part, part_rows

KEYS = [f"crow/é_{number}.jpg" for number in range(10)]
P, D = 6, 5


def attributes(**changed: Any) -> dict[str, Any]:
    base = {name: f"some {name}" for name in IDENTITY} | {"dtype": "bfloat16", "image_size": 28}
    return base | {"encoder": "tiny", "batch": 4, "libraries": "torch 2"} | changed


def features(rows: range, dtype: str = "bfloat16") -> list[np.ndarray]:
    """Features that differ in every row, and are the same whenever the same rows are asked for."""
    draws = [np.random.default_rng(row) for row in rows]
    patches = np.stack([draw.normal(size=(P, D)) for draw in draws]).astype(np.float32)
    pooled = [np.stack([draw.normal(size=D) for draw in draws]).astype(np.float32) for _ in range(2)]
    bits = (patches.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16, cut instead of rounded
    return [bits if dtype == "bfloat16" else patches.astype(np.float16), *pooled]


def hashes(rows: range) -> np.ndarray:
    """Of the pictures' files, which here do not exist."""
    return np.stack([np.frombuffer(hashlib.sha256(b"%d" % row).digest(), np.uint8) for row in rows])


def fill(
    path: Path,
    *blocks: range,
    reasons: dict[int, str] | None = None,
    part: tuple[int, int] | None = None,
    **changed: Any,
) -> Path:
    with open_writer(path, KEYS, P, D, attributes(**changed), part) as writer:
        for block in blocks:
            writer.write(block.start, features(block, changed.get("dtype", "bfloat16")), reasons or {}, hashes(block))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "features.h5"


@pytest.fixture
def full(path: Path) -> Path:
    return fill(path, range(10))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_returns_what_was_written(path: Path, dtype: str) -> None:
    store = FeatureStore.open(fill(path, range(4), range(4, 10), dtype=dtype))
    assert store.keys == KEYS
    assert store.attributes["encoder"] == "tiny"
    assert store.attributes["image_size"] == 28
    for name, expected in zip(FEATURES, features(range(10), dtype), strict=True):
        np.testing.assert_array_equal(getattr(store, name), expected)
    rows = store.rows([KEYS[7], KEYS[2]])
    assert rows.tolist() == [7, 2]
    patches = store.patch_tensor(rows)
    assert str(patches.dtype) == f"torch.{dtype}"
    expected = np.random.default_rng(7).normal(size=(P, D))
    np.testing.assert_allclose(patches[0].double().numpy(), expected, rtol=0.01)
    store.verify()


def test_maps_are_read_only_aligned_and_plain_hdf5(full: Path) -> None:
    store = FeatureStore.open(full)
    for name in FEATURES:
        part = getattr(store, name)
        assert isinstance(part, np.memmap)
        assert not part.flags.writeable
        assert store.offsets[name] % 4096 == 0
        with h5py.File(full, "r") as file:  # rows written around HDF5 are what HDF5 reads
            np.testing.assert_array_equal(file[name][:], part)


def test_same_rows_same_file_whatever_the_order(tmp_path: Path) -> None:
    first = fill(tmp_path / "a.h5", range(4), range(4, 8), range(8, 10))
    second = fill(tmp_path / "b.h5", range(8, 10), range(4))
    fill(second, range(4, 8))
    assert first.read_bytes() == second.read_bytes()


def test_pending_rows_are_refused_unless_allowed(path: Path) -> None:
    fill(path, range(4))
    with pytest.raises(StoreError, match="6 of 10 images are not extracted yet"):
        FeatureStore.open(path)
    store = FeatureStore.open(path, allow_pending=True)
    assert store.done.tolist() == [DONE] * 4 + [PENDING] * 6
    assert store.rows(KEYS[:4]).tolist() == [0, 1, 2, 3]
    with pytest.raises(StoreError, match="not extracted yet"):
        store.rows(KEYS[3:5])
    with pytest.raises(StoreError, match="not extracted yet"):
        store.patch_tensor(np.array([4]))


def test_unreadable_rows_keep_their_reason_and_have_no_features(path: Path) -> None:
    fill(path, range(4), reasons={2: "OSError: truncated"})
    store = FeatureStore.open(fill(path, range(4, 10)))
    assert store.done[2] == UNREADABLE
    assert store.unreadable == {KEYS[2]: "OSError: truncated"}
    assert not store.patches[2].any()
    with pytest.raises(StoreError, match=r"first crow/é_2.jpg \(unreadable: OSError: truncated\)"):
        store.rows(KEYS)
    store.verify()


def test_unknown_key_is_named(full: Path) -> None:
    with pytest.raises(StoreError, match=r"no image 'dodo.jpg'"):
        FeatureStore.open(full).rows(["dodo.jpg"])


@pytest.mark.parametrize("name", IDENTITY)
def test_resuming_with_something_else_names_it(path: Path, name: str) -> None:
    fill(path, range(4))
    before = path.read_bytes()
    other: dict[str, Any] = {name: 99 if name == "image_size" else "float16" if name == "dtype" else "another"}
    with pytest.raises(StoreError, match=f"made by tiny and differs in {name} "):
        fill(path, **other)
    assert path.read_bytes() == before


def test_batch_of_the_first_run_stays(path: Path) -> None:
    fill(path, range(4))
    with open_writer(path, KEYS, P, D, attributes(batch=9, libraries="torch 3", encoder="moved")) as writer:
        assert writer.store.attributes["batch"] == 4


def test_store_without_a_finished_row_is_made_anew(path: Path) -> None:
    fill(path)
    fill(path, range(10), dtype="float16", batch=2)
    assert FeatureStore.open(path).attributes["batch"] == 2


def test_flags_follow_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the write of a row's bytes fails, its flag is not set; the error says that earlier rows are kept."""
    fill(path, range(4))
    offset = FeatureStore.open(path, allow_pending=True).offsets["crc32"]
    pwrite = os.pwrite

    def failing(descriptor: int, content: bytes, position: int) -> int:
        if position >= offset and position < offset + 4 * len(KEYS):
            raise OSError(errno.EIO, "Input/output error")
        return pwrite(descriptor, content, position)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(StoreError, match=r"Input/output error; finished rows are kept"):
        fill(path, range(4, 8))
    assert FeatureStore.open(path, allow_pending=True).done.tolist() == [DONE] * 4 + [PENDING] * 6


def test_killed_writer_leaves_a_readable_store(path: Path) -> None:
    """SIGKILL between a block's rows and its flags: the block is pending, the rest is whole, it resumes to the same."""
    whole = fill(path.with_name("whole.h5"), range(4), range(4, 8), range(8, 10))
    code = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent / "support")!r}]
from test_store import *
fdatasync, calls = os.fdatasync, iter(range(99))
os.fdatasync = lambda handle: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == 2 else fdatasync(handle)
fill(Path(sys.argv[1]), range(4), range(4, 8))
"""
    killed = subprocess.run([sys.executable, "-c", code, str(path)])
    assert killed.returncode == -signal.SIGKILL
    store = FeatureStore.open(path, allow_pending=True)
    assert store.done.tolist() == [DONE] * 4 + [PENDING] * 6
    assert store.patches[4:8].any()  # its bytes may be there, but nobody trusts them
    store.verify()
    fill(path, range(4, 8), range(8, 10))
    assert path.read_bytes() == whole.read_bytes()


def test_no_space_is_said_at_once_and_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full_disk)
        with pytest.raises(StoreError, match="No space left"):
            fill(path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
        with pytest.raises(StoreError, match=r"needs 0.00 GB where 0.00 GB are free"):
            fill(path)
    assert [file.name for file in path.parent.iterdir()] == ["features.h5.lock"]


def test_space_is_taken_when_the_store_is_made(path: Path) -> None:
    with open_writer(path, KEYS, 256, 1024, attributes()):
        status = path.stat()
        assert status.st_blocks * 512 >= status.st_size > 5_000_000


def test_leftovers_of_a_killed_creator_are_removed(path: Path) -> None:
    leftover = path.with_name(f".{path.name}.1.tmp")
    leftover.write_bytes(b"half")
    reasons_path(path).write_text('{"key": "old", "reason": "old"}\n')
    fill(path, range(10))
    assert not leftover.exists()
    assert not reasons_path(path).exists()


@contextlib.contextmanager
def other_writer(path: Path, part: tuple[int, int] | None) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `part` of the store and has written nothing yet."""
    code = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent / "support")!r}]
from test_store import *
with open_writer(Path(sys.argv[1]), KEYS, P, D, attributes(), {part}):
    print("held", flush=True)
    sys.stdin.read()
"""
    pipe = subprocess.PIPE
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def hold(path: Path, part: tuple[int, int] | None) -> list[int]:
    """The rows that this process gets, if it gets them."""
    with open_writer(path, KEYS, P, D, attributes(), part) as writer:
        return list(writer.rows)


def test_writers_of_the_same_rows_are_refused_and_told_who_writes(path: Path) -> None:
    """10 rows in blocks of 4: part 1/2 is rows 0 to 3, part 2/2 the rest."""
    with other_writer(path, (1, 2)) as holder:
        name = rf"features\.h5 is being written by \S+ pid {holder.pid}, part 1/2; wait"
        for part in (None, (1, 2), (1, 1), (1, 3), (2, 4)):
            with pytest.raises(RunError, match=name):
                hold(path, part)
        assert hold(path, (2, 2)) == list(range(4, 10))  # nobody else's
        assert hold(path, (1, 4)) == []
    assert hold(path, None) == list(range(10))  # the kernel freed what the killed one held


def test_a_whole_writer_keeps_all_parts_out_and_dead_holders_are_not_named(path: Path) -> None:
    with other_writer(path, (2, 2)):
        pass
    with other_writer(path, (1, 2)) as first, pytest.raises(RunError) as refused:
        hold(path, None)
    assert f"pid {first.pid}, part 1/2; wait" in str(refused.value)  # and nobody else
    with other_writer(path, None) as holder:
        for part in (None, (1, 2), (2, 2)):
            with pytest.raises(RunError, match=rf"pid {holder.pid}, all rows; wait"):
                hold(path, part)


def test_a_store_that_another_part_has_open_is_not_made_anew(path: Path) -> None:
    with other_writer(path, (1, 2)):
        before = path.stat().st_ino
        with pytest.raises(StoreError, match="differs in weights_digest"):
            fill(path, weights_digest="other", part=(2, 2))
        assert hold(path, (2, 2))
        assert path.stat().st_ino == before
    assert hold(path, (2, 2))
    assert path.stat().st_ino != before  # negative control: without a finished row and with nobody there it is


@pytest.mark.parametrize(("images", "batch", "n"), [(10, 4, 2), (10, 4, 5), (1, 64, 3), (1000, 64, 7), (128, 64, 2)])
def test_parts_are_whole_blocks_in_order_and_leave_nothing_out(images: int, batch: int, n: int) -> None:
    parts = [part_rows(images, batch, (i, n)) for i in range(1, n + 1)]
    assert [row for part in parts for row in part] == list(range(images))
    assert all(part.start % batch == 0 for part in parts if part)
    blocks = [-(-len(part) // batch) for part in parts]
    assert max(blocks) - min(blocks) <= 1
    assert part_rows(images, batch, None) == range(images)


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "1/0", "-1/3", "1/2/3", "a/b", "1/ 2", "1.0/2", "²/3"])
def test_parts_that_there_are_not_are_refused(text: str) -> None:
    assert parse_part("2/8") == (2, 8)
    with pytest.raises(StoreError, match=r"part .*: write I/N with I from 1 to N, for example 2/8"):
        parse_part(text)


@pytest.mark.parametrize("keep", [100, 5_000, -100])
def test_truncated_file_is_refused(full: Path, keep: int) -> None:
    full.write_bytes(full.read_bytes()[:keep])
    with pytest.raises(StoreError, match="not a whole feature store"):
        FeatureStore.open(full)


def hdf5_says(number: int, what: str) -> OSError:
    """An error of the file system as h5py passes it on: the number stands in the text, and may stand nowhere else."""
    return OSError(
        f"Can't synchronously read data (file {what} failed: time = Sat Nov 28\n, filename = 'features.h5', file "
        f"descriptor = 3, errno = {number}, error message = '{os.strerror(number)}', buf = 0x7ffe, offset = 0)"
    )


FAILING: dict[str, Callable[[pytest.MonkeyPatch, int], None]] = {
    "stat": lambda patch, number: patch.setattr(Path, "stat", raising(OSError(number, os.strerror(number)))),
    "open": lambda patch, number: patch.setattr(Path, "open", raising(OSError(number, os.strerror(number)))),
    "hdf5": lambda patch, number: patch.setattr(h5py, "File", raising(OSError(number, "Unable to open file"))),
    "hdf5 text": lambda patch, number: patch.setattr(h5py, "File", raising(hdf5_says(number, "open"))),
    "column": lambda patch, number: patch.setattr(h5py.Dataset, "__getitem__", raising(hdf5_says(number, "read"))),
    "map": lambda patch, number: patch.setattr(np, "memmap", raising(OSError(number, os.strerror(number)))),
}


def raising(error: OSError) -> Callable[..., None]:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


SYSTEM = ("ESTALE", "EIO", "EACCES", "EPERM", "ENODEV", "ENOLCK", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "ENOTCONN")


@pytest.mark.parametrize("number", SYSTEM)
@pytest.mark.parametrize("where", FAILING)
def test_the_file_system_is_not_taken_for_damage(
    full: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: str
) -> None:
    code = getattr(errno, number)
    with monkeypatch.context() as patch:
        FAILING[where](patch, code)
        with pytest.raises(StoreError) as refused:
            FeatureStore.open(full)
    assert os.strerror(code) in str(refused.value)
    assert str(full) in str(refused.value)
    assert not any(word in str(refused.value) for word in ("delete", "extract", "damaged", "whole"))
    FeatureStore.open(full).verify()


def test_foreign_files_are_refused_and_left_alone(path: Path) -> None:
    with pytest.raises(StoreError, match="no feature store there"):
        FeatureStore.open(path)
    path.write_text("my notes")
    with pytest.raises(StoreError, match="no HDF5 file"):
        fill(path, range(10))
    assert path.read_text() == "my notes"
    with h5py.File(path, "w") as file:
        file["patches"] = np.zeros(3)
    with pytest.raises(StoreError, match="schema none, this version reads 1"):
        FeatureStore.open(path)


def test_other_schema_and_missing_parts_are_refused(full: Path) -> None:
    with h5py.File(full, "r+") as file:
        del file["pooled_patches"]
    with pytest.raises(StoreError, match="not a whole feature store"):
        FeatureStore.open(full)
    with h5py.File(full, "r+") as file:
        del file.attrs["transform"]
    with pytest.raises(StoreError, match="attribute transform is missing"):
        FeatureStore.open(full)
    with h5py.File(full, "r+") as file:
        file.attrs["schema"] = 7
    with pytest.raises(StoreError, match="store schema 7, this version reads 1"):
        FeatureStore.open(full)


@pytest.mark.parametrize("name", FEATURES)
def test_verify_names_a_damaged_row(full: Path, name: str) -> None:
    with h5py.File(full, "r+") as file:
        file[name][3] = file[name][4]
    with pytest.raises(StoreError, match=r"1 rows do not match their checksum.*\n  crow/é_3.jpg$"):
        FeatureStore.open(full).verify()


def test_verify_notices_keys_that_changed_places(full: Path) -> None:
    with h5py.File(full, "r+") as file:
        file["key"][:2] = file["key"][:2][::-1]
    with pytest.raises(StoreError, match="2 rows do not match"):
        FeatureStore.open(full).verify()


@pytest.mark.parametrize(("part", "value"), [(0, 0x7F80), (0, 0xFFC0), (1, np.nan), (2, np.inf)])
def test_verify_names_a_row_that_is_not_finite(path: Path, part: int, value: float) -> None:
    poisoned = features(range(10))
    poisoned[part][6].flat[0] = value
    with open_writer(path, KEYS, P, D, attributes()) as writer:
        writer.write(0, poisoned, {}, hashes(range(10)))
    with pytest.raises(StoreError, match=r"1 rows contain NaN or infinity.*\n  crow/é_6.jpg$"):
        FeatureStore.open(path).verify()


def test_digest_covers_rows_and_identity_only(tmp_path: Path) -> None:
    digest = FeatureStore.open(fill(tmp_path / "a.h5", range(10))).digest
    same = fill(tmp_path / "b.h5", range(10), libraries="torch 3", encoder="moved/tiny", batch=5)
    assert FeatureStore.open(same).digest == digest
    changed = features(range(10))
    changed[0][5, 0, 0] ^= 1
    with open_writer(tmp_path / "f.h5", KEYS, P, D, attributes()) as writer:
        writer.write(0, changed, {}, hashes(range(10)))
    others = [
        FeatureStore.open(tmp_path / "f.h5"),
        FeatureStore.open(fill(tmp_path / "c.h5", range(10), weights_digest="other")),
        FeatureStore.open(fill(tmp_path / "d.h5", range(10), reasons={0: "bad"})),
        FeatureStore.open(fill(tmp_path / "e.h5", range(4)), allow_pending=True),
    ]
    assert len({digest, *(store.digest for store in others)}) == 5


def test_reading_needs_no_torch(full: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cachegen.features.store import FeatureStore\n"
        "FeatureStore.open(Path(sys.argv[1])).pooled_patches.sum(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(full)], check=True)
