"""`crosstax reanalyze`: a made-up release, faults in it, and the authors' own files where they lie beside."""

import json

import numpy as np
import pandas as pd
import pytest
from html_page import HtmlPage
from real_taxonomy import REFERENCE, needs_reference
from rich.console import Console
from synthetic_release import LEAVES, MACRO, RESULTS, change, run_names, scores, write_f1, write_release
from test_presets import release_name

from analysis.release.chance import above_chance_claims, chance_claims, table5_claims
from analysis.release.claims import DIFFERS, NO_SOURCE, NOT_PRINTED, OTHER, SAME, STATES, prints_as
from analysis.release.coherence import coherence_claims
from analysis.release.files import ReleaseError
from analysis.release.means import (
    COLUMNS,
    HOMONYMS,
    cell_claims,
    cell_means,
    depth_claims,
    probe_claims,
    removed_claims,
)
from analysis.release.models import encoder_claims
from analysis.release.reanalyze import by_state, reanalysis_text, reanalyze, write_reanalysis
from analysis.release.scores import HELDOUT, Release, RunName, parse_run_name
from analysis.release.scores import LEAVES as LEAF_QUESTIONS
from analysis.release.swap import swap_claims
from cachegen.data.taxonomy import homonyms_of
from cachegen.things.names import HYPERNYMS
from engine.design.published import REMOVED_HYPERNYMS
from engine.sweeps.presets import load_preset
from engine.sweeps.sweep_file import read_sweep

ORIGINAL = run_names("Qwen3-0.6B")
UNSEEN, UNSEEN_8B, SWAPPED = (f"{MACRO}/{name}_unseen_f1_scores.csv" for name in ("all", "8b", "cat"))
LEAF = f"{MACRO}/all_leaf_f1_scores.csv"
GUESS, GUESS_SWAP = (f"{MACRO}/{name}_hyp_guess_f1_scores.csv" for name in ("all", "catwise"))
WEIGHTED, VISUAL = f"{RESULTS}/all_unseen_f1_scores.csv", f"{RESULTS}/visual_coherence_results.csv"
TELLS = ("majority/hypernyms", "majority/leaves", "swap/heldout/control", "swap/leaves/swapped", "swap/majority")
BACKBONE, DEPTHS = "results/coherence_backbone.csv", f"{MACRO}/qwen3-depthwise.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One made-up release that no test may change."""
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def found(made):
    return reanalyze(made)


@pytest.fixture
def release_dir(made, tmp_path):
    """A copy to spoil."""
    root = tmp_path / "release"
    for path in made.rglob("*.csv"):
        target = root / path.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return root


def removed(release):
    return removed_claims(release, REMOVED_HYPERNYMS)


def above(release):
    return above_chance_claims(release, REMOVED_HYPERNYMS)


def rows_of(claims):
    return {claim.id: claim for claim in claims}


# --- run names ---


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("align-dinov2+500m-things-42", ("DINOv2", "Qwen3-0.6B", False, "Original", "Full", 100, 42, False)),
        (
            "align-dinov2+1b-things+hyp-abl10cat-218-random",
            ("DINOv2", "Qwen3-1.7B", True, "Original", "Systematic", 10, 218, False),
        ),
        (
            "align-siglip+1b-llama-chat-things+hyp-abl90-local-shuffled-7",
            ("SigLIP", "Llama-3.2-1B-Instruct", False, "Within-category", "Random", 90, 7, False),
        ),
        (
            "align-dinosiglip+1b-llama-things-shuffled-7",
            ("DINOv2+SigLIP", "Llama-3.2-1B", False, "Across-category", "Full", 100, 7, False),
        ),
        ("align-dinov2+500m-things-cat-shuffled-7", ("DINOv2", "Qwen3-0.6B", False, "Swap", "Full", 100, 7, True)),
        ("align-dinov2+500m-things-cat-sampled-7", ("DINOv2", "Qwen3-0.6B", False, "Original", "Full", 100, 7, True)),
        ("align-clip+70b-things-1", ("clip", "70b", False, "Original", "Full", 100, 1, False)),
    ],
)
def test_run_names(name, run):
    assert parse_run_name(name) == RunName(*run)


