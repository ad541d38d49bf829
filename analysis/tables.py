"""A study's CSV tables and figures as files."""

import io
from pathlib import Path

import pandas as pd

from analysis.figures import draw_figures
from analysis.predictions import Sweep
from analysis.study import Study, measure
from cachegen.files import write_text

RESULT_COLUMNS = [
    *("macro_f1", "macro_f1_min10", "macro_f1_no_homonyms", "auc", "auc_undefined", "n_categories"),
    *("n_categories_min10", "n_homonyms", "accuracy", "yes_share", "gold_yes_share", "tie_share"),
    *("veridical_agreement", "by_vision", "n_disagree", "majority_f1", "coin_f1", "permuted_f1", "n_yes", "n_no"),
]


def analyze(sweep: Sweep, out: Path) -> Study:
    """Write the CSV tables into `out` and the figures into `out/figures`; return the tables."""
    study = measure(sweep)
    write_tables(study, out)
    write_figures(study, out)
    return study


def results_table(study: Study) -> pd.DataFrame:
    """One row per run: conditions, then test scores of leaves, seen and held-out hypernyms, then validation F1."""
    wide = study.runs.drop(columns=["dataset_path", "store_path"])
    for group in ("leaf", "seen", "heldout"):
        wide = wide.join(study.test(group).reindex(columns=RESULT_COLUMNS).add_prefix(f"{group}_"))
    validation = study.scores[study.scores["split"] == "validation"].set_index("run_id")
    for group in ("leaf", "seen"):
        wide[f"validation_{group}_macro_f1"] = validation.loc[validation["group"] == group, "macro_f1"]
    return wide.reset_index()


def baselines_table(study: Study) -> pd.DataFrame:
    """One row per run, split and group: macro F1 beside the three baselines on the same questions."""
    columns = ["run_id", "split", "group", "n_categories", "macro_f1", "majority_f1", "coin_f1", "permuted_f1"]
    return study.scores[[*columns, "permuted_sd"]]


def write_tables(study: Study, out: Path) -> list[Path]:
    """Write results.csv, categories.csv, baselines.csv, coherence.csv and label_maps.csv into `out`."""
    tables = {
        "results.csv": results_table(study),
        "categories.csv": study.categories,
        "baselines.csv": baselines_table(study),
        "coherence.csv": study.coherence,
        "label_maps.csv": study.kept,
    }
    for name, table in tables.items():
        text = io.StringIO()
        table.to_csv(text, index=False, float_format="%.10g", lineterminator="\n")
        write_text(out / name, text.getvalue())
    return [out / name for name in tables]


def write_figures(study: Study, out: Path) -> dict[str, str]:
    """Write every figure to `out/figures/<name>.svg`; return file name -> SVG text."""
    figures = draw_figures(study)
    for name, svg in figures.items():
        write_text(out / "figures" / name, svg)
    return figures
