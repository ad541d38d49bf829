"""Scores of the text-only probe: what the LM alone knows of each hypernym.

Both methods give a margin for each leaf and hypernym: logit(yes) - logit(no) of a question; of plausibility the
log-probability of the hypernym after the leaf's carrier less that after the neutral one. Three scores need no
threshold, and so compare the methods: AUC over a hypernym's leaves; `top1`, the share of its leaves where it is above
*every* wrong hypernym that was asked; and `minimal_pairs`, the share of single wrong hypernyms that it is above (a tie
is half).

Three ways to take a mean, because the paper's numbers are not those of the image side:
- `f1`: macro F1 per hypernym over the questions that *ask about it*, as for questions about images; then the mean.
- `item_f1`: per hypernym over its *items*, each of its leaves with that leaf's positive question about it and all of
  the leaf's negatives (what Figure 7 and the mixed model relate to images).
- `pooled`: all questions of a phrasing together (the paper's 78.5 and 88.2, majority 46.8).

The P rule answers yes when that logit is not smaller; the release's rank rule answers yes when the best of {Yes, yes}
ranks strictly before the best of {No, no}; plausibility has no ranks, and says yes where the margin is not below 0. A
row that stands for several questions counts that often.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.published import PROBE_ITEMS, PROBE_POOLED
from analysis.scores.baselines import add_baselines, majority_macro_f1
from cachegen.common.errors import RunError
from cachegen.common.files import read_json
from engine.runs.f1 import auc, confusion_counts, macro_f1

SCHEMA = 1
KEYS = ["leaf", "hypernym", "phrasing", "answer", "repeats"]
CHOICE = ["auc", "top1", "minimal_pairs"]
MEANS = {  # columns of `probe_scores` -> of their means over hypernyms
    "f1": "macro_f1",
    "rank_f1": "rank_f1",
    "item_f1": "item_f1",
    "item_rank_f1": "item_rank_f1",
    **{name: name for name in (*CHOICE, "wrong")},
    "majority_f1": "majority",
    "coin_f1": "coin",
    "permuted_f1": "permuted",
}
METHODS = {  # the columns beside these, by method
    "question": ["logit_yes", "logit_no", "rank_yes", "rank_no"],
    "plausibility": ["logp", "neutral"],
}


def read_probe(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(table, record) of a file written by `crosstax probe`. Raises `RunError`, one line."""
    record: dict[str, Any] = read_json(path.with_suffix(".json"))
    if not isinstance(record, dict) or type(record.get("lm_seed", 0)) is not int:
        raise RunError(f"{path.with_suffix('.json')} is no probe's record; probe again")
    if record.get("schema") != SCHEMA:
        raise RunError(f"{path} has schema {record.get('schema')}, this version reads {SCHEMA}; probe again")
    if missing := [name for name in ("lm_digest", "dataset_digest") if name not in record]:
        raise RunError(f"{path.with_suffix('.json')} lacks {missing[0]}; probe again")
    if (method := str(record.get("method", "question"))) not in METHODS:
        raise RunError(f"{path.with_suffix('.json')} has an unknown method {method!r}; probe again")
    values = METHODS[method]
    try:
        table = pd.read_parquet(path, columns=[*KEYS, *values])
        numbers = all(table[name].dtype.kind in "iuf" for name in ["repeats", *values])
        sound = numbers and np.isfinite(table[values].to_numpy(float)).all() and table["repeats"].min() >= 1
        if table.empty or not sound:
            raise ValueError("it has no rows, or numbers that are none")
        return table, record
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} is not a probe's table ({reason}); probe again") from error


def margins(table: pd.DataFrame) -> pd.Series:
    """Margin of each row of a probe's table, of either method: above zero is yes."""
    more, less = ("logit_yes", "logit_no") if "logit_yes" in table else ("logp", "neutral")
    return table[more].astype(float) - table[less].astype(float)


