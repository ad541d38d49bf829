"""The essentials of a study for a terminal, and its numbers as JSON."""

from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.cells import CELL, LM_NAMES, Cell, in_words, shown_runs
from analysis.items import Wording
from analysis.scores.dose import dose_table
from analysis.statistics.contrasts import CONFIRMATORY
from analysis.study import Study
from analysis.words import MISSING, json_rows, json_safe, number

COHERENT = ("original", "across", "within")  # arms whose coherence is reported


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
    return json_safe(
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
                    "arm": str(study.runs.loc[study.runs["cell"] == c.one, "arm"].iloc[0]),
                    "lm": c.one.lm_init,
                    "yardstick": c.other,
                    "heldout_macro_f1": c.means[1],
                    "heldout_auc": c.auc_means[1],
                    "run_macro_f1": c.means[0],
                    "run_auc": c.auc_means[0],
                    "difference": c.f1.estimate,
                    "low": c.f1.low,
                    "high": c.f1.high,
                    "decision": str(c.f1.decision),
                    "basis": c.f1.basis,
                }
                for c in study.compared
                if c.kind == "yardstick"
            ],
            "ablation": in_words(study.ablation).to_dict("records"),
            "dose": in_words(dose_table(study.dose)).to_dict("records"),
        }
    )


def essentials(study: Study) -> dict[str, Any]:
    """JSON-safe: runs, failed, copies (numbers), notes, and the rows of f1, heldout, answers (conditions of the
    headline), contrasts, models and swap, as `analysis.report.dictionary` describes them; unknown = None."""
    tables = {
        "f1": _shown(study, study.f1),
        "heldout": _shown(study, study.heldout),
        "contrasts": study.contrasts,
        "models": study.models,
        "swap": study.swap,
        "answers": _shown(study, study.answering),
    }
    rows = {name: json_rows(in_words(table)) for name, table in tables.items()}
    counts = {"runs": len(study.runs), "failed": len(study.sweep.failed), "copies": len(study.sweep.copies)}
    return {**counts, **rows, "notes": list(study.notes)}


def overview(study: Study) -> RenderableType:
    """Scores of the headline, the contrasts fixed in advance, how answers are given, notes."""
    f1, contrasts = _shown(study, study.f1), study.contrasts
    fixed = contrasts["status"] == CONFIRMATORY
    left_out = study.sweep.inputs.left_out
    parts: list[RenderableType] = [Text(f"LEFT OUT: {line}", "bold red") for line in left_out]
    parts += [_scores(f1, _shown(study, study.heldout), Wording(study))]
    if fixed.any():
        parts += ["", _contrasts(contrasts[fixed])]
    parts += ["", *map(Text, _answers(_shown(study, study.answering)))]
    notes = [f"{(~fixed).sum()} exploratory comparisons of means are in contrasts"] if (~fixed).any() else []
    notes += ["mixed models are in models"] if len(study.models) else []
    notes += ["the hypernym-level swap is in swap"] if len(study.swap) else []
    notes += [*f1.loc[f1["note"] != "", "note"].unique(), *(note for note in study.notes if note not in left_out)]
    if failed := len(study.sweep.failed):
        notes.append(f"{failed} of {failed + len(study.runs)} runs have no results and are left out")
    if len(copies := study.sweep.copies):
        first = f"{copies['run_id'].iloc[0]} is {copies['reason'].iloc[0]}"
        notes.append(f"not counted again: {len(copies)} folders with a run that is there already; {first}")
    return Group(*parts, *(Text(f"note: {note}", "dim") for note in notes))


