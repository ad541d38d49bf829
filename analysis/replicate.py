"""One study repeated over worlds. The world is the unit, so intervals are about new worlds.

Runs of a condition are averaged inside a world first; a world then counts once, whatever its number of runs or
hypernyms. Conditions are compared world by world: to `analysis.statistics.difference` a world is a seed, and the only
column is the mean over a scope.
"""

import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.lens import GROUP_WORDS, read_lenses
from analysis.predictions import load_sweep
from analysis.statistics.difference import Decision, Difference, difference
from analysis.study import measure as measure_sweep
from analysis.transfer import transfer_groups
from analysis.words import BASELINES, json_rows, number
from cachegen.common.errors import RunError
from cachegen.common.files import write_json, write_text

OWN_LM, OWN_ENCODER = "lm", "encoder"  # names of a world's own models; others are its twins
RANDOM = "random-init LM"
BY_NAMES = ", by names"  # ends the name of a condition of the task `name`
COIN = "coin"
BOTH, APART, TOLD = "lm-two-languages", "lm-two-languages-no-bridge", "lm-property-questions"
CROSSING = (", asked in second", ", learned in second")
CONTROL, CONTROL_NAME = "knn_whitened", "kNN, no LM: "  # the stronger visual control, see `analysis.scores.yardsticks`
SCOPES = {"leaf": "leaves", "heldout": "held-out"}
PARTS = {*SCOPES.values(), *(f"depth {depth}" for depth in range(100))}
ASKED = ("properties", "leaf_properties")  # other questions; the scopes that are left are single hypernyms and layers
MEASURES = {"f1": "points", "auc": "AUC"}  # measure -> its unit in a difference
COIN_AUC = 0.5
# Fixed before any result: what should be above, and below what. A condition that was not run gives no contrast.
CONTRASTS = [
    ("original", "across"),
    ("within", "across"),
    ("original", RANDOM),
    ("original", "within"),
    ("original", "lm-no-hypernym-questions"),
    ("original", "lm-no-family-words"),
    ("encoder-siglip", "original"),
    *((name, COIN) for name in ("original", "within", "across", RANDOM)),
    *((name, CONTROL_NAME + name) for name in ("original", "within", "across", "encoder-siglip")),
    *((name, COIN) for name in ("lm-no-hypernym-questions", "lm-no-family-words", "encoder-siglip")),
    *((above + BY_NAMES, below + BY_NAMES) for above, below in (("original", "across"), ("within", "across"))),
    *((above + BY_NAMES, below + BY_NAMES) for above, below in (("original", RANDOM), ("original", "within"))),
    *((name + BY_NAMES, COIN) for name in ("original", "within", "across", RANDOM)),
    *((name, name + BY_NAMES) for name in ("original", "within", "across", RANDOM)),
    *((BOTH + cell, other + cell) for cell in CROSSING for other in (APART, f"{BOTH}, {RANDOM}", f"{BOTH}, across")),
    *((BOTH, BOTH + cell) for cell in CROSSING),
    *((name + cell, COIN) for name in (BOTH, APART) for cell in CROSSING),
    *((TOLD, f"{TOLD}, {other}") for other in ("across", RANDOM)),
    *((name, COIN) for name in (TOLD, f"{TOLD}, within", f"{TOLD}, across", f"{TOLD}, {RANDOM}")),
]
LAYER = ", layer "  # ends the name of a scope of the lens, before the layer's number
NAMES = {"leaf": "names of leaves", "hypernym": "names of hypernyms"}  # nearest to patches, by kind


def write_replication(out: Path, worlds: Mapping[int, Sequence[Path]]) -> dict[str, Any]:
    """Write worlds.csv, replicate.json and replicate.md into `out`; return the content of the JSON file.

    `worlds`: world seed -> its run directories. F1 in 0..100, AUC in 0..1. JSON: schema, worlds (seeds), conditions and
    contrasts (lists of rows, see `over_worlds` and `compare`); unknown = None.
    """
    table = pd.concat([measure_world(seed, runs) for seed, runs in worlds.items()], ignore_index=True)
    conditions, contrasts = over_worlds(table), compare(table)
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.10g", lineterminator="\n")
    write_text(out / "worlds.csv", text.getvalue())
    result = {
        "schema": 1,
        "worlds": list(worlds),
        "conditions": json_rows(conditions),
        "contrasts": json_rows(contrasts),
    }
    write_json(out / "replicate.json", result)
    write_text(out / "replicate.md", markdown(conditions, contrasts, len(worlds)))
    return result


