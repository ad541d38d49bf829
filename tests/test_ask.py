"""`crosstax ask`: what a run said about its test images comes back from the files, and whatever else is asked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from picture_study import IMAGES, LEAVES, save_encoder, train_run, write_lm
from twins import save_hf

from cachegen.common.errors import ConditionError, CrosstaxError, DatasetError, RunError, StoreError
from cachegen.data.dataset import load_dataset
from engine.ask import open_asker, read_words
from engine.design.questions import question_text
from engine.runs.places import Places

LOGITS = ["logit_yes", "logit_no"]


@pytest.fixture(scope="module")
def asker(picture_run):
    return open_asker(picture_run, "cpu")


@pytest.fixture
def picture(picture_run):
    return picture_run.parent.parent / "dataset" / "images" / "crow" / "0.png"


def saved_and_asked(asker, **how):
    """Logits of every test question, as saved and as asked again from the files: two arrays (Q, 2)."""
    dataset, c = asker.run.dataset(), asker.run.condition
    saved, asked = [], []
    for image, table in asker.run.answers("test").groupby("image"):
        questions = [question_text(c, *row) for row in zip(table["phrase"], table["number"], strict=True)]
        path = dataset.image_path(dataset.images["key"][image])
        answers = asker.ask([path], questions, **how).set_index("question")
        saved.append(table[LOGITS].to_numpy())
        asked.append(answers.loc[questions, LOGITS].to_numpy())
    return np.concatenate(saved), np.concatenate(asked)


def test_test_questions_get_the_logits_that_the_run_saved(asker):
    saved, asked = saved_and_asked(asker)
    assert len(saved) >= 4 * len(LEAVES)
    assert saved.std() > 0.1
    assert abs(asked - saved).max() < 1e-5
    # Control: features that were not rounded to the store's bfloat16 are seen.
    assert abs(saved_and_asked(asker, as_stored=False)[1] - saved).max() > 1e-4


def test_many_images_and_questions_together_answer_as_each_alone(asker, picture):
    images = [picture, picture.with_name("1.webp"), picture.with_name("2.jpg")]
    questions = ["is there a bird", "are there a saw", "there is a van a van yes"]
    together = asker.ask(images, questions)
    assert list(together["image"]) == [str(path) for path in images for _ in questions]
    assert list(together["question"]) == questions * len(images)
    for _, row in together.iterrows():
        (alone,) = asker.ask([row["image"]], [row["question"]]).to_dict("records")
        assert alone["logit_yes"] == pytest.approx(row["logit_yes"], abs=1e-5)
        assert alone["p_yes"] == pytest.approx(row["p_yes"], abs=1e-5)
    assert together["p_yes"].nunique() == len(together)
    odds = np.exp(together["logit_yes"] - together["logit_no"])
    assert np.allclose(together["p_yes"], odds / (1 + odds), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "questions", "everything", "expected"),
    [
        (["a.jpg", "Is it?"], [], False, (["a.jpg"], ["Is it?"])),
        (["a.jpg", "b.jpg", "is it"], [], False, (["a.jpg", "b.jpg"], ["is it"])),
        (["a.jpg", "b.jpg"], ["is it"], False, (["a.jpg", "b.jpg"], ["is it"])),
        (["a.jpg", "b.jpg", "Is it?"], ["is he"], False, (["a.jpg", "b.jpg"], ["Is it?", "is he"])),
        (["a.jpg", "a.jpg"], [], True, (["a.jpg"], [])),
        (["Is it?"], [], False, None),
        (["Is it?"], ["is he"], True, None),
    ],
)
def test_the_words_of_a_command(words, questions, everything, expected):
    if expected is None:
        with pytest.raises(ConditionError, match="no image"):
            read_words(words, questions, everything)
    else:
        images, asked = read_words(words, questions, everything)
        assert ([str(image) for image in images], asked) == expected


def test_a_file_at_the_end_is_no_question(picture):
    with pytest.raises(ConditionError, match="nothing is asked"):
        read_words([str(picture)], [], False)


def test_command(crosstax, picture_run, picture):
    code, out, error = crosstax(
        "ask", picture_run, picture, "--all", "-q", "is there a crow", "--device", "cpu", "--json"
    )
    assert code == 0, error
    (image,) = json.loads(out)["images"]
    assert image["image"] == str(picture)
    hypernyms = {f"is there a {hypernym}" for hypernym in LEAVES}
    assert {answer["question"] for answer in image["answers"]} == {*hypernyms, "is there a crow"}
    ranked = [line.split("%")[0] for line in error.splitlines() if "%" in line]
    assert len(ranked) == 3
    assert ranked == sorted(ranked, key=float, reverse=True)
    assert "no token" not in error
    assert "no token" in crosstax("ask", picture_run, picture, "is there a zebra?", "--device", "cpu")[2]


def test_one_line_for_what_cannot_be_asked(crosstax, picture_run, picture, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:60])
    for words in (
        [tmp_path / "none.png", "is it?"],
        [broken, "is it?"],
        [tmp_path, "is it?"],
        [picture],
        [picture, " ", "--device", "cpu"],
    ):
        code, _, error = crosstax("ask", picture_run, *words)
        assert (code, len(error.splitlines())) == (2, 1), error
        assert error.startswith("error: ")


def test_images_of_the_dataset_are_asked_by_name(asker, picture):
    """A name of no file, or of two images, or a path that only ends like one, is not taken for one."""
    key = f"{picture.parent.name}/{picture.name}"
    question = ["is there a bird"]
    by_name, by_path = (asker.ask([path], question) for path in (Path(key), picture))
    pd.testing.assert_frame_equal(by_name, by_path)
    for other in (picture.name, f"elsewhere/{key}", "none.png"):
        with pytest.raises(DatasetError, match="no such image file"):
            asker.ask([Path(other)], question)


def test_unreadable_images_name_themselves(asker, tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("no picture")
    with pytest.raises(DatasetError, match=r"text\.jpg: unreadable"):
        asker.ask([path], ["is there a bird"])


def test_another_encoder_is_refused_by_its_weights(picture_run, tmp_path):
    save_hf("dinov2", tmp_path / "moved")
    assert open_asker(picture_run, "cpu", Places(encoder=str(tmp_path / "moved"))).encoder.name == str(
        tmp_path / "moved"
    )
    save_hf("dinov2", tmp_path / "other", mlp_ratio=2)
    with pytest.raises(StoreError, match="weights_digest"):
        open_asker(picture_run, "cpu", Places(encoder=str(tmp_path / "other")))


def test_only_a_finished_run_on_its_own_inputs_is_asked(picture_run, tmp_path):
    with pytest.raises(RunError, match="no run directory"):
        open_asker(tmp_path, "cpu")
    unfinished = shutil.copytree(picture_run, tmp_path / "run")
    (unfinished / "DONE").unlink()
    with pytest.raises(RunError, match="not finished"):
        open_asker(unfinished, "cpu")


def test_changed_inputs_are_named(tmp_path):
    run = train_run(tmp_path, save_encoder("siglip", "hf", tmp_path / "encoder"), write_lm(tmp_path / "lm"))
    asker = open_asker(run, "cpu")
    dataset = load_dataset(tmp_path / "dataset")
    assert len(dataset.images) == IMAGES * 4
    (tmp_path / "dataset" / "images" / "crow" / "9.png").write_bytes(b"new")
    with pytest.raises(RunError, match="its dataset has changed"):
        asker.run.dataset()
    write_lm(tmp_path / "lm", "llama")
    with pytest.raises(CrosstaxError, match="its lm has changed"):
        open_asker(run, "cpu")
