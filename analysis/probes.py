"""Text probes beside runs: which probe belongs to which run, and what the LM knows in text beside what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cells import CELL, KEYED, shown_runs
from analysis.scores.probe import METHODS, margins, probe_scores, read_probe
from cachegen.common.errors import RunError

TEXT = {
    "f1": "text_f1", "item_f1": "text_item_f1", "auc": "text_auc", "top1": "text_top1", "minimal_pairs": "text_pairs",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Probe:
    """One probe's answers (see `analysis.scores.probe`) and the record beside them."""

    path: Path
    table: pd.DataFrame
    record: dict[str, Any]

    @property
    def method(self) -> str:
        """How it was probed: by "question" or "plausibility"."""
        return str(self.record.get("method", "question"))

    @cached_property
    def margins(self) -> pd.Series:
        """Margin (`analysis.scores.probe.margins`) of each (leaf, hypernym) pair, mean over phrasings."""
        return margins(self.table).groupby([self.table["leaf"], self.table["hypernym"]]).mean()

    def fits(self, run: pd.Series) -> bool:
        """Whether it is of the run's LM (same weights) and of its dataset."""
        about = self.record
        same = about["lm_digest"] == run["lm_digest"] and about["dataset_digest"] == run["dataset_digest"]
        seed = run["lm_init"] == "pretrained" or int(about.get("lm_seed", 0)) == int(run["lm_seed"])
        return bool(same and seed and about.get("lm_init", "pretrained") == run["lm_init"])


OfRun = dict[str, list[Probe]]  # run_id -> probes of its LM, at most one of each method, questions first


def read_probes(paths: Sequence[Path]) -> list[Probe]:
    """Probes from files written by `crosstax probe`, or all of a folder.

    Raises RunError for one that cannot be read, and for a folder without any.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not inside:
            raise RunError(f"no .parquet file in {path}; give a probe, or the folder that `crosstax probe` wrote to")
        files += inside
    return [Probe(path, *read_probe(path)) for path in files]


def match_probes(runs: pd.DataFrame, probes: Sequence[Probe]) -> tuple[OfRun, list[str]]:
    """(the probes of each run's LM, notes on probes that fit no run). Raises RunError where two of a method fit one."""
    found: OfRun = {}
    used = set()
    for run_id, run in runs.iterrows():
        for method in METHODS:
            fitting = [n for n, probe in enumerate(probes) if probe.method == method and probe.fits(run)]
            if len(fitting) > 1:
                one, other = (probes[number].path for number in fitting[:2])
                raise RunError(f"{one} and {other} are probes of one LM; give one of them")
            if fitting:
                found.setdefault(str(run_id), []).append(probes[fitting[0]])
                used.add(fitting[0])
    unused = [probe.path.name for number, probe in enumerate(probes) if number not in used]
    return found, [f"probe {name} fits no run: its LM, its weights or its dataset are others" for name in unused]


def probe_points(runs: pd.DataFrame, categories: pd.DataFrame, probes: OfRun) -> pd.DataFrame:
    """What is known in text beside what is answered about images: one row per shown cell, method and hypernym.

    Columns: cell and its words (setup, arm, lm_init), method, category, text_f1 (macro F1 of the probe, mean over
    phrasings), text_item_f1 (over the leaves' items, as the paper relates it to images), text_auc, text_top1,
    text_pairs (see `analysis.scores.probe.forced_choice`), and f1, auc, permuted_f1 of held-out test questions; means
    over the cell's runs.
    """
    about = shown_runs(runs)
    about = about[about.index.isin(probes)]
    if about.empty:
        return pd.DataFrame(columns=[*KEYED, "method", "category", *TEXT.values(), "f1", "auc", "permuted_f1"])
    each = {id(probe): probe for own in probes.values() for probe in own}  # many runs have the same one
    scored = {key: probe_scores(probe.table) for key, probe in each.items()}
    text = {key: table.groupby("hypernym")[list(TEXT)].mean().rename(columns=TEXT) for key, table in scored.items()}
    known = pd.concat(
        {(run_id, probe.method): text[id(probe)] for run_id in about.index for probe in probes[run_id]},
        names=["run_id", "method", "category"],
    )
    test = categories[(categories["split"] == "test") & (categories["group"] == "heldout")]
    rows = test[["run_id", "category", "f1", "auc", "permuted_f1"]].merge(
        known.reset_index(), on=["run_id", "category"]
    )
    rows = rows.merge(about[KEYED], left_on="run_id", right_index=True)
    values = [*TEXT.values(), "f1", "auc", "permuted_f1"]
    means = rows.groupby([*KEYED, "method", "category"], sort=False)[values].mean().reset_index()
    return means.sort_values([*CELL, "method", "category"], ignore_index=True)


def first_method(text: pd.DataFrame) -> pd.DataFrame:
    """The rows of `probe_points` for what takes one probe of a cell: questions, or else plausibility."""
    asked = set(text.loc[text["method"] == "question", "cell"])
    return text[(text["method"] == "question") | ~text["cell"].isin(asked)].reset_index(drop=True)
