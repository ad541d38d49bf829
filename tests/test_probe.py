"""The text-only probe: plain forwards for any family, one token per answer, published counts, scores against sklearn.

Bounds on logits come from the data: the reference is one prompt at a time in float64, and the batched float32 result
may be at most a few times as far from it as one prompt at a time in float32 is.
"""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from real_taxonomy import REFERENCE, needs_reference, write_real_taxonomy
from sklearn.metrics import f1_score, roc_auc_score
from small_study import write_dataset
from tiny import CONFIGS, tiny_lm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from analysis.published import PROBE_ITEMS, PROBE_NEGATIVES, PROBE_POOLED, PROBE_POOLED_MAJORITY
from analysis.scores.baselines import coin_macro_f1
from analysis.scores.probe import probe_result, probe_scores, read_probe, summarise_probe
from cachegen.common.errors import ConditionError, ModelError, RunError
from cachegen.common.rng import generator
from cachegen.data.dataset import load_dataset
from engine.design.condition import Condition
from engine.design.questions import build_questions
from engine.lm.probe import (
    ProbeSettings,
    ProbeTokens,
    answers_in_float32,
    ask,
    phrase_questions,
    probe_pairs,
    run_probe,
    settings_for,
    tokenise_prompts,
)
from engine.runs.f1 import macro_f1

# Asking

SLACK = 8
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
GQA = {"intermediate_size": 96, "num_key_value_heads": 2}
# Windows shorter than the prompts, biases by distance, soft caps, state spaces: what cannot share an image prefix.
OTHERS = {
    "mistral": ("MistralConfig", {**GQA, "sliding_window": 3}),
    "falcon": ("FalconConfig", {"alibi": True}),
    "bloom": ("BloomConfig", {}),
    "gemma2": ("Gemma2Config", {**GQA, "head_dim": 12, "sliding_window": 3, "final_logit_softcapping": 5.0}),
    "mamba": ("MambaConfig", {}),
    "opt": ("OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 48}),
    "gpt2": ("GPT2Config", {}),
    "granite": ("GraniteConfig", {**GQA, "logits_scaling": 7.0}),
}


def model_of(family):
    if family in CONFIGS:
        return tiny_lm(family)
    name, more = OTHERS[family]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_config(getattr(transformers, name)(**SHAPE, **more)).float().eval()


def prompts_of(lengths=(4, 9, 6, 4, 12, 9, 9, 4, 5, 7)):
    rng = generator(0, "prompts")
    return ProbeTokens([rng.integers(1, 61, size=length).tolist() for length in lengths], [3, 8], [5])


@torch.no_grad()
def one_at_a_time(model, prompts):
    return torch.stack([model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in prompts.ids]).double()


def batched(model, prompts):
    counts = []
    table = ask(model, prompts, 18, counts.append)
    assert len(counts) < sum(counts) == len(prompts.ids)
    return table


@pytest.mark.parametrize("family", [*CONFIGS, *OTHERS])
def test_batches_give_the_answers_of_one_prompt_at_a_time(family):
    model, prompts = model_of(family), prompts_of()
    plain = one_at_a_time(model, prompts)
    answers = torch.tensor(batched(model, prompts)[["logit_yes", "logit_no"]].to_numpy(float))
    ranks = batched(model, prompts)[["rank_yes", "rank_no"]].to_numpy()
    earlier = batched(model, ProbeTokens([ids[:-1] for ids in prompts.ids], prompts.yes, prompts.no))
    exact = one_at_a_time(model.double(), prompts)
    bound = SLACK * (plain - exact).abs().max().item()
    assert 0 < bound < 1e-3
    assert (answers - exact[:, [3, 5]]).abs().max().item() <= bound
    for column, forms in enumerate((prompts.yes, prompts.no)):
        best = exact[:, forms].amax(1, keepdim=True)
        np.testing.assert_array_equal(ranks[:, column], (exact > best).sum(1).numpy())
    # The same bound finds a prompt that is one token short.
    assert np.abs(earlier["logit_yes"] - exact[:, 3].numpy()).max() > 100 * bound


def test_answers_are_float32_where_the_model_is_not_and_the_head_is_left_as_it_was():
    model, prompts = tiny_lm("qwen3").to(torch.bfloat16).requires_grad_(False), prompts_of()
    got = ask(model, prompts, 1, lambda _: None)["logit_yes"].to_numpy(float)  # one prompt a batch: the same states
    states = torch.stack([model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in prompts.ids])
    exact = (states.double() @ model.lm_head.weight.double().T)[:, 3].numpy()
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)
    assert np.abs(model.lm_head(states)[:, 3].double().numpy() - exact).max() > 1e-3  # a bf16 head
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks
    with pytest.raises(KeyError), answers_in_float32(model, [3]):
        raise KeyError
    assert not model.lm_head._forward_hooks


