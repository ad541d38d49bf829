"""All tables of a study, computed from its saved runs."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells import CELL, KEYED, PROVENANCE, Names, label_runs, shown_runs
from analysis.lens import Lenses, layer_means, name_means, read_lenses, rise_means, word_means
from analysis.predictions import SavedRuns, derive_answers, question_groups
from analysis.probes import OfRun, Probe, first_method, match_probes, probe_points
from analysis.scores.ablation import ablation_curves
from analysis.scores.baselines import add_baselines
from analysis.scores.calibration import answer_bins, answers_table, reliability_table
from analysis.scores.coherence import LabelMap, label_map
from analysis.scores.dose import dose_runs
from analysis.scores.f1 import Numbered, measure_categories, summarise
from analysis.scores.means import depth_scores, f1_means, heldout_means
from analysis.scores.naming import NAMING, name_scores, naming_means
from analysis.scores.visual import Visual
from analysis.scores.yardsticks import composed_margins, measure_yardstick
from analysis.statistics.contrasts import Contrast, all_contrasts, contrast_table, measure_table
from analysis.statistics.hypernym_tests import hypernym_tests
from analysis.statistics.item_model import MOST, item_table
from analysis.statistics.models import Fitted, checks_table, effects_table, fit_models, variances_table
from analysis.statistics.robustness import Answers, HeldoutQuestions, robustness_table
from analysis.statistics.swap_tests import swap_tests
from analysis.transfer import GROUP_COLUMNS, transfer_groups, transfer_means
from analysis.tuning import EXPLORATORY, Tuning, read_tuning
from cachegen.common.progress import progress_bar

MAP = ["map", "cell_labels", "encoder", "arm", "data_seed", "permutation"]  # what tells label maps apart
POOLING = "pooled_patches"  # the paper's; the release pools over all tokens


@dataclass(frozen=True)
class Study:
    """Every table of one sweep, as a pandas frame; made by `measure`. The properties are computed on first use.

        study = measure(load_sweep(Path("runs")))
        study.f1, study.contrasts, study.models

    Columns are explained in `columns.csv`, which `crosstax analyze` writes; `cell` (see `analysis.cells`), by which
    tables are joined, is not written. F1 is in points (0..100), AUC in 0..1.

    Attributes:
        sweep: The runs it is computed from.
        runs: Index run_id. The conditions, the columns that `analysis.cells.label_runs` adds, and map.
        categories: One row per run, split, group (leaf, seen, heldout) and category.
        scores: One row per run, split and group: means over categories.
        coherence: Visual coherence (section 5), one row per label map, pooling and category.
        kept: One row per label map: how many pairs and leaves it left as they were.
        purity: Share of nearest neighbours in the same category, one row per label map and category.
        yardsticks: Controls without an LM, one row per run, yardstick, group and category.
        depths: Columns dataset_path, category, depth.
        naming: Scores of the task `name` over all candidates, one row per run, group and category.
        answer_bins: Answers by run, group and bin of confidence: see `analysis.scores.calibration`.
        probes: The text probes of each run's LM, by run_id: see `analysis.probes.match_probes`.
        answers: Held-out test questions and answers of the headline's runs, by run_id.
        notes: What could not be computed, and why.
        transfer_groups: Answers to questions beyond the runs' own, see `analysis.transfer.transfer_groups`.
        lenses: What `crosstax lens` read out of single runs, see `analysis.lens.Lenses`.
        most_items: Answers that models of single answers may take.
    """

    sweep: SavedRuns
    runs: pd.DataFrame
    categories: pd.DataFrame
    scores: pd.DataFrame
    coherence: pd.DataFrame
    kept: pd.DataFrame
    purity: pd.DataFrame
    yardsticks: pd.DataFrame
    depths: pd.DataFrame
    naming: pd.DataFrame
    answer_bins: pd.DataFrame
    probes: OfRun
    answers: Answers
    notes: tuple[str, ...]
    transfer_groups: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=GROUP_COLUMNS))
    lenses: Lenses = field(default_factory=lambda: read_lenses(()))
    most_items: int = MOST

    def test(self, group: str) -> pd.DataFrame:
        """Test scores of one group ("leaf", "seen" or "heldout"); index run_id, in the order of `runs`."""
        rows = self.scores[(self.scores["split"] == "test") & (self.scores["group"] == group)]
        return rows.set_index("run_id").reindex(self.runs.index)

    def hypernym_coherence(self) -> pd.DataFrame:
        """Coherence of each hypernym under each label map, pooled as in the paper: `all_pairs` is its definition."""
        rows = self.coherence[(self.coherence["pooled"] == POOLING) & (self.coherence["kind"] == "hypernym")]
        return rows[["map", "category", "all_pairs", "centred"]].astype({"all_pairs": float, "centred": float})

    @cached_property
    def names(self) -> Names:
        """Words for the cells of the headline."""
        return Names(self.runs["cell"], shown_runs(self.runs)["cell"])

    @cached_property
    def all_names(self) -> Names:
        """The same where cells stand beside those of the headline."""
        return Names(self.runs["cell"])

    @cached_property
    def yardstick_scores(self) -> pd.DataFrame:
        """Means over categories, one row per run, yardstick and group, as `scores`."""
        return self.yardsticks if self.yardsticks.empty else summarise(self.yardsticks, ["run_id", "yardstick"])

    @cached_property
    def f1(self) -> pd.DataFrame:
        """Test F1 of every condition and group, with intervals: see `analysis.scores.means.f1_means`."""
        return f1_means(self.runs, self.categories)

    @cached_property
    def heldout(self) -> pd.DataFrame:
        """Held-out F1 over parts of the hypernyms, against labels and against what the image shows."""
        return heldout_means(self.runs, self.categories)

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """Differences on held-out hypernyms: those fixed in advance first, then exploratory ones."""
        return contrast_table(self.compared)

    @cached_property
    def compared(self) -> list[Contrast]:
        """The same as objects, each with its decision: see `analysis.statistics.contrasts.all_contrasts`."""
        return all_contrasts(self.runs, self.categories, self.yardsticks)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """The confirmatory ones by AUC, d' and criterion: see `analysis.statistics.contrasts.measure_table`."""
        return measure_table(self.compared)

    @cached_property
    def items(self) -> pd.DataFrame:
        """Logistic models of single answers, see `analysis.statistics.item_model.item_table`."""
        return item_table(self.compared, self.runs, self.answers, self.most_items)

    @cached_property
    def robustness(self) -> pd.DataFrame:
        """The confirmatory contrasts on drawn leaves and at depth 1: see `analysis.statistics.robustness`."""
        return robustness_table(self.compared, self.runs, self.categories, self.answers, self.depths)

    @cached_property
    def hypernyms(self) -> pd.DataFrame:
        """Tests of single hypernyms, Holm-adjusted, see `analysis.statistics.hypernym_tests`."""
        return hypernym_tests(self.runs, self.categories, self.compared)

    @cached_property
    def swap(self) -> pd.DataFrame:
        """The hypernym-level swap by several tests, see `analysis.statistics.swap_tests`."""
        return swap_tests(self.runs, self.categories, self.compared)

    @cached_property
    def fitted(self) -> list[Fitted]:
        """The mixed models, confirmatory ones first, see `analysis.statistics.models`."""
        return fit_models(shown_runs(self.runs), self.categories, self.hypernym_coherence(), first_method(self.text))

    @cached_property
    def models(self) -> pd.DataFrame:
        """Fixed effects of the mixed models, see `analysis.statistics.models.effects_table`."""
        return effects_table(self.fitted, self.compared)

    @cached_property
    def model_variances(self) -> pd.DataFrame:
        """Random effects of the mixed models, see `analysis.statistics.models.variances_table`."""
        return variances_table(self.fitted)

    @cached_property
    def model_checks(self) -> pd.DataFrame:
        """Residuals of the mixed models, see `analysis.statistics.models.checks_table`."""
        return checks_table(self.fitted)

    @cached_property
    def answering(self) -> pd.DataFrame:
        """Probability off yes and no, ties, bias and calibration error, see `scores.calibration.answers_table`."""
        return answers_table(self.runs, self.answer_bins, self.scores)

    @cached_property
    def reliability(self) -> pd.DataFrame:
        """Reliability diagrams as a table, see `analysis.scores.calibration.reliability_table`."""
        return reliability_table(self.runs, self.answer_bins)

    @cached_property
    def ablation(self) -> pd.DataFrame:
        """Held-out and seen F1 at each ablation level: see `analysis.scores.ablation`."""
        return ablation_curves(self.runs, self.categories)

    @cached_property
    def dose(self) -> pd.DataFrame:
        """Held-out F1 beside the shuffled share of leaves: see `analysis.scores.dose`."""
        return dose_runs(self.runs, self.scores, self.hypernym_coherence(), self.kept)

    @cached_property
    def depth(self) -> pd.DataFrame:
        """F1 by depth of the hypernym: see `analysis.scores.means.depth_scores`."""
        return depth_scores(shown_runs(self.runs), self.categories, self.depths)

    @cached_property
    def names_found(self) -> pd.DataFrame:
        """How often the best of all candidate names is true: see `analysis.scores.naming`."""
        return naming_means(shown_runs(self.runs), self.naming)

    @cached_property
    def tuning(self) -> Tuning | None:
        """The tuning study whose best trial these runs are; None if there is none."""
        return read_tuning(self.sweep.folder)

    @cached_property
    def text(self) -> pd.DataFrame:
        """Text probe beside held-out scores, see `analysis.probes.probe_points`."""
        return probe_points(self.runs, self.categories, self.probes)

    @cached_property
    def transfer(self) -> pd.DataFrame:
        """Other questions beside the trained wording, see `analysis.transfer.transfer_means`."""
        return transfer_means(self.runs, self.transfer_groups)

    @cached_property
    def lens(self) -> pd.DataFrame:
        """The layer at which answers rise, by cell and group: see `analysis.lens.rise_means`."""
        return rise_means(self.runs, self.lenses.layers)

    @cached_property
    def lens_layers(self) -> pd.DataFrame:
        """What each layer would answer, see `analysis.lens.layer_means`."""
        return layer_means(self.runs, self.lenses.layers)

    @cached_property
    def lens_names(self) -> pd.DataFrame:
        """Whether nearness to patches tells an image's own names, see `analysis.lens.name_means`."""
        return name_means(self.runs, self.lenses.names)

    @cached_property
    def lens_words(self) -> pd.DataFrame:
        """How often names are nearest to patches, see `analysis.lens.word_means`."""
        return word_means(self.runs, self.lenses.words)


