"""A study as files: its tables, and its figures as SVG, PDF and PNG, which another process writes meanwhile."""

import contextlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType

from analysis.drawing import Drawn
from analysis.figures import Figures, draw_figures
from analysis.predictions import Sweep
from analysis.probes import Probe
from analysis.study import Study, measure
from analysis.tables import write_tables
from cachegen.system import cores
from cachegen.workers import begin_worker

FOLDER = "figures"
MANY_RUNS = 24  # with fewer, figures are small and a second process takes as long to start as it saves


def analyze(sweep: Sweep, out: Path, probes: Sequence[Probe] = ()) -> Study:
    """Write the tables into `out` and the figures into `out/figures`; return the study that holds them all."""
    study = measure(sweep, probes)
    write_study(study, out)
    return study


def write_study(study: Study, out: Path) -> tuple[list[str], Figures, dict[str, str]]:
    """Write every table into `out` and every figure into `out/figures`.

    Returns the tables' files to look at (`write_tables`), the figures, and the SVG text of each by name.
    """
    with _FigureFiles(out / FOLDER, beside=len(study.runs) >= MANY_RUNS and cores() > 1) as files:
        figures = draw_figures(study, files.add)
        return write_tables(study, out), figures, files.svgs()


class _FigureFiles:
    """Writes figures into `folder` as they come: `beside` this process, or in it."""

    def __init__(self, folder: Path, beside: bool) -> None:
        self._folder = folder
        self._drawn: dict[str, Drawn] = {}
        self._coming: dict[str, Future[str]] = {}
        context = multiprocessing.get_context("spawn")  # numerical libraries keep threads, which a fork would lose
        self._pool = ProcessPoolExecutor(1, context, begin_worker) if beside else None

    def __enter__(self) -> "_FigureFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=kind is not None)

    def add(self, name: str, drawn: Drawn) -> None:
        self._drawn[name] = drawn
        if self._pool is not None:
            with contextlib.suppress(BrokenProcessPool):
                self._coming[name] = self._pool.submit(drawn.write, self._folder, name)

    def svgs(self) -> dict[str, str]:
        """SVG text of every figure, once all are written."""
        return {name: self._svg(name, drawn) for name, drawn in self._drawn.items()}

    def _svg(self, name: str, drawn: Drawn) -> str:
        with contextlib.suppress(BrokenProcessPool):  # the other process was killed, for want of memory perhaps
            if name in self._coming:
                return self._coming[name].result()
        return drawn.write(self._folder, name)