def forced_choice(table: pd.DataFrame) -> pd.DataFrame:
    """One row per phrasing and hypernym: top1 and minimal_pairs (0..1), and wrong, the mean number of wrong hypernyms.

    Each is a mean over the hypernym's leaves, against the wrong hypernyms that the probe has for the leaf; leaves
    without any do not count.
    """
    rows = table[["phrasing", "leaf", "hypernym", "answer"]].assign(margin=margins(table))
    wrong = rows.loc[~rows["answer"], ["phrasing", "leaf", "margin"]]
    pairs = rows[rows["answer"]].merge(wrong, on=["phrasing", "leaf"], suffixes=("", "_wrong"))
    above = pairs["margin"] > pairs["margin_wrong"]
    pairs = pairs.assign(above=above, share=above + 0.5 * (pairs["margin"] == pairs["margin_wrong"]))
    leaves = pairs.groupby(["phrasing", "hypernym", "leaf"]).agg(
        top1=("above", "all"), minimal_pairs=("share", "mean"), wrong=("above", "size")
    )
    return leaves.astype(float).groupby(["phrasing", "hypernym"]).mean()


def probe_scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row per phrasing and hypernym, sorted.

    Columns: phrasing, hypernym, n_yes, n_no (gold, repeats counted), said_yes, f1, rank_f1, majority_f1, coin_f1,
    permuted_f1, permuted_sd (0..100), auc (0..1 or missing), ties; item_f1, item_rank_f1 (0..100; missing for a
    hypernym without items); and those of `forced_choice`. Of plausibility rank_f1 and item_rank_f1 are missing. The
    coin and the permutation treat repeats as questions of their own.
    """
    answers = _answers(table)
    items = answers[answers["answer"]]
    negatives = answers[~answers["answer"]].drop(columns="hypernym")
    itemised = pd.concat([items, items[["phrasing", "leaf", "hypernym"]].merge(negatives, on=["phrasing", "leaf"])])
    scores = add_baselines(_by_hypernym(_asked(table)))
    of_items = _by_hypernym(itemised).set_index(["phrasing", "hypernym"])[["f1", "rank_f1"]]
    scores = scores.join(of_items.add_prefix("item_"), on=["phrasing", "hypernym"])
    return scores.join(forced_choice(table), on=["phrasing", "hypernym"])


def summarise_probe(table: pd.DataFrame) -> pd.DataFrame:
    """One row per phrasing (index), from a probe's table.

    Columns: means over hypernyms (macro_f1, rank_f1, item_f1, item_rank_f1, majority, coin, permuted: 0..100; auc,
    top1, minimal_pairs: 0..1, over the hypernyms where it is defined; wrong); all questions together (pooled_f1,
    pooled_rank_f1, pooled_majority); questions (repeats counted); ties (share of them).
    """
    means = probe_scores(table).drop(columns="hypernym").groupby("phrasing").mean()
    pooled = _by_hypernym(_asked(table).assign(hypernym="all")).set_index("phrasing")
    questions = pooled["n_yes"] + pooled["n_no"]
    return (
        means[list(MEANS)]
        .rename(columns=MEANS)
        .assign(
            pooled_f1=pooled["f1"],
            pooled_rank_f1=pooled["rank_f1"],
            pooled_majority=100 * majority_macro_f1(pooled["n_yes"], pooled["n_no"]),
            questions=questions,
            ties=pooled["ties"] / questions,
        )
    )


def probe_result(table: pd.DataFrame, lm: str) -> dict[str, Any]:
    """The numbers of one LM as `crosstax probe --json` prints them: means over phrasings, and each phrasing's."""
    summary = summarise_probe(table)
    mean = {str(name): float(value) for name, value in summary.mean().items()}
    name = lm.rstrip("/").rsplit("/", 1)[-1]
    printed = {"pooled_rank_f1": PROBE_POOLED, "item_rank_f1": PROBE_ITEMS} if "logit_yes" in table else {}
    mean = {key: value for key, value in mean.items() if np.isfinite(value)}
    by_hypernym = probe_scores(table).groupby("hypernym")[CHOICE].mean()
    return {
        "macro_f1": mean.pop("macro_f1"),
        **({"rank_rule_f1": mean.pop("rank_f1")} if "rank_f1" in mean else {}),
        **mean,
        "questions": int(summary["questions"].iloc[0]),
        "by_phrasing": summary["macro_f1"].tolist(),
        **({"pooled_by_phrasing": summary["pooled_rank_f1"].tolist()} if "logit_yes" in table else {}),
        **{f"{name}_by_phrasing": summary[name].tolist() for name in CHOICE},
        "by_hypernym": {
            str(name): {key: value for key, value in scores.items() if np.isfinite(value)}
            for name, scores in by_hypernym.to_dict("index").items()
        },
        "published": {rule: scores[name] for rule, scores in printed.items() if name in scores},
    }


