"""Loading language models: directories of save_pretrained, random twins, digests, and what is refused."""

import json

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from small_study import word_tokenizer
from tiny import CONFIGS, tiny_lm
from transformers import AutoModelForCausalLM

from cachegen.common.errors import ModelError
from engine.lm.language_model import FrozenLM, load_lm
from engine.lm.loading import lm_digests, resolve_lm

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    tiny_lm("qwen3").save_pretrained(tmp_path)
    word_tokenizer(["is", "there", "yes", "no"]).save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_lm_is_loaded_frozen_in_the_asked_precision(folder):
    lm = load_lm(folder, "pretrained", 0, "float32", CPU)
    assert torch.equal(lm.model.lm_head.weight, tiny_lm("qwen3").lm_head.weight)
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert load_lm(folder, "pretrained", 0, "bfloat16", CPU).dtype == torch.bfloat16


def test_random_weights_depend_on_the_lm_seed_alone(folder):
    torch.manual_seed(0)
    first = load_lm(folder, "random", 1, "float32", CPU)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, other = load_lm(folder, "random", 1, "float32", CPU), load_lm(folder, "random", 2, "float32", CPU)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.model.lm_head.weight, again.model.lm_head.weight)
    assert not torch.equal(first.model.lm_head.weight, other.model.lm_head.weight)
    assert not torch.equal(first.model.lm_head.weight, tiny_lm("qwen3").lm_head.weight)


def test_digests_follow_the_weights_unless_they_are_random(folder):
    before = {init: lm_digests(folder, init) for init in ("pretrained", "random")}
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    after = {init: lm_digests(folder, init) for init in ("pretrained", "random")}
    assert before["pretrained"]["lm"] != after["pretrained"]["lm"]
    assert before["random"] == after["random"]
    assert before["pretrained"]["tokenizer"] == after["pretrained"]["tokenizer"]


def test_missing_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights, first model.layers.1.mlp.up_proj.weight"):
        load_lm(folder, "pretrained", 0, "float32", CPU)


def test_damaged_directories_are_named(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(ModelError, match=r"cannot load the LM in|cut off or damaged"):
        load_lm(folder, "pretrained", 0, "float32", CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config.json"):
        resolve_lm(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="does not exist"):
        resolve_lm(str(tmp_path / "nothing" / "here" / "at all"))


def hub_error(kind, message):
    """An error of the hub, as its library raises it, without a server."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            hub_error(GatedRepoError, "403 Client Error. (Request ID: 1)\n\nAccess to model is restricted."),
            r"LM meta-llama/Llama-3.2-1B is gated: accept its licence at https://huggingface.co/meta-llama/Llama-3.2-1B,"
            r" then `hf auth login` or set HF_TOKEN$",
        ),
        (
            hub_error(RepositoryNotFoundError, "401 Client Error. (Request ID: 1)\n\nRepository Not Found."),
            r"is not at https://huggingface.co/meta-llama/Llama-3.2-1B, or it is private: check the id, or `hf auth",
        ),
        (
            LocalEntryNotFoundError("no network\nlong story"),
            r"cannot be loaded \(no network\); check name, files and net",
        ),
        (
            hub_error(HfHubHTTPError, "500 Server Error\nlong story"),
            r"cannot be loaded \(500 Server Error\); check name",
        ),
    ],
    ids=["gated", "unknown or private", "offline", "hub down"],
)
def test_hub_failures_say_what_to_do(error, message, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=message) as caught:
        resolve_lm("meta-llama/Llama-3.2-1B")
    assert "\n" not in str(caught.value)


def test_only_what_loading_needs_is_downloaded(monkeypatch, tmp_path):
    """Not the same weights a second time in the maker's own format, nor pickles: 16 GB each for an 8B."""
    needed = {
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    }
    others = ["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model", "README.md"]
    others += [
        "consolidated.safetensors",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "onnx/config.json",
        "flax_model.msgpack",
    ]

    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')

    def download(name, **patterns):
        kept = huggingface_hub.utils.filter_repo_objects([*needed, *others], **patterns)
        assert set(kept) == needed
        return tmp_path

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_lm("mistralai/Mistral-7B-v0.3") == tmp_path


@pytest.mark.parametrize("family", CONFIGS)
def test_answer_logits_are_the_heads_rows_in_float32(family):
    lm = FrozenLM.wrap(tiny_lm(family).to(torch.bfloat16), None, CPU)
    states = torch.randn(5, lm.width, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    exact = states.double() @ lm.model.get_output_embeddings().weight.double().T
    answers = lm.answer_logits(states, 3, 7)
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers.double(), exact[:, [3, 7]], rtol=1e-5, atol=1e-5)
    assert (lm.vocabulary_logits(states)[:, [3, 7]].double() - exact[:, [3, 7]]).abs().max() > 1e-4  # bf16 head


def test_the_configuration_is_part_of_the_digest(folder):
    before = lm_digests(folder, "random")["lm"]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert lm_digests(folder, "random")["lm"] != before


SHAPE = {"vocab_size": 61, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("OlmoConfig", {"intermediate_size": 96}),
        ("Olmo2Config", {"intermediate_size": 96}),
        ("GPT2Config", {}),
        ("OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 48}),
        ("PhiConfig", {"intermediate_size": 96}),
        ("MistralConfig", {"intermediate_size": 96, "num_key_value_heads": 2, "sliding_window": None}),
        ("Gemma2Config", {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 12}),
    ],
)
def test_other_families_pass_the_check_at_load(family, more):
    config = getattr(transformers, family)(**SHAPE, **more, initializer_range=0.2)
    lm = FrozenLM.wrap(AutoModelForCausalLM.from_config(config), None, CPU)
    assert (lm.width, lm.way) == (48, "shared")


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("FalconConfig", {"alibi": True}),
        ("BloomConfig", {}),
        ("MambaConfig", {}),
    ],
)
def test_families_that_cannot_share_a_prefix_take_one_prompt_for_each_question(family, more):
    """Biases by distance and state spaces: noticed at load, with the reason, never a silent wrong answer."""
    config = getattr(transformers, family)(**SHAPE, **more)
    lm = FrozenLM.wrap(AutoModelForCausalLM.from_config(config), None, CPU)
    assert lm.way == "unshared"
    assert lm.reason in lm.described


def test_sharing_can_be_declined():
    lm = FrozenLM.wrap(tiny_lm("qwen3"), None, CPU, sharing="never")
    assert (lm.way, lm.reason) == ("unshared", "lm_sharing = never")
