"""The words of a study of items (`items.csv`): where captions and pages say image or picture, item is written.

Texts are written for images, the paper's case, and pass through here at the edge, where they become files. A name that
the user gave, such as a category "picture" or a question that ends in "in this image?", stays as it is.
"""

import itertools
import re

from analysis.study import Study

WORDS = (  # pattern, what is said instead; in order
    (r"visual (coherence)", r"\1"),
    (r"image (encoder)", r"\1"),
    (r"by (vision|sight)", "by the item"),
    ("as pictured", "as the item is"),
    ("what can be seen", "what the features show"),
    (r"\ba (picture)\b", r"an \1"),
    (r"\b(?:image|picture)(s?)\b", r"item\1"),
)
NAMED = ("template", "question_singular", "question_plural")  # settings in the user's own words
# Elements whose text is data, or is not read.
DATA = r"<(td|code|pre|title|style|script)\b.*?</\1>|<th scope=\"row\".*?</th>|<[^>]*>"


class Wording:
    """What a study's texts say; of a study of images, what they said before."""

    def __init__(self, study: Study) -> None:
        runs = study.sweep.opened.values()
        self.items = bool(runs) and all(run.items for run in runs)
        given = [str(text) for name in NAMED if name in study.runs for text in study.runs[name].unique()]
        given = [part for text in given for part in re.split(r"\{phrase\}|\n", text)]
        names = [*study.categories["category"].astype(str).unique(), *study.runs["encoder"].astype(str), "{image}"]
        self._kept = sorted({text for text in (*given, *names) if re.search("image|picture", text, re.I)}, key=len)

    def __call__(self, text: str) -> str:
        """`text` as it is to be said."""
        if not self.items:
            return text
        kept = "|".join(map(re.escape, reversed(self._kept)))
        parts = re.split(f"({kept})", text)
        return "".join(part if place % 2 else _of_items(part) for place, part in enumerate(parts))

    def html(self, page: str) -> str:
        """A page, but for its data."""
        if not self.items:
            return page
        found = [match.span() for match in re.finditer(DATA, page, re.DOTALL)]
        ends = [0, *(end for span in found for end in span), len(page)]
        parts = [page[start:stop] for start, stop in itertools.pairwise(ends)]
        return "".join(part if place % 2 else self(part) for place, part in enumerate(parts))


def _of_items(text: str) -> str:
    for pattern, said in WORDS:
        text = re.sub(pattern, lambda match, said=said: _as_written(match, said), text, flags=re.IGNORECASE)  # type: ignore[misc]
    return text


def _as_written(match: "re.Match[str]", said: str) -> str:
    """What is said instead, with a capital where the text had one."""
    text = match.expand(said)
    return text[:1].upper() + text[1:] if match[0][:1].isupper() else text
