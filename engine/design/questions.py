"""The question table of a run (paper section 2): which image is asked what, in which split, and the answers.

Each image gets one positive and one negative question about its label leaf, and one of each for every
hypernym of that leaf. Under a shuffle everything follows the label leaf; the split stays with the image
folder. Negatives come from condition-independent draws, so that two conditions of one data seed share every
negative that is allowed in both.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cachegen.common.errors import DatasetError
from cachegen.common.rng import generator
from cachegen.data.dataset import SPLITS, Dataset
from cachegen.data.splits import draw_split
from engine.design.ablation import withhold
from engine.design.condition import Condition
from engine.design.shuffle import shuffle_map
from engine.design.swap import sample_swap


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

    @property
    def members(self) -> np.ndarray:
        """(L, H) bool: which leaf is of which hypernym."""
        return np.array([[name in own for name in self.hypernyms] for own in self.own], dtype=bool)

    def leaf_numbers(self, names: pd.Series) -> np.ndarray:
        """Number of each named leaf."""
        return pd.Index(self.leaves).get_indexer(pd.Index(names))

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
        split[rows] = draw_split(len(rows), generator(data_seed, "split", str(leaf)))
    return split


def spoken(dataset: Dataset, condition: Condition, split: str) -> tuple[Dataset, Condition]:
    """Dataset and condition with the phrases and the wording of a split's questions, training in one language, all
    others perhaps in another; "" is that of the taxonomy and of the condition's own wording.

    `languages/XX.csv` says how a language names categories and words a question and its answers. Raises `DatasetError`
    if the dataset lacks it.
    """
    language = condition.train_language if split == "train" else condition.test_language
    if not language:
        return dataset, condition
    return dataset.spoken(language), condition.model_copy(update=dict(dataset.languages[language].wording))


def question_text(condition: Condition, phrase: str, number: str) -> str:
    """The question in words, for example "Are there scissors in this image?"."""
    form = condition.question_singular if number == "singular" else condition.question_plural
    return form.replace("{phrase}", phrase)


@dataclass(frozen=True)
class Asked:
    """What of a dataset a condition asks about.

    `kept` (L,): leaves whose images and names are in the study; `members` (L, H): the hypernyms that a leaf's images
    are asked about; `columns` (L + H,): categories that questions may name; `image_of_label` (L,): the label map.
    """

    kept: np.ndarray
    members: np.ndarray
    columns: np.ndarray
    image_of_label: np.ndarray


def select(
    dataset: Dataset, known: Categories, condition: Condition, split: np.ndarray, pooled: np.ndarray | None
) -> Asked:
    """Leaves, hypernyms and label map of a condition.

    `pooled` (N, V): pooled features of every image, needed only where the hypernym swap chooses by coherence.
    """
    members = known.members
    kept = np.ones(len(known.leaves), dtype=bool)
    if condition.homonyms == "drop":
        kept &= ~np.isin(known.leaves, sorted(dataset.homonyms))
    members = members & kept[:, None]
    asked = members.any(axis=0)
    if condition.subset == "swap":
        leaf_of_image = known.leaf_numbers(dataset.images["leaf"])
        train = (split == "train") & kept[leaf_of_image]
        sample = sample_swap(
            condition, members, known.hypernyms, leaf_of_image[train], None if pooled is None else pooled[train]
        )
        sampled = np.zeros_like(kept)
        sampled[np.concatenate(list(sample.leaves.values()))] = True
        kept &= sampled
        asked = np.isin(np.arange(len(known.hypernyms)), list(sample.leaves))
        members = members & kept[:, None] & asked
        if condition.shuffle == "swap":
            return Asked(kept, members, np.concatenate([kept, asked]), sample.image_of_label(len(kept)))
    image_of_label = np.arange(len(kept))
    places = np.flatnonzero(kept)
    names = ["shuffle", condition.shuffle, *([condition.permutation] if condition.permutation else [])]
    rule = condition.across_rule if condition.shuffle == "across" else condition.within_rule
    image_of_label[places] = places[
        shuffle_map(
            condition.shuffle,
            rule,
            [known.own[leaf] for leaf in places],
            generator(condition.data_seed, *names),
            condition.shuffled,
        )
    ]
    return Asked(kept, members, np.concatenate([kept, asked]), image_of_label)


def build_questions(
    dataset: Dataset, condition: Condition, unreadable: Collection[int] = (), pooled: np.ndarray | None = None
) -> pd.DataFrame:
    """Question table of one run, one row per (image, question), without `unreadable` images.

    Columns: question, image, key, image_leaf, label_leaf, kind (leaf or hypernym), category (id asked about), phrase,
    number, split, seen, answer (under the shuffle), veridical (about the image's own leaf), removed (the category is
    a hypernym that a systematic ablation removed).

    Training rows are those that are trained on, of the task `name` those answered yes only. Withheld hypernym questions
    of training images are absent, those of validation and test images are there with `seen` False. So are all questions
    of a label leaf without a training image: nothing was trained about it. `pooled` (N, V), pooled features of all
    images, are read only where `swap_rule = "coherence"` needs them.
    """
    known = tested = Categories.of(spoken(dataset, condition, "train")[0])
    if condition.test_language != condition.train_language:
        tested = Categories.of(spoken(dataset, condition, "test")[0])
        known = replace(known, truth=known.truth | tested.truth)  # a negative is true in the words of neither
    split = split_images(dataset, condition.data_seed)
    asked = select(dataset, known, condition, split, pooled)
    withheld = withhold(condition, asked.members, known.hypernyms)
    image_leaf = known.leaf_numbers(dataset.images["leaf"])
    # image_of_label (L,) is a permutation, label -> the leaf whose images it takes; argsort inverts it, so that
    # label_leaf (N,) is the label that each image carries.
    label_leaf = np.argsort(asked.image_of_label)[image_leaf]
    train = split == "train"

    n_leaves = len(known.leaves)
    # (L, L + H) over leaves, then hypernyms: what is no negative of a label, since it is true of it or not asked about.
    forbidden = known.truth | ~asked.columns
    untrained = forbidden.copy()
    if condition.removed_as_negative == "never":
        untrained[:, n_leaves:] |= withheld.removed
    draw = _Negatives(condition.data_seed, forbidden, untrained, label_leaf, train)

    images = np.flatnonzero(asked.kept[image_leaf])
    trained_on = images[train[images] & ~np.isin(images, np.fromiter(unreadable, dtype=np.int64))]
    met = np.isin(np.arange(n_leaves), label_leaf[trained_on])  # leaves with a training question
    parts = [_rows(images, 0, label_leaf[images], draw("leaf", images, (0, n_leaves)), met[label_leaf[images]])]
    own = [n_leaves + np.flatnonzero(row) for row in asked.members]
    # A slot is the n-th hypernym of every label that has so many: each slot draws its negatives from a stream of its
    # own, so that a label with more hypernyms moves no draw of the others.
    for slot in range(max(map(len, own))):
        having = images[[len(own[label]) > slot for label in label_leaf[images]]]
        positive = np.array([own[label][slot] for label in label_leaf[having]], dtype=int)
        seen = ~withheld.mappings[label_leaf[having], positive - n_leaves]
        trained = seen | ~train[having]  # withheld questions of training images are not asked at all
        having, positive, seen = having[trained], positive[trained], (seen & met[label_leaf[having]])[trained]
        negative = draw(f"hypernym {slot}", having, (n_leaves, len(known.phrases)))
        parts.append(_rows(having, slot + 1, positive, negative, seen))
    table = pd.concat(parts).sort_values(["image", "slot", "answer"], ascending=[True, True, False], kind="stable")

    image, column = table["image"].to_numpy(), table["column"].to_numpy()
    categories = np.array([*known.leaves, *known.hypernyms], dtype=object)
    leaf_names = np.array(known.leaves, dtype=object)
    questions = pd.DataFrame(
        {
            "image": image.astype(np.int32),
            "key": dataset.images["key"].to_numpy()[image],
            "image_leaf": leaf_names[image_leaf[image]],
            "label_leaf": leaf_names[label_leaf[image]],
            "kind": np.where(column < n_leaves, "leaf", "hypernym"),
            "category": categories[column],
            "phrase": np.where(train[image], known.phrases[column], tested.phrases[column]),
            "number": np.where(train[image], known.numbers[column], tested.numbers[column]),
            "split": split[image],
            "seen": table["seen"].to_numpy(),
            "answer": table["answer"].to_numpy(),
            "veridical": known.truth[image_leaf[image], column],
            "removed": np.concatenate([np.zeros(n_leaves, dtype=bool), withheld.removed])[column],
        }
    )
    left_out = questions["image"].isin(unreadable)
    if condition.task == "name":
        left_out |= (questions["split"] == "train") & ~questions["answer"]
    kept = questions[~left_out].reset_index(drop=True)
    kept.insert(0, "question", np.arange(len(kept), dtype=np.int32))
    return kept


def _rows(image: np.ndarray, slot: int, positive: np.ndarray, negative: np.ndarray, seen: np.ndarray) -> pd.DataFrame:
    both = np.concatenate([positive, negative])
    answer = np.repeat([True, False], len(image))
    return pd.DataFrame(
        {"image": np.tile(image, 2), "slot": slot, "column": both, "answer": answer, "seen": np.tile(seen, 2)}
    )


@dataclass(frozen=True)
class _Negatives:
    """Draws one category per image, uniform over those allowed.

    `forbidden`, `untrained` (L, C): categories that may not be negatives of a label leaf, in evaluation and in
    training. Round after round a candidate is drawn for *every* image of the dataset, and images without a negative
    take theirs if it is allowed: the draws know nothing of the condition.
    """

    seed: int
    forbidden: np.ndarray
    untrained: np.ndarray
    label_leaf: np.ndarray
    train: np.ndarray

    def __call__(self, stream: str, images: np.ndarray, span: tuple[int, int]) -> np.ndarray:
        chosen = np.full(len(self.label_leaf), -1)
        waiting = images
        self._check(images, span)
        round_number = 0
        while len(waiting):
            drawn = generator(self.seed, "negatives", stream, round_number).integers(*span, size=len(chosen))
            allowed = ~self._forbids(waiting, drawn[waiting])
            chosen[waiting[allowed]] = drawn[waiting[allowed]]
            waiting = waiting[~allowed]
            round_number += 1
        return chosen[images]

    def _forbids(self, images: np.ndarray, columns: np.ndarray) -> np.ndarray:
        label = self.label_leaf[images]
        return np.where(self.train[images], self.untrained[label, columns], self.forbidden[label, columns])

    def _check(self, images: np.ndarray, span: tuple[int, int]) -> None:
        columns = np.arange(*span)
        nothing_left = np.stack([table[:, columns].all(axis=1) for table in (self.forbidden, self.untrained)])
        hopeless: np.ndarray = nothing_left[self.train[images].astype(int), self.label_leaf[images]]
        if hopeless.any():
            kind = "leaf" if span[0] == 0 else "hypernym"
            raise DatasetError(
                f"no {kind} is false of image {images[hopeless.argmax()]}: a negative question needs a second {kind}; "
                "add one to the taxonomy, or keep removed hypernyms as negatives"
            )


def count_questions(questions: pd.DataFrame) -> dict[str, object]:
    """Numbers of questions as in Tables 2 and 3: training in all, leaf / seen / unseen of the other splits."""
    kind = np.where(questions["kind"] == "leaf", "leaf", np.where(questions["seen"], "seen", "unseen"))
    counts = questions.groupby([questions["split"], kind]).size()
    held_out = {s: {k: int(counts.get((s, k), 0)) for k in ("leaf", "seen", "unseen")} for s in SPLITS[1:]}
    return {"train": int((questions["split"] == "train").sum()), **held_out}
