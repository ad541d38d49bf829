"""The report page and its summary: complete, self-contained, the same bytes twice, honest where cells are missing."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from html_page import HtmlPage
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score
from synthetic_sweep import CELLS, World, id_of, mark_done, standing_in, write_sweep

from analysis.figures.contents import FIGURES, Figures
from analysis.predictions import load_sweep
from analysis.report import files as study_files
from analysis.report.files import analyze
from analysis.report.report import write_report

WORLD = World(families=4, per_leaf=12)
SECONDS = {"world": 98.7, "train": 120.0}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset folder with the test images, a world's manifest and contact sheet, and a sweep that points at them."""
    root = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    for key in WORLD.images["key"]:
        path = root / "dataset" / "images" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    (root / "world").mkdir()
    manifest = {"how_made": "Drawn from <one> seed.", "seed": 7, "size": {"families": 4}, "files": {"a": "0123abc"}}
    (root / "world" / "world.json").write_text(json.dumps(manifest))
    Image.new("RGB", (9, 9), "teal").save(root / "world" / "contact_sheet.png")
    paths = {"dataset": str(root / "dataset"), "features": str(root / "dataset")}
    write_sweep(root / "sweep", WORLD, paths=paths)
    return root


@pytest.fixture(scope="module", autouse=True)
def _features() -> Iterator[None]:
    """Stand-ins for the dataset and the store; the real ones are read in test_coherence."""
    with standing_in(WORLD):
        yield


@pytest.fixture(scope="module")
def report(inputs: Path) -> tuple[dict, str]:
    summary = write_report(load_sweep(inputs / "sweep"), inputs / "report", world=inputs / "world", seconds=SECONDS)
    return summary, Path(summary["report"]).read_text(encoding="utf-8")


