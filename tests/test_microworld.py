"""The microworld: same seed same bytes, ordinary formats, and no way for pictures to name their hypernyms."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from few import few
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoTokenizer

from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.files import default_cache
from cachegen.common.locks import exclusive_lock
from cachegen.common.random_init import random_init_lm
from cachegen.common.rng import generator
from cachegen.data.dataset import load_dataset
from cachegen.data.inspection import inspect_images
from cachegen.microworld import corpus as corpus_module
from cachegen.microworld import drawing, lexicon, recipe
from cachegen.microworld.corpus import Corpus
from cachegen.microworld.language_model import answer_logits, make_tokenizer
from cachegen.microworld.properties import ASKED, PropertyCorpus
from cachegen.microworld.twins import (
    LANGUAGES,
    PROPERTIES,
    TWINS,
    build_twin,
    no_family_words,
    no_hypernym_questions,
    twin_manifest,
)
from cachegen.microworld.world import World, build_world, is_whole, recipe_digest

TINY = recipe.Size(
    "tiny",
    families=3,
    leaves=3,
    images=8,
    encoder=recipe.EncoderRecipe(width=32, layers=2, heads=2, steps=3, batch=8),
    language=recipe.LanguageRecipe(width=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp=48, steps=4, scenes=8),
    siglip=recipe.SiglipRecipe(width=32, layers=2, heads=2, steps=3, batch=8),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(TINY, 3, cache=tmp_path_factory.mktemp("worlds"))


def _split(world: World) -> dict[str, str]:
    with (world.dataset / "split.csv").open(encoding="utf-8", newline="") as handle:
        return {row["key"]: row["split"] for row in csv.DictReader(handle)}


# Bytes


def test_same_seed_same_bytes(tiny: World, tmp_path: Path) -> None:
    again = build_world(TINY, 3, cache=tmp_path)
    assert again.path != tiny.path
    assert again.manifest["files"] == tiny.manifest["files"]
    assert len(tiny.manifest["files"]) > TINY.families * TINY.leaves * TINY.images


def test_another_seed_changes_images_encoder_lm_and_twins(tiny: World, tmp_path: Path) -> None:
    files, others = tiny.manifest["files"], build_world(TINY, 4, cache=tmp_path).manifest["files"]
    weights = [f"{name}/model.safetensors" for name in ("encoder", "lm", "lm-random-0", "lm-random-1", "lm-random-2")]
    assert all(files[name] != others[name] for name in [*weights, "dataset/images/crow/crow_00.png"])
    assert len({files[name] for name in weights}) == len(weights)
    assert files["dataset/taxonomy.csv"] == others["dataset/taxonomy.csv"]


def test_no_global_random_state_moves(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    build_world(replace(TINY, images=4, families=2), 0, cache=tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_recipe_digest_follows_the_numbers() -> None:
    assert recipe_digest(TINY) == recipe_digest(replace(TINY))
    assert recipe_digest(TINY) != recipe_digest(replace(TINY, images=9))


# Cache


def test_a_whole_world_is_opened_not_built(tiny: World) -> None:
    stamp = (tiny.path / "world.json").stat().st_mtime_ns
    assert build_world(TINY, 3, cache=tiny.path.parents[1]) == tiny
    assert (tiny.path / "world.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "manifest"])
def test_a_damaged_world_is_noticed(tiny: World, damage: str) -> None:
    victim = tiny.path / ("world.json" if damage == "manifest" else "dataset/images/crow/crow_00.png")
    extra = tiny.path / "dataset/images/crow/stray.png"
    kept = victim.read_bytes()
    assert is_whole(tiny.path)
    if damage == "removed":
        victim.unlink()
    elif damage == "added":
        extra.write_bytes(kept)
    else:
        victim.write_bytes(kept[:-20])
    try:
        assert not is_whole(tiny.path)
    finally:
        extra.unlink(missing_ok=True)
        victim.write_bytes(kept)
    assert is_whole(tiny.path)


def test_a_damaged_world_is_rebuilt_with_the_same_bytes(tmp_path: Path) -> None:
    small = replace(TINY, families=2, leaves=2, images=4)
    first = build_world(small, 1, cache=tmp_path)
    (first.lm / "model.safetensors").write_bytes(b"rubbish")
    assert build_world(small, 1, cache=tmp_path).manifest["files"] == first.manifest["files"]
    assert is_whole(first.path)


def test_two_builders_do_not_collide(tmp_path: Path) -> None:
    name = f"{TINY.name}-8-{recipe_digest(TINY)}"
    program = (
        "import sys; from pathlib import Path; from cachegen.common.locks import exclusive_lock\n"
        f"with exclusive_lock(Path(sys.argv[1]) / 'worlds' / '.{name}.lock', 'x'): print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=str(holder.pid)):
            build_world(TINY, 8, cache=tmp_path)
    finally:
        holder.communicate("\n")
    assert not list((tmp_path / "worlds").glob("tiny*"))


def test_a_killed_build_leaves_nothing_half_made(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cachegen.microworld.world import build_world\n"
        "build_world('demo', 0, cache=Path(sys.argv[1]))"
    )
    builder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    worlds = tmp_path / "worlds"
    deadline = time.monotonic() + 20
    while not list(worlds.glob(".demo-0-*.tmp/dataset/images/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(builder.pid, signal.SIGKILL)
    builder.wait()
    assert list(worlds.glob(".demo-0-*.tmp")), "the builder had not begun"
    assert not list(worlds.glob("demo-0-*"))
    with exclusive_lock(worlds / f".demo-0-{recipe_digest(recipe.DEMO)}.lock", "free again"):
        pass


def test_cache_folder_and_size_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CROSSTAX_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("CROSSTAX_CACHE")
    assert default_cache() == Path.home() / ".cache" / "crosstax"
    with pytest.raises(CrosstaxError, match="demo, smoke"):
        build_world("huge", 0, cache=tmp_path)


# Formats


def test_dataset_is_an_ordinary_dataset(tiny: World) -> None:
    dataset = load_dataset(tiny.dataset)
    assert len(dataset.leaves) == TINY.families * TINY.leaves
    assert len(dataset.images) == TINY.families * TINY.leaves * TINY.images
    assert dataset.hypernyms["n_leaves"].to_dict() == {
        "bird": 3, "fish": 3, "vehicle": 3, "animal": 6, "food": 2, "pet": 2
    }  # fmt: skip
    assert not set(dataset.leaves.index) & set(dataset.hypernyms.index)
    assert dataset.leaves.loc["owl", "phrase"] == "an owl"
    assert inspect_images(dataset).unreadable == {}


def test_split_is_70_5_25_of_every_leaf(smoke_world: World) -> None:
    count = recipe.SMOKE.images
    expected = Counter(
        train=int(0.7 * count), validation=int(0.75 * count) - int(0.7 * count), test=count - int(0.75 * count)
    )
    by_leaf: dict[str, Counter[str]] = {}
    for key, part in _split(smoke_world).items():
        by_leaf.setdefault(key.split("/")[0], Counter())[part] += 1
    assert len(by_leaf) == recipe.SMOKE.families * recipe.SMOKE.leaves
    assert all(parts == expected for parts in by_leaf.values())


def test_split_is_the_one_a_study_would_draw(tiny: World) -> None:
    """The 70/5/25 rule is one: without its split.csv, the world's seed as data seed gives the same split."""
    from engine.design.questions import split_images

    dataset = load_dataset(tiny.dataset)
    bare = replace(dataset, images=dataset.images.drop(columns="split"))
    assert (split_images(bare, tiny.seed) == dataset.images["split"]).all()
    assert not (split_images(bare, tiny.seed + 1) == dataset.images["split"]).all()


