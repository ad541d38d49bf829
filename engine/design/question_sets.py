"""Question sets: any questions put to finished runs, and the makers of some (`crosstax transfer`).

A set is a table, in a file CSV: `leaf`, or `key` (of an image or item); `text`, the question as the LM reads it;
`answer`, yes or no; `group`, by which it is scored, as held-out questions are by hypernym; and `set`, what is compared.
Questions about a leaf are put to every test image that is labelled so. The set `TRAINED` has the wording that runs were
trained with: others of the same file are compared with it.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, model_validator

from cachegen.common.errors import ConditionError, some
from cachegen.common.files import digest_bytes, expanded, read_bounded
from cachegen.common.rng import generator
from cachegen.data.dataset import Dataset
from cachegen.data.taxonomy import header_advice
from engine.design.condition import MOST_CHARACTERS, Condition, checked
from engine.design.questions import Categories, question_text

TRAINED = "trained wording"
COLUMNS = ["leaf", "key", "text", "answer", "group", "set"]
ANSWERS = {"yes": True, "no": False}
MOST_BYTES = 2**28

Maker = Literal["paraphrases", "properties", "language"]

# Wordings that are not trained, by the one that is: of the paper, and of generated worlds, whose LMs know few words.
PHRASINGS = {
    "Is there {phrase} in this image?": (
        "Does this image show {phrase}?",
        "Can you see {phrase} here?",
        "{Is} {phrase} visible in this picture?",
        "Is it true that there {is} {phrase} in this image?",
    ),
    "is there {phrase}": ("here is there {phrase}", "is there {phrase} here", "there is {phrase}", "is {phrase} there"),
}
NEGATIONS = {
    "Is there {phrase} in this image?": (
        "{Is} there no {noun} in this image?",
        "Is it false that there {is} {phrase} in this image?",
    ),
    "is there {phrase}": ("is there no {noun}", "no is there {phrase}"),
}


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """`name`: of its file; `table`: columns leaf and key (one of them empty), text, answer (bool), group, set."""

    name: str
    table: pd.DataFrame

    @cached_property
    def digest(self) -> str:
        """Of what is asked, in whatever order it is written."""
        rows = self.table.sort_values(COLUMNS, kind="stable").astype(str)
        return digest_bytes("\0".join(rows[COLUMNS].to_numpy(str).ravel()).encode())

    @property
    def csv(self) -> str:
        """As `read_question_set` reads it."""
        used = [name for name in COLUMNS if name not in ("leaf", "key") or (self.table[name] != "").any()]
        answers = self.table["answer"].map({True: "yes", False: "no"})
        return self.table.assign(answer=answers)[used].to_csv(index=False, lineterminator="\n")


class QuestionSource(BaseModel):
    """One [[transfer]] table of a sweep file, or one `crosstax transfer make`: a file of questions, or a maker of them.

    phrasings, negations: of paraphrases, with {phrase} ("a crow"), {noun} ("crow"), {is} and {Is} (are, of a plural).
    table: of properties, names or synonyms, see the makers. question: of another language, with {phrase}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: Path | None = None
    maker: Maker | None = None
    name: str | None = None
    table: Path | None = None
    phrasings: tuple[str, ...] | None = None
    negations: tuple[str, ...] | None = None
    question: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "QuestionSource":
        if (self.questions is None) == (self.maker is None):
            raise ValueError("give questions = FILE.csv, or maker = paraphrases, properties or language")
        if self.maker in ("properties", "language") and self.table is None:
            raise ValueError(f"maker {self.maker} needs table = FILE.csv")
        if (self.maker == "language") != (self.question is not None):
            raise ValueError("question, with {phrase}, goes with maker = language")
        for text in (*(self.phrasings or ()), *(self.negations or ()), *([self.question] if self.question else [])):
            if not {"{phrase}", "{noun}"}.intersection(re.findall(r"\{\w+\}", text)):
                raise ValueError(f"{text!r} lacks {{phrase}}")
        return self

    @property
    def called(self) -> str:
        """Name of what it asks."""
        return self.name or (self.questions.stem if self.questions is not None else str(self.maker))

    def of(self, dataset: Dataset, condition: Condition) -> QuestionSet:
        """Its questions for runs of this dataset and wording. Raises `ConditionError`."""
        if self.questions is not None:
            return read_question_set(self.questions, self.called)
        if self.maker == "properties":
            assert self.table is not None
            return properties(dataset, self.table, self.called)
        if self.maker == "language":
            assert self.table is not None
            return language(dataset, condition, self.table, str(self.question), self.called)
        return paraphrases(dataset, condition, self.phrasings, self.negations, self.table, self.called)


