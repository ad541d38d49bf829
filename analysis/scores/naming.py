"""Scores of the task `name` over all candidates: how often the best name is true, and how well scores tell names.

A score is the log-probability of a name after an image minus its mean over the test images that had it as a candidate.
Leaves compete with leaves, hypernyms with those of their depth where the taxonomy gives depths, else with all. A leaf
that only its own images and few others have as a candidate (see `engine.design.candidates`) does not compete, since the
mean that is taken off its scores is mostly of images that show it.
"""

import pandas as pd

from analysis.cells import KEYED, seed_units
from analysis.scores.f1 import GROUPS
from analysis.statistics.difference import difference, seeds_by_hypernyms
from engine.runs.f1 import auc

NAMING = ["group", "category", "n_images", "n_candidates", "top1", "chance_top1", "auc", "auc_seen"]


def name_scores(names: pd.DataFrame, groups: pd.DataFrame, depths: pd.DataFrame) -> pd.DataFrame:
    """One row per group (leaf, seen, heldout) and category of one run's test images: the columns `NAMING`.

    `names`: see `FinishedRun.names`. `groups`: image, kind, category and group of the questions answered yes. `depths`:
    category and depth. top1, 0 to 100: of the images labelled with the category, how often the best-scored among the
    names that compete with it is true of the label; missing for a leaf that does not compete. auc: over these images
    and all of which it is not true. auc_seen: the same by what the images show in place of their label.
    """
    test = names[names["split"] == "test"].reset_index(drop=True)
    depth = test["category"].map(depths.set_index("category")["depth"]).where(test["kind"] == "hypernym").fillna(0)
    score = test["log_p"].astype(float)
    score -= score.groupby([test["kind"], test["category"]]).transform("mean")
    rows = test.assign(score=score, field=test["kind"] + depth.astype(int).astype(str))
    offered = rows.groupby(["kind", "category"])["image"].transform("size") > rows["image"].nunique() / 2
    contest = rows[offered].groupby(["image", "field"])
    rows["n_candidates"] = contest["score"].transform("size")
    rows["chance_top1"] = 100.0 * contest["answer"].transform("mean")
    rows["top1"] = contest["score"].transform("idxmax").map(100.0 * rows["answer"])
    rows = rows.merge(groups[["image", "kind", "category", "group"]], on=["image", "kind", "category"], how="left")
    found = []
    for group in GROUPS:
        own = rows[rows["answer"] & (rows["group"] == group)]
        if own.empty:
            continue
        means = own.groupby("category")[["n_candidates", "top1", "chance_top1"]].mean()
        against = rows[~rows["answer"] & (rows["kind"] == own["kind"].iloc[0]) & rows["category"].isin(means.index)]
        both = pd.concat([own, against])
        codes = means.index.get_indexer(both["category"])
        score = both["score"].to_numpy(float)
        areas, seen = (auc(codes, both[by].to_numpy(bool), score, len(means)) for by in ("answer", "veridical"))
        counted = means.assign(group=group, auc=areas, auc_seen=seen, n_images=own.groupby("category").size())
        found.append(counted.reset_index())
    return pd.concat(found, ignore_index=True)[NAMING]


def naming_means(runs: pd.DataFrame, naming: pd.DataFrame) -> pd.DataFrame:
    """Means per cell of `runs` and group, with 95 % intervals over seeds and categories; empty without naming runs.

    `naming`: rows of `name_scores` with run_id. Columns: cell and its words, group, n_categories, n_candidates,
    top1, chance_top1, auc, auc_seen, and low and high of top1 and of both AUCs.
    """
    rows = naming.merge(runs[KEYED].assign(seed=seed_units(runs)), left_on="run_id", right_index=True)
    means = []
    for keys, own in rows.groupby([*KEYED, "group"], sort=False):
        top1 = difference(seeds_by_hypernyms(own.dropna(subset="top1"), "top1"))
        area, seen = (difference(seeds_by_hypernyms(own, name), unit="AUC") for name in ("auc", "auc_seen"))
        means.append(
            dict(zip([*KEYED, "group"], keys, strict=True))
            | {"n_categories": own["category"].nunique(), "n_candidates": own["n_candidates"].mean()}
            | {"top1": top1.estimate, "top1_low": top1.low, "top1_high": top1.high}
            | {"chance_top1": own["chance_top1"].mean()}
            | {"auc": area.estimate, "auc_low": area.low, "auc_high": area.high}
            | {"auc_seen": seen.estimate, "auc_seen_low": seen.low, "auc_seen_high": seen.high}
        )
    table = pd.DataFrame(means, columns=None if means else [*KEYED, "group"])
    order = {group: place for place, group in enumerate(GROUPS)}
    return table.sort_values(["cell", "group"], key=lambda x: x.map(order) if x.name == "group" else x, kind="stable")
