"""Dose-response: held-out scores against how coherent the shuffled categories still look.

An across-category shuffle of a part of the leaves doses visual coherence between original labels (dose 0) and the
paper's across condition (dose 100). If coherence is what carries taxonomy into pictures, scores should follow it.
"""

import pandas as pd

from analysis.cells import LM_NAMES
from analysis.statistics.intervals import correlation
from analysis.words import number

RESPONSE = ["setup", "rule", "lm_init"]
MEASURED = ["f1", "auc", "coherence", "coherence_centred", "pairs_kept", "permuted_f1", "coin_f1"]


def dose_runs(runs: pd.DataFrame, scores: pd.DataFrame, coherence: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """One row per run of a dose-response: setup, rule, lm_init, run_id, map, dose (0..100) and `MEASURED`.

    f1, auc: held-out test means over hypernyms; coherence: mean over hypernyms under the run's own label map, as the
    paper defines it and centred; pairs_kept: share of (leaf, hypernym) pairs still true of the new images. Setups
    without a partial shuffle are left out; runs on original labels are dose 0 of every rule.
    """
    within = runs[runs["shuffle"].isin(["original", "across"])]
    dose = within["shuffled"].where(within["shuffle"] == "across", 0).astype(int)
    within = within.assign(dose=dose, rule=within["across_rule"].where(within["shuffle"] == "across", ""))
    partial = within[within["partial"]]
    parts = [
        within[(within["setup"] == setup) & within["rule"].isin([rule, ""])].assign(rule=rule)
        for setup, rule in partial[["setup", "rule"]].drop_duplicates().itertuples(index=False)
    ]
    if not parts:
        return pd.DataFrame(columns=[*RESPONSE, "run_id", "map", "dose", *MEASURED])
    heldout = scores[(scores["split"] == "test") & (scores["group"] == "heldout")].rename(columns={"macro_f1": "f1"})
    names = {"all_pairs": "coherence", "centred": "coherence_centred"}
    means = coherence.groupby("map")[list(names)].mean().rename(columns=names)
    maps = means.join(kept.set_index("map")["pairs_kept"], how="outer")
    table = pd.concat(parts).rename_axis("run_id").reset_index()
    table = table.merge(heldout[["run_id", "f1", "auc", "permuted_f1", "coin_f1"]], on="run_id")
    table = table.merge(maps.astype(float), left_on="map", right_index=True, how="left")
    return table[[*RESPONSE, "run_id", "map", "dose", *MEASURED]]


def dose_table(points: pd.DataFrame) -> pd.DataFrame:
    """Means per dose of `dose_runs`: `RESPONSE`, dose, n_runs, `MEASURED`, and the runs' extremes of f1 and auc."""
    cells = points.groupby([*RESPONSE, "dose"], sort=True)
    extremes = {
        f"{name}_{end}": getattr(cells[name], how)()
        for name in ("f1", "auc")
        for end, how in (("low", "min"), ("high", "max"))
    }
    return cells[MEASURED].mean().assign(n_runs=cells.size(), **extremes).reset_index()


def dose_sentences(points: pd.DataFrame) -> list[str]:
    """What the response looks like, in sentences chosen by the numbers; correlations are over label maps."""
    sentences = []
    named = {"setup": points["setup"].nunique() > 1, "rule": points["rule"].nunique() > 1}
    for (setup, rule, lm_init), rows in points.groupby(RESPONSE, sort=False):
        means = rows.groupby("dose")["f1"].mean()
        if len(means) < 2:
            continue
        least, most = means.index.min(), means.index.max()
        told = [str(rule) if named["rule"] else "", str(setup) if named["setup"] else ""]
        name = ", ".join(filter(None, [LM_NAMES[str(lm_init)], *told]))
        steps = means.diff().dropna()
        way = "falls at every step" if (steps < 0).all() else "rises at every step" if (steps > 0).all() else "goes"
        text = f"{name}: held-out F1 {way} from {means[least]:.1f} at {least} % to {means[most]:.1f} at {most} %"
        maps = rows.groupby("map")[["coherence_centred", "f1"]].mean().astype(float)
        r, low, high, n = correlation(maps["coherence_centred"].to_numpy(), maps["f1"].to_numpy())
        if r == r:
            interval = f", 95 % interval {number(low, 2)} to {number(high, 2)}" if low == low else ""
            text += f"; r with centred coherence over {n} label maps {number(r, 2)}{interval}"
        sentences.append(text[0].upper() + text[1:] + ".")
    return sentences