def test_taxonomy_has_depths(tiny: World) -> None:
    depths = load_dataset(tiny.dataset).hypernyms["depth"]
    assert depths.to_dict() == {"bird": 1, "fish": 1, "vehicle": 1, "food": 1, "pet": 1, "animal": 2}


def test_encoder_loads_as_any_vision_model(tiny: World) -> None:
    processor = AutoImageProcessor.from_pretrained(tiny.encoder)
    model = AutoModel.from_pretrained(tiny.encoder).eval()
    with Image.open(tiny.dataset / "images/crow/crow_00.png") as image:
        pixels = processor(image.resize((96, 64)), return_tensors="pt")["pixel_values"]
        same = processor(image, return_tensors="pt")["pixel_values"]
        expected = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5) / 0.25
    assert pixels.shape == (1, 3, 48, 48)  # neither cropped nor kept in shape
    assert torch.allclose(same[0], expected, atol=1e-5)  # training saw what extraction sees
    hidden = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert len(hidden) == TINY.encoder.layers + 1
    assert hidden[-2].shape == (1, 17, TINY.encoder.width)


def test_lm_and_twins_load_as_any_causal_lm(tiny: World) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.lm)
    ids = tokenizer("is there an owl yes")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["is", "there", "an", "owl", "yes"]  # nothing before or after
    for phrase in [*load_dataset(tiny.dataset).leaves["phrase"], *load_dataset(tiny.dataset).hypernyms["phrase"]]:
        assert tokenizer.unk_token_id not in tokenizer(f"is there {phrase}")["input_ids"]
    lm = AutoModelForCausalLM.from_pretrained(tiny.lm)
    assert lm.get_input_embeddings().weight is lm.get_output_embeddings().weight
    for twin in range(recipe.RANDOM_TWINS):
        saved = AutoModelForCausalLM.from_pretrained(tiny.path / f"lm-random-{twin}")
        made = random_init_lm(lm.config, tiny.random_lm_seed(twin))
        assert saved.config.to_dict() == lm.config.to_dict() | {"_name_or_path": saved.config._name_or_path}
        pairs = list(zip(saved.parameters(), made.parameters(), strict=True))
        assert len(pairs) > 10
        assert all(torch.equal(a, b) for a, b in pairs)
        assert AutoTokenizer.from_pretrained(tiny.path / f"lm-random-{twin}").get_vocab() == tokenizer.get_vocab()


