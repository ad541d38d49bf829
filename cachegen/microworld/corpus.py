"""The text that carries the taxonomy: scenes with questions, and plain statements. No images, no colours, no shapes.

A scene is a leaf talked about in 1 to 16 words ("feathered loyal today crow"), followed by questions about it
("is there a crow" yes, "is there a tree" no). Each question sees the scene and itself, never another question.
A statement says "a crow is a bird", "a bird is winged and beaked" or "a crow is loyal and proud".
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


class Corpus:
    """Draws scenes and statements of one lexicon as vocabulary ids."""

    def __init__(self, lexicon: Lexicon, recipe: CorpusRecipe, vocabulary: dict[str, int]) -> None:
        self.recipe = recipe
        self.vocabulary = vocabulary
        families = list(lexicon.families)
        self._family = np.array([families.index(leaf.family) for leaf in lexicon.leaves])
        self._leaf_name = self._ids([leaf.name for leaf in lexicon.leaves])
        self._leaf_words = np.stack([self._ids(leaf.words) for leaf in lexicon.leaves])
        self._family_words = np.stack([self._ids(lexicon.family_words[family]) for family in families])
        self._filler = self._ids(FILLER)
        self._leaf_question = np.stack([self._ids(f"is there {leaf.phrase}".split()) for leaf in lexicon.leaves])
        self._family_question = np.stack(
            [self._ids(f"is there {lexicon.family_phrases[family]}".split()) for family in families]
        )

    def _ids(self, words: list[str] | tuple[str, ...]) -> np.ndarray:
        return np.array([self.vocabulary[word] for word in words])

    def scenes(self, count: int, length: int, rng: np.random.Generator) -> Scenes:
        """Return `count` scenes of `length` words; half of the questions of each kind are true."""
        leaf = rng.integers(len(self._leaf_name), size=count)
        family = self._family[leaf]
        questions, answers = [], []
        for _ in range(self.recipe.leaf_questions):
            asked, answer = _ask(leaf, len(self._leaf_name), rng)
            questions.append(self._leaf_question[asked])
            answers.append(answer)
        for _ in range(self.recipe.hypernym_questions):
            asked, answer = _ask(family, len(self._family_words), rng)
            questions.append(self._family_question[asked])
            answers.append(answer)
        truth = np.stack(answers, axis=1)
        kinds = np.arange(truth.shape[1]) >= self.recipe.leaf_questions
        return Scenes(
            words=self._words(leaf, length, rng),
            questions=np.stack(questions, axis=1),
            answers=np.where(truth, self.vocabulary["yes"], self.vocabulary["no"]),
            about_hypernym=np.broadcast_to(kinds, truth.shape),
        )

    def _words(self, leaf: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
        """(B, n) words about each leaf; every scene has its own mixture of the four kinds of word."""
        count, shape = len(leaf), (len(leaf), length)
        mixture = rng.dirichlet(self.recipe.concentration * np.array(self.recipe.mixture), size=count)
        kind = (rng.random(shape)[..., None] > np.cumsum(mixture, axis=1)[:, None, :-1]).sum(axis=-1)
        row = leaf[:, None]
        choices = (
            np.broadcast_to(self._leaf_name[row], shape),
            self._leaf_words[row, rng.integers(self._leaf_words.shape[1], size=shape)],
            self._family_words[self._family[row], rng.integers(self._family_words.shape[1], size=shape)],
            self._filler[rng.integers(len(self._filler), size=shape)],
        )
        return np.choose(kind, choices)

    def family_words_only(self, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For every ordered pair of sibling leaves, (n, length) words of their family and (n, 1, 4) a leaf question."""
        count = len(self._family)
        told, asked = np.nonzero((self._family[:, None] == self._family) & ~np.eye(count, dtype=bool))
        choice = rng.integers(self._family_words.shape[1], size=(len(told), length))
        return self._family_words[self._family[told][:, None], choice], self._leaf_question[asked][:, None]

    def statements(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 6) ids: in turn "a crow is a bird <eos>", a family's properties, a leaf's properties."""
        leaf = rng.integers(len(self._leaf_name), size=count)
        family = self._family[leaf]
        is_, and_, end = (np.full(count, self.vocabulary[word]) for word in ("is", "and", END))
        leaf_phrase, family_phrase = self._leaf_question[leaf][:, 2:], self._family_question[family][:, 2:]
        family_pair = _pairs(self._family_words[family], rng)
        leaf_pair = _pairs(self._leaf_words[leaf], rng)
        forms = np.stack(
            [
                np.column_stack([leaf_phrase, is_, family_phrase, end]),
                np.column_stack([family_phrase, is_, family_pair[:, 0], and_, family_pair[:, 1]]),
                np.column_stack([leaf_phrase, is_, leaf_pair[:, 0], and_, leaf_pair[:, 1]]),
            ]
        )
        return forms[rng.integers(3, size=count), np.arange(count)]

    def taxonomy_statements(self) -> np.ndarray:
        """(leaves, 6) "a crow is a bird <eos>" for every leaf."""
        is_, end = (np.full(len(self._family), self.vocabulary[word]) for word in ("is", END))
        families = self._family_question[self._family][:, 2:]
        return np.column_stack([self._leaf_question[:, 2:], is_, families, end])

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


def _ask(truth: np.ndarray, categories: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ask about the true category (answer True) or, as often, about another one, uniformly."""
    answer = rng.random(len(truth)) < 0.5
    other = (truth + rng.integers(1, categories, size=len(truth))) % categories
    return np.where(answer, truth, other), answer


def _pairs(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, 2) two different words of each row."""
    return np.take_along_axis(words, rng.random(words.shape).argsort(axis=1)[:, :2], axis=1)
