"""A first taxonomy for folders of your own, from the noun files of WordNet (Miller, 1995).

They are read as they are (wndb(5WN)): Debian's wordnet-base and NLTK's data have the same `data.noun` and
`index.noun`, so no package is needed. An id such as n01440764 is a place in `data.noun` of WordNet 3.0; ImageNet's
are these.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cachegen.common.errors import DatasetError, listing, some
from cachegen.common.files import expanded, reason_of, remedy_of, write_atomically
from cachegen.data.building import COLUMNS, depths_of, with_article, write_table
from cachegen.data.taxonomy import name_problem, read_rows

PLACES = (
    "/usr/share/wordnet", "/usr/local/WordNet-3.0/dict", "~/nltk_data/corpora/wordnet",
    "/usr/share/nltk_data/corpora/wordnet", "/usr/local/share/nltk_data/corpora/wordnet",
)  # fmt: skip
SENSES = ("leaf", "choice", "id", "words", "gloss")
ID = re.compile(r"n\d{8}")
# Says nothing about a picture: almost everything is one of these.
ABSTRACT = {
    "entity", "physical_entity", "abstraction", "abstract_entity", "object", "physical_object", "whole", "unit",
    "thing", "matter", "causal_agent", "living_thing", "organism", "artifact", "natural_object", "substance",
    "solid", "instrumentality", "commodity", "consumer_goods", "article", "creation", "psychological_feature",
    "attribute", "relation", "group", "collection", "part", "process", "food_product", "durables", "plant_part",
    "plant_organ", "reproductive_structure", "covering", "chordate", "domestic_animal", "vascular_plant",
    "spermatophyte", "agent", "nutriment", "ingredient", "block", "restraint", "medium", "unit_of_measurement",
}  # fmt: skip
MASS = {
    "food", "clothing", "footwear", "furniture", "equipment", "sports_equipment", "jewelry", "bread", "cheese", "meat",
    "beer", "wine", "milk", "coffee", "tea", "water", "alcohol", "pasta", "rice", "foodstuff", "nutriment", "headgear",
    "headdress", "produce", "electronic_equipment", "sushi", "spaghetti", "garlic", "broccoli", "cutlery", "tableware",
    "weaponry", "armor", "fabric", "cloth", "seafood", "legwear", "outerwear", "underwear", "stationery", "hosiery",
}  # fmt: skip
PLURAL = {
    "scissors", "jeans", "trousers", "pants", "shorts", "tights", "glasses", "spectacles", "sunglasses", "goggles",
    "binoculars", "tongs", "tweezers", "pliers", "shears", "pajamas", "leggings", "headphones", "cattle", "people",
}  # fmt: skip


class Synset(NamedTuple):
    """One sense: the words that share it, the ids above it, and what it means."""

    words: tuple[str, ...]
    above: tuple[str, ...]
    gloss: str


@dataclass(frozen=True)
class WordNet:
    """The nouns of WordNet. data: bytes of `data.noun`. senses: word -> ids, the most frequent first."""

    data: bytes
    senses: dict[str, tuple[str, ...]]
    version: str

    def synset(self, name: str) -> Synset | None:
        """The sense with an id such as n01440764; None if there is none at that place."""
        start = int(name[1:])
        line = self.data[start : self.data.find(b"\n", start)].decode("utf-8", "replace")
        cells, _, gloss = line.partition("|")
        if not (ID.fullmatch(name) and line.startswith(f"{name[1:]} ")):
            return None
        fields = cells.split()
        n_words = int(fields[3], 16)
        words = tuple(fields[4 : 4 + 2 * n_words : 2])
        pointers = fields[5 + 2 * n_words :]
        above = tuple(
            f"n{pointers[i + 1]}"
            for i in range(0, len(pointers) - 3, 4)
            if pointers[i] in ("@", "@i") and pointers[i + 2] == "n"
        )
        return Synset(words, above, gloss.strip())

    def all_above(self, name: str) -> set[str]:
        """Ids of everything that a sense is a kind of, along every path."""
        found: set[str] = set()
        left = [name]
        while left:
            for above in synset.above if (synset := self.synset(left.pop())) else ():
                if above not in found:
                    found.add(above)
                    left.append(above)
        return found

    def look_up(self, name: str) -> tuple[tuple[str, ...], str]:
        """(ids of the senses of a folder's name, its number); "bat1" is bat, "gloves" are several of a glove."""
        word = re.sub(r"[\s_-]+", "_", re.sub(r"\d+$", "", name).strip(" _-").lower())
        if (
            senses := self.senses.get(word)
            or self.senses.get(word.replace("_", "-"))
            or self.senses.get(word.replace("_", ""))
        ):
            return senses, "plural" if word.rpartition("_")[2] in PLURAL else "singular"
        for end, instead in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
            if word.endswith(end) and (senses := self.senses.get(word.removesuffix(end) + instead)):
                return senses, "plural"
        return (), "singular"


def open_wordnet(folder: Path | None = None) -> WordNet:
    """WordNet's nouns from a folder, else from where Debian and NLTK put them; raises `DatasetError`."""
    places = [folder] if folder else [expanded(place) for place in PLACES]
    there = next((place for place in places if (place / "data.noun").is_file()), None)
    if there is None:
        where = f"{folder} has no data.noun" if folder else "no WordNet is installed here"
        raise DatasetError(
            f"{where}; `apt install wordnet-base` has it, so has NLTK's `wordnet` data once unpacked: give that folder "
            "with --from"
        )
    try:
        data, index = (there / "data.noun").read_bytes(), (there / "index.noun").read_text("utf-8", "replace")
        senses = {}
        for line in index.splitlines():
            if not line.startswith(" ") and line:  # lines of the licence begin with blanks
                cells = line.split()
                senses[cells[0]] = tuple(f"n{cell}" for cell in cells[-int(cells[2]) :])
    except OSError as error:
        raise DatasetError(f"{there} cannot be read ({reason_of(error)}); {remedy_of(error)}") from None
    except (ValueError, IndexError):
        raise DatasetError(f"{there / 'index.noun'} is damaged; install WordNet anew") from None
    version = re.search(rb"WordNet (\d\.\d)", data[:4096])
    return WordNet(data, senses, f"WordNet {version[1].decode()}" if version else "WordNet")


def build_taxonomy(leaves: Path, out: Path, wordnet: Path | None = None) -> dict[str, Any]:
    """Write the taxonomy `out` of the leaves in a folder of folders or a text file with one name or id a line.

    Names with no or several senses are written to a CSV file beside `out`, with the likely one marked; the user
    corrects the marks and calls again. Every hypernym that two leaves share is in the taxonomy, but for those that
    have every leaf, and abstract ones; of hypernyms with the same leaves there is one.
    Raises `DatasetError` while senses are to be decided, or when nothing can be made of the leaves.
    """
    names = _leaf_names(leaves)
    nouns = open_wordnet(wordnet)
    ids = [name for name in names if ID.fullmatch(name)]
    if ids and nouns.version != "WordNet 3.0":
        raise DatasetError(
            f"{ids[0]} and others are ids of WordNet 3.0, but this is {nouns.version}; give --from another"
        )
    if lost := [name for name in ids if nouns.synset(name) is None]:
        raise DatasetError(f"{leaves}: no noun of WordNet has the id {some(lost)}; correct or remove it")
    chosen = _decide(names, nouns, out.with_suffix(".senses.csv"))
    members: dict[str, set[str]] = defaultdict(set)
    for leaf, sense in chosen.items():
        for above in nouns.all_above(sense):
            members[above].add(leaf)
    hypernyms = _choose_hypernyms(members, set(names), nouns)
    left_out = sorted(set(names) - {leaf for name in hypernyms for leaf in members[name]})
    if not hypernyms:
        raise DatasetError(
            f"{leaves}: no two of its {len(names):,} leaves share a hypernym that others lack; add leaves"
        )
    depths = depths_of({name: members[name] for name in hypernyms})
    rows = []
    for leaf in names:
        number = "singular" if leaf in ids else nouns.look_up(leaf)[1]
        noun = _spelt(_word(nouns, chosen[leaf]) if leaf in ids else re.sub(r"\d+$", "", leaf))
        phrase = noun if number == "plural" or noun.replace(" ", "_") in MASS else with_article(noun)
        for name in sorted(hypernyms, key=lambda name: (depths[name], hypernyms[name])):
            if leaf in members[name]:
                above = _word(nouns, name)
                said = _spelt(above) if above in MASS else with_article(_spelt(above))
                rows.append((leaf, phrase, number, hypernyms[name], said, "singular", depths[name]))
    write_atomically(out, lambda path: write_table(path, COLUMNS, rows))
    notes = (
        [f"{len(left_out):,} leaves share no hypernym with another, and are left out: {some(left_out)}"]
        if left_out
        else []
    )
    return {"leaves": len(names) - len(left_out), "hypernyms": len(hypernyms), "version": nouns.version, "notes": notes}


def _leaf_names(leaves: Path) -> list[str]:
    try:
        if leaves.is_dir():
            names = sorted(path.name for path in leaves.iterdir() if path.is_dir() and not path.name.startswith("."))
        else:
            names = [line.strip() for line in leaves.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{leaves} cannot be read ({error}); {remedy_of(error, 'save it as UTF-8')}") from None
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise DatasetError(f"{leaves} has {len(names)} leaves; give a folder of folders, or a file with a name a line")
    if bad := [f"{name!r} {problem}" for name in names if (problem := name_problem(name))]:
        raise DatasetError(listing(f"{leaves}: some names cannot be folders; correct them:", bad))
    return names


def _decide(names: list[str], nouns: WordNet, file: Path) -> dict[str, str]:
    """Leaf -> id of its sense; what is open goes to `file`, and `DatasetError` says so."""
    marked, offered = _marked(file, nouns)
    chosen, open_rows, undecided = {}, [], []
    for name in names:
        senses = (name,) if ID.fullmatch(name) else nouns.look_up(name)[0]
        if len(senses) == 1 and name not in marked:
            chosen[name] = senses[0]
        elif name in marked:
            chosen[name] = marked[name]
        else:
            undecided.append(name)
            likely = max(senses, key=lambda sense: _likelihood(sense, name, nouns), default=None)
            open_rows += [
                (name, "x" if sense == likely else "", sense, ", ".join(found.words), found.gloss)
                for sense in senses
                if (found := nouns.synset(sense))
            ] or [(name, "", "", "", "no noun of WordNet; write an id here and an x")]
    if undecided:
        rows = [row for row in offered if row[0] not in undecided] + open_rows
        write_atomically(file, lambda path: write_table(path, SENSES, rows))
        raise DatasetError(
            f"{len(undecided):,} names have several senses or none ({some(undecided)}); mark one sense of each with "
            f"an x in {file}, and give the same command again"
        )
    return chosen


def _marked(file: Path, nouns: WordNet) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """(leaf -> id that the user's file marks, all its rows)."""
    if not file.exists():
        return {}, []
    problems: list[str] = []
    rows = read_rows(file, SENSES, (), problems)
    marked: dict[str, str] = {}
    for place, row in rows:
        if not row["choice"]:
            continue
        if row["leaf"] in marked:
            problems.append(f"{place}: {row['leaf']!r} is marked twice; leave one x")
        elif not ID.fullmatch(row["id"]) or nouns.synset(row["id"]) is None:
            problems.append(f"{place}: {row['id']!r} is no id of a noun; write one such as n01440764")
        marked[row["leaf"]] = row["id"]
    if problems:
        raise DatasetError(listing(f"{file}: correct it, or remove it to begin anew:", problems))
    return marked, [tuple(row[column] for column in SENSES) for _, row in rows]


def _likelihood(sense: str, name: str, nouns: WordNet) -> tuple[bool, bool]:
    """Whether a sense is of something that an image shows, and whether it is called so before all.

    Things, plants, animals and food are shown; a place or person of that name is seldom meant. Of equals the more
    frequent sense stands first.
    """
    words = {word for above in nouns.all_above(sense) for word in _words(nouns, above)}
    seen = bool(words & {"object", "food", "food_product", "beverage"}) and not words & {"person", "location"}
    first = next(_words(nouns, sense), "")
    return seen, first[:3] == name[:3] and len(first) <= len(name) + 1


def _words(nouns: WordNet, name: str) -> Iterator[str]:
    yield from (synset.words if (synset := nouns.synset(name)) else ())


def _word(nouns: WordNet, name: str) -> str:
    """The best known word of a sense: that of the most senses, since common words have many."""
    words = [*_words(nouns, name)]
    return max(words[:3], key=lambda word: (word.islower(), "_" not in word, word == words[0]), default=name)


def _spelt(word: str) -> str:
    return re.sub(r"[\s_]+", " ", word).strip()


def _choose_hypernyms(members: dict[str, set[str]], leaves: set[str], nouns: WordNet) -> dict[str, str]:
    """Id -> name of the hypernyms to keep: of those with the same leaves, one with a common, short name."""
    by_leaves: dict[frozenset[str], list[str]] = defaultdict(list)
    for name, below in members.items():
        if 1 < len(below) < len(leaves) and not ABSTRACT & {*_words(nouns, name)}:
            by_leaves[frozenset(below)].append(name)
    kept: dict[str, str] = {}
    for names in by_leaves.values():
        best = max(
            names,
            key=lambda name: (
                "_" not in (word := _word(nouns, name)),
                len(nouns.senses.get(word.lower(), ())),
                -len(word),
                name,
            ),
        )
        word = _word(nouns, best)
        taken = sum(word == other.rstrip("0123456789") for other in kept.values())
        kept[best] = f"{word}{taken + 1}" if taken else word
    return kept
