"""A methods section in plain words, from a study's own settings, with the references it needs.

Its words stand in templates/methods.txt, the references in references.csv.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import jinja2
import pandas as pd

from analysis.cells import seed_text, short_name
from analysis.items import Wording
from analysis.report.dictionary import csv_rows
from analysis.scores.neighbours import NEIGHBOURS
from analysis.statistics.difference import EQUIVALENCE_MARGIN, OVER_BOTH
from analysis.statistics.intervals import DRAWS
from analysis.study import Study
from cachegen.common.errors import CrosstaxError
from cachegen.common.files import read_json
from cachegen.data.splits import TRAIN_END, VALIDATION_END
from cachegen.features.store import IMPORTED
from cachegen.things.names import HYPERNYMS


@dataclass(frozen=True)
class Methods:
    """`paragraphs`: (heading, text); `references`: each in full, in the order of the alphabet."""

    paragraphs: tuple[tuple[str, str], ...]
    references: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it as plain text, to be copied."""
        body = [f"{heading}. {text}" for heading, text in self.paragraphs]
        return "\n\n".join([*body, "References", *self.references])


def methods_of(study: Study, world: Path | None = None) -> Methods:
    """Methods of a study; `world`: the microworld's folder, when the study is known to have run on one."""
    about = Settings(study.runs)
    materials = materials_of(study, world)
    filled = _template().render(
        about=about,
        bases=list(dict.fromkeys(c.f1.basis for c in study.compared if c.f1.basis != OVER_BOTH)),
        draws=DRAWS,
        imported=imported_encoders(study),
        margin=f"{EQUIVALENCE_MARGIN:g}",
        materials=materials,
        names=about.has("task", "name"),
        neighbours=NEIGHBOURS,
        probed={probe.method for own in study.probes.values() for probe in own},
        seeds=seed_text(study.runs),
        software=" ".join(filter(None, ["crosstax", installed("crosstax")])),
        study=study,
        without_image=any("{image}" not in text for text in about.values("template")),
        world=materials.kind == "microworld",
    )
    _, *parts = re.split(r"^# (\w+)$", filled, flags=re.MULTILINE)
    texts = [re.sub(r"\s*\n\s*", " ", text).strip() for text in parts[1::2]]
    wording = Wording(study)
    paragraphs = tuple((heading, wording(text)) for heading, text in zip(parts[::2], texts, strict=True))
    return Methods(paragraphs, cited_in(" ".join(texts)))


def imported_encoders(study: Study) -> list[str]:
    """Names of encoders whose features were imported."""
    stores = [run.config["store"] for run in study.sweep.opened.values() if "store" in run.config]
    return sorted({str(store["encoder"]) for store in stores if store.get("layer") == IMPORTED})


def installed(package: str) -> str:
    """The version of a package; "" where it is not installed as one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,  # noqa: S701 - plain text, which the page escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cited": _cited,
        "either": either,
        "last_part": lambda name: Path(str(name)).name,
        "percent": lambda share: f"{100 * share:g} %",
        "quoted": lambda text: f"“{text}”".replace("\n", "\\n"),
        "square": lambda side: f"{side} × {side}",
        "words": lambda values, known: [known.get(value, value) for value in values],
    }
    environment.globals |= {"cite": in_text, "count": count, "thousands": "{:,}".format}
    environment.globals |= {"encoder_keys": encoder_keys, "lm_keys": lm_keys}
    return environment.get_template("methods.txt")


def _cited(name: object, find: Callable[[str], list[str]]) -> str:
    """A model's name with what it is published in."""
    short = Path(str(name)).name if Path(str(name)).is_absolute() else str(name)
    return " ".join(filter(None, [short, in_text(*keys) if (keys := find(str(name))) else ""]))


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
