"""The page's own parts: tables and their CSV, structure, colours, and names that would like to be code."""

import base64
import csv
import hashlib
import io
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import synthetic_sweep
from html_page import HtmlPage
from synthetic_sweep import World, write_sweep

from analysis.predictions import load_sweep
from analysis.report.files import write_tables
from analysis.report.page import Page
from analysis.report.report import SECTIONS, TEMPLATES, render, template_environment
from analysis.report.table import Column, table
from analysis.study import measure
from analysis.words import number, p_value

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "quo\"te & 'apos",
    "{{ 7 * 7 }}",
    "a<b",
]


def page_of(sweep: Path, out: Path) -> HtmlPage:
    """The page of a sweep without its figures."""
    study = measure(load_sweep(sweep))
    tables = write_tables(study, out)
    return HtmlPage(render(Page(study, out, tables, {}, {}, None, {"train": 1.5})))


FORMULAS = ["=1+1", '@HYPERLINK("http://x","y")']


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a page over hostile names: categories, phrases, runs, models, reasons of failure."""
    root = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        leaves = [[FORMULAS[0], HOSTILE[1]], ["saw", HOSTILE[2]], [FORMULAS[1], HOSTILE[4]]]
        families = dict(zip([HOSTILE[0], HOSTILE[3], "tree"], leaves, strict=True))
        patch.setattr(synthetic_sweep, "FAMILIES", families)
        world = World(families=3, per_leaf=12)
        sweep = write_sweep(root / "sweep", world, seeds=(0, 1), encoder=HOSTILE[0], lm="<b>lm</b>")
    broken = sweep / "<svg onload=alert(3)>"
    broken.mkdir()
    (broken / "FAILED").write_text('{"reason": "<script>alert(4)</script>"}')
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> HtmlPage:
    return page_of(folder / "sweep", folder / "out")


def test_csv_keeps_names_for_programs(page: HtmlPage, folder: Path) -> None:
    """Decided: also those that a spreadsheet would take for formulas; quoting is the writer's."""
    written = pd.read_csv(folder / "out" / "categories.csv")["category"]
    assert {*HOSTILE[:4], *FORMULAS} <= set(written)


def test_names_stay_names(page: HtmlPage) -> None:
    for name in (*HOSTILE[:4], "<b>lm</b>", "<svg onload=alert(3)>", "<script>alert(4)</script>"):
        assert name in page.text
    assert len(page.all("script")) == 1
    assert not page.all("svg")
    assert not page.all("b")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all(image.startswith("data:") for image in page.images)


def test_nothing_but_this_style_and_script_may_run(page: HtmlPage) -> None:
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for text, rule in ((page.style, "style-src"), (page.script, "script-src")):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert page.asks_for() == []
    assert HtmlPage('<a href="https://x.org">x</a><img src="a.png"><p style="a:url(//x)"></p>').asks_for() == [
        "img src=a.png",
        "https://x.org",
        "url(//x",
    ]


def test_structure_is_what_assistive_technology_needs(page: HtmlPage) -> None:
    assert page.heads.count(1) == 1
    assert page.heads[0] == 1
    assert all(later <= level + 1 for level, later in zip(page.heads, page.heads[1:], strict=False))
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("nav")[0]["aria-label"]
    assert [len(page.all(tag)) for tag in ("main", "nav", "footer")] == [1, 1, 1]
    assert all(image.get("alt") for image in page.all("img"))
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert len(inside) > 10
    assert set(inside) <= set(ids)
    assert inside[0] == "main"  # the skip link
    heads = page.all("th")
    assert heads
    assert all(head.get("scope") in ("col", "row") for head in heads)
    assert len(page.all("caption")) == len(page.all("table"))
    labelled = [attributes for tag, attributes in page.tags if "aria-labelledby" in attributes]
    assert all(attributes["aria-labelledby"] in ids for attributes in labelled)


def test_only_sections_of_the_study_appear(page: HtmlPage) -> None:
    shown = [section.get("id") for section in page.all("section")]
    assert shown == [section.name for section in SECTIONS if section.name in shown]  # in their order
    assert {"design", "main_result", "contrasts", "methods", "provenance", "files", "beside_paper"} <= set(shown)
    assert not {"yardsticks", "coherence", "ablation", "dose", "swap", "depth", "text", "world"} & set(shown)
    assert [link[1:] for link in page.links if link[1:] in shown][: len(shown)] == shown  # and in the contents


