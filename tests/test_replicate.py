"""The study over worlds: resumable, every world its own seeds, and the world as the unit of every interval."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cli
from analysis.replicate import CONTRASTS, compare, markdown, over_worlds
from cachegen.common.files import read_json
from cachegen.microworld import recipe
from engine import demo as study

# Small enough to train 40 projectors in seconds; nothing is learnt.
TINY = recipe.Size(
    "smoke",
    families=5,
    leaves=4,
    images=8,
    encoder=recipe.EncoderRecipe(width=32, layers=2, heads=2, steps=3, batch=8),
    language=recipe.LanguageRecipe(width=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp=48, steps=4, scenes=8),
    siglip=recipe.SiglipRecipe(width=32, layers=2, heads=2, steps=3, batch=8),
)
TWINS = {"lm-no-hypernym-questions", "lm-no-family-words", "encoder-siglip"}
CONDITIONS = {"original", "across", "within", "random-init LM"}
NAMED = {f"{name}, by names" for name in CONDITIONS}
CONTROLS_OF_CELLS = ("across", "random-init LM")
CONTROLS = {f"kNN, no LM: {name}" for name in ("original", "across", "within", "encoder-siglip")}


@pytest.fixture(scope="module")
def crosstax(tmp_path_factory):
    """Run `crosstax` with tiny worlds under the name "smoke"; returns (exit code, last JSON object or None)."""

    def run(*words):
        lines = []
        with pytest.MonkeyPatch.context() as again:
            again.setattr(sys, "argv", ["crosstax", *map(str, words), "--json"])
            again.setattr("builtins.print", lambda text, file=None: file is None and lines.append(text))
            with pytest.raises(SystemExit) as end:
                cli.main()
        return end.value.code or 0, json.loads(lines[-1]) if lines else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSTAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(recipe.SIZES, "smoke", TINY)
        patch.setattr(study, "EPOCHS", 1)
        patch.setitem(study.NAMING, "epochs", 1)
        patch.setattr(study, "RUN_SEEDS", study.RUN_SEEDS[:2])
        yield run


@pytest.fixture(scope="module")
def replication(crosstax, tmp_path_factory):
    """Two worlds with their twins; returns (folder, JSON summary)."""
    out = tmp_path_factory.mktemp("replication")
    code, result = crosstax("world", "replicate", "--worlds", 2, "--size", "smoke", "--twins", "--out", out)
    assert code == 0
    return out, result


def test_every_world_has_every_condition_and_its_own_seeds(replication):
    out, result = replication
    table = pd.read_csv(out / "worlds.csv")
    assert set(table["world"]) == {101, 102} == set(result["worlds"])
    for _, world in table.groupby("world"):
        assert set(world["condition"]) == CONDITIONS | TWINS | CONTROLS
        assert set(world["n_runs"]) == {2}
        scopes = world.groupby("condition")["scope"].agg(set)
        assert all({"leaves", "held-out", "depth 1", "depth 2", "animal", "bird"} <= scope for scope in scopes)
    configs = [read_json(path)["condition"] for path in out.glob("world-*/runs/*/config.json")]
    assert len(configs) == 2 * 14
    assert {config["data_seed"] for config in configs} == {101, 102}  # negatives and permutations
    assert len({config["lm_seed"] for config in configs if config["lm_init"] == "random"}) == 4
    maps = {}
    for path in out.glob("world-*/runs/*/questions.parquet"):
        if read_json(path.with_name("config.json"))["condition"]["shuffle"] == "across":
            pairs = pd.read_parquet(path, columns=["image_leaf", "label_leaf"]).drop_duplicates()
            maps.setdefault(path.parts[-4], set()).add(tuple(pairs.sort_values("image_leaf")["label_leaf"]))
    assert [len(found) for found in maps.values()] == [1, 1]
    assert maps["world-101"] != maps["world-102"]


def test_world_means_are_those_of_their_runs(replication):
    """Means over runs, then over worlds, recomputed with scikit-learn from the saved answers."""
    from sklearn.metrics import f1_score

    out, result = replication
    means = []
    for world in (101, 102):
        runs = []
        for path in sorted((out / f"world-{world}" / "runs").glob("*/config.json")):
            config = read_json(path)
            if (config["condition"]["shuffle"], config["condition"]["task"]) != ("within", "verify"):
                continue
            asked = pd.read_parquet(path.with_name("questions.parquet"))
            answers = asked.merge(pd.read_parquet(path.with_name("predictions.parquet")), on="question")
            answers = answers[(answers["split"] == "test") & (answers["kind"] == "hypernym")]
            yes = answers["logit_yes"] >= answers["logit_no"]
            by = answers.assign(yes=yes).groupby("category")
            runs.append(np.mean([f1_score(rows["answer"], rows["yes"], average="macro") for _, rows in by]))
        assert len(runs) == 2
        means.append(100 * np.mean(runs))
    (row,) = [
        r for r in result["conditions"] if (r["condition"], r["scope"], r["measure"]) == ("within", "held-out", "f1")
    ]
    assert row["n"] == 2
    assert row["mean"] == pytest.approx(np.mean(means))
    assert row["sd"] == pytest.approx(np.std(means, ddof=1))


def test_a_second_call_does_nothing_again_and_another_size_is_refused(replication, crosstax):
    out, result = replication
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("world-*/runs/*/*")}
    assert len(stamps) > 28 * 5
    again = crosstax("world", "replicate", "--worlds", 2, "--size", "smoke", "--twins", "--out", out)
    assert again == (0, result)
    assert {path: path.stat().st_mtime_ns for path in out.glob("world-*/runs/*/*")} == stamps
    fewer = crosstax("world", "replicate", "--worlds", 1, "--size", "smoke", "--runs", 1, "--out", out)[1]
    assert fewer["worlds"] == [101]
    assert set(pd.read_csv(out / "worlds.csv")["n_runs"]) == {1}
    assert {row["condition"] for row in fewer["conditions"]} == CONDITIONS | CONTROLS - {
        "kNN, no LM: encoder-siglip"  # what was not asked for is not tabled
    }
    assert crosstax("world", "replicate", "--worlds", 1, "--size", "demo", "--out", out) == (2, None)


def test_names_languages_properties_and_layers_are_tabled_as_the_runs_have_them(replication, crosstax):
    """The scores of one run recomputed with scikit-learn from its saved answers."""
    from sklearn.metrics import roc_auc_score

    out, _ = replication
    words = ["--worlds", 1, "--size", "smoke", "--runs", 1, "--naming", "--languages", "--properties", "--lens"]
    code, result = crosstax("world", "replicate", *words, "--out", out)
    assert code == 0
    both, told = "lm-two-languages", "lm-property-questions"
    cells = {f"{name}, {verb} in second" for verb in ("learned", "asked") for name in (both, f"{both}-no-bridge")}
    cells |= {f"{both}, {control}, {verb} in second" for verb in ("learned", "asked") for control in CONTROLS_OF_CELLS}
    cells |= {both, f"{both}, learned in second, asked in second"}
    cells |= {told, *(f"{told}, {name}" for name in CONDITIONS - {"original"})}
    table = pd.read_csv(out / "worlds.csv").set_index(["condition", "scope"])["auc"]
    assert {name for name in table.index.unique(0) if "kNN" not in name} == CONDITIONS | NAMED | cells
    compared = {(row["above"], row["below"]) for row in result["contrasts"]}
    assert {(f"{both}, asked in second", f"{both}-no-bridge, asked in second"), (told, "coin")} <= compared
    # LM -> its run with original labels and the world's own encoder
    found = sorted(out.glob("world-101/runs/encoder-lm*-pretrained-original-*-r42-*/config.json"))
    own = {
        Path(c["paths"]["lm"]).name: path.parent
        for path in found
        if (c := read_json(path))["condition"].get("task") != "name"
    }
    runs = {name: own[name] for name in ("lm", told)}
    asked = pd.read_parquet(next((runs[told] / "transfer").glob("properties-*.parquet")))
    areas = asked.groupby("group").apply(lambda own: roc_auc_score(own["answer"], own["logit_yes"] - own["logit_no"]))
    assert table[told, "properties"] == pytest.approx(areas.mean())
    layers = pd.read_parquet(runs["lm"] / "lens" / "layers.parquet")
    for layer, own in layers[layers["group"] == "heldout"].groupby("layer"):
        area = roc_auc_score(own["answer"], own["score"])
        assert table["original", f"held-out hypernyms, layer {layer}"] == pytest.approx(area)
    for head in ("| properties |", "| AUC | original |", "| names of leaves, layer 0 |"):
        assert head in (out / "replicate.md").read_text()


def test_the_markdown_says_what_the_table_says(replication):
    _, result = replication
    conditions, contrasts = pd.DataFrame(result["conditions"]), pd.DataFrame(result["contrasts"])
    text = markdown(conditions.fillna(np.nan), contrasts.fillna(np.nan), 2)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = [i for i, line in enumerate(lines) if "---" in line]
    assert len(heads) == 2
    for start, end in ((0, heads[1] - 1), (heads[1] - 1, len(lines))):
        assert len({line.count("|") for line in lines[start:end]}) == 1
    assert sum(line.startswith("| original −") for line in lines) == sum(
        above == "original" and below not in NAMED for above, below in CONTRASTS
    )


def test_world_names_its_parts(crosstax):
    code, made = crosstax("world", "--size", "smoke", "--seed", 101, "--twins")
    assert code == 0
    assert set(made["paths"]) == {"dataset", "encoder", "lm", "contact_sheet"} | TWINS
    assert len(made["random_lm_seeds"]) == recipe.RANDOM_TWINS
    assert made["lm-no-family-words"]["facts"]["statement_accuracy"] >= 0
    assert "twins" not in crosstax("world", "--size", "smoke", "--seed", 101)[1]["paths"]


# Arithmetic


def _table(**worlds_of):
    """Rows as `measure_world` gives them: condition -> held-out F1 per world; AUC is F1 / 100."""
    rows = [
        {"world": world, "condition": condition, "scope": "held-out", "f1": f1, "auc": f1 / 100, "coin_f1": 50.0}
        for condition, values in worlds_of.items()
        for world, f1 in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_contrasts_pair_worlds_and_use_student_t():
    original, across = [80.0, 90.0, 85.0], [50.0, 61.0, 54.0]
    table = _table(original=original, across=across)
    rows = compare(table).set_index(["above", "below", "measure"])
    gap = rows.loc[("original", "across", "f1")]
    differences = np.subtract(original, across)  # 30, 29, 31
    half = 4.302653 * differences.std(ddof=1) / np.sqrt(3)
    assert (gap["n"], gap["mean"]) == (3, pytest.approx(30.0))
    assert (gap["low"], gap["high"]) == (pytest.approx(30 - half, abs=1e-4), pytest.approx(30 + half, abs=1e-4))
    assert gap["shown"]
    assert not gap["equivalent"]
    coin = rows.loc[("across", "coin", "f1")]
    assert coin["mean"] == pytest.approx(5.0)
    assert not coin["shown"]  # 0, 11, 4
    assert rows.loc[("across", "coin", "auc"), "mean"] == pytest.approx(0.05)
    assert set(rows.index.droplevel("measure")) == {("original", "across"), ("original", "coin"), ("across", "coin")}
    assert set(rows.index.droplevel("measure")) < set(CONTRASTS)


def test_equivalence_needs_the_interval_inside_the_margin():
    near = compare(_table(original=[80, 82, 84], within=[80.5, 82.4, 83.9])).set_index(["above", "below", "measure"])
    wide = compare(_table(original=[80, 82, 84], within=[70, 82, 92])).set_index(["above", "below", "measure"])
    assert near.loc[("original", "within", "f1"), "equivalent"]
    assert near.loc[("original", "within", "auc"), "equivalent"]
    assert not wide.loc[("original", "within", "f1"), "equivalent"]
    assert not wide.loc[("original", "within", "f1"), "shown"]  # not shown to differ, not shown to be equal


def test_one_world_has_a_mean_and_no_interval():
    row = over_worlds(_table(original=[81.0])).set_index("measure").loc["f1"]
    assert (row["n"], row["mean"]) == (1, 81.0)
    assert np.isnan([row["sd"], row["low"], row["high"]]).all()
    assert "81.0 (–)" in markdown(over_worlds(_table(original=[81.0])), compare(_table(original=[81.0])), 1)


def test_a_failed_run_is_named(replication, tmp_path):
    import shutil

    from analysis.replicate import measure_world
    from cachegen.common.errors import RunError

    out, _ = replication
    runs = shutil.copytree(out / "world-101" / "runs", tmp_path / "runs")
    victim = sorted(runs.glob("*/DONE"))[0].parent
    (victim / "DONE").unlink()
    (victim / "FAILED").write_text(json.dumps({"reason": "weights not finite"}))
    with pytest.raises(RunError, match=f"{victim.name} has no results: weights not finite"):
        measure_world(101, sorted(path.parent for path in runs.glob("*/config.json")))