def measure_world(seed: int, runs: Sequence[Path]) -> pd.DataFrame:
    """One row per condition and scope of one world: means over its runs of the means over categories.

    The visual control without an LM (`analysis.scores.yardsticks`) stands among the conditions, on the same questions.
    Columns: world, condition, scope ("leaves", "held-out", "depth 1", ..., one hypernym, other questions, or a layer of
    the lens), n_categories, n_runs, f1, auc, and the baselines majority_f1, coin_f1, permuted_f1, all of test
    questions. Raises `RunError` for a failed run.
    """
    sweep = load_sweep(runs[0].parent)
    lost = sorted({run.name for run in runs} - set(sweep.runs.index))
    if lost:
        reason = sweep.failed.set_index("run_id")["reason"].get(lost[0], "it is not there")
        raise RunError(f"world {seed}: run {runs[0].parent / lost[0]} has no results: {reason}")
    study = measure_sweep(replace(sweep, runs=sweep.runs.loc[sorted(run.name for run in runs)]))
    depths = {path: table.set_index("category")["depth"] for path, table in study.depths.groupby("dataset_path")}
    test = study.categories[study.categories["split"] == "test"]
    parts, named = [], {}
    for run_id, run in study.runs.loc[[run.name for run in runs]].to_dict("index").items():
        about = {str(field): value for field, value in run.items()}
        name, depth = condition_name(about), depths[str(about["dataset_path"])]
        named[run_id] = name
        parts.append(_scopes(test[test["run_id"] == run_id], depth).assign(condition=name))
        # The control depends on images and labels only: once for each encoder and shuffle.
        own_lm = about["lm_init"] == "pretrained" and Path(str(about["lm"])).name == OWN_LM
        if own_lm and about["task"] == "verify":
            own = study.yardsticks[(study.yardsticks["run_id"] == run_id) & (study.yardsticks["yardstick"] == CONTROL)]
            parts.append(_scopes(own, depth).assign(condition=CONTROL_NAME + name))
    parts.append(_beside(runs).assign(condition=lambda rows: rows["run_id"].map(named)))
    rows = pd.concat(parts)
    keys = ["condition", "scope"]
    means = rows.groupby(keys, sort=False)[["n_categories", *MEASURES, *BASELINES]].mean()
    means.insert(1, "n_runs", rows.groupby(keys, sort=False).size())
    return (
        means.round({"n_categories": 0})
        .astype({"n_categories": "Int64"})
        .reset_index()
        .assign(world=seed)[["world", *keys, *means.columns]]
    )


def condition_name(run: Mapping[str, Any]) -> str:
    """Short name of a run's condition: twin models or random weights, the shuffle where there is one to tell, task."""
    names = [Path(str(run[kind])).name for kind in ("encoder", "lm")]
    parts = [name for name, own in zip(names, (OWN_ENCODER, OWN_LM), strict=True) if name != own]
    if run["lm_init"] == "random":
        parts.append(RANDOM)
    for verb, language in (("learned", run["train_language"]), ("asked", run["test_language"])):
        parts += [f"{verb} in {language}"] if language else []
    if run["shuffle"] != "original" or not parts:
        parts.insert(len(parts) - bool(run["train_language"]) - bool(run["test_language"]), str(run["shuffle"]))
    return ", ".join(parts) + (BY_NAMES if run["task"] == "name" else "")


def _scopes(categories: pd.DataFrame, depth: pd.Series) -> pd.DataFrame:
    """Means over the categories of each scope: leaves, held-out hypernyms, those of each depth, and each alone."""
    columns = [*MEASURES, *BASELINES]
    hypernyms = categories[categories["group"] == "heldout"]
    groups = {name: categories[categories["group"] == group] for group, name in SCOPES.items()}
    own_depth = hypernyms["category"].map(depth)
    groups |= {f"depth {value}": hypernyms[own_depth == value] for value in sorted(own_depth.dropna().unique())}
    means = [{"scope": name, "n_categories": len(rows), **rows[columns].mean()} for name, rows in groups.items()]
    each = hypernyms[columns].astype(float).assign(scope=hypernyms["category"].astype(str), n_categories=1)
    return pd.concat([pd.DataFrame(means), each[["scope", "n_categories", *columns]]], ignore_index=True)


def _beside(runs: Sequence[Path]) -> pd.DataFrame:
    """Answers to other questions and what was read layer by layer, where runs have some: run_id, scope, f1, auc.

    Raises `RunError` for tables that do not count.
    """
    folders = [(run.name, run) for run in runs]
    (asked, notes), lenses = transfer_groups(folders), read_lenses(folders)
    if notes := [*notes, *lenses.notes]:
        raise RunError(notes[0])
    means = asked.groupby(["run_id", "questions"], sort=False)[[*MEASURES]].mean().reset_index()
    parts = [means.rename(columns={"questions": "scope"})]
    for table, kinds, column in ((lenses.layers, GROUP_WORDS, "group"), (lenses.names, NAMES, "kind")):
        if len(table):
            own = table[table["about"] == "label"] if column == "kind" else table
            own = own.sort_values([column, "layer"], ascending=[False, True])  # leaves first
            layers = own["layer"].map(str)
            parts.append(own.assign(scope=own[column].map(kinds) + LAYER + layers)[["run_id", "scope", "auc"]])
    return pd.concat(parts, ignore_index=True)