def test_a_table_and_its_csv() -> None:
    rows = [
        {
            "name": "<crow>",
            "f1": 71.23456,
            "gap": (1.5, -0.25, 3.25),
            "share": 0.5,
            "p": 0.0004,
            "verdict": ("up", True),
        },
        {
            "name": "owl",
            "f1": np.nan,
            "gap": (-0.5, np.nan, np.nan),
            "share": np.nan,
            "p": 0.25,
            "verdict": ("?", False),
        },
    ]
    columns = [
        Column("setup", lambda row: "", "text"),
        Column("name", "name", "text"),
        Column("F1", "f1"),
        Column("gap", "gap", "interval", sign=True),
        Column("share", "share", "percent", digits=0),
        Column("p", "p", "p"),
        Column("verdict", "verdict", "verdict"),
    ]
    shown = table("birds", "Birds: how they fare.", rows, columns)
    assert [column.label for column in shown.columns] == ["name", "F1", "gap", "share", "p", "verdict"]  # no setup
    assert list(csv.reader(io.StringIO(shown.csv))) == [
        ["name", "F1", "gap", "gap low", "gap high", "share", "p", "verdict"],
        ["<crow>", "71.23456", "1.5", "-0.25", "3.25", "0.5", "0.0004", "up"],
        ["owl", "", "-0.5", "", "", "", "0.25", "?"],
    ]
    assert shown.title == "Birds"
    with pytest.raises(ValueError, match="two columns of one name"):
        table("twice", "", rows, [Column("F1", "f1"), Column("F1", "f1")])


def drawn(source: str, **values: object) -> HtmlPage:
    """A piece of template with the page's macros."""

    class Beside:
        tables = ("birds.csv",)

        @staticmethod
        def short(text: str) -> str:
            return text

    macros = '{% from "macros.html" import sentences, table with context %}'
    return HtmlPage(template_environment().from_string(macros + source).render(page=Beside(), **values))


@pytest.mark.parametrize(("count", "folded"), [(20, False), (21, True)])
def test_long_tables_are_folded(count: int, folded: bool) -> None:
    shown = table("birds", "Birds: all.", range(count), [Column("n", lambda row: row, digits=0)], "birds.csv")
    page = drawn("{{ table(t) }}", t=shown)
    assert len(page.all("tr")) == count + 1
    assert ("21 rows: Birds" in page.text) == folded
    assert bool(page.all("details")) == folded
    assert "birds.csv" in page.links
    assert not drawn("{{ table(t, false) }}", t=shown).all("details")


def test_many_sentences_are_folded_and_none_is_lost() -> None:
    for count in (0, 8, 9):
        page = drawn("{{ sentences(list) }}", list=[f"Sentence {n}." for n in range(count)])
        assert [f"Sentence {n}." in page.text for n in range(count)] == [True] * count
        assert len(page.all("li")) == count
        assert ("3 more like these" in page.text) == (count == 9)


def test_numbers_for_people() -> None:
    assert [number(value, 1) for value in (-1.26, np.nan, None, 3, -0.01)] == ["−1.3", "–", "–", "3.0", "0.0"]
    assert number(2.0, 2, sign=True) == "+2.00"
    assert [p_value(p) for p in (0.0004, 0.0456, 1.0, np.nan)] == ["< .001", ".046", "1.000", "–"]


def test_every_small_table_is_inside_the_page(page: HtmlPage) -> None:
    own = {str(link["download"]): str(link["href"]) for link in page.all("a") if link.get("download")}
    kind, _, data = own["scores.csv"].partition(",")
    assert kind == "data:text/csv;base64"
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(unquote(data)).decode())))
    assert [row["condition"] for row in rows] == [
        "pretrained LM, original",
        "random-init LM, original",
        "pretrained LM, across",
        "pretrained LM, within",
    ]
    assert 0 < float(rows[0]["held-out F1 lowest"]) <= float(rows[0]["held-out F1"]) <= 100
    assert own["results.csv"].startswith("data:text/csv")


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_all_three_themes() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATES / "page.css").read_text(), re.S)
    assert len(blocks) == 3  # light, dark, paper
    for block in blocks:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block))
        colours = {
            name: "#" + "".join(2 * c for c in code[1:]) if len(code) == 4 else code for name, code in colours.items()
        }
        for ink in ("ink", "soft", "link", "good", "bad"):
            for ground in ("paper", "wash"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground, colours)
