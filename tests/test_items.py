"""A dataset of items: word vectors under names go from an array to a report, which speaks of items."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
from small_study import FAMILIES, SETTINGS, article
from test_cli import last_json

from analysis.items import DATA, Wording
from analysis.predictions import load_sweep
from analysis.study import measure
from cachegen.common.errors import DatasetError
from cachegen.data.dataset import load_dataset

PICTURES = re.compile(r"\b(?:image|picture)", re.I)
LEAVES = [leaf for leaves in FAMILIES.values() for leaf in leaves]
ITEMS, WIDTH = 8, 16


def write_items(root):
    """Recordings of each leaf, by name, in no order."""
    root.mkdir()
    rows = ["leaf,leaf_phrase,number,hypernym,hypernym_phrase"]
    rows += [
        f"{leaf},{article(leaf)},singular,{hypernym},{article(hypernym)}"
        for hypernym, leaves in FAMILIES.items()
        for leaf in leaves
    ]
    (root / "taxonomy.csv").write_text("\n".join(rows) + "\n")
    items = pd.DataFrame(
        [(f"{leaf}/picture {n}.wav", leaf) for leaf in LEAVES for n in range(ITEMS)], columns=["item", "leaf"]
    )
    items.sample(frac=1, random_state=0).to_csv(root / "items.csv", index=False)
    return root


@pytest.fixture(scope="module")
def study(small_study, tmp_path_factory):
    """(dataset, vectors, store): a table of word vectors, of which those of a leaf resemble one another."""
    root = tmp_path_factory.mktemp("items")
    dataset, rng = load_dataset(write_items(root / "recordings")), np.random.default_rng(0)
    centres = {leaf: rng.normal(size=WIDTH) for leaf in LEAVES}
    vectors = np.stack([centres[leaf] + rng.normal(size=WIDTH) / 4 for leaf in dataset.images["leaf"]])
    table = pd.DataFrame(vectors.astype(np.float32), columns=[f"d{n}" for n in range(WIDTH)])
    table.insert(0, "word", dataset.images["key"])
    table.sample(frac=1, random_state=1).to_parquet(root / "vectors.parquet")
    return dataset, root / "vectors.parquet", root / "vectors.h5"


def test_from_vectors_to_a_report_that_speaks_of_items(crosstax, study, small_study, tmp_path):
    dataset, vectors, store = study
    code, out, _ = crosstax("features", "import", vectors, "--dataset", dataset.root, "--out", store, "--json")
    assert code == 0
    assert last_json(out)["rows"] == ITEMS * len(LEAVES)
    code, _, said = crosstax("doctor", "--dataset", dataset.root, "--features", store)
    assert code == 0
    assert f"{ITEMS * len(LEAVES)} items of {len(LEAVES)} leaves" in said
    assert not PICTURES.search(re.sub("crow/picture|packed row.*|attention.*", "", said))

    settings = {
        **SETTINGS,
        "epochs": 1,
        "dataset": str(dataset.root),
        "features": str(store),
        "lm": str(small_study.lm),
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    sweep = tmp_path / "sweep.toml"
    grid = '[[grid]]\nshuffle = ["original", "across"]\nrun_seed = [1, 2]'
    sweep.write_text("\n".join(["[defaults]", *lines, grid]))
    runs = tmp_path / "runs"
    code, out, _ = crosstax("sweep", sweep, "--out", runs, "--threads", 1, "--device", "cpu", "--json")
    assert code == 0
    names = last_json(out)["runs"]
    assert last_json(out)["failed"] == []
    run = runs / "runs" / names[0] if (runs / "runs").is_dir() else runs / names[0]
    assert crosstax("evaluate", run, "--split", "test", "--device", "cpu")[0] == 0

    item = str(dataset.images["key"].iloc[3])
    code, out, _ = crosstax("ask", run, item, "is there a bird?", "--device", "cpu", "--json")
    assert code == 0
    (answered,) = last_json(out)["images"]
    assert answered["image"] == item
    code, _, said = crosstax("ask", run, "nothing.wav", "is there a bird?", "--device", "cpu")
    assert code == 2
    assert "nothing called nothing.wav" in said
    code, _, said = crosstax("export", run, tmp_path / "llava")
    assert code == 2
    assert "imported" in said

    assert crosstax("report", runs, "--out", tmp_path / "report")[0] == 0
    page = (tmp_path / "report" / "index.html").read_text()
    text = html.unescape(re.sub(DATA, " ", page, flags=re.DOTALL)).replace("{image}", "")
    assert not PICTURES.search(text), PICTURES.findall(text)
    assert "items" in text
    assert "/picture " in page  # names of items are left as they are
    meanings = pd.read_csv(tmp_path / "report" / "columns.csv")["meaning"]
    assert not meanings.str.contains(PICTURES).any()
    for drawing in (tmp_path / "report" / "figures").glob("*.svg"):
        assert not PICTURES.search(re.sub(r"<(path|image|use|defs|clipPath)\b.*?>|image/svg", "", drawing.read_text()))


def test_a_saved_answer_comes_back_by_name(crosstax, study, small_study, tmp_path):
    """`ask` gives the probability that the run saved for an item of the test split."""
    from engine.ask import open_asker
    from engine.design.condition import Sweep
    from engine.design.questions import question_text
    from engine.runs.planned import Execution
    from engine.sweeps.sweep import run_sweep

    dataset, vectors, store = study
    if not store.exists():
        assert crosstax("features", "import", vectors, "--dataset", dataset.root, "--out", store)[0] == 0
    inputs = {"dataset": str(dataset.root), "features": str(store), "lm": str(small_study.lm)}
    (folder,) = run_sweep(
        Sweep.expand([{**inputs, **SETTINGS, "epochs": 1}], "test"), tmp_path, Execution(device="cpu")
    )
    asker = open_asker(folder, "cpu")
    saved = asker.run.answers("test")
    item = saved["key"].iloc[0]
    rows = saved[saved["key"] == item]
    questions = [question_text(asker.run.condition, *row) for row in zip(rows["phrase"], rows["number"], strict=True)]
    by_text = asker.ask([item], questions).set_index("question").loc[questions, ["logit_yes", "logit_no"]].to_numpy()
    assert np.abs(by_text - rows[["logit_yes", "logit_no"]].to_numpy()).max() < 1e-5
    other = asker.ask([saved["key"].iloc[-1]], questions).set_index("question").loc[questions]  # control
    assert np.abs(other[["logit_yes", "logit_no"]].to_numpy() - by_text).max() > 1e-3
    wording = Wording(measure(load_sweep(tmp_path)))
    assert wording("Images of “{image}” and a picture’s place; visual coherence") == (
        "Items of “{image}” and an item’s place; coherence"
    )


def test_the_order_of_the_table_does_not_matter_but_its_leaves_do(study, tmp_path):
    dataset, _, _ = study
    again = load_dataset(write_items(tmp_path / "again"))
    assert again.digest == dataset.digest
    table = pd.read_csv(tmp_path / "again" / "items.csv")
    table["leaf"] = table["leaf"].map(dict(zip(LEAVES, LEAVES[1:] + LEAVES[:1], strict=True)))
    table.to_csv(tmp_path / "again" / "items.csv", index=False)
    moved = load_dataset(tmp_path / "again")
    assert moved.digest != dataset.digest
    assert moved.image_digest == dataset.image_digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.assign(leaf=table["leaf"].replace("crow", "Crow")), "'Crow' is no leaf .* write 'crow'"),
        (lambda table: pd.concat([table, table[:1]]), "occurs twice"),
        (lambda table: table[table["leaf"] != "owl"], "leaf 'owl' has no items"),
        (lambda table: table.rename(columns={"item": "thing"}), "missing column item"),
        (lambda table: table[:0], "no usable rows"),
        (lambda table: table.assign(item=table["item"].where(table.index > 0, "")), "is empty"),
    ],
)
def test_mistakes_in_the_table_are_listed(tmp_path, change, words):
    root = write_items(tmp_path / "items")
    change(pd.read_csv(root / "items.csv")).to_csv(root / "items.csv", index=False)
    with pytest.raises(DatasetError, match=words):
        load_dataset(root)


def test_a_split_of_items_is_read(tmp_path):
    root = write_items(tmp_path / "items")
    keys = load_dataset(root).images["key"]
    split = ["train", "test"] * (len(keys) // 2)
    pd.DataFrame({"key": keys, "split": split}).to_csv(root / "split.csv", index=False)
    assert load_dataset(root).images["split"].tolist() == split
    pd.DataFrame({"key": keys[1:], "split": split[1:]}).to_csv(root / "split.csv", index=False)
    with pytest.raises(DatasetError, match="1 items have no row"):
        load_dataset(root)
