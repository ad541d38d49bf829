"""Cells: what the runs that are averaged have in common, as data; and the words for them.

A `Cell` holds values only. It is made from the fields of the condition by their marks, so that a new field needs no
change here. Cells are compared, joined, grouped and sorted by value. `Names` makes text of them for people, at the
edge: it says only what tells the cells apart that are shown together.
"""

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar, get_args

import pandas as pd

from engine.design.condition import SEEDS, Condition, Only, variants

SHUFFLES: list[str] = [*get_args(Condition.model_fields["shuffle"].annotation)]
TASKS = {"verify": "verifying", "name": "naming"}
LM_NAMES = {"pretrained": "pretrained LM", "random": "random-init LM"}
CELL = ["setup", "arm", "lm_init"]  # a cell in words, in tables for people
KEYED = ["cell", *CELL]  # the value, by which rows are joined, and its words
PROVENANCE = [*(f"{name}_path" for name in ("dataset", "store")), *(f"{name}_digest" for name in ("dataset", "store"))]
WORDS = ["kind", "arm", "setup", "series", "shown", "shown_setup"]  # columns that `label_runs` adds for people
VALUES = ["cell", "cell_labels", "response", "comparison_number"]  # columns of values, which are not written to files

Setting = tuple[str, Any]  # a field of the condition and its value
Settings = tuple[Setting, ...]
Value = TypeVar("Value", bound=Any)


class Input(NamedTuple):
    """A dataset or feature store, the short name of the first place where it was found, or an LM; and its digest."""

    name: str
    digest: str


@dataclass(frozen=True, order=True)
class Labels:
    """What the images are labelled with: a shuffle, the percentage of leaves it moves, and its rules."""

    place: int = field(init=False, repr=False)  # of the shuffle among all, by which labels are sorted
    shuffle: str
    shuffled: int
    rules: Settings

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", SHUFFLES.index(self.shuffle))

    @property
    def partial(self) -> bool:
        """Whether some of the leaves only are shuffled."""
        return self.shuffled < 100


@dataclass(frozen=True, order=True)
class Ablation:
    """Which questions were withheld; `amount`: percent (random), or number of hypernyms (systematic)."""

    kind: str
    variant: Settings
    amount: int | None

    @property
    def method(self) -> "Ablation":
        """The same at any amount."""
        return replace(self, amount=None)

    @property
    def strength(self) -> int:
        """Larger is more: 100 % withholds more than any list of hypernyms."""
        return (self.amount or 0) + 1000 * (self.kind == "random")


@dataclass(frozen=True, order=True)
class Setup:
    """Everything of a cell but its labels and the LM's weights.

    asked: which categories are asked about. settings: all other fields of the condition that are no seeds.
    """

    dataset: Input
    encoder: str
    features: Input
    lm: Input
    ablation: Ablation | None
    asked: Settings
    settings: Settings

    @property
    def series(self) -> "Setup":
        """The same at any ablation: what one figure of ablation curves shows."""
        return replace(self, ablation=None)

    @property
    def rest(self) -> "Setup":
        """The same with any encoder, its features, and any LM."""
        return replace(self, encoder="", features=Input("", ""), lm=Input("", ""))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.dataset, self.encoder, self.features, self.lm, self.ablation, self.asked, self.settings))

    def __reduce__(self) -> tuple[Any, ...]:  # without the hash, which is of this process only
        return Setup, (self.dataset, self.encoder, self.features, self.lm, self.ablation, self.asked, self.settings)


@dataclass(frozen=True, order=True)
class Cell:
    """Runs that differ in seeds only. Sorted by setup, labels and LM weights."""

    setup: Setup
    labels: Labels
    lm_init: str

    @property
    def ablation(self) -> Ablation:
        """What was withheld."""
        assert self.setup.ablation is not None
        return self.setup.ablation

    @property
    def curve(self) -> "Curve":
        """What the cells of one ablation curve have in common."""
        return self.setup.series, self.labels, self.lm_init, self.ablation.method

    @property
    def pretrained(self) -> bool:
        """Whether the LM's weights were trained."""
        return self.lm_init == "pretrained"

    def __hash__(self) -> int:  # tables hash the same few cells row by row
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.setup, self.labels, self.lm_init))

    def __reduce__(self) -> tuple[Any, ...]:
        return Cell, (self.setup, self.labels, self.lm_init)


Line = tuple[str, Labels]  # LM weights and labels
Curve = tuple[Setup, Labels, str, Ablation]  # of an ablation: series, labels, LM weights and method