def test_summary_has_the_promised_shape(report: tuple[dict, str], inputs: Path) -> None:
    summary, _ = report
    always = ["report", "baseline", "conditions", "coherence", "coherence_centred"]
    assert list(summary) == [*always, "yardsticks", "ablation", "dose"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert Path(summary["report"]) == inputs / "report" / "index.html"
    assert len(summary["conditions"]) == 12
    fields = {"encoder", "lm", "shuffle", "ablation", "run_seed", "lm_seed", "data_seed", "order"}
    fields |= {"setup", "arm", "ablation_kind", "shuffled", "permutation"}
    scores = {"leaf_macro_f1", "heldout_macro_f1", "heldout_auc"}
    for condition in summary["conditions"]:
        assert set(condition) == fields | scores | {"run_id"}
        assert condition["lm"] in ("pretrained", "random")
        assert 0 <= condition["heldout_auc"] <= 1 < condition["heldout_macro_f1"] <= 100
    assert set(summary["coherence"]) == {"original", "across", "within"}
    assert summary["coherence"]["original"] > summary["coherence"]["across"] + 0.1
    assert 30 < summary["baseline"]["heldout"] < summary["baseline"]["coin"] < 50
    cells = {(row["arm"], row["lm"], row["yardstick"]) for row in summary["yardsticks"]}
    assert cells == {(arm, lm, name) for lm, arm in CELLS for name in ("knn", "knn_whitened", "oracle")}
    assert summary["ablation"] == summary["dose"] == []


def test_summary_equals_scores_computed_from_the_files(report: tuple[dict, str], inputs: Path) -> None:
    summary, _ = report
    condition = next(c for c in summary["conditions"] if (c["lm"], c["shuffle"]) == ("pretrained", "across"))
    (run,) = (place for place in (inputs / "sweep").iterdir() if id_of(place) == condition["run_id"])
    rows = pd.read_parquet(run / "questions.parquet").merge(pd.read_parquet(run / "predictions.parquet"))
    rows = rows[(rows["split"] == "test") & (rows["kind"] == "hypernym")]
    groups = [group for _, group in rows.groupby("category")]
    f1 = [f1_score(g["answer"], g["logit_yes"] >= g["logit_no"], average="macro") for g in groups]
    assert condition["heldout_macro_f1"] == pytest.approx(100 * np.mean(f1))
    area = [roc_auc_score(g["answer"], g["logit_yes"] - g["logit_no"]) for g in groups]
    assert condition["heldout_auc"] == pytest.approx(np.mean(area))


def test_page_is_self_contained(report: tuple[dict, str], inputs: Path) -> None:
    _, html = report
    page = HtmlPage(html)
    assert page.asks_for() == []
    links = {link for link in page.links if not link.startswith(("data:", "#"))}
    assert {"results.csv", "figures/main.svg", "figures/main.pdf", "figures/main.png"} <= links
    assert all((inputs / "report" / link).is_file() for link in links)
    drawn = len(list((inputs / "report" / "figures").glob("*.svg")))
    assert len(page.images) == drawn + 4 + 1  # figures, one example per hypernym, contact sheet


def test_no_two_effects_of_models_read_alike(report: tuple[dict, str]) -> None:
    """By their words; models of the same effect have numbers that may be alike."""
    _, html = report
    table = re.search(r"<caption><span>Effects on .*?<tbody>(.*?)</tbody>", html, re.DOTALL)
    assert table is not None
    rows = [re.sub(r'<td(?! class="t).*?</td>', "", row) for row in table[1].split("<tr>")[1:]]
    assert len(set(rows)) == len(rows) > 10


def test_page_says_what_the_numbers_say(report: tuple[dict, str]) -> None:
    summary, html = report
    text = HtmlPage(html).text
    runs = pd.DataFrame(summary["conditions"])
    means = runs.groupby(["lm", "shuffle"])["heldout_macro_f1"].mean()
    assert f"{means['pretrained', 'original']:.1f} (pretrained LM, original)" in text
    assert "6 contrasts fixed in advance hold" in text  # all, or some of them
    gap = means["pretrained", "original"] - means["pretrained", "across"]
    assert f"{gap:.1f} points" in text
    for said in (
        *("one world (n = 1)", "very question format", "without labels and without text", "Drawn from <one> seed."),
        *("run_seed varied over 0, 1, 2", "data_seed was fixed at 0", "98.7", "demo-7/encoder", "learning_rate"),
        *("Xu et al., March 2026", "74.1", "48.3"),
    ):
        assert said in text
    assert "0123abc" not in text  # the manifest's file hashes stay out


def test_tables_and_figures_lie_beside_the_page(report: tuple[dict, str], inputs: Path) -> None:
    out = inputs / "report"
    results = pd.read_csv(out / "results.csv")
    assert len(results) == 12
    assert results["heldout_macro_f1"].notna().all()
    assert results["validation_leaf_macro_f1"].notna().all()
    categories = pd.read_csv(out / "categories.csv")
    assert {"n_yes", "n_no", "f1", "auc", "group"} <= set(categories)
    assert not ((categories["split"] == "validation") & (categories["group"] == "heldout")).any()
    assert categories[["majority_f1", "coin_f1", "permuted_f1"]].notna().all(axis=None)
    coherence = pd.read_csv(out / "coherence.csv")
    assert set(coherence["arm"]) == {"original", "across", "within"}
    assert pd.read_csv(out / "label_maps.csv")["pairs_kept"].between(0, 1).all()
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert {"main.svg", "auc.svg", "yardsticks.svg", "coherence.svg", "loss.svg"} <= drawn
    written = {path.name for path in out.glob("*.csv")}
    known = {"results.csv", "categories.csv", "coherence.csv", "label_maps.csv"}
    assert written >= known | {"yardsticks.csv", "robustness.csv", "purity.csv"}


@pytest.mark.slow
def test_same_inputs_same_bytes(report: tuple[dict, str], inputs: Path) -> None:
    again = inputs / "again"
    write_report(load_sweep(inputs / "sweep"), again, world=inputs / "world", seconds=SECONDS)
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) > 1 + 8 + 5
    assert files == sorted(path.relative_to(inputs / "report") for path in (inputs / "report").rglob("*.*"))
    for name in files:
        assert (again / name).read_bytes() == (inputs / "report" / name).read_bytes()