def measure(sweep: SavedRuns, probes: Sequence[Probe] = (), most_items: int = MOST) -> Study:
    """Score all runs of a sweep. Question tables, answers and pooled features are read once.

    Args:
        sweep: The runs, from `load_sweep`.
        probes: Text probes of their LMs, from `analysis.probes.read_probes`.
        most_items: Answers that models of single answers may take, see `analysis.statistics.item_model`.

    Returns:
        The study. What cannot be computed is left out, and its `notes` say why.
    """
    runs = label_runs(sweep.runs)
    of_run, notes = match_probes(runs, probes)
    visual = Visual(sweep)
    measured: dict[str, pd.DataFrame] = {}
    bins: dict[str, pd.DataFrame] = {}
    composed = []
    held: dict[str, tuple[HeldoutQuestions, NDArray[np.bool_]]] = {}
    seen: list[Future[dict[str, str]]] = []
    # What is read off features is mostly matrix products, which leave this thread free meanwhile.
    with ThreadPoolExecutor(1) as beside, progress_bar("measure", len(runs), "runs") as advance:
        for run_ids in _same_questions(sweep, runs):
            questions = sweep.questions(run_ids[0])
            asked = questions[questions["split"] != "train"].reset_index(drop=True)
            asked = asked.assign(group=question_groups(asked))
            # Held-out hypernyms of the validation split are never scored: tuning must not see them.
            scored = ((asked["split"] == "test") | (asked["group"] != "heldout")).to_numpy(bool)
            kept = asked[scored]
            numbered = Numbered.of(kept)
            test = (kept["split"] == "test").to_numpy(bool)
            unseen = test & (kept["group"] == "heldout").to_numpy(bool)
            heldout = HeldoutQuestions.of(kept[unseen])
            seen.append(beside.submit(_see, visual, runs.loc[run_ids], label_map(questions), kept[test]))
            for run_id in run_ids:
                answers = derive_answers(kept.join(sweep.opened[run_id].logits(asked)))
                measured[run_id] = add_baselines(measure_categories(answers, numbered)).assign(run_id=run_id)
                if runs.at[run_id, "shown"] and unseen.any():
                    held[run_id] = (heldout, answers.loc[unseen, "predicted"].to_numpy(bool))
                says = runs.at[run_id, "task"] == "verify"  # names say no yes or no
                bins[run_id] = answer_bins(answers if says else answers.iloc[:0]).assign(run_id=run_id)
                advance(1)
                if run_id not in of_run:
                    continue
                probe = of_run[run_id][0]
                margin = composed_margins(answers[test], probe.margins)
                if np.isnan(margin[(answers.loc[test, "group"] != "leaf").to_numpy()]).any():
                    notes.append(
                        f"probe {probe.path.name} lacks pairs that its runs ask about, so it is not composed "
                        "with leaf answers; probe with --negatives all"
                    )
                else:
                    found = measure_yardstick(answers[test], margin)
                    composed.append(found.assign(run_id=run_id, yardstick="composition"))
    map_of_run = {run_id: name for future in seen for run_id, name in future.result().items()}
    order = list(map(str, runs.index))
    categories = _stacked([measured[run_id] for run_id in order], ["run_id", "split", "group", "category"])
    yardsticks = [*visual.yardsticks, *composed]
    folders = [(run_id, sweep.opened[run_id].directory.path) for run_id in order]
    others, silent = transfer_groups(folders)
    lenses = read_lenses(folders)
    notes += [*silent, *lenses.notes]
    tuning = read_tuning(sweep.folder)
    caution = [EXPLORATORY] if tuning is not None and tuning.exploratory else []
    return Study(
        sweep,
        runs.assign(map=[map_of_run[run_id] for run_id in order]),
        categories,
        summarise(categories, ["run_id"]),
        coherence=_stacked(visual.coherence, [*MAP, "pooled", "kind", "category", "all_pairs", "centred"]),
        kept=_stacked([pd.DataFrame(visual.kept)] if visual.kept else [], [*MAP, "pairs_kept", "leaves_fixed"]),
        purity=_stacked(visual.purity, [*MAP, "space", "kind", "category"]),
        yardsticks=_stacked(yardsticks, ["run_id", "yardstick", "split", "group", "category"]),
        depths=_stacked(list(visual.depths.values()), ["dataset_path", "category", "depth"]),
        naming=_stacked(_named(sweep, runs, visual.depths), ["run_id", *NAMING]),
        answer_bins=_stacked([bins[run_id] for run_id in order], ["run_id", "group", "bin"]),
        probes=of_run,
        answers=held,
        notes=(*sweep.inputs.left_out, *caution, *dict.fromkeys(notes)),
        transfer_groups=others,
        lenses=lenses,
        most_items=most_items,
    )


