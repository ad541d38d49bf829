"""A figure of the page: the drawing with its words, and the files of it that lie beside the page."""

from dataclasses import dataclass
from pathlib import Path

from analysis.drawing import Drawn
from analysis.examples import data_uri
from analysis.study_files import FOLDER

FORMATS = ("svg", "pdf", "png")
NARROW = 5.0  # inches


@dataclass(frozen=True)
class Figure:
    """`drawn`: with its title, caption and alt; `uri`: the drawing, as a data URI; `files`: format -> path from the
    page; `narrow`: made for one column of print, so not to be blown up on a screen."""

    name: str
    drawn: Drawn
    uri: str
    files: dict[str, str]
    narrow: bool


def page_figure(name: str, drawn: Drawn, svg: str, out: Path) -> Figure:
    """A figure whose files lie in `out`/figures, among them `svg`."""
    paths = {form: f"{FOLDER}/{name}.{form}" for form in FORMATS}
    files = {form: path for form, path in paths.items() if (out / path).is_file()}
    narrow = drawn.figure.get_figwidth() < NARROW
    return Figure(name, drawn, data_uri(svg.encode(), "image/svg+xml"), files, narrow)