@pytest.mark.parametrize("name", ["", "test_hyp", "align-dinov2+500m-things", "align-dinov2+500m-things-42-shuffled"])
def test_other_names_are_none_of_the_study(name):
    assert parse_run_name(name) is None


def test_every_run_of_the_grid_is_read_off_its_name():
    """The 441 names of the release, built from the preset, back into the conditions they stand for."""
    shuffles = {"original": "Original", "across": "Across-category", "within": "Within-category", "swap": "Swap"}
    runs = read_sweep(load_preset("grid"))
    for run in runs:
        c, found = run.condition, parse_run_name(release_name(run))
        kind = "Full" if c.ablation == 100 else c.ablation_kind.capitalize()
        assert (found.shuffle, found.ablation, found.amount) == (shuffles[c.shuffle], kind, c.ablation)
        assert (found.seed, found.random_lm, found.toy) == (c.run_seed, c.lm_init == "random", c.subset == "swap")
        assert run.lm.endswith(found.lm)
        assert found.encoder.lower() in run.encoder.replace("siglip_224", "siglip")
    assert len(runs) == 441


# --- what "agrees" means ---


@pytest.mark.parametrize(
    ("value", "printed", "decimals", "same"),
    [
        (0.9085, 0.91, 2, True),
        (1.309, 1.30, 2, True),  # cut off
        (73.679, 73.6, 1, True),  # cut off
        (0.9625, 0.962, 3, True),
        (93.706, 93.8, 1, False),
        (1.2999, 1.30, 2, True),
        (1.29, 1.30, 2, False),
        (1.3101, 1.30, 2, False),
        (-0.129, -0.12, 2, True),
        (0.684, 0.6, 1, False),  # of one digit, cut off
        (0.684, 0.7, 1, True),
        (-0.001, 0.0, 2, True),
        (0.3, -0.3, 1, False),
        (np.nan, 0.3, 1, False),
    ],
)
def test_a_number_is_printed_rounded_or_cut_off(value, printed, decimals, same):
    assert prints_as(value, printed, decimals) is same


# --- the made-up release ---


def test_what_was_made_to_agree_agrees(found):
    claims = rows_of(found.claims.itertuples())
    made_so = [*TELLS, *(name for name in claims if name.startswith(("heldout/", "leaves/", "fig12/qwen3-0.6b")))]
    assert len(made_so) == len(TELLS) + 2 * 15 - 2 + 6
    assert [name for name in made_so if not claims[name].agrees] == []
    sizes = [claims[f"systematic/qwen3-0.6b/10/{which}"].n for which in ("all", "removed")]
    assert sizes == [3 * 53, 3 * 10]


@pytest.mark.parametrize(
    ("file", "row", "column", "value", "claims", "id"),
    [
        (UNSEEN, ORIGINAL[0], "animal", 0.1, cell_claims, "heldout/qwen3-0.6b/original"),
        (UNSEEN_8B, run_names("Qwen3-8B")[1], "toy", 0.1, cell_claims, "heldout/qwen3-8b/original"),
        (LEAF, run_names("Qwen3-1.7B")[1], LEAVES[0], 0.1, cell_claims, "leaves/qwen3-1.7b/original"),
        (GUESS, "test_hyp", "animal", 0.9, chance_claims, "majority/hypernyms"),
        (SWAPPED, "align-dinov2+500m-things-cat-shuffled-7", "bird", 0.9, swap_claims, "swap/heldout/swapped"),
        (GUESS_SWAP, "test_hyp_cat_sampled", "bird", 0.9, swap_claims, "swap/majority"),
        (VISUAL, "shuffled,bird", "avg_cosine", 0.9, coherence_claims, "visual_coherence/across/mean"),
        (DEPTHS, "Held-Out Hypernyms,Qwen3-1.7B,2", "acc", 0.5, depth_claims, "fig12/qwen3-1.7b/depth2/mean"),
        (UNSEEN, ORIGINAL[0], "hardware item", 0.1, depth_claims, "fig12/qwen3-0.6b/depth3/sd"),
        (UNSEEN, "align-dinov2+500m-things+hyp-abl20cat-7", "toy", 0.1, removed, "systematic/qwen3-0.6b/20/all"),
    ],
)
def test_one_changed_number_flips_its_claim(found, release_dir, file, row, column, value, claims, id):
    assert rows_of(found.claims.itertuples())[id].agrees is True
    change(release_dir / file, row, column, value)
    claim = rows_of(claims(Release(release_dir)))[id]
    assert claim.agrees is False
    assert claim.note