def test_manifest_says_how_the_world_was_made(tiny: World) -> None:
    manifest = json.loads((tiny.path / "world.json").read_text(encoding="utf-8"))
    assert {"seed", "size", "recipe_digest", "seconds", "versions", "how_made", "encoder", "lm"} <= manifest.keys()
    assert "never saw an image" in manifest["how_made"]
    with Image.open(tiny.contact_sheet) as sheet:
        assert sheet.width > sheet.height / 2 > 100
    assert "is there a" in (tiny.path / "corpus_sample.txt").read_text(encoding="utf-8")


# Honesty


def test_encoder_training_never_opens_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cachegen.microworld import encoder

    opened: list[Path] = []
    load = encoder.load_pixels
    monkeypatch.setattr(encoder, "load_pixels", lambda images: opened.extend(images) or load(images))
    world = build_world(replace(TINY, families=2, leaves=2), 2, cache=tmp_path)
    split = _split(world)
    used = {f"{path.parent.name}/{path.name}" for path in opened}
    assert used == {key for key, part in split.items() if part == "train"}
    assert used != set(split)


def test_text_does_not_depend_on_pictures(monkeypatch: pytest.MonkeyPatch, tiny: World, tmp_path: Path) -> None:
    """Other drawings, same seed: the language model must come out the same, byte for byte."""
    looks = drawing.make_looks
    monkeypatch.setattr("cachegen.microworld.world.make_looks", lambda size, seed: looks(size, seed + 1))
    other = build_world(TINY, 3, cache=tmp_path)
    name = "dataset/images/crow/crow_00.png"
    assert other.manifest["files"][name] != tiny.manifest["files"][name]
    assert other.manifest["files"]["lm/model.safetensors"] == tiny.manifest["files"]["lm/model.safetensors"]


