"""Which runs are averaged, which are kept apart, and which the headline shows."""

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import create_model
from synthetic_sweep import CELLS, World, write_sweep

from analysis import cells as cells_module
from analysis.cells import VALUES, Names, cells_of, label_runs, lines_of, seed_text, shown_runs
from analysis.predictions import load_sweep
from analysis.report.page import cell_rows
from analysis.study import measure
from engine.design.condition import SEEDS, Condition, Mark, Only

WORLD = World(families=2, per_leaf=4)
ORIGINAL = {("pretrained", "original"): (1.5, 1.0, 0.0)}
ACROSS = {("pretrained", "across"): (1.5, 0.5, 0.0)}
SWAP = {("pretrained", "swap"): (1.5, 0.5, 0.0)}


def runs_of(folder: Path, *sweeps: tuple[dict, dict[str, Any]]) -> pd.DataFrame:
    """Labelled runs of one sweep folder, one seed of each cell given with its condition."""
    for cells, condition in sweeps:
        write_sweep(folder, WORLD, cells, seeds=(0,), **condition)
    return label_runs(load_sweep(folder).runs)


def arms_of(runs: pd.DataFrame) -> list[str]:
    names = Names(runs["cell"])
    return [names.labels(labels) for _, labels in lines_of(runs)]


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
    assert (rows["across"]["n"], rows["across"]["seeds"]["permutation"]) == (3, [0, 1, 2])
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
    assert [cell.ablation.amount for cell in shown["cell"]] == [100, 100]
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


SAME_NAME = [  # two inputs under one name; digests that begin alike
    ({"lm": "abcdef12"}, {"lm": "abcdef34"}),
    ({"tokenizer": "abcdef12"}, {"tokenizer": "abcdef34"}),
    ({"store": "abcdef12"}, {"store": "abcdef34"}),
    ({"dataset": "abcdef12"}, {"dataset": "abcdef34"}),
]


@pytest.mark.parametrize("inputs", SAME_NAME, ids=lambda digests: next(iter(digests[0])))
def test_inputs_of_one_name_are_kept_apart_everywhere(tmp_path: Path, inputs: tuple[dict, dict]) -> None:
    """In tables, names and models; runs of the same input are averaged."""
    for digests in inputs:
        write_sweep(tmp_path, WORLD, ORIGINAL, seeds=(0, 1), digests=digests, paths={"features": "/data/f.h5"})
    study = measure(load_sweep(tmp_path))
    cells = study.runs.groupby("cell", sort=False)
    assert cells.size().tolist() == [2, 2]
    assert study.runs["setup"].nunique() == 2
    assert study.f1.groupby(["setup", "group"]).size().max() == 1
    (what,) = inputs[0]
    compared = study.models[study.models["question"].isin(["encoder", "LM"])]
    assert bool(len(compared)) == (what != "dataset")  # one against the other, not both as one
    if what in ("lm", "tokenizer"):
        assert study.runs["lm"].nunique() == 2
    if what == "store":
        assert study.runs["encoder"].nunique() == 2


def test_weights_of_one_digest_are_one_lm_under_any_name(tmp_path: Path) -> None:
    for seed, lm in enumerate(("/here/lm", "/moved/lm")):
        write_sweep(tmp_path, WORLD, ORIGINAL, seeds=(seed,), digests={"lm": "weights"}, lm=lm)
    write_sweep(tmp_path, WORLD, {("random", "original"): (1.0, 0.0, 0.0)}, digests={"lm": "config"}, lm="/moved/lm")
    runs = label_runs(load_sweep(tmp_path).runs)
    assert runs["setup"].unique().tolist() == [""]
    assert runs.groupby("lm_init")["cell"].nunique().tolist() == [1, 1]


