"""Files that are either whole or absent: atomic writes, digests, single-writer locks."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cachegen.errors import CrosstaxError, RunError, WriteError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HELD = (errno.EACCES, errno.EAGAIN)


def fsync_directory(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary_path)`, then fsync and rename onto `path`; `path` is never half-written.

    A failure (full disk, Ctrl-C) removes the temporary file and leaves an older `path` as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {reason_of(error)}; {remedy_of(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, or the disk is read-only by now
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Delete what killed writers of `path` left beside it; for who holds the lock on it, else one may still write."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> int:
    """Append lines durably and return the file's size; the half line of a killed writer is ended before them."""
    try:
        with path.open("ab+") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - 1))
            handle.write((b"" if handle.read() in (b"", b"\n") else b"\n") + text.encode())
            handle.flush()
            os.fsync(handle.fileno())
            return handle.seek(0, os.SEEK_END)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {reason_of(error)}; {remedy_of(error)}") from error


def reason_of(error: OSError) -> str:
    """What went wrong, in the system's own words on one line; libraries add pages to theirs."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())


def remedy_of(error: OSError) -> str:
    """What a user can do about it."""
    if error.errno in FULL:
        return "make room and give the same command again, it goes on from there"
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return "it has been removed meanwhile; restore it and give the same command again"
    return "check the path and its permissions, or choose another"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged one is a `CrosstaxError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
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
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the only writer's lock on `path` (a sidecar that names host and pid), or raise `RunError`.

    The kernel frees an fcntl lock when its process dies, so a killed writer blocks nobody.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("ab+", buffering=0)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {reason_of(error)}; {remedy_of(error)}") from error
    with handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            handle.truncate(0)
            handle.write(f"{socket.gethostname()} pid {os.getpid()}".encode())
        except OSError as error:
            if error.errno in HELD:
                handle.seek(0)
                holder = handle.read().decode(errors="replace").strip() or "another process"
                raise RunError(f"{what} is being written by {holder}; wait for it or stop it") from None
            raise WriteError(f"cannot write {path}: {reason_of(error)}; {remedy_of(error)}") from error
        yield