@pytest.mark.parametrize("size", [recipe.DEMO, recipe.SMOKE])
def test_hierarchy(size: recipe.Size) -> None:
    world = lexicon.make_lexicon(size, 0)
    by_name = {hypernym.name: hypernym for hypernym in world.hypernyms}
    count = size.families * size.leaves
    assert {"animal", "artifact", "food", "pet"} <= set(by_name)
    assert ("plant" in by_name) == (size.name == "demo")  # in the smoke world it would be fruit by another name
    assert len({hypernym.leaves for hypernym in world.hypernyms}) == len(world.hypernyms)
    for hypernym in world.hypernyms:
        assert 2 <= len(hypernym.leaves) < count / 2  # else no permutation keeps clear of it
        inside = [other.depth for other in world.hypernyms if other.leaves < hypernym.leaves]
        assert hypernym.depth == 1 + max(inside, default=0)
        assert (hypernym.kind == "family") <= (hypernym.depth == 1)
    groups = Counter(frozenset(hypernym.name for hypernym in world.above(leaf)) for leaf in world.leaves)
    assert min(groups.values()) >= 2  # else a leaf would stay where it is in a within-category shuffle
    crossed = [leaf for leaf in world.leaves if {"fish", "food"} <= {hypernym.name for hypernym in world.above(leaf)}]
    assert crossed
    assert not by_name["food"].leaves >= by_name["fish"].leaves
    assert not by_name["pet"].leaves <= by_name["bird"].leaves


@pytest.mark.parametrize("size", [recipe.DEMO, recipe.SMOKE])
def test_a_disjoint_across_shuffle_exists(size: recipe.Size) -> None:
    from engine.design.shuffle import shuffle_map

    world = lexicon.make_lexicon(size, 0)
    own = [frozenset(hypernym.name for hypernym in world.above(leaf)) for leaf in world.leaves]
    for seed in range(20):
        image_of_label = shuffle_map("across", "disjoint", own, generator(seed, "shuffle", "across"))
        assert not any(own[label] & own[image] for label, image in enumerate(image_of_label))


def test_leaf_words_are_dealt_anew_in_every_world() -> None:
    words = [[leaf.words for leaf in lexicon.make_lexicon(recipe.DEMO, seed).leaves] for seed in range(3)]
    assert words[0] != words[1] != words[2]
    assert all(len(set(leaf)) == recipe.CorpusRecipe().leaf_words for world in words for leaf in world)


def test_names_never_collide() -> None:
    world = lexicon.make_lexicon(recipe.DEMO, 0)
    roles = [
        [leaf.name for leaf in world.leaves],
        [hypernym.name for hypernym in world.hypernyms],
        [word for hypernym in world.hypernyms for word in hypernym.words],
        list(lexicon.LEAF_WORDS),
        list(lexicon.FILLER),
        list(lexicon.FORMS),
    ]
    words = [word for role in roles for word in role]
    assert len(words) == len(set(words)) == len(world.vocabulary)
    for category in (*world.leaves, *world.hypernyms):
        assert category.phrase == ("an " if category.name[0] in "aeiou" else "a ") + category.name  # true of these


# Text


@pytest.fixture(scope="module")
def demo_corpus() -> tuple[lexicon.Lexicon, Corpus, dict[int, str]]:
    world = lexicon.make_lexicon(recipe.DEMO, 0)
    vocabulary = make_tokenizer(world).get_vocab()
    return world, Corpus(world, recipe.CorpusRecipe(), vocabulary), {i: word for word, i in vocabulary.items()}


