"""The paper's numbers as they are shipped: every value against the authors' release, and what is shown beside runs."""

from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from real_taxonomy import REFERENCE, needs_reference

from analysis.beside_paper import references
from analysis.published import (
    CELLS,
    HYPERNYMS_PER_LEAF,
    MORE_CELLS,
    SCORE_KEYS,
    paper_models,
    published_hypernyms,
    published_rows,
    published_scores,
)
from analysis.release.claims import prints_as
from cachegen.things.names import HYPERNYMS
from engine.design.published import REMOVED_HYPERNYMS

DINOV2, SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224.webli"
MACRO = REFERENCE / "release" / "results" / "main-results" / "macro-f1s"


def test_every_value_is_told_apart_and_its_source_stands_with_it() -> None:
    scores = published_scores()
    assert not scores.duplicated([*SCORE_KEYS, "over", "depth"]).any()
    assert scores["f1"].between(0, 100).all()
    assert len(published_hypernyms()) == 53
    assert set(published_hypernyms().index) == set(HYPERNYMS)
    for name in ("published_scores.csv", "published_hypernyms.csv"):
        text = (files("analysis") / name).read_text(encoding="utf-8")
        for said in ("Xu et al.", "github.com/sally-xu-42/cross-modal-taxonomic-gen", "MIT licence"):
            assert said in text.replace("\n# ", " ")


@pytest.mark.parametrize("cell", [*CELLS, *MORE_CELLS], ids=lambda cell: f"{cell.model}-{cell.lm_init}-{cell.shuffle}")
def test_what_the_paper_prints_is_what_its_release_gives(cell) -> None:
    wanted = {"lm": cell.lm, "encoder": cell.encoder, "lm_init": cell.lm_init, "shuffle": cell.shuffle}
    (value,) = published_rows(**wanted, kind="random", ablation=100, group="heldout", over="all")["f1"]
    assert prints_as(value, cell.heldout, 1)


@needs_reference
def test_scores_are_the_reference_means() -> None:
    reference = pd.read_csv(REFERENCE / "published_means.csv")
    shuffles = {"Original": "original", "Across-category": "across", "Within-category": "within"}
    reference = reference.assign(
        lm_init=reference["random_lm"].map({True: "random", False: "pretrained"}),
        shuffle=reference["shuffle"].map(shuffles),
        kind=reference["ablation"].map({"Full": "random", "Random": "random", "Systematic": "systematic"}),
        group=reference["experiment"].map({"Held-Out Hypernyms": "heldout", "Seen Hypernyms": "seen"}),
    ).drop(columns=["ablation", "n"])
    shown = reference[(reference["kind"] == "random") | (reference["shuffle"] == "original")]
    ours = published_scores()
    ours = ours[ours["n"].notna() & ours["depth"].isna() & (ours["over"] == "all")]
    both = ours.merge(shown.rename(columns={"amount": "ablation"}), on=SCORE_KEYS, validate="one_to_one")
    assert len(both) == len(ours) == len(shown) > 100
    np.testing.assert_allclose(both["f1"], 100 * both["mean"], atol=0.005001)
    np.testing.assert_allclose(both["f1_sd"], 100 * both["sd"], atol=0.005001)
    assert (both["n"] == 159).all()
    assert not np.allclose(both["f1"], 100 * both["mean"].sample(frac=1, random_state=0))  # order matters


@needs_reference
def test_depths_are_the_releases() -> None:
    release = pd.read_csv(MACRO / "qwen3-depthwise.csv")
    ours = published_rows(by_depth=True)
    both = ours.merge(release, on=["lm", "depth"], validate="one_to_one")
    assert len(both) == len(ours) == 6
    np.testing.assert_allclose(both["f1"], 100 * both["acc"], atol=0.005001)
    np.testing.assert_allclose(both["f1_sd"], 100 * both["sd"], atol=0.005001)
    assert (both["n_x"] == both["n_y"]).all()


@pytest.fixture(scope="module")
def heldout() -> pd.DataFrame:
    """The release's held-out F1 in points: run (index) x hypernym under its taxonomy name."""
    names = {row.f1_name: name for name, row in HYPERNYMS.items()}
    return 100 * pd.read_csv(MACRO / "all_unseen_f1_scores.csv", index_col=0).rename(columns=names)


@needs_reference
def test_removed_hypernyms_are_those_of_table_4(heldout: pd.DataFrame) -> None:
    ours = published_scores()
    ours = ours[ours["over"] == "removed only"]
    assert len(ours) == 2 * 2 * len(REMOVED_HYPERNYMS)
    for row in ours.itertuples():
        size, end = {"Qwen3-0.6B": "500m", "Qwen3-1.7B": "1b"}[row.lm], "-random" if row.lm_init == "random" else ""
        names = [f"align-dinov2+{size}-things+hyp-abl{row.ablation}cat-{seed}{end}" for seed in (42, 218, 7)]
        values = heldout.loc[names, list(REMOVED_HYPERNYMS[row.ablation])].to_numpy()
        assert row.n == values.size
        assert (row.f1, row.f1_sd) == pytest.approx((values.mean(), values.std(ddof=1)), abs=0.005001)


