"""Sweep files and sweep presets: TOML whose lists are crossed into runs.

    about = "..."           one line
    settings = "release"    preset whose [defaults] come first
    include = ["fig3"]      sweep presets whose runs belong to this sweep too
    [defaults]              fields of all grids
    [[grid]]                fields; a list is an axis, `together` is an axis of tables
    [[transfer]]            questions to be put to the runs once they are done (`engine.design.question_sets`)
    [lens]                  how the runs are read by layers once they are done (`engine.runs.lens`)
    [tune]                  how `crosstax tune` searches fields that are left open (`engine.sweeps.tune.table`)

Dataset and features may be left to the command line: a grid then names its `encoder`, which is looked up in the
feature stores that are given.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cachegen.common.errors import ConditionError, StoreError, meant
from cachegen.common.files import expanded, read_bounded
from cachegen.common.hub import is_there, looks_like_path
from cachegen.features.store import FeatureStore
from engine.design.condition import MOST_RUNS, PLACES, Condition, Inputs, Sweep, checked, cross, parse_toml, tidy_place
from engine.design.question_sets import QuestionSource, question_source
from engine.runs.lens import LensSettings
from engine.sweeps.presets import Preset, load_preset, preset_names

MOST_BYTES = 2**20  # of a sweep file
# Entry of a sweep file -> its type, what a list holds, and both in words.
FORMS: dict[str, tuple[type, type | None, str]] = {
    "about": (str, None, "text"),
    "settings": (str, None, "text"),
    "include": (list, str, "list of texts"),
    "defaults": (dict, None, "table"),
    "grid": (list, dict, "list of tables"),
    "probe": (dict, None, "table"),
    "tune": (dict, None, "table"),
    "transfer": (list, dict, "list of tables"),
    "lens": (dict, None, "table"),
}

# Names of the same encoder in timm and transformers; the tag after a dot is timm's name of the weights.
TIMM_NAMES = {
    "dinov2-with-registers-large": "vit_large_patch14_reg4_dinov2",
    "siglip-so400m-patch14-224": "vit_so400m_patch14_siglip_224",
}


@dataclass(frozen=True)
class Wanted:
    """One run as a sweep file asks for it; what is left to the command line is None."""

    dataset: Path | None
    features: Path | None
    encoder: str | None
    lm: str
    condition: Condition

    @property
    def slug(self) -> str:
        """The readable part of its run id."""
        return self.condition.run_id(self.encoder or "", self.lm, {})[:-9]


class ProbeTable(BaseModel):
    """What a sweep of text-only probes says: its LMs, and options of `crosstax probe`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lm: tuple[str, ...]
    method: Literal["question", "plausibility"] = "question"
    negatives: Literal["image-level", "distinct", "all"] | None = None
    lm_init: Literal["pretrained", "random"] = "pretrained"
    lm_seed: int = 0
    data_seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"


def read_sweep(
    source: Path | Preset, settings: str | None = None, overrides: dict[str, Any] | None = None
) -> list[Wanted]:
    """Runs of a sweep file or preset, in the order they are written, each once.

    `settings` replaces the preset that the file starts from; `overrides` replace fields of every grid. Relative
    paths are taken from the file's own folder. Raises `ConditionError` naming file and field.
    """
    runs: dict[Wanted, None] = {}
    for run in _runs(source, settings, overrides or {}):
        runs[run] = None
        if len(runs) > MOST_RUNS:
            raise ConditionError(f"{_name(source)}: more than {MOST_RUNS:,} runs; shorten its lists or split it")
    if not runs:
        raise ConditionError(f"{_name(source)}: no runs; add a [[grid]] table with at least an lm")
    return list(runs)


def _runs(source: Path | Preset, settings: str | None, overrides: dict[str, Any]) -> Iterator[Wanted]:
    for where, fields in read_grids(source, settings, overrides):
        for places, condition in cross(fields, where):
            yield _wanted(places, condition, where)


