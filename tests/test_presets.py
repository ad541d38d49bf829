"""Presets: the release's 441 runs by name, its counts on the real taxonomy, and sweep files as users write them."""

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from few import few
from real_taxonomy import REFERENCE, needs_reference, write_real_taxonomy
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix
from small_study import write_dataset, write_features

from cachegen.common.errors import ConditionError, StoreError
from cachegen.data.dataset import load_dataset
from engine.design.ablation import withhold
from engine.design.condition import Condition
from engine.design.published import REMOVED_HYPERNYMS
from engine.design.questions import Categories, build_questions, count_questions, select, split_images
from engine.sweeps.cost import ROW_BYTES, Questions, text_tokens
from engine.sweeps.presets import load_preset, preset_names
from engine.sweeps.sweep_file import (
    choose_runs,
    complete,
    default_fields,
    locate,
    probe_table,
    read_sweep,
    same_encoder,
)
from engine.sweeps.tune.table import read_tune

FIGURES = ("fig3", "fig4", "fig6", "fig7", "fig10", "fig11", "fig12", "table5", "swap")
LMS = {
    "Qwen/Qwen3-0.6B": "500m",
    "Qwen/Qwen3-1.7B": "1b",
    "Qwen/Qwen3-8B": "8b",
    "meta-llama/Llama-3.2-1B": "1b-llama",
    "meta-llama/Llama-3.2-1B-Instruct": "1b-llama-chat",
}
ENCODERS = {"vit_large_patch14_reg4_dinov2.lvd142m": "dinov2", "vit_so400m_patch14_siglip_224.webli": "siglip"}
SIGLIP_384 = "vit_so400m_patch14_siglip_384.webli"  # of the fused encoder
SEEDS = (42, 218, 7)


def release_name(run):
    """The name that the release's result files give a run."""
    c = run.condition
    amount = f"{c.ablation}cat" if c.ablation_kind == "systematic" else f"{c.ablation}"
    data = "things" if amount == "100" else f"things+hyp-abl{amount}"
    labels = {"original": "", "across": "-shuffled", "within": "-local-shuffled", "swap": "-cat-shuffled"}[c.shuffle]
    control = "-cat-sampled" if c.subset == "swap" and c.shuffle == "original" else ""
    weights = "-random" if c.lm_init == "random" else ""
    return f"align-{ENCODERS[run.encoder]}+{LMS[run.lm]}-{data}{labels}{control}-{c.run_seed}{weights}"


@pytest.fixture(scope="module")
def grid():
    return read_sweep(load_preset("grid"))


def sweep(name):
    return read_sweep(load_preset(name))


def test_the_grid_is_the_441_runs_of_the_release(grid):
    names = [release_name(run) for run in grid]
    assert len(names) == len(set(names)) == 441
    families = Counter(re.match(r"align-(\w+)\+(.*?)-things", name).groups() for name in names)
    assert families == {
        ("dinov2", "500m"): 120 + 6,
        ("dinov2", "1b"): 120,
        ("siglip", "500m"): 3,
        ("siglip", "1b"): 3,
        ("dinov2", "8b"): 9,
        ("dinov2", "1b-llama"): 90,
        ("dinov2", "1b-llama-chat"): 90,
    }


@needs_reference
def test_names_are_those_of_the_result_files(grid):
    """252 names lie in ../shared; those of 8B and Llama were read in the public files of the same folder."""
    results = REFERENCE / "release" / "results" / "main-results" / "macro-f1s"
    files = ("all_unseen", "all_seen", "cat_unseen", "cat_sampled_unseen")
    known = {name for file in files for name in pd.read_csv(results / f"{file}_f1_scores.csv")["run_name"]}
    assert len(known) == 252
    amounts = ["", *(f"+hyp-abl{n}" for n in (10, 30, 50, 70, 90)), *(f"+hyp-abl{n}cat" for n in (10, 20, 30, 40))]
    labels = ("", "-shuffled", "-local-shuffled")
    llama = {
        f"align-dinov2+{lm}-things{amount}{label}-{seed}"
        for lm in ("1b-llama", "1b-llama-chat")
        for amount in amounts
        for label in labels
        for seed in SEEDS
    }
    largest = {f"align-dinov2+8b-things{label}-{seed}" for label in labels for seed in SEEDS}
    assert {release_name(run) for run in grid} == known | llama | largest