def test_answers_are_true(demo_corpus: tuple[lexicon.Lexicon, Corpus, dict[int, str]]) -> None:
    world, corpus, spell = demo_corpus
    scenes = corpus.scenes(600, 12, generator(0, "test"))
    leaves_of = {hypernym.name: hypernym.leaves for hypernym in world.hypernyms}
    told_of = {word: hypernym.leaves for hypernym in world.hypernyms for word in hypernym.words}
    told_of |= {leaf.name: frozenset([leaf.name]) for leaf in world.leaves}
    checked = Counter[tuple[str, bool]]()
    for words, questions, answers in zip(scenes.words, scenes.questions, scenes.answers, strict=True):
        said = [told_of[spell[word]] for word in words if spell[word] in told_of]
        possible = frozenset.intersection(frozenset(leaf.name for leaf in world.leaves), *said)
        assert possible  # a scene is about one leaf: all its words are true of some leaf
        for question, answer in zip(questions, answers, strict=True):
            asked, yes = spell[question[-1]], spell[answer] == "yes"
            meant = leaves_of.get(asked, frozenset([asked]))
            if possible <= meant or not possible & meant:  # the words alone decide
                assert yes == (possible <= meant)
                checked["hypernym" if asked in leaves_of else "leaf", yes] += 1
    assert min(checked.values()) > 100
    assert len(checked) == 4


def test_text_asks_about_every_hypernym(demo_corpus: tuple[lexicon.Lexicon, Corpus, dict[int, str]]) -> None:
    """Parents and crossing hypernyms are taught as families are: words, questions with both answers, statements."""
    world, corpus, spell = demo_corpus
    scenes = corpus.scenes(3000, 8, generator(0, "test"))
    pairs = zip(scenes.questions.reshape(-1, 4), scenes.answers.flat, strict=True)
    asked = Counter((spell[question[-1]], spell[answer]) for question, answer in pairs)
    said = Counter(spell[word] for word in scenes.words.flat)
    statements = [[spell[word] for word in row] for row in corpus.statements(2000, generator(1, "test"))]
    stated = Counter(row[4] for row in statements if row[5] == corpus_module.END)
    described = Counter(row[1] for row in statements if row[5] != corpus_module.END)
    for hypernym in world.hypernyms:
        assert min(asked[hypernym.name, answer] for answer in ("yes", "no")) > 50
        assert min(said[word] for word in hypernym.words) > 20
        assert stated[hypernym.name] > 10
        assert described[hypernym.name] > 5
    yes = sum(count for (_, answer), count in asked.items() if answer == "yes")
    assert abs(yes / asked.total() - 0.5) < 0.02


def test_statements_are_true(demo_corpus: tuple[lexicon.Lexicon, Corpus, dict[int, str]]) -> None:
    world, corpus, spell = demo_corpus
    properties = {leaf.name: set(leaf.words) for leaf in world.leaves}
    properties |= {hypernym.name: set(hypernym.words) for hypernym in world.hypernyms}
    members = {leaf.name: frozenset([leaf.name]) for leaf in world.leaves}
    members |= {hypernym.name: hypernym.leaves for hypernym in world.hypernyms}
    forms = Counter[str]()
    for row in corpus.statements(400, generator(0, "test")):
        article, noun, is_, *rest = (spell[word] for word in row)
        assert (article in ("a", "an"), is_) == (True, "is")
        if rest[2] == corpus_module.END:
            assert members[noun] < members[rest[1]]
            forms["leaf" if len(members[noun]) == 1 else "hypernym"] += 1
        else:
            assert rest[1] == "and"
            assert {rest[0], rest[2]} <= properties[noun]
            assert rest[0] != rest[2]
            forms["properties"] += 1
    assert len(forms) == 3
    assert min(forms.values()) > 50


