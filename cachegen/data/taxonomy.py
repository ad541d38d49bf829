"""The taxonomy: which leaf categories exist, how a question names them, and what each one is a kind of.

One CSV row per (leaf, hypernym) pair. Reading never stops at the first problem: every reader here appends to
`problems`, one line each with its place (`taxonomy.csv:12: ...`), and returns what could be understood.
"""

import csv
import difflib
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cachegen.common.errors import some
from cachegen.common.files import reason_of, remedy_of

REQUIRED = ("leaf", "leaf_phrase", "number", "hypernym", "hypernym_phrase")
OPTIONAL = ("hypernym_number", "depth")
# Marks that reverse or embed what follows: a name would not read as what it is.
EMBEDDINGS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
NUMBERS = ("singular", "plural")  # "Is there a crow", "Are there scissors"
DEPTH = "[0-9]{1,6}"
LONGEST = 1000  # characters of a phrase: a question is a sentence
LARGEST = 2**28  # bytes of a CSV file: 5 million images of a split
SURROGATES = re.compile("[\udc80-\udcff]")  # what Python makes of bytes that are not UTF-8
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK": "a workbook or zip"}

Row = tuple[str, dict[str, str]]  # place ("taxonomy.csv:12"), cells by column


class Category(NamedTuple):
    """How a question names a leaf or hypernym; depth (hypernyms only) is digits or empty."""

    phrase: str
    number: str
    depth: str


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Categories and their pairs, each table sorted by id.

    leaves: index "leaf"; columns phrase, number.
    hypernyms: index "hypernym"; columns phrase, number, depth (nullable Int64), n_leaves.
    pairs: columns leaf, hypernym.
    notes: what was kept and is worth knowing.
    """

    leaves: pd.DataFrame
    hypernyms: pd.DataFrame
    pairs: pd.DataFrame
    notes: tuple[str, ...]


def read_taxonomy(path: Path, problems: list[str]) -> Taxonomy:
    """Read `taxonomy.csv`; whatever is wrong with it is appended to `problems`."""
    rows = read_rows(path, REQUIRED, OPTIONAL, problems)
    leaves = _categories(rows, "leaf", problems)
    hypernyms = _categories(rows, "hypernym", problems)
    pairs: dict[tuple[str, str], str] = {}
    for place, row in rows:
        pair = row["leaf"], row["hypernym"]
        if pair in pairs:
            problems.append(f"{place}: the pair {pair[0]!r}, {pair[1]!r} is already at {pairs[pair]}; keep one row")
        elif pair[0] in leaves and pair[1] in hypernyms:
            pairs[pair] = place
    n_leaves = Counter(hypernym for _, hypernym in pairs)
    for hypernym, (place, _) in hypernyms.items():
        if n_leaves[hypernym] < 2:
            problems.append(f"{place}: hypernym {hypernym!r} has fewer than two leaves; add leaves or drop it")
    for kind, found in (("leaves", leaves), ("hypernyms", hypernyms)):
        report_collisions(((place, name) for name, (place, _) in found.items()), kind, problems)
    return _tables(leaves, hypernyms, sorted(pairs))


def read_rows(path: Path, required: tuple[str, ...], optional: tuple[str, ...], problems: list[str]) -> list[Row]:
    """Rows of a UTF-8 CSV with a header, cells stripped, blank lines skipped, missing optional cells empty.

    Names of columns may have capitals, blanks and hyphens ("Leaf phrase"); columns without a name must be empty.
    """
    name = path.name
    text = _read_text(path, problems)
    if text is None:
        return []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    start = 1  # where a row begins: an open quote takes all that follows into it
    try:
        cells = [cell.strip() for cell in next(filter(any, reader), [])]
        header = ["_".join(cell.lower().replace("-", " ").split()) for cell in cells]
        columns = len(header)
        while header and not header[-1]:
            header.pop()
        named = [column for column in header if column]
        missing = [column for column in required if column not in header]
        if missing or len(set(named)) < len(named):
            what = f"missing column {', '.join(missing)}" if missing else "a column occurs twice"
            problems.append(f"{name}:{max(reader.line_num, 1)}: {what}; {header_advice(text, cells, required)}")
            return []
        for column in sorted({*named} - {*required, *optional}):
            if meant := difflib.get_close_matches(column, {*optional} - {*named}, 1, 0.85):
                problems.append(
                    f"{name}:{reader.line_num}: column {column!r} is not read; write {meant[0]}, or drop it"
                )
        start = reader.line_num + 1
        for cells in reader:
            place, start = f"{name}:{start}", reader.line_num + 1
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            while len(cells) > len(header) and not cells[-1]:
                cells.pop()
            if len(cells) > columns or len(cells) < len(header):
                do = "quote commas and line breaks" if len(cells) > columns else "fill in the row"
                problems.append(f"{place}: {len(cells)} cells where the header has {columns}; {do}")
                continue
            if len(cells) > len(header) or any(cell for column, cell in zip(header, cells, strict=True) if not column):
                problems.append(f"{place}: a cell in a column without a name; name that column, or drop it")
                continue
            row = dict(zip(header, cells, strict=True))
            rows.append((place, {column: row.get(column, "") for column in (*required, *optional)}))
    except csv.Error as error:
        do = "check its quotes" if start > 1 else f"{header_advice(text, [], required)}, with its quotes closed"
        problems.append(f"{name}:{start}: not readable CSV ({error}); {do}")
    if not rows:
        problems.append(f"{name}: has no usable rows; add one for each {' and '.join(required[::3])}")
    return rows


def _read_text(path: Path, problems: list[str]) -> str | None:
    """The text of a UTF-8 file; None, and a problem, if it is something else."""
    name = path.name
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            problems.append(f"{name}: is no plain file; a pipe or device may have no end, copy it to a file")
            return None
        if status.st_size > LARGEST:
            problems.append(f"{name}: has {status.st_size:,} bytes, more than {LARGEST:,}; is it the right file?")
            return None
        raw = path.read_bytes()
    except OSError as error:
        problems.append(f"{name}: cannot be read ({reason_of(error)}) at {path}; {remedy_of(error)}")
        return None
    like = next((f", it begins as {what} does" for mark, what in MARKS.items() if raw.startswith(mark)), "")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = raw.count(b"\n", 0, error.start) + 1, raw[error.start]
        like = like or f", in Windows-1252 it is {bytes([byte]).decode('cp1252', 'replace')!r}"
        problems.append(
            f"{name}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8 (Excel: CSV UTF-8{like})"
        )
        return None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        problems.append(f"{name}:{line}: has NUL bytes, as UTF-16 and damaged files have; save the file as UTF-8{like}")
        return None
    return text.lstrip("\ufeff")


def header_advice(text: str, cells: list[str], required: tuple[str, ...]) -> str:
    """What to do about a first line that is no header."""
    wanted, first = ",".join(required), text.lstrip("\r\n").partition("\n")[0].strip()
    if first.startswith("version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if first.lower().startswith("sep="):
        return f"{first[:20]!r} is for Excel alone; delete this line, and separate cells by commas"
    for mark, what in SEPARATORS.items():
        if {cell.strip(' "').lower() for cell in first.split(mark)} & set(required) and mark in first:
            return f"its cells are separated by {what}; save the file with commas between them"
    if len(required) <= len(cells) and not set(required) & {cell.lower() for cell in cells}:
        known = {*NUMBERS, "train", "validation", "test"}
        if known & {cell.lower() for cell in cells}:
            return f"the first line is data already; put the line {wanted} above it"
    return f"the header must have {wanted}, found {','.join(cells)[:200]}"


def homonyms_of(leaves: pd.DataFrame, hypernyms: pd.DataFrame) -> dict[str, str]:
    """Leaf -> the hypernym whose name or phrase it carries, both tables as in `Taxonomy`, in leaf order.

    A question about such a leaf is, or nearly is, a question about the hypernym: "Is there a bird in this image?"
    is asked in training although all of the hypernym's own questions are withheld.
    """
    ids = {_words(name): name for name in hypernyms.index}
    phrases = {_words(phrase): name for name, phrase in zip(hypernyms.index, hypernyms["phrase"], strict=True)}
    named = zip(leaves.index, leaves["phrase"], strict=True)
    twins = ((leaf, ids.get(_words(leaf)) or phrases.get(_words(phrase))) for leaf, phrase in named)
    return {leaf: twin for leaf, twin in twins if twin}


def nested_phrases(leaves: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of leaf phrases of which one is the other with words before it: ("a measuring cup", "a cup").

    An image of the first mostly shows the second too, yet "Is there a cup in this image?" may be asked about it as
    a negative: 91 pairs in THINGS, kept as the paper keeps them.
    """
    nouns = {_noun(phrase): phrase for phrase in sorted(set(leaves["phrase"]))}
    ends = ((noun, noun[start:]) for noun in nouns for start in range(1, len(noun)))
    return sorted((nouns[noun], nouns[end]) for noun, end in ends if end in nouns)


