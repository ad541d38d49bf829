"""What each table of a study holds, and what its columns mean and count in: captions, and the file columns.csv.

A column of one name means the same in every table, but for those named with their table ("ablation.kind"). Macro F1 is
in points, 0 to 100, as in the paper.
"""

from collections.abc import Mapping

import pandas as pd

CAPTIONS = {
    "results": "One row per run: its settings, then test scores of leaves, seen and held-out hypernyms.",
    "f1": "Macro F1 on test questions of every condition, mean over categories and seeds, with 95 % intervals that "
    "draw both anew: a crossed bootstrap, and the mixed model f1 ~ 1 + (1 | seed) + (1 | category).",
    "heldout": "Macro F1 of held-out hypernyms over all of them and over parts (no homonyms, at least ten questions of "
    "each answer, removed only), against the answers under the label map (gold) and against the truth about the image "
    "(veridical).",
    "contrasts": "Differences in held-out macro F1, paired by hypernym: those fixed in advance first, then exploratory "
    "ones, with t intervals over hypernyms, crossed bootstrap intervals, and equivalence tests at 5 points.",
    "hypernym_tests": "Single hypernyms, adjusted for their number (Holm): held-out F1 above the run’s own answers "
    "permuted, and the contrasts fixed in advance, by Welch’s t over seeds.",
    "models": "Fixed effects of the mixed models of held-out macro F1 (REML, Satterthwaite’s degrees of freedom), each "
    "with an equivalence test at 5 points.",
    "model_variances": "Random effects of the mixed models: standard deviations and correlations.",
    "model_checks": "Residuals of the mixed models: are they normal, and as wide at low as at high fitted values?",
    "answers": "How each condition answers: share of yes, ties, probability on neither answer, calibration error.",
    "reliability": "Reliability diagrams as a table: in bins of p(yes | yes or no), its mean beside the share of "
    "questions whose right answer is yes.",
    "categories": "One row per run, split, group and category: F1, AUC, numbers of questions and answers, baselines.",
    "baselines": "Macro F1 of every run, split and group beside three baselines on the same questions.",
    "coherence": "Visual coherence of every category under each label map.",
    "label_maps": "What each label map left in place.",
    "swap": "The hypernym-level swap against its control by four tests of the same F1 values.",
    "yardsticks": "Every run beside its yardsticks on the same test questions.",
    "comparisons": "Every condition less each yardstick, paired by hypernym, with 95 % t intervals.",
    "purity": "Share of an image’s nearest training images that are of its category, under each label map.",
    "ablation": "Test scores by how much was withheld.",
    "dose": "Held-out scores by the share of leaves whose labels were shuffled.",
    "depth": "Held-out scores by depth of the hypernym; depth 1 is directly above the leaves.",
    "probe": "What the LM knows of each hypernym in text beside held-out scores.",
    "columns": "What each column of each table means.",
}
POINTS, SHARE, COUNT, TEXT, TRUTH, NUMBER = "points, 0 to 100", "0 to 1", "count", "text", "true or false", "number"
DIFFERENCE = "points"
SETTING = ("setting of the run", "")  # columns of the runs that are not named below
PREFIXES = {
    "validation_leaf_": "validation, leaves",
    "validation_seen_": "validation, seen hypernyms",
    "leaf_": "test, leaves",
    "seen_": "test, seen hypernyms",
    "heldout_": "test, held-out hypernyms",
}
COLUMNS: dict[str, tuple[str, str]] = {
    # which row
    "run_id": ("name of the run's folder", TEXT),
    "setup": ("all that tells runs apart but seeds, labels and the LM's weights; empty where there is one", TEXT),
    "shown_setup": ("setup, as named among the runs of the headline", TEXT),
    "series": ("setup without its level of ablation", TEXT),
    "shown": ("of the headline: the strongest ablation of its series, all leaves shuffled", TRUTH),
    "arm": ("labels: original, across (with its dose where partial), within or swap", TEXT),
    "lm_init": ("weights of the LM: pretrained or random", TEXT),
    "split": ("validation or test", TEXT),
    "group": ("leaf, seen or heldout: leaves; hypernyms whose questions were trained on, or withheld", TEXT),
    "category": ("leaf or hypernym", TEXT),
    "map": ("label map: which leaf's images carry which label, over one dataset and feature store", TEXT),
    "status": ("confirmatory: fixed before any result; or exploratory", TEXT),
    "labels": ("gold: answers under the label map; veridical: the truth about the image", TEXT),
    "over": ("which categories the mean is over", TEXT),
    "above": ("what is compared", TEXT),
    "below": ("what it is compared with", TEXT),
    "yardstick": ("knn and knn_whitened: neighbours of other leaves; oracle; composition; run: the run itself", TEXT),
    "table": ("name of the table", TEXT),
    "column": ("name of the column", TEXT),
    "meaning": ("what it holds", TEXT),
    "unit": ("what an estimate counts in", TEXT),
    "columns.unit": ("what it counts in", TEXT),
    # settings of runs and label maps
    "kind": ("random or systematic ablation, with its variant where there are several", TEXT),
    "contrasts.kind": ("contrast; chance: against its own answers permuted; yardstick; setup; swap", TEXT),
    "coherence.kind": ("leaf or hypernym", TEXT),
    "purity.kind": ("leaf or hypernym", TEXT),
    "ablation": ("percent of each hypernym's leaves withheld; of systematic ablation, hypernyms removed", NUMBER),
    "dose": ("share of the leaves that were shuffled", "percent"),
    "rule": ("rule of the across-category shuffle", TEXT),
    "depth": ("levels above the leaves", COUNT),
    "encoder": ("image encoder", TEXT),
    "lm": ("language model", TEXT),
    "data_seed": ("seed of split, negatives, ablation sample and shuffle", NUMBER),
    "permutation": ("which permutation of the data seed", NUMBER),
    # numbers of things
    "n_runs": ("runs", COUNT),
    "n_runs_above": ("runs above", COUNT),
    "n_runs_below": ("runs below", COUNT),
    "n_seeds": ("seeds: runs, or where data seeds, permutations or random LMs vary, these", COUNT),
    "n_seeds_above": ("seeds above", COUNT),
    "n_seeds_below": ("seeds below", COUNT),
    "n_categories": ("categories", COUNT),
    "n_categories_min10": ("categories with at least ten questions of each answer", COUNT),
    "n_hypernyms": ("hypernyms", COUNT),
    "n_homonyms": ("hypernyms whose name a leaf carries", COUNT),
    "n_removed": ("hypernyms that a systematic ablation removed", COUNT),
    "n_questions": ("questions of one run", COUNT),
    "n_yes": ("questions whose answer is yes", COUNT),
    "n_no": ("questions whose answer is no", COUNT),
    "n_veridical_yes": ("questions whose answer is yes by the image", COUNT),
    "n_disagree": ("questions on which label map and image disagree", COUNT),
    "n_leaves": ("leaves", COUNT),
    "n_images": ("training images", COUNT),
    "n_control": ("values of the control that enter", COUNT),
    "n_swapped": ("values of the swap that enter", COUNT),
    "n": ("rows of the model", COUNT),
    "reliability.n": ("questions, of all runs", COUNT),
    "auc_undefined": ("categories with one answer only, whose AUC is undefined", COUNT),
    "said_yes": ("questions answered yes", COUNT),
    "ties": ("questions on which yes and no are equally probable (counted as yes)", COUNT),
    "right": ("questions answered right", COUNT),
    "agrees": ("questions answered as is true of the image", COUNT),
    "disagree_yes": ("questions with yes by the image and no by the label map", COUNT),
    "disagree_yes_by_vision": ("of these, answered yes", COUNT),
    "disagree_no": ("questions with no by the image and yes by the label map", COUNT),
    "disagree_no_by_vision": ("of these, answered no", COUNT),
    # scores
    "f1": ("macro F1, mean over categories and seeds (runs, where no seeds are counted)", POINTS),
    "categories.f1": ("macro F1 of the category", POINTS),
    "f1_low": ("lowest run", POINTS),
    "f1_high": ("highest run", POINTS),
    "depth.f1_low": ("lower end of the 95 % t interval over hypernyms", POINTS),
    "depth.f1_high": ("upper end of the 95 % t interval over hypernyms", POINTS),
    "f1_sd": ("standard deviation over hypernyms", POINTS),
    "macro_f1": ("mean of macro F1 over categories", POINTS),
    "macro_f1_min10": ("the same over categories with at least ten questions of each answer", POINTS),
    "macro_f1_no_homonyms": ("the same over hypernyms whose name no leaf carries", POINTS),
    "macro_f1_removed": ("the same over the hypernyms that a systematic ablation removed", POINTS),
    "veridical_f1": ("macro F1 of the answers against the truth about the image", POINTS),
    "seed_lowest": ("mean of the lowest seed", POINTS),
    "seed_highest": ("mean of the highest seed", POINTS),
    "boot_low": ("lower end of the 95 % crossed bootstrap interval", "points"),
    "boot_high": ("upper end of the 95 % crossed bootstrap interval", "points"),
    "model_low": ("lower end of the mixed model's 95 % interval", POINTS),
    "model_high": ("upper end of the mixed model's 95 % interval", POINTS),
    "model_df": ("its degrees of freedom (Satterthwaite)", NUMBER),
    "model": ("what that interval was computed from", TEXT),
    "auc": ("area under the ROC curve of p(yes)", SHARE),
    "auc_no_homonyms": ("AUC over hypernyms whose name no leaf carries", SHARE),
    "auc_removed": ("AUC over the hypernyms that a systematic ablation removed", SHARE),
    "auc_low": ("AUC of the lowest run", SHARE),
    "auc_high": ("AUC of the highest run", SHARE),
    "majority_f1": ("macro F1 of each category's more frequent answer", POINTS),
    "coin_f1": ("expected macro F1 of a fair coin", POINTS),
    "permuted_f1": ("expected macro F1 of the same answers permuted within each category", POINTS),
    "permuted_sd": ("standard deviation of permuted_f1", POINTS),
    "accuracy": ("share of right answers", SHARE),
    "yes_share": ("share of questions answered yes", SHARE),
    "reliability.yes_share": ("share of questions whose right answer is yes", SHARE),
    "gold_yes_share": ("share of questions whose right answer is yes", SHARE),
    "tie_share": ("share of questions on which yes and no are equally probable (counted as yes)", SHARE),
    "veridical_agreement": ("share of answers that are true of the image", SHARE),
    "by_vision": ("of the questions on which label map and image disagree, answered as the image says", SHARE),
    "homonym": ("a leaf carries the hypernym's name", TRUTH),
    "removed": ("a systematic ablation removed the hypernym", TRUTH),
    "off_mass": ("probability on tokens that are neither answer, mean over questions and runs", SHARE),
    "off_mass_worst": ("the same of the run where it is largest", SHARE),
    "low_mass_share": ("share of questions on which that probability is above one half", SHARE),
    "ece": ("expected calibration error, ten bins, mean over runs", SHARE),
    "ece_low": ("of the run where it is smallest", SHARE),
    "ece_high": ("of the run where it is largest", SHARE),
    "p_low": ("lower end of the bin of p(yes | yes or no)", SHARE),
    "p_high": ("upper end of the bin", SHARE),
    "mean_p": ("mean of p(yes | yes or no) in the bin", SHARE),
    # tests
    "difference": ("above less below, mean over hypernyms", DIFFERENCE),
    "swap.difference": ("control less swapped", DIFFERENCE),
    "control": ("mean of the control", POINTS),
    "swapped": ("mean with the swap", POINTS),
    "low": ("lower end of the 95 % interval", "as the estimate"),
    "high": ("upper end of the 95 % interval", "as the estimate"),
    "worst": ("lowest run above less highest run below", DIFFERENCE),
    "test": ("which test", TEXT),
    "statistic": ("its statistic: t, or z", NUMBER),
    "t": ("estimate or difference over its standard error", NUMBER),
    "df": ("degrees of freedom of t", NUMBER),
    "p": ("two-sided p of no difference", SHARE),
    "p_holm": ("p adjusted for the number of tests (Holm)", SHARE),
    "contrasts.p_holm": ("p adjusted for the number of confirmatory contrasts (Holm)", SHARE),
    "hypernym_tests.p_holm": ("p adjusted for the number of hypernyms (Holm)", SHARE),
    "tost_p": ("p of the equivalence test (two one-sided tests) at 5 points", SHARE),
    "tost_step": ("the change whose effect the equivalence test is about", TEXT),
    "tost_difference": ("effect of that change", DIFFERENCE),
    "equivalent": ("equivalence within 5 points is shown at the 5 % level", TRUTH),
    "boot_equivalent": ("the 90 % crossed bootstrap interval lies within 5 points too", TRUTH),
    "verdict": ("what follows from the tests", TEXT),
    "differs": ("what sets this test apart from the others", TEXT),
    "note": ("what a reader must know", TEXT),
    # mixed models
    "question": ("what the model asks", TEXT),
    "comparison": ("conditions compared, or the encoder whose coherence it is", TEXT),
    "term": ("effect in the formula; two conditions are coded +0.5 and -0.5", TEXT),
    "estimate": ("estimate of the effect", "see unit"),
    "se": ("standard error of the estimate", "as the estimate"),
    "levels": ("levels of each grouping factor", TEXT),
    "singular": ("some random effect has no variance", TRUTH),
    "converged": ("the fit reached an optimum from several starts", TRUTH),
    "formula": ("formula, lme4 syntax", TEXT),
    "sd": ("standard deviation of the random effect", DIFFERENCE),
    "correlations": ("its correlations with the earlier effects of its block", TEXT),
    "model_variances.group": ("grouping factor, or residual", TEXT),
    "skewness": ("skewness of the residuals, 0 if normal", NUMBER),
    "kurtosis": ("their kurtosis in excess of the normal distribution's", NUMBER),
    "far_share": ("share beyond three standard deviations, .003 if normal", SHARE),
    "largest": ("the residual farthest from zero, in standard deviations", NUMBER),
    "sd_low": ("standard deviation of the residuals of the third of rows with the lowest fitted values", DIFFERENCE),
    "sd_high": ("the same of the third with the highest", DIFFERENCE),
    "outside_share": ("share of fitted values below 0 or above 100", SHARE),
    # images and text
    "pooled": ("pooling of patch features: pooled_patches (paper) or pooled_all_tokens (release)", TEXT),
    "all_pairs": ("mean cosine of all pairs of training images: the paper's coherence", "-1 to 1"),
    "between_leaves": ("the same over pairs of different leaves", "-1 to 1"),
    "centred": ("all_pairs, the mean of all training images subtracted", "-1 to 1"),
    "centred_between_leaves": ("between_leaves, the mean of all training images subtracted", "-1 to 1"),
    "coherence": ("all_pairs, mean over hypernyms", "-1 to 1"),
    "coherence_centred": ("centred, mean over hypernyms", "-1 to 1"),
    "pairs_kept": ("share of (leaf, hypernym) pairs that are still true of the images", SHARE),
    "leaves_fixed": ("share of leaves that kept their own images", SHARE),
    "space": ("plain or whitened features", TEXT),
    "purity": ("share of nearest training images of the category", SHARE),
    "chance": ("the same share of all other training images", SHARE),
    "purity_other_leaves": ("purity among images of other leaves", SHARE),
    "chance_other_leaves": ("chance among images of other leaves", SHARE),
    "text_f1": ("macro F1 of the text probe", POINTS),
    "text_item_f1": ("macro F1 of the text probe over the items of the hypernym's leaves, as in the paper", POINTS),
    "text_auc": ("AUC of the text probe", SHARE),
    "other_f1": ("macro F1 of the yardstick", POINTS),
    "other_auc": ("AUC of the yardstick", SHARE),
    "other_auc_low": ("lower end of its 95 % t interval over hypernyms", SHARE),
    "other_auc_high": ("upper end of its 95 % t interval over hypernyms", SHARE),
    "f1_gap": ("F1 less the yardstick's", DIFFERENCE),
    "f1_gap_low": ("lower end of the 95 % t interval over hypernyms", DIFFERENCE),
    "f1_gap_high": ("upper end of the 95 % t interval over hypernyms", DIFFERENCE),
    "auc_gap": ("AUC less the yardstick's", "-1 to 1"),
    "auc_gap_low": ("lower end of the 95 % t interval over hypernyms", "-1 to 1"),
    "auc_gap_high": ("upper end of the 95 % t interval over hypernyms", "-1 to 1"),
}


def describe_columns(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per table and column: table, column, unit, meaning."""
    columns = ["table", "column", "unit", "meaning"]
    named = [(name, list(map(str, table.columns))) for name, table in tables.items()] + [("columns", columns)]
    rows = [(table, column, *reversed(describe(table, column))) for table, names in named for column in names]
    return pd.DataFrame(rows, columns=columns)


def describe(table: str, column: str) -> tuple[str, str]:
    """(meaning, unit) of a column; what is named nowhere is a setting of the run, in `results`. Raises KeyError."""
    known = COLUMNS.get(f"{table}.{column}") or COLUMNS.get(column)
    if known or table != "results":
        return known or COLUMNS[column]
    for prefix, where in PREFIXES.items():
        if column.removeprefix(prefix) in COLUMNS and column.startswith(prefix):
            meaning, unit = COLUMNS[column.removeprefix(prefix)]
            return f"{where}: {meaning}", unit
    return SETTING
