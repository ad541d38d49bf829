"""The text that carries the taxonomy: scenes with questions, and plain statements. No images, no colours, no shapes.

A scene is a leaf talked about in 1 to 16 words ("feathered loyal today crow breathing"), followed by questions about
it ("is there a crow" yes, "is there a tree" no). Each question sees the scene and itself, never another question.
A statement says "a crow is a bird", "a bird is an animal", "a bird is winged and beaked", "a crow is loyal and wise".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cachegen.microworld.lexicon import FILLER, Lexicon
from cachegen.microworld.recipe import CorpusRecipe

END = "<eos>"
STATEMENT_TOKENS = 6


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes of n words with Q questions of 4 words each; arrays of vocabulary ids."""

    words: np.ndarray  # (B, n)
    questions: np.ndarray  # (B, Q, 4) ending in the category asked about
    answers: np.ndarray  # (B, Q) id of "yes" or "no"
    about_hypernym: np.ndarray  # (B, Q) bool
    leaf: np.ndarray  # (B,) number of the leaf that is talked about


class Corpus:
    """Draws scenes and statements of one lexicon as vocabulary ids. L leaves, H hypernyms, W words of a category."""

    def __init__(self, lexicon: Lexicon, recipe: CorpusRecipe, vocabulary: dict[str, int]) -> None:
        self.recipe = recipe
        self.vocabulary = vocabulary
        families = lexicon.families
        self._family = np.array([families.index(leaf.family) for leaf in lexicon.leaves])  # families come first in H
        self._above = np.array([[leaf.name in h.leaves for h in lexicon.hypernyms] for leaf in lexicon.leaves])  # (L,H)
        inside = [
            (i, j)
            for i, inner in enumerate(lexicon.hypernyms)
            for j, outer in enumerate(lexicon.hypernyms)
            if inner.leaves < outer.leaves
        ]
        self._inside = np.array(inside).reshape(-1, 2)  # (n, 2) hypernyms, the first inside the second
        self._leaf_name = self._ids([leaf.name for leaf in lexicon.leaves])
        self._leaf_words = np.stack([self._ids(leaf.words) for leaf in lexicon.leaves])  # (L, W)
        self._hypernym_words = np.stack([self._ids(hypernym.words) for hypernym in lexicon.hypernyms])  # (H, W)
        self._filler = self._ids(FILLER)
        self._leaf_question = np.stack([self._ids(f"is there {leaf.phrase}".split()) for leaf in lexicon.leaves])
        self._hypernym_question = np.stack([self._ids(f"is there {h.phrase}".split()) for h in lexicon.hypernyms])

    def _ids(self, words: list[str] | tuple[str, ...]) -> np.ndarray:
        return np.array([self.vocabulary[word] for word in words])

    def scenes(self, count: int, length: int, rng: np.random.Generator) -> Scenes:
        """Return `count` scenes of `length` words; half of the questions of each kind are true."""
        leaf = rng.integers(len(self._leaf_name), size=count)
        itself = np.eye(len(self._leaf_name), dtype=bool)
        kinds = [(itself, self._leaf_question)] * self.recipe.leaf_questions
        kinds += [(self._above, self._hypernym_question)] * self.recipe.hypernym_questions
        questions, answers = [], []
        for truth, question in kinds:
            answer = rng.random(count) < 0.5
            asked = draw(truth[leaf] == answer[:, None], rng)
            questions.append(question[asked])
            answers.append(answer)
        truths = np.stack(answers, axis=1)
        about_hypernym = np.arange(len(kinds)) >= self.recipe.leaf_questions
        return Scenes(
            words=self._words(leaf, length, rng),
            questions=np.stack(questions, axis=1),
            answers=np.where(truths, self.vocabulary["yes"], self.vocabulary["no"]),
            about_hypernym=np.broadcast_to(about_hypernym, truths.shape),
            leaf=leaf,
        )

    def _words(self, leaf: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
        """(B, n) words about each leaf; every scene has its own mixture of the four kinds of word."""
        count, shape = len(leaf), (len(leaf), length)
        mixture = rng.dirichlet(self.recipe.concentration * np.array(self.recipe.shares), size=count)
        kind = (rng.random(shape)[..., None] > np.cumsum(mixture, axis=1)[:, None, :-1]).sum(axis=-1)
        row = leaf[:, None]
        weights = self._above.astype(float)
        weights[np.arange(len(weights)), self._family] = self.recipe.family_weight
        hypernym = draw(np.repeat(weights[leaf], length, axis=0), rng).reshape(shape)
        told = self._hypernym_words[hypernym, rng.integers(self._hypernym_words.shape[1], size=shape)]
        choices = (
            np.broadcast_to(self._leaf_name[row], shape),
            self._leaf_words[row, rng.integers(self._leaf_words.shape[1], size=shape)],
            told,
            self._filler[rng.integers(len(self._filler), size=shape)],
        )
        return np.choose(kind, choices)

    def family_words_only(self, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For every ordered pair of sibling leaves, (n, length) words of their family and (n, 1, 4) a leaf question."""
        count = len(self._family)
        told, asked = np.nonzero((self._family[:, None] == self._family) & ~np.eye(count, dtype=bool))
        choice = rng.integers(self._hypernym_words.shape[1], size=(len(told), length))
        return self._hypernym_words[self._family[told][:, None], choice], self._leaf_question[asked][:, None]

    def statements(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 6) ids: in turn taxonomy ("a crow is a bird <eos>", "a bird is an animal <eos>") and properties.

        The forms are equally frequent; without hypernym words the properties of hypernyms are not told.
        """
        leaf = rng.integers(len(self._leaf_name), size=count)
        hypernym = draw(self._above[leaf], rng)
        is_, and_ = (np.full(count, self.vocabulary[word]) for word in ("is", "and"))
        leaf_phrase, hypernym_phrase = self._leaf_question[leaf][:, 2:], self._hypernym_question[hypernym][:, 2:]
        leaf_pair, hypernym_pair = _pairs(self._leaf_words[leaf], rng), _pairs(self._hypernym_words[hypernym], rng)
        forms = [
            self._taxonomic(leaf_phrase, hypernym_phrase),
            np.column_stack([leaf_phrase, is_, leaf_pair[:, 0], and_, leaf_pair[:, 1]]),
        ]
        if len(self._inside):
            inner, outer = self._inside[rng.integers(len(self._inside), size=count)].T
            forms.append(self._taxonomic(self._hypernym_question[inner][:, 2:], self._hypernym_question[outer][:, 2:]))
        if self.recipe.hypernym_words:
            forms.append(np.column_stack([hypernym_phrase, is_, hypernym_pair[:, 0], and_, hypernym_pair[:, 1]]))
        return np.stack(forms)[rng.integers(len(forms), size=count), np.arange(count)]

    def taxonomy_statements(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, 6) "a crow is a bird <eos>" for every leaf and hypernym of it, and (n, V) bool: words true at its end."""
        leaf, hypernym = np.nonzero(self._above)
        true = np.zeros((len(leaf), max(self.vocabulary.values()) + 1), dtype=bool)
        names = self._hypernym_question[:, -1]
        true[:, names] = self._above[leaf]
        return self._taxonomic(self._leaf_question[leaf][:, 2:], self._hypernym_question[hypernym][:, 2:]), true

    def _taxonomic(self, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
        """(n, 6) "<inner> is <outer> <eos>" from two (n, 2) phrases."""
        is_, end = (np.full(len(inner), self.vocabulary[word]) for word in ("is", END))
        return np.column_stack([inner, is_, outer, end])

    def sample(self, spell: Callable[[list[int]], list[str]], rng: np.random.Generator) -> str:
        """A few scenes and statements as readable lines; `spell` turns ids into words."""
        lines = ["Scenes: words, then independent questions with their answers.", ""]
        for length in (1, 2, 4, 8, 12, 16):
            scenes = self.scenes(2, length, rng)
            for words, questions, answers in zip(scenes.words, scenes.questions, scenes.answers, strict=True):
                lines.append(" ".join(spell(words.tolist())))
                for question, answer in zip(questions, answers, strict=True):
                    lines.append("    " + " ".join(spell([*question.tolist(), int(answer)])))
        lines += ["", "Statements:", ""]
        lines += [" ".join(spell(statement.tolist())) for statement in self.statements(12, rng)]
        return "\n".join(lines) + "\n"


def draw(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B,) one column of each row of `weights` (B, C), which need not sum to one, in proportion to its weight."""
    cumulated = np.cumsum(weights, axis=1, dtype=float)
    return (rng.random(len(weights))[:, None] * cumulated[:, -1:] >= cumulated).sum(axis=1)


def _pairs(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, 2) two different words of each row."""
    return np.take_along_axis(words, rng.random(words.shape).argsort(axis=1)[:, :2], axis=1)
