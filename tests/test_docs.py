"""What the documentation says can be done is done here, on tiny stand-ins: no example that does not run."""

import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import numpy as np
import pandas as pd
import pytest
import typer
from few import few
from picture_study import LEAVES, save_encoder, write_pictures
from small_study import article
from synthetic_release import write_release
from tiny import tiny_lm, tiny_tokenizer
from typer.exceptions import TyperException

from analysis.figures.contents import FIGURES
from cli import app
from engine.design.condition import Sweep
from engine.sweeps.presets import load_preset
from engine.sweeps.sweep_file import read_sweep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
STAND_INS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": "tiny/encoder",
    "Qwen/Qwen3-0.6B": "tiny/small",
    "Qwen/Qwen3-1.7B": "tiny/large",
}
QUICK = {  # what a command is given beside, so that it takes seconds
    "sweep": ["--set", "dtype=float32", "--set", "epochs=1", "--threads", "1"],
    "tune": ["--set", "dtype=float32", "--set", "epochs=1", "--threads", "1"],
    "train": ["dtype=float32", "epochs=1", "--threads", "1"],
    "lens": ["--images", "6"],
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every crosstax command of a shell block."""
    lines = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    return [line[1:] for line in lines if line and Path(line[0]).name == "crosstax"]


EVERY_COMMAND = [
    pytest.param(words, id=f"{page.name}-{number}")
    for page in PAGES
    for number, words in enumerate(
        words for language, text in blocks(page) if language == "sh" for words in commands(text)
    )
]


@pytest.mark.parametrize("words", EVERY_COMMAND)
def test_every_command_in_the_documentation_is_understood(words: list[str]) -> None:
    command, name = typer.main.get_command(app), "crosstax"
    while words and (command_below := getattr(command, "commands", {}).get(words[0])):
        (name, *words), command = words, command_below
    assert name != "crosstax" or words == ["--help"], f"no command {words[:1]}"
    if name != "crosstax":
        command.make_context(name, list(words))


@pytest.mark.parametrize(
    "line", ["crosstax frobnicate", "crosstax sweep --presets fig6", "crosstax bench --rounds many"]
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    (words,) = commands(line)
    with pytest.raises((AssertionError, TyperException)):
        test_every_command_in_the_documentation_is_understood(words)


def write_foreign_features(folder: Path) -> None:
    """What the page on own data imports: an array with the names of birds' pictures, and a table of recordings."""
    rng = np.random.default_rng(0)
    names = sorted(path.relative_to(folder / "birds" / "images") for path in (folder / "birds" / "images").glob("*/*"))
    np.save(folder / "clip.npy", rng.normal(size=(len(names), 8)).astype(np.float32))
    (folder / "file_names.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "recordings").mkdir()
    shutil.copy(folder / "birds" / "taxonomy.csv", folder / "recordings")
    leaves = [leaf for family in LEAVES.values() for leaf in family for _ in range(8)]
    items = pd.DataFrame({"item": [f"{leaf}_{n % 8}.wav" for n, leaf in enumerate(leaves)], "leaf": leaves})
    items.to_csv(folder / "recordings" / "items.csv", index=False)
    vectors = pd.DataFrame(rng.normal(size=(len(items), 8)), columns=list("abcdefgh"))
    pd.concat([items["item"], vectors], axis=1).to_parquet(folder / "heard.parquet")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for what the documentation's examples name."""
    write_pictures(tmp_path / "birds")
    (tmp_path / "things").symlink_to("birds")
    first = next((tmp_path / "birds" / "images" / "crow").iterdir())
    shutil.copy(first, tmp_path / "crow.jpg")
    save_encoder("dinov2", "hf", tmp_path / "tiny" / "encoder")
    names = [article(word) for group in LEAVES.items() for word in [group[0], *group[1]]]
    sentences = [f"Is there {name} in this image? Yes No" for name in names]
    for seed, size in enumerate(("small", "large")):
        tiny_lm("qwen3", seed, vocab_size=512).save_pretrained(tmp_path / "tiny" / size)
        tiny_tokenizer("qwen", sentences=[*sentences, "<image>\nIs there", "Yes", "No"]).save_pretrained(
            tmp_path / "tiny" / size
        )
    write_foreign_features(tmp_path)
    write_release(tmp_path / "cross-modal-taxonomic-gen")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def for_stand_ins(words: list[str]) -> list[str]:
    """A command as it is run here: its words with what they stand for here, and what makes it quick."""
    said = []
    for word in words:
        for name, stand_in in STAND_INS.items():
            word = word.replace(name, stand_in)
        if "/RUN" in word:
            folder, _, _ = word.partition("/RUN")
            word = str(next(path for path in sorted(Path(folder).iterdir()) if (path / "DONE").is_file()))
        said.append(word)
    said += QUICK.get(words[0], [])
    if "--preset" in words:  # the preset's models
        models = [f"encoder={STAND_INS['vit_large_patch14_reg4_dinov2.lvd142m']}"]
        if not any(word.startswith("lm=") for word in words):
            models.append(f"lm={STAND_INS['Qwen/Qwen3-0.6B']}")
        said += [word for each in models for word in ("--set", each)]
        said += [] if "--limit" in words else ["--limit", "2"]
    return said


@pytest.fixture
def brief(no_models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with the figures that pages speak of; `test_demo` has all of a study's."""
    monkeypatch.setattr("analysis.figures.contents.FIGURES", {name: FIGURES[name] for name in ("main", "lens")})


@pytest.mark.parametrize("reports", few(["brief", "whole"], "brief"))
def test_examples_run(workspace: Path, crosstax, request: pytest.FixtureRequest, reports: str) -> None:
    """Those of the pages on THINGS, own data, naming and notebooks, one after the other, and the README's Python."""
    if reports == "brief":
        request.getfixturevalue("brief")
    names: dict[str, object] = {}
    pages = [ROOT / "docs" / name for name in ("things.md", "own-data.md", "naming.md", "notebook.md")]
    readme = [(language, text) for language, text in blocks(ROOT / "README.md") if language == "python"]
    for language, text in [*(block for page in pages for block in blocks(page)), *readme]:
        if language == "bash":  # needs what no test has
            continue
        if language == "toml":
            for name, stand_in in STAND_INS.items():
                text = text.replace(name, stand_in)
            (workspace / text.splitlines()[0].removeprefix("# ")).write_text(text)
        elif language == "sh":
            for words in commands(text):
                code, _, err = crosstax(*for_stand_ins(words))
                assert code == 0, f"{shlex.join(words)}: {err[-2000:]}"
        else:
            assert language == "python"
            for name, stand_in in STAND_INS.items():
                text = text.replace(name, stand_in)
            exec(compile(text, "documentation", "exec"), names)  # noqa: S102
    assert (workspace / "fig6-report" / "index.html").is_file()
    assert (workspace / "figures" / "main.pdf").is_file()
    assert len(pd.read_csv(workspace / "tasks-report" / "naming.csv")) == 2 * 2  # leaves and held-out hypernyms
    assert list(names["model"].groups) == ["run_seed", "category"]


@pytest.fixture
def demo(smoke_world, once, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two short runs of the smoke world, in place of the demo's."""
    from cachegen.data.dataset import load_dataset
    from cachegen.features.extract import extract
    from engine.demo import study_sweep
    from engine.runs.planned import Execution
    from engine.sweeps.sweep import run_sweep

    def fill(place: Path) -> None:
        store = place / "features.h5"
        extract(load_dataset(smoke_world.dataset), str(smoke_world.encoder), store, device="cpu")
        whole = study_sweep(smoke_world, store).runs
        runs = [(inputs, c.model_copy(update={"epochs": 1})) for inputs, c in whole[:4:3]]
        run_sweep(Sweep(runs=tuple(runs)), place / "runs", Execution(device="cpu"))

    shutil.copytree(once("demo-of-docs", fill), tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def variants(smoke_world, demo: Path) -> Path:
    """The smoke world with its variants, whose LMs have read nothing."""
    from cachegen.common.random_init import random_init_lm
    from cachegen.microworld.language_model import lm_config, make_tokenizer, save_lm
    from cachegen.microworld.languages import TwoLanguages, write_languages
    from cachegen.microworld.lexicon import make_lexicon
    from cachegen.microworld.properties import write_properties

    world, lexicon = demo / "world", make_lexicon(smoke_world.size, smoke_world.seed)
    (world / "twins").mkdir(parents=True)
    for name in ("dataset", "encoder", "lm"):
        (world / name).symlink_to(smoke_world.path / name)
    write_languages(smoke_world, world / "twins" / "two-languages")
    names = ("lm-property-questions", "lm-two-languages", "lm-two-languages-no-bridge")
    for seed, name in enumerate(names):
        tokenizer = make_tokenizer(TwoLanguages.of(lexicon) if seed else lexicon)
        model = random_init_lm(lm_config(smoke_world.size.language, tokenizer), seed)
        save_lm(model, tokenizer, world / "twins" / name)
    write_properties(lexicon, world / "twins" / names[0])
    return world


def run_page(page: Path, world: Path, crosstax, **stand_ins: str) -> None:
    """Carry out the commands of a page on the generated `world`, in the working folder."""
    for language, text in blocks(page):
        for name, stand_in in {"WORLD": str(world), **stand_ins}.items():
            text = text.replace(name, stand_in)
        if language == "toml":
            Path(text.splitlines()[0].removeprefix("# ")).write_text(text)
        for words in commands(text) if language == "sh" else []:
            code, _, err = crosstax(*for_stand_ins(words))
            assert code == 0, f"{shlex.join(words)}: {err[-2000:]}"


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_the_page_on_questions_runs(variants: Path, demo: Path, crosstax) -> None:
    page = ROOT / "docs" / "questions.md"
    tables = [text for language, text in blocks(page) if language == "csv"]
    for name, text in zip(("mine.csv", "winged.csv", "names.csv"), tables, strict=True):
        assert f"`{name}`" in page.read_text(encoding="utf-8")
        (demo / name).write_text(text)
    run_page(page, variants, crosstax)
    assert {path.suffix for path in (demo / "demo" / "probes").iterdir()} == {".parquet", ".json"}
    asked = pd.read_csv(demo / "demo" / "report" / "transfer.csv")
    assert set(asked["questions"]) == {"mine", "paraphrases", "properties", "german"}
    assert 'id="transfer"' in (demo / "demo" / "report" / "index.html").read_text(encoding="utf-8")
    assert len(list((demo / "asked").glob("*/transfer/*.parquet"))) == 4
    assert len(list((demo / "told").glob("*/transfer/told-*.parquet"))) == 1


@pytest.mark.usefixtures("brief")
def test_the_page_on_lenses_runs(smoke_world, demo: Path, crosstax) -> None:
    run_page(ROOT / "docs" / "lens.md", smoke_world.path, crosstax, **{"images = 20": "images = 4"})
    assert 'id="lens"' in (demo / "demo" / "report" / "index.html").read_text(encoding="utf-8")
    assert len(list((demo / "looked").glob("*/lens/lens.json"))) == 2


@pytest.mark.slow
def test_the_page_on_languages_runs(variants: Path, demo: Path, crosstax) -> None:
    (demo / "features.h5").symlink_to(demo / "demo" / "features.h5")
    run_page(ROOT / "docs" / "languages.md", variants, crosstax)
    told = pd.read_csv(demo / "cells-report" / "results.csv", keep_default_na=False)
    assert len(told) == 10
    assert set(told["test_language"]) == {"", "second"}


def test_the_table_of_presets_is_right() -> None:
    text = (ROOT / "docs" / "things.md").read_text(encoding="utf-8")
    counted = {}
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE):
        _, names, numbers, *_ = (cell.strip() for cell in row.strip("|").split("|"))
        if found := re.findall(r"`(\w+)`", names):
            counted |= dict(zip(found, map(int, numbers.split(", ")), strict=True))
    assert set(counted) == {"fig3", "fig4", "fig6", "fig7", "fig10", "fig11", "fig12", "table5", "swap", "grid"}
    assert counted == {name: len(read_sweep(load_preset(name))) for name in counted}


def test_links_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken


def test_files_that_the_documentation_names_exist() -> None:
    """Names in backticks that look like files of this repository."""
    missing = []
    for page in [*PAGES, ROOT / "ARCHITECTURE.md"]:
        for name in re.findall(r"`((?:cachegen|engine|analysis|commands|tests)/[\w/.]+?)`", page.read_text("utf-8")):
            if not (ROOT / name).exists():
                missing.append(f"{page.name}: {name}")
    assert not missing


class _Page(HTMLParser):
    """The anchors of an HTML page and the places that it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name in ("href", "src"):
                self.links.add(value or "")


def broken_links(site: Path) -> list[str]:
    """Links and anchors of a built site that lead nowhere; other sites are not asked."""
    pages = {path: _Page(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(unquote(link))
            if "://" in link or link.startswith(("mailto:", "data:")):
                continue
            place = (path.parent / target).resolve() if target else path
            place = place / "index.html" if place.is_dir() else place
            if not place.is_file() or (anchor and anchor not in pages[place].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert broken_links(site) == []
    api = site / "api" / "index.html"
    assert {"engine.sweeps.sweep.run_sweep", "analysis.study.Study.f1"} <= _Page(api.read_text("utf-8")).anchors
    text = api.read_text("utf-8")
    api.write_text(text.replace("</body>", '<a href="../gone/">x</a><a href="../trust/#gone">x</a></body>'), "utf-8")
    assert sorted(broken_links(site)) == ["api/index.html: ../gone/", "api/index.html: ../trust/#gone"]