def test_logits_that_are_not_finite_are_an_error():
    model = tiny_lm("qwen3")
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        ask(model, prompts_of(), 100, lambda _: None)


# Prompts

CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }} {{ date_string }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SENTENCES = ["Question: Is a crow a bird?\nAnswer: Yes", "<think>\n\n</think>\n\nYes", "No\n Answer: No", "yes\n yes"]


def bpe(chat=None):
    """A byte-level BPE that has " Yes", "Yes", " No", "No", "yes" and " yes" as single tokens, but no "no"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    made.chat_template = chat
    return made


QUESTIONS = ["Is a crow a bird?", "Are scissors a type of tool?"]


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_each_answer_is_the_token_that_joint_tokenisation_gives(chat):
    tokenizer = bpe(CHAT_TEMPLATE if chat else None)
    prompts = tokenise_prompts(QUESTIONS, tokenizer, ProbeSettings(), chat)
    for question, ids in zip(QUESTIONS, prompts.ids, strict=True):
        if chat:
            text = f"<s>user 26 Jul 2024\n{question}</s>\n<s>assistant\n<think>\n\n</think>\n\n"
        else:
            text = f"Question: {question}\nAnswer: "
        assert [*ids, prompts.yes[0]] == tokenizer(text + "Yes", add_special_tokens=False)["input_ids"]
        assert [*ids, prompts.no[0]] == tokenizer(text + "No", add_special_tokens=False)["input_ids"]
    words = [tokenizer.decode([token]) for token in [*prompts.yes, *prompts.no]]
    space = "" if chat else " "
    assert words == [f"{space}Yes", f"{space}yes", f"{space}No"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer_yes": "Certainly"}, "'Certainly' is not one known token of its own after .*--answer-yes"),
        ({"answer_no": "Nope"}, "--answer-no"),
        ({"template": "{question} Answer:  {answer}"}, "is not one known token"),  # two spaces: not all in the answer
        ({"answer_no": "yes"}, "share a token"),
        ({"template": "{question}"}, r"needs \{question\}, and \{answer\} at its end"),
        ({"template": "{answer} {question}"}, "at its end"),
        ({"phrasings": ("Is it true?",)}, "must name both"),
    ],
)
def test_refusals_say_what_to_configure(fields, message):
    with pytest.raises(ConditionError, match=message):
        tokenise_prompts(QUESTIONS, bpe(), ProbeSettings(**fields), False)


def test_a_chat_template_that_refuses_is_named():
    with pytest.raises(ConditionError, match=r"no users.*--no-chat-template"):
        tokenise_prompts(QUESTIONS, bpe("{{ raise_exception('no users') }}"), ProbeSettings(), True)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% include 'other.jinja' %}", "no loader"),
        ("{{ 'a' * 10**10 }}", "1 GiB"),
        ("{% for i in range(40) %}{% generation %}{% endgeneration %}{% endfor %}{{ 'a' * 10**10 }}", "1 GiB"),
        ("{{ 'a' * 10**7 }}", "10,000,000 characters"),
        (
            "{% for i in range(9999) %}{% for j in range(9999) %}{{ i * j }}{% endfor %}{% endfor %}",
            "more than 1 seconds",
        ),
        ("{{ messages[0].content.__class__.mro() }}", "unsafe"),
    ],
)
def test_a_chat_template_that_cannot_be_rendered_is_one_line_and_can_be_left_out(template, reason, monkeypatch):
    monkeypatch.setattr("engine.lm.probe.RENDER_SECONDS", 1)
    tokenizer = bpe(template)
    with pytest.raises(ConditionError, match=rf"chat template .*{reason}.*--no-chat-template") as caught:
        tokenise_prompts(QUESTIONS, tokenizer, ProbeSettings(), True)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert tokenise_prompts(QUESTIONS, tokenizer, ProbeSettings(), False).yes


@pytest.mark.parametrize("chat", [None, "{% for m in messages %}[{{ m.content }}]{% endfor %}\n"])
def test_special_tokens_and_long_questions_are_refused(chat):
    tokenizer = bpe(chat)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    with pytest.raises(ConditionError, match="holds '<|im_end|>', a special token".replace("|", r"\|")):
        tokenise_prompts([*QUESTIONS, "Is a <|im_end|> crow a bird?"], tokenizer, ProbeSettings(), bool(chat))
    with pytest.raises(ConditionError, match="a question of 120,000 characters"):
        tokenise_prompts(["a" * 120_000], tokenizer, ProbeSettings(), bool(chat))


# Pairs and questions


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Four hypernyms, of which "pet" shares leaves with two others, and one leaf in the plural."""
    families = {
        "bird": ["crow", "owl", "robin"],
        "tool": ["hammer", "scissors"],
        "vehicle": ["bus", "van"],
        "pet": ["owl", "robin", "dog"],
        "item": ["dog", "scissors", "owl"],
    }
    root = write_dataset(tmp_path_factory.mktemp("probe"), families)
    text = (root / "taxonomy.csv").read_text().replace("scissors,a scissors,singular", "scissors,scissors,plural")
    (root / "taxonomy.csv").write_text(text.replace(",an item", ",an item of use"))
    return load_dataset(root)


def test_negatives_are_those_of_the_studys_test_images(dataset):
    pairs = {kind: probe_pairs(dataset, kind, 0) for kind in ("distinct", "image-level", "all")}
    true = set(dataset.pairs.itertuples(index=False, name=None))
    questions = build_questions(dataset, Condition(data_seed=0, shuffle="original"))
    test = questions[(questions["split"] == "test") & (questions["kind"] == "hypernym") & ~questions["answer"]]
    drawn = set(zip(test["image_leaf"], test["category"], strict=True))
    for kind, table in pairs.items():
        keys = list(zip(table["leaf"], table["hypernym"], strict=True))
        assert len(set(keys)) == len(keys)
        assert {key for key, answer in zip(keys, table["answer"], strict=True) if answer} == true
        false = set(keys) - true
        every = {(leaf, name) for leaf in dataset.leaves.index for name in dataset.hypernyms.index} - true
        assert false == (every if kind == "all" else drawn)
    several = dataset.pairs["leaf"].value_counts()
    negative = pairs["image-level"][~pairs["image-level"]["answer"]]
    assert (negative["repeats"] == negative["leaf"].map(several)).all()
    assert negative["repeats"].max() == 3
    for table in (pairs["distinct"], pairs["all"], pairs["image-level"].query("answer")):
        assert (table["repeats"] == 1).all()
    pd.testing.assert_frame_equal(pairs["image-level"], probe_pairs(dataset, "image-level", 0))
    assert len(pairs["distinct"]) < len(pairs["all"])
    assert not pairs["distinct"].equals(probe_pairs(dataset, "distinct", 1))


def test_questions_agree_with_number_and_article(dataset):
    pairs = pd.DataFrame({"leaf": ["crow", "scissors"], "hypernym": ["item", "tool"]})
    wanted = [
        ("Is it true that a crow is a type of item of use?", "Is it true that scissors are a type of tool?"),
        ("Is it true that a crow is an item of use?", "Is it true that scissors are a tool?"),
        ("Is a crow a type of item of use?", "Are scissors a type of tool?"),
        ("Is a crow an item of use?", "Are scissors a tool?"),
    ]
    asked = [tuple(phrase_questions(dataset, pairs, phrasing)) for phrasing in ProbeSettings().phrasings]
    assert asked == wanted
    assert phrase_questions(dataset, pairs, "{leaf_noun}: {hypernym_noun}") == ["crow: item of use", "scissors: tool"]
    with pytest.raises(ConditionError, match=r"fields are \{leaf_phrase\}"):
        phrase_questions(dataset, pairs, "{leaf_phrase} {hypernym_phrase} {leaf_plural}")


@needs_reference
def test_the_real_taxonomy_gives_the_published_numbers_of_questions(tmp_path):
    """16,903 questions of the paper: 2,040 positives and 7,296 distinct negatives, once per item 14,863."""
    real = load_dataset(write_real_taxonomy(tmp_path))
    distinct, published = [], []
    for seed in range(3):
        pairs = probe_pairs(real, "image-level", seed)
        assert pairs["answer"].sum() == 2040
        negative = pairs[~pairs["answer"]]
        distinct.append(len(negative))
        published.append(negative["repeats"].sum())
    # 40 simulations of the draws: 7,317 pairs (SD 20) and 14,921 questions (SD 53).
    assert abs(np.mean(distinct) - PROBE_NEGATIVES["distinct"]) < 4 * 20
    assert abs(np.mean(published) - PROBE_NEGATIVES["image-level"]) < 4 * 53
    always_no = pairs.assign(phrasing=0, logit_yes=0.0, logit_no=1.0, rank_yes=1, rank_no=0)
    assert summarise_probe(always_no)["pooled_f1"].item() == pytest.approx(PROBE_POOLED_MAJORITY, abs=0.05)


@needs_reference
def test_the_published_scores_take_all_questions_together():
    """Counts behind the release's per-hypernym accuracy and F1: they sum to 16,903 questions and give 78.5 and 88.2."""
    released = pd.read_csv(REFERENCE / "release/results/coherence_backbone.csv")
    released = released.drop_duplicates(["model", "hypernym"]).set_index(["hypernym", "model"]).sort_index()
    leaves = pd.read_csv(REFERENCE / "things_pairs_2040.csv")["hypernym_id"].value_counts()
    models_ = sorted(PROBE_POOLED)
    total, counts = 0, {model: np.zeros((2, 2), dtype=int) for model in models_}
    for hypernym, n_yes in leaves.items():
        sizes = np.arange(n_yes + 1, 4000)
        right = {model: released.loc[(hypernym, model), "backbone_acc"] * sizes for model in models_}
        whole = np.all([np.abs(values - values.round()) < 1e-7 * sizes for values in right.values()], axis=0)
        counted = (right[model][whole].round().astype(int) for model in models_)
        for size, *rights in zip(sizes[whole], *counted, strict=True):
            tables = [confusions(n_yes, size - n_yes, count) for count in rights]
            scores = [released.loc[(hypernym, model), "backbone_f1"] for model in models_]
            fits = [t[np.abs(macro_f1(t) - f1) < 1e-9] for t, f1 in zip(tables, scores, strict=True)]
            if all(len(fit) for fit in fits):
                total += size
                for model, fit in zip(models_, fits, strict=True):
                    counts[model] += fit[0]
                break
    assert total == leaves.sum() + PROBE_NEGATIVES["image-level"]
    for model in models_:
        assert 100 * macro_f1(counts[model][None])[0] == pytest.approx(PROBE_POOLED[model], abs=0.05)
        mean = 100 * released.xs(model, level="model")["backbone_f1"].mean()
        assert mean == pytest.approx(PROBE_ITEMS[model], abs=0.05)


def confusions(n_yes, n_no, right):
    """Every confusion table with `right` right answers."""
    hits = np.arange(max(0, right - n_no), min(n_yes, right) + 1)
    return np.stack([[right - hits, n_no - (right - hits)], [n_yes - hits, hits]]).transpose(2, 0, 1)


# Scores


@pytest.fixture(scope="module")
def answers():
    """Two phrasings about 12 leaves and 4 hypernyms, with repeats and ties."""
    rng = generator(0, "probe answers")
    leaves, hypernyms = [f"leaf {n}" for n in range(12)], [f"hypernym {n}" for n in range(4)]
    rows = [(leaf, name, form) for form in range(2) for leaf in leaves for name in hypernyms]
    table = pd.DataFrame(rows, columns=["leaf", "hypernym", "phrasing"])
    count = len(table)
    table["answer"] = [int(leaf[5:]) % 4 == int(name[9:]) for leaf, name, _ in rows]
    table["answer"] |= (table["leaf"] == "leaf 5") & (table["hypernym"] == "hypernym 0")
    table["repeats"] = np.where(table["answer"], 1, rng.integers(1, 4, size=count))
    table[["logit_yes", "logit_no"]] = rng.integers(0, 4, size=(count, 2)) / 4 + table[["answer"]].to_numpy() * [0.5, 0]
    table[["rank_yes", "rank_no"]] = rng.integers(0, 5, size=(count, 2))
    return table


def test_scores_are_scikit_learns_with_weights(answers):
    scores = probe_scores(answers).set_index(["phrasing", "hypernym"])
    assert len(scores) == 8
    said = answers["logit_yes"] >= answers["logit_no"]
    ranked = answers["rank_yes"] < answers["rank_no"]
    assert (answers["logit_yes"] == answers["logit_no"]).any()
    assert (answers["rank_yes"] == answers["rank_no"]).any()
    for key, rows in answers.groupby(["phrasing", "hypernym"]):
        weight, at = rows["repeats"], scores.loc[key]
        for column, predicted in (("f1", said), ("rank_f1", ranked)):
            expected = f1_score(rows["answer"], predicted[rows.index], average="macro", sample_weight=weight)
            assert at[column] == pytest.approx(100 * expected)
        margin = rows["logit_yes"] - rows["logit_no"]
        assert at["auc"] == pytest.approx(roc_auc_score(rows["answer"], margin, sample_weight=weight))
        assert at["ties"] == weight[margin == 0].sum()
        assert (at["n_yes"], at["n_no"]) == (weight[rows["answer"]].sum(), weight[~rows["answer"]].sum())
        assert at["coin_f1"] == pytest.approx(100 * coin_macro_f1([at["n_yes"]], [at["n_no"]])[0])
        items = answers[(answers["phrasing"] == key[0]) & answers["answer"] & (answers["hypernym"] == key[1])]
        same = answers[(answers["phrasing"] == key[0]) & ~answers["answer"] & answers["leaf"].isin(items["leaf"])]
        both = pd.concat([items, same])
        expected = f1_score(both["answer"], said[both.index], average="macro")
        assert at["item_f1"] == pytest.approx(100 * expected)
        assert at["item_f1"] != pytest.approx(at["f1"])


def test_the_summary_means_over_hypernyms_and_pools_questions(answers):
    summary, scores = summarise_probe(answers), probe_scores(answers)
    for form, rows in answers.groupby("phrasing"):
        at, mine = summary.loc[form], scores[scores["phrasing"] == form]
        assert at["macro_f1"] == pytest.approx(mine["f1"].mean())
        assert at["majority"] == pytest.approx(mine["majority_f1"].mean())
        for column, predicted in (
            ("pooled_f1", rows["logit_yes"] >= rows["logit_no"]),
            ("pooled_rank_f1", rows["rank_yes"] < rows["rank_no"]),
            ("pooled_majority", np.zeros(len(rows), dtype=bool)),
        ):
            expected = f1_score(rows["answer"], predicted, average="macro", sample_weight=rows["repeats"])
            assert at[column] == pytest.approx(100 * expected)
        assert at["questions"] == rows["repeats"].sum()
    result = probe_result(answers, "Qwen/Qwen3-0.6B")
    assert result["macro_f1"] == pytest.approx(np.mean(result["by_phrasing"]))
    assert result["published"] == {"pooled_rank_f1": 78.5, "item_rank_f1": 77.7}
    assert probe_result(answers, "birds/lm")["published"] == {}


# The command

TINY = ["--phrasing", "is {leaf_noun} {hypernym_phrase}", "--phrasing", "{leaf_phrase} {is} {hypernym_noun}"]
TINY += ["--template", "{question} {answer}", "--answer-yes", "yes", "--answer-no", "no", "--threads", "1"]


def test_the_command_writes_a_table_and_its_record_and_prints_scores(crosstax, small_study, tmp_path):
    file = tmp_path / "probe.parquet"
    words = ["probe", small_study.dataset, "--lm", small_study.lm, *TINY, "--out", file, "--json"]
    code, out, err = crosstax(*words)
    assert code == 0
    result = json.loads(out.splitlines()[-1])["lm"][str(small_study.lm)]
    table, record = read_probe(file)
    assert set(table["phrasing"]) == {0, 1}
    pairs = probe_pairs(load_dataset(small_study.dataset), "image-level", 0)
    for _, part in table.groupby("phrasing"):
        pd.testing.assert_frame_equal(part[pairs.columns].reset_index(drop=True), pairs)
    assert {"schema", "lm", "lm_digest", "tokenizer_digest", "dataset_digest", "data_seed"} < set(record)
    assert record["chat_template"] is False
    assert record["phrasings"] == [TINY[1], TINY[3]]
    assert record["unknown_words"] == 0
    assert result["questions"] == pairs["repeats"].sum()
    assert result["macro_f1"] == pytest.approx(summarise_probe(table)["macro_f1"].mean())
    assert f"macro F1, mean over hypernyms  {result['macro_f1']:.1f}" in err
    before = file.read_bytes(), file.with_suffix(".json").read_bytes()
    assert crosstax(*words)[0] == 0
    assert (file.read_bytes(), file.with_suffix(".json").read_bytes()) == before


def test_a_folder_gets_a_file_per_lm_and_settings(crosstax, small_study, tmp_path):
    for more in ([], ["--lm-init", "random", "--lm-seed", 1], ["--lm-init", "random", "--lm-seed", 2]):
        code, *_ = crosstax("probe", small_study.dataset, "--lm", small_study.lm, *TINY, "--out", tmp_path, *more)
        assert code == 0
    files = sorted(tmp_path.glob("*.parquet"))
    assert [file.name.rsplit("-", 1)[0] for file in files] == ["lm-pretrained", "lm-random1", "lm-random2"]
    logits = [read_probe(file)[0]["logit_yes"].to_numpy() for file in files]
    assert not np.allclose(logits[1], logits[2])
    code, *_ = crosstax(
        "probe", small_study.dataset, "--lm", "a", "--lm", "b", *TINY, "--out", tmp_path / "one.parquet"
    )
    assert code == 2


def test_what_a_user_can_get_wrong_is_one_line(crosstax, small_study, tmp_path):
    paper = ["probe", small_study.dataset, "--lm", small_study.lm, "--out", tmp_path]
    code, _, err = crosstax(*paper)
    assert code == 2
    assert "'Yes' is not one known token" in err.strip().splitlines()[-1]
    code, _, err = crosstax(*paper, "--phrasing", "{leaf_phrase} {hypernym_phrase} {oops}")
    assert code == 2
    assert "field that does not exist" in err
    code, _, err = crosstax(*paper, *TINY, "--phrasing", "really is {leaf_noun} {hypernym_phrase}")
    assert code == 0
    assert "prompts hold words that the tokenizer does not know" in err
    assert len(list(tmp_path.iterdir())) == 2
    file = next(tmp_path.glob("*.parquet"))
    file.write_bytes(b"no table")
    with pytest.raises(RunError, match="not a probe's table"):
        read_probe(file)


def test_a_microworlds_lm_knows_its_hypernyms_in_text_and_its_random_twins_do_not(smoke_world):
    world = load_dataset(smoke_world.dataset)

    def probe(**fields):
        table, record = run_probe(world, str(smoke_world.lm), settings_for(str(smoke_world.lm), **fields), "cpu")
        assert record["unknown_words"] == 0
        assert len(record["phrasings"]) == 4
        return summarise_probe(table).mean()

    pretrained = probe()
    twins = pd.DataFrame([probe(lm_init="random", lm_seed=seed) for seed in range(8)])
    for score in ("macro_f1", "rank_f1", "pooled_f1", "item_f1", "auc"):
        assert pretrained[score] > twins[score].mean() + 4 * twins[score].std(), score
        assert pretrained[score] > twins[score].max(), score
    assert pretrained["macro_f1"] > 10 + pretrained[["majority", "coin", "permuted"]].max()
