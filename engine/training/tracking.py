"""Showing metrics elsewhere while runs train: TensorBoard, Weights & Biases.

Trackers are fed from each run's own `metrics.jsonl`, from its first line, by every process that takes up the group: a
tracker's files of an earlier attempt are removed first. So a run that was killed and resumed has no step twice and none
missing, and what is shown is what is saved. Nothing here writes into a run directory or draws a random number, and a
tracker that fails is warned about and dropped; training goes on.
"""

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cachegen.common.errors import ConditionError
from cachegen.common.files import digest_bytes, read_json
from cachegen.common.progress import tell
from engine.runs.directory import RunDirectory

NAMES = ("tensorboard", "wandb")


class Tracker:
    """What shows the metrics of one run; this one shows nothing."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Show the metrics of one step; steps come in order."""

    def flush(self) -> None:
        """Make visible what was logged."""

    def close(self) -> None:
        """No step comes any more."""


def require_trackers(names: Sequence[str]) -> None:
    """Raise `ConditionError` for a tracker that there is not, or whose package is not installed."""
    for name in names:
        if name not in NAMES:
            raise ConditionError(f"there is no tracker {name!r}; choose one of {', '.join(NAMES)}")
        if importlib.util.find_spec(name) is None:
            raise ConditionError(f"--track {name} needs the package {name}; pip install 'crosstax[{name}]'")


@contextlib.contextmanager
def tracking(names: Sequence[str], directories: Sequence[RunDirectory]) -> Iterator[Callable[[], None]]:
    """Show the metrics of a group's runs in each of the trackers `names`.

    Yields what is to be called when lines have been appended to their logs; it never raises.
    """
    followers = [_Follower(name, directories) for name in names]

    def update() -> None:
        for follower in followers:
            follower.update()

    try:
        yield update
        update()  # of a group that was trained already
    finally:
        for follower in followers:
            follower.close()


class _Follower:
    """One kind of tracker for all runs of a group; the first failure ends it for all of them."""

    def __init__(self, name: str, directories: Sequence[RunDirectory]) -> None:
        self._name = name
        self._directories = directories
        self._shown = [0] * len(directories)  # bytes of each log
        self._trackers: list[Tracker] = []
        self._safely(self._open)

    def update(self) -> None:
        self._safely(self._feed)

    def close(self) -> None:
        self._safely(self._close)

    def _safely(self, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # whatever a tracker raises, a run is worth more
            reason = " ".join(str(error).split()) or type(error).__name__
            tell(f"{self._name} stopped ({reason}); training goes on, metrics.jsonl has everything")
            broken, self._trackers = self._trackers, []
            for tracker in broken:
                with contextlib.suppress(Exception):
                    tracker.close()

    def _open(self) -> None:
        for directory in self._directories:
            self._trackers.append(_OPEN[self._name](directory.path))

    def _feed(self) -> None:
        for number, tracker in enumerate(self._trackers):
            with self._directories[number].file("metrics.jsonl").open("rb") as log:
                log.seek(self._shown[number])
                for line in log:
                    metrics = json.loads(line)
                    step = metrics.pop("step")
                    tracker.log(step, {name: value for name, value in metrics.items() if value is not None})
                self._shown[number] = log.tell()
            tracker.flush()

    def _close(self) -> None:
        while self._trackers:
            self._trackers.pop().close()


def _emptied(run: Path, name: str) -> Path:
    """The folder of a tracker for a run, beside the runs of its sweep, without what an earlier attempt left there."""
    folder = run.parent / name / run.name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


class _TensorBoard(Tracker):
    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(_emptied(run, "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb(Tracker):
    """Offline unless WANDB_MODE says otherwise; of this machine and its console it records nothing."""

    def __init__(self, run: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        if mode not in ("offline", "dryrun", "disabled") and not wandb.login(prompt=False):
            raise ConnectionError("not logged in; run `wandb login`, or leave WANDB_MODE unset")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "crosstax"),
            group=run.resolve().parent.name,
            name=run.name,
            id=digest_bytes(str(run.resolve()).encode())[:16],
            resume="allow",
            mode=mode,
            dir=_emptied(run, "wandb"),
            config=read_json(run / "config.json")["condition"],
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log({f"train/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


_OPEN: dict[str, Callable[[Path], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
