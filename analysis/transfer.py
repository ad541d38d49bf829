"""Questions that runs were not trained on (`crosstax transfer`), scored by group like held-out hypernyms.

A set is scored like a group of hypernyms: macro F1 and AUC of each of its groups, then the mean. Where the same
questions were asked in the trained wording, each set is compared with it, group by group and seed by seed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.cells import KEYED, seed_units
from analysis.predictions import derive_answers
from analysis.scores.baselines import add_baselines
from analysis.scores.f1 import Numbered, measure_categories
from analysis.scores.means import mean_row
from analysis.statistics.difference import difference, seeds_by_hypernyms
from engine.design.question_sets import TRAINED
from engine.runs.directory import RunDirectory
from engine.runs.transfer import answered

ASKED = ["questions", "set", "kind"]
SCORES = ["n_yes", "n_no", "said_yes", "f1", "veridical_f1", "auc", "permuted_f1"]
GROUP_COLUMNS = ["run_id", *ASKED, "category", *SCORES]
MEAN_COLUMNS = [
    *KEYED, "shown", *ASKED, "n_runs", "n_seeds", "n_categories", "f1", "low", "high", "df", "boot_low", "boot_high",
    "seed_lowest", "seed_highest", "auc", "yes_share", "gold_yes_share", "permuted_f1", "veridical_f1", "basis", "note",
    "change", "change_low", "change_high", "change_p", "change_verdict", "change_auc", "change_auc_low",
    "change_auc_high", "change_auc_verdict",
]  # fmt: skip


def transfer_groups(folders: Iterable[tuple[str, Path]]) -> tuple[pd.DataFrame, list[str]]:
    """(scores of every run, set and group, notes on answers that are left out); `folders`: run id and folder.

    Columns: run_id, questions (name of the file or maker), set, kind (seen or heldout hypernyms; new: other groups),
    category (the group), n_yes, n_no, said_yes, f1, veridical_f1 (missing where the answer about the image is not
    known), auc, permuted_f1.
    """
    found, notes = [], []
    for run_id, folder in folders:
        for each, problem in answered(RunDirectory(folder)):
            if problem:
                notes.append(f"answers to {each.name} of {folder.name} are left out: {problem}; ask again")
            else:
                found.append(_scored(each.table()).assign(run_id=run_id, questions=each.name))
    if not found:
        return pd.DataFrame(columns=GROUP_COLUMNS), notes
    return pd.concat(found, ignore_index=True)[GROUP_COLUMNS], notes


def _scored(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of one table of answers, a row for each set, kind and group."""
    unknown = table["veridical"].isna()
    asked = table.assign(
        split=table["kind"],
        category=table["group"],
        group=table["set"],
        veridical=table["veridical"].fillna(table["answer"]).astype(bool),
        removed=False,
    )
    numbered = Numbered.of(asked, frozenset())
    scores = add_baselines(measure_categories(derive_answers(asked), numbered))
    silent = np.bincount(numbered.codes[unknown.to_numpy(bool)], minlength=len(scores)) > 0
    scores["veridical_f1"] = scores["veridical_f1"].mask(silent)
    return scores.rename(columns={"split": "kind", "group": "set"})[["set", "kind", "category", *SCORES]]


def transfer_means(runs: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, questions, set and kind, in the order of `runs`; the trained wording first.

    Columns as in `analysis.scores.means.f1_means` (categories are groups of questions); veridical_f1, yes_share,
    gold_yes_share; and of macro F1 less that of the trained wording change, its 95 % interval change_low, change_high,
    change_p, change_verdict, and the same of AUC: change_auc, change_auc_low, change_auc_high, change_auc_verdict.
    """
    about = runs[[*KEYED, "shown"]].assign(seed=seed_units(runs))
    rows = groups.merge(about, left_on="run_id", right_index=True)
    means = []
    for each in runs[KEYED].drop_duplicates("cell").to_dict("records"):
        key = {str(name): value for name, value in each.items()}
        own = rows[[cell == key["cell"] for cell in rows["cell"]]] if len(rows) else rows
        for (questions, kind), here in own.groupby(["questions", "kind"], sort=True):
            trained = here[here["set"] == TRAINED]
            names = sorted(here["set"].unique(), key=lambda name: (name != TRAINED, name))
            for name in names:
                part = here[here["set"] == name]
                asked = (part["n_yes"] + part["n_no"]).sum()
                row = {**key, "shown": bool(part["shown"].all()), "questions": questions, "set": name, "kind": kind}
                row |= mean_row(part)
                row |= {name: part[name].mean() for name in ("auc", "permuted_f1")}
                row |= {"veridical_f1": part["veridical_f1"].mean(skipna=False)}
                row |= {"yes_share": part["said_yes"].sum() / asked, "gold_yes_share": part["n_yes"].sum() / asked}
                means.append(row | (_change(part, trained) if name != TRAINED and len(trained) else {}))
    return pd.DataFrame(means, columns=MEAN_COLUMNS)


def _change(part: pd.DataFrame, trained: pd.DataFrame) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value, unit in (("change", "f1", "points"), ("change_auc", "auc", "AUC")):
        tables = [seeds_by_hypernyms(rows, value) for rows in (part, trained)]
        if not len(tables[0].columns.intersection(tables[1].dropna(axis=1, how="all").columns)):
            continue
        gap = difference(*tables, unit=unit)
        found |= {name: gap.estimate, f"{name}_low": gap.low, f"{name}_high": gap.high, f"{name}_verdict": gap.verdict}
        found |= {"change_p": gap.p} if name == "change" else {}
    return found


def transfer_scores(folders: Sequence[Path], names: Sequence[str]) -> pd.DataFrame:
    """Means over groups of single runs: run, questions, set, kind, f1, auc, asked, yes_share."""
    groups, _ = transfer_groups((folder.name, folder) for folder in folders)
    groups = groups[groups["questions"].isin(names)]
    groups = groups.assign(asked=groups["n_yes"] + groups["n_no"])
    means = groups.groupby(["run_id", *ASKED], sort=False).agg(
        f1=("f1", "mean"), auc=("auc", "mean"), asked=("asked", "sum"), said=("said_yes", "sum")
    )
    means = means.assign(yes_share=means.pop("said") / means["asked"]).reset_index()
    return means.rename(columns={"run_id": "run"})


def transfer_text(scores: pd.DataFrame) -> str:
    """Lines for people: each set, means over the runs that were asked."""
    lines = []
    for (questions, name, kind), rows in scores.groupby(ASKED, sort=False):
        lines.append(
            f"{questions}: {name} ({kind}): macro F1 {rows['f1'].mean():.1f}, AUC {rows['auc'].mean():.3f}, said yes "
            f"{rows['yes_share'].mean():.0%}, {len(rows)} runs"
        )
    return "\n".join(lines)
