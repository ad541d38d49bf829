"""Which runs are comparable: setups, labels and seeds, and the names that figures have for them."""

import re
from collections.abc import Iterable, Sequence
from itertools import chain

import pandas as pd

from engine.design.condition import SEEDS, Mark, marked, variants

SHUFFLES = ["original", "across", "within", "swap"]
LM_NAMES = {"pretrained": "pretrained LM", "random": "random-init LM"}
RULES = {shuffle: rules for shuffle in SHUFFLES if (rules := variants("shuffle", shuffle))}
CELL = ["setup", "arm", "lm_init"]
PROVENANCE = [*(f"{name}_path" for name in ("dataset", "store")), *(f"{name}_digest" for name in ("dataset", "store"))]
# Fields that mean something only beside another one: they name a variant of it, and only where several variants occur.
ABLATION_VARIANTS = {kind: variants("ablation_kind", kind) for kind in ("random", "systematic")}
SUBSET_VARIANTS = variants("subset", "swap")
LABELS = [
    *("dataset", "features", "withheld", "asked", "kind", "series", "setup", "arm"),
    *("partial", "shown", "shown_setup"),
]


def short_name(value: object) -> str:
    """Model name for people: the last two parts of a path, a hub id as it is."""
    text = str(value)
    return "/".join(text.rstrip("/").split("/")[-2:]) if text.startswith(("/", ".", "~")) else text


def base_lm(name: object, lm_init: str) -> str:
    """Name of the LM whose architecture a run has; `lm-random-3`, a random twin of `lm`, counts as `lm`."""
    return re.sub(r"-random-\d+$", "", str(name)) if lm_init == "random" else str(name)


def label_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with what says how they compare, sorted by setup, arm, LM weights and seeds.

    New columns: kind (random or systematic ablation, with its variant where a sweep holds several), series and setup
    (text; empty when there is only one), arm (the shuffle, with its dose where it is partial and its rule where there
    are several), partial (a shuffle of some of the leaves only), shown (in the headline) and shown_setup (what tells
    the setups of the headline apart). `lm` loses the number of a random twin.
    """
    runs = runs.assign(lm=[base_lm(*pair) for pair in zip(runs["lm"], runs["lm_init"], strict=True)])
    kind = runs["ablation_kind"].astype(str)
    variants = pd.Series("", index=runs.index)
    for name, fields in ABLATION_VARIANTS.items():
        variants = variants.where(kind != name, _variant(runs, kind == name, fields))
    level = runs["ablation"].astype(str)
    removed = (level + " hypernyms removed").where(runs["ablation"] != 1, "1 hypernym removed")
    withheld = ("ablation " + level + " %").where(kind == "random", removed) + variants
    subset = runs["subset"] == "swap"
    runs = runs.assign(
        kind=kind + variants,
        withheld=withheld,
        asked=("swap subset" + _variant(runs, subset, SUBSET_VARIANTS)).where(subset, "all categories"),
        arm=_arms(runs),
        partial=(runs["shuffle"] == "across") & (runs["shuffled"] < 100),
        dataset=_inputs(runs, "dataset", []),
        features=_inputs(runs, "store", ["dataset_digest", "encoder"]),
    )
    varying = [field for field in setup_fields(runs) if runs[field].nunique(dropna=False) > 1]
    texts = pd.DataFrame({field: _text(runs, field) for field in varying}, index=runs.index)
    runs = runs.assign(
        setup=_joined(texts),
        series=_joined(texts.drop(columns="withheld", errors="ignore")),
        _shuffle=pd.Categorical(runs["shuffle"], SHUFFLES, ordered=True),
    )
    # Levels of an ablation in the order of their numbers, not of their names.
    order = [name for field in varying for name in (["kind", "ablation"] if field == "withheld" else [field])]
    order += ["_shuffle", "shuffled", "arm", "lm_init", *SEEDS]
    runs = runs.sort_values(order, kind="stable").drop(columns="_shuffle")
    strength = runs["ablation"] + 1000 * (runs["ablation_kind"] == "random")  # 100 % withholds more than any list
    headline = strength == strength.groupby(runs["series"]).transform("max")
    whole = headline & ~runs["partial"]
    shown = whole.where(whole.groupby(runs["series"]).transform("any"), headline)
    texts = texts.loc[runs.index]
    return runs.assign(shown=shown, shown_setup=_joined(texts.loc[:, texts[shown].nunique() > 1]))


def shown_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the headline: the strongest ablation of each series, whole shuffles; their setups named shortly."""
    shown = runs[runs["shown"]]
    return shown.assign(setup=shown["shown_setup"])


def setups_of(runs: pd.DataFrame) -> list[str]:
    """Setups in the order of `label_runs`; each once."""
    return list(dict.fromkeys(runs["setup"]))


def setup_fields(runs: pd.DataFrame) -> list[str]:
    """Columns that tell setups apart, encoder, LM and ablation first."""
    first = ["dataset", "encoder", "features", "lm", "withheld", "asked"]
    variant = {*chain(SUBSET_VARIANTS, *RULES.values(), *ABLATION_VARIANTS.values())}
    named = {*marked(Mark.HEADLINE), "lm_digest"}
    return first + sorted(set(runs.columns) - {*SEEDS, *PROVENANCE, *LABELS, *variant, *named, *first, "map"})


