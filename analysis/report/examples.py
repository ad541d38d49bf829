"""Example test images with the model's answers, under the original labels and, the same image, under across."""

import base64
import io
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.inputs import picture_file
from analysis.study import Study
from cachegen.common.rng import generator
from cachegen.data.images import read_image

PICTURE_PX = 160


@dataclass(frozen=True)
class Panel:
    """One run's questions about one image: its arm, the label the image carries there, and the answers."""

    arm: str
    label: str
    rows: list[dict[Hashable, Any]]


@dataclass(frozen=True)
class Example:
    """One test image; `picture` is a data URI, or "" where the file is not here."""

    key: str
    leaf: str
    picture: str
    panels: list[Panel]


def pick_examples(study: Study, count: int = 8) -> list[Example]:
    """One test image for each of up to `count` hypernyms, drawn by a fixed seed and never by the answers.

    Answers are those of the first pretrained original run and of the across run that shares its seeds and setup,
    where there is one. Empty without a pretrained original run that has held-out test questions.
    """
    chosen = _runs_to_show(study)
    if not chosen:
        return []
    answers = {arm: study.sweep.answers(run_id) for arm, run_id in chosen.items()}
    tests = {arm: table[table["split"] == "test"] for arm, table in answers.items()}
    first = next(iter(tests.values()))
    asked = first[(first["group"] == "heldout") & first["answer"]]
    rng = generator(0, "examples")
    hypernyms = rng.permutation(sorted(asked["category"].unique()))[:count]
    keys = [str(rng.choice(sorted(asked.loc[asked["category"] == name, "key"]))) for name in sorted(hypernyms)]
    run = study.sweep.opened[next(iter(chosen.values()))]
    files = {key: picture_file(study.sweep.inputs, run, key) for key in keys}
    return [_example(key, tests, "" if file is None else picture_uri(file)) for key, file in files.items()]


def picture_uri(path: Path, size: int = PICTURE_PX) -> str:
    """Data URI of an image file, shrunk to at most `size` pixels; small ones stay as they are."""
    image = read_image(path)
    lossless = max(image.size) <= size
    image.thumbnail((size, size))
    data = io.BytesIO()
    image.save(data, **({"format": "PNG"} if lossless else {"format": "JPEG", "quality": 85}))
    return data_uri(data.getvalue(), "image/png" if lossless else "image/jpeg")


def data_uri(data: bytes, kind: str) -> str:
    """`data` as a data URI of media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _runs_to_show(study: Study) -> dict[str, str]:
    """Labels in words -> run id: the first pretrained original run with held-out questions, then across like it."""
    scored = study.runs[study.test("heldout")["macro_f1"].notna() & study.runs["shown"]]
    pretrained = scored[scored["lm_init"] == "pretrained"]
    original = pretrained[pretrained["shuffle"] == "original"]
    if original.empty:
        return {}
    shown = original.iloc[0]
    same = (pretrained[["data_seed", "run_seed"]] == shown[["data_seed", "run_seed"]]).all(axis=1)
    same &= pretrained["cell"].map(lambda cell: cell.setup == shown["cell"].setup)
    chosen = pd.concat([original.iloc[:1], pretrained[same & (pretrained["shuffle"] == "across")]])
    return {study.names.labels(cell.labels): str(run_id) for run_id, cell in chosen["cell"].items()}


def _example(key: str, tests: dict[str, pd.DataFrame], picture: str) -> Example:
    panels, leaf = [], ""
    for arm, table in tests.items():
        rows = table[table["key"] == key].sort_values(["kind", "answer", "question"], ascending=[True, False, True])
        if rows.empty:
            continue
        leaf = str(rows["image_leaf"].iloc[0])
        shown = rows[["kind", "group", "phrase", "answer", "predicted", "p_yes"]].to_dict("records")
        panels.append(Panel(arm, str(rows["label_leaf"].iloc[0]), shown))
    return Example(key, leaf, picture, panels)