def name_problem(name: str) -> str | None:
    """Why `name` cannot be a folder, file or category id; None when it can."""
    if not name:
        return "is empty"
    if any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(letter) in EMBEDDINGS
        for letter in name
    ):
        return "has control characters or is not UTF-8"
    if "/" in name or "\\" in name or name.startswith("."):
        return "would leave or hide in the folder (separator or leading dot)"
    return None


def composed_form(name: str) -> str:
    """Accents in one character with their letter (NFC), as most systems write them; macOS may keep them apart."""
    return unicodedata.normalize("NFC", name)


NEAR: dict[str, Callable[[str], str]] = {
    "bytes that are not UTF-8": lambda name: (
        os.fsencode(name).decode("cp1252", "replace") if SURROGATES.search(name) else name
    ),
    "Unicode form": composed_form,
    "characters that cannot be seen": lambda name: "".join(c for c in name if unicodedata.category(c) != "Cf"),
    "blanks at its ends": str.strip,
    "blanks, underscores or hyphens": lambda name: re.sub(r"[\s_\-\u2010-\u2015]+", "_", name),
    "case": str.casefold,
}
"""What makes two names look alike, or be typed one for the other."""


def alike(name: str, but: str = "") -> str:
    """The same for all names that differ only in what `NEAR` lists, all of it `but` one."""
    for what, same in NEAR.items():
        name = name if what == but else same(name)
    return name


