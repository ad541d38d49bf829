"""The page in a real browser: no errors, nothing fetched, no sideways scrolling, and what its script adds.

A second script is put into a copy of the page (without its policy); what it finds is read from the DOM afterwards.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import World, write_sweep

from analysis.predictions import load_sweep
from analysis.report.files import write_study
from analysis.report.page import Page, page_figure
from analysis.report.report import render
from analysis.study import measure

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium here; install one to check the page in a browser"),
]
CHECK = """
<script>
const found = {};
const rows = (table) => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
const table = document.querySelector("#contrasts table");
const [words, numbers] = [0, 1].map((column) => table.tHead.rows[0].cells[column]);
found.before = rows(table);
numbers.querySelector("button").click();
found.ascending = [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
found.sorted = numbers.getAttribute("aria-sort");
numbers.querySelector("button").click();
found.descending = [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
numbers.querySelector("button").click();
found.after = rows(table);
found.unsorted = numbers.getAttribute("aria-sort");
const paper = document.querySelector("#beside_paper .table");
const field = paper.querySelector("input");
found.label = field.ariaLabel;
field.value = "across 1.7B";
field.dispatchEvent(new Event("input"));
found.filtered = [...paper.querySelectorAll("tbody tr")].filter((row) => !row.hidden).length;
found.status = paper.querySelector("[role=status]").textContent;
found.copy = document.querySelector("#methods button")?.textContent;
found.svg = document.querySelector("a[data-svg]").href.slice(0, 14);
found.contents = document.querySelector(".contents details").open;
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
found.reachable = [...document.querySelectorAll(".scroll")].every(
  (box) => (box.scrollWidth > box.clientWidth + 1) === (box.tabIndex === 0));
const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
found.fetched = fetched.filter((name) => !name.startsWith("data:"));
dispatchEvent(new Event("beforeprint"));
found.printed = document.querySelectorAll("details:not([open])").length;
dispatchEvent(new Event("afterprint"));
found.closed = document.querySelectorAll("details:not([open])").length;
document.body.append(Object.assign(document.createElement("pre"), { id: "found", textContent: JSON.stringify(found) }));
</script>
"""


def browse(page: Path, width: int, *options: str) -> tuple[str, str]:
    """(DOM after its scripts ran, console) of a page."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},900", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    study = measure(load_sweep(write_sweep(root / "sweep", World(families=4, per_leaf=12), seeds=(0, 1))))
    tables, figures, svgs = write_study(study, root)
    placed = {name: page_figure(name, drawn, svgs[name], root) for name, drawn in figures.drawn.items()}
    html = render(Page(study, root, tables, placed, figures.absent, None, {}))
    (root / "index.html").write_text(html, encoding="utf-8")
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    (root / "checked.html").write_text(free.replace("</body>", CHECK + "</body>"), encoding="utf-8")
    return root


def findings(folder: Path, width: int) -> dict[str, Any]:
    dom, _ = browse(folder / "checked.html", width, "--dump-dom")
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', dom, re.S)
    return json.loads(found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_no_errors_under_the_pages_own_policy(folder: Path) -> None:
    dom, console = browse(folder / "index.html", 1300, "--dump-dom")
    assert console == ""
    assert '<button type="button" title="Sort">' in dom  # its script ran


def test_the_policy_stops_what_is_not_the_pages_own(folder: Path) -> None:
    """Negative control of both: foreign code and a foreign image are refused, and the refusal is seen."""
    html = (folder / "index.html").read_text(encoding="utf-8")
    foreign = '<img src="figures/main.svg"><script>document.title = "foreign"</script></body>'
    (folder / "foreign.html").write_text(html.replace("</body>", foreign), encoding="utf-8")
    dom, console = browse(folder / "foreign.html", 1300, "--dump-dom")
    assert console.count("Content Security Policy") >= 2
    assert "<title>foreign" not in dom


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_what_the_script_adds(folder: Path) -> None:
    found = findings(folder, 1300)
    ascending, descending = ([number(text) for text in found[way]] for way in ("ascending", "descending"))
    assert len(ascending) == 6
    assert ascending == sorted(ascending) == descending[::-1]
    assert (found["sorted"], found["unsorted"]) == ("ascending", None)
    assert found["after"] == found["before"]
    assert found["label"].startswith("Filter rows: The paper’s numbers")
    assert (found["filtered"], found["status"]) == (1, "1 of 10 rows")
    assert found["copy"] == "Copy"
    assert found["svg"] == "data:image/svg"
    assert found["printed"] == 0 < found["closed"]
    assert found["fetched"] == []


@pytest.mark.parametrize(("width", "unfolded"), [(1300, True), (800, False), (390, False)])
def test_the_page_never_scrolls_sideways(folder: Path, width: int, unfolded: bool) -> None:
    found = findings(folder, width)
    assert found["overflow"] == 0
    assert found["reachable"]
    assert found["contents"] == unfolded
