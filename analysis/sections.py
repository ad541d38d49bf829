"""What the report shows, section by section, as plain values.

Every sentence that claims something is chosen by the numbers here; the template holds only what is true of any study.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.ablation import ablation_sentences
from analysis.beside_paper import pair_cells, replication
from analysis.coherence import MEASURES
from analysis.comparisons import compare_setups, compare_swap, compare_yardsticks, yardstick_sentences
from analysis.conditions import (
    CELL,
    LABELS,
    LM_NAMES,
    PROVENANCE,
    SEEDS,
    arms_of,
    seed_text,
    setups_of,
    short_name,
    shown_runs,
)
from analysis.contrasts import EQUIVALENCE_MARGIN, Contrast, Null, chance_checks, confirmatory_contrasts, correlation
from analysis.dose import dose_sentences, dose_table
from analysis.examples import pick_examples
from analysis.neighbours import NEIGHBOURS
from analysis.published import COHERENCE, COIN, MAJORITY, PAPER, SEED_SPREAD
from analysis.study import POOLING, Study, coherence_points
from analysis.yardsticks import YARDSTICKS

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
    shown = shown_runs(study.runs)
    every_cell, cells = cell_rows(study, study.runs), cell_rows(study, shown)
    contrasts = confirmatory_contrasts(study.categories, shown)
    nulls = chance_checks(study.categories, shown)
    beside_paper = pair_cells(cells)
    comparisons = compare_yardsticks(study.runs, study.categories, study.yardsticks)
    return {
        "ablation": study.ablation.to_dict("records"),
        "ablation_sentences": ablation_sentences(study.ablation),
        "cells": cells,
        "comparisons": comparisons,
        "conditions": _condition_rows(every_cell),
        "configuration": _configuration(study.runs),
        "coherence": _coherence_rows(study),
        "composed": any(c.yardstick == "composition" for c in comparisons),
        "contrasts": contrasts,
        "depth": study.depth.to_dict("records"),
        "dose": dose_table(study.dose).to_dict("records"),
        "dose_sentences": dose_sentences(study.dose),
        "encoders": [short_name(name) for name in study.runs["encoder"].unique()],
        "every_cell": every_cell,
        "examples": pick_examples(study),
        "failed": study.sweep.failed.to_dict("records"),
        "fit": _fit(study),
        "headline": _headline(cells, contrasts, nulls),
        "hypernyms": _hypernym_rows(study),
        "leaf_floor": LEAF_FLOOR,
        "lms": [short_name(name) for name in study.runs["lm"].unique()],
        "many_curves": study.ablation["series"].nunique() > 1,
        "many_doses": study.dose["setup"].nunique() > 1,
        "many_series": study.runs["series"].nunique() > 1,
        "many_setups": study.runs["setup"].nunique() > 1,
        "margin": EQUIVALENCE_MARGIN,
        "many_shown": shown["setup"].nunique() > 1,
        "neighbours": NEIGHBOURS,
        "n_runs": len(study.runs),
        "notes": study.notes,
        "nulls": nulls,
        "paper": {"title": PAPER, "coin": COIN, "majority": MAJORITY, "coherence": COHERENCE, "spread": SEED_SPREAD},
        "published": beside_paper,
        "purity": _purity_rows(study),
        "replication": replication(beside_paper),
        "rules": {shuffle: _rules(study.runs, shuffle) for shuffle in ("across", "within")},
        "partial": bool(study.runs["partial"].any()),
        "permutations": study.runs["permutation"].nunique() > 1,
        "setup_gaps": compare_setups(study.runs, study.categories),
        "shown": ", ".join(dict.fromkeys(shown["withheld"])),
        "seed_text": seed_text(study.runs),
        "swapped": bool((study.runs["shuffle"] == "swap").any()),
        "swaps": compare_swap(study.runs, study.categories),
        "text": _text_rows(study),
        "yardstick_names": YARDSTICKS,
        "yardstick_sentences": yardstick_sentences(comparisons),
    }


def _rules(runs: pd.DataFrame, shuffle: str) -> list[str]:
    """The rules of one shuffle that occur, in words; empty when it was not run."""
    if f"{shuffle}_rule" not in runs:
        return []
    used = runs.loc[runs["shuffle"] == shuffle, f"{shuffle}_rule"].unique()
    return [f"{rule}: {RULE_TEXT.get((shuffle, rule), rule)}" for rule in sorted(used)]


def cell_rows(study: Study, chosen: pd.DataFrame) -> list[Row]:
    """Of the `chosen` runs, one row per setup, arm and LM: seeds, and mean, lowest and highest of each test score."""
    groups = {name: study.test(name) for name in ("leaf", "seen", "heldout")}
    rows = []
    for (setup, arm, lm_init), runs in chosen.groupby(CELL, sort=False):
        row: Row = {
            "setup": setup,
            "arm": arm,
            "lm_init": lm_init,
            "name": f"{LM_NAMES[str(lm_init)]}, {arm}",
            "encoder": runs["encoder"].iloc[0],
            "lm": runs["lm"].iloc[0],
            "series": runs["series"].iloc[0],
            "kind": runs["kind"].iloc[0],
            "ablation": runs["ablation"].iloc[0],
            "asked": runs["asked"].iloc[0],
            "n": len(runs),
            "seeds": {seed: ", ".join(map(str, sorted(runs[seed].dropna().unique()))) for seed in SEEDS},
        }
        for group, table in groups.items():
            scores = table.loc[runs.index, CELL_SCORES]
            summary = zip(CELL_SCORES, scores.mean(), scores.min(), scores.max(), strict=True)
            row[group] = {name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in summary}
        rows.append(row)
    return rows


def _condition_rows(cells: list[Row]) -> list[Row]:
    """Cells that differ in their ablation level only, as one row with all levels."""
    rows: dict[tuple[str, ...], Row] = {}
    for cell in cells:
        key = tuple(cell[name] for name in ("series", "kind", "arm", "lm_init"))
        row = rows.setdefault(key, {**cell, "levels": [], "n": 0, "seeds": {seed: {} for seed in SEEDS}})
        row["levels"].append(str(cell["ablation"]))
        row["n"] += cell["n"]
        for seed in SEEDS:
            row["seeds"][seed] |= dict.fromkeys(cell["seeds"][seed].split(", "))
    for row in rows.values():
        unit = " %" if row["kind"].startswith("random") else f" hypernyms ({row['kind']})"
        row["withheld"] = ", ".join(row["levels"]) + unit
        row["seeds"] = {seed: ", ".join(values) for seed, values in row["seeds"].items()}
    return list(rows.values())


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
    order = {setup: place for place, setup in enumerate(setups_of(shown_runs(study.runs)))}
    arms = arms_of(study.runs)
    return sorted(rows, key=lambda row: (order[row["setup"]], arms.index(row["arm"])))


def _coherence_rows(study: Study) -> list[Row]:
    """Mean (SD) over hypernyms of every variant, per encoder, arm and pooling, and what the maps kept."""
    hypernyms = study.coherence[study.coherence["kind"] == "hypernym"]
    hypernyms = hypernyms[hypernyms["map"].isin(shown_runs(study.runs)["map"])]
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


def _purity_rows(study: Study) -> list[Row]:
    """Mean (SD) over hypernyms of neighbourhood purity per encoder, arm and space, with what chance gives."""
    table = study.purity[study.purity["map"].isin(shown_runs(study.runs)["map"])]
    rows = []
    for (encoder, arm, space), here in table[table["kind"] == "hypernym"].groupby(
        ["encoder", "arm", "space"], sort=False
    ):
        values = [(float(here[name].mean()), float(here[name].std())) for name in ("purity", "purity_other_leaves")]
        chance = [float(here[name].mean()) for name in ("chance", "chance_other_leaves")]
        rows.append(
            {
                "encoder": short_name(encoder),
                "arm": arm,
                "space": space,
                "cells": list(zip(values, chance, strict=True)),
            }
        )
    return rows


def _text_rows(study: Study) -> list[Row]:
    """Per cell with a probe: means over hypernyms of text and images, and how the two go together."""
    rows = []
    cells = dict(iter(study.text.groupby(CELL)))
    for key in shown_runs(study.runs)[CELL].drop_duplicates().itertuples(index=False, name=None):
        if key not in cells:
            continue
        setup, arm, lm_init = key
        here = cells[key]
        f1 = here["f1"].to_numpy(float)
        rows.append(
            {
                "setup": setup,
                "name": f"{LM_NAMES[lm_init]}, {arm}",
                "means": {name: float(here[name].mean()) for name in ("text_f1", "text_item_f1", "text_auc", "f1")},
                "fits": [correlation(here[name].to_numpy(float), f1) for name in ("text_f1", "text_item_f1")],
            }
        )
    return rows


def _hypernym_rows(study: Study) -> Row:
    """Held-out F1 and AUC per hypernym and cell (means over runs), with the numbers of yes and no questions."""
    test = study.categories[(study.categories["split"] == "test") & (study.categories["group"] == "heldout")]
    shown = shown_runs(study.runs)
    test = test.merge(shown[CELL], left_on="run_id", right_index=True)
    columns = [tuple(row) for row in shown[CELL].drop_duplicates().itertuples(index=False)]
    means = test.groupby([*CELL, "category"])[["f1", "auc", "n_yes", "n_no"]].mean().to_dict("index")
    asked = set(test[CELL].itertuples(index=False, name=None))
    columns = [column for column in columns if column in asked]
    names = sorted(test["category"].unique())
    return {
        "columns": [(setup, arm, LM_NAMES[lm_init]) for setup, arm, lm_init in columns],
        "rows": [{"name": name, "cells": [means.get((*column, name)) for column in columns]} for name in names],
    }


def _configuration(runs: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Condition fields, each with all its values over the runs."""
    skipped = {*LABELS, "map", *(name for name in PROVENANCE if name.endswith("_path"))}
    fields = [field for field in runs if field not in skipped]
    return [(str(field), list(dict.fromkeys(runs[field].dropna().astype(str)))) for field in fields]
