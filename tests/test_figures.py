"""The figures: what they show and where, the paper's values beside it, and that they can be read by everybody.

One study has the paper's models and hypernyms, so that its values stand beside ours; one is a small world.
"""

import multiprocessing
import re
import time
from collections.abc import Iterator
from functools import wraps
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
import synthetic_sweep
from few import few
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from synthetic_sweep import CELLS, World, standing_in, write_probe, write_sweep

from analysis import inputs as inputs_module
from analysis.cells import encoder_names
from analysis.figures.contents import FIGURES, Figures, draw_figures
from analysis.figures.counts import hypernyms_per_leaf_figure, leaves_per_hypernym_figure
from analysis.figures.curves import _as_published
from analysis.figures.main import main_figure
from analysis.figures.style import DOUBLE, ENCODER_LOOKS, LOOKS, SMALL, STYLE, Drawn, Look, key, legend
from analysis.predictions import load_sweep
from analysis.probes import read_probes
from analysis.published import HYPERNYMS_PER_LEAF, published_hypernyms, published_rows
from analysis.report import files as study_files
from analysis.report.files import write_study
from analysis.study import Study, measure
from cachegen.things.names import HYPERNYMS

DINOV2, SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224.webli"
ORIGINAL = {("pretrained", "original"): (2.0, 0.9, 0.0)}
ACROSS = {("pretrained", "across"): (1.4, 0.1, 0.1)}
WITHIN = {("pretrained", "within"): (2.0, 0.8, 0.0)}
RANDOM = {("random", "original"): (1.4, 0.1, 0.5)}
LENS = ("lens", "lens_names", "lens_maps")
SWAP = {("pretrained", "swap"): (1.4, 0.1, 0.5)}
PAPER = {f"Figure {number}" for number in (3, 4, 6, 7, 8, 9, 10, 11, 12)}


class Things(World):
    """The paper's 53 hypernyms, two leaves each."""

    @property
    def dataset(self) -> Any:
        base = super().dataset
        depth = pd.array([HYPERNYMS[name].depth for name in base.hypernyms.index], dtype="Int64")
        return SimpleNamespace(**{**vars(base), "hypernyms": base.hypernyms.assign(depth=depth)})


def study_of(world: World, folder: Path, probes: tuple[Path, ...] = ()) -> Study:
    with standing_in(world):
        return measure(load_sweep(folder), read_probes(list(probes)))


def draw(world: World, study: Study) -> Figures:
    with standing_in(world):
        return draw_figures(study)


PDF, PNG = Drawn.pdf, Drawn.png  # before other tests do without


@pytest.fixture(scope="module", autouse=True)
def _all_kinds_of_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawn, "pdf", PDF)
        patch.setattr(Drawn, "png", PNG)
        yield


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Study]:
    """Runs for every figure of the paper, one seed each but where dots are compared."""
    root = tmp_path_factory.mktemp("things")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_sweep, "FAMILIES", {name: [f"{name} 1", f"{name} 2"] for name in sorted(HYPERNYMS)})
        world = Things(families=53, per_leaf=6)
    about = {"paths": {"dataset": str(root), "features": str(root)}, "encoder": DINOV2, "seeds": (0,)}
    qwen, llama = {**about, "lm": "Qwen/Qwen3-0.6B"}, {**about, "lm": "meta-llama/Llama-3.2-1B"}
    write_sweep(root / "sweep", world, ORIGINAL, **{**qwen, "seeds": (0, 1)})
    for cells in (ACROSS, WITHIN, RANDOM):
        write_sweep(root / "sweep", world, cells, **qwen)
    write_sweep(root / "sweep", world, {**ORIGINAL, **ACROSS, **RANDOM}, ablation=30, **qwen)
    for removed in (10, 20):
        systematic = {"ablation": removed, "ablation_kind": "systematic", "removed_list": "published"}
        write_sweep(root / "sweep", world, {**ORIGINAL, **RANDOM}, **systematic, **qwen)
    write_sweep(root / "sweep", world, ORIGINAL, **{**qwen, "encoder": SIGLIP})
    for level in (30, 100):
        write_sweep(root / "sweep", world, {**ORIGINAL, **ACROSS}, ablation=level, **llama)
    study = study_of(world, root / "sweep")
    vars(study)["fitted"] = []  # the small world has models enough
    return world, study


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Study]:
    """A small world of other models: several seeds, a dose-response, a probe, two kinds of systematic ablation."""
    root = tmp_path_factory.mktemp("small")
    world = World(families=8, per_leaf=8, parents=True)
    about = {"paths": {"dataset": str(root), "features": str(root)}}
    write_sweep(root / "sweep", world, CELLS, seeds=(0, 1), **about)
    for level in (10, 50):
        write_sweep(root / "sweep", world, {**ORIGINAL, **ACROSS, **RANDOM}, seeds=(0,), ablation=level, **about)
    for scope in ("leaf", "mapping"):
        for removed in (2, 5):
            systematic = {"ablation": removed, "ablation_kind": "systematic", "scope": scope}
            write_sweep(root / "sweep", world, ORIGINAL, seeds=(0,), **systematic, **about)
    for dose in (25, 75):
        across = {("pretrained", "across"): (1.6, 1.2 - dose / 100, 0.0)}
        write_sweep(root / "sweep", world, across, seeds=(0,), shuffled=dose, **about)
    return world, study_of(world, root / "sweep", (write_probe(root / "probe.parquet", world, 1.2),))