PLACED = ("lm_init", "shuffle", "shuffled", "subset", "ablation_kind", "ablation")  # fields with a place of their own
PARTS = ("dataset", "encoder", "features", "lm", "ablation", "asked")  # of a setup, beside its settings


def base_lm(name: object, lm_init: str) -> str:
    """Name of the LM whose architecture a run has; `lm-random-3`, a random twin of `lm`, counts as `lm`."""
    return re.sub(r"-random-\d+$", "", str(name)) if lm_init == "random" else str(name)


def cells_of(runs: pd.DataFrame) -> pd.Series:
    """The cell of each run, with the index of `runs`; runs of one cell share one object."""
    places = {name: _inputs(runs, name) for name in ("dataset", "store")}
    known: dict[Cell, Cell] = {}
    fields = _setting_fields()
    found = []
    for run, lm in zip(runs.to_dict("records"), _lms(runs), strict=True):
        own = {str(name): value for name, value in run.items()}
        labels = Labels(own["shuffle"], own["shuffled"], _variant("shuffle", own))
        ablation = Ablation(own["ablation_kind"], _variant("ablation_kind", own), own["ablation"])
        setup = Setup(
            places["dataset"][own["dataset_digest"]],
            str(own["encoder"]),
            places["store"][own["store_digest"]],
            lm,
            ablation,
            (("subset", own["subset"]), *_variant("subset", own)),
            tuple((name, own[name]) for name in fields if _applies(name, own)),
        )
        cell = Cell(setup, labels, own["lm_init"])
        found.append(known.setdefault(cell, cell))
    return pd.Series(found, index=runs.index, dtype=object)


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """A table for people and files: without the columns that hold values."""
    return table.drop(columns=VALUES, errors="ignore")


def _variant(of: str, run: dict[str, Any]) -> Settings:
    """The fields that mean something only beside this value of the field `of`."""
    return tuple((name, run[name]) for name in variants(of, run[of]))


def _only(name: str) -> list[Only]:
    return [mark for mark in Condition.model_fields[name].metadata if isinstance(mark, Only)]


def _applies(name: str, run: dict[str, Any]) -> bool:
    return all(run[mark.field] in mark.values for mark in _only(name))


def _setting_fields() -> list[str]:
    """The fields without a place of their own, by name."""
    return sorted(
        name
        for name in Condition.model_fields
        if name not in {*SEEDS, *PLACED} and not any(mark.field in PLACED for mark in _only(name))
    )


def _inputs(runs: pd.DataFrame, what: str) -> dict[str, Input]:
    """Digest -> dataset or store, under one name wherever its runs found it."""
    found: dict[str, Input] = {}
    for digest, path in runs[[f"{what}_digest", f"{what}_path"]].itertuples(index=False):
        name = short_name(path) if isinstance(path, str) else ""
        if digest not in found or (name and not found[digest].name):
            found[digest] = Input(name, str(digest))
    return found


def _lms(runs: pd.DataFrame) -> list[Input]:
    """The LM of each run.

    Pretrained weights of one digest (and tokenizer) have one name, wherever they lay. A random-init LM has the digest
    of its configuration only. It counts as the pretrained LM of its name, beside which it is shown, unless the name
    means several of either.
    """
    rows = runs[["lm", "lm_init", "lm_digest"]].astype(str)
    names = [base_lm(name, init) for name, init in rows[["lm", "lm_init"]].itertuples(index=False)]
    digests = (rows["lm_digest"] + " " + runs.get("tokenizer_digest", pd.Series("", runs.index))).str.strip().tolist()
    known: dict[str, str] = {}  # digest of pretrained weights -> name
    meant: dict[tuple[str, str], set[str]] = {}
    for name, init, digest in zip(names, rows["lm_init"], digests, strict=True):
        meant.setdefault((name, init), set()).add(digest)
        if init == "pretrained":
            known.setdefault(digest, name)
    found = []
    for name, init, digest in zip(names, rows["lm_init"], digests, strict=True):
        twins = meant.get((name, "pretrained"), set())
        if init == "random" and len(twins) == len(meant[name, init]) == 1:
            (digest,) = twins
        found.append(Input(known.get(digest, name), digest))
    return found


