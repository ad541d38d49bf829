"""A condition: one cell of the experiment (paper section 3), and nothing that is not science.

Everything that can change a number is a field here; paths, device, lockstep group size and checkpoint
interval are not. The run id is made from the fields that differ from their defaults, so a field added
later, at the value that reproduces the old behaviour, leaves all ids as they were.
"""

import json
import tomllib
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cachegen.errors import ConditionError
from cachegen.files import digest_bytes

SCHEMA = 1


class Condition(BaseModel):
    """One run's scientific settings; frozen, so that it can name the run.

    Defaults are the paper's Table 1 where it has a value, with `order = "pairs"`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Language model (paper section 3.2)
    lm_init: Literal["pretrained", "random"] = "pretrained"
    lm_seed: int = Field(0, ge=0, description="weights of a randomly initialised LM; unused when pretrained")
    dtype: Literal["float32", "bfloat16"] = "float32"

    # Questions (EXPERIMENT sections 2 and 3)
    shuffle: Literal["original", "across", "within"] = "original"
    across_rule: Literal["paper", "disjoint"] = "paper"
    within_rule: Literal["paper", "deranged", "release"] = "deranged"
    ablation: int = Field(
        100, ge=0, le=100, description="percent of each hypernym's leaves whose questions are withheld"
    )
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
    order: Literal["pairs", "images"] = "pairs"
    epochs: int = Field(5, ge=1)
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup: float = Field(0.03, ge=0, lt=1, description="share of all steps")
    clip: float = Field(1.0, gt=0)

    # Needed by the microworld's tiny models, absent from the paper.
    standardise: bool = Field(False, description="patch features per dimension, by the training images' mean and SD")
    output_scale: Literal["none", "embedding_rms"] = "none"
    loss: Literal["vocabulary", "answers"] = Field("vocabulary", description="cross-entropy over all tokens, or yes/no")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "{question}" not in self.template:
            raise ValueError("template lacks {question}")
        if self.template.count("{image}") > 1:
            raise ValueError("template has {image} twice")
        for name in ("question_singular", "question_plural"):
            if "{phrase}" not in getattr(self, name):
                raise ValueError(f"{name} lacks {{phrase}}")
        if self.answer_yes == self.answer_no:
            raise ValueError("answer_yes and answer_no are the same")
        return self

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
        names = [_slug(encoder), _slug(lm), weights, self.shuffle, f"a{self.ablation}"]
        return "-".join([*names, f"d{self.data_seed}", f"r{self.run_seed}", digest_bytes(canonical.encode())[:8]])


def _slug(name: str) -> str:
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return "".join(c if c.isalnum() else "_" for c in last)[:24]


class Inputs(BaseModel):
    """Where one run's dataset folder, feature store and LM (directory or Hugging Face id) are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Path
    features: Path
    lm: str


class Sweep(BaseModel):
    """A list of runs, each a pair of inputs and a condition, in the order they were written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: tuple[tuple[Inputs, Condition], ...]

    @classmethod
    def expand(cls, grids: list[dict[str, Any]], where: str) -> Self:
        """Cartesian product of every list-valued field, grid by grid; repeated cells are kept once."""
        runs: dict[tuple[Inputs, Condition], None] = {}
        for number, grid in enumerate(grids, 1):
            axes = [(key, value if isinstance(value, list) else [value]) for key, value in grid.items()]
            for values in product(*(options for _, options in axes)):
                cell = dict(zip((key for key, _ in axes), values, strict=True))
                paths = {key: cell.pop(key) for key in ("dataset", "features", "lm") if key in cell}
                try:
                    runs[Inputs.model_validate(paths), Condition.model_validate(cell)] = None
                except ValidationError as error:
                    problem = error.errors()[0]
                    field = ".".join(map(str, problem["loc"])) or "grid"
                    raise ConditionError(
                        f"{where}: grid {number}: {field}: {problem['msg']}; correct this field"
                    ) from None
        if not runs:
            raise ConditionError(f"{where}: no runs; add a [[grid]] table with at least dataset, features and lm")
        return cls(runs=tuple(runs))


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file: optional `[defaults]`, then `[[grid]]` tables whose lists are crossed.

    Relative `dataset`, `features` and existing `lm` paths are taken from the file's own folder.
    Raises `ConditionError` naming the file and the field.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConditionError(f"sweep file {path} does not exist; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConditionError(f"{path} is not valid TOML: {error}") from None
    unknown = set(document) - {"defaults", "grid"}
    if unknown:
        raise ConditionError(f"{path}: unknown table {sorted(unknown)[0]!r}; use [defaults] and [[grid]]")
    grids = [document.get("defaults", {}) | grid for grid in document.get("grid", [{}])]
    return Sweep.expand([_resolve(grid, path.parent) for grid in grids], str(path))


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Condition fields from NAME=VALUE words; a value is read as TOML where it is TOML, else as text."""
    grid: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or name not in Condition.model_fields:
            known = ", ".join(Condition.model_fields)
            raise ConditionError(f"{setting!r} is not NAME=VALUE with a field of a condition; fields are {known}")
        try:
            grid[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            grid[name] = text
    return grid


def _resolve(grid: dict[str, Any], base: Path) -> dict[str, Any]:
    """Make paths of one grid absolute; an `lm` that is no folder there is a Hugging Face id."""
    resolved = dict(grid)
    for key in ("dataset", "features", "lm"):
        if key not in grid:
            continue
        values = grid[key] if isinstance(grid[key], list) else [grid[key]]
        resolved[key] = [
            str((base / value).resolve()) if key != "lm" or (base / value).exists() else value for value in values
        ]
    return resolved
