"""Files and folders that are either whole or absent: atomic writes, digests."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cachegen.common.errors import CrosstaxError, DatasetError, WriteError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LARGE, CHUNK = 2**30, 2**26  # bytes of a file that takes seconds to read; of a part of it
MOST_JSON = 2**28  # bytes; the plan of 100,000 runs has a tenth of them
CHOOSE = "give `crosstax world --cache DIR`, or set CROSSTAX_CACHE to a folder of yours"
AGAIN = "give the same command again, it goes on from there"
REMEDIES: dict[int, str] = {
    errno.ENOSPC: f"make room and {AGAIN}",
    errno.EFBIG: "its file system or `ulimit -f` allows no file of this size; choose a folder elsewhere, or raise it",
    errno.EDQUOT: f"your quota is used up; make room and {AGAIN}",
    errno.ENOENT: "it is not there, or has been removed meanwhile; restore it, or correct the path",
    errno.ESTALE: f"its network share has replaced it or was restarted; see that it is mounted, then {AGAIN}",
    **dict.fromkeys(
        (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EREMOTE),
        f"its disk or network share does not answer; see that it is mounted and sound, then {AGAIN}",
    ),
    errno.EROFS: "its file system is read-only; choose a folder elsewhere",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions, or choose another path"),
    errno.ENOLCK: "its file system has no locks, which keep two writers apart; choose a folder on a local disk",
    **dict.fromkeys(
        (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
        "its file system cannot do this (locks, most often); choose a folder on a local disk",
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), f"too many files are open; raise `ulimit -n` and {AGAIN}"),
    **dict.fromkeys((errno.EBUSY, errno.ETXTBSY), f"another program uses it; wait for that and {AGAIN}"),
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "a link in it leads back to itself; remove that link, or choose another path",
    errno.ENOTDIR: "a part of it is a file where a folder should be; correct the path",
    errno.EISDIR: "it is a folder where a file should be; correct the path",
    **dict.fromkeys((errno.EEXIST, errno.ENOTEMPTY), "it is in the way; move it away, or choose another path"),
    errno.ENOMEM: f"memory is short; end other programs and {AGAIN}",
}
"""What a user can do about an error of the file system. Whatever is not here would be a fault of ours."""
NUMBERS: dict[type[Exception], int] = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
}  # of those that safetensors makes


def fsync_directory(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """An error of the file system inside is a `WriteError` about `path`."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {reason_of(error)}; {remedy_of(error)}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary_path)`, then fsync and rename onto `path`; `path` is never half-written.

    A failure (full disk, Ctrl-C) removes the temporary file and leaves an older `path` as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
            fsync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, or the disk is read-only by now
            temporary.unlink(missing_ok=True)


def require_new(out: Path) -> None:
    """Raise `DatasetError` where `new_folder` would, before any work is done."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} is there already; remove it, or choose another folder")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to build in: it becomes `out` at the end, or is removed if anything fails."""
    require_new(out)
    with writing(out):
        aside = out.parent / f".{out.name}.{os.urandom(6).hex()}.tmp"  # containers and hosts may share a pid
        aside.mkdir(parents=True)
        try:
            yield aside
            os.sync()
            aside.replace(out)
            fsync_directory(out.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Delete temporary files that killed writers of `path` left. Hold the lock on it: another may still write."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> int:
    """Append lines durably and return the file's size; the half line of a killed writer is ended before them."""
    with writing(path), path.open("ab+") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - 1))
        handle.write((b"" if handle.read() in (b"", b"\n") else b"\n") + text.encode(errors="backslashreplace"))
        handle.flush()
        os.fsync(handle.fileno())
        return handle.seek(0, os.SEEK_END)


def reason_of(error: OSError) -> str:
    """What went wrong, in the system's own words on one line; libraries add pages to theirs."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())


def remedy_of(error: Exception, damaged: str = "check the path and its file system, or choose another") -> str:
    """What a user can do about it: what the file system needs, or `damaged` where it let the bytes be read."""
    return REMEDIES.get(_number(error), damaged)


def _number(error: Exception) -> int:
    """The system's number of an error, 0 if it has none; HDF5 and safetensors hand it on as text."""
    if number := getattr(error, "errno", None) or NUMBERS.get(type(error)):
        return int(number)
    told = re.search(r"\berrno = (\d+)|\(os error (\d+)\)", str(error))
    return int(told[told.lastindex or 0]) if told else 0


def give_own_modes(folder: Path) -> None:
    """Let the umask decide who reads the files below `folder`, which was made under it; safetensors writes 0600."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically; bytes of a path that are not UTF-8 are escaped, as JSON does."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def expanded(place: str | Path) -> Path:
    """A path with the home folder in place of "~"; unlike `Path.expanduser`, no error for an unknown user."""
    return Path(os.path.expanduser(place))  # noqa: PTH111


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a plain file of at most `most`; `ValueError` says what else it is, before memory is taken."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is no plain file; a pipe or device may have no end, copy it to a file")
    with path.open("rb") as handle:
        content = handle.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """Read a JSON file; a missing or damaged one, or one of more than `most` bytes, is a `CrosstaxError`."""
    try:
        return json.loads(read_bounded(path, most).decode("utf-8"))
    except FileNotFoundError:
        raise CrosstaxError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CrosstaxError(f"{path} is not readable JSON ({error}); delete or restore it") from None


def digest_bytes(*parts: bytes) -> str:
    """Hex SHA-256 of `parts`, each preceded by its length so that boundaries count."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def digest_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; reading weights of several gigabytes is shown."""
    total, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as handle:
        if size < LARGE:
            return hashlib.file_digest(handle, "sha256").hexdigest()
        from cachegen.common.progress import progress_bar

        with progress_bar(f"hash {path.name}", size >> 20, "MiB") as advance:
            while chunk := handle.read(CHUNK):
                total.update(chunk)
                advance(len(chunk) >> 20)
    return total.hexdigest()


def default_cache() -> Path:
    """$CROSSTAX_CACHE, or ~/.cache/crosstax."""
    try:
        return Path(os.environ.get("CROSSTAX_CACHE") or "~/.cache/crosstax").expanduser()
    except RuntimeError:  # a container's user without an entry and without $HOME
        raise CrosstaxError(f"your home folder is not known here; {CHOOSE}") from None
