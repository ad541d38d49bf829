"""GGUF files, adapters and quantised checkpoints give the numbers of the LM they were made from, or are refused."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from picture_study import save_encoder
from safetensors.torch import load_file, save_file
from tiny import tiny_lm, tiny_tokenizer

from cachegen.common.errors import ModelError
from engine.lm.language_model import FrozenLM
from engine.lm.loading import check_weights, lm_digests, load_model, local_lm, resolve_lm
from engine.lm.shape import lm_shape

gguf = pytest.importorskip("gguf")
peft = pytest.importorskip("peft")

SIZE = {"hidden_size": 64, "vocab_size": 420, "tie_word_embeddings": False}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """Views of this module's files lie in a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSTAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tiny Llama as transformers saves it."""
    folder = tmp_path_factory.mktemp("plain") / "base"
    tiny_lm("llama", **SIZE).save_pretrained(folder)
    tiny_tokenizer("llama3").save_pretrained(folder)
    return folder


def interleaved(weight, heads):
    """Rows of a query or key projection in llama.cpp's order, which turns neighbours, not halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, tokenizer, kind="F32", architecture="llama", extra=(), tensors=(), without=()):
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for key, value in extra:
        (writer.add_string if isinstance(value, str) else writer.add_float32)(f"{architecture}.{key}", value)
    saved = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(saved["vocab"], key=saved["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([*words, *(f"<unused{i}>" for i in range(config.vocab_size - len(words)))])
    unused = [3] * (config.vocab_size - len(words))
    writer.add_token_types([3 if word.startswith("<|") else 1 for word in words] + unused)
    writer.add_token_merges([" ".join(pair) for pair in saved["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for name, values in model.state_dict().items():
        weight = values.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = interleaved(weight, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        if name in without:
            continue
        if kind == "F32" or weight.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(weight))
        else:
            packed = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quantize(weight, packed), raw_dtype=packed)
    for name, weight in tensors:
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def loaded(place, lm_init="pretrained", dtype="float32"):
    return load_model(resolve_lm(str(place)), lm_init, 0, dtype)


@torch.no_grad()
def logits(model):
    return model(input_ids=torch.arange(2, 30)[None]).logits[0]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_gguf_file_is_the_lm_that_it_was_made_from(plain, tmp_path):
    exact, tokenizer = loaded(plain)
    path = write_gguf(tmp_path / "tiny.gguf", exact, tokenizer)
    model, own = loaded(path)
    assert same_weights(model, exact)
    assert torch.equal(logits(model), logits(exact))
    text = "Is there a crow in this image?\nYes"
    assert own(text, return_offsets_mapping=True) == tokenizer(text, return_offsets_mapping=True)
    assert resolve_lm(str(tmp_path)) == resolve_lm(str(path)) == local_lm(str(path))
    assert lm_shape(str(resolve_lm(str(path)))) == lm_shape(str(plain))
    assert FrozenLM.wrap(model, own, torch.device("cpu")).way == "shared"
    drawn, _ = loaded(path, "random")
    assert same_weights(drawn, loaded(path, "random")[0])
    assert not same_weights(drawn, model)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_packed_weights_are_unpacked_as_the_package_unpacks_them(kind, plain, tmp_path):
    exact, tokenizer = loaded(plain)
    model, _ = loaded(write_gguf(tmp_path / "tiny.gguf", exact, tokenizer, kind))
    for name in ("model.layers.1.mlp.up_proj.weight", "lm_head.weight"):
        weight, packed = exact.get_parameter(name).detach().numpy(), gguf.GGMLQuantizationType[kind]
        expected = torch.from_numpy(gguf.dequantize(gguf.quantize(weight, packed), packed))
        assert torch.equal(model.get_parameter(name), expected)
        assert not torch.equal(model.get_parameter(name), exact.get_parameter(name))


@pytest.mark.parametrize("damage", [None, "a bit", "cut off", "gone", "no digest"])
def test_unpacked_weights_are_kept_and_read_only_while_they_are_whole(damage, plain, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", *loaded(plain), "Q8_0")
    narrow, _ = loaded(path, dtype="bfloat16")  # keeps nothing: these are rounded
    first, _ = loaded(path)
    kept = resolve_lm(str(path)) / "model.safetensors"
    assert kept.stat().st_mode == kept.with_name("config.json").stat().st_mode
    content = bytearray(kept.read_bytes())
    content[-1] ^= 64
    if damage:
        kept.write_bytes(content[: len(content) // 2 if damage == "cut off" else None])
    if damage in ("gone", "no digest"):
        (kept if damage == "gone" else kept.with_name("kept.json")).unlink()
    if not damage:
        monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint", None)
    again, _ = loaded(path)
    assert same_weights(again, first)
    assert same_weights(loaded(path, dtype="bfloat16")[0], narrow)
    assert vars(again.config) | {"_name_or_path": ""} == vars(first.config) | {"_name_or_path": ""}


def test_positions_that_only_a_tensor_scales(plain, tmp_path):
    """Llama 3's, which transformers overlooks; a file with factors of another form is refused."""
    exact, tokenizer = loaded(plain)
    scaled = tiny_lm("llama", **SIZE, rope_parameters=LLAMA3)
    scaled.load_state_dict(exact.state_dict())
    factors = exact.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq
    path = write_gguf(tmp_path / "a.gguf", exact, tokenizer, tensors=[("rope_freqs.weight", factors.numpy())])
    ids = torch.randint(0, 400, (1, 100), generator=torch.Generator().manual_seed(0))
    found, with_them, without = (m(input_ids=ids).logits for m in (loaded(path)[0], scaled, exact))
    torch.testing.assert_close(found, with_them, rtol=0, atol=1e-5)
    assert not torch.allclose(found, without, rtol=0, atol=1e-4)
    other = [("rope_freqs.weight", factors.numpy() ** 2)]
    with pytest.raises(ModelError, match=r"rope_freqs.weight, which transformers overlooks"):
        resolve_lm(str(write_gguf(tmp_path / "b.gguf", exact, tokenizer, tensors=other)))