@pytest.mark.parametrize(
    ("file", "claims", "ids"),
    [
        (UNSEEN, cell_claims, {"heldout/qwen3-1.7b/siglip/original"}),
        (UNSEEN, encoder_claims, {"encoder/t", "encoder/p", "encoder/df"}),
        (UNSEEN, removed, {"systematic/qwen3-0.6b/10/removed"}),
        (UNSEEN, depth_claims, {"fig12/qwen3-0.6b/depth1/mean"}),
        (UNSEEN_8B, cell_claims, {"heldout/qwen3-8b/within"}),
        (LEAF, cell_claims, {"leaves/qwen3-0.6b/random-init/original"}),
        (f"{MACRO}/all_leaf_guess_f1_scores.csv", chance_claims, {"majority/leaves"}),
        (GUESS, chance_claims, {"majority/hypernyms", "fig3/dashed_line"}),
        (SWAPPED, swap_claims, {"swap/welch/t", "swap/paired/p", "swap/heldout/swapped"}),
        (f"{MACRO}/cat_sampled_leaf_f1_scores.csv", swap_claims, {"swap/leaves/control"}),
        (GUESS_SWAP, swap_claims, {"swap/majority"}),
        (UNSEEN_8B, table5_claims, {"table5/se/original"}),
        (DEPTHS, depth_claims, {"fig12/qwen3-1.7b/depth3/sd"}),
        (BACKBONE, coherence_claims, {"coherence/t", "lm_f1/p", "fig7/r/macro_f1"}),
        (WEIGHTED, coherence_claims, {"fig7/r/weighted_f1"}),
        (VISUAL, coherence_claims, {"visual_coherence/within/mean"}),
    ],
)
def test_rows_of_an_absent_file_say_so(release_dir, file, claims, ids):
    (release_dir / file).unlink()
    found = rows_of(claims(Release(release_dir)))
    for id in ids:
        claim = found[id]
        assert (claim.recomputed, claim.n, claim.agrees) == (None, None, None)
        assert claim.note.startswith("source not available: ")
        assert "_".join(file.split("_")[-3:]) in claim.note


def test_the_probe_has_no_source_but_what_stands_beside(release_dir):
    claims = rows_of(probe_claims(Release(release_dir)))
    assert claims["probe/qwen3-0.6b"].recomputed is None
    assert "Mean over 53 hypernyms" in claims["probe/qwen3-0.6b"].note
    (release_dir / BACKBONE).unlink()
    assert "Mean" not in rows_of(probe_claims(Release(release_dir)))["probe/qwen3-0.6b"].note


def test_few_runs_are_told_and_a_model_without_enough_of_them_is_not_fitted(release_dir):
    path = release_dir / UNSEEN
    table = pd.read_csv(path, index_col="run_name")
    write_f1(path, table[table.index.str.contains("-42")])
    release = Release(release_dir)
    claim = rows_of(cell_claims(release))["heldout/qwen3-0.6b/original"]
    assert claim.n == 53
    assert "Of the paper's 3 seeds only 1 here." in claim.note
    assert rows_of(encoder_claims(release))["encoder/t"].note.startswith("source not available: ")


