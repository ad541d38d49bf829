"""How a question names a THINGS concept: form, article and number from its id, by rule and a small lexicon.

The rule gives the phrases of the paper's release for all of its 1,222 concepts, its oddities included ("watermelon"
and "boxing gloves" are singular without an article there).
"""

import re

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
