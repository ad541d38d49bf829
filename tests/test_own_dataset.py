"""A user's own pictures and a CSV written by hand, mistakes and all, to a report, through the commands alone."""

import numpy as np
import pytest
from PIL import Image
from run_folders import last_json, sweep_file
from small_study import SETTINGS, word_tokenizer
from test_extract import save_encoder
from tiny import tiny_lm

KINDS = {"mushroom": ["fly agaric", "chanterelle", "morel"], "berry": ["blueberry", "cranberry", "rose hip"]}
COLOURS = {"fly agaric": (200, 30, 30), "chanterelle": (230, 170, 40), "morel": (120, 90, 60),
           "blueberry": (60, 70, 160), "cranberry": (170, 20, 50), "rose hip": (210, 80, 30)}  # fmt: skip

# As a spreadsheet leaves it: a byte order mark, Windows line ends, spaces, capitals, an empty line.
GOOD = (
    "\ufeffleaf,leaf_phrase,number,hypernym,hypernym_phrase\r\n"
    "fly agaric , a fly agaric,Singular,mushroom,a mushroom\r\n"
    "chanterelle,a chanterelle,singular,mushroom,a mushroom\r\n"
    "morel,a morel,singular,mushroom,a mushroom\r\n"
    "\r\n"
    "blueberry,blueberries,PLURAL,berry,a berry\r\n"
    "cranberry,cranberries,plural,berry,a berry\r\n"
    "rose hip,a rose hip,singular,berry,a berry\r\n"
)
MISTAKES = (
    GOOD.replace("chanterelle,a", "chantarelle,a")  # spelt unlike its folder
    .replace("cranberries,plural", "cranberries,many")
    .replace("morel,a morel,singular,mushroom,a mushroom", "morel,a morel,singular,mushroom,mushroom")
)


@pytest.fixture
def root(tmp_path):
    """Eight snapshots per leaf, of different sizes and formats, one of them damaged, and what else lies about."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "my mushrooms"
    for leaf in (leaf for leaves in KINDS.values() for leaf in leaves):
        place = folder / "images" / leaf
        place.mkdir(parents=True)
        for number in range(8):
            size = tuple(rng.integers(20, 60, 2))
            pixels = rng.normal(COLOURS[leaf], 25, (*size, 3)).clip(0, 255).astype(np.uint8)
            suffix = ("jpg", "PNG", "webp", "jpeg")[number % 4]
            Image.fromarray(pixels).save(place / f"IMG {number}.{suffix}")
    (folder / "images" / "morel" / "Thumbs.db").write_bytes(b"windows")
    damaged = folder / "images" / "rose hip" / "IMG 4.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return folder


def test_from_pictures_to_a_report_without_code(crosstax, root, tmp_path):
    encoder, lm = save_encoder(tmp_path / "encoder"), tmp_path / "lm"
    tiny_lm("qwen3").save_pretrained(lm)
    words = "fly agaric chanterelle morel blueberries cranberries rose hip mushroom berry is are there a yes no"
    word_tokenizer(words.split()).save_pretrained(lm)
    store = tmp_path / "mushrooms.h5"
    extract = ["extract", root, "--encoder", encoder, "--out", store, "--device", "cpu", "--json"]

    (root / "taxonomy.csv").write_bytes(MISTAKES.encode())
    code, _, message = crosstax(*extract)
    assert code == 2
    for told in ("images/chanterelle: is no leaf", "images/chantarelle: folder is missing", "number 'many'",
                 "'mushroom' has phrase 'mushroom', but 'a mushroom' at taxonomy.csv:2"):  # fmt: skip
        assert told in message
    assert not store.exists()

    (root / "taxonomy.csv").write_bytes(GOOD.encode())
    code, _, message = crosstax(*extract)
    assert code == 2
    assert "IMG 4.jpg: unreadable" in message
    assert "--on-unreadable mark" in message
    code, out, _ = crosstax(*extract, "--on-unreadable", "mark")
    assert code == 0
    assert list(last_json(out)["unreadable"]) == ["rose hip/IMG 4.jpg"]

    fields = {**SETTINGS, "epochs": 1, "dataset": str(root), "features": str(store), "lm": str(lm)}
    grid = '[[grid]]\nshuffle = ["original", "across"]\nrun_seed = [1, 2]'
    sweep = sweep_file(tmp_path / "sweep.toml", fields, grid)
    code, out, _ = crosstax("sweep", sweep, "--out", tmp_path / "runs", "--threads", 1, "--device", "cpu", "--json")
    assert code == 0
    assert len(last_json(out)["runs"]) == 4
    assert last_json(out)["failed"] == []

    code, out, _ = crosstax("report", tmp_path / "runs", "--out", tmp_path / "report", "--json")
    assert code == 0
    assert len(last_json(out)["conditions"]) == 4
    assert "rose hip" in (tmp_path / "report" / "index.html").read_text()
