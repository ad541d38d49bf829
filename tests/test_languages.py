"""Other languages: phrases and wordings of a dataset, cells of training and test language, the world's second one."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from small_study import FAMILIES, SETTINGS

from analysis.predictions import load_sweep
from analysis.study import measure
from cachegen.common.errors import ConditionError, DatasetError
from cachegen.data.dataset import load_dataset
from cachegen.microworld.corpus import Corpus
from cachegen.microworld.languages import IGNORED, TwoLanguageCorpus, TwoLanguages
from cachegen.microworld.lexicon import make_lexicon
from cachegen.microworld.recipe import SMOKE
from engine.ask import question_tokens
from engine.design.condition import Condition, Sweep
from engine.design.question_sets import TRAINED, question_source
from engine.design.questions import build_questions
from engine.lens import look
from engine.lm.loading import load_tokenizer
from engine.runs.finished import open_run
from engine.runs.lens import LensSettings, read_lens
from engine.runs.planned import Execution
from engine.runs.transfer import answered
from engine.sweeps.sweep import run_sweep
from engine.transfer import evaluate_run, transfer

CPU = Execution(device="cpu")
# Another language in the words of the tiny LM: its articles are swapped, and yes is no.
NAMES = [name for group in FAMILIES.items() for name in [group[0], *group[1]]]
SWAPPED = {name: f"{'a' if name[0] in 'aeiou' else 'an'} {name}" for name in NAMES}
WORDING = {"question_singular": "are there {phrase}", "question_plural": "are there {phrase}"}
WORDING |= {"answer_yes": "no", "answer_no": "yes"}


def write_language(root, said=None):
    rows = (SWAPPED | WORDING) if said is None else said
    (root / "languages").mkdir(exist_ok=True)
    lines = ["name,phrase", *(f'{name},"{phrase}"' for name, phrase in rows.items())]
    (root / "languages" / "yy.csv").write_text("\n".join(lines) + "\n")
    return load_dataset(root)


@pytest.fixture(scope="module")
def root(small_study, tmp_path_factory):
    """A copy of the small study's dataset with a second language."""
    folder = tmp_path_factory.mktemp("languages") / "dataset"
    shutil.copytree(small_study.dataset, folder)
    write_language(folder)
    return folder


def test_a_language_is_part_of_the_dataset_and_of_its_digest(small_study, root):
    before, dataset = load_dataset(small_study.dataset), load_dataset(root)
    assert before.digest != dataset.digest
    assert before.image_digest == dataset.image_digest
    assert dataset.spoken("") is dataset
    said = dataset.spoken("yy")
    assert said.leaves["phrase"].to_dict() | said.hypernyms["phrase"].to_dict() == SWAPPED
    assert said.leaves["n_images"].equals(dataset.leaves["n_images"])
    with pytest.raises(DatasetError, match=r"no languages/zz.csv"):
        dataset.spoken("zz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crow": None}, "1 categories have no row: crow"),
        ({"dodo": "a dodo"}, "'dodo' is not in the taxonomy"),
        ({"crow": ""}, "give a phrase"),
        ({"question_singular": "is there"}, "lacks {phrase}"),
    ],
)
def test_a_language_that_is_wrong_is_listed(small_study, tmp_path, change, message):
    shutil.copytree(small_study.dataset, tmp_path / "dataset")
    said = {name: phrase for name, phrase in (SWAPPED | WORDING | change).items() if phrase is not None}
    with pytest.raises(DatasetError) as caught:
        write_language(tmp_path / "dataset", said)
    assert message in str(caught.value)