def over_worlds(table: pd.DataFrame) -> pd.DataFrame:
    """One row per condition, scope and measure: n (worlds), mean, sd, and low, high of the 95 % t interval."""
    rows = []
    for (condition, scope), group in table.groupby(["condition", "scope"], sort=False):
        for measure in [name for name in (*MEASURES, "coin_f1") if group[name].notna().any()]:
            about = {"condition": condition, "scope": scope, "measure": measure}
            rows.append(about | _spread(difference(group[[measure]], unit=MEASURES.get(measure, "points"))))
    return pd.DataFrame(rows)


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """One row per contrast, scope and measure: mean difference over worlds with its interval, as in `over_worlds`.

    `shown`: the interval lies above zero. `equivalent`: the 90 % interval lies within 5 points of F1 (or .05 of AUC).
    """
    values = [*MEASURES, "coin_f1", "coin_auc"]
    wide = table.assign(coin_auc=COIN_AUC).pivot(index="world", columns=["condition", "scope"], values=values)
    wide = wide.dropna(axis=1, how="all")
    present = set(table["condition"])
    rows = []
    for above, below in CONTRASTS:
        if above not in present or below not in present | {COIN}:
            continue
        for scope in [name for name in table["scope"].unique() if name in PARTS or name in ASKED]:
            for measure, unit in MEASURES.items():
                coin = ("coin_f1" if measure == "f1" else "coin_auc", above, scope)
                columns = [(measure, above, scope), coin if below == COIN else (measure, below, scope)]
                if not set(columns) <= set(wide):
                    continue
                gap = difference((wide[columns[0]] - wide[columns[1]]).to_frame(), unit=unit)
                about = {"above": above, "below": below, "scope": scope, "measure": measure}
                verdict = {"shown": gap.decision is Decision.ABOVE, "equivalent": gap.equivalent}
                rows.append(about | _spread(gap) | verdict)
    return pd.DataFrame(rows)


def _spread(gap: Difference) -> dict[str, float]:
    n = gap.n_seeds[0]  # worlds
    return {"n": n, "mean": gap.estimate, "sd": gap.se * n**0.5, "low": gap.low, "high": gap.high}


def markdown(conditions: pd.DataFrame, contrasts: pd.DataFrame, n_worlds: int) -> str:
    """Tables for people: conditions by scope, contrasts on held-out hypernyms and other questions, AUC by layer."""
    cells = {(row["condition"], row["scope"], row["measure"]): row for row in conditions.to_dict("records")}
    names = list(dict.fromkeys(name for name, scope, _ in cells if scope in PARTS))
    scopes = {scope: LAYER in scope for scope in conditions["scope"].unique()}
    asked = [scope for scope in scopes if scope in PARTS]
    columns = [(scope, measure) for scope in asked for measure in MEASURES]
    columns += [(scope, "auc") for scope in scopes if scope in ASKED]
    lines = _table(["condition", *(f"{scope}, {measure.upper()}" for scope, measure in columns)])
    lines += [[name, *(_mean_sd(cells.get((name, scope, m)), m) for scope, m in columns)] for name in names]
    coin = [cells[names[0], scope, "coin_f1"]["mean"] if m == "f1" else COIN_AUC for scope, m in columns]
    values = [_number(value, measure) for value, (_, measure) in zip(coin, columns, strict=True)]
    lines.append([f"fair coin, on the questions of {names[0]}", *values])
    for scope, head in {"held-out": "held-out hypernyms", **{name: name for name in ASKED}}.items():
        own = contrasts[contrasts["scope"] == scope] if len(contrasts) else contrasts
        if len(own):
            lines += [[], *_table([head, *(f"{measure.upper()}, difference [95 %]" for measure in MEASURES)])]
        for (above, below), rows in own.groupby(["above", "below"], sort=False) if len(own) else ():
            gaps = {row["measure"]: row for row in rows.to_dict("records")}
            lines.append([f"{above} − {below}", *(_interval(gaps.get(measure), measure) for measure in MEASURES)])
    if any(scopes.values()):
        seen = [name for name in names if any((name, scope, "auc") in cells for scope in scopes if scopes[scope])]
        lines += [[], *_table(["AUC", *seen])]
        lines += [
            [scope, *(_mean_sd(cells.get((name, scope, "auc")), "auc") for name in seen)]
            for scope in scopes
            if scopes[scope]
        ]
    text = [f"| {' | '.join(line)} |" if line else "" for line in lines]
    text += ["", f"{n_worlds} worlds: mean (SD over worlds); intervals are Student's t over worlds."]
    return "\n".join(text) + "\n"


def _table(head: list[str]) -> list[list[str]]:
    return [head, ["---"] * len(head)]


def _number(value: float, measure: str, sign: bool = False) -> str:
    return number(value, 1 if measure == "f1" else 2, sign)


def _mean_sd(row: Mapping[Hashable, Any] | None, measure: str) -> str:
    if row is None:
        return "–"
    return f"{_number(row['mean'], measure)} ({_number(row['sd'], measure)})"


def _interval(row: Mapping[Hashable, Any] | None, measure: str) -> str:
    if row is None:
        return "–"
    low, high = (_number(row[end], measure, sign=True) for end in ("low", "high"))
    return f"{_number(row['mean'], measure, sign=True)} [{low}, {high}]"