def arms_of(runs: pd.DataFrame) -> list[str]:
    """Arms in the order original, across (weaker doses first), within, swap; each once."""
    place = runs["shuffle"].map(SHUFFLES.index)
    ordered = runs.assign(_place=place).sort_values(["_place", "shuffled"], kind="stable")
    return list(dict.fromkeys(ordered["arm"]))


def shuffle_of(arm: str) -> str:
    """The shuffle an arm's name begins with."""
    return arm.split(" ")[0]


def seed_units(runs: pd.DataFrame) -> pd.Series:
    """What counts as one draw of chance among the runs of each cell, as text ("run_seed 42"); index run_id.

    Runs with the same images, label map or random LM are not independent of each other: where data_seed, permutation
    or (of the random-init LM) lm_seed vary within a cell, runs that agree in these count as one. Else each run counts.
    """
    cells = runs.groupby(CELL, sort=False)
    text = pd.Series("", index=runs.index)
    for seed in (seed for seed in SEEDS if seed != "run_seed"):
        varies = (cells[seed].transform("nunique") > 1) & ((seed != "lm_seed") | (runs["lm_init"] == "random"))
        text = text + (seed + " " + runs[seed].astype(str) + ", ").where(varies, "")
    return text.str.rstrip(", ").where(text != "", "run_seed " + runs["run_seed"].astype(str))


def seed_text(runs: pd.DataFrame) -> str:
    """Which seeds varied, in one sentence for the report."""
    parts = []
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
        parts.append(f"{seed}{what} varied over {listed}" if len(values) > 1 else f"{seed}{what} was fixed at {listed}")
    return "; ".join(parts)


def _arms(runs: pd.DataFrame) -> pd.Series:
    arm = runs["shuffle"].astype(object)
    dose = " " + runs["shuffled"].astype(str) + " %"
    arm = arm + dose.where((runs["shuffle"] == "across") & (runs["shuffled"] < 100), "")
    for shuffle, rules in RULES.items():
        rows = runs["shuffle"] == shuffle
        arm = arm.where(~rows, arm + _variant(runs, rows, rules))
    return arm


def _variant(runs: pd.DataFrame, rows: pd.Series, fields: Sequence[str]) -> pd.Series:
    """Text in brackets with those of `fields` that differ among `rows`; empty where none does."""
    differ = [field for field in fields if runs.loc[rows, field].nunique() > 1]
    if not differ:
        return pd.Series("", index=runs.index)
    joined = runs[differ].astype(str).agg(", ".join, axis=1)
    return " (" + joined + ")"


def _inputs(runs: pd.DataFrame, what: str, within: list[str]) -> pd.Series:
    """Name of each run's dataset or store where there are several (`within` the columns named); else all the same."""
    digest = runs[f"{what}_digest"].astype(str)
    if within:
        several = digest.groupby([runs[name] for name in within], dropna=False).transform("nunique") > 1
    else:
        several = pd.Series(digest.nunique() > 1, index=runs.index)
    if not several.any():
        return pd.Series("", index=runs.index)
    name = runs[f"{what}_path"].map(short_name, na_action="ignore").fillna("unknown")
    shared = digest.groupby(name).transform("nunique") > 1
    return name.where(~shared, name + " " + digest.str[:6])


def _text(runs: pd.DataFrame, field: str) -> pd.Series:
    if field in ("encoder", "lm"):
        last = runs[field].astype(str).str.rstrip("/").str.split("/").str[-1]
        return last if last.nunique() == runs[field].nunique() else runs[field].map(short_name)
    values = runs[field].map(short_name)
    return values if field in ("withheld", "asked") else field + " " + values


def _joined(texts: pd.DataFrame) -> pd.Series:
    if texts.empty or not len(texts.columns):
        return pd.Series("", index=texts.index)
    return texts.agg(" · ".join, axis=1)


FAMILIES = ("DINOv2", "SigLIP")
BETWEEN = " · "  # parts of a setup's name


def last_part(name: object) -> str:
    """A model's name without its owner or folder."""
    return str(name).rstrip("/").rsplit("/", 1)[-1]


def encoder_names(encoders: Iterable[object]) -> dict[str, str]:
    """The family of each encoder (DINOv2, SigLIP, or both fused) where that tells it from the others; else its name."""
    found = {
        str(encoder): "+".join(name for name in FAMILIES if name.lower() in str(encoder).lower())
        for encoder in encoders
    }
    families = list(found.values())
    return {
        encoder: family if family and families.count(family) == 1 else short_name(encoder)
        for encoder, family in found.items()
    }


def setup_names(runs: pd.DataFrame, column: str = "setup") -> dict[str, str]:
    """The setups (or series) of `runs` under the names of `encoder_names`."""
    names = encoder_names(runs["encoder"].unique())
    forms = {form: name for encoder, name in names.items() for form in (last_part(encoder), short_name(encoder))}
    return {
        str(setup): BETWEEN.join(forms.get(part, part) for part in str(setup).split(BETWEEN))
        for setup in runs[column].unique()
    }