def label_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with their cells, sorted by cell and seeds.

    New columns: cell; in words kind (random or systematic ablation, with its variant where a sweep holds several), arm
    (the labels), setup and series (what else tells cells apart, the latter at any ablation; empty when there is only
    one); partial (a shuffle of some of the leaves only), shown (in the headline) and shown_setup (what tells the setups
    of the headline apart). `lm` and `encoder` are names that tell models apart: with digits of the digest where several
    LMs have one name, with the features where an encoder has several; `lm` without the number of a random twin.
    """
    cells = cells_of(runs)
    strongest: dict[Setup, int] = {}
    for cell in cells:
        series = cell.setup.series
        strongest[series] = max(cell.ablation.strength, strongest.get(series, 0))
    headline = [cell for cell in cells if cell.ablation.strength == strongest[cell.setup.series]]
    whole = {cell.setup.series for cell in headline if not cell.labels.partial}
    shown = {cell for cell in headline if not (cell.labels.partial and cell.setup.series in whole)}
    names, short = Names(cells), Names(cells, shown)
    place = {cell: number for number, cell in enumerate(sorted(set(cells)))}
    labelled = runs.assign(
        lm=[names.full_lm(cell.setup) for cell in cells],
        encoder=[names.full_encoder(cell.setup) for cell in cells],
        cell=cells,
        kind=[names.method(cell.ablation) for cell in cells],
        arm=[names.labels(cell.labels) for cell in cells],
        partial=[cell.labels.partial for cell in cells],
        setup=[names.setup(cell.setup) for cell in cells],
        series=[names.series(cell.setup) for cell in cells],
        shown=[cell in shown for cell in cells],
        shown_setup=[short.setup(cell.setup) for cell in cells],
        _place=[place[cell] for cell in cells],
    )
    return labelled.sort_values(["_place", *SEEDS], kind="stable").drop(columns="_place")


def shown_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the headline: the strongest ablation of each series, whole shuffles; their setups named shortly."""
    shown = runs[runs["shown"]]
    return shown.assign(setup=shown["shown_setup"])


def setups_of(table: pd.DataFrame) -> list[Setup]:
    """Setups of a table's cells, each once, in the order of its rows."""
    return list(dict.fromkeys(cell.setup for cell in table["cell"]))


def lines_of(table: pd.DataFrame) -> list[Line]:
    """LM weights and labels of a table's cells, each pair once, by labels and then weights."""
    return sorted({condition_of(cell) for cell in table["cell"]}, key=lambda line: line[::-1])


def parts(table: pd.DataFrame, of: Callable[[Cell], Value]) -> dict[Value, pd.DataFrame]:
    """The rows of a table with cells, those together whose cells agree in `of`; in the order of cells."""
    places: dict[Value, list[int]] = {}
    for place, cell in enumerate(table["cell"]):
        places.setdefault(of(cell), []).append(place)
    values = sorted(places)
    ordered = table.iloc[[place for value in values for place in places[value]]]  # taken once: slices are free
    ends = list(accumulate(len(places[value]) for value in values))
    return {value: ordered.iloc[end - len(places[value]) : end] for value, end in zip(values, ends, strict=True)}


def where(table: pd.DataFrame, holds: Callable[[Cell], bool]) -> pd.DataFrame:
    """The rows whose cell is of a kind."""
    return table[pd.Series([holds(cell) for cell in table["cell"]], index=table.index, dtype=bool)]


def setup_of(cell: Cell) -> Setup:
    """For `parts`."""
    return cell.setup


def condition_of(cell: Cell) -> Line:
    """LM weights and labels: what figures tell apart by colour."""
    return cell.lm_init, cell.labels


def seed_units(runs: pd.DataFrame) -> pd.Series:
    """What counts as one draw of chance among the runs of each cell, as text ("run_seed 42"); index run_id.

    Runs with the same images, label map or random LM are not independent of each other: where data_seed, permutation
    or (of the random-init LM) lm_seed vary within a cell, runs that agree in these count as one. Else each run counts.
    """
    cells = runs.groupby("cell", sort=False)
    text = pd.Series("", index=runs.index)
    for seed in (seed for seed in SEEDS if seed != "run_seed"):
        varies = (cells[seed].transform("nunique") > 1) & ((seed != "lm_seed") | (runs["lm_init"] == "random"))
        text = text + (seed + " " + runs[seed].astype(str) + ", ").where(varies, "")
    return text.str.rstrip(", ").where(text != "", "run_seed " + runs["run_seed"].astype(str))


def seed_text(runs: pd.DataFrame) -> str:
    """Which seeds varied, in one sentence for the report."""
    said = []
    whose = {
        "lm_seed": (runs["lm_init"] == "random", " (of the random-init LM)"),
        "permutation": (runs["shuffle"] != "original", " (of a shuffle)"),
    }
    for seed in SEEDS:
        rows, what = whose.get(seed, (pd.Series(True, index=runs.index), ""))
        values = sorted(runs.loc[rows, seed].dropna().unique())
        if not values or (seed == "permutation" and values == [0]):
            continue
        listed = ", ".join(map(str, values))
        said.append(f"{seed}{what} varied over {listed}" if len(values) > 1 else f"{seed}{what} was fixed at {listed}")
    return "; ".join(said)


