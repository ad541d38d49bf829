"""Which runs are averaged, which are kept apart, and which the headline shows."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_sweep import CELLS, World, write_sweep

from analysis.cells import arms_of, label_runs, seed_text, shown_runs
from analysis.predictions import load_sweep
from analysis.report.page import cell_rows
from analysis.study import measure

WORLD = World(families=2, per_leaf=4)
ORIGINAL = {("pretrained", "original"): (1.5, 1.0, 0.0)}
ACROSS = {("pretrained", "across"): (1.5, 0.5, 0.0)}
SWAP = {("pretrained", "swap"): (1.5, 0.5, 0.0)}


def runs_of(folder: Path, *sweeps: tuple[dict, dict[str, Any]]) -> pd.DataFrame:
    """Labelled runs of one sweep folder, one seed of each cell given with its condition."""
    for cells, condition in sweeps:
        write_sweep(folder, WORLD, cells, seeds=(0,), **condition)
    return label_runs(load_sweep(folder).runs)


def test_old_and_new_runs_share_a_cell(tmp_path: Path) -> None:
    write_sweep(tmp_path, WORLD, ORIGINAL, seeds=(1,))
    runs = runs_of(tmp_path, (ORIGINAL, {"permutation": 0, "shuffled": 100, "scope": "leaf"}))
    assert len(runs) == 2
    assert set(runs["setup"]) == {""}
    assert set(runs["arm"]) == {"original"}


def test_doses_are_arms_of_their_own(tmp_path: Path) -> None:
    doses = [(ACROSS, {"shuffled": dose}) for dose in (100, 25, 75)]
    runs = runs_of(tmp_path, (ORIGINAL, {}), *doses, ({("pretrained", "within"): (1, 1, 0)}, {}))
    assert arms_of(runs) == ["original", "across 25 %", "across 75 %", "across", "within"]
    assert runs.loc[runs["partial"], "arm"].tolist() == ["across 25 %", "across 75 %"]
    assert arms_of(shown_runs(runs)) == ["original", "across", "within"]
    assert set(runs["setup"]) == {""}


def test_doses_of_two_rules_are_told_apart(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, *[(ACROSS, {"shuffled": 50, "across_rule": rule}) for rule in ("paper", "disjoint")])
    assert set(runs["arm"]) == {"across 50 % (paper)", "across 50 % (disjoint)"}
    assert len(shown_runs(runs)) == 2  # there is nothing else to show


def test_permutations_are_averaged_like_seeds(tmp_path: Path) -> None:
    runs_of(tmp_path, (ORIGINAL, {}), *[(ACROSS, {"permutation": n}) for n in (0, 1, 2)])
    study = measure(load_sweep(tmp_path))
    rows = {row["arm"]: row for row in cell_rows(study, study.runs)}
    assert (rows["across"]["n"], rows["across"]["seeds"]["permutation"]) == (3, "0, 1, 2")
    across = study.runs.index[study.runs["arm"] == "across"]
    assert rows["across"]["heldout"]["macro_f1"]["mean"] == pytest.approx(
        study.test("heldout").loc[across, "macro_f1"].mean()
    )
    assert study.runs.loc[across, "map"].nunique() == 3
    assert "permutation (of a shuffle) varied over 0, 1, 2" in seed_text(study.runs)


@pytest.mark.parametrize(
    ("one", "other", "setups"),
    [
        ({"ablation": 10}, {"ablation": 10, "ablation_kind": "systematic"}, {"ablation 10 %", "10 hypernyms removed"}),
        (
            {"ablation": 2, "ablation_kind": "systematic", "removed_as_negative": "keep"},
            {"ablation": 2, "ablation_kind": "systematic", "removed_as_negative": "never"},
            {"2 hypernyms removed (keep)", "2 hypernyms removed (never)"},
        ),
        (
            {"ablation": 50, "ablation_levels": "nested"},
            {"ablation": 50, "ablation_levels": "independent"},
            {"ablation 50 % (nested)", "ablation 50 % (independent)"},
        ),
        ({"ablation": 50, "scope": "leaf"}, {"ablation": 50, "scope": "mapping"}, None),
        ({"homonyms": "keep"}, {"homonyms": "drop"}, {"homonyms keep", "homonyms drop"}),
        ({"supervise": "answer"}, {"supervise": "answer_eos"}, {"supervise answer", "supervise answer_eos"}),
        ({"subset": "all"}, {"subset": "swap"}, {"all categories", "swap subset"}),
        ({"projector_layers": 2}, {"projector_layers": 3}, None),
    ],
)
def test_conditions_that_differ_are_never_averaged(tmp_path: Path, one: dict, other: dict, setups: set | None) -> None:
    runs = runs_of(tmp_path, (ORIGINAL, one), (ORIGINAL, other))
    assert runs["setup"].nunique() == 2
    assert setups is None or set(runs["setup"]) == setups


def test_fields_that_do_not_apply_do_not_part_a_curve(tmp_path: Path) -> None:
    """A systematic ablation with published lists and a random one make one series, seen side by side."""
    systematic = {"ablation_kind": "systematic", "removed_list": "published", "removed_as_negative": "never"}
    runs = runs_of(
        tmp_path, *[(ORIGINAL, {"ablation": n}) for n in (30, 100)], (ORIGINAL, {"ablation": 2, **systematic})
    )
    assert runs["setup"].tolist() == ["ablation 30 %", "ablation 100 %", "2 hypernyms removed"]
    assert set(runs["series"]) == {""}
    assert runs["kind"].tolist() == ["random", "random", "systematic"]


def test_the_headline_has_the_strongest_ablation_of_each_series(tmp_path: Path) -> None:
    levels = [(ORIGINAL, {"ablation": level, "encoder": f"enc-{e}"}) for e in "ab" for level in (100, 10)]
    removed = (ORIGINAL, {"ablation": 53, "ablation_kind": "systematic", "encoder": "enc-a"})
    runs = runs_of(tmp_path, *levels, removed)
    shown = shown_runs(runs)
    assert shown["withheld"].tolist() == ["ablation 100 %"] * 2
    assert shown["setup"].tolist() == ["enc-a", "enc-b"]  # what they have in common is not said
    assert set(runs["setup"]) == {f"enc-{e} · ablation {level} %" for e in "ab" for level in (10, 100)} | {
        "enc-a · 53 hypernyms removed"
    }


def test_models_are_named_as_shortly_as_tells_them_apart(tmp_path: Path) -> None:
    runs = runs_of(tmp_path / "one", *[(ORIGINAL, {"lm": f"Qwen/{name}"}) for name in ("Qwen3-0.6B", "Qwen3-1.7B")])
    assert set(runs["setup"]) == {"Qwen3-0.6B", "Qwen3-1.7B"}
    runs_of(tmp_path / "two", (ORIGINAL, {"lm": "/worlds/a/lm"}))
    worlds = runs_of(tmp_path / "two", ({("pretrained", "within"): (1, 1, 0)}, {"lm": "/worlds/b/lm"}))
    assert set(worlds["setup"]) == {"a/lm", "b/lm"}


def test_without_random_ablation_the_longest_list_is_shown(tmp_path: Path) -> None:
    systematic = {"ablation_kind": "systematic"}
    runs = runs_of(tmp_path, *[(ORIGINAL, {"ablation": n, **systematic}) for n in (1, 2)])
    assert shown_runs(runs)["ablation"].tolist() == [2]


def test_the_swap_and_its_control_share_a_setup(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, (CELLS, {}), (ORIGINAL, {"subset": "swap"}), (SWAP, {"subset": "swap"}))
    by_setup = runs.groupby("setup")["arm"].agg(set)
    assert by_setup["swap subset"] == {"original", "swap"}
    assert by_setup["all categories"] == {"original", "across", "within"}


def test_two_datasets_with_one_encoders_name_are_kept_apart(tmp_path: Path) -> None:
    for seed, name in enumerate(("birds", "tools")):
        paths = {"dataset": f"/data/{name}", "features": f"/data/{name}.h5"}
        write_sweep(tmp_path, WORLD, ORIGINAL, seeds=(seed,), paths=paths, digest=name)
    runs = label_runs(load_sweep(tmp_path).runs)
    assert runs["setup"].tolist() == ["dataset data/birds", "dataset data/tools"]