def test_a_gguf_file_on_the_hub_and_an_adapter_without_its_base(plain, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", *loaded(plain))

    def download(repository, file, local_files_only=False):
        assert (repository, file) == ("org/name-GGUF", "tiny.gguf")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert resolve_lm("org/name-GGUF/tiny.gguf") == local_lm("org/name-GGUF/tiny.gguf") == resolve_lm(str(path))
    folder = lora(plain, tmp_path / "lora")
    assert local_lm(str(folder)) == resolve_lm(str(folder))
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(about | {"base_model_name_or_path": "org/not-here"}))
    assert local_lm(str(folder)) is None


def test_digests_are_the_files(plain, tmp_path):
    exact, tokenizer = loaded(plain)
    path = write_gguf(tmp_path / "tiny.gguf", exact, tokenizer)
    before = lm_digests(resolve_lm(str(path)), "pretrained")
    copy = shutil.copy(path, tmp_path / "copy.gguf")
    assert lm_digests(resolve_lm(str(copy)), "pretrained") == before
    with torch.no_grad():
        exact.lm_head.weight[0, 0] += 1
    write_gguf(path, exact, tokenizer)
    assert lm_digests(resolve_lm(str(path)), "pretrained") != before
    assert loaded(path)[0].lm_head.weight[0, 0] == exact.lm_head.weight[0, 0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"architecture": "granite"}, "transformers does not read a GGUF of granite"),
        ({"extra": [("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0)]}, "rope.scaling.type yarn"),
        ({"extra": [("attn_logit_softcapping", 50.0)]}, "attn_logit_softcapping"),
        ({"tensors": [("blk.0.attn_q.bias", np.ones(64, np.float32))]}, "not read whole"),
        ({"without": ["blk.1.ffn_up.weight"]}, "not read whole"),
    ],
)
def test_what_transformers_would_read_wrongly_is_refused(given, says, plain, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", *loaded(plain), **given)
    with pytest.raises(ModelError, match=says) as caught:
        loaded(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 3, 24, 1000, 0.5, 0.99])
def test_damaged_files_are_refused(kept, plain, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", *loaded(plain))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 or not kept else kept * len(content))])
    with pytest.raises(ModelError, match=r"cut off or no GGUF|cannot load|not read whole"):
        loaded(path)


def test_pieces_and_several_files_are_named(plain, tmp_path):
    path = write_gguf(tmp_path / "a-00001-of-00002.gguf", *loaded(plain))
    shutil.copy(path, tmp_path / "b.gguf")
    with pytest.raises(ModelError, match="holds 2 GGUF files, such as a-00001"):
        resolve_lm(str(tmp_path))
    key = b"general.architecture"
    piece = path.read_bytes().replace(key, b"general.architecturf")  # a file that names no architecture
    path.write_bytes(piece)
    with pytest.raises(ModelError, match="names no architecture"):
        resolve_lm(str(path))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"one of 2 pieces.*llama-gguf-split --merge"):
        resolve_lm(str(path))


@pytest.mark.parametrize(("package", "extra"), [("gguf", "gguf"), ("accelerate", "gguf"), ("peft", "peft")])
def test_a_missing_package_is_named_with_its_extra(package, extra, plain, tmp_path, monkeypatch):
    model, tokenizer = loaded(plain)
    place = write_gguf(tmp_path / "tiny.gguf", model, tokenizer) if extra == "gguf" else lora(plain, tmp_path / "lora")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ModelError, match=rf"needs {package}; pip install 'crosstax\[{extra}\]'"):
        resolve_lm(str(place))


# Adapters

LORA = {"r": 4, "lora_alpha": 24, "target_modules": ["q_proj", "up_proj"]}


def lora(base, folder, seed=0, config=None, **given):
    """An adapter to the LM in `base`, with weights that do something."""
    model, _ = load_model(base, "pretrained", 0, "float32")
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(model, config or peft.LoraConfig(**LORA | given))
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            if values.requires_grad and "magnitude" not in name:
                values.normal_(std=0.1)
    adapted.save_pretrained(folder)
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(about | {"base_model_name_or_path": str(base)}))
    return folder