def test_means_are_those_of_the_cells(made, release_dir):
    means = cell_means(Release(made))
    assert list(means.columns) == COLUMNS
    key = (means["lm"] == "Qwen3-0.6B") & (means["encoder"] == "DINOv2") & ~means["random_lm"].astype(bool)
    mine = means[key & (means["shuffle"] == "Original") & (means["ablation"] == "Full")].set_index("experiment")
    values = pd.read_csv(made / UNSEEN, index_col="run_name").loc[ORIGINAL].to_numpy()
    row = mine.loc[HELDOUT]
    assert (row["n"], row["amount"]) == (159, 100)
    assert row["mean"] == pytest.approx(values.mean(), abs=1e-15)
    assert row["sd"] == pytest.approx(values.std(ddof=1), abs=1e-15)
    assert mine.loc[LEAF_QUESTIONS, "n"] == 60
    assert len(means) == 15 + 4 + 13 + 1  # held out, systematic, leaves, seen; the swap is no cell of a figure
    # An empty cell is left out and counted so.
    change(release_dir / UNSEEN, ORIGINAL[0], "animal", "")
    assert cell_means(Release(release_dir))["n"].min() == 60
    assert 158 in set(cell_means(Release(release_dir))["n"])


def test_support_weighted_rows_among_macro_f1_are_found(made, release_dir):
    """Where the weighted file lies beside: its own rows under macro-f1s/, to the last value."""
    assert Release(made).copied == frozenset()
    path = release_dir / f"{MACRO}/llama_unseen_f1_scores.csv"
    weighted = pd.read_csv(release_dir / WEIGHTED, index_col="run_name")
    chat = run_names("Llama-3.2-1B-Instruct")
    table = pd.read_csv(path, index_col="run_name")
    table.loc[chat] = weighted.loc[chat]
    write_f1(path, table)
    release = Release(release_dir)
    claims = rows_of(cell_claims(release))
    assert release.copied == frozenset(chat)
    assert release.notes() == (
        f"3 runs under {MACRO} have the very values of {WEIGHTED}, so their means are "
        "support-weighted and not macro F1: Llama-3.2-1B-Instruct.",
    )
    assert "not macro F1" in claims["heldout/llama-3.2-1b-instruct/original"].note
    every = [*claims.values(), *depth_claims(release), *above(release)]
    marked = {claim.id for claim in every if claim.weighted}
    assert marked == {claim.id for claim in every if "1b-instruct" in claim.id and claim.recomputed is not None} - {
        "leaves/llama-3.2-1b-instruct/original"
    }
    assert "Support-weighted F1 would be" in claims["heldout/llama-3.2-1b/original"].note
    change(path, chat[0], "animal", 0.5)
    assert Release(release_dir).copied == frozenset(chat[1:])


def test_foreign_runs_are_left_out_and_named(release_dir):
    table = scores(np.random.default_rng(1), ["baseline-1"], [row.f1_name for row in HYPERNYMS.values()], 0.5)
    write_f1(release_dir / f"{MACRO}/other_unseen_f1_scores.csv", table)
    release = Release(release_dir)
    assert rows_of(cell_claims(release))["heldout/qwen3-0.6b/original"].agrees
    assert release.notes() == ("Left out, since their names are none of the study's: baseline-1.",)