def question_source(where: str, table: dict[str, Any], base: Path = Path()) -> QuestionSource:
    """A checked source; relative paths from `base`. Raises `ConditionError` naming the field that is wrong."""
    asked = checked(QuestionSource, table, where)
    places = {name: getattr(asked, name) for name in ("questions", "table")}
    asked = asked.model_copy(update={name: base / expanded(place) for name, place in places.items() if place})
    if asked.questions is not None:
        read_question_set(asked.questions, asked.called)
    elif asked.table is not None:
        _read_csv(asked.table, [])
    return asked


def read_question_set(path: Path, name: str) -> QuestionSet:
    """A set from its CSV file. Raises `ConditionError` naming the file, and the line or column that is wrong."""
    table = _read_csv(path, ["text", "answer", "group", "set"])
    table = table.rename(columns={"item": "key"})
    if ("leaf" in table) + ("key" in table) == 0:
        raise ConditionError(f"{path} has no column leaf or key; add one, so that each question is about something")
    if unknown := sorted(set(map(str, table)) - set(COLUMNS)):
        raise ConditionError(f"{path}: unknown column {unknown[0]!r}; columns are {', '.join(COLUMNS)}")
    for column in ("leaf", "key"):
        if column not in table:
            table[column] = ""
    problems = {
        "names a leaf and a key, or neither": (table["leaf"] == "") == (table["key"] == ""),
        "has no text": table["text"].str.strip() == "",
        f"has a text of more than {MOST_CHARACTERS:,} characters": table["text"].str.len() > MOST_CHARACTERS,
        "has an answer that is neither yes nor no": ~table["answer"].str.lower().isin(ANSWERS),
        "has no group": table["group"] == "",
        "has no set": table["set"] == "",
    }
    for problem, wrong in problems.items():
        if wrong.any():
            raise ConditionError(f"{path}: line {int(wrong.to_numpy().argmax()) + 2} {problem}; correct it")
    return _set_of(name, table.assign(answer=table["answer"].str.lower().map(ANSWERS)), str(path))


def _set_of(name: str, table: pd.DataFrame, where: str) -> QuestionSet:
    """Each question once. Raises `ConditionError` for one with two answers, and if there is none."""
    if re.search(r"[^\w .+-]", name) or name.startswith("."):
        raise ConditionError(f"{name!r} cannot name a question set; use letters, digits, spaces, points and dashes")
    table = table.assign(answer=table["answer"].astype(bool))
    table = table.reindex(columns=COLUMNS, fill_value="").drop_duplicates(ignore_index=True)
    twice = table.duplicated([column for column in COLUMNS if column != "answer"])
    if twice.any():
        row = table[twice].iloc[0]
        raise ConditionError(
            f"{where}: {row['text']!r} about {row['leaf'] or row['key']} is answered both yes and no; correct it"
        )
    if table.empty:
        raise ConditionError(f"{where} asks nothing; add a question")
    return QuestionSet(name, table)


