"""Commands that turn saved predictions, ours or the authors', into tables, figures and a report."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from commands.options import DatasetPlaces, Json, OutFolder, ProbeFiles, StorePlaces, print_json, say


def analyze(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep folder.")],
    out: OutFolder = Path("results"),
    probe: ProbeFiles = None,
    dataset: DatasetPlaces = None,
    features: StorePlaces = None,
    r: Annotated[bool, typer.Option("--r", help="Write the mixed models as an R script with its data too.")] = False,
    items: Annotated[
        bool,
        typer.Option("--items", help="Fit all models of single answers; of a large study that takes minutes each."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute every table and figure of a sweep.

    Each table is written as CSV and Parquet. columns.csv says what their columns mean. A summary is printed. With --r
    the folder r/ has the mixed models for R: models.R (lme4, lmerTest, emmeans) and data.csv.

    Example: crosstax analyze runs --probe probe/lm.parquet --out results
    """
    from analysis.predictions import load_sweep
    from analysis.probes import read_probes
    from analysis.report.files import analyze as run
    from analysis.report.summary import essentials, overview
    from cachegen.common.progress import console

    started = time.perf_counter()
    sweep, probes = load_sweep(folder, dataset or [], features or []), read_probes(probe or [])
    study = run(sweep, out, probes, sys.maxsize) if items else run(sweep, out, probes)
    if r:
        from analysis.statistics.r_script import write_r

        say(f"mixed models for R: {write_r(study.fitted, out)}")
    console.print(overview(study))
    say(f"tables and figures: {out} ({time.perf_counter() - started:.1f} s)")
    print_json({"out": str(out), **essentials(study)}, as_json)


def reanalyze(
    release: Annotated[Path, typer.Argument(metavar="RELEASE_DIR", help="The authors' release, or any part of it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for a page, claims.csv, means.csv and claims.json."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute the paper's statistics from the authors' release.

    Each published number is printed beside the recomputed one, what differs first: it reproduces, it does not, or
    another analysis of the same files gives another answer.

    Example: crosstax reanalyze cross-modal-taxonomic-gen --out reanalysis
    """
    from analysis.release.reanalyze import reanalysis_text, write_reanalysis
    from analysis.release.reanalyze import reanalyze as run
    from cachegen.common.progress import console

    started = time.perf_counter()
    found = run(release)
    console.print(reanalysis_text(found, console.width))
    if out is not None:
        write_reanalysis(found, out)
        say(f"page, claims and means: {out}")
    say(f"done in {time.perf_counter() - started:.1f} s")
    print_json(found.as_json(), as_json)


def report(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Sweep folder.")],
    out: OutFolder = Path("report"),
    world: Annotated[Path | None, typer.Option(help="The generated world that the sweep ran on, if any.")] = None,
    probe: ProbeFiles = None,
    dataset: DatasetPlaces = None,
    features: StorePlaces = None,
    as_json: Json = False,
) -> None:
    """Write a self-contained HTML page about a sweep.

    Example: crosstax report runs --probe probe/lm.parquet --out report
    """
    from analysis.predictions import load_sweep
    from analysis.probes import read_probes
    from analysis.report.report import write_report

    sweep = load_sweep(folder, dataset or [], features or [])
    summary = write_report(sweep, out, world=world, seconds={}, probes=read_probes(probe or []))
    for line in sweep.inputs.left_out:
        say(f"LEFT OUT: {line}")
    say(f"report: {summary['report']}")
    print_json(summary, as_json)