def test_each_question_sees_its_scene_and_itself_only(
    tiny: World, demo_corpus: tuple[lexicon.Lexicon, Corpus, dict[int, str]]
) -> None:
    world = lexicon.make_lexicon(TINY, 3)
    tokenizer = AutoTokenizer.from_pretrained(tiny.lm)
    scenes = Corpus(world, TINY.corpus, tokenizer.get_vocab()).scenes(3, 5, generator(0, "test"))
    model = AutoModelForCausalLM.from_pretrained(tiny.lm).eval()
    with torch.no_grad():
        together = answer_logits(model, scenes.words, scenes.questions).view(3, -1, len(tokenizer))
        for i in range(3):
            for q in range(together.shape[1]):
                alone = torch.tensor([[*scenes.words[i], *scenes.questions[i, q]]])
                assert torch.allclose(model(input_ids=alone).logits[0, -1], together[i, q], atol=1e-5)
        other = torch.tensor([[*scenes.words[0], *scenes.questions[0, 0], *scenes.questions[0, 1]]])
        assert not torch.allclose(model(input_ids=other).logits[0, -1], together[0, 1], atol=1e-3)


# Twins


@pytest.fixture(scope="module")
def twins(tiny: World) -> dict[str, Path]:
    return {name: build_twin(tiny, name) for name in TWINS}


def test_twins_leave_the_world_whole_and_are_built_once(tiny: World, twins: dict[str, Path]) -> None:
    assert is_whole(tiny.path)
    stamps = {path: path.stat().st_mtime_ns for path in (tiny.path / "twins").rglob("*")}
    assert len(stamps) > 20
    assert {name: build_twin(tiny, name) for name in TWINS} == twins
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    with pytest.raises(CrosstaxError, match="lm-no-family-words"):
        build_twin(tiny, "lm-of-another-kind")


def test_a_damaged_twin_is_rebuilt_with_the_same_bytes(tiny: World, twins: dict[str, Path]) -> None:
    name = "encoder-siglip"
    before = twin_manifest(tiny, name)["files"]
    assert {"model.safetensors", "preprocessor_config.json", "captions.csv"} <= before.keys()
    (twins[name] / "model.safetensors").write_bytes(b"rubbish")
    build_twin(tiny, name)
    assert twin_manifest(tiny, name)["files"] == before


def test_language_twins_differ_from_the_lm_in_text_alone(tiny: World, twins: dict[str, Path]) -> None:
    from cachegen.common.files import digest_file

    folders = [tiny.lm, *(path for name, path in twins.items() if name.startswith("lm-"))]
    assert len(folders) == 3
    assert len({digest_file(folder / "model.safetensors") for folder in folders}) == 3
    for name in ("config.json", "tokenizer.json"):
        assert len({digest_file(folder / name) for folder in folders}) == 1
    facts = [twin_manifest(tiny, name)["facts"]["first_answer_loss"] for name in twins if name.startswith("lm-")]
    assert all(abs(loss - tiny.manifest["lm"]["first_answer_loss"]) < 1 for loss in facts)
    told = {name: "yes_to_siblings_from_family_words" in twin_manifest(tiny, name)["facts"] for name in twins}
    assert told == {"lm-no-hypernym-questions": True, "lm-no-family-words": False, "encoder-siglip": False}


def _text(corpus: Corpus, spell: dict[int, str]) -> tuple[set[str], set[str], list[list[str]]]:
    """Words said in many scenes, categories asked about, and statements."""
    scenes = corpus.scenes(2000, 12, generator(0, "test"))
    asked = {spell[question[-1]] for question in scenes.questions.reshape(-1, 4)}
    statements = [[spell[word] for word in row] for row in corpus.statements(1000, generator(0, "test"))]
    return {spell[word] for word in scenes.words.flat}, asked, statements