def test_languages_change_phrases_and_nothing_else(root):
    dataset = load_dataset(root)
    base = build_questions(dataset, Condition())
    found = build_questions(dataset, Condition(train_language="yy"))
    pd.testing.assert_frame_equal(base.drop(columns="phrase"), found.drop(columns="phrase"))
    train = base["split"] == "train"
    assert (found["phrase"][train] == base["category"][train].map(SWAPPED)).all()
    assert (found["phrase"][~train] == base["phrase"][~train]).all()
    tested = build_questions(dataset, Condition(test_language="yy"))
    assert (tested["phrase"][~train] == found["category"][~train].map(SWAPPED)).all()
    assert (tested["phrase"][train] == base["phrase"][train]).all()


def test_a_negative_is_true_in_neither_language(small_study, tmp_path):
    """Where the other language calls owls crows, no owl is denied to be one."""
    shutil.copytree(small_study.dataset, tmp_path / "dataset")
    dataset = write_language(tmp_path / "dataset", SWAPPED | {"owl": SWAPPED["crow"]})

    def denied(condition):
        asked = build_questions(dataset, condition)
        return ((asked["label_leaf"] == "owl") & (asked["category"] == "crow") & ~asked["answer"]).any()

    assert denied(Condition())
    assert not denied(Condition(test_language="yy"))


def test_naming_has_no_languages():
    with pytest.raises(ConditionError, match="verify"):
        Condition.of({"task": "name", "test_language": "yy"}, "here")
    with pytest.raises(ConditionError, match="train_language"):
        Condition.of({"train_language": "../x"}, "here")


@pytest.fixture(scope="module")
def cells(small_study, root, tmp_path_factory):
    """The four cells, and runs of a dataset that has the second language for its own; by their languages."""
    out = tmp_path_factory.mktemp("cells")
    foreign = out / "dataset"
    shutil.copytree(small_study.dataset, foreign)
    table = pd.read_csv(foreign / "taxonomy.csv")
    for kind in ("leaf", "hypernym"):
        table[f"{kind}_phrase"] = table[kind].map(SWAPPED)
    table.to_csv(foreign / "taxonomy.csv", index=False)
    inputs = {"features": str(small_study.features), "lm": str(small_study.lm)}
    fields = inputs | SETTINGS | {"epochs": 1}
    four = fields | {"dataset": str(root), "train_language": ["", "yy"], "test_language": ["", "yy"]}
    alone = fields | WORDING | {"dataset": str(foreign)}
    folders = run_sweep(Sweep.expand([four, alone], "test"), out / "runs", CPU)
    runs = [open_run(folder) for folder in folders]
    names = [(run.condition.train_language, run.condition.test_language) for run in runs[:4]]
    return dict(zip([*names, "alone"], runs, strict=True))


def logits(run):
    return run.answers("test")[["logit_yes", "logit_no"]].to_numpy()


def test_cells_are_trained_in_one_language_and_tested_in_another(cells):
    weights = {name: (run.directory.path / "projector.safetensors").read_bytes() for name, run in cells.items()}
    assert weights["", ""] == weights["", "yy"] != weights["yy", ""] == weights["yy", "yy"]
    # A dataset whose own language is the second one gives the same run.
    assert weights["alone"] == weights["yy", "yy"]
    np.testing.assert_array_equal(logits(cells["alone"]), logits(cells["yy", "yy"]))
    assert not np.allclose(logits(cells["", "yy"]), logits(cells["", ""]))
    assert len({run.id for run in cells.values()}) == 5


