"""The whole study at smoke size, through the command a newcomer types."""

import json
import sys

import pandas as pd
import pytest

import cli
from analysis.statistics.item_model import COLUMNS
from engine import demo as study


@pytest.fixture(scope="module", params=[1, pytest.param(3, marks=pytest.mark.slow)], ids="{} seeds".format)
def seeds(request):
    """Run seeds of each condition: the first of the study's, without models of single answers, or all of them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == 1:
            patch.setattr("analysis.study.item_table", lambda *_: pd.DataFrame(columns=COLUMNS))
        patch.setattr(study, "RUN_SEEDS", study.RUN_SEEDS[: request.param])
        yield study.RUN_SEEDS


@pytest.fixture(scope="module")
def demo(seeds, smoke_world, world_cache, tmp_path_factory):
    """`crosstax demo --size smoke`, on the session's world; returns (folder, JSON summary)."""
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, world_cache)


def run_demo(out, cache):
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setenv("CROSSTAX_CACHE", str(cache))
        patch.setattr(
            sys,
            "argv",
            ["crosstax", "demo", "--out", str(out), "--size", "smoke", "--seed", "0", "--workers", "1", "--json"],
        )
        patch.setattr("builtins.print", lambda text, file=None: file is None and lines.append(text))
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    return json.loads(lines[-1])


def mean(summary, lm, shuffle, field="heldout_macro_f1"):
    values = [c[field] for c in summary["conditions"] if (c["lm"], c["shuffle"]) == (lm, shuffle)]
    assert len(values) == len(study.RUN_SEEDS)
    return sum(values) / len(values)


def test_the_summary_has_every_cell_of_the_study(demo, seeds):
    out, summary = demo
    assert summary["report"] == str(out / "report" / "index.html")
    assert (out / "report" / "index.html").stat().st_size > 100_000
    cells = {(c["lm"], c["shuffle"], c["run_seed"]) for c in summary["conditions"]}
    expected = {("pretrained", shuffle, seed) for shuffle in ("original", "across", "within") for seed in seeds}
    assert cells == expected | {("random", "original", seed) for seed in seeds}
    assert {"world", "features", "runs", "report"} <= set(summary["seconds"])
    assert set(summary["baseline"]) == {"leaf", "heldout", "coin"}
    assert all(c["ablation"] == 100 for c in summary["conditions"])


def test_generalisation_appears_where_it_should(demo):
    """Orderings with margins, averaged over seeds: the smoke world is too small for more."""
    _, summary = demo
    coin = max(summary["baseline"]["heldout"], summary["baseline"]["coin"])
    for shuffle in ("original", "within"):
        held_out = mean(summary, "pretrained", shuffle)
        assert held_out > coin + 5
        assert held_out > mean(summary, "pretrained", "across") + 3
        assert held_out > mean(summary, "random", "original") + 5
        auc = mean(summary, "pretrained", shuffle, "heldout_auc")
        assert auc > mean(summary, "pretrained", "across", "heldout_auc") + 0.05
        assert auc > mean(summary, "random", "original", "heldout_auc") + 0.15
        assert mean(summary, "pretrained", shuffle, "leaf_macro_f1") > 65
    coherence = summary["coherence"]
    assert coherence["original"] > coherence["across"]
    assert coherence["within"] > coherence["across"]


@pytest.mark.slow
def test_a_second_call_does_nothing_again_and_says_the_same(demo, world_cache):
    out, summary = demo
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*")}
    again = run_demo(out, world_cache)
    assert stamps == {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*")}
    assert again["conditions"] == summary["conditions"]
    assert again["baseline"] == summary["baseline"]


def test_no_image_hypernym_question_was_trained_on(demo):
    out, _ = demo
    for path in out.glob("runs/*/questions.parquet"):
        table = pd.read_parquet(path)
        assert set(table.loc[table["split"] == "train", "kind"]) == {"leaf"}


def test_no_test_image_trained_the_encoder(smoke_world):
    """The split is the dataset's own, whatever the data seed; the encoder saw its training part."""
    from cachegen.data.dataset import load_dataset
    from engine.design.questions import split_images

    dataset = load_dataset(smoke_world.dataset)
    assert (split_images(dataset, 0) == split_images(dataset, 99)).all()
    assert smoke_world.manifest["encoder"]["images"] == (split_images(dataset, 0) == "train").sum()
