"""Folders that are no plain causal LM are named as what they are, before weights are loaded; remedies are followed.

Adapters, pointers of Git LFS, folders of the hub's cache, other formats, quantised weights, other kinds of model,
damaged configurations: each in one line, in every command, for encoders too where they have the same kinds.
"""

import contextlib
import json
import os
import re
import shutil

import pytest
import torch
import transformers
from picture_study import save_encoder
from safetensors.torch import load_file, save_file
from tiny import tiny_lm

from cachegen.common.errors import ModelError
from cachegen.encoders.names import read_name
from engine.design.condition import Condition, Inputs, Sweep
from engine.lm.language_model import FrozenLM
from engine.lm.loading import lm_digests, load_config, load_model, load_tokenizer, resolve_lm, rows_of
from engine.lm.prompts import encode, tokenise
from engine.sweeps.sweep_file import probe_table, read_sweep

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123456\n"


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def edit(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return change


def pipe(name):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def instead(*files):
    """No safetensors, but these (empty) files."""

    def change(folder):
        (folder / "model.safetensors").unlink()
        for name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()

    return change


def alone(*files):
    """Neither safetensors nor config.json, but these files."""

    def change(folder):
        instead(*files)(folder)
        (folder / "config.json").unlink()

    return change


def adapter(*files, base=True):
    def change(folder):
        for name in files:
            (folder / name).write_text('{"peft_type": "LORA", "base_model_name_or_path": "base", "r": 4}')
        if not base:
            (folder / "model.safetensors").unlink()
            (folder / "config.json").unlink()

    return change


def int8(folder):
    """Weights of eight bits, of which the configuration says nothing."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def large(name):
    def change(folder):
        with (folder / name).open("ab") as handle:
            handle.truncate(2**30)

    return change


def model(config, cls):
    def change(folder):
        getattr(transformers, cls)(getattr(transformers, config)(**SHAPE)).save_pretrained(folder)

    return change


SHAPE = {"vocab_size": 61, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
T5 = {"vocab_size": 61, "d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4}

# What lies there -> a fragment of what is said. The first part holds for encoders too.
FOLDERS = {
    "LoRA beside a model": (adapter("adapter_config.json", "adapter_model.bin"), "adapter .*beside its weights"),
    "adapter without weights": (adapter("adapter_config.json"), "adapter .*beside its weights"),
    "adapter without configuration": (adapter("adapter_model.bin"), "adapter .*beside its weights"),
    "pointer for config.json": (put("config.json", LFS), "config.json is a pointer of Git LFS"),
    "web page for config.json": (put("config.json", b"\n<!DOCTYPE html><html>"), "config.json is a web page"),
    "large file": (large("tokenizer.json"), "tokenizer.json has 1,073,741,824 bytes, more than 268,435,456"),
    "pipe": (pipe("tokenizer_config.json"), "tokenizer_config.json is no plain file"),
    "GGUF alone": (alone("model-Q4_K_M.gguf"), r"GGUF"),
    "Llama's own format": (alone("consolidated.00.pth", "params.json"), "the maker's own format"),
    "diffusers": (alone("model_index.json"), "a pipeline of diffusers"),
    "config nested deep": (put("config.json", b"[" * 100_000), "no readable config.json .*recursion"),
    "config cut": (put("config.json", b'{"model_type": "qw'), "no readable config.json"),
    "config a list": (put("config.json", b"[]"), "no readable config.json .*no table"),
    "config of 5,000 digits": (put("config.json", b'{"a": ' + b"9" * 5000 + b"}"), "no readable config.json"),
    "config of 20 MB": (put("config.json", b" " * 20_000_000), "config.json .*more than 16,777,216 bytes"),
    **{
        f"quantised: {name}": (edit(**{field: value}), f"is quantised \\({field}")
        for name, field, value in (
            ("bitsandbytes", "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
            ("GPTQ", "quantization_config", {"quant_method": "gptq", "bits": 4}),
            ("AWQ", "quantization_config", {"quant_method": "awq", "bits": 4}),
            ("foo", "quantization_config", {"quant_method": "foo"}),
            ("compressed-tensors", "quantization_config", {"quant_method": "compressed-tensors"}),
            ("no method", "quantization_config", {}),
            ("garbage", "quantization_config", 3),
            ("MLX", "quantization", {"group_size": 64, "bits": 4}),
        )
    },
}  # fmt: skip
ENCODERS = FOLDERS | {
    "LoRA alone": (adapter("adapter_config.json", "adapter_model.safetensors", base=False), "adapter .*only, no model"),
}
LMS = FOLDERS | {
    "LoRA without its base": (
        adapter("adapter_config.json", "adapter_model.safetensors", base=False),
        "the adapter in .* is for base: ",
    ),
    "pointer for tokenizer.json": (put("tokenizer.json", LFS), "tokenizer.json is a pointer of Git LFS"),
    "pointer for weights": (put("model.safetensors", LFS), "model.safetensors is a pointer of Git LFS"),
    "GGUF": (instead("model.gguf"), "GGUF"),
    "TensorFlow": (instead("tf_model.h5"), "TensorFlow"),
    "Flax": (instead("flax_model.msgpack"), "Flax"),
    "ONNX": (instead("onnx/model.onnx"), "ONNX"),
    "OpenVINO": (instead("openvino_model.xml"), "OpenVINO"),
    "weights of 8 bits": (int8, "up_proj.weight as I8: it is quantised"),
    "quantised part": (edit(text_config={"quantization": {"bits": 4}}), "is quantised"),
    "no model_type": (put("config.json", b"{}"), "no model_type"),
    "timm": (put("config.json", b'{"architecture": "vit_tiny_patch16_224"}'), "encoder of timm"),
    "model_type a number": (edit(model_type=3), "no model_type"),
    "unknown": (edit(model_type="foo"), "a foo, which this version of transformers does not know"),
    "remote code": (edit(model_type="foo", auto_map={"AutoModelForCausalLM": "foo.Foo"}), "its maker's own code"),
    "T5": (
        lambda folder: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)).save_pretrained(folder),
        "a t5, an encoder and a decoder",
    ),
    "BERT": (model("BertConfig", "BertForMaskedLM"), "a bert, which reads text in both directions"),
    "RoBERTa": (model("RobertaConfig", "RobertaForMaskedLM"), "a roberta, which reads text in both directions"),
    "CLIP": (edit(model_type="clip"), "a clip, no causal LM"),
    "ViT": (edit(model_type="vit"), "a vit, no causal LM"),
    "classifier": (edit(architectures=["Qwen3ForSequenceClassification"]), "a classifier"),
    **{
        f"{name} {value!r:.20}": (edit(**{name: value}), f"config.json: {name} is ")
        for name, values in (
            ("hidden_size", ("a", -48, 0, 10**12, 1.5, True, {"a": 1}, [10**12])),
            ("num_hidden_layers", ("3", -1, 10**9)),
            ("num_attention_heads", (0,)),
            ("vocab_size", (10**12,)),
            ("intermediate_size", (10**15,)),
        )
        for value in values
    },
    "text_config a number": (edit(text_config=3), "config.json"),
    "sizes that do not fit": (edit(hidden_size=44), "cannot load the LM"),
    "layers in a list": (edit(num_hidden_layers=[3]), "num_hidden_layers"),
    "unknown activation": (edit(hidden_act="nope"), "cannot load the LM"),
    "unknown dtype": (edit(dtype="float99"), "float99"),
    "rope garbage": (edit(rope_scaling={"type": {"a": 1}}), "cannot load the LM"),
}


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        load_model(resolve_lm(str(folder)), "pretrained", 0, "float32")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(small_study, tmp_path):
    return shutil.copytree(small_study.lm, tmp_path / "lm")


@pytest.mark.parametrize("kind", LMS)
def test_folders_are_named_as_what_they_are(kind, folder):
    spoil, says = LMS[kind]
    spoil(folder)
    message = refusal(folder)
    assert str(folder) in message
    assert_fits(says, message)


def assert_fits(says, message):
    assert re.search(says, message), message


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_have_the_same_kinds(kind, tmp_path):
    spoil, says = ENCODERS[kind]
    save_encoder("dinov2", "hf", tmp_path)
    assert read_name(str(tmp_path))[0].family == "hf"
    spoil(tmp_path)
    with pytest.raises(ModelError, match=says):
        read_name(str(tmp_path))


@pytest.mark.parametrize("command", ["train", "probe"])
@pytest.mark.parametrize(
    "kind", ["LoRA beside a model", "pointer for tokenizer.json", "quantised: MLX", "hidden_size 'a'"]
)
def test_every_command_says_it_in_one_line(kind, command, folder, small_study, crosstax, tmp_path):
    spoil, says = LMS[kind]
    spoil(folder)
    words = {
        "train": ("--dataset", small_study.dataset, "--features", small_study.features, "--device", "cpu"),
        "probe": (small_study.dataset, "--device", "cpu"),
    }[command]
    code, out, err = crosstax(command, *words, "--lm", folder, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert_fits(says, err)
    assert not list(tmp_path.glob("out/**/*.parquet"))


def test_plain_folders_stay_what_they_are(folder):
    """What else lies beside a model is no reason to refuse it, and moves no digest."""
    before = lm_digests(folder, "pretrained")
    for name in ("README.md", "model-Q4.gguf", "pytorch_model.bin", "training_args.bin", "LICENSE", ".gitattributes"):
        (folder / name).write_bytes(LFS)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()
    edit(quantization_config=None, auto_map={"AutoModelForCausalLM": "modeling_qwen3.Qwen3ForCausalLM"})(folder)
    load_model(resolve_lm(str(folder)), "pretrained", 0, "float32")
    assert lm_digests(folder, "pretrained")["tokenizer"] == before["tokenizer"]


def test_moved_adapters_leave_the_plain_model(folder, tmp_path):
    before = lm_digests(folder, "pretrained")
    adapter("adapter_config.json", "adapter_model.safetensors")(folder)
    assert "move the files adapter_* away" in refusal(folder)
    for path in folder.glob("adapter_*"):
        path.rename(tmp_path / path.name)
    load_model(resolve_lm(str(folder)), "pretrained", 0, "float32")
    assert lm_digests(folder, "pretrained") == before


@pytest.mark.parametrize("inside", ["models--org--name", "models--org--name/snapshots", "models--org--name/refs"])
def test_a_folder_of_the_cache_names_the_model_in_it(inside, folder, tmp_path):
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "0a1b"
    shutil.copytree(folder, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    message = refusal(tmp_path / "hub" / inside)
    assert f"give the model in it, {snapshot}" in message
    load_model(resolve_lm(str(snapshot)), "pretrained", 0, "float32")
    shutil.copytree(folder, snapshot.with_name("2c3d"))
    assert f"{snapshot} or {snapshot.with_name('2c3d')}" in refusal(tmp_path / "hub" / inside)
    assert "such as org/name" in refusal(tmp_path / "hub")


@pytest.mark.parametrize(
    "name", ["/nowhere/lm", "./lm2", "../lm2", "~/nowhere/lm", "a/b/c", "lm2/", "here/lm2", "x" * 300 + "/"]
)
def test_a_folder_that_has_moved_is_no_question_to_the_hub(name, tmp_path, monkeypatch):
    """Whatever has the form of a path; of "here/lm2" only the folder around it tells, if the hub does not know it."""

    class ConnectError(Exception):
        pass

    def unreached(asked, **_):
        assert asked == "here/lm2"
        raise ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreached)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ModelError, match="does not exist"):
        resolve_lm(name)


@pytest.mark.parametrize("name", [r"C:\models\lm", "my lm", "lm ", "lm\n", "a--b", "x" * 300])
def test_a_name_that_no_id_has_is_a_folder_that_is_not_there(name):
    with pytest.raises(ModelError, match="does not exist"):
        resolve_lm(name)


@pytest.mark.parametrize("written", ["{} ", "{}_", "{upper}"])
def test_a_folder_of_nearly_this_name_is_named(written, folder):
    asked = written.format(folder, upper=folder.with_name("LM"))
    assert f"{asked} does not exist, but {str(folder)!r} does" in refusal(asked)
    with pytest.raises(ModelError, match=r"does not exist, but .*lm' does"):
        read_name(asked)


def test_the_address_of_a_page_is_told_its_id():
    for address in ("https://huggingface.co/Qwen/Qwen3-0.6B", "https://hf.co/Qwen/Qwen3-0.6B/tree/main"):
        assert refusal(address).endswith("give the id in it, Qwen/Qwen3-0.6B")


def test_a_hub_that_cannot_be_reached_is_told_from_a_missing_folder(monkeypatch):
    class ConnectError(Exception):
        pass

    def unreached(*_, **__):
        raise ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreached)
    with pytest.raises(ModelError, match=r"org/name is no folder here, and the Hugging Face hub cannot be reached"):
        resolve_lm("org/name")


@pytest.mark.parametrize("file", ["model.onnx", "lm/model.safetensors", "lm/config.json"])
def test_a_file_is_no_folder(file, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ModelError, match=f"{file} is a file.*give the folder"):
        resolve_lm(file)


def composite(folder):
    """A tiny Gemma 3 that reads pictures, with the folder's own tokenizer."""
    text = SHAPE | {"num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 128}
    text |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    vision = SHAPE | {"image_size": 28, "patch_size": 14}
    vision.pop("vocab_size")
    ids = {"image_token_index": 60, "boi_token_index": 59, "eoi_token_index": 58, "mm_tokens_per_image": 4}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, **ids)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)


