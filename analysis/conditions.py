"""Which runs are comparable: setups, arms and seeds.

A *setup* is everything but the seeds, the shuffle and the LM's weights (encoder, LM, ablation, order, ...). Inside a
setup an *arm* is a shuffle, and an arm x {pretrained, random} is a *cell*: its runs differ in seeds only, and only
those are averaged. So runs of different batch order, for one, can never end up in one mean.
"""

import re

import pandas as pd

SEEDS = ["data_seed", "run_seed", "lm_seed"]
SHUFFLES = ["original", "across", "within"]
LM_NAMES = {"pretrained": "pretrained LM", "random": "random-init LM"}
RULES = {"across": "across_rule", "within": "within_rule"}
CELL = ["setup", "arm", "lm_init"]
PROVENANCE = [*(f"{name}_path" for name in ("dataset", "store")), *(f"{name}_digest" for name in ("dataset", "store"))]
UNITS = {"ablation": " %"}


def short_name(value: object) -> str:
    """Model name for people: the last two parts of a path, a hub id as it is."""
    text = str(value)
    return "/".join(text.rstrip("/").split("/")[-2:]) if text.startswith(("/", ".", "~")) else text


def base_lm(name: object, lm_init: str) -> str:
    """Name of the LM whose architecture a run has; `lm-random-3`, a random twin of `lm`, counts as `lm`."""
    return re.sub(r"-random-\d+$", "", str(name)) if lm_init == "random" else str(name)


def label_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with columns setup (text; empty when there is only one) and arm, sorted by cell and seeds.

    An arm is named by its shuffle, with the rule in brackets where one sweep holds several rules of it.
    """
    runs = runs.assign(lm=[base_lm(*pair) for pair in zip(runs["lm"], runs["lm_init"], strict=True)])
    arm = runs["shuffle"].astype(object)
    for shuffle, rule in RULES.items():
        rows = runs["shuffle"] == shuffle
        if rule in runs and runs.loc[rows, rule].nunique() > 1:
            arm[rows] = shuffle + " (" + runs.loc[rows, rule].astype(str) + ")"
    varying = [field for field in setup_fields(runs) if runs[field].nunique(dropna=False) > 1]
    setup = [
        " · ".join(
            f"{'' if field in ('encoder', 'lm') else field + ' '}{short_name(row[field])}{UNITS.get(field, '')}"
            for field in varying
        )
        for _, row in runs.iterrows()
    ]
    order = pd.Categorical(runs["shuffle"], SHUFFLES, ordered=True)
    runs = runs.assign(setup=setup, arm=arm, _shuffle=order)
    return runs.sort_values([*varying, "_shuffle", "arm", "lm_init", *SEEDS], kind="stable").drop(columns="_shuffle")


def setups_of(runs: pd.DataFrame) -> list[str]:
    """Setups in the order of `label_runs`; each once."""
    return list(dict.fromkeys(runs["setup"]))


def setup_fields(runs: pd.DataFrame) -> list[str]:
    """Condition columns that tell setups apart, encoder, LM and ablation first."""
    skipped = {*SEEDS, "shuffle", "lm_init", *RULES.values(), *PROVENANCE, "lm_digest", "setup", "arm"}
    first = ["encoder", "lm", "ablation"]
    return first + sorted(set(runs.columns) - skipped - set(first))


def arms_of(runs: pd.DataFrame) -> list[str]:
    """Arms in the order original, across, within; each once."""
    return list(dict.fromkeys(runs.sort_values("shuffle", key=lambda s: s.map(SHUFFLES.index), kind="stable")["arm"]))


def seed_text(runs: pd.DataFrame) -> str:
    """Which seeds varied, in one sentence for the report."""
    parts = []
    for seed in SEEDS:
        rows = runs[runs["lm_init"] == "random"] if seed == "lm_seed" else runs
        values = sorted(rows[seed].dropna().unique())
        if not values:
            continue
        what = f"{seed} (of the random-init LM)" if seed == "lm_seed" else seed
        listed = ", ".join(map(str, values))
        parts.append(f"{what} varied over {listed}" if len(values) > 1 else f"{what} was fixed at {listed}")
    return "; ".join(parts)
