"""A world's second language, made on request: phrases for its dataset, and language models that have read both.

Every word of the world's text has one in the second language, made of drawn syllables, question forms and answers
among them; the order of words is the same. Half of the text is in either language. What bridges them is a dictionary
("a crow is" and then the second language's phrase), and scenes in which both languages are mixed, word by word. These
ask about leaves only: no hypernym is ever asked about in a scene with words of the other language. A twin has read as
much of both languages, and no bridge.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cachegen.common.files import write_text
from cachegen.common.progress import progress_bar
from cachegen.common.rng import generator
from cachegen.microworld.corpus import END, Corpus, Scenes
from cachegen.microworld.lexicon import Lexicon, make_lexicon
from cachegen.microworld.recipe import CorpusRecipe
from cachegen.microworld.world import World

SECOND = "second"  # its name
BRIDGE = 0.5  # share of scenes, and of statements
STEPS = 3  # times the steps of the world's own language model, since it reads two languages
IGNORED = -100  # an answer that is not trained on
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class TwoLanguages(Lexicon):
    """A lexicon, and the second language's word for each of its words."""

    second: dict[str, str]

    @classmethod
    def of(cls, lexicon: Lexicon) -> "TwoLanguages":
        """Words of two or three syllables, the same in every world."""
        rng = generator(0, "second language")
        taken, second = set(lexicon.vocabulary), {}
        for word in lexicon.vocabulary:
            made = word
            while made in taken:
                count = int(rng.integers(2, 4))
                made = "".join(rng.choice(list(letters)) for _ in range(count) for letters in (CONSONANTS, VOWELS))
            taken.add(made)
            second[word] = made
        return cls(lexicon.leaves, lexicon.hypernyms, second)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of both."""
        return (*self.second, *self.second.values())

    def translated(self, text: str) -> str:
        """A text of the first language, word by word; what is no word of it stays."""
        return " ".join(self.second.get(word, word) for word in text.split())


class TwoLanguageCorpus(Corpus):
    """Scenes and statements in either language; `bridge`: share of those in which both are mixed."""

    def __init__(
        self, lexicon: TwoLanguages, recipe: CorpusRecipe, vocabulary: dict[str, int], bridge: float = 0.0
    ) -> None:
        super().__init__(lexicon, recipe, vocabulary)
        self.bridge = bridge
        self._second = np.arange(max(vocabulary.values()) + 1)
        for word, second in lexicon.second.items():
            self._second[vocabulary[word]] = vocabulary[second]

    def scenes(self, count: int, length: int, rng: np.random.Generator) -> Scenes:
        """As `Corpus.scenes`; each scene in one language with its questions, or mixed, and then about leaves only."""
        scenes = super().scenes(count, length, rng)
        second, mixed = rng.random((count, 1)) < 0.5, rng.random((count, 1)) < self.bridge
        told = np.where(mixed, rng.random(scenes.words.shape) < 0.5, second)
        asked = np.where(mixed, rng.random(scenes.answers.shape) < 0.5, second)
        spoken = self.spoken(scenes, told, asked)
        return replace(spoken, answers=np.where(mixed & scenes.about_hypernym, IGNORED, spoken.answers))

    def spoken(self, scenes: Scenes, told: np.ndarray, asked: np.ndarray) -> Scenes:
        """First-language scenes with the words in `told` (B, n) and the questions in `asked` (B, Q) in the second."""
        words, questions, answers = (
            np.where(second, self._second[ids], ids)
            for ids, second in (
                (scenes.words, told), (scenes.questions, asked[..., None]), (scenes.answers, asked)
            )
        )  # fmt: skip
        return replace(scenes, words=words, questions=questions, answers=answers)

    def first_language(self, count: int, length: int, rng: np.random.Generator) -> Scenes:
        """Scenes of the first language."""
        return super().scenes(count, length, rng)

    def word(self, word: str, second: bool) -> int:
        """Id of a word of the first language, or of what it is in the second."""
        first = self.vocabulary[word]
        return int(self._second[first]) if second else first

    def statements(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """As `Corpus.statements`, each in one language; of the bridge, "<phrase> is <phrase> <eos>" in two."""
        first = super().statements(count, rng)
        second = rng.random((count, 1)) < 0.5
        phrases = np.concatenate([self._leaf_question, self._hypernym_question])[:, 2:]
        named = phrases[rng.integers(len(phrases), size=count)]
        is_, end = (np.full(count, self.vocabulary[word]) for word in ("is", END))
        entries = np.column_stack([named, is_, named, end])
        later = np.arange(entries.shape[1]) >= named.shape[1] + 1  # the phrase behind "is" is in the other language
        bridges = np.where(second ^ later, self._second[entries], entries)
        plain = np.where(second, self._second[first], first)
        return np.where(rng.random((count, 1)) < self.bridge, bridges, plain)


def write_languages(world: World, folder: Path) -> dict[str, Any]:
    """The world's dataset with `languages/second.csv`."""
    lexicon = TwoLanguages.of(make_lexicon(world.size, world.seed))
    shutil.copytree(world.dataset, folder)
    (folder / "languages").mkdir()
    said = {leaf.name: leaf.phrase for leaf in lexicon.leaves} | {h.name: h.phrase for h in lexicon.hypernyms}
    said |= {"question_singular": "is there {phrase}", "question_plural": "are there {phrase}"}
    said |= {"answer_yes": "yes", "answer_no": "no"}
    rows = ["name,phrase", *(f"{name},{lexicon.translated(phrase)}" for name, phrase in said.items())]
    write_text(folder / "languages" / f"{SECOND}.csv", "\n".join(rows) + "\n")
    return {"second": lexicon.second}