@pytest.mark.usefixtures("no_models")
def test_analyze_writes_the_same_tables(
    report: tuple[dict, str], inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.figures.contents.FIGURES", {"main": FIGURES["main"]})
    analyze(load_sweep(inputs / "sweep"), inputs / "tables")
    for name in ("results.csv", "categories.csv", "figures/main.svg"):
        assert (inputs / "tables" / name).read_bytes() == (inputs / "report" / name).read_bytes()
    assert not (inputs / "tables" / "index.html").exists()


def render(folder: Path, sweep: Path) -> tuple[dict, str]:
    """Summary and text of a report without its figures, which take the most time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_files, "draw_figures", lambda *_: Figures({}, {"main": "not drawn here"}))
        summary = write_report(load_sweep(sweep), folder, world=None, seconds={})
    page = HtmlPage(Path(summary["report"]).read_text(encoding="utf-8"))
    assert page.asks_for() == []
    return summary, page.text


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ([("pretrained", "original")], "pretrained LM, across: not run here"),
        ([("pretrained", "across"), ("random", "original")], "so it cannot answer"),
        pytest.param(
            [("pretrained", "original"), ("pretrained", "within")],
            "random-init LM, original: not run here",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_missing_cells_are_said(tmp_path: Path, kept: list[tuple[str, str]], says: str) -> None:
    write_sweep(tmp_path / "sweep", WORLD, {cell: CELLS[cell] for cell in kept}, seeds=(0,))
    summary, text = render(tmp_path / "report", tmp_path / "sweep")
    assert says in text
    assert "visual coherence, the visual yardsticks and depths are left out" in text  # no paths recorded
    assert "--dataset" in text
    assert "Measured against what can be seen" not in text
    assert "main: not drawn here" in text
    assert summary["yardsticks"] == []
    assert summary["coherence"] == {"original": None, "across": None, "within": None}


@pytest.mark.usefixtures("no_models")
def test_without_held_out_questions(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", WORLD, seeds=(0,), ablation=0)
    for run in sweep.iterdir():
        questions = pd.read_parquet(run / "questions.parquet").assign(seen=True)
        questions.to_parquet(run / "questions.parquet", index=False)
        mark_done(run)
    summary, text = render(tmp_path / "report", sweep)
    assert summary["baseline"]["coin"] is None
    assert summary["conditions"][0]["heldout_macro_f1"] is None
    assert summary["conditions"][0]["leaf_macro_f1"] > 50
    assert "Seen hypernyms" in text


@pytest.mark.usefixtures("no_models")
def test_failed_runs_and_several_setups_are_listed(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", WORLD, seeds=(0,))
    write_sweep(sweep, WORLD, {("pretrained", "original"): CELLS["pretrained", "original"]}, seeds=(0,), ablation=50)
    broken = sweep / "pretrained-original-r9"
    shutil.copytree(sweep / "pretrained-original-r0", broken)
    (broken / "FAILED").write_text('{"reason": "loss is NaN at step 7 <script>"}')
    summary, text = render(tmp_path / "report", sweep)
    assert len(summary["conditions"]) == 5
    assert "1 run has no results" in text
    assert "loss is NaN at step 7 <script>" in text
    assert "ablation 50 %" in text
    assert "ablation 100 %" in text


@pytest.mark.usefixtures("no_models")
def test_runs_with_the_papers_models_stand_beside_their_own_cells(tmp_path: Path) -> None:
    models = {
        "Qwen/Qwen3-1.7B": "vit_large_patch14_reg4_dinov2.lvd142m",
        "Qwen/Qwen3-0.6B": "vit_so400m_patch14_siglip_224",
    }
    original = {("pretrained", "original"): CELLS["pretrained", "original"]}
    for lm, encoder in models.items():
        write_sweep(tmp_path / "sweep", WORLD, original, seeds=(0,), lm=lm, encoder=encoder)
    summary, text = render(tmp_path / "report", tmp_path / "sweep")
    f1 = {row["encoder"]: f"{row['heldout_macro_f1']:.1f}" for row in summary["conditions"]}
    dino, siglip = (f1[encoder] for encoder in models.values())
    assert f"pretrained LM, original, Qwen3-1.7B: held-out F1 {dino}, " in text
    assert f"pretrained LM, original, Qwen3-0.6B, SigLIP: held-out F1 {siglip}, " in text
    assert "Qwen3-0.6B: held-out" not in text  # with DINOv2: not run
    assert "pretrained LM, across: not run here" in text
    assert "compare the pattern, not the digits" not in text


@pytest.mark.usefixtures("no_models")
def test_weak_leaves_bring_a_caution(tmp_path: Path) -> None:
    cells = {("pretrained", "original"): (1.5, 1.0, 0.0), ("random", "original"): (0.3, 0.0, 0.9)}
    write_sweep(tmp_path / "sweep", WORLD, cells, seeds=(0,))
    _, text = render(tmp_path / "report", tmp_path / "sweep")
    assert "Caution: the trained leaves themselves reach only" in text
    assert "(random-init LM, original); where leaves are not learned" in text
    assert "(pretrained LM, original); where leaves" not in text
