"""The paper's mixed models from the release's own files (recomputed with R 4.2, lme4 1.1-31, lmerTest 3.1-3)."""

import time

import numpy as np
import pandas as pd
import pytest
from real_taxonomy import REFERENCE

from analysis.statistics.mixed_effects import mixed_model

RESULTS = REFERENCE / "release" / "results"
pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="the authors' release is not beside this checkout")

ENCODER = "f1 ~ enc*lm + (1+enc*lm | seed) + (1+enc*lm | hypernym)"
COHERENCE = "f1 ~ backbone_f1 + avg_cosine + (backbone_f1 + avg_cosine || category) + (1 | model:seed)"


@pytest.fixture(scope="module")
def heldout() -> pd.DataFrame:
    """Macro F1 (0..1) at 100 %, original, pretrained: one row per encoder, LM, seed and hypernym."""
    wide = pd.read_csv(RESULTS / "main-results" / "macro-f1s" / "all_unseen_f1_scores.csv")
    rows = wide.melt("run_name", var_name="hypernym", value_name="f1")
    parts = rows["run_name"].str.extract(r"^align-(?P<encoder>dinov2|siglip)\+(?P<size>500m|1b)-things-(?P<seed>\d+)$")
    rows = rows.join(parts).dropna(subset="encoder")
    return rows.assign(
        enc=rows["encoder"].map({"dinov2": 1, "siglip": -1}),
        lm=rows["size"].map({"500m": 1, "1b": -1}),
        model=rows["size"].map({"500m": "Qwen3-0.6B", "1b": "Qwen3-1.7B"}),
    )


@pytest.fixture(scope="module")
def coherence(heldout) -> pd.DataFrame:
    """The DINOv2 rows with the LM's own F1 and the visual coherence of the category."""
    measures = pd.read_csv(RESULTS / "coherence_backbone.csv").query("shuffle_type == 'original'")
    names = {"school supply": "school supply item", "musical": "musical instrument"}
    rows = heldout[heldout["encoder"] == "dinov2"].assign(category=lambda t: t["hypernym"].replace(names))
    return rows.merge(measures.drop(columns="hypernym"), on=["model", "category"], validate="many_to_one")


def term(model, name: str) -> pd.Series:
    return model.fixed.set_index("term").loc[name]


def test_encoder_effect(heldout) -> None:
    assert len(heldout) == 636
    start = time.process_time()
    model = mixed_model(ENCODER, heldout)
    assert time.process_time() - start < 15
    effect = term(model, "enc")
    assert effect["estimate"] == pytest.approx(0.01957, abs=1e-5)
    assert effect["t"] == pytest.approx(0.9085, abs=0.002)
    assert effect["df"] == pytest.approx(2.125, abs=0.05)  # .5 is allowed for a singular fit, and not needed
    assert effect["p"] == pytest.approx(0.4546, abs=0.001)
    assert model.singular
    assert model.converged
    assert model.groups == {"seed": 3, "hypernym": 53}
    assert [note.split(":")[0] for note in model.notes] == ["Singular fit", "Few levels"]
    assert "of seed," in model.notes[0]


def test_coherence_effect_beside_the_lm(coherence) -> None:
    assert len(coherence) == 318
    model = mixed_model(COHERENCE, coherence)
    effect = term(model, "avg_cosine")
    assert effect["estimate"] == pytest.approx(0.8370, abs=1e-4)
    assert effect["t"] == pytest.approx(3.3377, abs=0.002)
    assert effect["df"] == pytest.approx(50.93, abs=0.05)
    assert effect["p"] == pytest.approx(0.00158, abs=1e-5)
    of_lm = term(model, "backbone_f1")
    assert of_lm["t"] == pytest.approx(0.0473, abs=0.002)
    assert of_lm["df"] == pytest.approx(58.6, abs=0.05)
    assert of_lm["p"] == pytest.approx(0.9625, abs=1e-4)
    assert model.converged
    assert model.groups == {"category": 53, "model:seed": 6}


@pytest.mark.slow
def test_another_grouping_gives_another_answer(heldout, coherence) -> None:
    """Negative controls: the published numbers come from the published groups and rows, not from any near them."""
    by_run = mixed_model(ENCODER.replace("seed)", "run)"), heldout.assign(run=heldout["seed"] + heldout["model"]))
    seedless = mixed_model("f1 ~ enc*lm + (1+enc*lm | hypernym)", heldout)
    plain = mixed_model("f1 ~ enc*lm + (1 | seed) + (1 | hypernym)", heldout)
    for model in (by_run, seedless, plain):
        assert abs(term(model, "enc")["t"] - 0.9085) > 0.05
    rng = np.random.default_rng(0)
    moved = coherence.assign(category=rng.permutation(coherence["category"]))
    assert abs(term(mixed_model(COHERENCE, moved), "avg_cosine")["t"] - 3.3377) > 0.05