def write_two_language_lm(world: World, folder: Path, bridge: float) -> dict[str, Any]:
    """Train a language model on text in both languages into `folder`, and return facts about it."""
    from cachegen.microworld.language_model import lm_config, make_tokenizer, save_lm, train_lm

    lexicon = TwoLanguages.of(make_lexicon(world.size, world.seed))
    tokenizer = make_tokenizer(lexicon)
    corpus = TwoLanguageCorpus(lexicon, world.size.corpus, tokenizer.get_vocab(), bridge)
    recipe = replace(world.size.language, steps=STEPS * world.size.language.steps)
    with progress_bar("training the language model", recipe.steps, "steps") as advance:
        model, facts = train_lm(lm_config(recipe, tokenizer), corpus, recipe, world.seed, advance)
    save_lm(model, tokenizer, folder)
    return facts | {"accuracy": _examined(model, corpus, world.seed)}


def _examined(model: Any, corpus: TwoLanguageCorpus, seed: int) -> dict[str, float]:
    """Share of right answers on scenes never trained on, by the language of their words and of the questions.

    The answers yes and no of the questions' language are compared, so that half are right by chance.
    """
    import torch

    from cachegen.microworld.language_model import answer_logits

    found = {}
    for told in (False, True):
        for asked in (False, True):
            scenes = corpus.first_language(256, 8, generator(seed, "two languages, held-out text"))
            right = scenes.answers == corpus.vocabulary["yes"]
            spoken = corpus.spoken(scenes, np.full(scenes.words.shape, told), np.full(scenes.answers.shape, asked))
            yes, no = (corpus.word(answer, asked) for answer in ("yes", "no"))
            with torch.no_grad():
                logits = answer_logits(model, spoken.words, spoken.questions)
            said = (logits[:, yes] > logits[:, no]).numpy().reshape(right.shape) == right
            for kind, of in (("leaf", ~scenes.about_hypernym), ("hypernym", scenes.about_hypernym)):
                found[f"{kind}, told in {told + 1}, asked in {asked + 1}"] = float(said[of].mean())
    return found
