"""`crosstax demo --real` on stand-ins: smaller datasets, downloads that are told before they start, plans that fit."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from picture_study import save_encoder, write_pictures
from tiny import tiny_lm, tiny_tokenizer

from cachegen.common.errors import ConditionError, DatasetError, ModelError
from cachegen.common.hub import VARIABLE
from cachegen.common.hub_files import fetch, hub_files
from cachegen.data.dataset import load_dataset
from cachegen.data.subset import build_subset, smaller
from engine import real_demo
from engine.real_demo import Models, Pace, Plan, choose, plans

NESTED = {"crow": "bird animal", "owl": "bird animal", "gull": "bird animal", "cat": "animal", "saw": "tool thing",
          "axe": "tool thing", "cup": "thing"}  # fmt: skip


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leaves with 3 to 9 pictures in three parts, under hypernyms inside of one another."""
    root = tmp_path_factory.mktemp("nested")
    rows, split = ["leaf,leaf_phrase,number,hypernym,hypernym_phrase,depth"], ["key,split"]
    for number, (leaf, above) in enumerate(NESTED.items()):
        rows += [f"{leaf},a {leaf},singular,{name},a {name}," for name in above.split()]
        (root / "images" / leaf).mkdir(parents=True)
        for picture in range(3 + number):
            (root / "images" / leaf / f"{picture}.png").write_bytes(bytes([number, picture]))
            split.append(f"{leaf}/{picture}.png,{('train', 'train', 'test')[picture % 3]}")
    (root / "taxonomy.csv").write_text("\n".join(rows) + "\n")
    (root / "split.csv").write_text("\n".join(split) + "\n")
    (root / "CREDITS.md").write_text("by us")
    return root


@pytest.mark.parametrize(
    ("asked", "leaves", "hypernyms"),
    [
        ({}, set(NESTED), {"bird", "animal", "tool", "thing"}),
        ({"leaves": 2}, {"gull", "owl", "cat", "saw", "axe", "cup"}, {"bird", "animal", "tool", "thing"}),
        ({"leaves": 1}, {"gull", "cat", "axe", "cup"}, {"animal", "thing"}),
        ({"hypernyms": ["bird"]}, {"crow", "owl", "gull"}, {"bird", "animal"}),
        ({"hypernyms": ["tool", "animal"], "leaves": 2}, {"gull", "owl", "cat", "saw", "axe"}, None),
    ],
)
def test_a_smaller_dataset_has_the_leaves_asked_for(
    nested: Path, tmp_path: Path, asked: dict, leaves: set, hypernyms: set | None
) -> None:
    made = build_subset(nested, tmp_path / "small", **asked)
    assert set(made.leaves.index) == leaves
    if hypernyms is not None:
        assert set(made.hypernyms.index) == hypernyms
    whole = load_dataset(nested)
    kept = whole.images[whole.images["leaf"].isin(leaves)].reset_index(drop=True)
    pd.testing.assert_frame_equal(made.images, kept)
    assert all(made.image_path(key).read_bytes() == whole.image_path(key).read_bytes() for key in made.images["key"])
    assert (tmp_path / "small" / "CREDITS.md").read_text() == "by us"
    # What `smaller` says without writing is what is then read.
    said = smaller(whole, **asked)
    pd.testing.assert_frame_equal(said.leaves, made.leaves)
    pd.testing.assert_frame_equal(said.hypernyms, made.hypernyms)
    pd.testing.assert_frame_equal(said.pairs, made.pairs)


@pytest.mark.parametrize("images", [1, 3, 5, 100])
def test_fewer_images_come_from_all_parts_alike(nested: Path, images: int) -> None:
    whole, part = load_dataset(nested), smaller(load_dataset(nested), images=images)
    assert (part.leaves["n_images"] == np.minimum(whole.leaves["n_images"], images)).all()
    before, after = (each.images.groupby(["leaf", "split"]).size() for each in (whole, part))
    share = after.reindex(before.index, fill_value=0) - before * (part.leaves["n_images"] / whole.leaves["n_images"])
    assert (share.abs() <= 1).all()


