"""Scores of the text-only probe: what the LM alone knows of each hypernym.

Three ways to take a mean, because the paper's numbers are not those of the image side:
- `f1`: macro F1 per hypernym over the questions that *ask about it*, as for questions about images; then the mean.
- `item_f1`: per hypernym over its *items*, each of its leaves with that leaf's positive question about it and all of
  the leaf's negatives (what Figure 7 and the mixed model relate to images).
- `pooled`: all questions of a phrasing together (the paper's 78.5 and 88.2, majority 46.8).

The P rule answers yes when that logit is not smaller; the release's rank rule answers yes when the best of {Yes, yes}
ranks strictly before the best of {No, no}. A row that stands for several questions counts that often.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.published import PROBE_ITEMS, PROBE_POOLED
from analysis.scores.baselines import add_baselines, majority_macro_f1
from analysis.scores.f1 import auc
from cachegen.common.errors import RunError
from cachegen.common.files import read_json
from engine.runs.f1 import confusion_counts, macro_f1

SCHEMA = 1
COLUMNS = ["leaf", "hypernym", "phrasing", "answer", "repeats", "logit_yes", "logit_no", "rank_yes", "rank_no"]


def read_probe(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(table, record) of a file written by `crosstax probe`. Raises `RunError`, one line."""
    record: dict[str, Any] = read_json(path.with_suffix(".json"))
    if not isinstance(record, dict) or type(record.get("lm_seed", 0)) is not int:
        raise RunError(f"{path.with_suffix('.json')} is no probe's record; probe again")
    if record.get("schema") != SCHEMA:
        raise RunError(f"{path} has schema {record.get('schema')}, this version reads {SCHEMA}; probe again")
    if missing := [name for name in ("lm_digest", "dataset_digest") if name not in record]:
        raise RunError(f"{path.with_suffix('.json')} lacks {missing[0]}; probe again")
    try:
        table = pd.read_parquet(path, columns=COLUMNS)
        numbers = all(table[name].dtype.kind in "iuf" for name in COLUMNS[4:])
        sound = numbers and np.isfinite(table[COLUMNS[5:]].to_numpy(float)).all() and table["repeats"].min() >= 1
        if table.empty or not sound:
            raise ValueError("it has no rows, or numbers that are none")
        return table, record
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} is not a probe's table ({reason}); probe again") from error


def probe_scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row per phrasing and hypernym, sorted.

    Columns: phrasing, hypernym, n_yes, n_no (gold, repeats counted), said_yes, f1, rank_f1, majority_f1, coin_f1,
    permuted_f1, permuted_sd (0..100), auc (0..1 or missing), ties; item_f1, item_rank_f1 (0..100; missing for a
    hypernym without items). The coin and the permutation treat repeats as questions of their own.
    """
    answers = _answers(table)
    items = answers[answers["answer"]]
    negatives = answers[~answers["answer"]].drop(columns="hypernym")
    itemised = pd.concat([items, items[["phrasing", "leaf", "hypernym"]].merge(negatives, on=["phrasing", "leaf"])])
    scores = add_baselines(_by_hypernym(_asked(table)))
    of_items = _by_hypernym(itemised).set_index(["phrasing", "hypernym"])[["f1", "rank_f1"]]
    return scores.join(of_items.add_prefix("item_"), on=["phrasing", "hypernym"])


def summarise_probe(table: pd.DataFrame) -> pd.DataFrame:
    """One row per phrasing (index), from a probe's table.

    Columns: means over hypernyms (macro_f1, rank_f1, item_f1, item_rank_f1, majority, coin, permuted: 0..100; auc:
    0..1, over the hypernyms where it is defined); all questions together (pooled_f1, pooled_rank_f1,
    pooled_majority); questions (repeats counted); ties (share of them).
    """
    means = probe_scores(table).drop(columns="hypernym").groupby("phrasing").mean()
    pooled = _by_hypernym(_asked(table).assign(hypernym="all")).set_index("phrasing")
    questions = pooled["n_yes"] + pooled["n_no"]
    return pd.DataFrame(
        {
            "macro_f1": means["f1"],
            "rank_f1": means["rank_f1"],
            "item_f1": means["item_f1"],
            "item_rank_f1": means["item_rank_f1"],
            "auc": means["auc"],
            "majority": means["majority_f1"],
            "coin": means["coin_f1"],
            "permuted": means["permuted_f1"],
            "pooled_f1": pooled["f1"],
            "pooled_rank_f1": pooled["rank_f1"],
            "pooled_majority": 100 * majority_macro_f1(pooled["n_yes"], pooled["n_no"]),
            "questions": questions,
            "ties": pooled["ties"] / questions,
        }
    )


def probe_result(table: pd.DataFrame, lm: str) -> dict[str, Any]:
    """The numbers of one LM as `crosstax probe --json` prints them: means over phrasings, and each phrasing's."""
    summary = summarise_probe(table)
    mean = {str(name): float(value) for name, value in summary.mean().items()}
    name = lm.rstrip("/").rsplit("/", 1)[-1]
    printed = {"pooled_rank_f1": PROBE_POOLED, "item_rank_f1": PROBE_ITEMS}
    return {
        "macro_f1": mean.pop("macro_f1"),
        "rank_rule_f1": mean.pop("rank_f1"),
        **mean,
        "questions": int(summary["questions"].iloc[0]),
        "by_phrasing": summary["macro_f1"].tolist(),
        "pooled_by_phrasing": summary["pooled_rank_f1"].tolist(),
        "published": {rule: scores[name] for rule, scores in printed.items() if name in scores},
    }


