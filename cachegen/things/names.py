"""The 53 hypernyms of THINGS under every name they go by, with their depth: the one table of all forms."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hypernym:
    """One hypernym of the paper.

    name: in the official category file and in `taxonomy.csv`. article: "a", "an", or "" where the release has none.
    question: the noun of a question. plural: as the release spells it ("home decore items"). depth: 1 to 3,
    recovered from the published depth means. f1_name, coherence_name: columns and rows of the release's result files.
    """

    name: str
    article: str
    question: str
    plural: str
    depth: int
    f1_name: str
    coherence_name: str

    @property
    def phrase(self) -> str:
        """As asked about: "Is there {phrase} in this image?"."""
        return f"{self.article} {self.question}".strip()


def _row(
    name: str,
    article: str = "a",
    question: str = "",
    plural: str = "",
    depth: int = 1,
    f1_name: str = "",
    coherence_name: str = "",
) -> Hypernym:
    asked = question or name
    return Hypernym(name, article, asked, plural or f"{asked}s", depth, f1_name or asked, coherence_name or asked)


_ROWS = (
    _row("animal", "an", depth=2),
    _row("arts and crafts supply", "an", "arts and crafts item", "arts and crafts supplies"),
    _row("bird"),
    _row("body part"),
    _row("breakfast food", plural="breakfast food"),
    _row("candy", "", plural="candies"),
    _row("clothing", "an", "item of clothing", "items of clothing", depth=3),
    _row("clothing accessory", plural="clothing accessories", depth=2),
    _row("condiment"),
    _row("construction equipment", "", plural="construction equipment"),
    _row("container"),
    _row("dessert"),
    _row("drink"),
    _row("electronic device", "an"),
    _row("farm animal"),
    _row("fastener"),
    _row("food", plural="food", depth=2),
    _row("footwear", "", plural="footwear"),
    _row("fruit"),
    _row("furniture", plural="furniture", depth=2),
    _row("game"),
    _row("garden tool"),
    _row("hardware", question="hardware item", depth=3),
    _row("headwear", "", plural="headwear"),
    _row("home appliance"),
    _row("home decor", question="home decor item", plural="home decore items", depth=3),
    _row("insect", "an"),
    _row("jewelry", question="piece of jewelry", plural="pieces of jewelry"),
    _row("kitchen appliance"),
    _row("kitchen tool"),
    _row("lighting", question="source of light", plural="sources of light"),
    _row("mammal"),
    _row("medical equipment", "", plural="medical equipment"),
    _row("musical instrument", f1_name="musical"),  # their regular expression stopped at the " in" of "instrument"
    _row("office supply", "an", "office supply item", "office supplies"),
    _row("outerwear", "an", plural="outerwear", depth=2),
    _row("part of car", question="car part"),
    _row("personal hygiene item"),
    _row("plant", depth=2),
    _row("protective clothing", question="protective clothing item"),
    _row("safety equipment", "", plural="safety equipment"),
    _row("school supply", "", plural="school supplies", coherence_name="school supply item"),
    _row("scientific equipment", "", plural="scientific equipment"),
    _row("sea animal"),
    _row("seafood", "", plural="seafood"),
    _row("sports equipment", "", plural="sports equipment"),
    _row("tool", depth=2),
    _row("toy", depth=2),
    _row("vegetable"),
    _row("vehicle", depth=2),
    _row("watercraft"),
    _row("weapon"),
    _row("women's clothing", question="piece of women's clothing", plural="pieces of women's clothing"),
)
HYPERNYMS: dict[str, Hypernym] = {row.name: row for row in _ROWS}
