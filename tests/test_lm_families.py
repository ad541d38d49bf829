"""Every family of LM the study names, from a directory in its real format to the logits of an answer.

The LMs are tiny and random, their tokenizers in the family's style. Nothing here or in the engine knows a family by
name: what differs is what configuration and tokenizer say.
"""

import json
from itertools import cycle, product

import numpy as np
import pytest
import torch
import transformers
from few import few
from safetensors.torch import load_file, save_file
from tiny import CONFIGS, tiny_lm, tiny_tokenizer
from transformers import AutoModelForCausalLM

from cachegen.common.errors import ModelError
from cachegen.common.hub import weight_files
from engine.design.condition import Condition
from engine.lm import prefix_sharing
from engine.lm.language_model import FrozenLM, load_lm
from engine.lm.loading import lm_digests, load_model
from engine.lm.prefix_sharing import Layout
from engine.lm.prompts import tokenise
from engine.training.batches import pack
from engine.training.loop import prompt_row

CPU = torch.device("cpu")
STYLE = {"qwen3": "qwen", "llama": "llama3", "gpt_neox": "gpt_neox", "olmo": "gpt_neox", "olmo2": "qwen"}
ASKED = [("a crow", "singular"), ("scissors", "plural"), ("a bird", "singular")]
VOCABULARY, PATCHES = 420, 5


def save_lm(family, folder, dtype=torch.float32, shards=None, **size):
    """LM and tokenizer as save_pretrained writes them, in shards of at most `shards`."""
    model = tiny_lm(family, dtype=dtype, vocab_size=VOCABULARY, **size)
    model.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    tiny_tokenizer(STYLE[family]).save_pretrained(folder)
    return model


def patches_of(lm):
    """(2, P, D): two images that are as large as words."""
    noise = torch.randn(2, PATCHES, lm.width, generator=torch.Generator().manual_seed(3))
    return (noise * lm.embedding_rms).to(lm.dtype)


def answers(lm, condition):
    """(6, 2) logits of yes and no for three questions about each of two images, and the prompt's tokens."""
    tokens = tokenise(condition, lm.tokenizer, ASKED)
    image = np.array([0, 0, 0, 1, 1, 1])
    prefix = len(tokens.prefix) + PATCHES
    [row] = pack(image, np.zeros_like(image), 1, prefix, tokens.suffixes.shape[1], 10_000)
    suffix = np.array([tokens.rows[question] for question in ASKED * 2])
    states = prompt_row(lm, tokens, row, [lambda x: x], [patches_of(lm)[row.items[0]]], suffix[row.question])
    logits = torch.empty(6, 2)
    logits[torch.from_numpy(row.question)] = lm.answer_logits(states, tokens.yes, tokens.no)
    return logits, tokens


def plain_answers(lm, model, tokens, image_at=None):
    """The same by Hugging Face's own forward on one question at a time, image after the tokens before it."""
    logits = []
    for image in patches_of(lm).to(model.dtype):
        for question in ASKED:
            row = tokens.rows[question]
            ids = torch.from_numpy(np.concatenate([tokens.prefix, tokens.suffixes[row, : tokens.lengths[row]]]))
            words = model.get_input_embeddings()(ids)
            cut = len(tokens.prefix) if image_at is None else image_at
            whole = torch.cat([words[:cut], image, words[cut:]])[None]
            logits.append(model(inputs_embeds=whole, use_cache=False).logits[0, -1, [tokens.yes, tokens.no]])
    return torch.stack(logits)


@pytest.mark.parametrize("template", ["{image}\n{question}\n", "<image>\n{question}"], ids=["paper", "release"])
@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_a_saved_family_answers_as_hugging_face_does(family, template, tmp_path):
    """From directory and tokenizer through template, shared prefix and pruned block to the two logits."""
    model = save_lm(family, tmp_path).double()
    lm = load_lm(tmp_path, "pretrained", 0, "float32", CPU)
    assert lm.prunes
    logits, tokens = answers(lm, Condition(template=template))
    exact = plain_answers(lm, model, tokens)
    rounding = (plain_answers(lm, model.float(), tokens).double() - exact).abs().max()
    assert (logits.double() - exact).abs().max() < 8 * rounding
    elsewhere = plain_answers(lm, model.double(), tokens, image_at=len(tokens.prefix) + 2)
    assert (exact - elsewhere).abs().max() > 1e4 * rounding