def test_a_random_init_lm_of_two_models_name_is_beside_neither(tmp_path: Path) -> None:
    """Its digest is of the configuration, which does not say which weights it is the twin of."""
    for weights in ("one", "two"):
        write_sweep(tmp_path, WORLD, ORIGINAL, seeds=(0,), digests={"lm": weights})
    write_sweep(tmp_path, WORLD, {("random", "original"): (1.0, 0.0, 0.0)}, seeds=(0,), digests={"lm": "config"})
    runs = label_runs(load_sweep(tmp_path).runs)
    assert runs["setup"].nunique() == 3


# --- Values and words


PLACES = {
    "dataset_digest": ["d0", "d1"],
    "store_digest": ["s0", "s1"],
    "encoder": ["/worlds/a/enc", "/worlds/b/enc", "/other/b/enc", "vit_dinov2", "vit_large_dinov2"],
    "lm": ["/worlds/a/lm", "/worlds/b/lm", "Qwen/Qwen3-0.6B", "other/Qwen3-0.6B"],
    "revision": [0, 1],  # of the LM: another digest of weights, and of configuration
}
FIELDS = {
    "lm_init": ["pretrained", "random"],
    "shuffle": ["original", "across", "within"],
    "across_rule": ["paper", "disjoint"],
    "within_rule": ["paper", "deranged", "release"],
    "homonyms": ["keep", "drop"],
    "ablation_kind": ["random", "systematic"],
    "ablation": [1, 10, 100],
    "scope": ["leaf", "mapping"],
    "removed_list": ["drawn", "published"],
    "epochs": [5, 6],
    "template": ["{question}", "./{question}", "a/b/{question}", "/b/{question}", "/c/b/{question}"],
    "run_seed": [0, 1],
    "permutation": [0, 1],
}
ONE_RUN = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in {**PLACES, **FIELDS}.items()})