@pytest.fixture(scope="module")
def drawn_things(things: tuple[World, Study]) -> Figures:
    return draw(*things)


@pytest.fixture(scope="module")
def drawn_small(small: tuple[World, Study]) -> Figures:
    return draw(*small)


@pytest.fixture(scope="module", params=["things", "small"])
def drawn(request: pytest.FixtureRequest, drawn_things: Figures, drawn_small: Figures) -> Figures:
    return drawn_things if request.param == "things" else drawn_small


# --- Which figures there are


def test_the_papers_figures_are_drawn_where_their_runs_are(drawn_things: Figures, drawn_small: Figures) -> None:
    assert {figure.paper for figure in drawn_things.drawn.values()} == PAPER | {""}
    assert set(drawn_things.absent) == {"text", "dose", "tuning", *LENS}
    assert set(drawn_small.absent) == {"encoders", "ablation_llama", "shuffles_llama", "tuning", *LENS}
    for figures in (drawn_things, drawn_small):
        assert [name for name in FIGURES if name in figures.drawn] == list(figures.drawn)
        assert set(figures.drawn) | set(figures.absent) == set(FIGURES)


def test_a_figure_without_its_runs_says_which_it_needs(tmp_path: Path) -> None:
    world = World(families=2, per_leaf=8)
    absent = draw_figures(measure(load_sweep(write_sweep(tmp_path, world, ORIGINAL, seeds=(0,))))).absent
    assert set(absent) == set(FIGURES) - {"main", "headline", "auc", "loss", "sensitivity"}
    for sentence in absent.values():
        assert re.fullmatch(r"[A-Z][^.]* needs? .*\.", sentence), sentence
    for name, number in (("encoders", 3), ("ablation", 4), ("shuffles", 6), ("coherence_plain", 7), ("depth", 12)):
        assert absent[name].startswith(f"Figure {number} needs")
    assert "dataset" in absent["hypernyms_per_leaf"]


# --- What they show, and where


def artists(figure: Figure, label: str) -> list[tuple[Axes, pd.DataFrame]]:
    """The lines and markers of that label: their axes and their points (columns x, y)."""
    return [
        (ax, pd.DataFrame(np.asarray(line.get_xydata(), float), columns=["x", "y"]))
        for ax in figure.axes
        for line in ax.lines
        if line.get_label() == label
    ]


def only(figure: Figure, label: str, title: str = "") -> pd.DataFrame:
    """The points of that label in the one panel whose title has `title`."""
    found = [points for ax, points in artists(figure, label) if title in ax.get_title(loc="left")]
    assert len(found) == 1, (label, title, len(found))
    return found[0]