def difference(one: str, other: str) -> str:
    """In what two names differ that are `alike`."""
    return " and ".join(what for what in NEAR if alike(one, what) != alike(other, what)) or "how it is written"


def report_collisions(names: Iterable[tuple[str, str]], what: str, problems: list[str]) -> None:
    """Report (place, name) entries that a disk ignoring case or Unicode form would take for one file."""
    seen: dict[str, str] = {}
    for place, name in names:
        folded = composed_form(name).casefold()
        if folded in seen:
            problems.append(
                f"{place}: {what} {seen[folded]!r} and {name!r} collide but for case or Unicode form; rename one"
            )
        seen[folded] = name


def _categories(rows: list[Row], kind: str, problems: list[str]) -> dict[str, tuple[str, Category]]:
    """Map id -> (place of its first row, names), reporting bad cells and contradictions between rows."""
    found: dict[str, tuple[str, Category]] = {}
    for place, row in rows:
        name = row[kind]
        reason = name_problem(name)
        if reason:
            orphan = kind == "hypernym" and not name
            what = f"leaf {row['leaf']!r} has no hypernym" if orphan else f"{kind} id {name!r} {reason}"
            problems.append(f"{place}: {what}; correct the row")
            continue
        if kind == "leaf":
            category = Category(row["leaf_phrase"], row["number"].lower(), "")
        else:
            category = Category(row["hypernym_phrase"], row["hypernym_number"].lower() or "singular", row["depth"])
        if name not in found:
            found[name] = place, category
            problems.extend(f"{place}: {kind} {name!r}: {problem}" for problem in _bad_cells(category))
        first_place, first = found[name]
        for field, here, there in zip(Category._fields, category, first, strict=True):
            if here != there:
                problems.append(
                    f"{place}: {kind} {name!r} has {field} {here!r}, but {there!r} at {first_place}; make them agree"
                )
    return found


def _bad_cells(category: Category) -> Iterator[str]:
    phrase = category.phrase
    if len(phrase) > LONGEST:
        yield f"phrase has {len(phrase):,} characters; write at most {LONGEST:,}"
    elif not phrase or not phrase.isprintable():
        strange = [unicodedata.name(letter, repr(letter)) for letter in phrase if not letter.isprintable()]
        what = f", it has {some(list(dict.fromkeys(strange)))}" if strange else ""
        yield f"phrase {phrase!r} is empty or not printable{what}; write a noun phrase such as 'a crow'"
    if category.number not in NUMBERS:
        yield f"number {category.number!r} is neither 'singular' nor 'plural'; write one of them"
    if category.depth and not re.fullmatch(DEPTH, category.depth):
        yield f"depth {category.depth!r} is not a whole number; write digits only, such as 2"


def _tables(
    leaves: dict[str, tuple[str, Category]], hypernyms: dict[str, tuple[str, Category]], pairs: list[tuple[str, str]]
) -> Taxonomy:
    pair_table = pd.DataFrame(pairs, columns=["leaf", "hypernym"], dtype="str")
    leaf_table = _table("leaf", leaves)
    hypernym_table = _table("hypernym", hypernyms)
    # A depth that is not a number was reported above; the table of a refused dataset is never seen.
    depths = hypernym_table.pop("depth")
    depths = pd.to_numeric(depths.where(depths.str.fullmatch(DEPTH)), errors="coerce").astype("Int64")
    counts = pair_table["hypernym"].value_counts().reindex(hypernym_table.index, fill_value=0).astype("int64")
    hypernym_table = hypernym_table.assign(depth=depths, n_leaves=counts)
    leaf_table = leaf_table.drop(columns="depth")
    return Taxonomy(leaf_table, hypernym_table, pair_table, tuple(_notes(leaf_table, hypernym_table, pairs)))


