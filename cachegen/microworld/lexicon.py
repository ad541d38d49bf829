"""The words of the microworld: families (hypernyms), leaves, and the words that describe them in text.

Family words describe a family as English does ("a bird is feathered"). Leaf words are dealt out at random,
world by world, and say nothing about how a leaf looks: text and images share the taxonomy and nothing else.
"""

from dataclasses import dataclass

from cachegen.microworld.recipe import Size
from cachegen.rng import generator

# Family -> (leaves, family words). Leaf phrases carry their article; it is part of English, not of a vowel rule.
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bird": (
        ("a crow", "a robin", "an owl", "a parrot", "a duck", "a flamingo"),
        ("winged", "beaked", "feathered", "nesting", "chirping", "perching"),
    ),
    "fish": (
        ("a trout", "a salmon", "a perch", "a tuna", "a piranha", "an anchovy"),
        ("finned", "gilled", "scaly", "swimming", "wet", "hooked"),
    ),
    "insect": (
        ("a beetle", "an ant", "a wasp", "a cricket", "a ladybug", "a cockroach"),
        ("sixlegged", "crawling", "buzzing", "antennaed", "tiny", "swarming"),
    ),
    "vehicle": (
        ("a taxi", "a bus", "an ambulance", "a van", "a truck", "a jeep"),
        ("wheeled", "motorized", "parked", "honking", "driven", "fuelled"),
    ),
    "building": (
        ("a barn", "a castle", "an inn", "a church", "a cabin", "a school"),
        ("roofed", "walled", "windowed", "inhabited", "built", "doored"),
    ),
    "fruit": (
        ("an apple", "a pear", "a plum", "a lemon", "a mango", "a cherry"),
        ("juicy", "edible", "ripe", "seeded", "peeled", "sweet"),
    ),
    "tree": (
        ("an oak", "a pine", "a birch", "a willow", "a maple", "a cedar"),
        ("leafy", "rooted", "branching", "wooden", "shady", "evergreen"),
    ),
    "tool": (
        ("a hammer", "an axe", "a shovel", "a wrench", "a rake", "a mallet"),
        ("gripped", "metallic", "useful", "handled", "sharpened", "swung"),
    ),
}

LEAF_WORDS = (
    "famous", "lucky", "lonely", "modern", "ancient", "noisy", "silent", "gentle", "stubborn", "curious", "clever",
    "foreign", "local", "popular", "secret", "costly", "cheap", "rare", "common", "festive", "sleepy", "busy",
    "proud", "modest", "grumpy", "cheerful", "elegant", "clumsy", "brave", "timid", "holy", "royal", "rural",
    "urban", "northern", "southern", "eastern", "western", "seasonal", "daily", "nightly", "weekly", "loyal", "wise",
    "odd", "plain", "noble", "honest",
)  # fmt: skip

FILLER = (
    "today", "here", "nearby", "maybe", "still", "again", "now", "often", "once", "yesterday", "outside", "inside",
    "very", "quite", "some", "new", "old", "left", "right", "behind",
)  # fmt: skip

# Words of the question and statement forms, and the answers.
FORMS = ("is", "are", "there", "a", "an", "and", "yes", "no")


@dataclass(frozen=True)
class Leaf:
    """A leaf category: `name` is also its folder, `words` its properties in text."""

    name: str
    phrase: str
    family: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """All that text can say in one world."""

    leaves: tuple[Leaf, ...]
    family_phrases: dict[str, str]
    family_words: dict[str, tuple[str, ...]]

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.family_phrases)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word, each once, in a fixed order."""
        words = [*FORMS, *self.families, *(leaf.name for leaf in self.leaves)]
        words += [word for family in self.families for word in self.family_words[family]]
        return tuple(dict.fromkeys([*words, *LEAF_WORDS, *FILLER]))


def make_lexicon(size: Size, seed: int) -> Lexicon:
    """Return the lexicon of world `seed`: fixed names, leaf words dealt at random ("leaf words")."""
    return Lexicon(
        leaves=_deal_leaf_words(size, seed),
        family_phrases={family: _with_article(family) for family in list(FAMILIES)[: size.families]},
        family_words={family: FAMILIES[family][1] for family in list(FAMILIES)[: size.families]},
    )


def _deal_leaf_words(size: Size, seed: int) -> tuple[Leaf, ...]:
    """Give each leaf `leaf_words` words; the deck is reshuffled when used up, so each word is about as common."""
    rng = generator(seed, "leaf words")
    deck: list[str] = []
    leaves = []
    for family in list(FAMILIES)[: size.families]:
        for phrase in FAMILIES[family][0][: size.leaves]:
            if len(deck) < size.corpus.leaf_words:
                deck = rng.permutation(LEAF_WORDS).tolist()
            words = tuple(deck.pop() for _ in range(size.corpus.leaf_words))
            leaves.append(Leaf(phrase.split()[-1], phrase, family, words))
    return tuple(leaves)


def _with_article(family: str) -> str:
    return ("an " if family == "insect" else "a ") + family
