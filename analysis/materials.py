"""What a study was made from: which images and categories, how many, how they were divided."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from analysis.conditions import short_name
from analysis.study import Study
from cachegen.errors import CrosstaxError
from cachegen.files import read_json
from cachegen.splits import TRAIN_END, VALIDATION_END
from cachegen.things.names import HYPERNYMS

THINGS_FILE = r"(.+)/\1_\d\d[a-z]?\.jpe?g"  # aardvark/aardvark_01b.jpg


@dataclass(frozen=True)
class Materials:
    """Of the first run that leaves nothing out.

    images: split -> number. by_rule: every leaf is divided 70/5/25, rounded down. world_seed: of a microworld. example:
    noun phrase of a leaf, as questions have it. names: dataset folders, short.
    """

    kind: Literal["things", "microworld", "own"]
    names: tuple[str, ...]
    leaves: int
    hypernyms: int
    images: dict[str, int]
    by_rule: bool
    example: str
    world_seed: int | None = None


def materials_of(study: Study, world: Path | None = None) -> Materials:
    """Read them off one run's questions; `world`: the microworld's folder, when the study is known to be on one."""
    runs = study.runs
    whole = runs[runs["subset"] == "all"]
    run_id = str((runs if whole.empty else whole).index[0])
    questions = study.sweep.questions(run_id)
    images = questions.drop_duplicates("image")
    leaves, hypernyms = (set(questions.loc[questions["kind"] == kind, "category"]) for kind in ("leaf", "hypernym"))
    seed = _world_seed(runs, world)
    things = hypernyms <= HYPERNYMS.keys() and bool(images["key"].str.fullmatch(THINGS_FILE).all())
    return Materials(
        kind="own" if seed is None and not things else "microworld" if seed is not None else "things",
        names=tuple(dict.fromkeys(short_name(path).split("/")[-1] for path in runs["dataset_path"].dropna())),
        leaves=len(leaves),
        hypernyms=len(hypernyms),
        images={str(name): int(count) for name, count in images["split"].value_counts().items()},
        by_rule=_by_rule(images),
        example=str(questions.loc[questions["kind"] == "leaf", "phrase"].iloc[0]),
        world_seed=seed,
    )


def _world_seed(runs: pd.DataFrame, world: Path | None) -> int | None:
    """Seed of the world that a study ran on: the one given, or the one its dataset lies in; None if it is no world."""
    folders = [world] if world else [Path(path).parent for path in runs["dataset_path"].dropna().unique()]
    for folder in folders:
        if (folder / "world.json").is_file():
            try:
                return int(read_json(folder / "world.json")["seed"])
            except (CrosstaxError, KeyError, TypeError, ValueError):
                return None
    return None


def _by_rule(images: pd.DataFrame) -> bool:
    counts = images.groupby(["image_leaf", "split"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=["train", "validation", "test"], fill_value=0)
    n = counts.sum(axis=1)
    train, until = (n * TRAIN_END).astype(int), (n * VALIDATION_END).astype(int)
    return bool((counts["train"] == train).all() and (counts["validation"] == until - train).all())