@pytest.mark.parametrize("family", CONFIGS)
def test_bfloat16_passes_the_check_at_load_and_a_wrong_position_does_not(family, tmp_path, monkeypatch):
    """The bound leaves room for rounding on every family, and none for suffixes that begin at position 0 again."""
    save_lm(family, tmp_path, torch.bfloat16)
    lm = load_lm(tmp_path, "pretrained", 0, "bfloat16", CPU)
    assert lm.way == "shared"
    assert {parameter.dtype for parameter in lm.model.parameters()} == {torch.bfloat16}
    right = Layout.position_ids

    def restarted(self, device):
        positions = right(self, device)
        return torch.where(positions < self.prefix, positions, positions - self.prefix)

    monkeypatch.setattr(Layout, "position_ids", restarted)
    lm = load_lm(tmp_path, "pretrained", 0, "bfloat16", CPU)
    assert lm.way == "unshared"
    assert "differ from Hugging Face's own" in lm.reason


@pytest.mark.parametrize("family", CONFIGS)
def test_random_twins_are_the_same_draws_in_either_dtype(family, tmp_path):
    save_lm(family, tmp_path)
    full, _ = load_model(tmp_path, "random", 5, "float32")
    half, _ = load_model(tmp_path, "random", 5, "bfloat16")
    for one, other in zip(full.parameters(), half.parameters(), strict=True):
        assert other.dtype == torch.bfloat16
        assert torch.equal(one.to(torch.bfloat16), other)


@pytest.mark.parametrize("family", CONFIGS)
def test_shards_are_one_model(family, tmp_path):
    """As 8B models are published: an index and several files, loaded and hashed together."""
    whole, split = tmp_path / "whole", tmp_path / "split"
    save_lm(family, whole)
    save_lm(family, split, shards="100KB")
    shards = weight_files(split)
    assert len(shards) > 2
    assert weight_files(whole) == [whole / "model.safetensors"]
    first, _ = load_model(whole, "pretrained", 0, "float32")
    second, _ = load_model(split, "pretrained", 0, "float32")
    for (name, one), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(one, other), name

    digest = lm_digests(split, "pretrained")
    (split / "consolidated.safetensors").write_bytes(b"the same weights in another format, which nobody reads")
    assert lm_digests(split, "pretrained") == digest
    tensors = load_file(shards[-1])
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, shards[-1], metadata={"format": "pt"})
    assert lm_digests(split, "pretrained")["lm"] != digest["lm"]
    shards[1].unlink()
    for refused in (lambda: lm_digests(split, "pretrained"), lambda: load_model(split, "pretrained", 0, "float32")):
        with pytest.raises(ModelError, match=f"lacks {shards[1].name}, which its model.safetensors.index.json names"):
            refused()
    assert lm_digests(split, "random")["lm"] == lm_digests(whole, "random")["lm"]


