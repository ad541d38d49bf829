"""The study's numbers as JSON: what the command line prints."""

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparisons import compare_yardsticks
from analysis.conditions import shown_runs
from analysis.dose import dose_table
from analysis.study import Study

COHERENT = ("original", "across", "within")  # arms whose coherence is told


def summary(study: Study) -> dict[str, Any]:
    """The study's numbers as JSON-safe values; F1 in 0..100, AUC and coherence in 0..1, unknown = None.

    baseline: of the headline's original runs. conditions: one per run. coherence, coherence_centred: mean over
    hypernyms of whole shuffles. yardsticks: held-out means of each cell of the headline beside each yardstick, with
    the difference. ablation: points of the curves. dose: means per dose of a partial shuffle. The last three are
    empty lists where the runs or inputs do not allow them. tuning, only where the runs were chosen in a search: whether
    unseen hypernyms decided (exploratory), and the best trial.
    """
    leaf, heldout = study.test("leaf"), study.test("heldout")
    shown = shown_runs(study.runs)
    original = shown.index[shown["shuffle"] == "original"]
    fields = ["encoder", "shuffle", "ablation", "run_seed", "lm_seed", "data_seed", "order"]
    fields += ["setup", "arm", "ablation_kind", "shuffled", "permutation"]
    conditions = [
        {
            "run_id": run_id,
            "lm": run["lm_init"],
            **{field: run[field] for field in fields},
            "leaf_macro_f1": leaf.loc[run_id, "macro_f1"],
            "heldout_macro_f1": heldout.loc[run_id, "macro_f1"],
            "heldout_auc": heldout.loc[run_id, "auc"],
        }
        for run_id, run in zip(map(str, study.runs.index), study.runs.to_dict("records"), strict=True)
    ]
    coherence = study.hypernym_coherence().merge(shown[["map", "shuffle"]].drop_duplicates(), on="map")
    means = coherence.groupby("shuffle")[["all_pairs", "centred"]].mean().reindex(COHERENT)
    tuning = study.tuning
    return _json_safe(
        {
            **({} if tuning is None else {"tuning": {"exploratory": tuning.exploratory, "best": tuning.best}}),
            "baseline": {
                "leaf": leaf.loc[original, "majority_f1"].mean(),
                "heldout": heldout.loc[original, "majority_f1"].mean(),
                "coin": heldout.loc[original, "coin_f1"].mean(),
            },
            "conditions": conditions,
            "coherence": means["all_pairs"].to_dict(),
            "coherence_centred": means["centred"].to_dict(),
            "yardsticks": [
                {
                    "setup": c.setup,
                    "arm": c.arm,
                    "lm": c.lm_init,
                    "yardstick": c.yardstick,
                    "heldout_macro_f1": c.other_f1,
                    "heldout_auc": c.other_auc[0],
                    "run_macro_f1": c.f1,
                    "run_auc": c.auc,
                    "difference": c.f1_gap[0],
                    "low": c.f1_gap[1],
                    "high": c.f1_gap[2],
                }
                for c in compare_yardsticks(study.runs, study.categories, study.yardsticks)
            ],
            "ablation": study.ablation.to_dict("records"),
            "dose": dose_table(study.dose).to_dict("records"),
        }
    )


def _json_safe(value: Any) -> Any:
    """NaN and missing become None, numpy numbers plain ones."""
    if isinstance(value, dict):
        return {key: _json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_safe(inner) for inner in value]
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