def lines(path, edit):
    """Rewrite a file, its lines through `edit`."""
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda rows: [], "column 'run_name' is missing"),
        (lambda rows: rows[:1], "has no rows"),
        (lambda rows: ["name" + rows[0][8:], *rows[1:]], ":1: column 'run_name' is missing"),
        (lambda rows: [rows[0].replace("toy", "bird"), *rows[1:]], ":1: a column occurs twice"),
        (lambda rows: [rows[0].replace("toy", "toys"), *rows[1:]], "column 'toys' is no hypernym"),
        (lambda rows: [row.rpartition(",")[0] for row in rows], "no column for women's clothing"),
        (lambda rows: [*rows[:-1], rows[-1][:100]], "cells where the header has 54"),
        (lambda rows: [*rows, rows[1].rpartition(",")[0] + ",0.12345"], "has two different rows"),
        (lambda rows: [rows[0], rows[1].rpartition(",")[0] + ",abc"], "2: 'abc' in column \"piece of women's"),
        (lambda rows: [rows[0], rows[1].rpartition(",")[0] + ",74.1"], "is not between 0 and 1"),
        (lambda rows: [rows[0], rows[1].rpartition(",")[0] + ",nan"], "is not between 0 and 1"),
        (lambda rows: ["version https://git-lfs.github.com/spec/v1"], "column 'run_name' is missing"),
    ],
)
def test_malformed_files_are_one_line_with_the_place(release_dir, edit, said):
    path = release_dir / UNSEEN_8B
    lines(path, edit)
    with pytest.raises(ReleaseError) as error:
        Release(release_dir).scores(HELDOUT)
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_equal_rows_are_one_and_different_ones_a_fault(release_dir):
    path = release_dir / UNSEEN_8B
    before = Release(release_dir).scores(HELDOUT)
    lines(path, lambda rows: [*rows, rows[1]])
    write_f1(release_dir / f"{MACRO}/again_unseen_f1_scores.csv", pd.read_csv(path, index_col="run_name").iloc[:2])
    assert len(Release(release_dir).scores(HELDOUT)) == len(before)
    change(release_dir / f"{MACRO}/again_unseen_f1_scores.csv", run_names("Qwen3-8B")[0], "toy", 0.123)
    with pytest.raises(ReleaseError, match=r"different values in .*8b_unseen.* and .*again|again.* and .*8b_unseen"):
        Release(release_dir).scores(HELDOUT)


@pytest.mark.parametrize(
    ("file", "row", "column", "value", "said"),
    [
        (BACKBONE, "Qwen3-0.6B,toy", "hypernym", "toys", "'toys' is no hypernym"),
        (BACKBONE, "Qwen3-0.6B,toy", "backbone_f1", "", "'backbone_f1' has empty cells"),
        (VISUAL, "original,toy", "category", "bird", "has two different rows"),
        (DEPTHS, "Held-Out Hypernyms,Qwen3-0.6B,1", "acc", "x", "is no number"),
    ],
)
def test_other_malformed_files(release_dir, file, row, column, value, said):
    path = release_dir / file
    if "backbone" in file:  # one line of the three shuffles
        lines(path, lambda rows: [rows[0], *(row for row in rows[1:] if ",original," in row)])
    change(path, row, column, value)
    release = Release(release_dir)
    with pytest.raises(ReleaseError, match=said):
        depth_claims(release) if "depth" in file else coherence_claims(release)


def test_folders_that_are_no_release(tmp_path, crosstax):
    with pytest.raises(ReleaseError, match="is no folder"):
        reanalyze(tmp_path / "nowhere")
    (tmp_path / "results").mkdir()
    code, out, err = crosstax("reanalyze", tmp_path, "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path} holds none of ")
    assert err.count("\n") == 1


# --- the whole, once ---


def test_the_command_prints_and_writes(made, found, tmp_path, crosstax):
    code, out, err = crosstax("reanalyze", made, "--out", tmp_path / "out", "--json")
    assert code == 0
    printed = json.loads(out.strip().splitlines()[-1])
    assert set(printed) == {"claims", "means"}
    assert printed == found.as_json() == json.loads((tmp_path / "out" / "claims.json").read_text())
    first = ["id", "paper", "recomputed", "n", "agrees", "note"]  # what scripts read since before the others came
    assert all(list(claim)[:6] == first for claim in printed["claims"])
    assert all(list(row) == COLUMNS for row in printed["means"])
    assert len({claim["id"] for claim in printed["claims"]}) == len(printed["claims"])
    assert {type(claim["agrees"]) for claim in printed["claims"]} == {bool, type(None)}
    assert "NaN" not in out
    claims, means = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("claims", "means"))
    assert claims["id"].tolist() == [claim["id"] for claim in printed["claims"]]
    np.testing.assert_array_equal(means["mean"], found.means["mean"])
    assert "numbers of the paper: " in " ".join(err.split())