def test_the_text_part_of_a_model_of_several_parts_is_an_lm(folder):
    composite(folder)
    assert rows_of(load_config(resolve_lm(str(folder)))) == 61
    lm = FrozenLM.wrap(*load_model(folder, "pretrained", 0, "float32"), torch.device("cpu"))
    assert (lm.way, type(lm.decoder).__name__) == ("shared", "Gemma3TextModel")


def test_a_model_of_several_parts_can_be_probed(folder, small_study, crosstax, tmp_path):
    composite(folder)
    wording = ("--phrasing", "is {leaf_noun} {hypernym_noun}", "--template", "{question} {answer}")
    answers = ("--answer-yes", "yes", "--answer-no", "no", "--device", "cpu", "--out", tmp_path / "out")
    code, _, err = crosstax("probe", small_study.dataset, "--lm", folder, *wording, *answers)
    assert code == 0, err


def test_random_weights_that_no_machine_holds_are_refused_before_they_are_drawn(folder):
    edit(hidden_size=2**16, intermediate_size=2**20, num_hidden_layers=2**10, layer_types=None)(folder)
    with pytest.raises(ModelError, match=r"random weights .* GiB in float32, this machine has"):
        load_model(resolve_lm(str(folder)), "random", 0, "float32")


# Names of places


