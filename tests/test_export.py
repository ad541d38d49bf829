"""`crosstax export --to llava`: transformers alone, from the picture file on, gives the engine's logits."""

import json
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from few import few
from picture_study import WORDS, save_encoder, train_run, write_lm
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import tiny_lm, tiny_tokenizer
from transformers import AutoProcessor, LlavaForConditionalGeneration
from twins import save_timm

from cachegen.common.errors import ConditionError, CrosstaxError, ModelError, RunError
from cachegen.common.files import digest_file
from cachegen.encoders import load_encoder
from engine.ask import open_asker
from engine.export.llava import export_llava
from engine.export.tower import vision_tower

QUESTIONS = ["is there a bird", "are there an owl", "is there a crow"]
BOUND = 1e-5
REGISTERS = "dinov2_with_registers"
EACH = [("siglip", "timm"), ("dinov2", "hf"), (REGISTERS, "timm")]  # every kind and every library once


def load(folder, line=None):
    """What a user of transformers does; `line` is the one that registers need."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    if line:
        exec(line, {"model": model})  # noqa: S102 - a line that we wrote
    return model, AutoProcessor.from_pretrained(folder)


def pictures(run):
    return sorted((run.parent.parent / "dataset" / "images").glob("*/*"))[::11]


@torch.no_grad()
def theirs(loaded, written, images, prompts):
    """Logits (I Q, 2) of yes and no from transformers alone."""
    model, processor = loaded
    ids = [written["answer_ids"]["yes"], written["answer_ids"]["no"]]
    return np.array(
        [
            model(
                **processor(images=Image.open(path).convert("RGB"), text=prompt, return_tensors="pt")
            ).logits[0, -1, ids].numpy()
            for path in images
            for prompt in prompts
        ]
    )  # fmt: skip


def ours(run, images, questions):
    answers = open_asker(run, "cpu").ask(images, questions, as_stored=False)
    return answers[["logit_yes", "logit_no"]].to_numpy()


@pytest.mark.parametrize(("kind", "library"), few([*product(("siglip", "dinov2", REGISTERS), ("hf", "timm"))], *EACH))
def test_transformers_alone_gives_our_logits(kind, library, tmp_path):
    run = train_run(tmp_path, save_encoder(kind, library, tmp_path / "encoder"), write_lm(tmp_path / "lm"))
    written = export_llava(run, tmp_path / "out", {"leaf": 50.0}, device="cpu")
    images = pictures(run)
    want = ours(run, images, QUESTIONS)
    assert len(np.unique(want.round(3))) == want.size == 2 * len(images) * len(QUESTIONS)
    loaded = load(tmp_path / "out", written["line"])
    assert loaded[0].dtype == torch.float32
    prompts = [f"<image> {question} " for question in QUESTIONS]
    got = theirs(loaded, written, images, prompts)
    assert abs(got - want).max() < BOUND
    # Controls: another layer, another resampling, the other question, the other picture.
    loaded[0].config.vision_feature_layer = -3
    assert abs(theirs(loaded, written, images, prompts) - want).max() > 100 * BOUND
    loaded[0].config.vision_feature_layer = -2
    loaded[1].image_processor.resample = 2
    assert abs(theirs(loaded, written, images, prompts) - want).max() > 100 * BOUND
    assert abs(got - np.roll(want, 1, axis=0)).min() > 0


def test_without_its_line_an_export_with_registers_stops(tmp_path):
    run = train_run(tmp_path, save_encoder(REGISTERS, "hf", tmp_path / "encoder"), write_lm(tmp_path / "lm"))
    written = export_llava(run, tmp_path / "out", {}, device="cpu")
    assert written["registers"] == 4
    with pytest.raises(ValueError, match="do not match"):
        theirs(load(tmp_path / "out"), written, pictures(run), ["<image> is there a bird "])


def test_the_statistics_are_folded_not_forgotten(picture_run, tmp_path):
    other = shutil.copytree(picture_run, tmp_path / "run")
    weights = load_file(other / "projector.safetensors")
    weights["statistics"] = weights["statistics"] + 0.1
    save_file(weights, other / "projector.safetensors")
    done = json.loads((other / "DONE").read_text())
    done["projector.safetensors"] = digest_file(other / "projector.safetensors")
    (other / "DONE").write_text(json.dumps(done))
    images = pictures(picture_run)[:1]
    assert abs(ours(other, images, QUESTIONS) - ours(picture_run, images, QUESTIONS)).max() > 0.01
    written = export_llava(other, tmp_path / "out", {}, device="cpu")
    got = theirs(load(tmp_path / "out"), written, images, [f"<image> {question} " for question in QUESTIONS])
    assert abs(got - ours(other, images, QUESTIONS)).max() < BOUND


@pytest.mark.parametrize(
    ("style", "family", "template"),
    [
        ("llama3", "llama", "{image}\n{question}\n"),
        ("qwen", "qwen3", "<image>\n{question}\n"),  # the release's: patches behind the first token
        ("llama3", "llama", "<image>\n{question}\n"),
    ],
)
def test_templates_of_the_paper_and_of_the_release(picture_run, style, family, template, tmp_path):
    lm = tmp_path / "lm"
    tokenizer = tiny_tokenizer(style)
    tiny_lm(family, vocab_size=len(tokenizer)).save_pretrained(lm)  # no spare row for the image token
    tokenizer.save_pretrained(lm)
    shutil.copytree(picture_run.parent.parent / "dataset", tmp_path / "dataset")
    form = {"question_singular": "Is there {phrase} in this image?", "answer_yes": "Yes", "answer_no": "No"}
    mine = train_run(tmp_path, picture_run.parent.parent / "encoder", lm, template=template, **form)
    written = export_llava(mine, tmp_path / "out", {}, device="cpu")
    images, question = pictures(picture_run), "Is there a bird in this image?"
    assert question in written["example_prompt"]
    assert written["example_prompt"].count(written["image_token"]) == 1
    want = ours(mine, images, [question])
    assert abs(theirs(load(tmp_path / "out"), written, images, [written["example_prompt"]]) - want).max() < BOUND


def test_a_prompt_that_an_image_token_would_tokenise_otherwise_is_refused(picture_run, tmp_path):
    lm = tmp_path / "lm"
    tokenizer = tiny_tokenizer("sentencepiece")  # marks the beginning of a text as it marks a space
    tiny_lm("llama", vocab_size=len(tokenizer)).save_pretrained(lm)
    tokenizer.save_pretrained(lm)
    shutil.copytree(picture_run.parent.parent / "dataset", tmp_path / "dataset")
    form = {"question_singular": "Is there {phrase} in this image?", "answer_yes": " Yes", "answer_no": " No"}
    mine = train_run(tmp_path, picture_run.parent.parent / "encoder", lm, template="Is {image} {question}", **form)
    with pytest.raises(ConditionError, match="other tokens than the run was trained with"):
        export_llava(mine, tmp_path / "out", {}, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"output_scale": "embedding_rms"}, "outputs to an RMS"),
        ({"projector_layers": 3}, "has 3 layers"),
        ({"pool": 2}, "2 x 2"),
    ],
)
def test_what_llava_cannot_hold_is_refused(picture_run, fields, why, tmp_path):
    root = shutil.copytree(picture_run.parent.parent, tmp_path / "study", ignore=shutil.ignore_patterns("runs"))
    other = train_run(root, root / "encoder", root / "lm", **fields)
    with pytest.raises(RunError, match=why) as refused:
        export_llava(other, tmp_path / "out", {}, device="cpu")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [root]


def test_encoders_without_a_class_in_transformers_are_refused(tmp_path):
    save_timm(tmp_path / "augreg", "vit_tiny_patch16_224", side=64)
    with pytest.raises(ModelError, match="neither DINOv2 nor SigLIP"):
        vision_tower(load_encoder(str(tmp_path / "augreg"), "cpu"))
    save_timm(tmp_path / "normed", "vit_small_patch14_dinov2", qk_norm=True)
    with pytest.raises(ModelError, match="no place for"):
        vision_tower(load_encoder(str(tmp_path / "normed"), "cpu"))
    single = tmp_path / "single"
    save_timm(single)
    name = f"local-dir:{single}@56"
    with pytest.raises(ModelError, match="is fused"):
        vision_tower(load_encoder(f"{name}+{name}", "cpu"))


def test_command_writes_a_whole_folder_with_a_card(crosstax, picture_run, tmp_path):
    out = tmp_path / "out"
    code, printed, error = crosstax("export", picture_run, "--to", "llava", out, "--device", "cpu", "--json")
    assert code == 0, error
    scores = json.loads(printed)["test_macro_f1"]
    card = (out / "README.md").read_text()
    assert {f"{score:.1f}" for score in scores.values()} <= set(card.replace("|", " ").split())
    assert str(picture_run.parent.parent) not in card + (out / "crosstax.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    code, _, error = crosstax("export", picture_run, "--to", "llava", out, "--device", "cpu")
    assert (code, len(error.splitlines())) == (2, 1)
    assert "is there already" in error


def test_the_code_of_the_card_runs(picture_run, tmp_path):
    export_llava(picture_run, tmp_path / "out", {}, device="cpu")
    code = (tmp_path / "out" / "README.md").read_text().split("```")[1].removeprefix("python")
    place = {"DIRECTORY": str(tmp_path / "out"), "image.jpg": str(pictures(picture_run)[0])}
    for name, path in place.items():
        code = code.replace(name, path)
    names = {}
    exec(code, names)  # noqa: S102 - the code of our card
    question = names["prompt"].replace("<image>", "").strip()
    assert question.split()[-1] in WORDS
    answer = open_asker(picture_run, "cpu").ask(pictures(picture_run)[:1], [question], as_stored=False)
    assert names["p_yes"] == pytest.approx(answer["p_yes"][0], abs=1e-5)


def test_a_failed_write_leaves_nothing(picture_run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LlavaForConditionalGeneration, "save_pretrained", full)
    with pytest.raises(CrosstaxError, match="No space left"):
        export_llava(picture_run, tmp_path / "out", {}, device="cpu")
    assert list(tmp_path.iterdir()) == []
