"""The (leaf, hypernym) pairs of THINGS with their phrases, from the paper's release or the official category file."""

import csv
import hashlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import pandas as pd

from cachegen.common.errors import DatasetError
from cachegen.common.files import default_cache, digest_file, remedy_of, write_atomically
from cachegen.common.hub import VARIABLE, offline
from cachegen.data.taxonomy import OPTIONAL, REQUIRED, name_problem
from cachegen.things.names import HYPERNYMS, leaf_form, leaf_number, leaf_phrase

COLUMNS = [*REQUIRED, *OPTIONAL]

# The phrase file of the paper's public release, of a pinned commit.
SIZE = 2_564_416  # bytes
COMMIT = "56b88f3434fbb146692067f3efbb541198ac2285"
URL = (
    f"https://raw.githubusercontent.com/sally-xu-42/cross-modal-taxonomic-gen/{COMMIT}"
    "/llm-backbone-exp-data/minimal_pair_sentences.jsonl"
)
SHA256 = "473fa9b2f7688f439f9cd091304a0a09e3c4312c3fab631c440d87ed7ec3109c"
TIMEOUT = 30  # seconds without a byte

# Of the 1,448 concepts of the official file, the paper leaves out these 226 with all of their pairs; no pair of the
# other concepts is left out. Found by comparing the two lists; no rule behind it is known.
LEFT_OUT = frozenset(
    {
        "abacus", "album", "aloe", "amplifier", "ankle", "appetizer", "applesauce", "aquarium", "armor", "backgammon",
        "bacon", "balance_beam", "bank", "basil", "bat1", "bat2", "bean", "beard", "biscuit", "bok_choy", "bologna",
        "bolt", "bone", "bow1", "bow2", "bracket", "brake", "breakfast", "broccoli", "buffet", "calf1", "calf2",
        "chaps", "charger", "chest1", "chest2", "chick", "chicken1", "chicken2", "chili", "chime", "chin", "chips",
        "cilantro", "cinnamon", "clasp", "clay", "clipper1", "clipper2", "clothes", "clothespin", "coil", "coleslaw",
        "coop", "cordon_bleu", "cornmeal", "cornucopia", "corsage", "crumb", "dice", "domino", "ear", "eclair", "elbow",
        "espresso", "exerciser", "eye", "face", "fast_food", "filter", "floss", "flour", "folder", "foot", "football",
        "freezer", "french_fries", "game", "garter", "gear", "generator", "ginger", "gingerbread_man", "glass",
        "glasses", "glue", "grapevine", "guacamole", "ham", "hand", "harness", "hash", "hedge", "hinge", "hip",
        "hobbyhorse", "hoe", "hood", "hook1", "hook2", "hopscotch", "hubcap", "incubator", "ink", "inkwell", "iron",
        "ivy", "jack", "jellyfish", "jersey", "ketchup", "kite", "knee", "lavender", "leg", "lemonade", "lifesaver",
        "loom", "luggage", "lunchbox", "macadamia", "macaroni", "makeup", "maple_syrup", "marijuana", "meat", "milk",
        "mint", "mirror", "mold1", "mole", "moose", "moss", "mouse1", "mouse2", "mousse", "mouth", "music_box",
        "mustache", "mustard", "nacho", "nail", "nail_polish", "navel", "neck", "noisemaker", "noodle", "nose", "nut",
        "oar", "organ", "ottoman", "paint", "panties", "paper", "patch", "pea", "peeler", "peg", "pepper1", "pepper2",
        "pepperoni", "pesto", "pipe2", "pocket", "polisher", "punch1", "punch2", "rack1", "rack2", "ready_meal",
        "rearview_mirror", "record_player", "rhubarb", "rice", "roll", "saffron", "salad", "sarcophagus", "sauce",
        "saw", "scale", "scraper", "screen1", "seafood", "seal", "skin", "snack", "soap", "soda", "spaghetti", "spam",
        "speedboat", "stamp2", "stir_fry", "stomach", "stool", "stove1", "stove2", "sushi", "sweeper", "syrup", "tack",
        "tank1", "tank2", "tapestry", "target", "thread", "thumb", "tick", "ticktacktoe", "tiramisu", "toe", "tongue",
        "tooth", "torso", "tortellini", "trunk", "valve", "veil", "velcro", "walker1", "weed", "wheat", "wreath",
        "wrist",
    }
)  # fmt: skip
# The paper spells one concept unlike the official file; an image folder may have either name.
RESPELT = {"bandana": "bandanna"}


@dataclass(frozen=True)
class Counts:
    """The size of a study: image folders, distinct leaf phrases, (leaf, hypernym) pairs, hypernyms, images."""

    leaves: int
    phrases: int
    pairs: int
    hypernyms: int
    images: int


PAPER = Counts(leaves=1222, phrases=1216, pairs=2040, hypernyms=53, images=17_336)
PAPER_SHA256 = "9de1f786b33217309f8916137b8ea9f22118d270987b56335cc60decbc536257"  # of the taxonomy.csv of these pairs


