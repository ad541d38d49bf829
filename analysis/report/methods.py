"""A methods section in plain words, from a study's own settings, with the references it needs.

Its words stand in templates/methods.txt.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jinja2

from analysis.cells import seed_text
from analysis.items import Wording
from analysis.report.materials import Settings, cited_in, count, either, encoder_keys, in_text, lm_keys, materials_of
from analysis.scores.neighbours import NEIGHBOURS
from analysis.statistics.difference import EQUIVALENCE_MARGIN, OVER_BOTH
from analysis.statistics.intervals import DRAWS
from analysis.study import Study
from cachegen.features.store import IMPORTED


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
    _, *parts = re.split(r"^# (.+)$", filled, flags=re.MULTILINE)
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
