"""A condition: one cell of the experiment (paper section 3), and nothing that is not science.

Everything that can change a number is a field here; paths, device, lockstep group size and checkpoint
interval are not. The run id is made from the fields that differ from their defaults, so a field added
later, at the value that reproduces the old behaviour, leaves all ids as they were.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cachegen.common.errors import ConditionError, meant
from cachegen.common.files import digest_bytes, expanded
from cachegen.common.hub import is_folder

SCHEMA = 1
LARGEST = 2**63 - 1  # what 64 bits hold
MOST_RUNS = 100_000  # of one sweep; more are a slip
MOST_CHARACTERS = 10_000  # of a template or question; 120,000 of them took 12 GB
MOST_NESTED = 20  # tables and lists in one another
KEY = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""  # of TOML
DEEP_KEY = re.compile(rf"(?:^|[\[{{,])\s*{KEY}(?:\s*\.\s*{KEY}){{{MOST_NESTED}}}", re.MULTILINE)
MOST_COUNTS = {"epochs": 10**6, "batch": 10**6, "swap_leaves": 10**6}  # memory is taken by them
PLACES = ("dataset", "features", "encoder", "lm")


class Condition(BaseModel):
    """One run's scientific settings; frozen, so that it can name the run.

    Defaults are the paper's Table 1 where it has a value, with `order = "pairs"`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Language model (paper section 3.2)
    lm_init: Literal["pretrained", "random"] = "pretrained"
    lm_seed: int = Field(0, ge=0, description="weights of a randomly initialised LM; unused when pretrained")
    dtype: Literal["float32", "bfloat16"] = "float32"

    # Questions (paper sections 2 and 3)
    shuffle: Literal["original", "across", "within", "swap"] = "original"
    across_rule: Literal["paper", "disjoint"] = "paper"
    within_rule: Literal["paper", "deranged", "release"] = "deranged"
    shuffled: int = Field(100, ge=0, le=100, description="percent of the leaves that an across shuffle moves")
    permutation: int = Field(0, ge=0, description="which permutation of this data seed: replicates of a shuffle")
    subset: Literal["all", "swap"] = Field("all", description="swap: the leaves and hypernyms of the hypernym swap")
    swap_rule: Literal["coherence", "published"] = "coherence"
    swap_leaves: int = Field(20, ge=2, description="leaves sampled from each hypernym of the swap")
    homonyms: Literal["keep", "drop"] = Field("keep", description="leaves that carry a hypernym's name")
    ablation_kind: Literal["random", "systematic"] = "random"
    ablation: int = Field(
        100, ge=0, description="random: percent of each hypernym's leaves withheld; systematic: hypernyms withheld"
    )
    ablation_levels: Literal["nested", "independent"] = "nested"
    scope: Literal["leaf", "mapping"] = "leaf"
    removed_list: Literal["drawn", "published"] = "drawn"
    removed_as_negative: Literal["keep", "never"] = "keep"
    data_seed: int = Field(0, ge=0, description="split, negatives, ablation sample, permutation")

    # Prompt: `{image}` marks where the patches go; without it they follow the first token, as in the release.
    template: str = "{image}\n{question}\n"
    question_singular: str = "Is there {phrase} in this image?"
    question_plural: str = "Are there {phrase} in this image?"
    answer_yes: str = "Yes"
    answer_no: str = "No"

    # Training (paper Table 1); one batch counts (image, question) pairs in both orders.
    run_seed: int = Field(0, ge=0, description="data order, and initial weights unless shared")
    shared_initial_weights: bool = False
    projector_layers: Literal[2, 3] = Field(2, description="3: the release's projector for fused encoders")
    order: Literal["pairs", "images"] = "pairs"
    epochs: int = Field(5, ge=1)
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup: float = Field(0.03, ge=0, lt=1, description="share of all steps")
    clip: float = Field(1.0, gt=0)
    supervise: Literal["answer", "answer_eos"] = Field("answer", description="answer_eos: the release's loss")

    # Needed by the microworld's tiny models, absent from the paper.
    standardise: bool = Field(False, description="patch features per dimension, by the training images' mean and SD")
    output_scale: Literal["none", "embedding_rms"] = "none"
    loss: Literal["vocabulary", "answers"] = Field("vocabulary", description="cross-entropy over all tokens, or yes/no")

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
        if self.supervise == "answer_eos" and self.loss == "answers":
            raise ValueError("supervise = 'answer_eos' needs loss = 'vocabulary': EOS is neither answer")
        return self

    @classmethod
    def of(cls, fields: dict[str, Any], where: str) -> Self:
        """Condition with these fields. Raises `ConditionError` that names the first wrong one."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ConditionError(f"{where}: {_problem(error)}; correct this field") from None

    def changed(self) -> dict[str, Any]:
        """Fields that differ from their defaults."""
        return self.model_dump(exclude_defaults=True)

    def run_id(self, encoder: str, lm: str, digests: dict[str, str]) -> str:
        """Readable slug + 8 hex digits over schema, changed fields and the digests of all inputs.

        `encoder` and `lm` are names or paths; only their last part is shown and neither is hashed, since
        the digests already stand for the contents.
        """
        canonical = json.dumps([SCHEMA, self.changed(), digests], sort_keys=True, ensure_ascii=False)
        weights = "pretrained" if self.lm_init == "pretrained" else f"random{self.lm_seed}"
        shuffle = self.shuffle if self.shuffled == 100 else f"{self.shuffle}{self.shuffled}"
        ablation = f"a{self.ablation}" if self.ablation_kind == "random" else f"s{self.ablation}"
        control = ["control"] if self.subset == "swap" and self.shuffle == "original" else []
        names = [_slug(encoder), _slug(lm), weights, shuffle, *control, ablation]
        return "-".join([*names, f"d{self.data_seed}", f"r{self.run_seed}", digest_bytes(canonical.encode())[:8]])


def _problem(error: ValidationError) -> str:
    """The first problem pydantic found, and where."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "condition"
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such field{meant(field, [*Condition.model_fields, *PLACES])}"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"


def _slug(name: str) -> str:
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return "".join(c if c.isalnum() else "_" for c in last)[:24]


class Inputs(BaseModel):
    """Where one run's dataset folder, feature store and LM (directory or Hugging Face id) are."""

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
    """A list of runs, each a pair of inputs and a condition, in the order they were written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: tuple[tuple[Inputs, Condition], ...]

    @classmethod
    def expand(cls, grids: list[dict[str, Any]], where: str) -> Self:
        """Runs of `cross`; repeated ones are kept once. Raises `ConditionError` naming grid and field."""
        runs: dict[tuple[Inputs, Condition], None] = {}
        for number, grid in enumerate(grids, 1):
            for places, condition in cross(grid, f"{where}: grid {number}"):
                try:
                    runs[Inputs.model_validate(places), condition] = None
                except ValidationError as error:
                    raise ConditionError(f"{where}: grid {number}: {_problem(error)}; correct this field") from None
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