def _read_csv(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """A CSV as text, nothing missing. Raises `ConditionError`."""
    try:
        content = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
        table = pd.read_csv(io.StringIO(content), dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ConditionError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        raise ConditionError(f"{path} is no CSV in UTF-8 ({str(error).splitlines()[0]}); save it as such") from None
    if missing := [name for name in needed if name not in table]:
        advice = header_advice(content, [" ".join(str(name).split()) for name in table], tuple(needed))
        raise ConditionError(f"{path} has no column {missing[0]}; {advice}")
    return table


def noun_of(phrase: str) -> str:
    return re.sub(r"^(an?|the)\s+", "", phrase, flags=re.IGNORECASE)


def _filled(form: str, phrase: str, number: str) -> str:
    verb = "is" if number == "singular" else "are"
    words = {"phrase": phrase, "noun": noun_of(phrase), "is": verb, "Is": verb.capitalize()}
    return re.sub(r"\{(phrase|noun|is|Is)\}", lambda field: words[field[1]], form)


def taxonomy_pairs(dataset: Dataset, hypernyms: Sequence[str]) -> pd.DataFrame:
    """Columns leaf, hypernym, answer: each leaf with its hypernyms among these, and with as many wrong ones, drawn.

    A wrong one is not true in words either, as in training.
    """
    known = Categories.of(dataset)
    columns = [place for place, name in enumerate(known.hypernyms) if name in set(hypernyms)]
    rows = []
    for number, leaf in enumerate(known.leaves):
        right = [known.hypernyms[column] for column in columns if known.hypernyms[column] in known.own[number]]
        false = [known.hypernyms[c] for c in columns if not known.truth[number, len(known.leaves) + c]]
        drawn = generator(0, "transfer", leaf).permutation(len(false))[: len(right)]
        rows += [(leaf, name, True) for name in right] + [(leaf, false[place], False) for place in sorted(drawn)]
    return pd.DataFrame(rows, columns=["leaf", "hypernym", "answer"])


def paraphrases(
    dataset: Dataset,
    condition: Condition,
    phrasings: Sequence[str] | None = None,
    negations: Sequence[str] | None = None,
    synonyms: Path | None = None,
    name: str = "paraphrases",
) -> QuestionSet:
    """The hypernym questions of a run in other words: each phrasing and each negation, whose answer is flipped, a set.

    `synonyms`: a CSV with columns hypernym, phrase and perhaps number; in the trained wording they are a set too.
    """
    trained = condition.question_singular
    if phrasings is None and trained not in PHRASINGS:
        raise ConditionError(f"no paraphrases of {trained!r} are known; give phrasings of your own")
    phrasings = PHRASINGS[trained] if phrasings is None else phrasings
    negations = NEGATIONS.get(trained, ()) if negations is None else negations
    pairs = taxonomy_pairs(dataset, list(dataset.hypernyms.index))
    own = [tuple(row) for row in dataset.hypernyms.loc[pairs["hypernym"], ["phrase", "number"]].to_numpy()]
    parts = [pairs.assign(set=TRAINED, text=[question_text(condition, *row) for row in own])]
    parts += [pairs.assign(set=form, text=[_filled(form, *row) for row in own]) for form in phrasings]
    parts += [
        pairs.assign(set=f"negated: {form}", text=[_filled(form, *row) for row in own], answer=~pairs["answer"])
        for form in negations
    ]
    if synonyms is not None:
        words = _names(synonyms, "hypernym", list(dataset.hypernyms.index))
        here = pairs.merge(words, on="hypernym")
        text = [question_text(condition, *row) for row in zip(here["phrase"], here["number"], strict=True)]
        parts.append(here.assign(set="synonyms", text=text))
    return _set_of(name, pd.concat(parts).rename(columns={"hypernym": "group"}), name)


def language(dataset: Dataset, condition: Condition, names: Path, question: str, name: str = "language") -> QuestionSet:
    """Questions in another language: `question` with {phrase}, about hypernyms and leaves as the table names them.

    names: a CSV with columns name (a leaf or hypernym of the dataset), phrase and perhaps number. The answers stay the
    words that the run was trained with. A leaf is asked about itself and one other leaf; the same pairs in the trained
    wording stand beside.
    """
    known = _names(names, "name", [*dataset.leaves.index, *dataset.hypernyms.index]).set_index("name")
    hypernyms = [each for each in dataset.hypernyms.index if each in known.index]
    pairs = taxonomy_pairs(dataset, hypernyms).rename(columns={"hypernym": "group"})
    own = [tuple(row) for row in dataset.hypernyms.loc[pairs["group"], ["phrase", "number"]].to_numpy()]
    said = [tuple(row) for row in known.loc[pairs["group"], ["phrase", "number"]].to_numpy()]
    parts = [pairs.assign(set=TRAINED, text=[question_text(condition, *row) for row in own])]
    parts += [pairs.assign(set=question, text=[_filled(question, *row) for row in said])]
    leaves = np.array([leaf for leaf in dataset.leaves.index if leaf in known.index], dtype=object)
    if len(leaves) > 1:
        steps = np.array([generator(0, "transfer", leaf).integers(1, len(leaves)) for leaf in leaves])
        others = leaves[(np.arange(len(leaves)) + steps) % len(leaves)]
        for about, answer in ((leaves, True), (others, False)):
            text = [_filled(question, *row) for row in known.loc[about, ["phrase", "number"]].to_numpy()]
            table = pd.DataFrame({"leaf": leaves, "group": about, "answer": answer, "text": text})
            parts.append(table.assign(set=f"leaves: {question}"))
    return _set_of(name, pd.concat(parts), str(names))


def properties(dataset: Dataset, table: Path, name: str = "properties") -> QuestionSet:
    """Questions about properties: a CSV with a column leaf, and one for each question, headed by it ("Can it fly?").

    Its cells are yes, no, or empty where it is not asked. Each question is a group.
    """
    wide = _read_csv(table, ["leaf"])
    if strange := sorted(set(wide["leaf"]) - set(dataset.leaves.index)):
        raise ConditionError(f"{table}: {some(strange)} is no leaf of {dataset.root}; correct the names")
    long = wide.melt("leaf", var_name="text", value_name="answer")
    long = long.assign(answer=long["answer"].str.strip().str.lower())
    long = long[long["answer"] != ""]
    if wrong := sorted(set(long["answer"]) - set(ANSWERS)):
        raise ConditionError(f"{table}: {wrong[0]!r} is neither yes nor no; correct it, or leave the cell empty")
    return _set_of(name, long.assign(answer=long["answer"].map(ANSWERS), group=long["text"], set=name), str(table))


def _names(path: Path, column: str, allowed: Sequence[str]) -> pd.DataFrame:
    """Columns `column`, phrase, number of a table of names. Raises `ConditionError`."""
    table = _read_csv(path, [column, "phrase"])
    if strange := sorted(set(table[column]) - set(allowed)):
        raise ConditionError(f"{path}: {some(strange)} is not in the taxonomy; correct the names")
    if table[column].duplicated().any():
        raise ConditionError(f"{path} names {table.loc[table[column].duplicated(), column].iloc[0]!r} twice; keep one")
    if "number" not in table:
        table["number"] = "singular"
    if not table["number"].isin(["singular", "plural"]).all():
        raise ConditionError(f"{path}: a number is neither singular nor plural; correct it")
    return table[[column, "phrase", "number"]]


def put_to(questions: pd.DataFrame, asked: QuestionSet, dataset: Dataset) -> pd.DataFrame:
    """A set's questions about the test images of a run with the question table `questions`; one row each.

    Columns: image, key, image_leaf, label_leaf, text, set, group; kind (seen or heldout, as the hypernym of a group was
    to the label leaf; new: the group is no hypernym of the run); answer, which follows the label leaf; veridical, the
    answer about the leaf that the image shows (missing where neither the set nor the taxonomy tells). Questions about a
    key have one answer. Raises `ConditionError` if none of the questions is about a test image.
    """
    test = questions[questions["split"] == "test"]
    images = test[["image", "key", "image_leaf", "label_leaf"]].drop_duplicates()
    table = asked.table
    by_leaf = images.merge(table[table["leaf"] != ""].drop(columns="key"), left_on="label_leaf", right_on="leaf")
    shown = table.rename(columns={"leaf": "image_leaf", "answer": "veridical"}).drop(columns="key")
    by_leaf = by_leaf.merge(shown, on=["image_leaf", "text", "group", "set"], how="left")
    known = Categories.of(dataset)
    column = pd.Index(known.hypernyms).get_indexer(pd.Index(by_leaf["group"])) + len(known.leaves)
    label, image = (known.leaf_numbers(by_leaf[name]) for name in ("label_leaf", "image_leaf"))
    same = known.truth[label, column] == known.truth[image, column]
    told = (by_leaf["answer"].to_numpy(bool) == same).astype(float)
    told[column < len(known.leaves)] = np.nan  # no hypernym: the taxonomy does not tell
    beside = by_leaf["veridical"].astype("boolean")
    by_leaf = by_leaf.assign(veridical=beside.fillna(pd.Series(told, index=by_leaf.index).astype("boolean")))
    by_key = images.merge(table[table["key"] != ""].drop(columns="leaf"), on="key")
    by_key = by_key.assign(veridical=by_key["answer"].astype("boolean"))
    rows = pd.concat([by_leaf, by_key], ignore_index=True)
    if rows.empty:
        raise ConditionError(f"no question of {asked.name} is about a test image of this run; check its leaves or keys")
    hypernyms = test[test["kind"] == "hypernym"]
    seen = hypernyms.groupby(["label_leaf", "category"])["seen"].any()
    of_leaf = hypernyms.groupby("label_leaf")["seen"].any()
    own = seen.reindex(pd.MultiIndex.from_frame(rows[["label_leaf", "group"]])).to_numpy(object)
    leaf = of_leaf.reindex(rows["label_leaf"]).to_numpy(object)
    was_seen = np.where(pd.isna(own), leaf, own) == True  # noqa: E712 - missing where the run asked nothing
    is_hypernym = rows["group"].isin(hypernyms["category"]).to_numpy()
    rows["kind"] = np.where(is_hypernym, np.where(was_seen, "seen", "heldout"), "new")
    rows["answer"] = rows["answer"].astype(bool)
    columns = ["image", "key", "image_leaf", "label_leaf", "text", "set", "group", "kind", "answer", "veridical"]
    return rows[columns].sort_values(["image", "set", "group", "text"], ignore_index=True)