@pytest.mark.parametrize("width", [60, 80, 149, 150, 220])
def test_the_table_loses_nothing_at_any_width(found, width, capsys):
    console = Console(width=width, color_system=None)
    console.print(reanalysis_text(found, width))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = "".join(text.split())
    for row in found.claims.to_dict("records"):
        if row["recomputed"] is not None and width < 150 and row["note"]:
            assert "".join(f"{row['what']}: {row['note']}".split()) in words
    assert "no source" in text


def test_every_row_is_in_words_and_in_one_state_those_that_differ_first(found):
    claims = found.claims
    assert set(claims["state"]) <= set(STATES)
    assert (claims["state"] == SAME).equals(claims["agrees"].eq(True))
    assert claims["state"].isin([DIFFERS, OTHER]).equals(claims["agrees"].eq(False))
    assert (claims["state"] == NO_SOURCE).equals(claims["recomputed"].isna())
    assert claims["what"].is_unique
    for name in ("what", "where", "sentence"):
        assert (claims[name].str.len() > 3).all()
        assert not claims[name].str.contains("_").any()
    order = by_state(claims)["state"].map(STATES.index)
    assert order.is_monotonic_increasing
    assert not claims["state"].map(STATES.index).is_monotonic_increasing  # the paper's order is another


def test_the_page_needs_nothing_else_and_has_every_row(made, found, tmp_path):
    write_reanalysis(found, tmp_path)
    page = HtmlPage((tmp_path / "index.html").read_text())
    assert page.asks_for() == []
    text = " ".join(page.text.split())
    for row in found.claims.to_dict("records"):
        assert row["what"] in text
        assert f"{row['where']}: {row['sentence']}" in text


def with_baselines(root, level=0.45):
    """Majority answers of every systematic level, so that it can be told what is above them."""
    names = ["test_hyp", "test_hyp_shuffled", *(f"test_hyp_ablated_{amount}cat" for amount in (10, 20, 30, 40))]
    table = scores(np.random.default_rng(2), names, [row.f1_name for row in HYPERNYMS.values()], level, spread=0.01)
    write_f1(root / GUESS, table)


def test_above_chance_is_tested_at_every_level(release_dir):
    with_baselines(release_dir)
    claims = rows_of(above(Release(release_dir)))
    good = claims["above_chance/qwen3-0.6b/systematic"]
    assert (good.state, good.n) == (SAME, 4 * 159)
    assert good.recomputed == pytest.approx(65.3 - 45, abs=0.5)  # the level that is least above
    assert claims["above_chance/qwen3-0.6b/across"].state == NOT_PRINTED
    assert "above_chance/qwen3-8b/systematic" not in claims
    for run in run_names("Qwen3-0.6B", ablation="+hyp-abl20cat"):
        for name in REMOVED_HYPERNYMS[20]:
            change(release_dir / UNSEEN, run, HYPERNYMS[name].f1_name, 0.4)
    claims = rows_of(above(Release(release_dir)))
    assert claims["above_chance/qwen3-0.6b/removed"].state == OTHER
    assert "20 removed" in claims["above_chance/qwen3-0.6b/removed"].note.split(".")[0]
    with_baselines(release_dir, level=0.66)  # a negative control: between the levels
    assert rows_of(above(Release(release_dir)))["above_chance/qwen3-0.6b/systematic"].state == DIFFERS


def test_notes_follow_from_the_numbers(found):
    """No sentence about the paper's numbers stands where these say otherwise; the authors' files give the others."""
    claims = rows_of(found.claims.itertuples())
    assert claims["swap/welch/p"].recomputed < 0.05
    assert "another conclusion" not in claims["swap/paired/t"].note
    assert "above by 6.0 points" in claims["swap/welch/t"].note
    assert claims["encoder/p"].recomputed < 0.05
    assert "does not show agreement" not in claims["encoder/t"].note


