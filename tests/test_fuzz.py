"""Loaders given damaged files: each loads, or raises a `CrosstaxError`; nothing else, and it comes back.

Few examples in the normal run, the same ones everywhere; many with -m slow.
"""

import contextlib
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from bad_input.study import run_name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from run_folders import seal
from safetensors.numpy import save

from analysis.predictions import load_sweep
from analysis.release.files import read_f1, read_table
from analysis.scores.probe import read_probe
from cachegen.common.errors import CrosstaxError
from cachegen.data.images import read_image, unreadable_reason
from cachegen.data.taxonomy import read_taxonomy
from cachegen.features.store import FeatureStore
from engine.design.condition import Condition, parse_settings
from engine.runs.config import condition_of, inputs_of, read_config
from engine.runs.directory import HASHED
from engine.sweeps.plan_file import read_plan
from engine.sweeps.sweep_file import read_sweep


def fuzzed(**strategies):
    """Run the test on drawn arguments, as a quick test and as a slow one."""

    def decorate(test):
        body = given(**strategies)(test)
        quick = settings(max_examples=25, suppress_health_check=list(HealthCheck))(body)
        return pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])(
            _either(
                quick, settings(max_examples=400, suppress_health_check=list(HealthCheck))(given(**strategies)(test))
            )
        )

    return decorate


def _either(quick, long):
    def run(many, tmp_path, sound_study):
        (long if many else quick)(folder=tmp_path, study=sound_study)

    return run


def survives(load, *arguments):
    """Load; only a `CrosstaxError` may come out."""
    with contextlib.suppress(CrosstaxError):
        load(*arguments)


# Damage to bytes: some replaced, a piece cut out, or the end lost.
DAMAGE = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 2**20), st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("cut"), st.integers(0, 2**20), st.integers(1, 200)),
    st.tuples(st.just("end"), st.integers(0, 2**20), st.just(0)),
)


def damaged(content, damages):
    for kind, place, what in damages:
        place %= len(content) + 1
        if kind == "put":
            content = content[:place] + what + content[place + len(what) :]
        elif kind == "cut":
            content = content[:place] + content[place + what :]
        else:
            content = content[:place]
    return content


DAMAGES = st.lists(DAMAGE, min_size=1, max_size=4)
WORDS = st.text(max_size=12) | st.sampled_from(
    ["crow", "bird", "a crow", "singular", "plural", "../x", '"', "1", "nan"]
)
TABLE = st.lists(st.lists(WORDS, min_size=5, max_size=7), max_size=8)
FLOATS = st.floats(allow_subnormal=False)  # the tests flush denormal numbers
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(sorted(Condition.model_fields))


@fuzzed(rows=TABLE, damages=DAMAGES)
def test_taxonomies(folder, study, rows, damages):
    problems = []
    header = "leaf,leaf_phrase,number,hypernym,hypernym_phrase,hypernym_number,depth"
    (folder / "t.csv").write_text(
        "\n".join([header, *(",".join(row) for row in rows)]), encoding="utf-8", errors="replace"
    )
    read_taxonomy(folder / "t.csv", problems)
    (folder / "t.csv").write_bytes(damaged((study / "dataset" / "taxonomy.csv").read_bytes(), damages))
    survives(read_taxonomy, folder / "t.csv", problems)


@fuzzed(fields=st.dictionaries(FIELDS | st.text(max_size=5), VALUES, max_size=4), damages=DAMAGES)
def test_sweep_files(folder, study, fields, damages):
    survives(Condition.of, fields, "here")
    (folder / "s.toml").write_bytes(damaged((study / "sweep.toml").read_bytes(), damages))
    survives(read_sweep, folder / "s.toml")


@fuzzed(words=st.lists(st.text(max_size=10) | st.tuples(FIELDS, st.text(max_size=9)).map("=".join), max_size=3))
def test_settings_on_the_command_line(folder, study, words):
    survives(lambda: Condition.of(parse_settings(words), "here"))


ATTRIBUTES = st.sampled_from(["schema", "dtype", "batch", "encoder", "layer", "image_size", "weights_digest", "new"])
SIMPLE = st.integers(-(2**40), 2**40) | FLOATS | st.text(st.characters(codec="ascii", min_codepoint=1), max_size=9)