def frame(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Runs as `load_sweep` gives them, from some of their fields."""
    rows = []
    for run in runs:
        own = {**Condition().model_dump(), "revision": 0, **run}
        own["lm_digest"] = f"digest of {own['lm_init']} {own['lm']} {own.pop('revision')}"
        rows.append({**own, **{f"{what}_path": f"/data/{own[f'{what}_digest'][:1]}" for what in ("dataset", "store")}})
    return pd.DataFrame(rows).rename_axis("run_id")


def matters(run: dict[str, Any]) -> tuple:
    """What two runs must agree in to be averaged, told without the module under test."""
    unused = {"across_rule", "within_rule"} - {f"{run['shuffle']}_rule"}
    unused |= {"removed_list"} if run["ablation_kind"] == "random" else set()
    return tuple(value for name, value in run.items() if name not in {*SEEDS, *unused})


@settings(max_examples=60, deadline=None)
@given(st.lists(ONE_RUN, min_size=2, max_size=8))
def test_cells_keys_and_names_are_one_to_one(runs: list[dict[str, Any]]) -> None:
    """Runs share a cell exactly where all that matters agrees; cells share a name nowhere, whatever is shown."""
    labelled = label_runs(frame(runs))
    meant = {place: matters(run) for place, run in enumerate(runs)}
    for one, cell in labelled["cell"].items():
        for other, another in labelled["cell"].items():
            assert (cell == another) == (meant[one] == meant[other])
            assert cell != another or (hash(cell) == hash(another) and not cell < another)
    found = sorted(set(labelled["cell"]))
    names = Names(found)
    assert len({names.cell(cell) for cell in found}) == len(found)
    shown = set(labelled.loc[labelled["shown"], "cell"])
    short = Names(found, shown)
    assert len({short.cell(cell) for cell in shown}) == len(shown)
    assert list(dict.fromkeys(labelled["cell"])) == found  # sorted
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - our own


def test_names_that_say_too_little_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: with encoders under their last part only, two cells have one name."""
    monkeypatch.setattr(cells_module, "encoder_names", lambda encoders: dict.fromkeys(encoders, "enc"))
    found = set(cells_of(frame([{**run, "encoder": f"/{run['store_digest']}/enc"} for run in TWO])))
    names = Names(found)
    assert len(found) == 2
    assert len({names.cell(cell) for cell in found}) == 1


TWO = [{"dataset_digest": "d", "store_digest": f"s{n}", "lm": "lm"} for n in range(2)]


@pytest.mark.parametrize(
    ("field", "kind", "values"),
    [
        ("pool", Annotated[str, Mark.ASKED], ("all", "siblings")),
        ("wording", Annotated[str, Mark.ASKED], ("long", "short")),
        ("train_language", Annotated[str, Mark.PROMPT], ("de", "en")),
        ("lm_sharing", Annotated[bool, Mark.TRAINED], (False, True)),
        ("pool_rule", Annotated[str, Mark.ASKED, Only("shuffle", "original")], ("near", "far")),
        ("carrier_leaf", Annotated[str, Mark.PROMPT, Only("task", "verify")], ("A {phrase}.", "The {phrase}.")),
        ("name_form", Annotated[str, Mark.ASKED, Only("order", "pairs")], ("long", "short")),
    ],
)
def test_a_new_field_of_the_condition_is_a_new_cell(
    field: str, kind: Any, values: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field that is added to the condition tells cells apart, by value and in words, without a change here."""
    larger = create_model("Condition", __base__=Condition, **{field: (kind, values[0])})
    monkeypatch.setattr("engine.design.condition.Condition", larger)
    monkeypatch.setattr(cells_module, "Condition", larger)
    runs = [{**TWO[0], "encoder": "enc", field: value} for value in values]
    found = set(cells_of(frame(runs)))
    names = Names(found)
    assert len(found) == 2
    assert all(any(str(value) in names.cell(cell) for cell in found) for value in values)
    if values == ("near", "far"):  # means nothing of other labels
        assert len(set(cells_of(frame([{**run, "shuffle": "across"} for run in runs])))) == 1


# --- No text is taken apart, and no row found by it


TEXTS = {"setup", "arm", "series", "shown_setup", "above", "below", "comparison", "verdict"}
COLUMNS = {"setup", "arm", "series", "shown_setup"}  # of tables of runs
SURGERY = {
    *("split", "rsplit", "partition", "rpartition", "startswith", "endswith", "removeprefix", "removesuffix"),
    *("replace", "find", "index", "contains", "match", "fullmatch", "extract", "sub", "search"),
}
JOINS = {"groupby", "merge", "set_index", "parts", "isin", "drop_duplicates"}


def names_in(node: ast.AST) -> set[str]:
    """Texts that an expression speaks of: a column, an attribute or a variable of such a name."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.add(part.value)
        elif isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Name):
            found.add(part.id)
    return found


def surgery(source: str) -> Iterator[str]:
    """Places of a module where such a text is taken apart, compared, or used as the key of rows."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            said = names_in(node)
            if node.func.attr in SURGERY and said & TEXTS and "cell" not in said:
                yield ast.unparse(node)
            given = [] if node.func.attr == "merge" else node.args  # what is merged may have texts beside its keys
            keys = set().union(*map(names_in, [*given, *(word.value for word in node.keywords)]))
            if (
                node.func.attr in JOINS
                and keys & {*COLUMNS, "CELL", "CURVE"}
                and not keys & {*VALUES, "KEYED", "RESPONSE"}
            ):
                yield ast.unparse(node)
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Subscript) and names_in(node.left.slice) & TEXTS:
            yield ast.unparse(node)


ANALYSIS = Path(cells_module.__file__).parent


def test_texts_are_neither_taken_apart_nor_keys() -> None:
    found = {
        str(path.relative_to(ANALYSIS)): places
        for path in sorted(ANALYSIS.rglob("*.py"))
        if path.parent.name != "release" and (places := list(surgery(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "shuffle = row['arm'].split(' ')[0]",
        "ok = str(arm).startswith('across (')",
        "text = re.sub('x', 'y', row['setup'])",
        "rows = table.groupby(['setup', 'arm'])",
        "rows = table.merge(runs, on=CELL)",
        "rows = runs[runs['setup'] == setup]",
        "rows = runs[runs['series'].str.contains('llama')]",
    ],
)
def test_what_the_test_above_must_catch(line: str) -> None:
    assert list(surgery(line))