# --- the authors' files ---


@pytest.fixture(scope="module")
def reference():
    return reanalyze(REFERENCE / "release")


def recomputed(found, id):
    return found.claims.set_index("id").loc[id]


@needs_reference
@pytest.mark.parametrize(
    ("id", "value", "tolerance", "n", "agrees"),
    [
        ("encoder/t", 0.9085, 0.002, 636, True),
        ("encoder/p", 0.4546, 0.002, 636, True),
        ("encoder/df", 2.125, 0.5, 636, None),  # a singular fit
        ("encoder/estimate", 0.01957, 5e-6, 636, None),
        ("coherence/t", 3.3377, 0.002, 318, True),
        ("coherence/p", 0.00158, 5e-6, 318, True),
        ("coherence/df", 50.93, 0.05, 318, None),
        ("coherence/estimate", 0.8370, 5e-5, 318, None),
        ("lm_f1/t", 0.0473, 0.002, 318, True),
        ("lm_f1/p", 0.9625, 5e-5, 318, True),
        ("lm_f1/df", 58.6, 0.05, 318, None),
        ("fig7/r/macro_f1", 0.403, 5e-4, 53, False),
        ("swap/welch/t", 1.309, 0.002, 60, True),
        ("swap/welch/p", 0.1955, 5e-5, 60, True),
        ("swap/paired/t", 2.15, 0.005, 30, False),
        ("swap/paired/p", 0.040, 5e-4, 30, False),
        ("swap/heldout/control", 57.49, 0.005, 30, True),
        ("swap/heldout/swapped", 51.46, 0.005, 30, True),
        ("swap/majority", 34.68, 0.005, 20, True),
        ("swap/leaves/control", 93.71, 0.005, 600, False),
        ("swap/leaves/swapped", 95.18, 0.005, 600, True),
        ("visual_coherence/original/mean", 0.2735, 5e-5 + 1e-9, 53, True),
        ("visual_coherence/original/sd", 0.073, 5e-4, 53, True),
        ("visual_coherence/across/mean", 0.1187, 5e-5, 53, True),
        ("visual_coherence/across/sd", 0.026, 5e-4, 53, False),
        ("visual_coherence/within/mean", 0.2686, 5e-5, 53, True),
        ("visual_coherence/original/bird", 0.3006, 5e-5, 1, True),
        ("majority/hypernyms", 39.20, 0.005, 53, True),
        ("fig3/dashed_line", 39.20, 0.005, 53, False),
        ("systematic/qwen3-0.6b/10/all", 73.2, 0.05, 159, True),
        ("systematic/qwen3-0.6b/20/all", 65.3, 0.05, 159, True),
        ("systematic/qwen3-0.6b/30/all", 70.1, 0.05, 159, True),
        ("systematic/qwen3-0.6b/40/all", 69.0, 0.05, 159, True),
        ("systematic/qwen3-0.6b/10/removed", 47.2, 0.05, 30, False),
        ("systematic/qwen3-0.6b/20/removed", 48.3, 0.05, 60, False),
        ("systematic/qwen3-0.6b/30/removed", 63.6, 0.05, 90, False),
        ("systematic/qwen3-0.6b/40/removed", 65.2, 0.05, 120, False),
        ("table5/se/majority", 0.466, 5e-4, 53, False),
        ("above_chance/qwen3-0.6b/random", 34.94, 0.005, 954, True),
        ("above_chance/qwen3-0.6b/systematic", 16.0, 0.05, 636, True),
        ("above_chance/qwen3-0.6b/removed", 6.0, 0.05, 300, False),
    ],
)
def test_the_published_statistics(reference, id, value, tolerance, n, agrees):
    """Recomputed with R, lme4 and lmerTest on the same files."""
    claim = recomputed(reference, id)
    assert claim["recomputed"] == pytest.approx(value, abs=tolerance)
    assert (claim["n"], claim["agrees"]) == (n, agrees)
    if agrees is False:
        assert claim["note"]