# --- Words


def short_name(value: object) -> str:
    """Model name for people: the last two parts of a path, a hub id as it is."""
    text = str(value)
    return "/".join(text.rstrip("/").split("/")[-2:]) if text.startswith(("/", ".", "~")) else text


def last_part(name: object) -> str:
    """A model's name without its owner or folder."""
    return str(name).rstrip("/").rsplit("/", 1)[-1]


FAMILIES = ("DINOv2", "SigLIP")
FORMS: tuple[Callable[[object], str], ...] = (last_part, short_name, str)  # of a model's name, the shortest first


def encoder_names(encoders: Iterable[object]) -> dict[str, str]:
    """The family of each encoder (DINOv2, SigLIP, or both fused) where that tells it from the others; else its name."""
    known = list(dict.fromkeys(map(str, encoders)))
    plain = _telling(known, FORMS)
    found = {name: "+".join(family for family in FAMILIES if family.lower() in name.lower()) for name in known}
    families = list(found.values())
    return {
        encoder: family if family and families.count(family) == 1 else plain[encoder]
        for encoder, family in found.items()
    }


class Names:
    """Words for cells that are shown together.

    Args:
        cells: All cells of the study; its words tell any two of them apart.
        told: Those that are shown; a setup's name says only what tells these apart. All of `cells` if left out.
    """

    def __init__(self, cells: Iterable[Cell], told: Iterable[Cell] | None = None) -> None:
        known = list(dict.fromkeys(cells))
        setups = list(dict.fromkeys(cell.setup for cell in known))
        shown = setups if told is None else list(dict.fromkeys(cell.setup for cell in told))
        self._rules = _differing((cell.labels.shuffle, cell.labels.rules) for cell in known)
        self._methods = _differing((cell.ablation.kind, cell.ablation.variant) for cell in known)
        self._asked = _differing((str(setup.asked[0][1]), setup.asked[1:]) for setup in setups)
        self._encoders = encoder_names(setup.encoder for setup in setups)
        self._lms = _telling([setup.lm.name for setup in setups], FORMS)
        self._digits = _digits(setup.lm for setup in setups)
        of_images: dict[Hashable, set[Input]] = {}
        for setup in setups:
            of_images.setdefault((setup.dataset, setup.encoder), set()).add(setup.features)
        self._inputs = {
            "dataset": _input_names(setup.dataset for setup in setups),
            "features": _input_names(setup.features for setup in setups),
        }
        self._many_features = any(len(stores) > 1 for stores in of_images.values())
        fields = dict.fromkeys(name for setup in setups for name, _ in setup.settings)
        of_field = {name: [dict(setup.settings).get(name, "") for setup in setups] for name in fields}
        self._settings = {name: _telling(values, FORMS[1:]) for name, values in of_field.items()}
        self._told = [part for part in (*PARTS, *fields) if self._tells(part, shown)]

    def setup(self, setup: Setup) -> str:
        """What tells a setup apart: "" where there is only one."""
        return self._joined(setup, self._told)

    def series(self, setup: Setup) -> str:
        """The same at any ablation."""
        return self._joined(setup, [part for part in self._told if part != "ablation"])

    def rest(self, setup: Setup) -> str:
        """The same without encoder, features and LM."""
        return self._joined(setup, [part for part in self._told if part not in ("encoder", "features", "lm")])

    def encoder(self, setup: Setup) -> str:
        """The encoder, with its features where there are several of it."""
        return self._encoders[setup.encoder] + self._told_features(setup)

    def lm(self, lm: Input) -> str:
        """An LM as shortly as tells it from the others."""
        return self._lms[lm.name] + self._digits[lm]

    def full_lm(self, setup: Setup) -> str:
        """The name that its runs give the LM, with digits of its digest where others have that name too."""
        return setup.lm.name + self._digits[setup.lm]

    def full_encoder(self, setup: Setup) -> str:
        """The name that its runs give the encoder, with its features where there are several of it."""
        return setup.encoder + self._told_features(setup)

    def _told_features(self, setup: Setup) -> str:
        return f" {self._inputs['features'][setup.features]}" if self._many_features else ""

    def labels(self, labels: Labels) -> str:
        """The shuffle, with its dose where it is partial and its rules where there are several."""
        dose = f" {labels.shuffled} %" if labels.partial else ""
        return f"{labels.shuffle}{dose}{_bracketed(labels.rules, self._rules[labels.shuffle])}"

    def method(self, ablation: Ablation) -> str:
        """The kind of an ablation, with its variant where there are several."""
        return f"{ablation.kind}{_bracketed(ablation.variant, self._methods[ablation.kind])}"

    def withheld(self, ablation: Ablation) -> str:
        """What was withheld, for example "ablation 100 %"."""
        removed = "1 hypernym removed" if ablation.amount == 1 else f"{ablation.amount} hypernyms removed"
        amount = f"ablation {ablation.amount} %" if ablation.kind == "random" else removed
        return amount + _bracketed(ablation.variant, self._methods[ablation.kind])

    def condition(self, cell: Cell) -> str:
        """LM weights and labels of a cell: "pretrained LM, across"."""
        return f"{LM_NAMES[cell.lm_init]}, {self.labels(cell.labels)}"

    def key(self, lm_init: str, labels: Labels) -> str:
        """The same for a legend or an axis: the labels only where the LM is pretrained."""
        if lm_init == "pretrained":
            return self.labels(labels)
        named = f"{self.labels(labels)}, " if labels.shuffle != "original" else ""
        return f"{named}{LM_NAMES[lm_init]}"

    def cell(self, cell: Cell) -> str:
        """The condition, and the setup where there are several."""
        return ", ".join(filter(None, [self.condition(cell), self.setup(cell.setup)]))

    def _tells(self, part: str, setups: list[Setup]) -> bool:
        """Whether a part differs between setups; a variant of a field, between those where it means something."""
        words = {self._word(setup, part) for setup in setups}
        variant = part in Condition.model_fields and _only(part)
        return len(words - {""} if variant else words) > 1

    def _word(self, setup: Setup, part: str) -> str:
        if part == "task":
            return TASKS.get(dict(setup.settings).get(part, ""), "")
        if part == "encoder":
            return self._encoders[setup.encoder]
        if part == "lm":
            return self.lm(setup.lm)
        if part in self._inputs:
            named = part == "dataset" or self._many_features
            return f"{part} {self._inputs[part][getattr(setup, part)]}" if named else ""
        if part == "ablation":
            return "" if setup.ablation is None else self.withheld(setup.ablation)
        if part == "asked":
            subset = str(setup.asked[0][1])
            name = "all categories" if subset == "all" else f"{subset} subset"
            return name + _bracketed(setup.asked, self._asked[subset])
        own = dict(setup.settings)
        return f"{part} {self._settings[part][str(own[part])]}" if part in own else ""

    def _joined(self, setup: Setup, told: Iterable[str]) -> str:
        return " · ".join(filter(None, (self._word(setup, part) for part in told)))


