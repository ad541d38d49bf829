"""The methods text says what the runs' settings say, for studies of different kinds, and cites what it names."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_sweep import CELLS, World, mark_done, write_config, write_run, write_sweep

from analysis.predictions import load_sweep
from analysis.report.methods import (
    REFERENCES,
    Methods,
    count,
    either,
    encoder_keys,
    lm_keys,
    materials_of,
    methods_of,
)
from analysis.study import measure
from engine.design.condition import Condition

WORLD = World(families=3, per_leaf=12)
ORIGINAL = {("pretrained", "original"): CELLS["pretrained", "original"]}
SHUFFLED = {key: CELLS[key] for key in (("pretrained", "across"), ("pretrained", "within"))}


def settings(**changed: Any) -> dict[str, Any]:
    """Every field of a condition that `write_sweep` does not vary itself."""
    fields = Condition(**changed).model_dump()
    return {name: value for name, value in fields.items() if name not in ("lm_init", "shuffle", "run_seed", "lm_seed")}


def methods(folder: Path, *sweeps: tuple[dict, dict[str, Any]], world: Path | None = None) -> Methods:
    """Methods of runs with these cells and settings; names of folders hold few of them, so the rest is put in later."""
    for number, (cells, fields) in enumerate(sweeps):
        named = {name: fields[name] for name in ("ablation", "ablation_kind") if name in fields}
        for place in write_sweep(folder / str(number), WORLD, cells, seeds=(0, 1), **named).iterdir():
            config = json.loads((place / "config.json").read_text())
            config["condition"] |= fields
            write_config(place, config)
            mark_done(place)
            (folder / "sweep").mkdir(exist_ok=True)
            place.rename(folder / "sweep" / f"{place.name}-{number}")
    return methods_of(measure(load_sweep(folder / "sweep")), world)


def cited(text: Methods) -> set[str]:
    return {key for key, (_, full) in REFERENCES.items() if full in text.references}


def test_the_papers_models_with_the_releases_settings(tmp_path: Path) -> None:
    fields = settings(
        order="pairs", learning_rate=1e-3, weight_decay=0.0, dtype="bfloat16", supervise="answer_eos",
        template="<image>\n{question}", shared_initial_weights=True, within_rule="release",
    )  # fmt: skip
    models = {"encoder": "vit_large_patch14_reg4_dinov2.lvd142m", "lm": "Qwen/Qwen3-0.6B"}
    found = methods(tmp_path, (ORIGINAL, fields | models), (SHUFFLED, fields | models))
    text = found.text
    for said in (
        "vit_large_patch14_reg4_dinov2.lvd142m (Oquab et al., 2024; Darcet et al., 2024), frozen",
        "Qwen/Qwen3-0.6B (Yang et al., 2025), frozen, with matrix products in bfloat16",
        "A projector of two linear layers with GELU between them",
        "All questions about hypernyms were withheld from training.",
        "in the form “Is there an ant in this image?”",
        "AdamW (Loshchilov & Hutter, 2019) for 5 epochs in batches of 16 questions, at a learning rate of 0.001 after",
        "over 3 % of the steps and with cosine decay to zero, weight decay 0, and gradients clipped at a norm of 1.",
        "cross-entropy over the whole vocabulary at the answer and the end-of-text token after it",
        "“<image>\\n{question}”, with the patches at the place of {image}, or after the first token",
        "Batches drew (image, question) pairs at random.",
        "the run seed fixes the order of the data.",
        "across categories were dealt to the images of other leaves by a random permutation of all leaves.",
        "joined the most specific larger group",
        "run_seed varied over 0, 1",
    ):
        assert said in text, said
    assert cited(found) == {*("paper", "dinov2", "registers", "qwen3", "adamw", "tost", "lme4", "satterthwaite")}
    assert "THINGS" not in text.split("References")[0]
    assert "standardised" not in text
    assert list(found.references) == sorted(found.references)


def test_curves_with_other_models(tmp_path: Path) -> None:
    models = {"encoder": "vit_so400m_patch14_siglip_224.webli", "lm": "meta-llama/Llama-3.2-1B-Instruct"}
    systematic = settings(ablation_kind="systematic", ablation=2, scope="mapping") | models
    found = methods(
        tmp_path, *[(ORIGINAL, settings(ablation=level) | models) for level in (10, 50)], (ORIGINAL, systematic)
    )
    text = found.text
    for said in (
        "Random ablation withheld questions about hypernyms for 10 or 50 % of the leaves of each hypernym.",
        "Systematic ablation removed 2 hypernyms as wholes (drawn by the data seed).",
        "A removed hypernym still occurred in training questions whose answer is no.",
        "(Zhai et al., 2023)",
        "(Grattafiori et al., 2024)",
        "the order of the data and the projector’s initial weights",
    ):
        assert said in text, said
    assert "All questions about hypernyms" not in text
    assert "shuffle" not in text
    assert {"siglip", "llama3"} <= cited(found)
    assert not {"dinov2", "qwen3", "things"} & cited(found)


def test_a_microworld_says_so(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "world.json").write_text('{"seed": 101}')
    fields = settings(
        order="images", loss="answers", standardise=True, output_scale="embedding_rms", batch=64, learning_rate=3e-3
    )
    found = methods(tmp_path, (CELLS, fields), world=tmp_path / "world")
    text = found.text
    for said in (
        "one synthetic world, which the software crosstax draws and trains from a seed (here 101)",
        "216 images of 18 leaf categories",
        "not photographs or published models",
        "in the manner of DINOv2 (Oquab et al., 2024) on the world’s training images, without labels or text",
        "contains questions of the very form asked here",
        "Features were standardised",
        "the cross-entropy over the two answers at the answer",
        "so that all training questions of an image followed one another",
        "initialised at random instead of being pretrained (two initialisations)",
    ):
        assert said in text, said
    assert "THINGS" not in text


def test_what_old_runs_leave_open_is_what_they_ran_with(tmp_path: Path) -> None:
    """A field that a run does not have stands at its default: else the run would have another id."""
    text = methods(tmp_path, (ORIGINAL, {})).text
    assert "AdamW" in text.split("References")[0]
    assert "for 6 epochs in batches of 16" in text
    assert "The data set (not named) had 216 images" in text
    assert "nan" not in text


def test_what_users_call_things_stands_as_it_is(tmp_path: Path) -> None:
    """Though it reads like a heading of the template, or like markup; two languages may differ in case only."""
    fields = settings(answer_yes="Yes\n# Models\n", answer_no="{{ no }} & <i>", template="# Models\n{question}")
    models = {"encoder": "# we<i>rd {% if %}", "lm": "# {{ lm }} & “q”"}
    languages = ({"test_language": "DE"}, {"train_language": "de"})
    found = methods(tmp_path, *[(ORIGINAL, fields | models | language) for language in languages])
    headings = ["Materials", "Models", "Conditions", "Training", "Measures", "Statistics"]
    assert [heading for heading, _ in found.paragraphs] == headings
    for said in (
        "Image encoder: # we<i>rd {% if %}, frozen.",
        "(LM): # {{ lm }} & “q”, frozen",
        "“Yes\\n# Models\\n” and “{{ no }} & <i>”",
        "“# Models\\n{question}”",
        "(DE and de)",
    ):
        assert said in found.text, said


def test_things_is_known_by_its_files_and_hypernyms(tmp_path: Path) -> None:
    def sweep(name: str, rename: dict[str, str], file: str) -> Path:
        questions = WORLD.questions("original", 100).replace({"category": rename})
        keys = questions["image_leaf"] + "/" + questions["image_leaf"] + file
        predictions = pd.DataFrame({"question": questions.loc[questions["split"] != "train", "question"]})
        predictions = predictions.assign(logit_yes=1.0, logit_no=0.0, mass=1.0)
        place = write_run(tmp_path / name, "run", {"encoder": "e"}, questions.assign(key=keys), predictions)
        mark_done(place)
        return tmp_path / name

    known = {"bird": "bird", "fish": "sea animal", "insect": "insect"}
    kinds = {
        sweep("things", known, "_01b.jpg"): "things",
        sweep("other files", known, "_00.png"): "own",
        sweep("other hypernyms", {"bird": "fowl"}, "_01b.jpg"): "own",
    }
    for folder, kind in kinds.items():
        assert materials_of(measure(load_sweep(folder))).kind == kind
    assert "THINGS (Hebart et al., 2019)" in methods_of(measure(load_sweep(tmp_path / "things"))).text


def test_the_split_rule_is_said_only_where_it_holds(tmp_path: Path) -> None:
    """12 images a leaf: 8 train, 1 validates, 3 test, which is the rule; moving one image breaks it."""
    sweep = write_sweep(tmp_path / "sweep", WORLD, ORIGINAL, seeds=(0,))
    study = measure(load_sweep(sweep))
    found = materials_of(study)
    assert (found.images, found.by_rule) == ({"train": 144, "validation": 18, "test": 54}, True)
    (run,) = sweep.iterdir()
    questions = pd.read_parquet(run / "questions.parquet")
    moved = questions["key"] == questions.loc[questions["split"] == "validation", "key"].iloc[0]
    questions.assign(split=questions["split"].mask(moved, "test")).to_parquet(run / "questions.parquet", index=False)
    assert not materials_of(study).by_rule


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("facebook/dinov2-with-registers-large", ["dinov2", "registers"]),
        ("vit_base_patch14_dinov2.lvd142m", ["dinov2"]),
        (
            "vit_large_patch14_reg4_dinov2.lvd142m@384+vit_so400m_patch14_siglip_384.webli@384",
            ["dinov2", "registers", "siglip"],
        ),
        ("google/siglip2-so400m-patch14-384", []),
        ("resnet50", []),
    ],
)
def test_encoders_are_cited_by_name(name: str, keys: list[str]) -> None:
    assert encoder_keys(name) == keys


def test_lms_are_cited_by_name() -> None:
    assert lm_keys("Qwen/Qwen3-1.7B") == ["qwen3"]
    assert lm_keys("meta-llama/Llama-3.2-1B") == ["llama3"]
    assert lm_keys("/home/Qwen3-fan/lm") == lm_keys("Qwen/Qwen2.5-7B") == lm_keys("meta-llama/Llama-2-7b") == []


def test_words() -> None:
    assert [either([]), either([5]), either([5, 8]), either([1, 2, 3], "and")] == ["", "5", "5 or 8", "1, 2 and 3"]
    assert [count(1, "run"), count(3, "run"), count(1200, "run")] == ["one run", "three runs", "1,200 runs"]