def means(study: Study, group: str, **fields: object) -> pd.Series:
    """Mean test F1 of the pretrained runs with these fields, by ablation level."""
    wanted = {"lm": "Qwen/Qwen3-0.6B", "encoder": DINOV2, "lm_init": "pretrained", "arm": "original", **fields}
    runs = study.runs[(study.runs[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    return study.test(group).loc[runs.index, "macro_f1"].groupby(runs["ablation"]).mean()


@pytest.mark.parametrize(("lm_init", "name"), [("pretrained", "pretrained LM"), ("random", "random-init LM")])
def test_figure_4_has_our_curves_and_the_papers(
    things: tuple[World, Study], drawn_things: Figures, lm_init: str, name: str
) -> None:
    figure = drawn_things.drawn["ablation"].figure
    own = means(things[1], "heldout", lm_init=lm_init, kind="random")
    shown = only(figure, f"{name}, heldout", "Random: held-out")
    assert shown["x"].tolist() == own.index.tolist() == [30, 100]
    np.testing.assert_allclose(shown["y"], own)
    cell = {"lm": "Qwen3-0.6B", "encoder": "DINOv2", "lm_init": lm_init, "shuffle": "original", "over": "all"}
    paper = published_rows(**cell, kind="random", group="heldout").set_index("ablation")["f1"]
    rings = only(figure, f"published {lm_init} original heldout", "Random: held-out").set_index("x")["y"]
    assert rings.to_dict() == paper.to_dict()
    assert list(rings.index) == [10, 30, 50, 70, 90, 100]
    trained = only(figure, f"published {lm_init} original seen", "Random: trained on")
    assert trained["y"].tolist() == published_rows(**cell, kind="random", group="seen")["f1"].tolist()


def test_a_systematic_curve_ends_with_all_hypernyms(things: tuple[World, Study], drawn_things: Figures) -> None:
    figure = drawn_things.drawn["ablation"].figure
    own = means(things[1], "heldout", kind="systematic")
    full = means(things[1], "heldout", kind="random")[100]
    shown = only(figure, "pretrained LM, heldout", "Systematic: held-out")
    assert shown["x"].tolist() == [10, 20, 53]
    np.testing.assert_allclose(shown["y"], [*own, full])
    rings = only(figure, "published pretrained original heldout", "Systematic: held-out").set_index("x")["y"]
    assert list(rings.index) == [10, 20, 30, 40, 53]
    assert (rings[10], rings[53]) == (73.19, 74.14)
    removed = only(figure, "published pretrained original removed", "Systematic: held-out")
    assert removed["y"].tolist() == pytest.approx([47.2, 48.3, 63.6, 65.2], abs=0.11)


@pytest.mark.parametrize(
    ("changed", "beside"),
    [
        ({}, True),
        ({"scope": "mapping"}, False),
        ({"ablation_kind": "systematic"}, False),
        ({"ablation_kind": "systematic", "removed_list": "published"}, True),
        ({"ablation_kind": "systematic", "removed_list": "published", "removed_as_negative": "never"}, False),
        ({"removed_as_negative": "never"}, True),  # means nothing for a random ablation
    ],
)
def test_the_papers_curves_stand_beside_equal_rules_only(changed: dict[str, str], beside: bool) -> None:
    run = {"ablation_kind": "random", "scope": "leaf", "removed_list": "drawn", "removed_as_negative": "keep"}
    assert _as_published(pd.Series({**run, **changed})) is beside


def test_figures_10_and_11_have_the_llamas_and_what_is_printed_of_them(drawn_things: Figures) -> None:
    for name in ("ablation_llama", "shuffles_llama"):
        figure = drawn_things.drawn[name].figure
        assert only(figure, "published pretrained original heldout").to_numpy().tolist() == [[100, 74.5]]
        assert only(figure, "published pretrained original leaf").to_numpy().tolist() == [[100, 97.1]]
        assert "Llama" in drawn_things.drawn[name].alt or len(figure.axes) == 2
    assert artists(drawn_things.drawn["ablation"].figure, "pretrained LM, heldout")
    assert all("Llama" not in text.get_text() for text in drawn_things.drawn["ablation"].figure.findobj(Text))


def test_figure_6_has_a_line_for_each_kind_of_labels(things: tuple[World, Study], drawn_things: Figures) -> None:
    figure = drawn_things.drawn["shuffles"].figure
    for arm, last in (("original", 74.14), ("across", 46.43)):
        shown = only(figure, f"{arm}, heldout", "Random: held-out")
        np.testing.assert_allclose(shown["y"], means(things[1], "heldout", kind="random", arm=arm))
        rings = only(figure, f"published pretrained {arm} heldout", "Random: held-out")
        assert rings["x"].tolist() == [10, 30, 50, 70, 90, 100]
        assert rings["y"].iloc[-1] == last
    assert not artists(figure, "within, heldout")  # one level is no curve
    assert len(figure.axes) == 2  # nothing systematic, where all runs have the same labels


def test_figure_3_has_each_encoder_beside_the_other(things: tuple[World, Study], drawn_things: Figures) -> None:
    figure = drawn_things.drawn["encoders"].figure
    for encoder, paper in (("DINOv2", 74.14), ("SigLIP", 67.77)):
        rings = only(figure, f"published {encoder}", "Held-out")
        assert rings["y"].tolist() == [paper]
        dots = only(figure, encoder, "Held-out")
        name = {"DINOv2": DINOV2, "SigLIP": SIGLIP}[encoder]
        own = means(things[1], "heldout", encoder=name, kind="random")[100]
        assert dots["y"].mean() == pytest.approx(own)
        assert abs(dots["x"].mean() - rings["x"][0]) < 0.01
    assert only(figure, "published DINOv2", "Leaves")["y"].tolist() == [96.4]


def test_the_main_figure_has_every_printed_cell(drawn_things: Figures) -> None:
    figure = drawn_things.drawn["main"].figure
    rings = {
        line.get_label(): line.get_ydata()[0]
        for ax in figure.axes[:2]
        for line in ax.lines
        if str(line.get_label()).startswith("published") and "Held-out" in ax.get_title(loc="left")
    }
    cells = {"original": 74.14, "across": 46.43, "within": 73.68, "random-init\nLM": 45.22}
    assert rings == {f"published {name}": value for name, value in cells.items()}


def test_figure_7_has_a_dot_per_hypernym_and_the_papers(things: tuple[World, Study], drawn_things: Figures) -> None:
    figure = drawn_things.drawn["coherence_plain"].figure
    rings = only(figure, "published hypernyms", "DINOv2 · Qwen3-0.6B")
    paper = published_hypernyms()
    np.testing.assert_array_equal(
        rings.sort_values(["x", "y"]), paper[["coherence", "Qwen3-0.6B"]].sort_values(["coherence", "Qwen3-0.6B"])
    )
    assert not artists(drawn_things.drawn["coherence"].figure, "published hypernyms")  # another measure
    said = re.search(r"DINOv2 · Qwen3-0.6B: r = (\S+), n = 53", drawn_things.drawn["coherence_plain"].alt)
    categories = things[1].categories.query("split == 'test' and group == 'heldout'")
    runs = things[1].runs.query("lm == 'Qwen/Qwen3-0.6B' and encoder == @DINOV2 and lm_init == 'pretrained'")
    runs = runs[(runs["arm"] == "original") & (runs["ablation"] == 100)]
    f1 = categories[categories["run_id"].isin(runs.index)].groupby("category")["f1"].mean()
    known = things[1].hypernym_coherence().query("map == @runs['map'].iloc[0]").set_index("category")["all_pairs"]
    assert said is not None
    assert float(said[1].replace("−", "-")) == pytest.approx(np.corrcoef(f1, known[f1.index])[0, 1], abs=0.006)


def test_figure_12_has_the_papers_depths(drawn_things: Figures) -> None:
    rings = only(drawn_things.drawn["depth"].figure, "published pretrained original", "DINOv2 · Qwen3-0.6B")
    assert rings["y"].tolist() == [75.88, 72.48, 55.37]
    assert rings["x"].round().tolist() == [0, 1, 2]


def test_figures_8_and_9_count_and_show_the_papers_counts() -> None:
    paper = published_hypernyms()["leaves"]
    table = paper.rename_axis("hypernym").rename("leaves").reset_index().assign(leaves=lambda t: t["leaves"] + 1)
    figure = leaves_per_hypernym_figure(table, beside=True).figure
    rings = only(figure, "published leaves")
    assert rings["x"].tolist() == paper.tolist()
    assert [bar.get_width() for bar in figure.axes[0].patches] == (paper + 1).tolist()
    counts = pd.DataFrame({"hypernyms": [1, 2], "leaves": [10, 5]})
    figure = hypernyms_per_leaf_figure(counts, beside=True).figure
    assert only(figure, "published leaves").set_index("x")["y"].to_dict() == HYPERNYMS_PER_LEAF
    assert not artists(hypernyms_per_leaf_figure(counts).figure, "published leaves")


def test_beside_another_world_the_paper_shows_patterns_only(drawn_small: Figures) -> None:
    figure = drawn_small.drawn["ablation"].figure
    assert len(artists(figure, "published pretrained original heldout")) == 1  # the random panel, none of systematic
    assert "paper (Qwen3-0.6B)" in [text.get_text() for text in figure.legends[0].get_texts()]
    for name in ("ablation", "shuffles", "main", "depth"):
        assert "compare the pattern" in drawn_small.drawn[name].caption
    for name in ("coherence_plain", "leaves_per_hypernym", "hypernyms_per_leaf"):  # on other scales
        labels = [str(line.get_label()) for ax in drawn_small.drawn[name].figure.axes for line in ax.lines]
        assert not [label for label in labels if label.startswith("published")]
        assert "paper’s" not in drawn_small.drawn[name].caption


def test_a_swap_subset_has_nothing_of_the_paper(tmp_path: Path) -> None:
    world = World(families=8, per_leaf=8)
    swap = {"lm": "Qwen/Qwen3-0.6B", "encoder": DINOV2, "subset": "swap"}
    write_sweep(tmp_path, world, {**ORIGINAL, **SWAP}, seeds=(0,), **swap)
    main = main_figure(measure(load_sweep(tmp_path)))
    assert not [line for ax in main.figure.axes for line in ax.lines if str(line.get_label()).startswith("published")]


# --- Words


def test_words_are_plain_sentences_with_our_numbers(drawn: Figures) -> None:
    for name, figure in drawn.drawn.items():
        for text in (figure.title, figure.caption, figure.alt):
            assert text.strip() == text != "", name
            assert "nan" not in text.lower().split(), (name, text)
            assert "<" not in text
        assert figure.caption.endswith("."), name
        assert figure.alt.endswith("."), name
        assert re.search(r"\d", figure.alt), name


def test_alt_texts_say_the_means(small: tuple[World, Study], drawn_small: Figures) -> None:
    study = small[1]
    runs = study.runs[study.runs["shown"] & (study.runs["arm"] == "within")]
    mean = study.test("heldout").loc[runs.index, "macro_f1"].mean()
    assert f"within {mean:.1f}" in drawn_small.drawn["main"].alt.split("Held-out hypernyms")[1]
    curve = study.ablation.query("arm == 'original' and lm_init == 'random' and kind == 'random'")
    curve = curve[(curve["group"] == "heldout") & (curve["over"] == "all")].set_index("ablation")["f1"]
    said = f"random-init LM {curve[10]:.1f} with 10 % withheld and {curve[100]:.1f} with 100"
    assert said in drawn_small.drawn["ablation"].alt
    assert "48 with 2" in drawn_small.drawn["hypernyms_per_leaf"].alt


def test_models_have_the_papers_names_where_these_tell_them_apart() -> None:
    assert encoder_names([DINOV2, SIGLIP]) == {DINOV2: "DINOv2", SIGLIP: "SigLIP"}
    assert encoder_names([f"{DINOV2}@384+{SIGLIP}@384", DINOV2])[f"{DINOV2}@384+{SIGLIP}@384"] == "DINOv2+SigLIP"
    small = "vit_small_patch14_dinov2.lvd142m"
    assert encoder_names([DINOV2, small]) == {DINOV2: DINOV2, small: small}


# --- Files


OWN_STYLE = {
    "text.usetex": True,
    "font.size": 20,
    "axes.facecolor": "red",
    "savefig.bbox": "tight",
    "path.sketch": (1, 9, 2),
    "lines.linestyle": ":",
    "axes.xmargin": 0.4,
    "legend.loc": "center",
    "svg.fonttype": "none",
    "figure.dpi": 40,
}


def test_the_same_study_gives_the_same_bytes_on_another_day_and_in_any_style(
    small: tuple[World, Study], drawn_small: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    tomorrow = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    with matplotlib.rc_context(OWN_STYLE):  # a user's matplotlibrc
        one, other = drawn_small.drawn["coherence"], FIGURES["coherence"](small[1])
        assert one.figure is not other.figure
        theirs = other.svg(), other.pdf(), other.png()
    assert (one.svg(), one.pdf(), one.png()) == theirs
    assert drawn_small.drawn["coherence_plain"].svg() != theirs[0]


def test_files_need_nothing_else(small: tuple[World, Study], tmp_path: Path) -> None:
    world, study = small
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_files, "write_tables", lambda *_: [])
        patch.setattr(inputs_module, "open_dataset", lambda *_: world.dataset)
        patch.setattr(
            "analysis.figures.contents.FIGURES", {name: FIGURES[name] for name in ("main", "leaves_per_hypernym")}
        )
        _, figures, svgs = write_study(study, tmp_path)
    assert list(figures.drawn) == list(svgs) == ["main", "leaves_per_hypernym"]
    folder = tmp_path / "figures"
    assert {path.name for path in folder.iterdir()} == {
        f"{n}.{e}" for n in ("main", "leaves_per_hypernym") for e in ("svg", "pdf", "png")
    }
    assert (folder / "main.svg").read_text(encoding="utf-8") == svgs["main"]
    svg = ElementTree.fromstring(svgs["main"])
    assert svg[0].text == "Macro F1 of leaves and held-out hypernyms"
    links = [value for element in svg.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not svg.findall(".//{*}text")  # outlines, no fonts
    assert not svg.findall(".//{*}date")
    pdf = (folder / "main.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert b"/Title" in pdf
    with Image.open(folder / "main.png") as image:
        assert image.width == round(DOUBLE * 300, 0) - 1 or image.width == int(DOUBLE * 300)
        assert "Macro F1" in image.info["Title"]


@pytest.mark.parametrize("killed", few([False, True], False))
def test_another_process_writes_the_same_files(
    small: tuple[World, Study], drawn_small: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Or, if it is killed on the way, this one does."""
    world, study = small
    names = ("loss", "leaves_per_hypernym")
    monkeypatch.setattr(inputs_module, "open_dataset", lambda *_: world.dataset)
    monkeypatch.setattr("analysis.figures.contents.FIGURES", {name: FIGURES[name] for name in names})
    monkeypatch.setattr(study_files, "MANY_RUNS", 1)
    monkeypatch.setattr(study_files, "cores", lambda: 2)
    here, write = [], Drawn.write

    @wraps(write)
    def recorded(drawn: Drawn, folder: Path, name: str) -> str:
        here.append(name)
        return write(drawn, folder, name)

    def tables(*_: object) -> list[str]:
        return [child.kill() or child.name for child in multiprocessing.active_children()] if killed else []

    monkeypatch.setattr(Drawn, "write", recorded)
    monkeypatch.setattr(study_files, "write_tables", tables)
    _, _, svgs = write_study(study, tmp_path)
    assert here == (list(names) if killed else [])
    for name in names:
        assert svgs[name] == drawn_small.drawn[name].svg() == (tmp_path / f"figures/{name}.svg").read_text()
        assert (tmp_path / f"figures/{name}.pdf").read_bytes() == drawn_small.drawn[name].pdf()
        assert (tmp_path / f"figures/{name}.png").read_bytes() == drawn_small.drawn[name].png()


def test_a_small_study_begins_no_other_process(
    small: tuple[World, Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor asks for what one would need: some machines have no semaphores."""
    monkeypatch.setattr("analysis.figures.contents.FIGURES", {})
    monkeypatch.setattr(study_files, "MANY_RUNS", len(small[1].runs) + 1)
    monkeypatch.setattr(study_files, "ProcessPoolExecutor", lambda *_: pytest.fail("begun"))
    monkeypatch.setattr(study_files, "write_tables", lambda *_: [])
    assert write_study(small[1], tmp_path)[0] == []


def test_names_of_users_are_text_and_not_markup(tmp_path: Path) -> None:
    world = World(families=3, per_leaf=8)
    for lm in ("my/$weird_{lm}$<b>&amp;", "my/other"):
        write_sweep(tmp_path, world, ORIGINAL, seeds=(0,), lm=lm)
    figures = draw_figures(measure(load_sweep(tmp_path)))
    for figure in figures.drawn.values():
        assert ElementTree.fromstring(figure.svg()) is not None
    names = [text.get_text() for text in figures.drawn["main"].figure.findobj(Text)]
    assert "$weird_{lm}$<b>&amp;" in names
    assert all(not text.get_parse_math() for text in figures.drawn["main"].figure.findobj(Text))


# --- Readable


def shown_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """All texts that are drawn, with their boxes in points."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    with matplotlib.rc_context(STYLE):  # ticks are chosen when they are drawn
        figure.draw(renderer)
    texts = [text for legend_ in figure.legends for text in legend_.get_texts()]
    for ax in figure.axes:
        if ax.axison:
            texts += [ax.title, ax._left_title, ax._right_title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                texts += [tick.label1 for tick in ticks]
    scale = 72 / figure.dpi
    boxes = [
        (text, text.get_window_extent(renderer)) for text in texts if text.get_visible() and text.get_text().strip()
    ]
    return [(text, _inked(text, Bbox(box.extents.reshape(2, 2) * scale))) for text, box in boxes]


def _inked(text: Text, box: Bbox) -> Bbox:
    """Without empty lines above the text."""
    lines = text.get_text().split("\n")
    empty = next(number for number, line in enumerate(lines) if line)
    return Bbox.from_extents(box.x0, box.y0, box.x1, box.y1 - box.height * empty / len(lines))


def collisions(texts: list[tuple[Text, Bbox]], slack: float = 1.0) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes, made smaller by `slack` points on each side, share some area."""
    boxes = [(text.get_text(), box.padded(-slack)) for text, box in texts]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if Bbox.intersection(one, other) is not None]


def test_text_is_large_enough_inside_the_page_and_never_on_text(drawn: Figures) -> None:
    for name, figure in drawn.drawn.items():
        width, height = figure.figure.get_size_inches() * 72
        assert width <= DOUBLE * 72 + 0.1, name
        texts = shown_texts(figure.figure)
        assert len(texts) > 5, name
        for text, box in texts:
            assert text.get_fontsize() >= SMALL, (name, text.get_text())
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            assert inside, (name, text.get_text(), box)
        assert collisions(texts) == [], name


def test_a_collision_would_be_found(small: tuple[World, Study]) -> None:
    figure = main_figure(small[1]).figure
    assert collisions(shown_texts(figure)) == []
    title = figure.axes[0].get_title(loc="left")
    figure.axes[0].annotate("far up", (0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points")
    assert collisions(shown_texts(figure)) == [(title, "far up")]


def test_names_of_hypernyms_lie_on_no_dot(drawn_small: Figures, drawn_things: Figures) -> None:
    for drawn in (drawn_small, drawn_things):
        figure = drawn.drawn["coherence"].figure
        texts = shown_texts(figure)
        scale = 72 / figure.dpi
        for ax in figure.axes:
            dots = [line.get_xydata() for line in ax.lines if line.get_marker() not in ("None", "")]
            names = [
                box for text, box in texts if text.axes is ax and text in ax.texts and "r =" not in text.get_text()
            ]
            if dots:
                assert names
                places = ax.transData.transform(np.concatenate(dots)) * scale
                assert not any(box.contains(x, y) for box in names for x, y in places)


def test_a_legend_takes_the_rows_that_it_needs() -> None:
    look = LOOKS["original"]
    for width, rows in ((DOUBLE, 1), (DOUBLE / 2, 2), (1.6, 4)):
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(width, 2), layout="constrained")
            figure.subplots()
            legend(figure, [key(f"a name of a line {n}", look) for n in range(4)])
            figure.draw_without_rendering()
        texts = figure.legends[0].get_texts()
        assert len({round(text.get_window_extent().y0) for text in texts}) == rows
        assert max(text.get_window_extent().x1 for text in texts) < figure.bbox.x1


# Machado, Oliveira & Fernandes (2009), severity 1: linear RGB as protan, deutan and tritan observers see it.
SIGHT = {
    "normal": "1 0 0 0 1 0 0 0 1",
    "protan": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 1.051998",
    "deutan": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.011820 0.042940 0.968881",
    "tritan": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 0.004733 0.691367 0.303900",
}
TO_XYZ = "0.4124564 0.3575761 0.1804375 0.2126729 0.7151522 0.072175 0.0193339 0.119192 0.9503041"


def matrix(numbers: str) -> np.ndarray:
    return np.array(numbers.split(), float).reshape(3, 3)


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    part = matrix(TO_XYZ) @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(part > 216 / 24389, np.cbrt(part), (24389 / 27 * part + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str, sight: str) -> float:
    """CIE 1976 difference of two colours as somebody sees them."""
    seen = matrix(SIGHT[sight])
    return float(np.linalg.norm(lab(seen @ linear(one)) - lab(seen @ linear(other))))


@pytest.mark.parametrize("looks", [LOOKS, ENCODER_LOOKS], ids=["conditions", "encoders"])
def test_looks_are_told_apart_by_anybody_and_in_grey(looks: dict[str, Look]) -> None:
    for one, other in combinations(looks.values(), 2):
        assert one.marker != other.marker
        assert one.dash != other.dash
        for sight in SIGHT:
            assert distance(one.colour, other.colour, sight) > 15, (one, other, sight)
    for look in looks.values():
        luminance = np.array([0.2126, 0.7152, 0.0722]) @ linear(look.ink)
        assert 1.05 / (luminance + 0.05) > 4.5  # contrast of text on white
    assert distance("#d62728", "#2ca02c", "deutan") < 15 < distance("#d62728", "#2ca02c", "normal")


def test_one_look_for_one_thing_in_all_figures(drawn_small: Figures) -> None:
    """Lines and dots of the same cell have the same colour and marker wherever they are drawn."""
    seen: dict[str, set[tuple[str, str]]] = {}
    names = {"pretrained LM": "original", "random-init\nLM": "random", "random-init LM": "random"}
    for name in ("main", "auc", "ablation", "ablation_auc", "shuffles", "shuffles_auc"):
        for ax in drawn_small.drawn[name].figure.axes:
            for line in ax.lines:
                cell = str(line.get_label()).removesuffix(", heldout")
                if not cell.startswith("_"):
                    seen.setdefault(names.get(cell, cell), set()).add((str(line.get_color()), str(line.get_marker())))
    for cell in ("original", "across", "within", "random"):
        assert seen[cell] == {(LOOKS[cell].colour, LOOKS[cell].marker)}


@pytest.mark.slow
def test_a_user_s_own_style_changes_no_figure(small: tuple[World, Study], drawn_small: Figures) -> None:
    with matplotlib.rc_context(OWN_STYLE):
        drawn = {name: figure.svg() for name, figure in draw(*small).drawn.items()}
    assert len(drawn) > 10
    assert {name for name in drawn if drawn[name] != drawn_small.drawn[name].svg()} == set()
