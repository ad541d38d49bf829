"""The question table of a run (paper section 2): which image is asked what, in which split, and the answers.

Each image gets one positive and one negative question about its label leaf, and one of each for every
hypernym of that leaf. Under a shuffle everything follows the label leaf; the split stays with the image
folder. Negatives come from condition-independent draws, so that two conditions of one data seed share every
negative that is allowed in both.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cachegen.dataset import SPLITS, Dataset
from cachegen.errors import DatasetError
from cachegen.rng import generator
from engine.ablation import ablated_leaves
from engine.condition import Condition
from engine.shuffle import shuffle_map


@dataclass(frozen=True)
class Categories:
    """All that can be asked about, as arrays: L leaves, then H hypernyms, in one list of L + H categories.

    `truth[l, c]` is True where category c may truthfully be asked of a picture of leaf l, and also where its
    phrase reads the same as one that may ("a baton" of another folder), so that no negative is true in words.
    """

    leaves: list[str]
    hypernyms: list[str]
    phrases: np.ndarray
    numbers: np.ndarray
    own: list[frozenset[str]]
    truth: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset) -> "Categories":
        leaves, hypernyms = list(dataset.leaves.index), list(dataset.hypernyms.index)
        phrases = np.array([*dataset.leaves["phrase"], *dataset.hypernyms["phrase"]], dtype=object)
        members = dataset.pairs.groupby("leaf")["hypernym"].agg(frozenset)
        own = [members[leaf] for leaf in leaves]
        mentions = np.zeros((len(leaves), len(phrases)), dtype=bool)
        mentions[np.arange(len(leaves)), np.arange(len(leaves))] = True
        for column, hypernym in enumerate(hypernyms, len(leaves)):
            mentions[:, column] = [hypernym in names for names in own]
        codes = pd.factorize(phrases)[0]
        by_phrase = np.zeros((len(leaves), codes.max() + 1), dtype=bool)
        for column, code in enumerate(codes):
            by_phrase[:, code] |= mentions[:, column]
        numbers = np.array([*dataset.leaves["number"], *dataset.hypernyms["number"]], dtype=object)
        return cls(leaves, hypernyms, phrases, numbers, own, by_phrase[:, codes])


def split_images(dataset: Dataset, data_seed: int) -> np.ndarray:
    """Split name of every image: 70/5/25 per folder as int(.7n), int(.75n), after a seeded shuffle of its sorted files.

    A dataset that brings its own `split.csv` keeps it, whatever the seed.
    """
    if "split" in dataset.images:
        return dataset.images["split"].to_numpy(dtype=object)
    split = np.empty(len(dataset.images), dtype=object)
    for leaf, rows in dataset.images.groupby("leaf").indices.items():
        order = generator(data_seed, "split", str(leaf)).permutation(rows)
        ends = [int(0.7 * len(rows)), int(0.75 * len(rows))]
        for name, part in zip(SPLITS, np.split(order, ends), strict=True):
            split[part] = name
    return split


def build_questions(dataset: Dataset, condition: Condition, unreadable: Collection[int] = ()) -> pd.DataFrame:
    """Question table of one run, one row per (image, question), without `unreadable` images.

    Columns: question, image, key, image_leaf, label_leaf, kind (leaf or hypernym), category (id asked about), phrase,
    number, split, seen, answer (under the shuffle), veridical (about the image's own leaf).

    Training rows are those that are trained on; withheld hypernym questions of training images are absent,
    those of validation and test images are there with `seen` False.
    """
    known = Categories.of(dataset)
    rng = generator(condition.data_seed, "shuffle", condition.shuffle)
    rule = condition.across_rule if condition.shuffle == "across" else condition.within_rule
    image_of_label = shuffle_map(condition.shuffle, rule, known.own, rng)
    label_of_image = np.argsort(image_of_label)

    leaf_number = {leaf: number for number, leaf in enumerate(known.leaves)}
    image_leaf = dataset.images["leaf"].map(leaf_number).to_numpy()
    label_leaf = label_of_image[image_leaf]

    n_leaves = len(known.leaves)
    hypernym_number = {name: n_leaves + number for number, name in enumerate(known.hypernyms)}
    own_columns = [sorted(hypernym_number[name] for name in names) for names in known.own]
    slots = max(map(len, own_columns))

    images = np.arange(len(label_leaf))
    leaf_negative = _negatives(condition.data_seed, "leaf", known.truth, label_leaf, images, (0, n_leaves))
    parts = [_rows(images, 0, label_leaf, leaf_negative)]
    for slot in range(slots):
        having = images[[len(own_columns[label]) > slot for label in label_leaf]]
        asked = np.array([own_columns[label][slot] for label in label_leaf[having]], dtype=int)
        span = (n_leaves, len(known.phrases))
        negative = _negatives(condition.data_seed, f"hypernym {slot}", known.truth, label_leaf, having, span)
        parts.append(_rows(having, slot + 1, asked, negative))
    table = pd.concat(parts).sort_values(["image", "slot", "answer"], ascending=[True, True, False], kind="stable")

    image, column = table["image"].to_numpy(), table["column"].to_numpy()
    withheld = ablated_leaves(condition.ablation, known.own, condition.data_seed)
    is_leaf = column < n_leaves
    categories = np.array([*known.leaves, *known.hypernyms], dtype=object)
    leaf_names = np.array(known.leaves, dtype=object)
    questions = pd.DataFrame(
        {
            "image": image.astype(np.int32),
            "key": dataset.images["key"].to_numpy()[image],
            "image_leaf": leaf_names[image_leaf[image]],
            "label_leaf": leaf_names[label_leaf[image]],
            "kind": np.where(is_leaf, "leaf", "hypernym"),
            "category": categories[column],
            "phrase": known.phrases[column],
            "number": known.numbers[column],
            "split": split_images(dataset, condition.data_seed)[image],
            "seen": is_leaf | ~withheld[label_leaf[image]],
            "answer": table["answer"].to_numpy(),
            "veridical": known.truth[image_leaf[image], column],
        }
    )
    withheld_here = (questions["split"] == "train") & ~questions["seen"]
    kept = questions[~withheld_here & ~questions["image"].isin(unreadable)].reset_index(drop=True)
    kept.insert(0, "question", np.arange(len(kept), dtype=np.int32))
    return kept


def _rows(image: np.ndarray, slot: int, positive: np.ndarray, negative: np.ndarray) -> pd.DataFrame:
    both = np.concatenate([positive, negative])
    answer = np.repeat([True, False], len(image))
    return pd.DataFrame({"image": np.tile(image, 2), "slot": slot, "column": both, "answer": answer})


def _negatives(
    seed: int, stream: str, truth: np.ndarray, label_leaf: np.ndarray, images: np.ndarray, span: tuple[int, int]
) -> np.ndarray:
    """One category of `span` per image, uniform over those not true of its label leaf.

    Round after round draws a candidate for *every* image of the dataset, and images without a negative take
    theirs if it is allowed: the draws know nothing of the condition.
    """
    chosen = np.full(len(label_leaf), -1)
    waiting = images
    hopeless = truth[label_leaf[images], span[0] : span[1]].all(axis=1)
    if hopeless.any():
        kind = "leaf" if span[0] == 0 else "hypernym"
        raise DatasetError(
            f"no {kind} is false of image {images[hopeless.argmax()]}: a negative question needs a second {kind}; "
            "add one to the taxonomy"
        )
    round_number = 0
    while len(waiting):
        candidates = generator(seed, "negatives", stream, round_number).integers(*span, size=len(label_leaf))
        allowed = ~truth[label_leaf[waiting], candidates[waiting]]
        chosen[waiting[allowed]] = candidates[waiting[allowed]]
        waiting = waiting[~allowed]
        round_number += 1
    return chosen[images]


def count_questions(questions: pd.DataFrame) -> dict[str, object]:
    """Numbers of questions as in Tables 2 and 3: training in all, leaf / seen / unseen of the other splits."""
    kind = np.where(questions["kind"] == "leaf", "leaf", np.where(questions["seen"], "seen", "unseen"))
    counts = questions.groupby([questions["split"], kind]).size()
    held_out = {s: {k: int(counts.get((s, k), 0)) for k in ("leaf", "seen", "unseen")} for s in SPLITS[1:]}
    return {"train": int((questions["split"] == "train").sum()), **held_out}