def read_grids(
    source: Path | Preset, settings: str | None, overrides: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each grid stands, for messages, and all its fields, those of settings and defaults among them.

    Raises `ConditionError` for a file that cannot be read, or leaves fields open to `crosstax tune`.
    """
    name, document = _name(source), read_document(source)
    if isinstance(source, Preset) and not source.is_sweep:
        raise ConditionError(f"preset {name!r} is settings, no sweep; use it as --preset fig6 --settings {name}")
    if unset := [field for field in _searched(document) if field not in overrides]:
        raise ConditionError(f"{name} leaves {unset[0]} to be searched; use `crosstax tune`, or give it with --set")
    chosen = settings or document.get("settings")
    for other in document.get("include", []):
        yield from read_grids(load_preset(other), chosen, overrides)
    first = default_fields(chosen) | document.get("defaults", {})
    for number, grid in enumerate(document.get("grid", [] if "include" in document else [{}]), 1):
        fields = first | grid | overrides
        where = f"{name}: grid {number}"
        if isinstance(source, Path):
            fields = _absolute(fields, source.parent, where)
        if fields.get("dtype") == "auto":
            fields["dtype"] = _native_dtype()
        yield where, fields


def _searched(document: dict[str, Any]) -> list[str]:
    """Fields that a file leaves to `crosstax tune`, which says what is wrong with its table."""
    table = document.get("tune")
    space = table.get("space") if isinstance(table, dict) else None
    return list(space) if isinstance(space, dict) else []


def _native_dtype() -> str:
    """What "auto" stands for on this machine; runs record the precision itself."""
    from cachegen.common.device import best_dtype, choose_device  # torch takes seconds to import

    return best_dtype(choose_device("auto"))[0]


def read_document(source: Path | Preset) -> dict[str, Any]:
    """The TOML of a sweep file or preset. Raises `ConditionError` if it cannot be read or has an unknown table."""
    if isinstance(source, Preset):
        return source.document
    try:
        document = parse_toml(_text_of(read_bounded(source, MOST_BYTES)))
    except FileNotFoundError:
        preset = f"give the preset of this name as --preset {source}" if str(source) in preset_names() else ""
        raise ConditionError(f"sweep file {source} does not exist; {preset or 'check the path'}") from None
    except OSError as error:
        raise ConditionError(f"sweep file {source} cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise ConditionError(f"{source} is not valid TOML: {error}") from None
    if unknown := sorted(set(document) - set(FORMS)):
        raise ConditionError(
            f"{source}: unknown table {unknown[0]!r}{meant(unknown[0], FORMS)}; use [defaults] and [[grid]]"
        )
    for name, value in document.items():
        kind, inside, what = FORMS[name]
        sound = isinstance(value, kind)
        if not sound or (inside and not all(isinstance(each, inside) for each in document[name])):
            raise ConditionError(f"{source}: {name}: not a {what}; see `crosstax presets fig6` for its form")
    return document


def _text_of(content: bytes) -> str:
    """UTF-8, with or without a byte order mark. Raises `ValueError` that names what it is instead."""
    for mark, name in ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):
        if content.startswith(mark):
            raise ValueError(f"it is {name}; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, letter = content.count(b"\n", 0, error.start) + 1, content[error.start : error.start + 1]
        raise ValueError(
            f"byte 0x{letter.hex()} in line {line} is not UTF-8 ({letter.decode('latin-1')!r} if it is Latin-1); "
            "save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError("it has NUL bytes, as UTF-16 and damaged files have; save it as UTF-8")
    return text


def probe_table(source: Path | Preset) -> ProbeTable | None:
    """The [probe] table of a sweep of text-only probes; None for a sweep of runs.

    Raises `ConditionError` naming the field that is wrong.
    """
    table = read_document(source).get("probe")
    if table is None:
        return None
    return checked(ProbeTable, table | {"lm": _tidy_lms(table.get("lm"))}, f"{_name(source)}: [probe]")


def _tidy_lms(named: Any) -> Any:
    return list(map(tidy_place, named)) if isinstance(named, list) else [tidy_place(named)] if named else named


def transfer_tables(source: Path | Preset) -> list[QuestionSource]:
    """The [[transfer]] tables of a sweep, relative paths from its folder. Raises `ConditionError` for a wrong one."""
    base = source.parent if isinstance(source, Path) else Path()
    tables = read_document(source).get("transfer", [])
    asked = [question_source(f"{_name(source)}: transfer {n}", table, base) for n, table in enumerate(tables, 1)]
    names = [each.called for each in asked]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConditionError(f"{_name(source)}: two [[transfer]] tables are called {twice[0]!r}; give one another name")
    return asked


def lens_table(source: Path | Preset) -> LensSettings | None:
    """The [lens] table of a sweep; None if it has none. Raises `ConditionError` for a wrong one."""
    table = read_document(source).get("lens")
    return None if table is None else checked(LensSettings, table, f"{_name(source)}: [lens]")


def default_fields(settings: str | None) -> dict[str, Any]:
    """Fields that a settings preset sets, those of the settings it starts from included."""
    if settings is None:
        return {}
    preset = load_preset(settings)
    if preset.is_sweep:
        raise ConditionError(f"preset {settings!r} is a sweep, no settings; use it as --preset {settings}")
    return default_fields(preset.document.get("settings")) | preset.document.get("defaults", {})


def _wanted(places: dict[str, Any], condition: Condition, where: str) -> Wanted:
    for field in PLACES:
        if not isinstance(places.get(field, ""), str):
            raise ConditionError(f"{where}: {field}: not a text; correct this field")
    if "lm" not in places:
        raise ConditionError(f"{where}: lm: Field required; name a directory or a Hugging Face id")
    if "features" in places and "encoder" in places:
        raise ConditionError(f"{where}: has features and encoder; give one of them")
    places = {name: tidy_place(place) for name, place in places.items()}
    dataset, features = (Path(places[name]) if name in places else None for name in ("dataset", "features"))
    return Wanted(dataset, features, places.get("encoder"), places["lm"], condition)


def _name(source: Path | Preset) -> str:
    return source.name if isinstance(source, Preset) else str(source)


def _absolute(fields: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    """Make paths of one grid absolute; an `lm` that is no folder there is a Hugging Face id."""
    resolved = dict(fields)
    for key in {"dataset", "features", "lm"} & set(fields):
        values = fields[key] if isinstance(fields[key], list) else [fields[key]]
        try:
            resolved[key] = [
                str((base / expanded(value)).resolve()) if _is_path(key, value, base) else value for value in values
            ]
        except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, a link in a circle
            raise ConditionError(f"{where}: {key} is no path ({error}); correct this field") from None
    return resolved


def _is_path(key: str, value: Any, base: Path) -> bool:
    """Whether the value of a place is a path from `base` on; an LM may be an id, or lie in the working directory."""
    if not isinstance(value, str) or key != "lm":
        return isinstance(value, str)
    place = expanded(value)
    return bool(value.strip()) and ((base / place).exists() or (looks_like_path(value) and not is_there(place)))


def same_encoder(asked: str, recorded: str) -> bool:
    """Whether two names (timm, Hugging Face id, directory) are of one encoder."""
    if "+" in asked + recorded:  # fused encoders are named in full
        return asked == recorded
    one, other = (timm_name(name) for name in (asked, recorded))
    return one == other or (one[0] == other[0] and "" in (one[1], other[1]))


def timm_name(name: str) -> tuple[str, str]:
    """Architecture and tag (or "") of an encoder's name, a Hugging Face id translated."""
    last = name.rstrip("/").rsplit("/", 1)[-1]
    architecture, _, tag = TIMM_NAMES.get(last, last).partition(".")
    return architecture, tag


def locate(runs: Iterable[Wanted], dataset: Path | None, stores: Sequence[Path]) -> list[Wanted]:
    """Fill in what was given on the command line: the dataset, and for each encoder the store that holds it.

    A run that names neither features nor encoder takes every given store. Stores that do not exist (yet) are
    skipped; what stays None is what `complete` asks for.
    """
    recorded = {path: _recorded_encoder(path) for path in stores}
    located: dict[Wanted, None] = {}
    for run in runs:
        run = replace(run, dataset=dataset or run.dataset)
        if run.features is not None:
            recorded.setdefault(run.features, _recorded_encoder(run.features))
            located[replace(run, encoder=recorded[run.features])] = None
            continue
        fitting = [
            path
            for path in stores
            if (name := recorded[path]) and (run.encoder is None or same_encoder(run.encoder, name))
        ]
        for path in fitting if run.encoder is None else fitting[:1]:
            located[replace(run, features=path, encoder=recorded[path])] = None
        if not fitting:
            located[run] = None
    return list(located)


def _recorded_encoder(path: Path) -> str | None:
    """The encoder a store was made with; None if there is no store."""
    return str(FeatureStore.open(path, allow_pending=True).attributes["encoder"]) if path.is_file() else None


def complete(runs: Iterable[Wanted], where: str, stores: Sequence[Path] = ()) -> Sweep:
    """The sweep of fully located runs. Raises `ConditionError` or `StoreError` saying what to give."""
    found = []
    for run in runs:
        if run.dataset is None:
            raise ConditionError(f"{where} leaves the dataset open; give --dataset DIR")
        if run.features is None and run.encoder is None:
            raise ConditionError(f"{where} leaves the features open; give --features FILE.h5")
        if run.features is None:
            missing = ", ".join(f"{path} ({_recorded_encoder(path) or 'not there'})" for path in stores)
            raise StoreError(
                f"{where} needs features of {run.encoder}, and {missing or 'no store'} was given; make them with "
                f"`crosstax extract {run.dataset} --encoder {run.encoder} --out FILE.h5` and give --features FILE.h5"
            )
        found.append((Inputs(dataset=run.dataset, features=run.features, lm=run.lm), run.condition))
    return Sweep(runs=tuple(found))


def choose_runs(runs: Sequence[Wanted], only: Sequence[str], limit: int | None) -> list[Wanted]:
    """Runs that fit every one of `only` (several values of one field: any of them), the first `limit` of them.

    A word is FIELD=VALUE, with a field of a condition, lm or encoder, or else a part of the run id (or all of it).
    Raises `ConditionError` if nothing fits.
    """
    fields: dict[str, list[str]] = {}
    parts = []
    for word in only:
        name, separator, value = word.partition("=")
        if separator and (name in Condition.model_fields or name in ("lm", "encoder")):
            fields.setdefault(name, []).append(value)
        else:
            parts.append(word)
    chosen = [
        run
        for run in runs
        if all(part in run.slug or run.slug in part for part in parts)
        and all(any(_fits(run, name, value) for value in values) for name, values in fields.items())
    ]
    if not chosen:
        raise ConditionError(
            f"no run fits --only {' '.join(only)}; use FIELD=VALUE or a part of a run id such as {runs[0].slug}"
        )
    return chosen[:limit]


def _fits(run: Wanted, name: str, value: str) -> bool:
    if name in ("lm", "encoder"):
        full = str(getattr(run, name))
        return value == full or full.endswith(f"/{value}")
    actual = getattr(run.condition, name)
    if isinstance(actual, bool):
        return value.lower() == str(actual).lower()
    if isinstance(actual, int | float):
        try:
            return float(value) == actual
        except ValueError:
            return False
    return value == actual
