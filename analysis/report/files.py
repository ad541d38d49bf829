"""A study as files: its tables, and its figures as SVG, PDF and PNG."""

import contextlib
import io
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pandas as pd

from analysis.cells import CELL, in_words
from analysis.figures.contents import Figures, draw_figures
from analysis.figures.style import Drawn
from analysis.items import Wording
from analysis.predictions import SavedRuns
from analysis.probes import Probe
from analysis.report.dictionary import describe_columns
from analysis.scores.dose import dose_table
from analysis.statistics.item_model import MOST
from analysis.study import Study, measure
from cachegen.common.files import write_atomically, write_text
from cachegen.common.system import begin_worker, cores

RESULT_COLUMNS = [
    *("macro_f1", "macro_f1_min10", "macro_f1_no_homonyms", "macro_f1_removed"),
    *("auc", "auc_no_homonyms", "auc_removed", "auc_undefined"),
    *("n_categories", "n_categories_min10", "n_homonyms", "n_removed", "accuracy", "yes_share", "gold_yes_share"),
    *("tie_share", "veridical_f1", "veridical_agreement", "by_vision", "n_disagree"),
    *("majority_f1", "coin_f1", "permuted_f1", "n_yes", "n_no"),
]
LARGE = 100_000  # rows


def results_table(study: Study) -> pd.DataFrame:
    """One row per run: conditions, then test scores of leaves, seen and held-out hypernyms, then validation F1."""
    wide = in_words(study.runs).drop(columns=["dataset_path", "store_path", "partial"])
    for group in ("leaf", "seen", "heldout"):
        wide = wide.join(study.test(group).reindex(columns=RESULT_COLUMNS).add_prefix(f"{group}_"))
    validation = study.scores[study.scores["split"] == "validation"].set_index("run_id")
    for group in ("leaf", "seen"):
        wide[f"validation_{group}_macro_f1"] = validation.loc[validation["group"] == group, "macro_f1"]
    return wide.reset_index()


def yardsticks_table(study: Study) -> pd.DataFrame:
    """One row per run, group and yardstick, the run's own answers (`run`) among them, on the same test questions."""
    columns = ["run_id", "group", "yardstick", "n_categories", "macro_f1", "macro_f1_no_homonyms", "macro_f1_removed"]
    columns += ["auc", "auc_no_homonyms", "auc_removed", "yes_share", "coin_f1", "permuted_f1"]
    if study.yardstick_scores.empty:
        return pd.DataFrame(columns=columns)
    own = study.scores[study.scores["split"] == "test"].assign(yardstick="run")
    table = pd.concat([own, study.yardstick_scores]).merge(study.runs[CELL], left_on="run_id", right_index=True)
    ordered = table.sort_values(["run_id", "group", "yardstick"], ignore_index=True)
    return ordered[["run_id", *CELL, *columns[1:]]]


def study_tables(study: Study) -> dict[str, pd.DataFrame]:
    """Every table of a study by name, in reading order; `report.dictionary` says what each and its columns hold.

    Always results, f1, heldout, contrasts, sensitivity, item_model, robustness, hypernym_tests, models,
    model_variances, model_checks, answers, reliability, categories, coherence and label_maps, empty where
    there is nothing to tell; the others where the runs, inputs and probes at hand allow them.
    """
    always = {
        "results": results_table(study),
        "f1": study.f1,
        "heldout": study.heldout,
        "contrasts": study.contrasts,
        "sensitivity": study.sensitivity,
        "item_model": study.items,
        "robustness": study.robustness,
        "hypernym_tests": study.hypernyms,
        "models": study.models,
        "model_variances": study.model_variances,
        "model_checks": study.model_checks,
        "answers": study.answering,
        "reliability": study.reliability,
        "categories": study.categories,
        "coherence": study.coherence,
        "label_maps": study.kept,
    }
    where_known = {
        "swap": study.swap,
        "yardsticks": yardsticks_table(study),
        "purity": study.purity,
        "ablation": study.ablation,
        "dose": dose_table(study.dose),
        "depth": study.depth,
        "naming": study.names_found,
        "probe": study.text,
        "transfer": study.transfer,
        "transfer_groups": study.transfer_groups,
        "lens": study.lens,
        "lens_layers": study.lens_layers,
        "lens_names": study.lens_names,
        "lens_words": study.lens_words,
    }
    found = always | {name: table for name, table in where_known.items() if not table.empty}
    return {name: in_words(table) for name, table in found.items()}


def write_tables(study: Study, out: Path) -> list[str]:
    """Write `study_tables` and what their columns mean (columns.csv); return the names of the files to look at.

    Each is written as `out/<name>.csv` and, typed and for notebooks, as `out/parquet/<name>.parquet`; of more than
    `LARGE` rows, which no spreadsheet is opened for, as Parquet only.
    """
    tables = study_tables(study)
    tables["columns"] = describe_columns(tables)
    tables["columns"]["meaning"] = tables["columns"]["meaning"].map(Wording(study))
    written = []
    for name, table in tables.items():
        parquet = f"parquet/{name}.parquet"
        write_atomically(out / parquet, partial(table.to_parquet, index=False))
        if len(table) > LARGE:
            written.append(parquet)
            continue
        text = io.StringIO()
        table.to_csv(text, index=False, float_format="%.10g", lineterminator="\n")
        write_text(out / f"{name}.csv", text.getvalue())
        written.append(f"{name}.csv")
    return written


FOLDER = "figures"
MANY_RUNS = 24  # with fewer, figures are small and a second process takes as long to start as it saves


def analyze(sweep: SavedRuns, out: Path, probes: Sequence[Probe] = (), most_items: int = MOST) -> Study:
    """Write the tables into `out` and the figures into `out/figures`; return the study that holds them all."""
    study = measure(sweep, probes, most_items)
    write_study(study, out)
    return study


def write_study(study: Study, out: Path) -> tuple[list[str], Figures, dict[str, str]]:
    """Write every table into `out` and every figure into `out/figures`; of a large study by a second process.

    Returns the tables' files to look at (`write_tables`), the figures, and the SVG text of each by name.
    """
    beside = len(study.runs) >= MANY_RUNS and cores() > 1
    context = multiprocessing.get_context("spawn")  # numerical libraries keep threads, which a fork would lose
    pool = ProcessPoolExecutor(1, context, begin_worker) if beside else None
    coming: dict[str, Future[str]] = {}

    def begin(name: str, drawn: Drawn) -> None:
        with contextlib.suppress(BrokenProcessPool):
            if pool is not None:
                coming[name] = pool.submit(drawn.write, out / FOLDER, name)

    def written(name: str, drawn: Drawn) -> str:
        with contextlib.suppress(BrokenProcessPool):  # the other process was killed, for want of memory perhaps
            if name in coming:
                return coming[name].result()
        return drawn.write(out / FOLDER, name)

    try:
        figures = draw_figures(study, begin)
        tables = write_tables(study, out)
        return tables, figures, {name: written(name, drawn) for name, drawn in figures.drawn.items()}
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
