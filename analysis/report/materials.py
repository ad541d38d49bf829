"""What a study was made from, which settings its runs have, and what it has to cite."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis.cells import short_name
from analysis.report.dictionary import csv_rows
from analysis.study import Study
from cachegen.common.errors import CrosstaxError
from cachegen.common.files import read_json
from cachegen.data.splits import TRAIN_END, VALIDATION_END
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


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Settings:
    """`table`: runs with a column for each setting."""

    table: pd.DataFrame

    def values(self, name: str, **only: Any) -> list[Any]:
        """Values of one setting in the order of the runs, among runs with the values `only`."""
        rows = self.table
        for key, value in only.items():
            rows = rows[rows[key] == value]
        return list(dict.fromkeys(rows[name].dropna()))

    def has(self, name: str, value: Any) -> bool:
        return value in self.values(name)

    def numbers(self, name: str) -> str:
        """All values of a number, in order: "2e-05 or 0.001"."""
        return either([f"{value:g}" for value in sorted(self.values(name))])


def either(values: Iterable[object], word: str = "or") -> str:
    """ "5", "5 or 8", "5, 6 or 8"; "" without any."""
    said = [str(value) for value in values]
    return f" {word} ".join(filter(None, [", ".join(said[:-1]), *said[-1:]]))


def count(number: int, what: str) -> str:
    """ "one run", "three runs", "12 runs"."""
    return f"{NUMBERS[number] if number < len(NUMBERS) else f'{number:,}'} {what}{'' if number == 1 else 's'}"


# key -> (in the text, in the list)
REFERENCES = {row[0]: (row[1], row[2]) for row in csv_rows("references.csv")}


def in_text(*keys: str) -> str:
    """The citation of `keys` in brackets: "(Oquab et al., 2024; Darcet et al., 2024)"."""
    return f"({'; '.join(REFERENCES[key][0] for key in keys)})"


def cited_in(text: str) -> tuple[str, ...]:
    """References in full of all that `text` cites, in the order of the alphabet."""
    cited = [full for short, full in REFERENCES.values() if short in text or short.replace(", 20", " (20") in text]
    return tuple(sorted(cited))


def encoder_keys(name: str) -> list[str]:
    """What an encoder of this name (weights of timm or Hugging Face) is published in; [] when not known."""
    name = name.lower()
    keys = ["dinov2"] if "dinov2" in name else []
    keys += ["registers"] if keys and ("reg4" in name or "registers" in name) else []
    return keys + (["siglip"] if "siglip" in name and "siglip2" not in name else [])


def lm_keys(name: str) -> list[str]:
    """What an LM of this Hugging Face name is published in; [] when not known."""
    name = name.rsplit("/", 1)[-1].lower()
    return ["qwen3"] if name.startswith("qwen3-") else ["llama3"] if name.startswith("llama-3") else []