def describe_probe(result: dict[str, Any], record: dict[str, Any]) -> str:
    """A few lines for people about one LM: what it was asked, then its scores beside the baselines."""
    weights = "" if record["lm_init"] == "pretrained" else f" (random weights {record['lm_seed']})"
    phrasings = " ".join(f"{score:.1f}" for score in result["by_phrasing"])
    lines = [
        f"{record['lm']}{weights}: {result['questions']:,} questions in {len(result['by_phrasing'])} phrasings",
        f"  asked like {record['prompts'][0]!r}",
        f"  macro F1, mean over hypernyms  {result['macro_f1']:.1f} (by phrasing {phrasings}), "
        f"majority {result['majority']:.1f}, coin {result['coin']:.1f}, permuted {result['permuted']:.1f}",
        f"  all questions together         {result['pooled_f1']:.1f}, rank rule {result['pooled_rank_f1']:.1f}, "
        f"majority {result['pooled_majority']:.1f}",
        f"  AUC {result['auc']:.3f}, ties {result['ties']:.1%}",
    ]
    if result["published"]:
        published = ", ".join(f"{name} {score}" for name, score in result["published"].items())
        lines.append(f"  published: {published}")
    if record["unknown_words"]:
        lines.append(f"  note: {record['unknown_words']:,} prompts hold words that the tokenizer does not know")
    return "\n".join(lines)


def _answers(table: pd.DataFrame) -> pd.DataFrame:
    margin = table["logit_yes"].to_numpy(float) - table["logit_no"].to_numpy(float)
    return table.assign(
        margin=margin, tie=margin == 0, predicted=margin >= 0, rank_predicted=table["rank_yes"] < table["rank_no"]
    )


def _asked(table: pd.DataFrame) -> pd.DataFrame:
    """One row per question, repeats included."""
    answers = _answers(table)
    return answers.loc[answers.index.repeat(answers["repeats"])]


def _by_hypernym(answers: pd.DataFrame) -> pd.DataFrame:
    groups = answers.groupby(["phrasing", "hypernym"], sort=True)
    codes, size = groups.ngroup().to_numpy(np.int64), groups.ngroups
    gold = answers["answer"].to_numpy(bool)
    counts = confusion_counts(codes, gold, answers["predicted"].to_numpy(bool), size)
    ranked = confusion_counts(codes, gold, answers["rank_predicted"].to_numpy(bool), size)
    return (
        groups["tie"]
        .sum()
        .rename("ties")
        .reset_index()
        .assign(
            n_yes=counts[:, 1].sum(axis=1),
            n_no=counts[:, 0].sum(axis=1),
            said_yes=counts[:, :, 1].sum(axis=1),
            f1=100 * macro_f1(counts),
            rank_f1=100 * macro_f1(ranked),
            auc=auc(codes, gold, answers["margin"].to_numpy(float), size),
        )
    )
