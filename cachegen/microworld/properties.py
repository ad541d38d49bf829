"""A language model whose text also asks about properties ("is there a winged"), made on request.

The world's own text says what leaves and hypernyms are like, and asks about leaves and hypernyms only. Here scenes are
followed by questions about properties too. Pictures are never asked about them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cachegen.common.files import write_text
from cachegen.common.progress import progress_bar
from cachegen.microworld.corpus import Corpus, Scenes, draw
from cachegen.microworld.lexicon import Lexicon, make_lexicon
from cachegen.microworld.recipe import CorpusRecipe
from cachegen.microworld.world import World

ASKED = 2  # questions about properties in each scene


class PropertyCorpus(Corpus):
    """A corpus whose scenes have `ASKED` questions about properties more. L leaves, R properties."""

    def __init__(self, lexicon: Lexicon, recipe: CorpusRecipe, vocabulary: dict[str, int]) -> None:
        super().__init__(lexicon, recipe, vocabulary)
        told = properties_of(lexicon)
        self._told = np.array([[leaf.name in having for having in told.values()] for leaf in lexicon.leaves])  # (L, R)
        self._asked = np.array([[vocabulary[word] for word in f"is there a {name}".split()] for name in told])  # (R, 4)

    def scenes(self, count: int, length: int, rng: np.random.Generator) -> Scenes:
        """As `Corpus.scenes`; half of the questions about properties are true."""
        scenes = super().scenes(count, length, rng)
        true = rng.random((count, ASKED)) < 0.5
        told = self._told[scenes.leaf]  # (B, R)
        asked = np.stack([self._asked[draw(told == true[:, [n]], rng)] for n in range(ASKED)], axis=1)
        answers = np.where(true, self.vocabulary["yes"], self.vocabulary["no"])
        return replace(
            scenes,
            questions=np.concatenate([scenes.questions, asked], axis=1),
            answers=np.concatenate([scenes.answers, answers], axis=1),
            about_hypernym=np.concatenate([scenes.about_hypernym, np.zeros_like(true)], axis=1),
        )


def properties_of(lexicon: Lexicon) -> dict[str, set[str]]:
    """Each property word and the leaves of which text says it, those of hypernyms first."""
    told: dict[str, set[str]] = {word: set(h.leaves) for h in lexicon.hypernyms for word in h.words}
    for leaf in lexicon.leaves:
        for word in leaf.words:
            told.setdefault(word, set()).add(leaf.name)
    return told


def write_property_lm(world: World, folder: Path) -> dict[str, Any]:
    """Train the language model into `folder`, with the tables that `transfer make properties` reads.

    `properties.csv`: of hypernyms; `leaf_properties.csv`: of single leaves.
    """
    from cachegen.microworld.language_model import lm_config, make_tokenizer, save_lm, train_lm

    lexicon, recipe = make_lexicon(world.size, world.seed), world.size.language
    tokenizer = make_tokenizer(lexicon)
    corpus = PropertyCorpus(lexicon, world.size.corpus, tokenizer.get_vocab())
    with progress_bar("training the language model", recipe.steps, "steps") as advance:
        model, facts = train_lm(lm_config(recipe, tokenizer), corpus, recipe, world.seed, advance)
    save_lm(model, tokenizer, folder)
    write_properties(lexicon, folder)
    return facts


def write_properties(lexicon: Lexicon, folder: Path) -> None:
    """The two tables: a row for each leaf, a column for each question, with yes and no."""
    families = {word for hypernym in lexicon.hypernyms for word in hypernym.words}
    told = properties_of(lexicon)
    for name, words in (
        ("properties", [word for word in told if word in families]),
        ("leaf_properties", sorted(set(told) - families)),
    ):
        rows = [["leaf", *(f"is there a {word}" for word in words)]]
        rows += [
            [leaf.name, *("yes" if leaf.name in told[word] else "no" for word in words)] for leaf in lexicon.leaves
        ]
        write_text(folder / f"{name}.csv", "".join(",".join(row) + "\n" for row in rows))