@fuzzed(
    attributes=st.dictionaries(ATTRIBUTES, SIMPLE | st.lists(st.integers(0, 9), max_size=3), max_size=3),
    damages=DAMAGES,
)
def test_stores(folder, study, attributes, damages):
    path = folder / "f.h5"
    path.write_bytes((study / "features.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)
    survives(FeatureStore.open, path)
    path.write_bytes(damaged((study / "features.h5").read_bytes(), damages))
    survives(lambda: FeatureStore.open(path).verify())


@fuzzed(damages=DAMAGES, values=VALUES)
def test_plans_and_configurations(folder, study, damages, values):
    whole = study / "runs" / run_name(study) / "config.json"
    for content in (damaged(whole.read_bytes(), damages), json.dumps(values, default=str).encode()):
        (folder / "config.json").write_bytes(content)
        survives(lambda: [read(read_config(folder), folder) for read in (condition_of, inputs_of)])
    for content in (
        damaged((study / "runs" / "plan.json").read_bytes(), damages),
        json.dumps(values, default=str).encode(),
    ):
        (folder / "plan.json").write_bytes(content)
        survives(read_plan, folder)


@fuzzed(
    damages=DAMAGES,
    file=st.sampled_from(["predictions.parquet", "questions.parquet", "config.json", "DONE", "metrics.jsonl"]),
)
def test_run_directories(folder, study, damages, file):
    run = folder / "runs" / run_name(study)
    run.mkdir(parents=True, exist_ok=True)
    for name in (*HASHED, "DONE"):
        (run / name).write_bytes((study / "runs" / run.name / name).read_bytes())
    (run / file).write_bytes(damaged((run / file).read_bytes(), damages))
    if file != "DONE":
        seal(run)

    def load():
        sweep = load_sweep(folder / "runs")
        sweep.answers(run.name)
        sweep.losses(run.name)

    survives(load)


COLUMN = st.sampled_from(["logit_yes", "question", "answer", "repeats", "mass", "leaf"])


@fuzzed(column=COLUMN, cell=st.integers() | FLOATS | st.text(max_size=5) | st.booleans() | st.none(), damages=DAMAGES)
def test_columns_of_predictions_and_probes(folder, study, column, cell, damages):
    path = folder / "probe.parquet"
    (folder / "probe.json").write_bytes((study / "probe.json").read_bytes())
    try:
        pd.read_parquet(study / "probe.parquet").assign(**{column: cell}).to_parquet(path)
    except (OverflowError, ValueError):  # no such table can be written
        return
    survives(read_probe, path)
    path.write_bytes(damaged((study / "probe.parquet").read_bytes(), damages))
    survives(read_probe, path)
    (folder / "probe.json").write_bytes(damaged((study / "probe.json").read_bytes(), damages))
    survives(read_probe, path)


@fuzzed(
    damages=DAMAGES, tensors=st.dictionaries(st.text(max_size=5), st.lists(st.integers(0, 3), max_size=3), max_size=3)
)
def test_checkpoints(folder, study, damages, tensors):
    import torch

    from engine.runs.directory import RunDirectory
    from engine.training.checkpoint import Checkpoint, read_checkpoint

    (folder / "metrics.jsonl").write_text("")
    whole = (study / "started" / f"{run_name(study)}.checkpoint.safetensors").read_bytes()
    shaped = save(
        {name: np.zeros(shape, "f4") for name, shape in tensors.items() if name}, {"step": "1", "log_sizes": "[0]"}
    )
    for content in (damaged(whole, damages), shaped):
        (folder / "c.safetensors").write_bytes(content)
        projector = torch.nn.Linear(3, 3)
        survives(
            read_checkpoint,
            Checkpoint(folder / "c.safetensors", (run_name(study),), 4096),
            [projector],
            torch.optim.AdamW(projector.parameters()),
            [RunDirectory(folder)],
        )


def encoded(kind):
    image = io.BytesIO()
    Image.fromarray(np.arange(16 * 12 * 3, dtype=np.uint8).reshape(12, 16, 3)).save(image, kind)
    return image.getvalue()


@fuzzed(damages=DAMAGES, kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))
def test_pictures(folder, study, damages, kind):
    """Whatever Pillow raises becomes one printable line; only a picture comes back, of moderate size."""
    path = Path(folder) / "picture.png"
    path.write_bytes(damaged(encoded(kind), damages))
    try:
        assert read_image(path).mode == "RGB"
    except Exception as error:
        reason = unreadable_reason(path, error)
        assert reason
        assert "\n" not in reason


@fuzzed(damages=DAMAGES, rows=TABLE)
def test_release_tables(folder, study, damages, rows):
    path = folder / "f1.csv"
    path.write_text("\n".join(",".join(row) for row in rows), encoding="utf-8", errors="replace")
    survives(read_f1, path)
    survives(read_table, path, ["model"], ["avg_cosine"])
    whole = study / "release" / "results" / "main-results" / "macro-f1s" / "llama_unseen_f1_scores.csv"
    path.write_bytes(damaged(whole.read_bytes(), damages))
    survives(read_f1, path)
