"""Progress with rate and ETA on stderr: a live bar on a terminal, in a log a line every half minute."""

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)
clock = time.monotonic
EVERY = 30.0  # seconds between lines of a log; shorter work leaves none


def tell(text: str) -> None:
    """Print a line to stderr as it is: names may look like markup, and terminals wrap by themselves."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def quiet_transformers() -> None:
    """Turn off the bars that transformers draws for every load and save, also into pipes, and its warnings.

    It lists, for one, every weight of a text tower that is left out on purpose; weights that are missing are refused
    by the loaders here.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@contextlib.contextmanager
def progress_bar(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield `advance(n)`; shows `label`, done/total, rate in `unit`/s, elapsed and remaining time.

    Without a terminal, and in worker processes, which would draw over each other, `advance` prints lines instead.
    """
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield _lines(label, total, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total, rate="")

        def advance(count: int) -> None:
            progress.advance(task, count)
            speed = progress.tasks[task].speed
            if speed:
                progress.update(task, rate=_rate(speed, unit))

        yield advance


def _lines(label: str, total: int, unit: str) -> Callable[[int], None]:
    """`advance(n)` for a log. The rate is that since the last line; the first call may tell of an earlier process."""
    if multiprocessing.parent_process() is not None:
        label = f"[{multiprocessing.current_process().name}] {label}"
    started = printed = clock()
    done = counted = 0

    def advance(count: int) -> None:
        nonlocal done, counted, printed
        now = clock()
        if not done:
            counted = count
        done += count
        if now - printed < EVERY:
            return
        speed = (done - counted) / (now - printed)
        left = f", {timedelta(seconds=round((total - done) / speed))} left" if speed > 0 and total >= done else ""
        rate = f", {_rate(speed, unit)}" if speed else ""
        elapsed = timedelta(seconds=round(now - started))
        sys.stderr.write(f"{label}: {done:,}/{total:,} {unit}{rate}, {elapsed} elapsed{left}\n")
        sys.stderr.flush()
        printed, counted = now, done

    return advance


def _rate(speed: float, unit: str) -> str:
    return f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s"
