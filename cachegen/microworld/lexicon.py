"""The words of the microworld: leaves, hypernyms in a small hierarchy, and the words that describe them in text.

Every leaf belongs to one family, families have parents, and two hypernyms cut across: food is fruit and some of the
fish, a pet is a bird or a fish. Hypernym words describe a hypernym as English does ("a bird is feathered"). Leaf words
are dealt out at random, world by world, and say nothing about how a leaf looks: text and images share the taxonomy
and nothing else.
"""

from dataclasses import dataclass
from typing import Literal

from cachegen.common.rng import generator
from cachegen.microworld.recipe import Size

# Family -> (leaves, family words). Leaf phrases carry their article; it is part of English, not of a vowel rule.
# A smaller world takes the first families and of each the first leaves.
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bird": (
        ("a crow", "a parrot", "an owl", "a canary", "a robin", "a flamingo"),
        ("winged", "beaked", "feathered", "nesting", "chirping", "perching"),
    ),
    "fish": (
        ("a trout", "a goldfish", "a salmon", "a guppy", "a tuna", "an anchovy"),
        ("finned", "gilled", "scaly", "swimming", "wet", "hooked"),
    ),
    "vehicle": (
        ("a taxi", "a bus", "an ambulance", "a van", "a truck", "a jeep"),
        ("wheeled", "motorized", "parked", "honking", "driven", "fuelled"),
    ),
    "building": (
        ("a barn", "a castle", "an inn", "a church", "a cabin", "a school"),
        ("roofed", "walled", "windowed", "inhabited", "rented", "doored"),
    ),
    "fruit": (
        ("an apple", "a pear", "a plum", "a lemon", "a mango", "a cherry"),
        ("juicy", "pulpy", "ripe", "seeded", "peeled", "sweet"),
    ),
    "insect": (
        ("a beetle", "an ant", "a wasp", "a cricket", "a ladybug", "a cockroach"),
        ("sixlegged", "crawling", "buzzing", "antennaed", "tiny", "swarming"),
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

# Parents hold whole families; crossing hypernyms hold single leaves of unrelated families too.
PARENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "animal": (
        ("bird", "fish", "insect"),
        ("breathing", "hungry", "moving", "mating", "awake", "hunted"),
    ),
    "plant": (
        ("fruit", "tree"),
        ("growing", "pruned", "watered", "sunlit", "planted", "blooming"),
    ),
    "artifact": (
        ("vehicle", "building", "tool"),
        ("manmade", "designed", "repaired", "owned", "priced", "insured"),
    ),
}
CROSSING: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "food": (
        ("fruit", "trout", "salmon", "tuna", "anchovy"),
        ("edible", "tasty", "cooked", "served", "nourishing", "chewed"),
    ),
    "pet": (
        ("parrot", "canary", "goldfish", "guppy"),
        ("tame", "fed", "cuddled", "named", "adopted", "beloved"),
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

Kind = Literal["family", "parent", "crossing"]


@dataclass(frozen=True)
class Leaf:
    """A leaf category: `name` is also its folder, `words` its properties in text."""

    name: str
    phrase: str
    family: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Hypernym:
    """A category above leaves. `depth`: 1 = most specific, else one more than the deepest hypernym inside it."""

    name: str
    phrase: str
    kind: Kind
    depth: int
    words: tuple[str, ...]
    leaves: frozenset[str]


@dataclass(frozen=True)
class Lexicon:
    """All that text can say in one world; families come first among the hypernyms, in the order of the leaves."""

    leaves: tuple[Leaf, ...]
    hypernyms: tuple[Hypernym, ...]

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(hypernym.name for hypernym in self.hypernyms if hypernym.kind == "family")

    def above(self, leaf: Leaf) -> tuple[Hypernym, ...]:
        """The hypernyms of a leaf, its family first."""
        return tuple(hypernym for hypernym in self.hypernyms if leaf.name in hypernym.leaves)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word, each once, in a fixed order."""
        words = [*FORMS, *(hypernym.name for hypernym in self.hypernyms), *(leaf.name for leaf in self.leaves)]
        words += [word for hypernym in self.hypernyms for word in hypernym.words]
        return tuple(dict.fromkeys([*words, *LEAF_WORDS, *FILLER]))


def make_lexicon(size: Size, seed: int) -> Lexicon:
    """Return the lexicon of world `seed`: fixed names and hierarchy, leaf words dealt at random ("leaf words").

    A parent or crossing hypernym that a small world leaves with fewer than two leaves, or with exactly those of
    another hypernym, is left out.
    """
    leaves = _deal_leaf_words(size, seed)
    family_of = {leaf.name: leaf.family for leaf in leaves}
    hypernyms: dict[frozenset[str], Hypernym] = {}
    for family in dict.fromkeys(family_of.values()):
        members = frozenset(leaf for leaf in family_of if family_of[leaf] == family)
        hypernyms[members] = Hypernym(family, _with_article(family), "family", 1, FAMILIES[family][1], members)
    for name, (held, words) in (PARENTS | CROSSING).items():
        members = frozenset(leaf for leaf in family_of if leaf in held or family_of[leaf] in held)
        if len(members) > 1 and members not in hypernyms:
            depth = 1 + max((inner.depth for inner in hypernyms.values() if inner.leaves < members), default=0)
            kind: Kind = "parent" if name in PARENTS else "crossing"
            hypernyms[members] = Hypernym(name, _with_article(name), kind, depth, words, members)
    return Lexicon(leaves, tuple(hypernyms.values()))


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


def _with_article(name: str) -> str:
    """ "a bird", "an insect"; food, a mass noun in English, takes "a" like the rest so that phrases are one length."""
    return ("an " if name[0] in "aeiou" else "a ") + name