def test_the_same_folder_by_other_names_is_the_same_run(folder, small_study, monkeypatch):
    """The readable part of a run's name is the folder's, however it is written, and no run is there twice."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    names = [str(folder), f"{folder}/", f"{folder}//", f"{folder}/.", ".", "../lm", "../lm/", "~/lm", "~/lm/"]
    places = [Inputs(dataset=small_study.dataset, features=small_study.features, lm=name) for name in names]
    assert {Condition().run_id("encoder", place.lm, {})[:-9] for place in places} == {
        Condition().run_id("encoder", str(folder), {})[:-9]
    }
    assert {os.path.realpath(place.lm) for place in places} == {os.path.realpath(folder)}
    grid = {"dataset": "d", "features": "f", "lm": [str(folder), f"{folder}/", "~/lm"]}
    assert len(Sweep.expand([grid], "test").runs) == 1


def test_home_stands_for_itself_in_sweep_files_and_on_command_lines(
    folder, small_study, crosstax, monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("dataset", "features.h5"):
        (tmp_path / name).symlink_to(small_study.lm.parent / name)
    file = tmp_path / "sweep" / "mine.toml"
    file.parent.mkdir()
    file.write_text('[[grid]]\ndataset = "~/dataset"\nfeatures = "~/features.h5"\nlm = ["~/lm", "~/moved"]\n')
    first, second = read_sweep(file)
    assert first.dataset.samefile(tmp_path / "dataset")
    assert first.features.samefile(tmp_path / "features.h5")
    assert first.lm == str(folder)
    assert second.lm == str(tmp_path / "moved")
    file.write_text('[probe]\nlm = "~/lm"\n')
    assert probe_table(file).lm == (str(folder),)
    with contextlib.chdir(file.parent):
        words = ("--dataset=~/dataset", "--features", "~/features.h5", "--out=~/out", "--device", "cpu", "--lm=~/lm")
        code, _, err = crosstax("train", *words, "answer_yes=Maybe")
        assert code == 2
        assert "'Maybe'" in err  # read that far
        assert list((tmp_path / "out").iterdir())
        file.write_text('[[grid]]\nlm = "x"\n')
        words = ("--dataset=~/dataset", "--features", "~/features.h5", "--out=~/out", "--set", "lm=~/nowhere")
        code, _, err = crosstax("sweep", file, *words)
        assert code == 2
        assert f"{tmp_path}/nowhere does not exist" in err
    assert not list(file.parent.glob("~*"))


def test_relative_places_are_taken_from_the_sweep_files_folder_and_an_lm_else_from_here(folder, tmp_path, monkeypatch):
    """An LM that is a folder in neither place is an id, unless it is written as a path."""
    (tmp_path / "sweeps" / "near").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sweeps" / "mine.toml"
    lms = ["near", "lm", "./lm", "org/name", "./gone", "../lm"]
    file.write_text(f'[[grid]]\ndataset = "d"\nfeatures = "f.h5"\nlm = {json.dumps(lms)}\n')
    found = read_sweep(file)
    assert {run.dataset for run in found} == {file.parent / "d"}
    near, gone = str(file.parent / "near"), str(file.parent / "gone")
    assert [run.lm for run in found] == [near, "lm", "org/name", gone, str(folder)]


# Tokenizers


def test_a_folder_without_a_tokenizer_says_what_to_copy(folder, small_study):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer .*; copy tokenizer.json and tokenizer_config.json"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(small_study.lm / name, folder)
    assert len(load_tokenizer(folder)) == len(load_tokenizer(small_study.lm))


@pytest.mark.parametrize("content", ["{", "{}", "[" * 100_000, '{"version": "1.0", "model": {"type": "BPE"}}', ""])
def test_a_broken_tokenizer_is_named(content, folder):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"cannot load the tokenizer in .*; download its files again") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def explode(folder):
    """A pre-tokenizer whose expression takes exponentially many steps on ordinary words."""
    parts = json.loads((folder / "tokenizer.json").read_text())
    parts["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": r"(a+)+$|(\w+\s?)+X"},
        "behavior": "Isolated",
        "invert": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(parts))


@pytest.mark.parametrize("command", ["train", "probe"])
def test_an_expression_that_explodes_is_one_line(command, folder, small_study, crosstax, tmp_path):
    explode(folder)
    long = "is there in this very long question about anything {} in it"
    words = {
        "train": ("--dataset", small_study.dataset, "--features", small_study.features, "template={image} {question} "),
        "probe": (small_study.dataset, "--phrasing", long.format("{leaf_noun} {hypernym_noun}")),
    }[command]
    more = (f"question_singular={long.format('{phrase}')}",) if command == "train" else ()
    code, _, err = crosstax(command, *words, *more, "--lm", folder, "--device", "cpu", "--out", tmp_path / "out")
    assert code == 2
    assert "tokenizer fails" in err


def test_a_panic_prints_no_page(folder, capfd):
    explode(folder)
    tokenizer = load_tokenizer(folder)
    with pytest.raises(ModelError, match="tokenizer fails on 'a question"):
        encode(tokenizer, ["a question", "a question of many words without the letter that the expression ends in"])
    assert capfd.readouterr().err == ""


def test_tokens_beyond_the_lms_table_matter_only_where_a_prompt_has_them(folder, small_study, crosstax, tmp_path):
    """Gemma 3's tokenizer of 1B has one token more than its LM has rows."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"spare{number}" for number in range(62 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    assert len(load_tokenizer(folder)) == rows_of(load_config(folder)) + 1
    study = ("--dataset", small_study.dataset, "--features", small_study.features, "--lm", folder, "--device", "cpu")
    asked = ["template={image} {question} ", "question_singular=is there {phrase}", "answer_yes=yes", "answer_no=no"]
    code, _, err = crosstax("train", *study, "--out", tmp_path / "out", *asked, "epochs=1")
    assert code == 0, err
    last = tokenizer.convert_ids_to_tokens(61)
    code, _, err = crosstax(
        "train", *study, "--out", tmp_path / "out", asked[0], f"question_singular={last} {{phrase}}", *asked[2:]
    )
    assert code == 2
    assert f"the token {last!r}, number 61" in err
    code, _, err = crosstax(
        *("probe", small_study.dataset, "--lm", folder, "--device", "cpu", "--out", tmp_path / "probe"),
        *("--phrasing", f"{last} {{leaf_noun}} {{hypernym_noun}}", "--template", "{question} {answer}"),
        *("--answer-yes", "yes", "--answer-no", "no"),
    )
    assert code == 2
    assert f"the token {last!r}, number 61" in err