@needs_reference
def test_hypernyms_are_the_releases(heldout: pd.DataFrame) -> None:
    ours = published_hypernyms()
    leaves = pd.read_csv(REFERENCE / "authors_test_hyp_counts_100pct.csv", index_col="hypernym_id")["n_leaves"]
    assert ours["leaves"].to_dict() == leaves.to_dict()
    measures = pd.read_csv(REFERENCE / "release" / "results" / "coherence_backbone.csv")
    original = measures[measures["shuffle_type"] == "original"].drop_duplicates("category").set_index("category")
    coherence_names = [HYPERNYMS[name].coherence_name for name in ours.index]
    np.testing.assert_allclose(ours["coherence"], original.loc[coherence_names, "avg_cosine"], atol=0.000501)
    for lm, size in {"Qwen3-0.6B": "500m", "Qwen3-1.7B": "1b"}.items():
        runs = [f"align-dinov2+{size}-things-{seed}" for seed in (42, 218, 7)]
        np.testing.assert_allclose(ours[lm], heldout.loc[runs, ours.index].mean(), atol=0.0501)


@needs_reference
def test_counts_are_the_taxonomys() -> None:
    pairs = pd.read_csv(REFERENCE / "things_pairs_2040.csv")
    assert pairs["leaf_uniqueID"].value_counts().value_counts().to_dict() == HYPERNYMS_PER_LEAF


@pytest.mark.parametrize(
    ("lm", "encoder", "paper"),
    [
        ("Qwen/Qwen3-0.6B", DINOV2, ("Qwen3-0.6B", "DINOv2")),
        ("/models/Qwen3-1.7B/", f"timm/{SIGLIP}", ("Qwen3-1.7B", "SigLIP")),
        ("meta-llama/Llama-3.2-1B", "facebook/dinov2-with-registers-large", ("Llama-3.2-1B", "DINOv2")),
        ("Qwen/Qwen3-0.6B", f"{DINOV2}@384", None),
        ("Qwen/Qwen3-0.6B", f"{DINOV2}@384+{SIGLIP}@384", None),
        ("Qwen/Qwen3-0.6B", "vit_small_patch14_dinov2.lvd142m", None),
        ("Qwen/Qwen3-0.6B-Base", DINOV2, None),
        ("/worlds/demo-7/lm", "/worlds/demo-7/encoder", None),
    ],
)
def test_the_papers_models_are_known_by_name(lm: str, encoder: str, paper: tuple[str, str] | None) -> None:
    assert paper_models(lm, encoder) == paper


def study_of(models: list[tuple[str, str, str]], hypernyms: dict[str, list[str]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs with their LM, encoder and dataset, and categories asked about, by dataset."""
    runs = pd.DataFrame(models, columns=["lm", "encoder", "dataset_digest"]).assign(subset="all")
    runs.index = pd.Index([f"run{number}" for number in range(len(runs))], name="run_id")
    rows = [(run, "heldout", name) for run, digest in runs["dataset_digest"].items() for name in hypernyms[digest]]
    return runs, pd.DataFrame(rows, columns=["run_id", "group", "category"])


def test_the_papers_values_stand_beside_its_own_models_and_hypernyms_only() -> None:
    things = list(HYPERNYMS)
    models = [("Qwen/Qwen3-0.6B", DINOV2, "a"), ("other/lm", DINOV2, "a"), ("Qwen/Qwen3-1.7B", DINOV2, "b")]
    runs, categories = study_of(models, {"a": things, "b": things[:-1]})
    beside = references(runs, categories)
    assert beside.name == "paper"
    assert [beside.of(run) and beside.of(run).lm for _, run in runs.iterrows()] == ["Qwen3-0.6B", None, None]
    assert beside.of(runs.iloc[0].replace("all", "swap")) is None
    assert "pattern" not in beside.caption


@pytest.mark.parametrize(("lm", "shown"), [("Qwen/Qwen3-1.7B", "Qwen3-1.7B"), ("/worlds/demo-7/lm", "Qwen3-0.6B")])
def test_beside_other_images_or_models_the_pattern_only(lm: str, shown: str) -> None:
    runs, categories = study_of([(lm, DINOV2, "a"), ("other/lm", DINOV2, "a")], {"a": ["bird", "tool"]})
    beside = references(runs, categories)
    assert [beside.of(run) and beside.of(run).lm for _, run in runs.iterrows()] == [shown, None]
    assert beside.name == f"paper ({shown})"
    assert "compare the pattern, not the digits" in beside.caption
    assert not beside.only_same
    assert beside.only_same.name == beside.only_same.caption == ""
