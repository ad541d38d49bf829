"""Writing a dataset folder: `taxonomy.csv`, `split.csv`, depths of hypernyms, and nouns with their article."""

import csv
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from cachegen.data.taxonomy import REQUIRED

COLUMNS = (*REQUIRED, "hypernym_number", "depth")


def write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A CSV file with lines that end as on Linux."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def depths_of(members: Mapping[str, Set[str]]) -> dict[str, int]:
    """Depth of each hypernym from its leaves: 1 is the most specific, else one more than the deepest inside it."""
    depths: dict[str, int] = {}
    for name in sorted(members, key=lambda name: len(members[name])):
        inside = (depths[other] for other in depths if members[other] < members[name])
        depths[name] = 1 + max(inside, default=0)
    return depths


SOUNDS_A = re.compile(r"uni(?!n|m)|u[kst][aeiou]|eu|ewe|one\b|once", re.IGNORECASE)  # a uniform, a utensil
SOUNDS_AN = re.compile(r"[aeiou]|hour|heir|honest|honou?r|[fhlmnrsx](?![a-z])", re.IGNORECASE)  # an hour, an x-ray


def with_article(noun: str) -> str:
    """ "a crow", "an owl"; whoever knows better writes the phrase into the table."""
    return f"{'an' if SOUNDS_AN.match(noun) and not SOUNDS_A.match(noun) else 'a'} {noun}"