def test_a_prompt_longer_than_the_lm_reads_cannot_be_probed(folder, small_study, crosstax, tmp_path):
    config = transformers.GPT2Config(vocab_size=61, n_embd=48, n_layer=2, n_head=4, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    wording = ("--template", "{question} {answer}", "--answer-yes", "yes", "--answer-no", "no", "--device", "cpu")
    for words, code in ((12, 0), (40, 2)):
        phrasing = "is " * words + "{leaf_noun} {hypernym_noun}"
        found, _, err = crosstax(
            "probe", small_study.dataset, "--lm", folder, "--phrasing", phrasing, *wording, "--out", tmp_path / "out"
        )
        assert found == code, err
    assert "42 tokens" in err
    assert "reads 16" in err


def test_a_prompt_uses_ids_of_the_tokenizer_that_tokenise_was_given(folder):
    lm = FrozenLM.wrap(tiny_lm("qwen3"), load_tokenizer(folder), torch.device("cpu"))
    assert lm.rows == rows_of(lm.model.config) == 61
    condition = Condition(
        template="{image} {question} ", question_singular="is {phrase}", answer_yes="yes", answer_no="no"
    )
    tokens = tokenise(condition, lm.tokenizer, [("a crow", "singular")], lm.rows)
    most = max(*tokens.suffixes.ravel(), tokens.yes, tokens.no)
    assert tokenise(condition, lm.tokenizer, [("a crow", "singular")], most + 1).yes == tokens.yes
    with pytest.raises(ModelError, match="do not belong together"):
        tokenise(condition, lm.tokenizer, [("a crow", "singular")], most)


def test_weights_that_are_not_finite_are_no_fault_of_the_architecture():
    model = tiny_lm("qwen3")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"not finite, first model\.layers\.0\.mlp\.up_proj\.weight"):
        FrozenLM.wrap(model, None, torch.device("cpu"))