def test_twin_texts_lack_what_they_say_they_lack(demo_corpus: tuple[lexicon.Lexicon, Corpus, dict[int, str]]) -> None:
    world, corpus, spell = demo_corpus
    hypernyms = {hypernym.name for hypernym in world.hypernyms}
    described = {word for hypernym in world.hypernyms for word in hypernym.words}
    leaves = {leaf.name for leaf in world.leaves}
    said, asked, statements = _text(corpus, spell)
    assert hypernyms <= asked
    assert described <= said
    assert any(set(row) & described for row in statements)

    unasked = Corpus(world, no_hypernym_questions(corpus.recipe), corpus.vocabulary)
    said, asked, statements = _text(unasked, spell)
    assert asked == leaves
    assert described <= said
    assert {row[4] for row in statements if row[5] == corpus_module.END} == hypernyms

    undescribed = Corpus(world, no_family_words(corpus.recipe), corpus.vocabulary)
    said, asked, statements = _text(undescribed, spell)
    assert asked == leaves | hypernyms
    assert not said & (described | hypernyms)
    assert leaves <= said
    assert not any(set(row) & described for row in statements)
    assert {row[4] for row in statements if row[5] == corpus_module.END} == hypernyms


def test_text_about_properties_is_true_and_beside_the_rest(
    demo_corpus: tuple[lexicon.Lexicon, Corpus, dict[int, str]],
) -> None:
    world, corpus, spell = demo_corpus
    asking = PropertyCorpus(world, corpus.recipe, corpus.vocabulary)
    scenes, plain = (each.scenes(500, 8, generator(0, "test")) for each in (asking, corpus))
    for name in ("words", "questions", "answers"):
        found, expected = getattr(scenes, name), getattr(plain, name)
        np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    told = {leaf.name: {word for above in (leaf, *world.above(leaf)) for word in above.words} for leaf in world.leaves}
    yes = 0
    for number, questions, answers in zip(scenes.leaf, scenes.questions, scenes.answers, strict=True):
        for question, answer in zip(questions[-ASKED:], answers[-ASKED:], strict=True):
            true = spell[question[-1]] in told[world.leaves[number].name]
            assert (spell[answer] == "yes") == true
            yes += true
    assert 0.4 < yes / (500 * ASKED) < 0.6
    assert set(chain(*told.values())) == {spell[word] for word in scenes.questions[:, -ASKED:, -1].flat}


def test_more_variants_are_built_beside_the_world(tiny: World) -> None:
    built = {name: build_twin(tiny, name) for name in LANGUAGES | PROPERTIES}
    assert is_whole(tiny.path)
    dataset = load_dataset(built["two-languages"])
    assert dataset.image_digest == load_dataset(tiny.dataset).image_digest
    second = dataset.languages["second"]
    phrases = [*second.phrases["phrase"], *(text.replace("{phrase}", "") for text in second.wording.values())]
    for name in ("lm-two-languages", "lm-two-languages-no-bridge"):
        tokenizer = AutoTokenizer.from_pretrained(built[name])
        assert tokenizer.unk_token_id not in chain(*tokenizer(phrases)["input_ids"])
        assert len(twin_manifest(tiny, name)["facts"]["accuracy"]) == 8
    with_article = AutoTokenizer.from_pretrained(tiny.lm)
    assert with_article.unk_token_id in chain(*with_article(phrases)["input_ids"])
    for name in ("properties", "leaf_properties"):
        table = pd.read_csv(built["lm-property-questions"] / f"{name}.csv", index_col="leaf")
        assert set(table.index) == set(dataset.leaves.index)
        assert table.isin(["yes", "no"]).all(axis=None)
        assert (table == "yes").any().all()