def test_every_command_speaks_the_language_of_the_test_questions(cells):
    run = cells["", "yy"]
    for split in ("validation", "test", "train"):
        again = evaluate_run(run.directory.path, split, CPU)
        if split != "train":
            saved = run.answers(split)[["logit_yes", "logit_no"]]
            np.testing.assert_allclose(again[["logit_yes", "logit_no"]], saved, atol=1e-5)
    assert {name: getattr(run.tested, name) for name in WORDING} == WORDING
    tokenizer = load_tokenizer(run.lm[1])
    assert question_tokens(run.tested, tokenizer, ["are there a crow"]).yes == tokenizer.convert_tokens_to_ids("no")
    source = question_source("test", {"maker": "paraphrases", "phrasings": ["there {phrase}"], "negations": []})
    assert transfer([run.directory.path], [source], CPU)[0].problem is None
    (table,) = (each.table() for each, _ in answered(run.directory))
    own = run.answers("test").drop_duplicates(["image", "category"]).set_index(["image", "category"])
    asked = table[table["set"] == TRAINED].set_index(["image", "group"])
    both = own.index.intersection(asked.index)
    np.testing.assert_allclose(asked.loc[both, "logit_yes"], own.loc[both, "logit_yes"], atol=1e-5)
    assert look([run.directory.path], LensSettings(images=5), CPU)[0].problem is None
    layers = read_lens(run.directory.path, "layers")
    last = layers[layers["layer"] == layers["layer"].max()].set_index("question")["score"]
    saved = run.answers("test").set_index("question").loc[last.index]
    np.testing.assert_allclose(last, saved["logit_yes"] - saved["logit_no"], atol=1e-5)


def test_a_report_says_which_language_is_which(cells):
    folder = cells["", ""].directory.path.parent
    config = json.loads((cells["", "yy"].directory.path / "config.json").read_text())
    assert config["test_wording"] == WORDING
    study = measure(load_sweep(folder))
    said = {study.all_names.setup(cell.setup) for cell in study.runs["cell"]}
    assert len(said) == 5
    assert any("test" in each and "yy" in each for each in said)


# The world's second language


@pytest.fixture(scope="module")
def lexicon():
    return TwoLanguages.of(make_lexicon(SMOKE, 3))


def corpus_of(lexicon, bridge):
    vocabulary = {word: number for number, word in enumerate(["<eos>", *lexicon.vocabulary])}
    return TwoLanguageCorpus(lexicon, SMOKE.corpus, vocabulary, bridge), np.array([*vocabulary])


def test_every_word_has_one_of_its_own(lexicon):
    first, second = set(lexicon.second), set(lexicon.second.values())
    assert len(second) == len(first)
    assert not first & second
    assert lexicon.second == TwoLanguages.of(make_lexicon(SMOKE, 4)).second
    assert lexicon.translated("is there a crow {phrase}").endswith(" {phrase}")


@pytest.mark.parametrize("bridge", [0.0, 0.5])
def test_only_bridges_mix_and_never_ask_about_hypernyms_across(lexicon, bridge):
    corpus, words = corpus_of(lexicon, bridge)
    second = np.isin(words, [*lexicon.second.values()])
    plain = Corpus(lexicon, SMOKE.corpus, corpus.vocabulary).scenes(400, 8, np.random.default_rng(1))
    scenes = corpus.scenes(400, 8, np.random.default_rng(1))
    back = {corpus.vocabulary[b]: corpus.vocabulary[a] for a, b in lexicon.second.items()}
    first = np.vectorize(lambda token: back.get(token, token))
    np.testing.assert_array_equal(first(scenes.words), plain.words)
    np.testing.assert_array_equal(first(scenes.questions), plain.questions)
    known = scenes.answers != IGNORED
    np.testing.assert_array_equal(first(scenes.answers)[known], plain.answers[known])
    asked = second[scenes.questions].all(axis=2)
    assert (asked == second[scenes.questions].any(axis=2)).all()
    assert (second[np.where(known, scenes.answers, 0)] == asked)[known].all()
    share = second[scenes.words].mean(axis=1)
    mixed = ((share > 0) & (share < 1)) | (asked != share[:, None]).any(axis=1)
    assert known[~mixed].all()
    assert (known == ~scenes.about_hypernym)[mixed].all()
    assert mixed.mean() == pytest.approx(bridge, abs=0.1)
    said = second[corpus.statements(200, np.random.default_rng(2))][:, :4]
    both = said.any(axis=1) & ~said.all(axis=1)
    assert both.mean() == pytest.approx(bridge, abs=0.1)
    assert 0.3 < said.all(axis=1).mean() / (1 - bridge) < 0.7
