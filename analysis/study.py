"""The numbers of a study, computed once from its saved runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.ablation import ablation_curves
from analysis.baselines import add_baselines
from analysis.coherence import label_map
from analysis.conditions import label_runs, shown_runs
from analysis.depth import depth_scores
from analysis.dose import dose_runs
from analysis.f1 import measure_categories, summarise
from analysis.predictions import Sweep
from analysis.probes import Probe, match_probes, probe_points
from analysis.visual import Visual
from analysis.yardsticks import composed_margins, measure_yardstick

MAP = ["map", "encoder", "arm", "data_seed", "permutation"]  # what tells label maps apart
POOLING = "pooled_patches"  # the paper's; the release pools over all tokens


@dataclass(frozen=True)
class Study:
    """Every table of one sweep.

    runs: index run_id, conditions with what `label_runs` adds, and map. categories: one row per run, split, group and
    category. scores: one row per run, split and group (means over categories). coherence, purity: one row per label
    map (pooling) and category. kept: one row per label map. yardsticks: as categories, one row per run, yardstick,
    group and category. depths: columns dataset_path, category, depth. probes: run_id -> the text probe of its LM.
    notes: what could not be computed, and why.
    """

    sweep: Sweep
    runs: pd.DataFrame
    categories: pd.DataFrame
    scores: pd.DataFrame
    coherence: pd.DataFrame
    kept: pd.DataFrame
    purity: pd.DataFrame
    yardsticks: pd.DataFrame
    depths: pd.DataFrame
    probes: dict[str, Probe]
    notes: tuple[str, ...]

    def test(self, group: str) -> pd.DataFrame:
        """Test scores of one group (leaf | seen | heldout), index run_id in the order of `runs`."""
        rows = self.scores[(self.scores["split"] == "test") & (self.scores["group"] == group)]
        return rows.set_index("run_id").reindex(self.runs.index)

    def hypernym_coherence(self) -> pd.DataFrame:
        """Coherence of each hypernym under each label map, pooled as in the paper: `all_pairs` is its definition."""
        rows = self.coherence[(self.coherence["pooled"] == POOLING) & (self.coherence["kind"] == "hypernym")]
        return rows[["map", "arm", "category", "all_pairs", "centred"]].astype({"all_pairs": float, "centred": float})

    @cached_property
    def yardstick_scores(self) -> pd.DataFrame:
        """Means over categories, one row per run, yardstick and group, as `scores`."""
        return self.yardsticks if self.yardsticks.empty else summarise(self.yardsticks, ["run_id", "yardstick"])

    @cached_property
    def ablation(self) -> pd.DataFrame:
        """See `analysis.ablation`."""
        return ablation_curves(self.runs, self.categories)

    @cached_property
    def dose(self) -> pd.DataFrame:
        """Runs of dose-responses, see `analysis.dose`."""
        return dose_runs(self.runs, self.scores, self.hypernym_coherence(), self.kept)

    @cached_property
    def depth(self) -> pd.DataFrame:
        """See `analysis.depth`."""
        return depth_scores(shown_runs(self.runs), self.categories, self.depths)

    @cached_property
    def text(self) -> pd.DataFrame:
        """Text probe beside held-out scores, see `analysis.probes.probe_points`."""
        return probe_points(self.runs, self.categories, self.probes)


def measure(sweep: Sweep, probes: Sequence[Probe] = ()) -> Study:
    """Compute every table. Reads each run's questions and predictions once, features once per set of images."""
    runs = label_runs(sweep.runs)
    of_run, notes = match_probes(runs, probes)
    visual = Visual()
    measured, composed, map_of_run = [], [], []
    for run_id, (_, run) in zip(map(str, runs.index), runs.iterrows(), strict=True):
        questions = sweep.questions(run_id)
        answers = sweep.answers(run_id, questions)
        # Held-out hypernyms of the validation split are never scored: tuning must not see them.
        answers = answers[(answers["split"] == "test") | (answers["group"] != "heldout")]
        measured.append(add_baselines(measure_categories(answers)).assign(run_id=run_id))
        asked = answers[answers["split"] == "test"]
        map_of_run.append(visual.see(run_id, run, label_map(questions), asked))
        if run_id in of_run:
            margin = composed_margins(asked, of_run[run_id].margins)
            if np.isnan(margin[(asked["group"] != "leaf").to_numpy()]).any():
                notes.append(
                    f"probe {of_run[run_id].path.name} lacks pairs that its runs ask about, so it is not composed with "
                    "leaf answers; probe with --negatives all"
                )
            else:
                composed.append(measure_yardstick(asked, margin).assign(run_id=run_id, yardstick="composition"))
    categories = _stacked(measured, ["run_id", "split", "group", "category"])
    yardsticks = [*visual.yardsticks, *composed]
    return Study(
        sweep,
        runs.assign(map=map_of_run),
        categories,
        summarise(categories, ["run_id"]),
        coherence=_stacked(visual.coherence, [*MAP, "pooled", "kind", "category", "all_pairs", "centred"]),
        kept=_stacked([pd.DataFrame(visual.kept)] if visual.kept else [], [*MAP, "pairs_kept", "leaves_fixed"]),
        purity=_stacked(visual.purity, [*MAP, "space", "kind", "category"]),
        yardsticks=_stacked(yardsticks, ["run_id", "yardstick", "split", "group", "category"]),
        depths=_stacked(list(visual.depths.values()), ["dataset_path", "category", "depth"]),
        probes=of_run,
        notes=(*visual.inputs.notes, *dict.fromkeys(notes)),
    )


def _stacked(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """All rows, `columns` first; with none, an empty table that has them."""
    if not tables:
        return pd.DataFrame(columns=columns)
    table = pd.concat(tables, ignore_index=True)
    return table[[*columns, *(name for name in table if name not in columns)]]


def coherence_points(study: Study) -> pd.DataFrame:
    """Held-out F1 of the pretrained LM beside coherence (all_pairs, centred): one row per setup, arm and hypernym."""
    known = study.hypernym_coherence().drop(columns="arm")
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    shown = shown_runs(study.runs)
    runs = shown.loc[shown["lm_init"] == "pretrained", ["setup", "arm", "map"]]
    rows = test[["run_id", "category", "f1"]].merge(runs, left_on="run_id", right_index=True)
    rows = rows.merge(known, on=["map", "category"])
    return rows.groupby(["setup", "arm", "category"], as_index=False)[["all_pairs", "centred", "f1"]].mean()
