"""The question table: what is asked, withheld and true (paper section 2, Table 2)."""

import numpy as np
import pandas as pd
import pytest
from small_study import FAMILIES, write_dataset

from cachegen.common.errors import DatasetError
from cachegen.data.dataset import load_dataset
from engine.design.condition import Condition
from engine.design.questions import build_questions, count_questions, split_images

FAMILY = {leaf: family for family, leaves in FAMILIES.items() for leaf in leaves}
CONDITIONS = [
    Condition(shuffle=shuffle, ablation=ablation, data_seed=seed, across_rule=rule)
    for shuffle, rule in [("original", "paper"), ("across", "paper"), ("across", "disjoint"), ("within", "paper")]
    for ablation in (0, 50, 100)
    for seed in (0, 1)
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(write_dataset(tmp_path_factory.mktemp("questions")))


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_answers_follow_the_label_and_veridical_answers_the_image(dataset, condition):
    table = build_questions(dataset, condition)
    assert (table["question"] == np.arange(len(table))).all()
    for side, column in (("label_leaf", "answer"), ("image_leaf", "veridical")):
        true_leaf = table["category"] == table[side]
        true_hypernym = table["category"] == table[side].map(FAMILY)
        assert ((true_leaf | true_hypernym) == table[column]).all()
    assert (table["image_leaf"] == table["key"].str.split("/").str[0]).all()
    # One positive and one negative about the leaf, and about its one hypernym where that is asked.
    pairs = table.groupby(["image", "kind"])["answer"].agg(["size", "sum"])
    assert (pairs["size"] == 2).all()
    assert (pairs["sum"] == 1).all()


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_no_held_out_question_is_trained_on(dataset, condition):
    table = build_questions(dataset, condition)
    train = table[table["split"] == "train"]
    assert train["seen"].all()
    held_out = set(table.loc[~table["seen"], "label_leaf"])
    assert not held_out & set(train.loc[train["kind"] == "hypernym", "label_leaf"])
    assert set(train.loc[train["kind"] == "leaf", "label_leaf"]) == set(FAMILY)
    if condition.ablation == 100:
        assert not (train["kind"] == "hypernym").any()
        assert not table.loc[table["kind"] == "hypernym", "seen"].any()


def shrunk(root, **pictures):
    """A dataset of which some leaves keep so many pictures only."""
    write_dataset(root)
    for leaf, count in pictures.items():
        for path in sorted((root / "images" / leaf.replace("_", "-")).iterdir())[count:]:
            path.unlink()
    return load_dataset(root)


@pytest.mark.parametrize("ablation", [0, 50])
def test_a_leaf_without_training_questions_is_not_seen(tmp_path, ablation):
    """One picture goes to the test; a hypernym whose leaves all have one is not seen either, and its neighbours are."""
    dataset = shrunk(tmp_path, crow=1, kite=1, yo_yo=1)
    table = build_questions(dataset, Condition(ablation=ablation))
    trained = set(table.loc[table["split"] == "train", "label_leaf"])
    lonely = table["label_leaf"].isin(["crow", "kite", "yo-yo"])
    assert trained == set(FAMILY) - {"crow", "kite", "yo-yo"}
    assert lonely.sum() == 3 * 4
    assert not table.loc[lonely, "seen"].any()
    assert table.loc[~lonely & (table["kind"] == "leaf"), "seen"].all()
    # Whatever is seen has a training question that says yes about the same leaf and category.
    asked = table[table["seen"] & table["answer"] & (table["split"] != "train")]
    pairs = table.loc[table["answer"] & (table["split"] == "train"), ["label_leaf", "category"]]
    assert len(asked) > 0
    assert set(zip(asked["label_leaf"], asked["category"], strict=True)) <= set(
        pairs.itertuples(index=False, name=None)
    )


def test_a_leaf_whose_training_images_are_unreadable_is_not_seen(dataset):
    plain = build_questions(dataset, Condition(ablation=0))
    lost = plain.loc[(plain["label_leaf"] == "owl") & (plain["split"] == "train"), "image"].unique()
    table = build_questions(dataset, Condition(ablation=0), lost)
    assert not table.loc[table["label_leaf"] == "owl", "seen"].any()
    others = table["label_leaf"] != "owl"
    assert table.loc[others, "seen"].all()


def test_a_shuffle_gives_a_label_the_training_images_of_another_folder(tmp_path):
    """Seen is what a label was trained on: here a lonely picture's label is trained by others, and another is not."""
    dataset = shrunk(tmp_path, crow=1)
    table = build_questions(dataset, Condition(ablation=0, shuffle="across"))
    untrained = set(FAMILY) - set(table.loc[table["split"] == "train", "label_leaf"])
    assert untrained == set(table.loc[table["image_leaf"] == "crow", "label_leaf"])
    assert set(table.loc[~table["seen"], "label_leaf"]) == untrained != {"crow"}


def test_same_seeds_same_table(dataset):
    for condition in CONDITIONS:
        pd.testing.assert_frame_equal(build_questions(dataset, condition), build_questions(dataset, condition))
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(
            build_questions(dataset, CONDITIONS[0]), build_questions(dataset, Condition(ablation=0, data_seed=1))
        )


def test_splits_are_70_5_25_per_folder_and_ignore_the_condition(dataset):
    counts = pd.crosstab(dataset.images["leaf"], split_images(dataset, 3))
    assert (counts[["train", "validation", "test"]] == [5, 1, 2]).all(axis=None)  # int(5.6), int(6.0) - 5, rest
    splits = [build_questions(dataset, c).groupby("image")["split"].first() for c in CONDITIONS if c.data_seed == 0]
    for other in splits[1:]:
        pd.testing.assert_series_equal(splits[0], other)


def test_conditions_share_every_negative_that_both_maps_allow(dataset):
    base = build_questions(dataset, Condition(ablation=0))
    for shuffle in ("across", "within"):
        other = build_questions(dataset, Condition(ablation=0, shuffle=shuffle))
        for kind in ("leaf", "hypernym"):
            a, b = (t[(t["kind"] == kind) & ~t["answer"]].set_index("image") for t in (base, other))
            true_here = {leaf: {leaf, FAMILY[leaf]} for leaf in FAMILY}
            allowed = [
                mine not in true_here[label_b] and theirs not in true_here[label_a]
                for mine, theirs, label_a, label_b in zip(
                    a["category"], b["category"], a["label_leaf"], b["label_leaf"], strict=True
                )
            ]
            assert sum(allowed) > 50
            # Equal where neither map forbids the other's draw; a forbidden earlier draw can part the rest.
            assert (a["category"] == b["category"])[allowed].mean() > 0.95


def test_negatives_are_uniform_over_what_is_false(dataset):
    tables = [build_questions(dataset, Condition(data_seed=seed)) for seed in range(30)]
    table = pd.concat(tables)
    drawn = table[(table["kind"] == "leaf") & ~table["answer"] & (table["label_leaf"] == "crow")]["category"]
    counts = drawn.value_counts()
    assert len(counts) == len(FAMILY) - 1
    expected = len(drawn) / (len(FAMILY) - 1)
    assert ((counts - expected) ** 2 / expected).sum() < 40  # chi-square with 10 degrees of freedom, p < 2e-5


def test_equal_phrases_are_never_each_others_negative(tmp_path):
    """Two leaves 'a baton', and a leaf that is named like the hypernym of another."""
    root = write_dataset(
        tmp_path,
        {"weapon": ["baton2", "sword"], "gear": ["baton3", "rope"], "toy": ["bird", "top"], "bird": ["crow", "owl"]},
        images=20,
    )
    text = (root / "taxonomy.csv").read_text().replace("a baton2", "a baton").replace("a baton3", "a baton")
    (root / "taxonomy.csv").write_text(text)
    table = build_questions(load_dataset(root), Condition(ablation=0))
    negatives = table[~table["answer"]]
    assert not ((negatives["phrase"] == "a baton") & negatives["label_leaf"].str.startswith("baton")).any()
    assert not ((negatives["phrase"] == "a bird") & negatives["label_leaf"].isin(["crow", "owl", "bird"])).any()
    assert (negatives["phrase"] == "a bird").any()


def test_a_question_without_a_possible_negative_is_an_error(tmp_path):
    root = write_dataset(tmp_path, {"bird": ["crow", "owl"]})
    with pytest.raises(DatasetError, match="no hypernym is false of image"):
        build_questions(load_dataset(root), Condition())


def test_unreadable_images_are_left_out_and_move_nothing_else(dataset):
    whole, without = build_questions(dataset, Condition()), build_questions(dataset, Condition(), unreadable=[5, 90])
    expected = whole[~whole["image"].isin([5, 90])].drop(columns="question").reset_index(drop=True)
    pd.testing.assert_frame_equal(without.drop(columns="question"), expected)


def test_counts_like_table_2(dataset):
    counts = count_questions(build_questions(dataset, Condition(ablation=100)))
    assert counts == {
        "train": 12 * 5 * 2,
        "validation": {"leaf": 12 * 2, "seen": 0, "unseen": 12 * 2},
        "test": {"leaf": 12 * 2 * 2, "seen": 0, "unseen": 12 * 2 * 2},
    }
    half = count_questions(build_questions(dataset, Condition(ablation=50)))
    assert half["test"]["seen"] + half["test"]["unseen"] == 48
    assert half["train"] == 120 + 5 * half["test"]["seen"] // 2


def test_mapping_scope_withholds_single_questions(tmp_path):
    """Leaves under two hypernyms: some of a leaf's hypernym questions are trained on, others are held out."""
    root = write_dataset(tmp_path, {"animal": ["crow", "owl", "cow", "dog"], "tool": ["axe", "saw"]})
    with (root / "taxonomy.csv").open("a") as file:
        file.writelines(f"{leaf},a {leaf},singular,pet,a pet\n".replace("a owl", "an owl") for leaf in ("owl", "dog"))
    dataset = load_dataset(root)
    by_scope = {
        scope: build_questions(dataset, Condition(ablation_kind="systematic", ablation=1, scope=scope, data_seed=seed))
        for seed in [next(s for s in range(9) if _removed(dataset, s) == "pet")]
        for scope in ("leaf", "mapping")
    }
    for scope, table in by_scope.items():
        test = table[(table["split"] == "test") & (table["kind"] == "hypernym")]
        train = table[(table["split"] == "train") & (table["kind"] == "hypernym")]
        positives = test[test["answer"]]
        both = positives[positives["label_leaf"] == "dog"].groupby("category")["seen"].all()
        assert not both["pet"]
        assert both["animal"] == (scope == "mapping")
        assert ("dog" in set(train["label_leaf"])) == (scope == "mapping")
        assert not (train["answer"] & (train["category"] == "pet")).any()
        assert (table["removed"] == (table["category"] == "pet")).all()


def _removed(dataset, seed):
    table = build_questions(dataset, Condition(ablation_kind="systematic", ablation=1, data_seed=seed))
    return table.loc[table["removed"], "category"].iloc[0]


def test_a_removed_hypernym_is_a_negative_in_training_only_if_asked_for(dataset):
    keep, never = (
        build_questions(dataset, Condition(ablation_kind="systematic", ablation=2, removed_as_negative=how))
        for how in ("keep", "never")
    )
    assert keep.loc[keep["split"] == "train", "removed"].any()
    assert not never.loc[never["split"] == "train", "removed"].any()
    assert (never["split"] == "train").sum() == (keep["split"] == "train").sum()
    # What is asked in evaluation is the same, to the question.
    rest = [table[table["split"] != "train"].drop(columns="question").reset_index(drop=True) for table in (keep, never)]
    pd.testing.assert_frame_equal(*rest)
    assert rest[0]["removed"].any()
    with pytest.raises(DatasetError, match="keep removed hypernyms as negatives"):
        build_questions(dataset, Condition(ablation_kind="systematic", ablation=3, removed_as_negative="never"))


def test_homonyms_are_dropped_with_their_images(tmp_path):
    root = write_dataset(tmp_path, {"bird": ["crow", "owl", "toy"], "toy": ["top", "kite"], "tool": ["saw", "axe"]})
    dataset = load_dataset(root)
    assert dataset.homonyms == {"toy"}
    keep, drop = (build_questions(dataset, Condition(ablation=0, homonyms=how)) for how in ("keep", "drop"))
    leaf_phrases = {name: set(t.loc[t["kind"] == "leaf", "phrase"]) for name, t in (("keep", keep), ("drop", drop))}
    assert "a toy" in leaf_phrases["keep"]
    assert "a toy" not in leaf_phrases["drop"]
    assert "toy" not in set(drop["image_leaf"])
    assert "toy" in set(drop.loc[drop["kind"] == "hypernym", "category"])


def test_a_partial_shuffle_labels_the_other_leaves_as_they_are(dataset):
    half = build_questions(dataset, Condition(shuffle="across", across_rule="disjoint", shuffled=50, ablation=0))
    moved = half.loc[half["image_leaf"] != half["label_leaf"], "label_leaf"].unique()
    assert len(moved) == 6
    other = half[~half["label_leaf"].isin(moved)]
    assert (other["answer"] == other["veridical"]).all()
    again = build_questions(
        dataset, Condition(shuffle="across", across_rule="disjoint", shuffled=50, permutation=1, ablation=0)
    )
    assert (again["label_leaf"].to_numpy() != half["label_leaf"].to_numpy()).any()
