"""The files that lie beside the page, and what is in each."""

from dataclasses import dataclass
from pathlib import Path

from analysis.dictionary import CAPTIONS
from analysis.examples import data_uri
from analysis.page.page import Data, Page
from analysis.page.table import EMBEDDED_BYTES


@dataclass(frozen=True)
class File:
    """`href`: a data URI where the file is small, for a page that was sent without its folder, else its path."""

    name: str
    about: str
    size: int
    href: str

    @property
    def kilobytes(self) -> int:
        return -(-self.size // 1000)


def files(page: Page) -> Data:
    """Tables and figures, as links."""
    return {"tables": [_file(page, name) for name in page.tables], "figures": list(page.figures.values())}


def _file(page: Page, name: str) -> File:
    content = (page.out / name).read_bytes()
    small = len(content) <= EMBEDDED_BYTES and name.endswith(".csv")
    href = data_uri(content, "text/csv") if small else name
    return File(name, CAPTIONS.get(Path(name).stem, ""), len(content), href)
