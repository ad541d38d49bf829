"""A condition: everything that can change a run's numbers (section 3 of the paper).

Paths, device, size of lockstep groups and time between checkpoints are not fields. The run id is made from the fields
that differ from their defaults. So a new field whose default is the old behaviour leaves all ids as they were.
The marks of a field say how other code treats it: what is counted again when it changes, what a lockstep group shares,
how tables name it.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cachegen.common.errors import ConditionError, meant
from cachegen.common.files import digest_bytes, expanded
from cachegen.common.hub import is_folder

SCHEMA = 1
LARGEST = 2**63 - 1  # what 64 bits hold
ALTERNATIVES = ("range", "values")  # tags that pydantic puts between the names of nested fields
MOST_RUNS = 100_000  # of one sweep; more are a slip
MOST_CHARACTERS = 10_000  # of a template or question; 120,000 of them took 12 GB
MOST_NESTED = 20  # tables and lists in one another
KEY = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""  # of TOML
DEEP_KEY = re.compile(rf"(?:^|[\[{{,])\s*{KEY}(?:\s*\.\s*{KEY}){{{MOST_NESTED}}}", re.MULTILINE)
MOST_COUNTS = {"epochs": 10**6, "batch": 10**6, "swap_leaves": 10**6}  # memory is taken by them
PLACES = ("dataset", "features", "encoder", "lm")


class Mark(Enum):
    """What a field is about: one of the first four; and who else treats it by its mark, not by its name."""

    LM = "the LM's weights"
    ASKED = "which questions there are, with which answers"
    PROMPT = "how they are put"
    TRAINED = "how the projector is trained"
    HEADLINE = "part of every cell's name, also where it does not vary"
    GROUP = "the same for all runs of a lockstep group"


@dataclass(frozen=True)
class Seed:
    """A field whose value only draws lots; `place`: among the seeds, where they are listed."""

    place: int


class Only:
    """A variant of what `field` says: it means something only where that has one of these values."""

    def __init__(self, field: str, *values: str) -> None:
        self.field, self.values = field, values


class Condition(BaseModel):
    """The scientific settings of one run, as an immutable pydantic model.

    Defaults are those of the paper's Table 1 where it has a value. `docs/own-data.md` lists the fields by topic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Language model (paper section 3.2)
    lm_init: Annotated[Literal["pretrained", "random"], Mark.LM, Mark.HEADLINE] = "pretrained"
    lm_seed: Annotated[int, Mark.LM, Seed(4)] = Field(
        0, ge=0, description="weights of a randomly initialised LM; unused when pretrained"
    )
    dtype: Annotated[Literal["float32", "bfloat16"], Mark.LM] = "float32"
    lm_sharing: Annotated[Literal["auto", "never"], Mark.LM] = Field(
        "auto", description="never: no question shares its image's prefix with another"
    )

    # Questions (paper sections 2 and 3)
    task: Annotated[Literal["verify", "name"], Mark.ASKED, Mark.GROUP] = Field(
        "verify", description="verify: yes/no questions, as in the paper; name: sentences that name the category"
    )
    shuffle: Annotated[Literal["original", "across", "within", "swap"], Mark.ASKED, Mark.HEADLINE] = "original"
    across_rule: Annotated[Literal["paper", "disjoint"], Mark.ASKED, Only("shuffle", "across")] = "paper"
    within_rule: Annotated[Literal["paper", "deranged", "release"], Mark.ASKED, Only("shuffle", "within")] = "deranged"
    shuffled: Annotated[int, Mark.ASKED, Mark.HEADLINE] = Field(
        100, ge=0, le=100, description="percent of the leaves that an across shuffle moves"
    )
    permutation: Annotated[int, Mark.ASKED, Seed(2)] = Field(
        0, ge=0, description="which permutation of this data seed: replicates of a shuffle"
    )
    subset: Annotated[Literal["all", "swap"], Mark.ASKED, Mark.HEADLINE] = Field(
        "all", description="swap: the leaves and hypernyms of the hypernym swap"
    )
    swap_rule: Annotated[Literal["coherence", "published"], Mark.ASKED, Only("subset", "swap")] = "coherence"
    swap_leaves: Annotated[int, Mark.ASKED, Only("subset", "swap")] = Field(
        20, ge=2, description="leaves sampled from each hypernym of the swap"
    )
    homonyms: Annotated[Literal["keep", "drop"], Mark.ASKED] = Field(
        "keep", description="leaves that carry a hypernym's name"
    )
    ablation_kind: Annotated[Literal["random", "systematic"], Mark.ASKED, Mark.HEADLINE] = "random"
    ablation: Annotated[int, Mark.ASKED, Mark.HEADLINE] = Field(
        100, ge=0, description="random: percent of each hypernym's leaves withheld; systematic: hypernyms withheld"
    )
    ablation_levels: Annotated[
        Literal["nested", "independent"], Mark.ASKED, Only("ablation_kind", "random", "systematic")
    ] = "nested"
    scope: Annotated[Literal["leaf", "mapping"], Mark.ASKED, Only("ablation_kind", "random", "systematic")] = "leaf"
    removed_list: Annotated[Literal["drawn", "published"], Mark.ASKED, Only("ablation_kind", "systematic")] = "drawn"
    removed_as_negative: Annotated[Literal["keep", "never"], Mark.ASKED, Only("ablation_kind", "systematic")] = "keep"
    data_seed: Annotated[int, Mark.ASKED, Seed(1)] = Field(
        0, ge=0, description="split, negatives, ablation sample, permutation"
    )

    # Prompt: `{image}` marks where the patches go; without it they follow the first token, as in the release. Under the
    # task `name` a carrier takes the place of {question} and ends the text.
    template: Annotated[str, Mark.PROMPT, Mark.GROUP] = "{image}\n{question}\n"
    question_singular: Annotated[str, Mark.PROMPT, Mark.GROUP, Only("task", "verify")] = (
        "Is there {phrase} in this image?"
    )
    question_plural: Annotated[str, Mark.PROMPT, Mark.GROUP, Only("task", "verify")] = (
        "Are there {phrase} in this image?"
    )
    answer_yes: Annotated[str, Mark.PROMPT, Mark.GROUP, Only("task", "verify")] = "Yes"
    answer_no: Annotated[str, Mark.PROMPT, Mark.GROUP, Only("task", "verify")] = "No"
    carrier_leaf: Annotated[str, Mark.PROMPT, Mark.GROUP, Only("task", "name")] = "This is a picture of {phrase}."
    carrier_hypernym: Annotated[str, Mark.PROMPT, Mark.GROUP, Only("task", "name")] = "This is a picture of {phrase}."
    train_language: Annotated[str, Mark.PROMPT, Mark.GROUP, Only("task", "verify")] = Field(
        "", pattern=r"^[\w-]*$", description="of training questions: XX of the dataset's languages/XX.csv"
    )
    test_language: Annotated[str, Mark.PROMPT, Mark.GROUP, Only("task", "verify")] = Field(
        "", pattern=r"^[\w-]*$", description="of validation and test questions"
    )
    candidates: Annotated[int, Mark.ASKED, Only("task", "name")] = Field(
        100, ge=2, description="leaves among which each test image's is chosen; drawn once where there are more"
    )

    # Training (paper Table 1); one batch counts (image, question) pairs in both orders.
    run_seed: Annotated[int, Mark.TRAINED, Seed(3)] = Field(
        0, ge=0, description="data order, and initial weights unless shared"
    )
    shared_initial_weights: Annotated[bool, Mark.TRAINED] = False
    projector_layers: Annotated[Literal[2, 3], Mark.TRAINED] = Field(
        2, description="3: the release's projector for fused encoders"
    )
    pool: Annotated[int, Mark.TRAINED, Mark.GROUP] = Field(
        1, ge=1, description="mean over pool x pool patches before the projector: fewer tokens per image"
    )
    order: Annotated[Literal["pairs", "images"], Mark.TRAINED] = "pairs"
    epochs: Annotated[int, Mark.TRAINED] = Field(5, ge=1)
    batch: Annotated[int, Mark.TRAINED] = Field(16, ge=1)
    learning_rate: Annotated[float, Mark.TRAINED] = Field(2e-5, gt=0)
    weight_decay: Annotated[float, Mark.TRAINED] = Field(0.1, ge=0)
    warmup: Annotated[float, Mark.TRAINED] = Field(0.03, ge=0, lt=1, description="share of all steps")
    clip: Annotated[float, Mark.TRAINED] = Field(1.0, gt=0)
    supervise: Annotated[Literal["answer", "answer_eos"], Mark.TRAINED, Mark.GROUP, Only("task", "verify")] = Field(
        "answer", description="answer_eos: the release's loss"
    )

    # Needed by the microworld's tiny models, absent from the paper.
    standardise: Annotated[bool, Mark.TRAINED] = Field(
        False, description="patch features per dimension, by the training images' mean and SD"
    )
    output_scale: Annotated[Literal["none", "embedding_rms"], Mark.TRAINED] = "none"
    loss: Annotated[Literal["vocabulary", "answers"], Mark.TRAINED, Mark.GROUP, Only("task", "verify")] = Field(
        "vocabulary", description="cross-entropy over all tokens, or yes/no"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, value in self:
            if isinstance(value, int) and value > (most := MOST_COUNTS.get(name, LARGEST)):
                raise ValueError(f"{name} is larger than {most}")
            if isinstance(value, str) and len(value) > MOST_CHARACTERS:
                raise ValueError(f"{name} has {len(value):,} characters, more than {MOST_CHARACTERS:,}")
        if "{question}" not in self.template:
            raise ValueError("template lacks {question}")
        if self.template.count("{image}") > 1:
            raise ValueError("template has {image} twice")
        for name in ("question_singular", "question_plural"):
            if "{phrase}" not in getattr(self, name):
                raise ValueError(f"{name} lacks {{phrase}}")
        for name in ("carrier_leaf", "carrier_hypernym"):
            if getattr(self, name).count("{phrase}") != 1:
                raise ValueError(f"{name} needs {{phrase}}, once")
        for name in ("answer_yes", "answer_no"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty")
        if self.answer_yes == self.answer_no:
            raise ValueError("answer_yes and answer_no are the same")
        if self.ablation_kind == "random" and self.ablation > 100:
            raise ValueError("ablation is a percentage when ablation_kind is random; use 0 to 100")
        if self.ablation_kind == "random" and (self.removed_list, self.removed_as_negative) != ("drawn", "keep"):
            raise ValueError("removed_list and removed_as_negative need ablation_kind = 'systematic'")
        if self.shuffled < 100 and self.shuffle != "across":
            raise ValueError("shuffled, the share of leaves that are shuffled, needs shuffle = 'across'")
        if self.subset == "swap" and self.shuffle not in ("original", "swap"):
            raise ValueError("subset = 'swap' goes with shuffle = 'swap', or 'original' for its control")
        if self.shuffle == "swap" and self.subset != "swap":
            raise ValueError("shuffle = 'swap' needs subset = 'swap'")
        if self.task == "name" and (self.train_language or self.test_language):
            raise ValueError("train_language and test_language need task = 'verify'")
        if self.supervise == "answer_eos" and self.loss == "answers":
            raise ValueError("supervise = 'answer_eos' needs loss = 'vocabulary': EOS is neither answer")
        return self

    @classmethod
    def of(cls, fields: dict[str, Any], where: str) -> Self:
        """The condition with these fields. Raises `ConditionError` that names the first wrong one.

        Args:
            fields: Names and values; fields that are left out have their default.
            where: Where the fields come from, to begin the error message with.
        """
        return checked(cls, fields, where)

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, without those of another task."""
        others = {
            name
            for name, mark in _marks()
            if isinstance(mark, Only) and mark.field == "task" and self.task not in mark.values
        }
        return self.model_dump(exclude_defaults=True, exclude=others)

    def run_id(self, encoder: str, lm: str, digests: dict[str, str]) -> str:
        """The run's name: a readable part, and 8 hex digits that depend on changed fields and inputs.

        Args:
            encoder: Name or path of the encoder; its last part is shown.
            lm: Name or path of the LM; its last part is shown.
            digests: Digests of dataset, feature store and LM. They are hashed in place of names, so that a moved or
                renamed input gives the same id.
        """
        canonical = json.dumps([SCHEMA, self.changed(), digests], sort_keys=True, ensure_ascii=False)
        weights = "pretrained" if self.lm_init == "pretrained" else f"random{self.lm_seed}"
        shuffle = self.shuffle if self.shuffled == 100 else f"{self.shuffle}{self.shuffled}"
        ablation = f"a{self.ablation}" if self.ablation_kind == "random" else f"s{self.ablation}"
        control = ["control"] if self.subset == "swap" and self.shuffle == "original" else []
        names = [_slug(encoder), _slug(lm), weights, shuffle, *control, ablation]
        names += ["name"] if self.task == "name" else []
        return "-".join([*names, f"d{self.data_seed}", f"r{self.run_seed}", digest_bytes(canonical.encode())[:8]])


def _marks() -> list[tuple[str, Any]]:
    """Each mark with its field's name."""
    return [(name, mark) for name, field in Condition.model_fields.items() for mark in field.metadata]


def marked(mark: Mark) -> list[str]:
    """The fields with this mark."""
    return [name for name, each in _marks() if each is mark]


def variants(field: str, value: str) -> list[str]:
    """The fields that mean something only where `field` has this value, or this one among others: those last."""
    found = [
        (len(mark.values), name)
        for name, mark in _marks()
        if isinstance(mark, Only) and mark.field == field and value in mark.values
    ]
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


SEEDS = [name for _, name in sorted((mark.place, name) for name, mark in _marks() if isinstance(mark, Seed))]


Table = TypeVar("Table", bound=BaseModel)


def checked(table: type[Table], fields: dict[str, Any], where: str) -> Table:
    """`fields` as this kind of table. Raises `ConditionError`: `where` first, then the first field that is wrong."""
    try:
        return table.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part not in ALTERNATIVES)
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = [*table.model_fields, *(PLACES if issubclass(table, Condition | Inputs) else ())]
            problem = f"there is no such field{meant(field, known) if len(first['loc']) == 1 else ''}"
        told = f"{field}: {problem}; correct this field" if field else f"{problem}; correct this table"
        raise ConditionError(f"{where}: {told}") from None


def _slug(name: str) -> str:
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return "".join(c if c.isalnum() else "_" for c in last)[:24]


class Inputs(BaseModel):
    """Places of one run's dataset folder, feature store and LM (directory or Hugging Face id)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Path
    features: Path
    lm: str

    @field_validator("dataset", "features", "lm", mode="before")
    @classmethod
    def _tidy(cls, place: Any) -> Any:
        return tidy_place(place)


def tidy_place(place: Any) -> Any:
    """A place as it is recorded: "~" is the home folder, and a folder has no slash at its end, nor is it "." only."""
    if not isinstance(place, str | Path) or not str(place).strip():
        return place
    path = expanded(place)
    if not is_folder(path):
        return str(path) if str(place).startswith("~") else place
    return str(path if path.name not in ("", "..") else path.resolve())


class Sweep(BaseModel):
    """A list of runs in the order in which they were written.

    Attributes:
        runs: Pairs of inputs (places of dataset, feature store and LM) and a condition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: tuple[tuple[Inputs, Condition], ...]

    @classmethod
    def expand(cls, grids: list[dict[str, Any]], where: str) -> Self:
        """All combinations of the values in each grid; repeated runs are kept once.

        Args:
            grids: Tables with dataset, features, lm and fields of a condition. Each value may be a list. `together`, a
                list of tables, holds fields that vary together.
            where: Where the grids come from, to begin error messages with.

        Raises:
            ConditionError: It names the grid and the field.
        """
        runs: dict[tuple[Inputs, Condition], None] = {}
        for number, grid in enumerate(grids, 1):
            for places, condition in cross(grid, f"{where}: grid {number}"):
                runs[checked(Inputs, places, f"{where}: grid {number}"), condition] = None
        if not runs:
            raise ConditionError(f"{where}: no runs; add a [[grid]] table with at least dataset, features and lm")
        return cls(runs=tuple(runs))


def cross(grid: dict[str, Any], where: str) -> Iterator[tuple[dict[str, Any], Condition]]:
    """Cartesian product of every list-valued field of `grid`: (places, condition) of each cell.

    Places are dataset, features, encoder and lm, those that the grid has. `together`, a list of tables, is one axis
    whose fields vary together. Raises `ConditionError` that begins with `where`.
    """
    axes = [
        [{key: value} if key != "together" else value for value in (values if isinstance(values, list) else [values])]
        for key, values in grid.items()
    ]
    if (cells := prod(map(len, axes))) > MOST_RUNS:
        raise ConditionError(f"{where}: {cells:,} runs, more than {MOST_RUNS:,}; shorten its lists or split it")
    for parts in product(*axes):
        if not all(isinstance(part, dict) for part in parts):
            raise ConditionError(f"{where}: together: not a list of tables; write [{{lm_seed = 1, run_seed = 1}}, ...]")
        cell = {key: value for part in parts for key, value in part.items()}
        places = {key: cell.pop(key) for key in PLACES if key in cell}
        yield places, Condition.of(cell, where)


def parse_settings(settings: list[str], places: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fields of a condition, or `places`, from NAME=VALUE words; values are TOML where they can be, else text."""
    grid: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or name not in {*Condition.model_fields, *places}:
            known = ", ".join([*Condition.model_fields, *places])
            near = meant(name, [*Condition.model_fields, *places])
            raise ConditionError(f"{setting!r} is not NAME=VALUE with a field of a condition{near}; fields are {known}")
        try:
            grid[name] = parse_toml(f"value = {text}")["value"]
        except ValueError:
            grid[name] = text
    return grid


def parse_toml(text: str) -> dict[str, Any]:
    """`text` as a table. Raises `ValueError` also for what Python has no stack for, now or when it is shown."""
    deep = ValueError(f"it is nested more than {MOST_NESTED} deep")
    if DEEP_KEY.search(text):  # which tomllib takes minutes for
        raise deep
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise deep from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        raise ValueError("a number has too many digits") from None
    level: list[Any] = [document]
    for _ in range(MOST_NESTED):
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
        level = [part for part in level if isinstance(part, dict | list)]
    if level:
        raise deep
    return document
