"""Mixed models and swap tests of a study: the paper's own numbers where its files lie beside, and simulated truth."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from real_taxonomy import REFERENCE, needs_reference

from analysis.cells import Ablation, Cell, Input, Labels, Setup
from analysis.release.coherence import coherence_data
from analysis.release.scores import HELDOUT, Release
from analysis.statistics.contrasts import CONFIRMATORY
from analysis.statistics.models import (
    Fitted,
    coherence_models,
    effects_table,
    encoder_models,
    fit_first,
    label_models,
    lm_models,
    model_rows,
    variances_table,
    weights_models,
)
from analysis.statistics.swap_tests import HYPERNYMS, MIXED, PAIRED, WELCH, side_by_side

CATEGORIES = [f"hypernym {number:02d}" for number in range(20)]
LEVELS = {"original": 75.0, "within": 74.0, "across": 50.0}


def rows_of(rng: np.random.Generator, level: float, seeds: tuple[int, ...] = (0, 1, 2), **fields: str) -> pd.DataFrame:
    """`model_rows` of one cell: crossed effects of seeds (sd 2) and categories (sd 6, the same in every cell)."""
    common = 6 * np.random.default_rng(7).normal(size=len(CATEGORIES))
    noise = 2 * rng.normal(size=(len(seeds), 1)) + 2 * rng.normal(size=(len(seeds), len(CATEGORIES)))
    f1_SC = level + common - common.mean() + noise
    about = {"setup": "", "arm": "original", "lm_init": "pretrained", "encoder": "dino", "lm": "small", "rest": ""}
    table = pd.DataFrame(
        {
            "category": np.tile(CATEGORIES, len(seeds)),
            "f1": f1_SC.ravel(),
            "seed": np.repeat([f"data 0, run {seed}" for seed in seeds], len(CATEGORIES)),
        }
    )
    return with_cells(table.assign(**{**about, "draw": "0, 0", "map": "map-0", **fields}))


def with_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """`model_rows` of one cell, with the cell that their words are of."""
    first = rows.iloc[0]
    known, ablation = Input("", ""), Ablation("random", (), 100)
    settings = (("rest", first["rest"]),)
    lm = Input(first["lm"], "digest")
    setup = Setup(known, first["encoder"], known, lm, ablation, (("subset", "all"),), settings)
    cell = Cell(setup, Labels(first["arm"], 100, ()), first["lm_init"])
    return rows.assign(cell=[cell] * len(rows))


def effect(models: list[Fitted], term: str, **about: str) -> pd.Series:
    """The row of one effect of one model."""
    rows = effects_table(models)
    rows = rows[rows["reduced"] != True]  # noqa: E712
    for name, value in {"term": term, **about}.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_labels_and_pretraining_recover_the_differences() -> None:
    rng = np.random.default_rng(0)
    rows = pd.concat([rows_of(rng, level, arm=arm) for arm, level in LEVELS.items()])
    rows = pd.concat([rows, rows_of(rng, 45, lm_init="random")])
    models = label_models(rows)
    for comparison, truth in {"original − within": 1, "original − across": 25, "within − across": 24}.items():
        row = effect(models, "labels", comparison=comparison)
        assert row["low"] < truth < row["high"]
        assert row["high"] - row["low"] < 20
        assert row["formula"] == "f1 ~ labels + (1 + labels | seed) + (1 + labels | category)"
        assert "Few levels: seed (3)" in row["note"]
        assert (row["status"] == CONFIRMATORY) == ("across" in comparison)
    weights = effect(weights_models(rows), "weights")
    assert weights["low"] < 30 < weights["high"]
    assert weights["tost_step"] == "pretrained LM − random-init LM, original"
    assert weights["verdict"].startswith("above by ")
    variances = variances_table(models)
    assert set(variances["group"]) == {"seed", "category", "residual"}
    assert (variances["sd"] >= 0).all()


def test_swapped_columns_swap_the_sign() -> None:
    rng = np.random.default_rng(1)
    one, other = rows_of(rng, 70), rows_of(rng, 60, encoder="siglip")
    first, second = (effect(encoder_models(pd.concat(parts)), "encoder") for parts in ((one, other), (other, one)))
    assert first["estimate"] == pytest.approx(-second["estimate"])
    assert first["comparison"] == "dino − SigLIP"


def test_too_few_levels_are_said_and_never_raised() -> None:
    rng = np.random.default_rng(2)
    single = pd.concat([rows_of(rng, level, seeds=(0,), arm=arm) for arm, level in LEVELS.items()])
    row = effect(label_models(single), "labels", comparison="original − across")
    assert row["formula"] == "f1 ~ labels + (1 | category)"  # paired over hypernyms: what one seed can tell
    assert row["note"].startswith("Simplified, since f1 ~ labels + (1 + labels | seed)")
    assert "one level only" in row["note"]
    pair = single[single["category"] == CATEGORIES[0]]
    rows = effects_table(label_models(pair))
    assert len(rows) == 3
    assert rows[["estimate", "p", "tost_p"]].isna().all(axis=None)
    assert rows["note"].str.contains("could not be fitted").all()
    assert len(variances_table(label_models(pair))) == 0
    assert label_models(single.iloc[:0]) == []
    assert list(effects_table([]).columns) == list(rows.columns)


def test_seeds_that_conditions_do_not_share_have_no_slope() -> None:
    rng = np.random.default_rng(3)
    rows = pd.concat([rows_of(rng, 70), rows_of(rng, 60, seeds=(3, 4, 5), lm_init="random")])
    row = effect(weights_models(rows), "weights")
    assert row["formula"] == "f1 ~ weights + (1 | seed) + (1 + weights | category)"
    assert row["levels"] == "seed 6, category 20"


def test_permutations_crossed_with_seeds_have_a_term_of_their_own() -> None:
    rng = np.random.default_rng(4)
    across = [rows_of(rng, 50, arm="across", draw=f"{number}, 0", map=f"map-{number}") for number in range(3)]
    rows = pd.concat([rows_of(rng, 70), *across])
    row = effect(label_models(rows), "labels")
    assert row["formula"].endswith(" + (1 | draw:labels)")
    one_each = [part[part["seed"] == f"data 0, run {number}"] for number, part in enumerate(across)]
    row = effect(label_models(pd.concat([rows_of(rng, 70), *one_each])), "labels")
    assert "draw" not in row["formula"]  # which permutation and which seed cannot be told apart


def test_encoders_with_one_two_and_three_lms() -> None:
    rng = np.random.default_rng(5)
    parts = {
        (encoder, lm): rows_of(rng, 70 + 8 * (encoder == "dino") + 4 * number, encoder=encoder, lm=lm)
        for encoder in ("dino", "siglip")
        for number, lm in enumerate(("small", "middle", "large"))
    }
    formulas = []
    for lms in (("small",), ("small", "middle"), ("small", "middle", "large")):
        rows = pd.concat([part for (_, lm), part in parts.items() if lm in lms])
        row = effect(encoder_models(rows), "encoder")
        assert row["low"] < 8 < row["high"]
        assert row["setup"] == ", ".join(lms)
        formulas.append(row["formula"])
    assert len(set(formulas)) == 3
    two = encoder_models(pd.concat([part for (_, lm), part in parts.items() if lm != "large"]))
    assert effect(two, "lm")["estimate"] == pytest.approx(-4, abs=5)
    assert effect(two, "encoder:lm")["tost_step"] == "difference of the two differences"
    assert len(lm_models(pd.concat(parts.values()))) == 4
    apart = pd.concat([parts["dino", "small"], parts["siglip", "large"]])
    row = effects_table(encoder_models(apart)).iloc[0]
    assert (row["note"], row["formula"].split()[2]) == ("No LM was run with both.", "encoder")


def test_setups_that_differ_in_more_than_the_encoder_are_not_compared() -> None:
    rng = np.random.default_rng(6)
    rows = pd.concat([rows_of(rng, 70), rows_of(rng, 60, encoder="siglip", rest=" · epochs 9")])
    assert encoder_models(rows) == []


def test_coherence_with_and_without_a_probe() -> None:
    rng = np.random.default_rng(8)
    coherence = pd.DataFrame({"map": "map-0", "category": CATEGORIES, "all_pairs": rng.uniform(0.1, 0.5, 20)})
    coherence["centred"] = coherence["all_pairs"].sample(frac=1, random_state=0).to_numpy()  # of no use
    rows = pd.concat([rows_of(rng, 60, lm=lm) for lm in ("small", "large")])
    rows["f1"] += 50 * rows["category"].map(coherence.set_index("category")["all_pairs"])  # half a point by 0.01
    text = pd.DataFrame(
        [
            {"cell": cell, "category": name, "text_item_f1": f1}
            for cell in rows["cell"].unique()
            for name, f1 in zip(CATEGORIES, rng.uniform(60, 95, 20), strict=True)
        ]
    )
    models = coherence_models(rows, coherence, text)
    paper, centred, other = models
    slope = effect([paper], "coherence")
    assert effect([centred], "Intercept")["estimate"] == pytest.approx(rows["f1"].mean(), abs=1)
    assert effect([centred], "coherence")["estimate"] == pytest.approx(slope["estimate"], rel=0.1)
    assert effect([other], "coherence")["high"] < slope["estimate"]
    assert slope["formula"] == "f1 ~ probe_f1 + coherence + (probe_f1 + coherence || category) + (1 | lm:seed)"
    assert slope["low"] < 0.5 < slope["high"]
    assert slope["unit"] == "points by 0.01 of cosine"
    spread = 100 * coherence["all_pairs"].std()
    assert slope["tost_difference"] == pytest.approx(slope["estimate"] * spread, rel=0.05)
    null = effect([paper], "probe_f1")
    assert null["low"] < 0 < null["high"]
    alone = coherence_models(rows, coherence, text.iloc[:0])
    row = effect(alone[:1], "coherence")
    assert row["formula"] == "f1 ~ coherence + (coherence || category) + (1 | lm:seed)"
    assert row["note"].startswith("No text probe of these LMs was given")
    assert "probe_f1" not in set(effects_table(alone)["term"])
    assert coherence_models(rows, coherence.iloc[:0], text) == []


def test_an_equivalence_is_the_models_own() -> None:
    rng = np.random.default_rng(9)
    rows = pd.concat([rows_of(rng, 70, seeds=tuple(range(12))), rows_of(rng, 70.5, tuple(range(12)), lm_init="random")])
    (fitted,) = weights_models(rows)
    row = effect([fitted], "weights")
    assert row["alone"] == "equivalent"
    assert row["verdict"].startswith("equivalent within 5 points")
    assert fitted.difference("weights").p_equivalence == row["tost_p"] < 0.05
    assert fitted.steps["weights"][1] == "pretrained LM − random-init LM, original"


def test_a_formula_that_cannot_be_read_is_a_note() -> None:
    fitted = fit_first({"question": "x"}, ["f1 ~ nothing + (1 | seed)"], rows_of(np.random.default_rng(0), 70), {})
    assert fitted.model is None
    assert "nothing" in fitted.note


# The paper's own numbers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release() -> Release:
    return Release(Path(REFERENCE) / "release")


def published_rows(release: Release, **fields: object) -> pd.DataFrame:
    """Held-out rows of the release as `model_rows`, F1 in points."""
    rows = release.runs(HELDOUT, random_lm=False, **fields)
    seed = "data 0, run " + rows["seed"].astype(str)
    rows = rows.assign(f1=100 * rows["f1"], seed=seed, draw="0, 0", setup="", arm="original", map="map-0", rest="")
    return rows.assign(lm_init="pretrained")


@needs_reference
def test_encoder_model_is_the_papers(release: Release) -> None:
    fields = {"shuffle": "Original", "ablation": "Full"}
    parts = [
        with_cells(published_rows(release, lm=lm, encoder=encoder, **fields))
        for lm in ("Qwen3-0.6B", "Qwen3-1.7B")
        for encoder in ("DINOv2", "SigLIP")
    ]
    row = effect(encoder_models(pd.concat(parts)), "encoder")
    assert row["n"] == 636
    assert row["estimate"] == pytest.approx(2 * 1.957, abs=0.002)  # the paper codes +1 and -1
    assert row["t"] == pytest.approx(0.9085, abs=0.002)
    assert row["df"] == pytest.approx(2.125, abs=0.05)
    assert row["p"] == pytest.approx(0.4546, abs=0.001)
    assert row["singular"]
    assert row["alone"] == "undecided"


@needs_reference
def test_coherence_model_is_the_papers(release: Release) -> None:
    data = coherence_data(release).rename(columns={"model": "lm"})
    seed = "run " + data["seed"].astype(str)
    about = {"arm": "original", "lm_init": "pretrained", "encoder": "DINOv2", "map": "map-0", "rest": "", "draw": ""}
    rows = data.assign(f1=100 * data["f1"], seed=seed, setup=data["lm"], **about)
    rows = pd.concat([with_cells(part) for _, part in rows.groupby("lm", sort=False)])
    known = rows.drop_duplicates(["lm", "category"])
    coherence = (
        known.drop_duplicates("category")
        .rename(columns={"avg_cosine": "all_pairs"})
        .assign(centred=known["avg_cosine"])
    )
    text = known.assign(text_item_f1=100 * known["backbone_f1"])
    models = coherence_models(
        rows[["f1", "seed", "category", "lm", "setup", "cell", *about]],
        coherence[["map", "category", "all_pairs", "centred"]],
        text[["cell", "category", "text_item_f1"]],
    )
    slope, own = (effect(models[:1], term) for term in ("coherence", "probe_f1"))
    assert slope["estimate"] == pytest.approx(0.8370, abs=0.001)  # F1 in 0..1 by cosine is points by 0.01 of it
    assert (slope["t"], slope["df"], slope["p"]) == (
        pytest.approx(3.3377, abs=0.002),
        pytest.approx(50.93, abs=0.05),
        pytest.approx(0.00158, abs=2e-5),
    )
    assert (own["t"], own["df"]) == (pytest.approx(0.0473, abs=0.002), pytest.approx(58.6, abs=0.05))
    assert own["p"] == pytest.approx(0.9625, abs=0.001)


@needs_reference
def test_swap_tests_are_the_papers_and_disagree(release: Release) -> None:
    arms = {"original": "Original", "swap": "Swap"}
    parts = [
        published_rows(release, toy=True, shuffle=shuffle).assign(arm=arm, cell=arm) for arm, shuffle in arms.items()
    ]
    table = swap_of(*parts)
    assert list(table.index) == [WELCH, PAIRED, HYPERNYMS, MIXED]
    assert (table["n_control"] == [30, 30, 10, 30]).all()
    assert table.loc[WELCH, "statistic"] == pytest.approx(1.309, abs=0.001)
    assert table.loc[WELCH, "p"] == pytest.approx(0.1955, abs=0.0002)
    assert table.loc[PAIRED, "statistic"] == pytest.approx(2.15, abs=0.005)
    assert table.loc[PAIRED, "p"] == pytest.approx(0.040, abs=0.001)
    assert table["difference"].round(2).eq(6.03).all()
    assert table["control"].iloc[0] == pytest.approx(57.49, abs=0.005)
    assert table["differs"].is_unique


def swap_of(control: pd.DataFrame, swapped: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(side_by_side(control, swapped, "")).set_index("test")


def test_swap_tests_on_simulated_truth() -> None:
    rng = np.random.default_rng(10)
    control, swapped = rows_of(rng, 60), rows_of(rng, 54, arm="swap")
    table = swap_of(control, swapped)
    assert table["low"].lt(6).all()
    assert table["high"].gt(6).all()
    assert table["difference"].nunique() == 1 or np.ptp(table["difference"]) < 1e-6
    # Hypernyms differ by 6 points, which Welch's test takes for noise and pairing does not.
    assert table.loc[PAIRED, "statistic"] > table.loc[WELCH, "statistic"] > 0
    assert table.loc[MIXED, "df"] < table.loc[PAIRED, "df"]
    alone = swap_of(control[control["seed"] == "data 0, run 0"], swapped)
    assert np.isfinite(alone.loc[MIXED, "p"])
    assert alone.loc[PAIRED, "n_control"] == 20


def test_model_rows_carry_what_tells_setups_apart() -> None:
    runs = pd.DataFrame(
        {
            "setup": ["a", "b"], "arm": "original", "lm_init": ["pretrained", "random"], "encoder": "dino", "lm": "x",
            "map": "map-0", "data_seed": 0, "run_seed": [3, 4], "permutation": 0, "lm_seed": [0, 9],
        },
        index=["one", "two"],
    )  # fmt: skip
    own = [with_cells(runs.iloc[[row]].assign(rest=value))["cell"].iloc[0] for row, value in enumerate(("p", "q"))]
    runs = runs.assign(cell=own)
    categories = pd.DataFrame(
        {"run_id": ["one", "two", "two"], "split": ["test", "test", "validation"], "f1": [50.0, 60.0, 70.0]}
    ).assign(group="heldout", category="bird")
    rows = model_rows(runs, categories)
    assert rows["f1"].tolist() == [50, 60]
    assert rows["seed"].tolist() == ["data 0, run 3", "data 0, run 4"]
    assert rows["draw"].tolist() == ["0, 0", "0, 9"]
    assert rows["rest"].tolist() == [" · rest p", " · rest q"]
