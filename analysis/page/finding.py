"""The main finding: sentences that follow from the numbers, and the study in a few facts."""

import numpy as np
import pandas as pd

from analysis.cells import Row
from analysis.conditions import seed_text, short_name
from analysis.contrasts import Contrast
from analysis.page.page import Data, Page
from analysis.tuning import EXPLORATORY

LEAF_FLOOR = 80.0  # below this leaf F1 a failure on hypernyms says little
SETUPS = 3  # of the headline, that are spelled out


def finding(page: Page) -> Data:
    """Verdict and facts at the head of the page."""
    runs = page.study.runs
    lms = [short_name(name) for name in runs["lm"].unique()]
    encoders = [short_name(name) for name in runs["encoder"].unique()]
    facts = [
        ("runs", f"{len(runs)} in {len(page.every_cell)} condition{'s' if len(page.every_cell) > 1 else ''}"),
        ("encoders" if len(encoders) > 1 else "encoder", ", ".join(encoders)),
        ("LMs" if len(lms) > 1 else "LM", ", ".join(lms)),
        ("seeds", seed_text(runs)),
    ]
    tuning = page.study.tuning
    caution = [EXPLORATORY] if tuning is not None and tuning.exploratory else []
    return {
        "verdict": [*caution, *map(page.short, headline(page.cells, page.contrasts, page.study.contrasts))],
        "facts": facts,
        "left_out": page.study.sweep.inputs.left_out,
        "sweep": page.study.sweep.folder.name,
    }


def headline(cells: list[Row], contrasts: list[Contrast], table: pd.DataFrame) -> list[str]:
    """The verdict in sentences that follow from the numbers; `table`: of `analysis.contrast_table`."""
    if not contrasts:
        return ["This study has no pretrained original or within run with held-out hypernyms, so it cannot answer."]
    sentences = []
    setups = list(dict.fromkeys(row["setup"] for row in cells))
    for setup in setups[:SETUPS]:
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
    chance = table[table["kind"] == "chance"]
    if len(chance) and len(setups) == 1:
        told = (f"{row['above']}, is {row['verdict'].replace(';', ',')}" for _, row in chance.iterrows())
        sentences.append("Against chance: " + "; ".join(told) + ".")
    weak = [(row, row["leaf"]["macro_f1"]["mean"]) for row in cells if row["leaf"]["macro_f1"]["mean"] < LEAF_FLOOR]
    if weak:
        named = [f"{f1:.1f} ({', '.join(filter(None, (row['name'], row['setup'])))})" for row, f1 in weak]
        sentences.append(
            f"Caution: the trained leaves themselves reach only {'; '.join(named)}; "
            "where leaves are not learned, failing on hypernyms says little."
        )
    return sentences
