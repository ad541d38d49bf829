"""The sections of the page, in order. To add one: a function of its data, a template, and a line here."""

from collections.abc import Callable
from dataclasses import dataclass

from analysis.report.details import answering, examples, hypernyms, parts, taxonomy, training, tuning
from analysis.report.experiments import (
    ablation,
    coherence,
    depth,
    dose,
    setups,
    shuffles,
    swap,
    text,
    transfer,
    yardsticks,
)
from analysis.report.models import models
from analysis.report.page import Data, Page
from analysis.report.record import files, methods, provenance, world
from analysis.report.result import beside_paper, contrasts, design, main_result


@dataclass(frozen=True)
class Section:
    """A section: its heading, the part of the contents it stands in, and what fills its template.

    `name`: of its anchor and of its template, templates/<name>.html. `data`: what the template is given beside what
    all share; None where the study has nothing to show, and then the section does not appear.
    """

    name: str
    title: str
    part: str
    data: Callable[[Page], Data | None]


SECTIONS = (
    Section("design", "What was asked", "Result", design),
    Section("main_result", "Main result", "Result", main_result),
    Section("contrasts", "Contrasts fixed in advance", "Result", contrasts),
    Section("beside_paper", "What was and was not replicated", "Result", beside_paper),
    Section("yardsticks", "Measured against what can be seen", "Experiments", yardsticks),
    Section("coherence", "Visual coherence", "Experiments", coherence),
    Section("ablation", "Ablation curves", "Experiments", ablation),
    Section("shuffles", "Labels and ablation", "Experiments", shuffles),
    Section("dose", "Dose and response", "Experiments", dose),
    Section("swap", "The hypernym-level swap", "Experiments", swap),
    Section("setups", "Between setups", "Experiments", setups),
    Section("depth", "Depth", "Experiments", depth),
    Section("text", "What the LM knows in text", "Experiments", text),
    Section("transfer", "Transfer", "Experiments", transfer),
    Section("models", "Statistical models", "A closer look", models),
    Section("parts", "Which hypernyms, which right answers", "A closer look", parts),
    Section("answering", "How answers are given", "A closer look", answering),
    Section("hypernyms", "Every held-out hypernym", "A closer look", hypernyms),
    Section("examples", "Examples", "A closer look", examples),
    Section("taxonomy", "The taxonomy", "A closer look", taxonomy),
    Section("training", "Training", "A closer look", training),
    Section("tuning", "Tuning", "A closer look", tuning),
    Section("world", "How this world was made", "Record", world),
    Section("methods", "Methods, to be copied", "Record", methods),
    Section("provenance", "Provenance", "Record", provenance),
    Section("files", "Files", "Record", files),
)
