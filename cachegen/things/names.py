"""Names of THINGS: hypernyms in all their forms, articles and depths; phrases of leaves."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class PaperHypernym:
    """One hypernym of the paper.

    name: in the official category file and in `taxonomy.csv`. article: "a", "an", or "" where the release has none.
    question: the noun of a question. depth: 1 to 3, recovered from the published depth means. f1_name, coherence_name:
    columns and rows of the release's result files.
    """

    name: str
    article: str
    question: str
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
    depth: int = 1,
    f1_name: str = "",
    coherence_name: str = "",
) -> PaperHypernym:
    asked = question or name
    return PaperHypernym(name, article, asked, depth, f1_name or asked, coherence_name or asked)


_ROWS = (
    _row("animal", "an", depth=2),
    _row("arts and crafts supply", "an", "arts and crafts item"),
    _row("bird"),
    _row("body part"),
    _row("breakfast food"),
    _row("candy", ""),
    _row("clothing", "an", "item of clothing", depth=3),
    _row("clothing accessory", depth=2),
    _row("condiment"),
    _row("construction equipment", ""),
    _row("container"),
    _row("dessert"),
    _row("drink"),
    _row("electronic device", "an"),
    _row("farm animal"),
    _row("fastener"),
    _row("food", depth=2),
    _row("footwear", ""),
    _row("fruit"),
    _row("furniture", depth=2),
    _row("game"),
    _row("garden tool"),
    _row("hardware", question="hardware item", depth=3),
    _row("headwear", ""),
    _row("home appliance"),
    _row("home decor", question="home decor item", depth=3),
    _row("insect", "an"),
    _row("jewelry", question="piece of jewelry"),
    _row("kitchen appliance"),
    _row("kitchen tool"),
    _row("lighting", question="source of light"),
    _row("mammal"),
    _row("medical equipment", ""),
    _row("musical instrument", f1_name="musical"),  # their regular expression stopped at the " in" of "instrument"
    _row("office supply", "an", "office supply item"),
    _row("outerwear", "an", depth=2),
    _row("part of car", question="car part"),
    _row("personal hygiene item"),
    _row("plant", depth=2),
    _row("protective clothing", question="protective clothing item"),
    _row("safety equipment", ""),
    _row("school supply", "", coherence_name="school supply item"),
    _row("scientific equipment", ""),
    _row("sea animal"),
    _row("seafood", ""),
    _row("sports equipment", ""),
    _row("tool", depth=2),
    _row("toy", depth=2),
    _row("vegetable"),
    _row("vehicle", depth=2),
    _row("watercraft"),
    _row("weapon"),
    _row("women's clothing", question="piece of women's clothing"),
)
HYPERNYMS: dict[str, PaperHypernym] = {row.name: row for row in _ROWS}


# Concepts whose name in a question is not their id without digits and underscores.
RENAMED = {
    "coffee": "cup of coffee",
    "flip_flop": "flip-flop",
    "hippopotamus": "hippo",
    "rhinoceros": "rhino",
    "tea": "cup of tea",
    "television": "tv",
    "yolk": "egg yolk",
}

# Forms whose first sound is not that of their first letter.
ARTICLES = {"hourglass": "an", "ukulele": "a", "unicycle": "a", "uniform": "a"}

# Asked about in the plural: "Are there scissors in this image?"
PLURAL_ONLY = frozenset(
    {
        "boxer shorts", "brass knuckles", "brussels sprouts", "checkers", "chopsticks", "fishnet stockings", "goggles",
        "green beans", "grits", "jeans", "leggings", "nail clippers", "overalls", "pajamas", "pants", "pliers",
        "scissors", "shears", "shorts", "ski boots", "spareribs", "sprouts", "stockings", "suspenders", "tongs",
        "tweezers", "wind chimes", "wire cutters",
    }
)  # fmt: skip

# Singular without an article: "Is there bread in this image?"
MASS = frozenset(
    {
        "arugula", "asparagus", "baklava", "bamboo", "boxing gloves", "bread", "butter", "cake", "cake mix", "calamari",
        "candy", "cantaloupe", "caramel", "cardboard", "casserole", "cauliflower", "caviar", "celery", "cereal",
        "chalk", "champagne", "charcoal", "cheese", "cheesecake", "chicken wire", "chocolate", "coral", "corn",
        "cornbread", "cotton candy", "cream cheese", "curry", "deodorant", "dip", "dough", "dynamite", "eggnog",
        "eyeliner", "fondue", "fruit", "fudge", "garlic", "gauze", "granola", "grass", "gravy", "gum", "hair",
        "hairspray", "honey", "hot chocolate", "hummus", "ice cream", "jam", "jewelry", "juice", "kale", "lasagna",
        "lettuce", "licorice", "lingerie", "lip balm", "lip gloss", "marmalade", "mascara", "mashed potato", "meatloaf",
        "oatmeal", "okra", "pantyhose", "papaya", "parsley", "pasta", "peanut butter", "pomegranate", "popcorn",
        "potpie", "potpourri", "pudding", "ravioli", "ribbon", "salami", "sandpaper", "sauerkraut", "sausage",
        "scaffolding", "scrabble", "seaweed", "shaving cream", "shortbread", "shrimp", "sorbet", "soup", "soy sauce",
        "spinach", "stained glass", "star fruit", "steak", "stew", "string cheese", "stuffing", "taffy", "tape",
        "toast", "toilet paper", "tomato sauce", "tupperware", "underwear", "watermelon", "whipped cream", "wine",
        "yogurt",
    }
)  # fmt: skip


def leaf_form(concept: str) -> str:
    """The bare noun: "baton2" -> "baton", "air_mattress" -> "air mattress", "tea" -> "cup of tea"."""
    return RENAMED.get(concept) or re.sub(r"\d+$", "", concept).replace("_", " ")


def leaf_number(form: str) -> str:
    """The number of a form: "plural" for the 28 plural-only ones, else "singular"."""
    return "plural" if form in PLURAL_ONLY else "singular"


def leaf_phrase(form: str) -> str:
    """The noun phrase of a form: "a crow", "an hourglass", "bread", "scissors"."""
    if form in PLURAL_ONLY or form in MASS:
        return form
    return f"{ARTICLES.get(form) or ('an' if form[0] in 'aeiou' else 'a')} {form}"