def _table(kind: str, categories: dict[str, tuple[str, Category]]) -> pd.DataFrame:
    names = sorted(categories)
    index = pd.Index(names, name=kind, dtype="str")
    return pd.DataFrame([categories[name][1] for name in names], index, list(Category._fields), dtype="str")


def _notes(leaves: pd.DataFrame, hypernyms: pd.DataFrame, pairs: list[tuple[str, str]]) -> Iterator[str]:
    for kind, table in (("leaves", leaves), ("hypernyms", hypernyms)):
        for phrase, names in table.groupby("phrase").groups.items():
            if len(names) > 1:
                yield f"{kind} {some(list(names))} share the phrase {phrase!r}"
    for name, phrase in zip(map(str, hypernyms.index), map(str, hypernyms["phrase"]), strict=True):
        if _noun(name) != _words(name) and _noun(name) == tuple(phrase.lower().split()):
            yield f"hypernym {name!r} has the phrase {phrase!r}; are the two columns swapped?"
    homonyms = homonyms_of(leaves, hypernyms)
    phrases = leaves["phrase"].to_dict()
    for leaf, twin in homonyms.items():
        yield f"leaf {leaf!r} ({phrases[leaf]}) has the name or phrase of hypernym {twin!r}"
    for leaf, hypernym in pairs:
        name, part = f" {' '.join(_words(leaf))} ", f" {' '.join(_words(hypernym))} "
        if part in name and leaf not in homonyms:
            yield f"leaf {leaf!r} contains the name of its own hypernym {hypernym!r}"
    if nested := nested_phrases(leaves):
        shown = some([f"{outer!r} and {inner!r}" for outer, inner in nested])
        yield f"{len(nested)} leaf phrases end in another leaf's: {shown}"


def _noun(phrase: str) -> tuple[str, ...]:
    """Words of a noun phrase without its article."""
    words = tuple(phrase.lower().split())
    return words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words


def _words(name: str) -> tuple[str, ...]:
    """Lower-case words of an id or phrase: "star_fruit2" -> ("star", "fruit")."""
    return tuple(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", name.lower())) or (name,)


@dataclass(frozen=True, eq=False)
class Language:
    """How another language names the categories.

    phrases: index name (of a leaf or hypernym); columns phrase, number. wording: fields of a condition that differ,
    such as question_singular.
    """

    phrases: pd.DataFrame
    wording: dict[str, str]

    @property
    def rows(self) -> list[list[str]]:
        """All that it says, sorted."""
        return sorted(self.phrases.reset_index().astype(str).to_numpy().tolist()) + sorted(
            map(list, self.wording.items())
        )


WORDINGS = ("question_singular", "question_plural", "answer_yes", "answer_no")


def read_languages(folder: Path, taxonomy: Taxonomy, problems: list[str]) -> dict[str, Language]:
    """`languages/XX.csv` of a dataset: columns name, phrase, perhaps number. What is wrong is appended to `problems`.

    Every leaf and hypernym has a row. Rows named as one of `WORDINGS` hold a wording in place of a phrase.
    """
    found = {}
    known = [*taxonomy.leaves.index, *taxonomy.hypernyms.index]
    for path in sorted(folder.glob("*.csv")):
        rows = read_rows(path, ("name", "phrase"), ("number",), problems)
        said: dict[str, tuple[str, str]] = {}
        for place, row in rows:
            name, number = row["name"], row["number"] or NUMBERS[0]
            if name in said:
                problems.append(f"languages/{place}: {name!r} is named twice; keep one row")
            elif name not in known and name not in WORDINGS:
                problems.append(f"languages/{place}: {name!r} is not in the taxonomy; correct the name")
            elif not row["phrase"] or number not in NUMBERS:
                problems.append(f"languages/{place}: give a phrase, and {' or '.join(NUMBERS)} as number")
            elif name.startswith("question") and "{phrase}" not in row["phrase"]:
                problems.append(f"languages/{place}: {name} lacks {{phrase}}; add it where the category is named")
            said[name] = (row["phrase"], number)
        if rows and (missing := [name for name in known if name not in said]):
            problems.append(
                f"languages/{path.name}: {len(missing):,} categories have no row: {some(missing)}; add them"
            )
        names = [name for name in said if name not in WORDINGS]
        phrases = pd.DataFrame([said[name] for name in names], columns=["phrase", "number"], index=pd.Index(names))
        found[path.stem] = Language(phrases, {name: said[name][0] for name in WORDINGS if name in said})
    return found