PATTERNS = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 6}}


@pytest.mark.parametrize("given", [{}, {"use_rslora": True}, PATTERNS])
def test_a_lora_is_merged(given, plain, tmp_path):
    folder = lora(plain, tmp_path / "lora", **given)
    merged, exact, parts = loaded(folder)[0], loaded(plain)[0], load_file(folder / "adapter_model.safetensors")
    for layer, name in ((0, "self_attn.q_proj"), (2, "mlp.up_proj"), (1, "mlp.down_proj")):
        name = f"model.layers.{layer}.{name}"
        expected = exact.get_submodule(name).weight.detach().clone()
        if f"base_model.model.{name}.lora_A.weight" in parts:
            a, b = (parts[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
            alpha = 6 if "q_proj" in name and "alpha_pattern" in given else 24
            expected += alpha / (len(a) ** (0.5 if "use_rslora" in given else 1)) * b @ a
            assert not torch.equal(expected, exact.get_submodule(name).weight)
        torch.testing.assert_close(merged.get_submodule(name).weight, expected, rtol=0, atol=1e-6)
    assert type(merged) is type(exact)


@pytest.mark.parametrize("config", [{"use_dora": True}, "ia3"])
def test_other_adapters_are_merged_as_peft_computes_them(config, plain, tmp_path):
    ia3 = peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"])
    folder = lora(plain, tmp_path / "a", **({"config": ia3} if config == "ia3" else config))
    apart = peft.PeftModel.from_pretrained(loaded(plain)[0], str(folder)).eval()
    torch.testing.assert_close(logits(loaded(folder)[0]), logits(apart), rtol=0, atol=1e-4)
    assert not torch.allclose(logits(apart), logits(loaded(plain)[0]), rtol=0, atol=1e-2)


def test_digests_of_base_and_adapter_both_count(plain, tmp_path):
    one, other = lora(plain, tmp_path / "one"), lora(plain, tmp_path / "other", seed=1)
    base = shutil.copytree(plain, tmp_path / "base")
    third = lora(base, tmp_path / "third")
    save_file(load_file(one / "adapter_model.safetensors"), third / "adapter_model.safetensors")
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    digests = [lm_digests(resolve_lm(str(each)), "pretrained") for each in (plain, one, other, third)]
    assert len({each["lm"] for each in digests}) == 4
    assert len({each["tokenizer"] for each in digests}) == 1
    random = [lm_digests(resolve_lm(str(each)), "random") for each in (plain, one)]
    assert random[0] == random[1]
    assert same_weights(loaded(one, "random")[0], loaded(plain, "random")[0])


def test_adapters_that_cannot_be_merged_say_why(plain, tmp_path):
    folder = lora(plain, tmp_path / "lora")
    about = json.loads((folder / "adapter_config.json").read_text())

    def refused(**fields):
        (folder / "adapter_config.json").write_text(json.dumps(about | fields))
        with pytest.raises(ModelError) as caught:
            loaded(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "does not name the LM" in refused(base_model_name_or_path=None)
    assert str(tmp_path / "gone") in refused(base_model_name_or_path=str(tmp_path / "gone"))
    assert "cannot load the adapter" in refused(peft_type="NOPE")
    assert "was made for another LM" in refused(target_modules=["q_proj"])
    assert "cannot merge" in refused(target_modules=["nowhere"])
    assert "PREFIX_TUNING, which adds tokens" in refused(peft_type="PREFIX_TUNING")
    smaller = tmp_path / "smaller"
    tiny_lm("llama", **SIZE | {"hidden_size": 32}).save_pretrained(smaller)
    tiny_tokenizer("llama3").save_pretrained(smaller)
    assert "cannot merge" in refused(base_model_name_or_path=str(smaller))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickled" in refused()


# Quantised checkpoints


def quantise_fp8(folder, block=32):
    """What a checkpoint in 8-bit floats holds: each block of a weight by its own scale."""
    tensors, exact = load_file(folder / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        if not name.endswith("_proj.weight"):
            continue
        rows, columns = weight.shape
        blocks = weight.reshape(rows // block, block, columns // block, block)
        scale = blocks.abs().amax((1, 3)) / 448
        packed = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        exact[name] = (packed.float() * scale[:, None, :, None]).reshape(weight.shape)
        tensors[name] = packed.reshape(weight.shape)
        tensors[f"{name.removesuffix('.weight')}.weight_scale_inv"] = scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    set_packing(folder, {"quant_method": "fp8", "weight_block_size": [block, block], "activation_scheme": "dynamic"})
    return exact


def set_packing(folder, packing):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": packing}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_floats_of_eight_bits_are_unpacked(dtype, plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "fp8")
    exact = quantise_fp8(folder)
    model, tokenizer = loaded(folder, dtype=dtype)
    assert {values.dtype for values in model.parameters()} == {getattr(torch, dtype)}
    for name, weight in exact.items():
        torch.testing.assert_close(model.get_parameter(name).float(), weight, rtol=2**-8, atol=0)
    assert FrozenLM.wrap(model, tokenizer, torch.device("cpu")).way == "shared"
    model.save_pretrained(tmp_path / "again")  # as an export does


def test_experts_of_four_bits_are_unpacked(plain, tmp_path):
    """As gpt-oss is published: pairs of E2M1 numbers, 32 to a scale that is a power of two."""
    config = transformers.GptOssConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_local_experts=4, num_experts_per_tok=2, vocab_size=420, max_position_embeddings=128,
        layer_types=["sliding_attention", "full_attention"], sliding_window=16, pad_token_id=0, eos_token_id=0,
    )  # fmt: skip
    folder = shutil.copytree(plain, tmp_path / "oss")
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tensors, exact, rng = load_file(folder / "model.safetensors"), {}, torch.Generator().manual_seed(0)
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32), generator=rng)
        power = torch.randint(120, 126, (experts, outputs, inputs // 32), generator=rng)
        exact[name] = (values[codes] * 2.0 ** (power[..., None] - 127)).flatten(2).transpose(1, 2)
        tensors[f"{name}_blocks"] = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
        tensors[f"{name}_scales"] = power.to(torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    plain_parts = ["self_attn", "router", "embed", "lm_head"]
    set_packing(folder, {"quant_method": "mxfp4", "modules_to_not_convert": plain_parts})
    model, tokenizer = loaded(folder)
    for name, weight in exact.items():
        assert torch.equal(model.get_parameter(name), weight)
    FrozenLM.wrap(model, tokenizer, torch.device("cpu"))


@pytest.mark.parametrize(
    ("packing", "says"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq.*(optimum|gptqmodel|GPU)"),
        ({"quant_method": "awq", "bits": 4}, "awq.*gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes.*pip install"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors.*pip install"),
        ({"quant_method": "foo"}, "foo.*does not know"),
        ({}, "does not know"),
        (3, "quantised"),
    ],
)
def test_what_cannot_be_loaded_here_says_what_it_needs(packing, says, plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "lm")
    set_packing(folder, packing)
    with pytest.raises(ModelError, match=says) as caught:
        check_weights(resolve_lm(str(folder)))
    assert "\n" not in str(caught.value)
    assert "is quantised (quantization_config" in str(caught.value)


def test_doctor_says_how_an_lm_would_run(plain, crosstax, tmp_path):
    """From a GGUF file, without training: way, image, prompt, answers, positions, memory, and a rate it measured."""
    folder, encoder = tmp_path / "base", tmp_path / "encoder"
    tiny_lm("llama", **SIZE | {"max_position_embeddings": 24}).save_pretrained(folder)
    tiny_tokenizer("llama3").save_pretrained(folder)
    save_encoder("dinov2", "hf", encoder)
    path = write_gguf(tmp_path / "tiny.gguf", *loaded(folder))
    code, out, err = crosstax("doctor", "--lm", path, "--encoder", encoder, "--json")
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    patches = int(found["image"].split()[0])
    assert f"[image: {patches} patches]\nIs there a bird" in found["prompt"]
    assert "share" in found["questions"]
    assert "has 24: too few" in found["positions"]
    assert found["tokens_per_second"] > 0
    tokenizer = loaded(folder)[1]
    for word in ("Yes", "No"):
        assert f"{word!r} is token" in found["answer"].replace("'No' ", "'No' is token ")
        assert str(tokenizer.convert_tokens_to_ids(word)) in found["answer"]
    assert "GiB" in found["LM memory"]
    other = ["--set", "template={image} {question} Yes or no?", "--set", "lm_sharing=never"]
    code, out, err = crosstax("doctor", "--lm", folder, *other, "--json")
    assert code == 0, err
    assert "Yes or no?" in json.loads(out.splitlines()[-1])["prompt"]
    assert "lm_sharing = never" in json.loads(out.splitlines()[-1])["questions"]
    assert crosstax("doctor", "--lm", folder, "--set", "dtype=float8")[0] == 2