def _telling(values: Iterable[object], forms: Iterable[Callable[[object], str]]) -> dict[str, str]:
    """Text of each value -> the first of `forms` in which all of them differ."""
    known = set(map(str, values))
    names = ({value: form(value) for value in known} for form in forms)
    return next((found for found in names if len(set(found.values())) == len(known)), {value: value for value in known})


def _input_names(inputs: Iterable[Input]) -> dict[Input, str]:
    """The name of each input, with digits of its digest where others have that name too."""
    return {one: (one.name or "unknown") + digits for one, digits in _digits(inputs).items()}


def _digits(inputs: Iterable[Input]) -> dict[Input, str]:
    """As many digits of the digest, six at least, as tell an input from others of its name; "" if there are none."""
    known = set(inputs)
    found = {}
    for one in known:
        others = [other.digest for other in known if other.name == one.name and other != one]
        enough = (n for n in range(6, len(one.digest)) if not any(other.startswith(one.digest[:n]) for other in others))
        found[one] = f" {one.digest[: next(enough, None)]}" if others else ""
    return found


def _differing(variants: Iterable[tuple[str, Settings]]) -> dict[str, set[str]]:
    """Head -> the fields that differ among the settings that come with it."""
    values: dict[str, dict[str, set[Any]]] = {}
    for head, settings in variants:
        of_head = values.setdefault(head, {})
        for name, value in settings:
            of_head.setdefault(name, set()).add(value)
    return {head: {name for name, found in of_head.items() if len(found) > 1} for head, of_head in values.items()}


def _bracketed(settings: Settings, told: set[str]) -> str:
    named = [str(value) for name, value in settings if name in told]
    return f" ({', '.join(named)})" if named else ""