def _named(sweep: SavedRuns, runs: pd.DataFrame, depths: Mapping[str, pd.DataFrame]) -> list[pd.DataFrame]:
    """`name_scores` of each run that names."""
    found = []
    for run_id in map(str, runs.index[runs["task"] == "name"]):
        questions = sweep.questions(run_id)
        asked = questions[(questions["split"] == "test") & questions["answer"]]
        known = depths.get(str(runs.at[run_id, "dataset_path"]), pd.DataFrame(columns=["category", "depth"]))
        scores = name_scores(sweep.opened[run_id].names(), asked.assign(group=question_groups(asked)), known)
        found.append(scores.assign(run_id=run_id))
    return found


def _same_questions(sweep: SavedRuns, runs: pd.DataFrame) -> list[list[str]]:
    """The runs, those with the same question table together."""
    groups: dict[str, list[str]] = {}
    for run_id in map(str, runs.index):
        groups.setdefault(sweep.questions_digest(run_id), []).append(run_id)
    return list(groups.values())


def _see(visual: Visual, runs: pd.DataFrame, images: LabelMap, asked: pd.DataFrame) -> dict[str, str]:
    """Let `visual` take in runs that ask the same questions, those that also share inputs once; run_id -> label map."""
    maps: dict[str, str] = {}
    labels = runs["cell"].map(lambda cell: cell.labels)
    for _, alike in runs.groupby([*PROVENANCE, labels], sort=False, dropna=False):
        first, *others = map(str, alike.index)
        before = len(visual.yardsticks)
        name = visual.see(first, alike.iloc[0], images, asked)
        own = visual.yardsticks[before:]
        visual.yardsticks += [table.assign(run_id=other) for other in others for table in own]
        maps |= dict.fromkeys((first, *others), name)
    return maps


def _stacked(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """All rows, `columns` first; with none, an empty table that has them."""
    if not tables:
        return pd.DataFrame(columns=columns)
    table = pd.concat(tables, ignore_index=True)
    return table[[*columns, *(name for name in table if name not in columns)]]


def coherence_points(study: Study) -> pd.DataFrame:
    """Held-out F1 of the pretrained LM beside coherence (all_pairs, centred): one row per cell and hypernym."""
    known = study.hypernym_coherence()
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    shown = shown_runs(study.runs)
    runs = shown.loc[shown["lm_init"] == "pretrained", [*KEYED, "map"]]
    rows = test[["run_id", "category", "f1"]].merge(runs, left_on="run_id", right_index=True)
    rows = rows.merge(known, on=["map", "category"])
    means = rows.groupby([*KEYED, "category"], sort=False)[["all_pairs", "centred", "f1"]].mean().reset_index()
    return means.sort_values([*CELL, "category"], ignore_index=True)
