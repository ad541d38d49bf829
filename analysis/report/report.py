"""One self-contained HTML page per study, and the JSON summary the command line prints.

`report.page` holds the sections' data, `templates` their words; here they become one file that needs nothing
outside itself: style, script and drawings are inside, and a policy in its head forbids everything else.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.items import Wording
from analysis.predictions import SavedRuns
from analysis.probes import Probe
from analysis.published import PAPER
from analysis.report.details import answering, examples, hypernyms, parts, taxonomy, training, tuning
from analysis.report.examples import data_uri
from analysis.report.experiments import (
    ablation,
    coherence,
    depth,
    dose,
    lens,
    naming,
    setups,
    shuffles,
    swap,
    text,
    transfer,
    yardsticks,
)
from analysis.report.files import write_study
from analysis.report.finding import finding
from analysis.report.models import models
from analysis.report.page import Data, Page, page_figure
from analysis.report.record import files, methods, provenance, world
from analysis.report.result import beside_paper, contrasts, design, main_result
from analysis.report.summary import summary
from analysis.report.table import EMBEDDED_BYTES, Table
from analysis.study import measure
from analysis.words import number, p_value
from cachegen.common.files import read_json, write_text

TEMPLATES = Path(__file__).parent / "templates"


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


# In the order of the page. To add a section: a function of its data, a template, and a line here.
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
    Section("naming", "Naming", "Experiments", naming),
    Section("depth", "Depth", "Experiments", depth),
    Section("text", "What the LM knows in text", "Experiments", text),
    Section("transfer", "Transfer", "Experiments", transfer),
    Section("lens", "Inside the LM", "Experiments", lens),
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


def write_report(
    sweep: SavedRuns, out: Path, *, world: Path | None, seconds: Mapping[str, float], probes: Sequence[Probe] = ()
) -> dict[str, Any]:
    """Write `out/index.html` with its tables and figures beside it, and return the summary.

    `world`: the microworld's folder, when the study ran on one. `seconds`: wall-clock time of each stage. `probes`:
    text probes of the runs' LMs. Summary: report (path) and what `analysis.report.summary` gives.
    """
    if world is not None:
        read_json(world / "world.json")  # before anything is written
    study = measure(sweep, probes)
    tables, figures, svgs = write_study(study, out)
    placed = {name: page_figure(name, drawn, svgs[name], out) for name, drawn in figures.drawn.items()}
    write_text(out / "index.html", render(Page(study, out, tables, placed, figures.absent, world, seconds)))
    return {"report": str(out / "index.html"), **summary(study)}


def render(page: Page) -> str:
    """The page as HTML."""
    environment = template_environment()
    parts: dict[str, list[dict[str, str]]] = {}
    for section in SECTIONS:
        data = section.data(page)
        if data is not None:
            template = environment.get_template(f"{section.name}.html")
            html = Markup(template.render(page=page, **data))  # our own template, which has escaped what it was given
            parts.setdefault(section.part, []).append({"name": section.name, "title": section.title, "html": html})
    shown = [section["html"] for sections in parts.values() for section in sections]
    placed = {name for name, figure in page.figures.items() if any(figure.uri in html for html in shown)}
    placed |= {"main", "headline"}  # on the first screen
    page_html = environment.get_template("report.html").render(
        finding=finding(page),
        page=page,
        paper=PAPER,
        parts=parts,
        **inline_files(),
        unplaced=[figure for name, figure in page.figures.items() if name not in placed],
    )
    return Wording(page.study).html(page_html)


def inline_files() -> dict[str, str]:
    """style and script of a page, to be written into it, and the policy that allows these and nothing else."""
    style, script = (Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    return {"style": style, "script": script, "policy": _policy(style, script)}


def _policy(style: str, script: str) -> str:
    """Content security policy: this style, this script, drawings from inside the page, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def template_environment() -> jinja2.Environment:
    """The page's templates with their filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "p_value": p_value, "csv_uri": _csv_uri}
    return environment


def _csv_uri(table: Table) -> str:
    data = table.csv.encode()
    return data_uri(data, "text/csv") if len(data) <= EMBEDDED_BYTES else ""
