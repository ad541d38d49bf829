"""A run's directory: every file whole or absent, `DONE` written last with the hashes of the others.

config.json          condition, digests, inputs, counts
questions.parquet    what was asked, with both answers
metrics.jsonl        loss, learning rate and gradient norm of every step
projector.safetensors, predictions.parquet
names.parquet        of the task `name`: log-probabilities of all candidates
timing.jsonl, places.json    outside the promise on bytes
DONE, or FAILED with the reason, and traceback.txt with where it came from
"""

import json
import math
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.files import (
    append_text,
    digest_file,
    read_json,
    reason_of,
    remedy_of,
    write_atomically,
    write_json,
    write_text,
    writing,
)
from cachegen.data.taxonomy import name_problem
from engine.runs.config import read_config, read_record
from engine.runs.places import FILE as PLACES

if TYPE_CHECKING:
    from torch import nn  # takes seconds to import; `crosstax status` does without

TRACEBACK = "traceback.txt"
LONGEST = 2_000  # characters of a message; some list every tensor of a model
HASHED = ("config.json", "questions.parquet", "metrics.jsonl", "projector.safetensors", "predictions.parquet")
NAMES = "names.parquet"  # hashed too, where the task is `name`


@dataclass(frozen=True)
class RunDirectory:
    """Paths and writers of one run.

    `sealed`: it is done, and takes part in its group for the others' sake only; `begin` and the log leave it as it is.
    """

    path: Path
    sealed: bool = False

    def file(self, name: str) -> Path:
        return self.path / name

    def begin(self, config: dict[str, Any], questions: pd.DataFrame, places: dict[str, str]) -> None:
        """Create the directory with what is known before training; what killed writers left in it goes."""
        if self.sealed:
            return
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        write_json(self.file(PLACES), places)
        write_json(self.file("config.json"), config)
        self.write_table("questions.parquet", questions)

    def note(self, fields: dict[str, Any]) -> None:
        """Change these fields of the configuration."""
        if fields:
            write_json(self.file("config.json"), read_config(self.path) | fields)

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        write_atomically(self.file(name), lambda path: table.to_parquet(path, index=False))

    def write_projector(self, projector: "nn.Module") -> None:
        from safetensors.torch import save

        content = save({name: value.detach().contiguous() for name, value in projector.state_dict().items()})
        write_atomically(self.file("projector.safetensors"), lambda path: path.write_bytes(content))

    def cut_metrics(self, size: int) -> None:
        """Cut the log to `size` bytes, where the checkpoint was taken; what a killed process wrote after it goes."""
        if self.sealed:
            return
        log = self.file("metrics.jsonl")
        with writing(log), log.open("ab") as handle:
            handle.truncate(size)

    def append_metrics(self, lines: Iterable[dict[str, float | int]]) -> int:
        """Append log lines durably and return the file's size; values that are not finite become null."""
        if self.sealed:
            return self.log_size
        text = "".join(
            json.dumps({key: value if math.isfinite(value) else None for key, value in line.items()}) + "\n"
            for line in lines
        )
        return append_text(self.file("metrics.jsonl"), text)

    @property
    def log_size(self) -> int:
        """Bytes of the metrics log; 0 if there is none."""
        log = self.file("metrics.jsonl")
        return log.stat().st_size if log.is_file() else 0

    def append_timing(self, *lines: dict[str, Any]) -> None:
        """Append lines to the timing log."""
        append_text(self.file("timing.jsonl"), "".join(json.dumps(line) + "\n" for line in lines))

    def finish(self) -> None:
        """Declare the run complete."""
        write_json(self.file("DONE"), {name: digest_file(self.file(name)) for name in self._hashed})

    @property
    def _hashed(self) -> tuple[str, ...]:
        naming = read_config(self.path)["condition"].get("task") == "name"
        return (*HASHED, NAMES) if naming else HASHED

    def fail(self, reason: str | BaseException, **again: bool) -> None:
        """Record that the run ended without usable results, for an exception also where it was raised.

        `again` says how `--retry-failed` should go about it: `resume` from its group's checkpoint, or `smaller`.
        """
        record: dict[str, Any] = {"reason": reason}
        if isinstance(reason, BaseException):
            text = " ".join(str(reason)[:LONGEST].split())
            if not isinstance(reason, CrosstaxError):
                text = f"{type(reason).__name__}: {text}; see {self.path.name}/{TRACEBACK}"
            record = {"reason": text.encode(errors="backslashreplace").decode(), "type": type(reason).__name__}
            trace = "".join(traceback.format_exception(reason))
            write_text(self.file(TRACEBACK), trace.encode(errors="backslashreplace").decode())
        write_json(self.file("FAILED"), record | again)

    def forget_failure(self) -> None:
        """Let a failed run be tried again."""
        for name in ("FAILED", TRACEBACK):
            self.file(name).unlink(missing_ok=True)

    def again(self, how: str) -> bool:
        """Whether the run's failure is recorded as one to be tried again in this way (see `fail`)."""
        return self._failure.get(how) is True

    @property
    def failed(self) -> bool:
        return self.file("FAILED").is_file()

    @property
    def reason(self) -> str:
        """Why the run failed."""
        return str(self._failure.get("reason", "no reason recorded"))

    @property
    def _failure(self) -> dict[str, Any]:
        """What FAILED says; nothing if it is not there or damaged."""
        try:
            record = read_json(self.file("FAILED"))
        except CrosstaxError:
            return {}
        return record if isinstance(record, dict) else {}

    @property
    def begun(self) -> bool:
        """Whether the run has got as far as its question table."""
        return self.file("config.json").is_file()

    @property
    def never_began(self) -> bool:
        """Whether the run failed before it had a question table; it takes no part when its group is resumed."""
        return self.failed and not self.begun

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; 0 before it has begun."""
        if not self.begun:
            return 0
        config = read_config(self.path)
        try:
            condition = config["condition"]
            return int(condition["epochs"] * -(-config["counts"]["train"] // condition["batch"]))
        except (KeyError, TypeError, ValueError, ArithmeticError):
            raise RunError(
                f"{self.file('config.json')} is no run's configuration; delete the run and repeat it"
            ) from None

    @property
    def over(self) -> bool:
        """Whether the run is done, or has failed."""
        return self.failed or self.done

    @property
    def done(self) -> bool:
        """Whether the run that its name says is there, sealed and whole: not another run's copy."""
        return self._is_done(self.check_seal)

    @property
    def unfinished(self) -> str | None:
        """Why the run has no results; None where it is sealed."""
        if self.failed:
            return self.reason
        return None if self.file("DONE").exists() else "not finished; repeat the command that made it"

    @property
    def looks_done(self) -> bool:
        """Whether it is `done` as far as can be told without reading the large files."""
        return self._is_done(self._seal)

    def _is_done(self, check: Callable[[], object]) -> bool:
        try:
            check()
            return bool(read_config(self.path).get("run_id") == self.path.name)
        except CrosstaxError:
            return False

    def _seal(self) -> dict[str, str]:
        """The hashes in `DONE`, whose files are all there. Raises `CrosstaxError`."""
        seal = self.file("DONE")
        hashes = read_record(seal)
        if not isinstance(hashes, dict):
            raise RunError(f"{seal} holds no hashes; delete the run and repeat it")
        if strange := [name for name in hashes if name_problem(name)]:
            raise RunError(f"{seal} names {strange[0]!r}, no file of the run; delete the run and repeat it")
        if unlisted := sorted(set(HASHED) - set(hashes)):
            raise RunError(f"{seal} holds no hash of {unlisted[0]}; delete the run and repeat it")
        if gone := [name for name in sorted(hashes) if not self.file(name).is_file()]:
            raise RunError(f"{self.file(gone[0])} is missing though DONE lists it; delete the run and repeat it")
        return hashes

    def check_seal(self) -> dict[str, str]:
        """The hashes in `DONE`, which all files still have. Raises `CrosstaxError` naming the first that has not."""
        hashes = self._seal()
        for name, expected in sorted(hashes.items()):
            path = self.file(name)
            try:
                same = digest_file(path) == expected
            except OSError as error:
                raise RunError(f"{path} cannot be read: {reason_of(error)}; {remedy_of(error)}") from None
            if not same:
                raise RunError(
                    f"{path} changed after the run finished (its hash is not DONE's); delete and repeat the run"
                )
        return hashes