def test_captions_are_true_and_of_training_images_only(
    tiny: World, twins: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cachegen.microworld import siglip

    train = {key for key, part in _split(tiny).items() if part == "train"}
    known = load_dataset(tiny.dataset)
    phrases = known.pairs.merge(known.hypernyms[["phrase"]], left_on="hypernym", right_index=True)
    true = {(leaf, f"there is {phrase}") for leaf, phrase in zip(phrases["leaf"], phrases["phrase"], strict=True)}
    true |= {(leaf, f"there is {phrase}") for leaf, phrase in known.leaves["phrase"].items()}
    with (twins["encoder-siglip"] / "captions.csv").open(encoding="utf-8", newline="") as handle:
        rows = [(row["key"], row["caption"]) for row in csv.DictReader(handle)]
    assert {key for key, _ in rows} == train
    assert {(key.split("/")[0], caption) for key, caption in rows} == true

    opened: list[Path] = []
    load = siglip.load_pixels
    monkeypatch.setattr(siglip, "load_pixels", lambda images: opened.extend(images) or load(images))
    drawn: list[tuple[int, int]] = []
    draw = siglip.Captions.draw

    def spy(self, leaves, rng):
        said = draw(self, leaves, rng)
        drawn.extend(zip(leaves.tolist(), said.tolist(), strict=True))
        return said

    monkeypatch.setattr(siglip.Captions, "draw", spy)
    world = build_world(replace(TINY, families=2), 5, cache=tmp_path)
    build_twin(world, "encoder-siglip")
    split = _split(world)
    assert {f"{path.parent.name}/{path.name}" for path in opened} == {k for k, part in split.items() if part == "train"}
    captions = siglip.Captions(lexicon.make_lexicon(world.size, 5))
    assert len(drawn) == TINY.siglip.steps * TINY.siglip.batch
    assert all(captions.true_of[leaf, caption] for leaf, caption in drawn)
    assert min(Counter(caption < len(captions.leaf_number) for _, caption in drawn).values()) > 3


def test_siglip_twin_opens_as_an_encoder_and_as_a_whole_model(tiny: World, twins: dict[str, Path]) -> None:
    from cachegen.encoders import load_encoder

    encoder = load_encoder(str(twins["encoder-siglip"]), device="cpu")
    assert (encoder.n_patches, encoder.width) == (16, TINY.siglip.width)
    assert encoder.transform.size == 48
    model = AutoModel.from_pretrained(twins["encoder-siglip"])
    tokens = AutoTokenizer.from_pretrained(twins["encoder-siglip"])(["there is a crow"], return_tensors="pt")
    assert model(input_ids=tokens["input_ids"], pixel_values=torch.zeros(2, 3, 48, 48)).logits_per_image.shape == (2, 1)


# What the smoke world has learnt


def test_smoke_lm_knows_its_taxonomy_in_text(smoke_world: World) -> None:
    facts = smoke_world.manifest["lm"]
    assert facts["hypernym_accuracy_by_words"]["8"] > 0.9
    assert facts["leaf_accuracy_by_words"]["8"] > 0.8
    assert facts["statement_accuracy"] > 0.5  # of the whole vocabulary: chance is near zero


def test_each_family_is_drawn_in_its_own_way_and_the_same_again() -> None:
    looks = [plans[0] for plans in drawing.make_looks(recipe.DEMO, 0)]
    drawn = [
        [drawing.draw_image(family, look, 48, generator(0, family)).tobytes() for _ in range(2)]
        for family, look in zip(lexicon.FAMILIES, looks, strict=False)
    ]
    assert all(first == second for first, second in drawn)
    assert len({first for first, _ in drawn}) == len(drawn) == recipe.DEMO.families


@pytest.mark.parametrize("every", few([1, 4], 4))
def test_drawings_of_a_leaf_look_alike_and_leaves_differ(every: int) -> None:
    looks = drawing.make_looks(recipe.DEMO, 0)
    rng = generator(0, "test")

    def mean_picture(family: str, look: drawing.Appearance) -> np.ndarray:
        """Mean of eight drawings and their mirror images: pose averaged out."""
        mean = np.mean([np.asarray(drawing.draw_image(family, look, 48, rng), float) for _ in range(8)], axis=0)
        return mean + mean[:, ::-1]

    hits = []
    for family, plans in list(zip(lexicon.FAMILIES, looks, strict=True))[::every]:
        halves = np.stack([[mean_picture(family, look) for look in plans] for _ in range(2)])
        gaps = np.abs(halves[0][:, None] - halves[1][None]).mean(axis=(2, 3, 4))
        hits += list(gaps.argmin(axis=1) == np.arange(len(plans)))
    assert np.mean(hits) > 0.9