@needs_reference
def test_the_cells_of_both_qwen_are_those_of_the_paper(reference):
    claims = rows_of(reference.claims.itertuples())
    names = [name for name in claims if name.startswith("heldout/qwen3") and "8b" not in name]
    assert len(names) == 10
    assert all(claims[name].agrees and claims[name].n == 159 for name in names)
    for lm, clean, others in (("qwen3-0.6b", 71.2, 85.4), ("qwen3-1.7b", 71.7, 85.8)):
        note = f"On the 42 hypernyms that are no leaf's name {clean}, on the other 11 {others}."
        assert note in claims[f"heldout/{lm}/original"].note
    absent = [claim for name, claim in claims.items() if name.startswith("leaves/") or "llama" in name or "8b" in name]
    assert len(absent) == 2 * 15 - 2 - 10
    assert all(claim.note.startswith("source not available") for claim in absent)


@needs_reference
def test_figure_12_to_the_last_digit(reference):
    rows = reference.claims
    depths = rows[rows["id"].str.startswith("fig12/")]
    assert depths["agrees"].tolist() == [True] * 12
    assert depths["n"].tolist() == [123, 123, 27, 27, 9, 9] * 2
    assert (depths["paper"] - depths["recomputed"]).abs().max() < 1e-14


@needs_reference
def test_the_nulls_are_not_called_equivalence(reference):
    """Section 9: an interval and two one-sided tests beside every null."""
    encoder, swap = (recomputed(reference, f"{name}/t")["note"] for name in ("encoder", "swap/welch"))
    for note in (encoder, swap):
        assert "95 % interval −" in note
        assert "undecided at" in note
    assert "equivalent within 5" in recomputed(reference, "lm_f1/t")["note"]
    assert "does not show agreement" in encoder
    assert "another conclusion" in recomputed(reference, "swap/paired/t")["note"]
    assert recomputed(reference, "swap/paired/t")["state"] == OTHER
    assert recomputed(reference, "swap/leaves/control")["state"] == DIFFERS
    same = recomputed(reference, "visual_coherence/within/mean")["note"]
    assert "though within 0.05" in same


@needs_reference
def test_the_published_means_to_their_digits(reference):
    published = pd.read_csv(REFERENCE / "published_means.csv")
    means = reference.means
    assert list(means.columns) == list(published.columns)
    keys = [name for name in COLUMNS if name not in ("mean", "sd")]
    assert means[keys].astype(str).equals(published[keys].astype(str))
    assert len(means) == 154
    for name in ("mean", "sd"):  # the last digit depends on the order of summation
        assert (means[name] - published[name]).abs().max() < 1e-15


@needs_reference
def test_any_subset_of_the_files_works(tmp_path):
    """Each file alone: nothing stops, and some row or mean has a value."""
    paths = sorted((REFERENCE / "release" / "results").rglob("*.csv"))
    assert len(paths) == 12
    for path in paths:
        target = tmp_path / path.stem / path.relative_to(REFERENCE / "release")
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
        try:
            found = reanalyze(tmp_path / path.stem)
        except ReleaseError as error:
            raise AssertionError(path) from error
        if path.stem not in ("coherence_backbone", "qwen3-depthwise", "catwise_leaf_guess_f1_scores"):  # joined ones
            assert found.claims["recomputed"].notna().any() or len(found.means), path
        assert found.claims["note"].str.contains("source not available").any()


@needs_reference
def test_the_eleven_hypernyms_are_those_of_the_taxonomy():
    pairs = pd.read_csv(REFERENCE / "things_pairs_2040.csv")
    leaves = pairs.drop_duplicates("leaf_uniqueID").set_index("leaf_uniqueID").rename(columns={"leaf_np": "phrase"})
    hypernyms = pairs.drop_duplicates("hypernym_id").set_index("hypernym_id").rename(columns={"hyper_np": "phrase"})
    assert set(homonyms_of(leaves, hypernyms).values()) == HOMONYMS
    assert len(HOMONYMS) == 11