def test_the_command_gives_the_same(nested: Path, tmp_path: Path, crosstax) -> None:
    made = build_subset(nested, tmp_path / "small", ["bird"], leaves=2)
    words = ("--hypernym", "bird", "--leaves", 2, "--out", tmp_path / "again", "--json")
    told = json.loads(crosstax("data", "subset", nested, *words)[1])
    assert (told["leaves"], told["digest"]) == (list(made.leaves.index), made.digest)


@pytest.mark.parametrize("asked", [{"hypernyms": ["birds"]}, {"hypernyms": ["bird"], "leaves": 1}])
def test_a_smaller_dataset_of_nothing_is_refused(nested: Path, tmp_path: Path, asked: dict) -> None:
    with pytest.raises(DatasetError):
        build_subset(nested, tmp_path / "small", **asked)
    assert not (tmp_path / "small").exists()


CONTENT = {"config.json": b"{}", "model.safetensors": b"weights", "model.bin": b"pickle"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub of one repository, a/b; `got` are its downloads, `files` what it sends."""
    known = SimpleNamespace(got=[], files=dict(CONTENT), revision="1" * 40)

    def info(_self: object, repository: str, files_metadata: bool = False) -> SimpleNamespace:
        assert (repository, files_metadata) == ("a/b", True)
        siblings = []
        for name, content in CONTENT.items():
            lfs = None if name.endswith("json") else SimpleNamespace(sha256=hashlib.sha256(content).hexdigest())
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            siblings.append(SimpleNamespace(rfilename=name, size=len(content), lfs=lfs, blob_id=blob))
        return SimpleNamespace(sha="1" * 40, siblings=siblings)

    def place(name: str, revision: str) -> Path:
        return tmp_path / "hub" / revision / name

    def download(_: str, name: str, revision: str | None = None) -> str:
        path = place(name, revision or known.revision)
        if not path.exists():
            known.got.append(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(known.files[name])
        return str(path)

    def cached(_: str, name: str, revision: str) -> str | None:
        return str(place(name, revision)) if place(name, revision).exists() else None

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setenv(VARIABLE, "0")
    return known


def test_downloads_are_told_with_size_and_hash_and_compared(hub: SimpleNamespace) -> None:
    files = hub_files("a/b", ["*.json", "*.safetensors"])
    assert [(file.name, file.bytes, file.path) for file in files] == [
        ("config.json", 2, None),
        ("model.safetensors", 7, None),
    ]
    assert hashlib.sha256(b"weights").hexdigest() in files[1].told
    assert not hub.got
    fetch(files)
    assert hub.got == ["config.json", "model.safetensors"]
    assert all(file.path for file in files)
    fetch(files)  # nothing again
    assert len(hub.got) == 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_another_file_than_announced_is_refused_and_removed(hub: SimpleNamespace, name: str) -> None:
    hub.files[name] = b"other"
    files = hub_files("a/b", [name])
    with pytest.raises(ModelError):
        fetch(files)
    assert files[0].path is None


def test_a_repository_that_changes_meanwhile_is_refused(hub: SimpleNamespace) -> None:
    files = hub_files("a/b", ["*.json"])
    hub.revision = "2" * 40
    with pytest.raises(ModelError):
        fetch(files)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stand-ins")
    write_pictures(root / "birds")
    save_encoder("dinov2", "hf", root / "encoder")
    tiny_lm("qwen3", vocab_size=512).save_pretrained(root / "lm")
    tiny_tokenizer("qwen").save_pretrained(root / "lm")
    return root


WORDS = "demo --real --dataset birds --encoder ./encoder --out"


def test_nothing_is_downloaded_without_consent(
    crosstax: Callable, hub: SimpleNamespace, stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stand_ins)
    code, _, err = crosstax(*WORDS.split(), tmp_path / "out", "--lm", "a/b")  # nobody there to answer
    assert code == 2
    assert "--yes" in err
    for told in ("a/b/model.safetensors", "1" * 40, hashlib.sha256(b"weights").hexdigest()):
        assert told in err
    assert "model.bin" not in err
    assert not hub.got
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_demo_keeps_to_its_time_on_local_folders_and_resumes(
    crosstax: Callable, stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stand_ins)
    monkeypatch.setenv(VARIABLE, "0")  # what the command sets is put back behind the test
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    words = [*WORDS.split(), tmp_path / "out", "--lm", "./lm", "--threads", "1", "--json"]
    code, out, err = crosstax(*words)
    assert not code, err
    summary = json.loads(out.splitlines()[-1])
    assert (summary["plan"]["leaves"], summary["plan"]["epochs"], summary["plan"]["seeds"]) == (None, 4, 3)
    assert Path(summary["report"]).is_file()
    cells = {(cell["lm"], cell["shuffle"]) for cell in summary["conditions"]}
    assert cells == {("pretrained", name) for name in ("original", "across", "within")} | {("random", "original")}
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/DONE")}
    assert len(done) == 12
    code, out, err = crosstax(*words)
    assert not code, err
    assert json.loads(out.splitlines()[-1])["plan"] == summary["plan"]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    code, _, err = crosstax(*words, "--minutes", "20")
    assert code == 2, err


@pytest.mark.parametrize(
    ("encoder", "lm", "asked"),
    [
        ("facebook/dinov2-small", "o/lm", ["facebook/dinov2-small", "o/lm"]),
        ("vit_small_patch14_dinov2.lvd142m@224", "o/r/x.gguf", ["timm/vit_small_patch14_dinov2.lvd142m", "o/r"]),
        (".", "./lm", []),
        (".", "o/lm", ["o/lm"]),
    ],
)
def test_whatever_is_on_the_hub_is_told(
    encoder: str, lm: str, asked: list[str], monkeypatch: pytest.MonkeyPatch, stand_ins: Path
) -> None:
    monkeypatch.chdir(stand_ins / "encoder")
    monkeypatch.setattr(real_demo, "hub_files", lambda repository, *_: [repository])
    monkeypatch.setenv(VARIABLE, "0")
    assert Models(encoder, lm).downloads() == asked
    monkeypatch.setenv(VARIABLE, "1")
    assert Models(encoder, lm).downloads() == []


def test_more_time_gives_a_larger_study_and_too_little_is_refused(
    nested: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = [Plan(*key, seconds) for key, seconds in {
        (None, 4, 3): 90.0, (None, 4, 2): 60.0, (None, 4, 1): 30.0, (3, 4, 1): 9.0, (3, 2, 1): 5.0,
    }.items()]  # fmt: skip
    monkeypatch.setattr(real_demo, "plans", lambda *_: iter(expected))
    whole, models, pace = load_dataset(nested), Models("e", "l"), Pace(0.1, 1e9, 1.0, tmp_path)
    found = [choose(whole, models, pace, seconds) for seconds in (1000, 70, 40, 12, 6)]
    assert found == expected
    with pytest.raises(ConditionError):
        choose(whole, models, pace, 5)


def test_plans_cost_what_their_runs_cost(stand_ins: Path, picture_run: Path) -> None:
    """Expected seconds go with seeds and epochs, and a rate twice as high halves training."""
    whole = load_dataset(stand_ins / "birds")
    store = picture_run.parents[1] / "features.h5"
    models = Models(str(stand_ins / "encoder"), str(stand_ins / "lm"))
    slow, fast = (list(plans(whole, models, Pace(0.0, rate, 0.0, store))) for rate in (1e9, 2e9))
    assert [plan.seconds for plan in slow] == pytest.approx([2 * plan.seconds for plan in fast])
    by = {(plan.leaves, plan.epochs, plan.seeds): plan.seconds for plan in slow}
    assert by[None, 4, 3] == pytest.approx(3 * by[None, 4, 1])
    assert by[None, 4, 1] > by[None, 2, 1] > 0
    encoding = next(iter(plans(whole, models, Pace(1.0, 1e30, 0.0, store))))
    assert encoding.seconds == pytest.approx(len(whole.images))