def describe_probe(result: dict[str, Any], record: dict[str, Any]) -> str:
    """A few lines for people about one LM: what it was asked, then its scores beside the baselines."""
    if record.get("method") == "plausibility":
        return _describe_plausibility(result, record)
    weights = _weights(record)
    phrasings = " ".join(f"{score:.1f}" for score in result["by_phrasing"])
    lines = [
        f"{record['lm']}{weights}: {result['questions']:,} questions in {len(result['by_phrasing'])} phrasings",
        f"  asked like {record['prompts'][0]!r}",
        f"  macro F1, mean over hypernyms  {result['macro_f1']:.1f} (by phrasing {phrasings}), "
        f"majority {result['majority']:.1f}, coin {result['coin']:.1f}, permuted {result['permuted']:.1f}",
        f"  all questions together         {result['pooled_f1']:.1f}, rank rule {result['pooled_rank_f1']:.1f}, "
        f"majority {result['pooled_majority']:.1f}",
        f"  AUC {result['auc']:.3f}, ties {result['ties']:.1%}",
        _forced_choice_line(result),
    ]
    if result["published"]:
        published = ", ".join(f"{name} {score}" for name, score in result["published"].items())
        lines.append(f"  published: {published}")
    if record["unknown_words"]:
        lines.append(f"  note: {record['unknown_words']:,} prompts hold words that the tokenizer does not know")
    return "\n".join(lines)


def _describe_plausibility(result: dict[str, Any], record: dict[str, Any]) -> str:
    lines = [f"{record['lm']}{_weights(record)}: {result['questions']:,} pairs after {len(record['prompts'])} carriers"]
    by_carrier = zip(record["phrasings"], *(result[f"{name}_by_phrasing"] for name in CHOICE), strict=True)
    lines += [f"  AUC {auc:.3f}, top-1 {top1:.3f}, pairs {pairs:.3f}  {text}" for text, auc, top1, pairs in by_carrier]
    lines += [f"  AUC {result['auc']:.3f}, mean over carriers and hypernyms", _forced_choice_line(result)]
    if record["unknown_words"]:
        lines.append(f"  note: {record['unknown_words']:,} texts hold words that the tokenizer does not know")
    return "\n".join(lines)


def _weights(record: dict[str, Any]) -> str:
    return "" if record["lm_init"] == "pretrained" else f" (random weights {record['lm_seed']})"


def _forced_choice_line(result: dict[str, Any]) -> str:
    if "top1" not in result:
        return "  no wrong hypernyms were asked about"
    return (
        f"  a leaf's hypernym above all of {result['wrong']:.1f} wrong ones {result['top1']:.1%} "
        f"(guessing {1 / (1 + result['wrong']):.1%}), above one {result['minimal_pairs']:.1%}"
    )


def _answers(table: pd.DataFrame) -> pd.DataFrame:
    margin = margins(table).to_numpy()
    answers = table.assign(margin=margin, tie=margin == 0, predicted=margin >= 0)
    return answers.assign(rank_predicted=table["rank_yes"] < table["rank_no"]) if "rank_yes" in table else answers


def _asked(table: pd.DataFrame) -> pd.DataFrame:
    """One row per question, repeats included."""
    answers = _answers(table)
    return answers.loc[answers.index.repeat(answers["repeats"])]


def _by_hypernym(answers: pd.DataFrame) -> pd.DataFrame:
    groups = answers.groupby(["phrasing", "hypernym"], sort=True)
    codes, size = groups.ngroup().to_numpy(np.int64), groups.ngroups
    gold = answers["answer"].to_numpy(bool)
    counts = confusion_counts(codes, gold, answers["predicted"].to_numpy(bool), size)
    rank_f1 = np.full(size, np.nan)
    if "rank_predicted" in answers:
        rank_f1 = 100 * macro_f1(confusion_counts(codes, gold, answers["rank_predicted"].to_numpy(bool), size))
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
            rank_f1=rank_f1,
            auc=auc(codes, gold, answers["margin"].to_numpy(float), size),
        )
    )