def _shown(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of cells that are of the headline, their setups named as there."""
    names: dict[Cell, str] = dict(study.runs.loc[study.runs["shown"], ["cell", "shown_setup"]].itertuples(index=False))
    rows = table[table["cell"].isin(names)]
    return rows.assign(setup=[names[cell] for cell in rows["cell"]])


def _scores(f1: pd.DataFrame, heldout: pd.DataFrame, wording: Wording) -> Table:
    clean = heldout[(heldout["labels"] == "gold") & (heldout["over"] == "no homonyms")]
    truth = heldout[(heldout["labels"] == "veridical") & (heldout["over"] == "all")]
    parts = (f1[f1["group"] == "leaf"], f1[f1["group"] == "heldout"], clean, truth)
    leaves, own, no_homonyms, by_image = (_by_cell(part) for part in parts)
    names = ("seeds", "leaves", "held-out [95 %]", "no homonyms", wording("by the image"), "permuted", "AUC")
    cells = list(dict.fromkeys([*leaves, *own]))
    words = {row["cell"]: _cell(*(row[name] for name in CELL)) for row in f1.to_dict("records")}
    rows: list[list[str]] = []
    for key in cells:
        first, clean_f1, true_f1 = (number(part.get(key, {}).get("f1")) for part in (leaves, no_homonyms, by_image))
        row = own.get(key, {})
        seeds = str((row or leaves[key])["n_seeds"])
        mean = _interval(*(row.get(name, np.nan) for name in ("f1", "low", "high")))
        baseline, area = number(row.get("permuted_f1")), number(row.get("auc"), 2)
        rows.append([seeds, first, mean, clean_f1, true_f1, baseline, area])
    told = [place for place in range(len(names)) if any(row[place] != MISSING for row in rows)]
    table = _table("macro F1", *(names[place] for place in told))
    for key, numbers in zip(cells, rows, strict=True):
        table.add_row(words[key], *(numbers[place] for place in told))
    return table


def _by_cell(table: pd.DataFrame) -> dict[Cell, dict[str, Any]]:
    return {row["cell"]: {str(name): value for name, value in row.items()} for row in table.to_dict("records")}


def _contrasts(contrasts: pd.DataFrame) -> Table:
    table = _table("fixed in advance: held-out F1", "difference [95 %]", "bootstrap [95 %]", "verdict", words=1)
    for row in contrasts.to_dict("records"):
        name = ": ".join(filter(None, [row["setup"], f"{row['above']} − {row['below']}"]))
        own = _interval(row["difference"], row["low"], row["high"], sign=True)
        seeds = f"[{number(row['boot_low'], sign=True)}, {number(row['boot_high'], sign=True)}]"
        table.add_row(Text(name), own, seeds, Text(row["verdict"]))
    return table


def _answers(answers: pd.DataFrame) -> list[str]:
    """How held-out questions are answered, over the conditions of the headline, in a sentence."""
    heldout = answers[answers["group"] == "heldout"]
    if heldout.empty:
        return []
    worst = heldout.sort_values("off_mass").iloc[-1]
    ends = {name: (heldout[name].min(), heldout[name].max()) for name in ("yes_share", "ece")}
    return [
        f"Held-out answers: {100 * ends['yes_share'][0]:.0f} to {100 * ends['yes_share'][1]:.0f} % yes, ties up to "
        f"{100 * heldout['tie_share'].max():.1f} %, probability on neither answer up to {100 * worst['off_mass']:.1f} "
        f"% ({_cell(*worst[CELL])}), calibration error {ends['ece'][0]:.2f} to {ends['ece'][1]:.2f}."
    ]


def _table(first: str, *columns: str, words: int = 0) -> Table:
    """A table whose first column and last `words` columns are words."""
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for place, name in enumerate(columns):
        is_words = place >= len(columns) - words
        table.add_column(name, justify="left" if is_words else "right", no_wrap=not is_words, overflow="fold")
    return table


def _cell(setup: str, arm: str, lm_init: str) -> Text:
    return Text(", ".join(filter(None, [setup, LM_NAMES[lm_init], arm])))


def _interval(value: float, low: float, high: float, sign: bool = False) -> str:
    if not np.isfinite(low):
        return number(value, sign=sign)
    return f"{number(value, sign=sign)} [{number(low, sign=sign)}, {number(high, sign=sign)}]"