def test_figures_are_parts_of_the_grid_and_share_their_runs(grid):
    assert {name: len(sweep(name)) for name in FIGURES} == {
        "fig3": 12, "fig4": 120, "fig6": 108, "fig7": 6, "fig10": 60, "fig11": 108, "fig12": 12, "table5": 9, "swap": 6,
    }  # fmt: skip
    shown = {run for name in FIGURES for run in sweep(name)}
    assert shown < set(grid)
    # What no figure shows: labels shuffled under systematic ablation.
    assert all(
        (run.condition.ablation_kind, run.condition.shuffle != "original") == ("systematic", True)
        for run in set(grid) - shown
    )
    assert len(set(grid) - shown) == 96
    assert set(sweep("fig7")) < set(sweep("fig12"))


def test_all_removed_is_asked_once(grid):
    """Systematic ablation of all 53 hypernyms is the 100 % case."""
    assert {r.condition.ablation for r in grid if r.condition.ablation_kind == "systematic"} == {10, 20, 30, 40}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_sound(name):
    preset = load_preset(name)
    assert "\n" not in preset.about
    if "probe" in preset.document:
        assert set(probe_table(preset).lm) <= set(LMS)
    elif name == "tune":
        assert read_tune(preset, name).count == 24
    elif name == "curves":  # its LM is a world's, given on the command line
        runs = read_sweep(preset, overrides={"lm": "world/lm"})
        assert len({run.condition for run in runs}) == len(runs) == 2 * 6 + 2 * 2 * 3 + 5
    elif name == "pictograms":  # its features are imported; permutations and random LMs go with run seeds
        cells = {}
        for run in (each.condition for each in sweep(name)):
            drawn = run.permutation if run.shuffle != "original" else run.lm_seed
            cells.setdefault((run.lm_init, run.shuffle), []).append((run.run_seed, drawn))
        assert cells.pop(("pretrained", "original")) == [(seed, 0) for seed in SEEDS]
        assert list(map(sorted, cells.values())) == [sorted(zip(SEEDS, range(3), strict=True))] * 3
    elif preset.is_sweep:
        runs = sweep(name)
        assert {run.lm for run in runs} <= set(LMS)
        assert {part.partition("@")[0] for run in runs for part in run.encoder.split("+")} <= {*ENCODERS, SIGLIP_384}
        assert Counter(run.condition.run_seed for run in runs) == dict.fromkeys(SEEDS, len(runs) // 3)
    else:
        Condition.of(default_fields(name), name)


def test_settings_say_what_experiment_says():
    paper, release, fast = (Condition.of(default_fields(name), name) for name in ("paper", "release", "fast"))
    table_1 = {"epochs": 5, "batch": 16, "learning_rate": 2e-5, "weight_decay": 0.1, "warmup": 0.03, "clip": 1.0}
    assert {name: getattr(paper, name) for name in table_1} == table_1
    assert (paper.order, paper.supervise, paper.shared_initial_weights) == ("pairs", "answer", False)
    assert {name: getattr(release, name) for name in table_1} == table_1 | {"learning_rate": 1e-3, "weight_decay": 0}
    assert (release.order, release.supervise, release.within_rule) == ("pairs", "answer_eos", "release")
    assert release.shared_initial_weights
    assert release.template == "<image>\n{question}"
    assert fast == release.model_copy(update={"order": "images"})
    for name in FIGURES:  # one set of settings, so that figures share runs
        assert {run.condition.template for run in sweep(name)} == {release.template}


# --- counts on the real taxonomy ---


@pytest.fixture(scope="module")
def things():
    """Taxonomy, (L,) test images and hypernyms of each leaf, sorted by leaf."""
    pairs = pd.read_csv(REFERENCE / "things_pairs_2040.csv")
    test = pd.read_csv(REFERENCE / "test_images_per_leaf.csv", index_col=0)["n_test_images"].sort_index()
    own = pairs.groupby("leaf_uniqueID")["hypernym_id"].agg(frozenset).reindex(test.index)
    return test, own.to_list()


PUBLISHED_TRAIN = {40: 29_892, 30: 33_800, 20: 40_730, 10: 48_214}  # Table 3


def images_per_leaf(things, kept_hypernyms):
    """Numbers of images, 12 or more a leaf as in THINGS, that give all published totals; None if there are none.

    `kept_hypernyms(own, removed)`: how many hypernyms of a leaf are still trained on.
    """
    test, own = things
    options = np.array(
        [
            (leaf, n, int(0.7 * n), int(0.75 * n) - int(0.7 * n))
            for leaf, count in enumerate(test)
            for n in range(12, 60)
            if n - int(0.75 * n) == count
        ]
    )
    leaf, _, train, validation = options.T
    hypernyms = np.array([len(names) for names in own])
    sums = [(train, 11_625), (validation, 1_014), (validation * hypernyms[leaf], 3_380 // 2)]
    for count, total in PUBLISHED_TRAIN.items():
        kept = np.array([kept_hypernyms(names, set(REMOVED_HYPERNYMS[count])) for names in own])
        sums.append((train * kept[leaf], (total - 23_250) // 2))
    one_each = csr_matrix((np.ones(len(leaf)), (leaf, np.arange(len(leaf)))))
    totals = [total for _, total in sums]
    found = milp(
        np.zeros(len(leaf)),
        integrality=np.ones(len(leaf)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint([row for row, _ in sums], totals, totals)],
    )
    return None if found.x is None else pd.Series(options[found.x > 0.5, 1], index=test.index)


def by_leaf(own, removed):
    return 0 if own & removed else len(own)


@pytest.fixture(scope="module")
def real(things, tmp_path_factory):
    """A dataset of empty files that has all of Table 3's training counts and the published splits."""
    files = images_per_leaf(things, by_leaf)
    assert files.sum() == 17_336
    return load_dataset(write_real_taxonomy(tmp_path_factory.mktemp("real"), files))


@needs_reference
def test_table_3_is_ablation_by_leaf(things):
    """No numbers of images give its training counts if only the questions of removed hypernyms were withheld."""
    assert images_per_leaf(things, lambda own, removed: len(own - removed)) is None


@pytest.fixture(scope="module", params=few(["one", "all"], "one"), ids="{} amounts of shuffles".format)
def counts(request, grid, real):
    """(shuffle, ablation kind, amount) -> counts of the question table; of shuffles one amount of each kind, or all."""
    conditions = {
        (c.shuffle, c.ablation_kind, c.ablation): c
        for c in (run.condition for run in grid)
        if c.subset == "all" and (request.param == "all" or c.shuffle == "original" or c.ablation in (40, 100))
    }
    return {key: count_questions(build_questions(real, condition)) for key, condition in conditions.items()}


@needs_reference
def test_unshuffled_conditions_have_the_published_counts(counts):
    """Tables 2 and 3: exact where nothing is drawn."""
    assert len(counts) in (6 + 4 + 2 * 2, 3 * (6 + 4))
    assert counts["original", "random", 100] == {
        "train": 23_250,
        "validation": {"leaf": 2_028, "seen": 0, "unseen": 3_380},
        "test": {"leaf": 9_394, "seen": 0, "unseen": 15_702},
    }
    for amount, unseen in {10: 5_608, 20: 8_626, 30: 11_460, 40: 13_018}.items():
        found = counts["original", "systematic", amount]
        assert found["test"] == {"leaf": 9_394, "seen": 15_702 - unseen, "unseen": unseen}
        assert found["train"] == PUBLISHED_TRAIN[amount]


@needs_reference
def test_what_dry_runs_take_for_granted_without_the_dataset(counts, real, tmp_path):
    """Published counts, the longest question and the size of a question table."""
    for (shuffle, kind, amount), found in counts.items():
        known = Questions.published(Condition(ablation_kind=kind, ablation=amount))
        evaluated = sum(sum(found[split].values()) for split in ("validation", "test"))
        if shuffle == "original" and (kind, amount) in {("random", 100), *(("systematic", n) for n in PUBLISHED_TRAIN)}:
            assert (known.trained, known.evaluated) == (found["train"], evaluated)
        else:
            assert known.trained == pytest.approx(found["train"], rel=0.05)
    assert text_tokens(Condition(), real) == text_tokens(Condition())
    table = build_questions(real, Condition(ablation=50))
    table.to_parquet(tmp_path / "questions.parquet", index=False)
    size = (tmp_path / "questions.parquet").stat().st_size
    assert size == pytest.approx(ROW_BYTES["questions"] * len(table), rel=0.3)


@needs_reference
def test_shuffled_conditions_have_about_the_same_counts(counts):
    """A shuffle moves totals by a few questions, since leaves differ in hypernyms and images; leaf questions stay."""
    for (shuffle, kind, amount), found in counts.items():
        original = counts["original", kind, amount]
        assert found["test"]["leaf"] == 9_394
        assert found["train"] == pytest.approx(original["train"], rel=0.05)
        assert sum(found["test"].values()) == pytest.approx(sum(original["test"].values()), rel=0.01)
        assert (found == original) == (shuffle == "original")


def sampled(real, scope, level, seeds):
    """(seeds, 2) training and unseen test questions of a random ablation, from what it withholds alone."""
    known = Categories.of(real)
    members, n = known.members, real.leaves["n_images"].to_numpy()
    train, test = (0.7 * n).astype(int), n - (0.75 * n).astype(int)
    rows = []
    for seed in range(seeds):
        withheld = withhold(Condition(ablation=level, data_seed=seed, scope=scope), members, known.hypernyms).mappings
        rows.append((2 * train @ (1 + (members & ~withheld).sum(axis=1)), 2 * test @ withheld.sum(axis=1)))
    return np.array(rows)


@needs_reference
@pytest.mark.parametrize(
    ("level", "published"),
    [
        (90, (24_840, 15_058)),
        (70, (28_962, 13_402)),
        (50, (34_914, 10_994)),
        (30, (43_340, 7_568)),
        (10, (55_270, 2_754)),
    ],
)
def test_random_ablation_has_the_published_counts_within_its_own_spread(real, counts, level, published):
    """Table 2 against 20 samples of leaves. Samples of mappings, as the paper's text has it, are far outside."""
    by_leaf, by_mapping = sampled(real, "leaf", level, 20), sampled(real, "mapping", level, 5)
    found = counts["original", "random", level]
    assert (found["train"], found["test"]["unseen"]) == tuple(by_leaf[0])
    assert (np.abs(published - by_leaf.mean(axis=0)) < 4 * by_leaf.std(axis=0, ddof=1)).all()
    assert (np.abs(published - by_mapping.mean(axis=0)) > 10 * by_leaf.std(axis=0, ddof=1)).all()


@needs_reference
@pytest.mark.parametrize(("shuffle", "published"), [("across", 15_680), ("within", 15_664)])
def test_shuffled_totals_lie_within_the_spread_of_permutations(real, shuffle, published):
    """Published totals of hypernym test questions at 100 %, against 20 permutations."""
    known = Categories.of(real)
    n = real.leaves["n_images"].to_numpy()
    test, hypernyms = n - (0.75 * n).astype(int), known.members.sum(axis=1)
    totals = []
    for seed in range(20):
        condition = Condition(shuffle=shuffle, within_rule="release", data_seed=seed)
        image_of_label = select(real, known, condition, split_images(real, seed), None).image_of_label
        totals.append(2 * (test[image_of_label] * hypernyms).sum())
    assert abs(published - np.mean(totals)) < 4 * np.std(totals, ddof=1), totals
    table = build_questions(real, Condition(shuffle=shuffle, within_rule="release"))
    assert count_questions(table)["test"]["unseen"] == totals[0]


@needs_reference
def test_the_swap_has_ten_hypernyms_of_twenty_leaves(grid, real):
    tables = {
        run.condition.shuffle: build_questions(real, run.condition)
        for run in grid
        if run.condition.subset == "swap" and run.condition.run_seed == 42
    }
    assert set(tables) == {"original", "swap"}
    for table in tables.values():
        assert table["label_leaf"].nunique() == 200
        assert table.loc[table["kind"] == "hypernym", "category"].nunique() == 10
    assert set(tables["original"]["label_leaf"]) == set(tables["swap"]["label_leaf"])
    assert (tables["original"]["label_leaf"] == tables["original"]["image_leaf"]).all()
    assert (tables["swap"]["label_leaf"] != tables["swap"]["image_leaf"]).all()


# --- sweep files ---


@pytest.fixture
def stores(tmp_path):
    """Two stores of one small dataset, made with the presets' encoders under names of different ecosystems."""
    dataset = load_dataset(write_dataset(tmp_path / "dataset"))
    made = {}
    for name, encoder in (
        ("dino.h5", "facebook/dinov2-with-registers-large"),
        ("sig.h5", "vit_so400m_patch14_siglip_224.webli"),
    ):
        made[name] = write_features(tmp_path / name, dataset, encoder=encoder)
    return tmp_path / "dataset", made


def test_a_preset_finds_its_stores_by_encoder(stores):
    dataset, made = stores
    runs = locate(sweep("fig3"), dataset, list(made.values()))
    plan = complete(runs, "fig3")
    assert {inputs.dataset for inputs, _ in plan.runs} == {dataset}
    by_store = Counter(inputs.features.name for inputs, _ in plan.runs)
    assert by_store == {"dino.h5": 6, "sig.h5": 6}
    asked = [run.encoder for run in sweep("fig3")]
    assert [inputs.features.name for inputs, _ in plan.runs] == [
        "dino.h5" if "dino" in encoder else "sig.h5" for encoder in asked
    ]


def test_a_missing_store_is_answered_with_the_command_that_makes_it(stores):
    dataset, made = stores
    runs = locate(sweep("fig3"), dataset, [made["dino.h5"]])
    with pytest.raises(StoreError) as error:
        complete(runs, "fig3", [made["dino.h5"]])
    assert f"crosstax extract {dataset} --encoder vit_so400m_patch14_siglip_224.webli --out" in str(error.value)
    assert "facebook/dinov2-with-registers-large" in str(error.value)
    with pytest.raises(ConditionError, match="leaves the dataset open; give --dataset"):
        complete(locate(sweep("fig3"), None, list(made.values())), "fig3")


@pytest.mark.parametrize(
    ("asked", "recorded", "same"),
    [
        ("vit_so400m_patch14_siglip_224", "vit_so400m_patch14_siglip_224.webli", True),
        ("vit_large_patch14_reg4_dinov2.lvd142m", "facebook/dinov2-with-registers-large", True),
        ("vit_large_patch14_reg4_dinov2.lvd142m", "/models/dinov2-with-registers-large", True),
        ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_large_patch14_reg4_dinov2.other", False),
        ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_large_patch14_dinov2.lvd142m", False),
        ("google/siglip-so400m-patch14-224", "google/siglip-so400m-patch14-384", False),
        ("vit_large_patch14_reg4_dinov2", "vit_large_patch14_reg4_dinov2.lvd142m+vit_b.webli", False),
        ("a.x@384+b.y@384", "a.x@384+b.y@384", True),
    ],
)
def test_names_of_one_encoder(asked, recorded, same):
    assert same_encoder(asked, recorded) is same
    assert same_encoder(recorded, asked) is same


def test_a_copied_preset_reads_the_same_and_can_be_edited(tmp_path):
    for name in ("fig4", "grid"):
        file = tmp_path / f"{name}.toml"
        file.write_text(load_preset(name).text)
        assert read_sweep(file) == sweep(name)
    file.write_text(load_preset("fig4").text.replace("run_seed = [42, 218, 7]", "run_seed = 42"))
    assert len(read_sweep(file)) == 120 - 2 * 10 * 2


def test_settings_and_single_fields_can_be_replaced():
    runs = read_sweep(load_preset("fig6"), "paper", {"run_seed": [1, 2], "lm": "my-lm"})
    assert len(runs) == 3 * 6 * 2
    assert {run.condition.learning_rate for run in runs} == {2e-5}
    assert {(run.lm, run.condition.run_seed) for run in runs} == {("my-lm", 1), ("my-lm", 2)}
    included = read_sweep(load_preset("grid"), "paper")
    assert {run.condition.supervise for run in included} == {"answer"}


def test_fields_that_vary_together(tmp_path):
    file = tmp_path / "sweep.toml"
    head = 'defaults = {lm = "x", ablation = [10, 100]}\n[[grid]]\n'
    file.write_text(head + "together = [{run_seed = 1, lm_seed = 3}, {run_seed = 2, lm_seed = 4}]")
    seeds = [(run.condition.ablation, run.condition.run_seed, run.condition.lm_seed) for run in read_sweep(file)]
    assert seeds == [(10, 1, 3), (10, 2, 4), (100, 1, 3), (100, 2, 4)]
    file.write_text(head + "together = [1, 2]")
    with pytest.raises(ConditionError, match="together: not a list of tables"):
        read_sweep(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'settings = "nix"\n[[grid]]\nlm = "x"',
            "there is no preset 'nix'; presets are fast, microworld, paper, release, curves",
        ),
        ('settings = "fig6"\n[[grid]]\nlm = "x"', "is a sweep, no settings"),
        ('include = ["paper"]', "is settings, no sweep"),
        ("[[grid]]\nablation = 100", "grid 1: lm: Field required"),
        ('[[grid]]\nlm = "x"\nencoder = "e"\nfeatures = "f"', "has features and encoder"),
        ("[[grid]]\nlm = 3", "grid 1: lm: not a text"),
        ('[probe]\nnegatives = "none"\nlm = "x"', r"\[probe\]: negatives: Input should be"),
        ("[probe]\n", r"\[probe\]: lm"),
    ],
)
def test_mistakes_in_sweep_files_name_the_place(tmp_path, text, message):
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    with pytest.raises(ConditionError, match=message):
        probe_table(file) or read_sweep(file)


def test_runs_are_selected_by_field_part_of_id_and_number(grid):
    def chosen(*only, limit=None):
        return choose_runs(grid, only, limit)

    assert len(chosen("lm=Qwen3-8B")) == 9
    assert len(chosen("lm=Qwen/Qwen3-0.6B", "shuffle=across", "ablation=10", "ablation_kind=random")) == 3
    assert len(chosen("run_seed=42", "run_seed=7")) == 2 * 441 // 3
    assert len(chosen("random42", "-s40-")) == 2
    assert chosen(limit=5) == grid[:5]
    some = grid[77]
    full_id = some.condition.run_id(some.encoder, some.lm, {"lm": "digest"})
    assert chosen(full_id) == [some]
    assert len(chosen("shared_initial_weights=true")) == 441
    with pytest.raises(ConditionError, match=r"no run fits --only ablation=11; use FIELD=VALUE or a part of a run id"):
        chosen("ablation=11")
