"""Statistics of a dataset under the design (Tables 2 and 3, Figures 8 and 9), from file names and taxonomy alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cachegen.common.files import write_json, write_text
from cachegen.data.dataset import Dataset
from engine.design.ablation import withhold
from engine.design.condition import Condition
from engine.design.published import REMOVED_HYPERNYMS
from engine.design.questions import Categories, build_questions, count_questions, select, split_images

RANDOM_LEVELS = (100, 90, 70, 50, 30, 10)  # percent, Table 2
SYSTEMATIC_SHARES = (0.8, 0.6, 0.4, 0.2)  # of a taxonomy that is not the paper's; the paper's own are 10 to 40 of 53


def count_tables(dataset: Dataset, condition: Condition) -> dict[str, dict[str, dict[str, Any]]]:
    """Tables 2 and 3: numbers of (image, question) pairs at every level of random and of systematic ablation.

    `condition` gives everything but the ablation's kind, amount and list. Levels count percent (random) or hypernyms
    (systematic: the paper's lists where the taxonomy has its hypernyms, else drawn ones).
    """
    published = set().union(*REMOVED_HYPERNYMS.values()) <= set(dataset.hypernyms.index)
    shares = (max(1, round(share * len(dataset.hypernyms))) for share in SYSTEMATIC_SHARES)
    removed = sorted(REMOVED_HYPERNYMS if published else set(shares), reverse=True)
    chosen = "published" if published else "drawn"
    plain = {"removed_as_negative": "keep", "removed_list": "drawn"}
    settings = {
        "random": [{**plain, "ablation_kind": "random", "ablation": level} for level in RANDOM_LEVELS],
        "systematic": [{"ablation_kind": "systematic", "ablation": level, "removed_list": chosen} for level in removed],
    }
    return {
        kind: {str(fields["ablation"]): _count(dataset, condition.model_copy(update=fields)) for fields in levels}
        for kind, levels in settings.items()
    }


def _count(dataset: Dataset, condition: Condition) -> dict[str, Any]:
    known = Categories.of(dataset)
    members = select(dataset, known, condition, split_images(dataset, condition.data_seed), None).members
    counts = count_questions(build_questions(dataset, condition))
    mappings = withhold(condition, members, known.hypernyms).mappings
    return {**counts, "leaves_affected": int(mappings.any(axis=1).sum()), "mappings_withheld": int(mappings.sum())}


def distributions(dataset: Dataset) -> dict[str, pd.DataFrame]:
    """What Figures 8 and 9 count.

    `hypernyms_per_leaf`: columns hypernyms, leaves (how many leaves have that many); `leaves_per_hypernym`: columns
    hypernym, leaves, images, depth, most leaves first; `images_per_leaf`: columns images, leaves.
    """
    per_leaf = dataset.pairs["leaf"].value_counts()
    images = dataset.pairs.assign(n=dataset.pairs["leaf"].map(dataset.leaves["n_images"]))
    hypernyms = dataset.hypernyms[["n_leaves", "depth"]].assign(images=images.groupby("hypernym")["n"].sum())
    ordered = hypernyms.reset_index().sort_values(["n_leaves", "hypernym"], ascending=[False, True], kind="stable")
    return {
        "hypernyms_per_leaf": _histogram(per_leaf, "hypernyms"),
        "leaves_per_hypernym": ordered.rename(columns={"n_leaves": "leaves"})[
            ["hypernym", "leaves", "images", "depth"]
        ].reset_index(drop=True),
        "images_per_leaf": _histogram(dataset.leaves["n_images"], "images"),
    }


def _histogram(values: pd.Series, name: str) -> pd.DataFrame:
    number, leaves = np.unique(values.to_numpy(int), return_counts=True)
    return pd.DataFrame({name: number, "leaves": leaves})


def table_rows(tables: dict[str, dict[str, dict[str, Any]]]) -> pd.DataFrame:
    """The count tables as one flat table: a row per kind and level."""
    rows = [
        {
            "ablation_kind": kind,
            "ablation": int(level),
            "train": counts["train"],
            **{f"{split}_{group}": n for split in ("validation", "test") for group, n in counts[split].items()},
            "leaves_affected": counts["leaves_affected"],
            "mappings_withheld": counts["mappings_withheld"],
        }
        for kind, levels in tables.items()
        for level, counts in levels.items()
    ]
    return pd.DataFrame(rows)


def write_stats(out: Path, tables: dict[str, dict[str, dict[str, Any]]], counted: Mapping[str, pd.DataFrame]) -> None:
    """Write questions.csv, questions.json and one CSV per distribution into the folder `out`."""
    write_json(out / "questions.json", tables)
    for name, table in {"questions": table_rows(tables), **counted}.items():
        write_text(out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