def test_pickled_weights_are_refused_before_they_are_read(tmp_path, monkeypatch):
    model = save_lm("gpt_neox", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors; download it whole"):
        load_lm(tmp_path, "pretrained", 0, "float32", CPU)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    for refused in (
        lambda: load_lm(tmp_path, "pretrained", 0, "float32", CPU),
        lambda: lm_digests(tmp_path, "pretrained"),
    ):
        with pytest.raises(ModelError, match=r"weights in pytorch_model.bin only, a pickle, which can run code"):
            refused()
    load_lm(tmp_path, "random", 0, "float32", CPU)  # needs no weights


def test_a_tokenizer_of_another_lm_is_refused(tmp_path):
    tiny_lm("qwen3").save_pretrained(tmp_path)
    tiny_tokenizer("qwen").save_pretrained(tmp_path)
    lm = load_lm(tmp_path, "pretrained", 0, "float32", CPU)
    with pytest.raises(
        ModelError, match=r"has the token '.+', number \d+ .* LM embeds 61; they do not belong together"
    ):
        tokenise(Condition(), lm.tokenizer, ASKED, lm.rows)


SHAPE = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
WINDOWED = {
    "Qwen2MoeConfig": {
        "use_sliding_window": True,
        "max_window_layers": 1,
        "moe_intermediate_size": 32,
        "num_experts": 4,
    },
    "SmolLM3Config": {"use_sliding_window": True, "layer_types": ALTERNATING},
    "PhimoeConfig": {"num_local_experts": 4},
    "MistralConfig": {},
    "Olmo3Config": {"layer_types": ALTERNATING},
    "Gemma3TextConfig": {"layer_types": ALTERNATING},
    "Qwen3Config": {"use_sliding_window": True, "layer_types": ALTERNATING},
}


def windowed(family, window):
    shape = {
        name: value
        for name, value in SHAPE.items()
        if name != "head_dim" or family not in ("Olmo3Config", "Qwen2MoeConfig", "PhimoeConfig", "SmolLM3Config")
    }
    config = getattr(transformers, family)(**shape, **WINDOWED[family], sliding_window=window)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FrozenLM.wrap(AutoModelForCausalLM.from_config(config), None, CPU)


def row_of(lm, prefix):
    """A packed row of one image of `prefix` tokens with one question of four, and its layout."""
    layout = Layout(buckets=((1, 1),), prefix=prefix, suffix=4)
    return torch.randn(prefix + 4, lm.width, generator=torch.Generator().manual_seed(1)), layout


WINDOWS, WAYS = (1, 3, 8, 21, 24), ("products", "sdpa")
ONCE = [(*pair, way) for pair in zip(WINDOWED, cycle(WINDOWS), strict=False) for way in WAYS]


@pytest.mark.parametrize(("family", "window", "way"), few([*product(WINDOWED, WINDOWS, WAYS)], *ONCE))
@torch.no_grad()
def test_sliding_windows_are_hugging_faces(family, window, way, monkeypatch):
    """Also those shorter than image and question, and than the question, as the model's own mask has them."""
    if way == "sdpa":
        monkeypatch.setattr(
            prefix_sharing, "composed_attention", lambda *given: prefix_sharing.sdpa_attention(*given[:6])
        )
    lm = windowed(family, window)
    assert lm.way == "shared"
    row_TD, layout = row_of(lm, 20)
    shared = lm.vocabulary_logits(lm.answer_states(row_TD, layout, layout.answer_rows(torch.tensor([4]))))[0]
    with lm.plain() as model:
        plain = model(inputs_embeds=row_TD[None], use_cache=False).logits[0, -1]
        torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-4)
        model.config.sliding_window = 64  # control
        full = model(inputs_embeds=row_TD[None], use_cache=False).logits[0, -1]
    assert ((full - plain).abs().max() > 1e-2) == (window < 24)


def test_embedding_rms_is_that_of_what_the_lm_reads():
    """Gemma multiplies its table by the square root of its width; others read it as it stands."""
    gemma, mistral = windowed("Gemma3TextConfig", 64), windowed("MistralConfig", 64)
    for lm, scale in ((gemma, 48**0.5), (mistral, 1.0)):
        table = lm.model.get_input_embeddings().weight
        assert lm.embedding_rms == pytest.approx(scale * table.double().square().mean().sqrt().item(), rel=1e-5)


def test_embedding_rms_in_blocks_is_the_whole_tables(monkeypatch):
    whole = FrozenLM.wrap(tiny_lm("llama"), None, CPU).embedding_rms
    assert whole == tiny_lm("llama").get_input_embeddings().weight.square().mean().sqrt().item()  # one block: same bits
    monkeypatch.setattr("engine.lm.language_model.RMS_BLOCK", 48 * 7)  # 61 rows: eight blocks of 7 and one of 5
    assert FrozenLM.wrap(tiny_lm("llama"), None, CPU).embedding_rms == pytest.approx(whole, rel=1e-6)


def test_a_directory_without_a_fast_tokenizer_is_refused(tmp_path, monkeypatch):
    save_lm("qwen3", tmp_path)
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(ModelError, match=r"gives no offsets; add a tokenizer.json"):
        load_lm(tmp_path, "pretrained", 0, "float32", CPU)


def test_the_index_of_shards_must_be_readable(tmp_path):
    save_lm("olmo", tmp_path, shards="100KB")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}}))
    with pytest.raises(ModelError, match=r"model.safetensors.index.json is not an index of shards beside it; download"):
        lm_digests(tmp_path, "pretrained")
