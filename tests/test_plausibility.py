"""The probe by plausibility: Hugging Face's own log-probabilities, one text at a time; scores against plain loops."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from test_probe import bpe, model_of
from tiny import tiny_tokenizer

from analysis.probes import match_probes, read_probes
from analysis.scores.probe import forced_choice, margins, probe_scores, read_probe
from cachegen.common.errors import ConditionError, RunError
from cachegen.common.rng import generator
from cachegen.data.dataset import load_dataset
from engine.lm.language_model import FrozenLM
from engine.lm.plausibility import Continuations, log_probabilities, tokenise_continuations
from engine.lm.probe import ProbeSettings, settings_for


def drawn_texts() -> Continuations:
    """Carriers of two lengths, shared by phrases of one to four tokens, and one that stands alone."""
    rng = generator(0, "texts")
    carriers = [rng.integers(1, 61, size=length).tolist() for length in (4, 4, 6, 6, 9)]
    ids, starts = [], []
    for number, carrier in enumerate(carriers):
        for length in (1, 3, 4, 2, 1) if number < 4 else (2,):
            ids.append(carrier + rng.integers(1, 61, size=length).tolist())
            starts.append(len(carrier))
    return Continuations(ids, starts)


@torch.no_grad()
def one_at_a_time(model, texts):
    found = []
    for ids, start in zip(texts.ids, texts.starts, strict=True):
        logp = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
        found.append(sum(logp[place - 1, ids[place]].item() for place in range(start, len(ids))))
    return np.array(found)


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2", "gemma2", "mamba", "granite", "bloom"])
def test_sums_are_those_of_a_plain_loop(family):
    model, texts = model_of(family), drawn_texts()
    plain = one_at_a_time(model, texts)
    lm, counts = FrozenLM.wrap(model, None, torch.device("cpu")), []
    for max_tokens in (30, 10**6):
        assert np.abs(log_probabilities(lm, texts, max_tokens, counts.append) - plain).max() < 1e-5
    assert sum(counts) == 2 * len(texts.ids)
    assert len(counts) > 5
    # Control: the same bound finds phrases that begin one token later, and a text with another carrier.
    later = Continuations(texts.ids, [start - 1 for start in texts.starts])
    assert np.abs(log_probabilities(lm, later, 30, counts.append) - plain).max() > 1e-2
    other = Continuations([texts.ids[5][:4] + texts.ids[1][4:], *texts.ids[1:]], texts.starts)
    assert abs(log_probabilities(lm, other, 30, counts.append)[0] - plain[1]) > 1e-3


@pytest.mark.parametrize(
    "tokenizer", [bpe(), tiny_tokenizer("llama3"), tiny_tokenizer("qwen")], ids=["bpe", "bos", "qwen"]
)
def test_a_phrase_has_all_tokens_behind_its_carrier(tokenizer):
    carriers, phrases = ["A crow is a type of ", "A crow is a type of", "A crow: "], ["bird", " bird of prey", "bird"]
    texts = tokenise_continuations(tokenizer, carriers, [" bird", phrases[1], " bird"])
    for carrier, phrase, ids, start in zip(
        carriers, [" bird", phrases[1], " bird"], texts.ids, texts.starts, strict=True
    ):
        joint = tokenizer(carrier.rstrip() + phrase)["input_ids"]
        assert joint[: len(ids)] == ids  # what may follow is a special token at the end
        before = tokenizer(carrier.rstrip(), add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids[start:], skip_special_tokens=True).strip() == phrase.strip()
        assert start >= len(before)
    with pytest.raises(ConditionError, match="longer carrier"):
        tokenise_continuations(bpe(), [""], ["bird"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"neutral": ()}, "0 neutral"),
        (
            {"phrasings": ("{leaf_phrase} is {hypernym_phrase}.",), "neutral": ("this is {hypernym_phrase}",)},
            "end both in",
        ),
        (
            {"phrasings": ("{leaf_phrase} is {hypernym_phrase}",), "neutral": ("this is {hypernym_noun}",)},
            "end both in",
        ),
        ({"neutral": ("{Leaf_phrase} is a type of {hypernym_noun}",)}, "no leaf"),
        ({"phrasings": ("this is {hypernym_noun}",), "neutral": ("this is {hypernym_noun}",)}, "must name both"),
    ],
)
def test_refusals_say_what_to_configure(fields, message):
    with pytest.raises(ConditionError, match=message):
        settings_for("lm", method="plausibility", **fields)


def table_of(seed):
    rng = generator(seed, "plausibility")
    rows = [(f"leaf {n}", f"hypernym {h}", form) for form in range(2) for n in range(8) for h in range(4)]
    table = pd.DataFrame(rows, columns=["leaf", "hypernym", "phrasing"])
    table["answer"] = [n % 4 == h or (n, h) == (5, 0) for _ in range(2) for n in range(8) for h in range(4)]
    table["repeats"] = np.int32(1)
    table["logp"] = rng.integers(-12, 0, size=len(table)) / 4 + table["answer"]
    return table.assign(neutral=rng.integers(-4, 0, size=4)[table["hypernym"].str[-1].astype(int)] / 4)


def test_forced_choice_is_a_plain_loop_over_leaves():
    table = table_of(0)
    found, margin = forced_choice(table), margins(table)
    np.testing.assert_array_equal(margin, table["logp"] - table["neutral"])
    for (form, name), scores in found.iterrows():
        top, pairs = [], []
        for _, row in table[(table["phrasing"] == form) & (table["hypernym"] == name) & table["answer"]].iterrows():
            same = table[(table["phrasing"] == form) & (table["leaf"] == row["leaf"]) & ~table["answer"]]
            mine, others = margin[row.name], margin[same.index]
            top.append(all(mine > other for other in others))
            pairs.append(np.mean([1.0 if mine > other else 0.5 if mine == other else 0.0 for other in others]))
        assert (scores["top1"], scores["minimal_pairs"]) == pytest.approx((np.mean(top), np.mean(pairs)))
    assert 0 < found["top1"].mean() < found["minimal_pairs"].mean() < 1
    scores = probe_scores(table)
    assert scores["rank_f1"].isna().all()
    assert scores[["auc", "f1", "top1"]].notna().all(axis=None)


CARRIERS = ["--phrasing", "{leaf_phrase} is {hypernym_phrase}", "--phrasing", "is {leaf_noun} {hypernym_phrase}"]
NEUTRAL = ["--neutral", "there is {hypernym_phrase}"]


def test_both_methods_stand_side_by_side(crosstax, small_study, tmp_path):
    words = ["probe", small_study.dataset, "--lm", small_study.lm, "--threads", "1", "--out", tmp_path / "probes"]
    code, out, err = crosstax(*words, "--method", "plausibility", *CARRIERS, *NEUTRAL, "--json")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])["lm"][str(small_study.lm)]
    table, record = read_probe(next((tmp_path / "probes").glob("*.parquet")))
    dataset = load_dataset(small_study.dataset)
    assert (record["method"], len(record["neutral"])) == ("plausibility", 2)
    assert len(table) == 2 * len(dataset.leaves) * len(dataset.hypernyms)  # every wrong hypernym
    assert set(result["by_hypernym"]) == set(dataset.hypernyms.index)
    scores = probe_scores(table).groupby("phrasing")[["auc", "top1"]].mean()
    assert result["auc_by_phrasing"] == pytest.approx(scores["auc"].tolist())
    assert result["top1"] == pytest.approx(scores["top1"].mean())
    template = ["--template", "{question} {answer}", "--answer-yes", "yes", "--answer-no", "no", "--negatives", "all"]
    assert crosstax(*words, "--phrasing", "is {leaf_noun} {hypernym_phrase}", *template)[0] == 0
    probes = read_probes([tmp_path / "probes"])
    run = {"lm_digest": record["lm_digest"], "dataset_digest": dataset.digest, "lm_init": "pretrained", "lm_seed": 0}
    found, notes = match_probes(pd.DataFrame([run], index=["run"]), probes)
    assert [probe.method for probe in found["run"]] == ["question", "plausibility"]
    assert not notes
    with pytest.raises(RunError, match="probes of one LM"):
        match_probes(pd.DataFrame([run], index=["run"]), [*probes, probes[0]])


def test_questions_keep_their_settings():
    assert settings_for("lm") == ProbeSettings()
    assert settings_for("lm", method="plausibility").negatives == "all"