def read_pairs(path: Path) -> pd.DataFrame:
    """Pairs from the release's `minimal_pair_sentences.jsonl`, or the official `category53` file, long or wide.

    Returns one row per pair with the columns of `taxonomy.csv`, sorted by leaf and hypernym; depth is an int, 1 to 3.
    From a category file the concepts that the paper leaves out are left out, and phrases come by rule.
    Raises `DatasetError` with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        do = "give --taxonomy the release's or OSF's file"
        raise DatasetError(f"{path} cannot be read ({error}); {remedy_of(error, do)}") from None
    rows = _release(path, text) if text.lstrip().startswith("{") else _categories(path, text)
    try:
        table = pd.DataFrame(rows, columns=COLUMNS)
    except csv.Error as error:
        raise DatasetError(f"{path} is not readable as a table ({error}); get the file again") from None
    twice = table[table.duplicated(["leaf", "hypernym"])]
    if not twice.empty:
        leaf, hypernym = twice.iloc[0][["leaf", "hypernym"]]
        raise DatasetError(f"{path}: the pair {leaf!r}, {hypernym!r} occurs twice; get the file again")
    return table.sort_values(["leaf", "hypernym"], ignore_index=True)


def taxonomy_text(pairs: pd.DataFrame) -> str:
    """The content of a dataset's `taxonomy.csv` with pairs as `read_pairs` returns them; equal pairs, equal bytes."""
    return pairs.to_csv(index=False, columns=COLUMNS, lineterminator="\n")


def is_paper(pairs: pd.DataFrame) -> bool:
    """Whether these are the paper's pairs to the letter: ids, phrases, numbers and depths."""
    return hashlib.sha256(taxonomy_text(pairs).encode()).hexdigest() == PAPER_SHA256


def _release(path: Path, text: str) -> Iterator[dict[str, object]]:
    """Rows of the phrase file: four phrasings per pair, of which the second reads "a crow is a bird"."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            if item["phrasing_id"] != 2:
                continue
            leaf, hypernym = item["hyponym"], item["hypernym_pos"]
            leaf_noun, hypernym_noun = item["hyponym_form"], item["hypernym_form_pos"]
            leaf_words, verb, hypernym_words = item["sentence_pos"].partition(" is ")
            if not all(isinstance(text, str) for text in (leaf, leaf_noun, hypernym_noun)):
                raise TypeError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DatasetError(
                f"{path}:{number}: is no line of minimal_pair_sentences.jsonl; get the file again"
            ) from None
        if not verb or not leaf_words.endswith(leaf_noun) or not hypernym_words.endswith(hypernym_noun):
            raise DatasetError(f"{path}:{number}: the sentence does not name {leaf_noun!r} and {hypernym_noun!r}")
        row = _row(f"{path}:{number}", leaf, hypernym)
        yield row | {"leaf_phrase": leaf_words, "number": leaf_number(leaf_noun), "hypernym_phrase": hypernym_words}


def _categories(path: Path, text: str) -> Iterator[dict[str, object]]:
    """Rows of `category53_long-format.tsv` (category, uniqueID, Word) or of the wide form (a 0/1 column a category)."""
    lines = text.splitlines()
    header = lines[0].split("\t") if lines else []
    if "uniqueID" not in header or len(header) < 2:
        raise DatasetError(
            f"{path}: is neither the release's minimal_pair_sentences.jsonl nor OSF's category53 file, long or wide "
            f"(tab-separated, with a column uniqueID); give --taxonomy one of them"
        )
    long = "category" in header
    for number, cells in enumerate(csv.reader(lines[1:], delimiter="\t"), start=2):
        place = f"{path}:{number}"
        if not cells:
            continue
        if len(cells) != len(header):
            raise DatasetError(f"{place}: {len(cells)} cells where the header has {len(header)}; get the file again")
        row = dict(zip(header, cells, strict=True))
        concept = row.pop("uniqueID")
        row.pop("Word", None)
        for hypernym in [row["category"]] if long else _members(place, row):
            if concept not in LEFT_OUT:
                yield _row(place, RESPELT.get(concept, concept), hypernym)


def _members(place: str, row: dict[str, str]) -> Iterator[str]:
    for hypernym, cell in row.items():
        if cell not in ("0", "1"):
            raise DatasetError(f"{place}: column {hypernym!r} has {cell!r}, neither 0 nor 1; get the file again")
        if cell == "1":
            yield hypernym


def _row(place: str, leaf: str, hypernym: str) -> dict[str, object]:
    """A row of `taxonomy.csv` with phrases by rule."""
    if not isinstance(hypernym, str) or hypernym not in HYPERNYMS:
        raise DatasetError(f"{place}: {hypernym!r} is none of the 53 categories of THINGS; get the file again")
    if problem := name_problem(leaf):
        raise DatasetError(f"{place}: concept {leaf!r} {problem}; get the file again")
    names = HYPERNYMS[hypernym]
    form = leaf_form(leaf)
    return {
        "leaf": leaf,
        "leaf_phrase": leaf_phrase(form),
        "number": leaf_number(form),
        "hypernym": hypernym,
        "hypernym_phrase": names.phrase,
        "hypernym_number": "singular",
        "depth": names.depth,
    }


def fetch_release(url: str = URL, sha256: str = SHA256, size: int = SIZE) -> Path:
    """The phrase file in the cache ($CROSSTAX_CACHE or ~/.cache/crosstax), downloaded unless it lies there whole.

    Raises `DatasetError` without a network, or when what came is not the pinned file; the cache then stays as it was.
    """
    path = default_cache() / "things" / "minimal_pair_sentences.jsonl"
    if not path.is_file() or digest_file(path) != sha256:
        write_atomically(path, lambda temporary: _download(url, sha256, size, temporary))
    return path


def _download(url: str, sha256: str, size: int, path: Path) -> None:
    do = "fetch that file elsewhere and give it with --taxonomy"
    if offline():
        raise DatasetError(f"the paper's pairs are at {url}, and nothing is downloaded (--offline or {VARIABLE}); {do}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, path.open("wb") as file:
            file.write(answer.read(size + 1))  # however much is sent
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DatasetError(f"cannot download {url} ({reason}); {do}") from None
    found = digest_file(path)
    if found != sha256:
        raise DatasetError(f"{url} sent a file with SHA-256 {found[:16]}..., not {sha256[:16]}...; {do}")
