"""What the report shows, section by section, as plain values.

Every sentence that claims something is chosen by the numbers here; the template holds only what is true of any study.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.coherence import MEASURES
from analysis.conditions import CELL, LM_NAMES, PROVENANCE, SEEDS, SHUFFLES, seed_text, setups_of, short_name
from analysis.contrasts import EQUIVALENCE_MARGIN, Contrast, Null, chance_checks, confirmatory_contrasts, correlation
from analysis.examples import pick_examples
from analysis.published import CELLS, COHERENCE, COIN, MAJORITY, PAPER, SEED_SPREAD, published
from analysis.study import POOLING, Study, coherence_points

LEAF_FLOOR = 80.0  # below this leaf F1 a failure on hypernyms says little
CELL_SCORES = [
    *("macro_f1", "auc", "majority_f1", "coin_f1", "permuted_f1", "macro_f1_min10", "macro_f1_no_homonyms"),
    *("n_homonyms", "tie_share", "yes_share", "by_vision", "n_categories", "n_categories_min10", "auc_undefined"),
    *("n_yes", "n_no"),
]

RULE_TEXT = {
    ("across", "paper"): "a plain permutation, in which some leaves stay among their own by chance",
    ("across", "disjoint"): "never to a leaf that shares a hypernym",
    ("within", "paper"): "a plain permutation inside each group, fixed points allowed",
    ("within", "deranged"): "no leaf keeps its own label unless it is alone in its group",
    ("within", "release"): "as the authors’ code: a leaf alone in its group joins a more general one",
}

Row = dict[str, Any]


def sections(study: Study) -> Row:
    """Everything the template needs of a study, except figures, world and times."""
    cells = cell_rows(study)
    contrasts = confirmatory_contrasts(study.categories, study.runs)
    nulls = chance_checks(study.categories, study.runs)
    return {
        "cells": cells,
        "configuration": _configuration(study.runs),
        "coherence": _coherence_rows(study),
        "contrasts": contrasts,
        "encoders": [short_name(name) for name in study.runs["encoder"].unique()],
        "examples": pick_examples(study),
        "failed": study.sweep.failed.to_dict("records"),
        "fit": _fit(study),
        "headline": _headline(cells, contrasts, nulls),
        "hypernyms": _hypernym_rows(study),
        "leaf_floor": LEAF_FLOOR,
        "lms": [short_name(name) for name in study.runs["lm"].unique()],
        "many_setups": study.runs["setup"].nunique() > 1,
        "margin": EQUIVALENCE_MARGIN,
        "n_runs": len(study.runs),
        "notes": study.notes,
        "nulls": nulls,
        "paper": {"title": PAPER, "coin": COIN, "majority": MAJORITY, "coherence": COHERENCE, "spread": SEED_SPREAD},
        "published": _published_rows(cells),
        "replication": _replication(_published_rows(cells)),
        "rules": {shuffle: _rules(study.runs, shuffle) for shuffle in ("across", "within")},
        "seed_text": seed_text(study.runs),
    }


def _rules(runs: pd.DataFrame, shuffle: str) -> list[str]:
    """The rules of one shuffle that occur, in words; empty when it was not run."""
    if f"{shuffle}_rule" not in runs:
        return []
    used = runs.loc[runs["shuffle"] == shuffle, f"{shuffle}_rule"].unique()
    return [f"{rule}: {RULE_TEXT.get((shuffle, rule), rule)}" for rule in sorted(used)]


def cell_rows(study: Study) -> list[Row]:
    """One row per setup, arm and LM: its seeds, and mean, lowest and highest of each test score over its runs."""
    groups = {name: study.test(name) for name in ("leaf", "seen", "heldout")}
    rows = []
    for (setup, arm, lm_init), runs in study.runs.groupby(CELL, sort=False):
        row: Row = {
            "setup": setup,
            "arm": arm,
            "lm_init": lm_init,
            "name": f"{LM_NAMES[str(lm_init)]}, {arm}",
            "ablation": runs["ablation"].iloc[0],
            "n": len(runs),
            "seeds": {seed: ", ".join(map(str, sorted(runs[seed].dropna().unique()))) for seed in SEEDS},
        }
        for group, table in groups.items():
            scores = table.loc[runs.index, CELL_SCORES]
            summary = zip(CELL_SCORES, scores.mean(), scores.min(), scores.max(), strict=True)
            row[group] = {name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in summary}
        rows.append(row)
    return rows


def _headline(cells: list[Row], contrasts: list[Contrast], nulls: list[Null]) -> list[str]:
    """The verdict in sentences that follow from the numbers."""
    if not contrasts:
        return ["This study has no pretrained original or within run with held-out hypernyms, so it cannot answer."]
    sentences = []
    setups = list(dict.fromkeys(row["setup"] for row in cells))
    for setup in setups[:3]:
        values = [
            f"{row['heldout']['macro_f1']['mean']:.1f} ({row['name']})"
            for row in cells
            if row["setup"] == setup and np.isfinite(row["heldout"]["macro_f1"]["mean"])
        ]
        sentences.append(f"Held-out hypernyms{', ' + setup if setup else ''}, macro F1: {'; '.join(values)}.")
    shown = sum(contrast.shown for contrast in contrasts)
    if shown == len(contrasts):
        least = min(contrast.difference for contrast in contrasts)
        sentences.append(f"All {shown} contrasts fixed in advance hold; the smallest difference is {least:.1f} points.")
    else:
        verb = "holds" if shown == 1 else "hold"
        sentences.append(f"{shown} of the {len(contrasts)} contrasts fixed in advance {verb}; the rest are not shown.")
    if nulls and len(setups) == 1:
        sentences.append("Against chance: " + "; ".join(f"{null.cell}, is {null.verdict}" for null in nulls) + ".")
    weak = [(row, row["leaf"]["macro_f1"]["mean"]) for row in cells if row["leaf"]["macro_f1"]["mean"] < LEAF_FLOOR]
    if weak:
        named = [f"{f1:.1f} ({', '.join(filter(None, (row['name'], row['setup'])))})" for row, f1 in weak]
        sentences.append(
            f"Caution: the trained leaves themselves reach only {'; '.join(named)}; "
            "where leaves are not learned, failing on hypernyms says little."
        )
    return sentences


def _fit(study: Study) -> list[Row]:
    """Correlation of coherence (centred, and as the paper has it) and held-out F1 over hypernyms, per setup and arm."""
    rows = []
    for (setup, arm), here in coherence_points(study).groupby(["setup", "arm"]):
        f1 = here["f1"].to_numpy(float)
        fits = {name: correlation(here[name].to_numpy(float), f1) for name in ("centred", "all_pairs")}
        rows.append({"setup": setup, "arm": str(arm), **fits})
    order = {setup: place for place, setup in enumerate(setups_of(study.runs))}
    return sorted(rows, key=lambda row: (order[row["setup"]], SHUFFLES.index(row["arm"].split(" ")[0]), row["arm"]))


def _coherence_rows(study: Study) -> list[Row]:
    """Mean (SD) over hypernyms of every variant, per encoder, arm and pooling, and what the maps kept."""
    hypernyms = study.coherence[study.coherence["kind"] == "hypernym"]
    if hypernyms.empty:
        return []
    rows = []
    for (encoder, arm, pooled), table in hypernyms.groupby(["encoder", "arm", "pooled"], sort=False):
        kept = study.kept[(study.kept["encoder"] == encoder) & (study.kept["arm"] == arm)]
        rows.append(
            {
                "encoder": short_name(encoder),
                "arm": arm,
                "pooled": "patches" if pooled == POOLING else "all tokens",
                "values": [(float(table[name].mean()), float(table[name].std())) for name in MEASURES],
                "pairs_kept": float(kept["pairs_kept"].mean()),
                "leaves_fixed": float(kept["leaves_fixed"].mean()),
                "n_maps": len(kept),
            }
        )
    return rows


def _hypernym_rows(study: Study) -> Row:
    """Held-out F1 and AUC per hypernym and cell (means over runs), with the numbers of yes and no questions."""
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    test = test.merge(study.runs[CELL], left_on="run_id", right_index=True)
    columns = [tuple(row) for row in study.runs[CELL].drop_duplicates().itertuples(index=False)]
    means = test.groupby([*CELL, "category"])[["f1", "auc", "n_yes", "n_no"]].mean().to_dict("index")
    asked = set(test[CELL].itertuples(index=False, name=None))
    columns = [column for column in columns if column in asked]
    names = sorted(test["category"].unique())
    return {
        "columns": [(setup, arm, LM_NAMES[lm_init]) for setup, arm, lm_init in columns],
        "rows": [{"name": name, "cells": [means.get((*column, name)) for column in columns]} for name in names],
    }


def _published_rows(cells: list[Row]) -> list[Row]:
    """The paper’s cells, each with ours beside it: the first setup at 100 % ablation, as the paper’s are."""
    full = [row for row in cells if row["ablation"] == 100]
    rows = []
    for lm_init, shuffle in dict.fromkeys((cell.lm_init, cell.shuffle) for cell in CELLS):
        ours = next((row for row in full if (row["lm_init"], row["arm"]) == (lm_init, shuffle)), None)
        mean = {
            f"{group}_{score}": ours[group][score]["mean"] if ours else math.nan
            for group, score in (
                ("leaf", "macro_f1"),
                ("heldout", "macro_f1"),
                ("heldout", "coin_f1"),
                ("heldout", "auc"),
            )
        }
        rows.append({"name": f"{LM_NAMES[lm_init]}, {shuffle}", "paper": published(lm_init, shuffle), **mean})
    return rows


def _replication(rows: list[Row]) -> list[str]:
    """One sentence per cell of the paper: does ours agree, does it fall short, or was it not run?"""
    sentences = []
    for row in rows:
        ours, coin = row["heldout_macro_f1"], row["heldout_coin_f1"]
        low = min(cell.heldout for cell in row["paper"])
        if not np.isfinite(ours):
            sentences.append(f"{row['name']}: not run here, so nothing is said about it.")
            continue
        if abs(low - COIN) > EQUIVALENCE_MARGIN:  # a cell in which the paper finds transfer
            what = (
                f"{low - ours:.1f} points short of the paper’s {low}" if ours < low else f"not below the paper’s {low}"
            )
        elif abs(ours - coin) <= EQUIVALENCE_MARGIN:
            what = f"within {EQUIVALENCE_MARGIN:g} points of a coin ({coin:.1f}), as in the paper"
        elif ours > coin:
            what = (
                f"{ours - coin:.1f} points above a coin, where the paper’s is at the coin: chance was not reached here"
            )
        else:
            area = f"AUC {row['heldout_auc']:.2f}, where 0.5 is chance"
            what = f"{coin - ours:.1f} points below a coin, where the paper’s is near it ({area})"
        sentences.append(f"{row['name']}: held-out F1 {ours:.1f}, {what}.")
    return sentences


def _configuration(runs: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Condition fields, each with all its values over the runs."""
    skipped = {"setup", "arm", "map", *(name for name in PROVENANCE if name.endswith("_path"))}
    fields = [field for field in runs if field not in skipped]
    return [(str(field), list(dict.fromkeys(runs[field].dropna().astype(str)))) for field in fields]
