"""Datasets from packages of drawings, from CIFAR-100's archive, and taxonomies from WordNet: tiny ones of our own."""

import csv
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cachegen.common.errors import CrosstaxError, DatasetError, WriteError
from cachegen.common.files import new_folder
from cachegen.data.building import depths_of, with_article
from cachegen.data.cifar100 import build_cifar100
from cachegen.data.dataset import load_dataset, load_dataset_of_runs
from cachegen.data.wordnet import build_taxonomy, open_wordnet
from cachegen.pictograms import build


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


# Three sets of four drawings: shapes of our own, in the format of Iconify's packages.
SHAPES = {
    "crow": '<path d="M1 8 L15 {n} L15 14 Z"/>',
    "gull": '<circle cx="8" cy="8" r="{n}" fill="gray"/>',
    "pear": '<ellipse cx="8" cy="9" rx="{n}" ry="6" fill="green"/>',
    "plum": '<rect x="3" y="3" width="{n}" height="9" fill="purple"/>',
}
TABLES = {
    "leaves.csv": "leaf,phrase,number,hypernym,drawings,left_out\ncrow,a crow,singular,bird,crow raven,\n"
    "gull,a gull,singular,bird,gull,b/gull-1\npears,pears,plural,fruit,pear,\nplum,a plum,singular,fruit,plum,\n",
    "hypernyms.csv": "hypernym,phrase,number,above\nthing,a thing,singular,\nbird,a bird,singular,thing\n"
    "fruit,a fruit,singular,thing\n",
    "codes.csv": "drawing,code\ncrow,1f426\n",
}


def package(name: str, size: int) -> dict[str, bytes]:
    icons = {shape: {"body": body.format(n=size)} for shape, body in SHAPES.items()}
    aliases = {"raven": {"parent": "crow"}, "gull-1": {"parent": "pear"}, "plum-1": {"parent": "plum", "hFlip": True}}
    info = {"name": name.upper(), "author": {"name": f"drawer of {name}"}, "license": {"spdx": "CC-BY-4.0"}}
    files = {
        "package.json": {"name": f"@iconify-json/{name}", "version": "1.0.0"},
        "icons.json": {"width": 16, "height": 16, "icons": icons, "aliases": aliases},
        "info.json": info,
    }
    return {f"package/{file}": json.dumps(content).encode() for file, content in files.items()}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three packages, and the tables that say what they give."""
    folder = tmp_path / "packages"
    splits = {"a": "train", "b": "validation", "c": "test"}
    for size, name in enumerate(splits, 4):
        write_tar(folder / f"iconify-json-{name}-1.0.0.tgz", package(name, size))
    tables = tmp_path / "tables"
    tables.mkdir()
    for file, text in TABLES.items():
        (tables / file).write_text(text)
    # Of each set the four leaves' drawings: raven is the same as crow, gull-1 is marked as wrong in b.
    keys = {name: [build.Pictogram(f"{leaf}/{name}__{drawing}.png", leaf, name, b"") for leaf, drawing in
                   [("crow", "crow"), ("gull", "gull"), *([] if name == "b" else [("gull", "gull-1")]),
                    ("pears", "pear"), ("plum", "plum")]] for name in splits}  # fmt: skip
    lines = [
        f"{n},@iconify-json/{n},1.0.0,{n},{splits[n]},{len(keys[n])},{build.digest_of_keys(keys[n])}," for n in keys
    ]
    (tables / "sets.csv").write_text("\n".join(["set,package,version,design,split,pictures,keys,remark", *lines]))
    monkeypatch.setattr(build, "HERE", tables)
    monkeypatch.setattr(build, "FEWEST", 2)
    return folder


class TestPictograms:
    def test_the_dataset_is_split_by_set_and_credited(self, packages: Path, tmp_path: Path, crosstax) -> None:
        pytest.importorskip("resvg_py")
        assert "npm pack" in crosstax("data", "pictograms")[2]
        code, out, _ = crosstax("data", "pictograms", "--packages", packages, "--out", tmp_path / "out", "--json")
        assert (code, json.loads(out)["differences"]) == (0, [])
        dataset = load_dataset(tmp_path / "out")
        by_set = {(Path(key).name.split("__")[0], part) for key, part in dataset.images[["key", "split"]].to_numpy()}
        assert by_set == {("a", "train"), ("b", "validation"), ("c", "test")}
        assert len(dataset.images) == 5 + 4 + 5
        assert dict(dataset.hypernyms["depth"]) == {"bird": 1, "fruit": 1, "thing": 2}
        assert dict(dataset.leaves["number"])["pears"] == "plural"
        credits = (tmp_path / "out" / "CREDITS.md").read_text()
        assert all(f"drawer of {name} |" in credits for name in "abc")
        assert Image.open(tmp_path / "out" / "contact_sheet.png").size[0] > 100
        dark = np.asarray(Image.open(tmp_path / "out" / "images" / "crow" / "a__crow.png"))
        assert dark.shape == (224, 224, 3)
        assert dark.min() == 0
        assert (dark[0] == 255).all()
        load_dataset_of_runs(tmp_path / "out")

    def test_what_differs_from_the_record_is_refused_unless_partial(self, packages: Path, tmp_path: Path) -> None:
        pytest.importorskip("resvg_py")
        less = package("c", 6)
        icons = json.loads(less["package/icons.json"])
        del icons["icons"]["plum"]
        write_tar(packages / "iconify-json-c-1.0.0.tgz", less | {"package/icons.json": json.dumps(icons).encode()})
        with pytest.raises(DatasetError, match="c: 4 images"):
            build.build_pictograms(packages, tmp_path / "out")
        (packages / "iconify-json-b-1.0.0.tgz").unlink()
        with pytest.raises(DatasetError, match="no @iconify-json/b"):
            build.build_pictograms(packages, tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["packages", "tables"]
        dataset, summary = build.build_pictograms(packages, tmp_path / "out", partial=True)
        assert set(dataset.leaves.index) == {"crow", "gull", "pears"}  # plum has one design
        assert set(dataset.hypernyms.index) == {"bird", "thing"}  # and fruit one leaf
        assert len(summary["differences"]) == 2

    @pytest.mark.parametrize(
        "content",
        [
            b"no archive",
            b"",
            {"package/package.json": b"{}"},
            {"package/package.json": b"[1"},
            {"package/package.json": b'{"version": "1"}', "package/icons.json": b'{"icons": [1]}'},
        ],
    )
    def test_damaged_packages_are_refused(self, content: object, packages: Path, tmp_path: Path) -> None:
        pytest.importorskip("resvg_py")
        path = packages / "iconify-json-b-1.0.0.tgz"
        path.write_bytes(content) if isinstance(content, bytes) else write_tar(path, content)
        with pytest.raises(DatasetError, match="npm pack"):
            build.build_pictograms(packages, tmp_path / "out")

    def test_without_the_rasteriser_the_install_command_is_told(
        self, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "resvg_py", None)
        with pytest.raises(CrosstaxError, match=r"pip install 'crosstax\[pictograms\]'"):
            build.build_pictograms(packages, tmp_path / "out")


def test_the_tables_of_pictograms_agree() -> None:
    leaves, hypernyms, sets = (build.read_table(f"{name}.csv") for name in ("leaves", "hypernyms", "sets"))
    names = {row["hypernym"] for row in hypernyms}
    assert {row["hypernym"] for row in leaves} <= names
    assert {row["above"] for row in hypernyms} <= names | {""}
    assert len({row["leaf"] for row in leaves}) == len(leaves)
    parts: dict[str, set[str]] = {}
    for row in sets:
        parts.setdefault(row["design"], set()).add(row["split"])
    assert {part for split in parts.values() for part in split} == {"train", "validation", "test"}
    assert all(len(split) == 1 for split in parts.values())  # renderings of one drawing stay together
    named = {place.split("/")[0] for row in leaves for place in row["left_out"].split()}
    assert named <= {row["set"] for row in sets}


def write_cifar(path: Path, *, torn: bool = False) -> np.ndarray:
    """An archive of 4 classes under 2 superclasses, 12 training and 3 test images of each; their training pixels."""
    rng = np.random.default_rng(0)
    files = {"fine_label_names.txt": b"cattle\nrose\nray\ntulip\n", "coarse_label_names.txt": b"fish\nflowers\n"}
    pixels = {}
    for part, count in (("train", 12), ("test", 3)):
        fine = np.tile(np.arange(4, dtype=np.uint8), count)
        pixels[part] = rng.integers(0, 256, (len(fine), 3, 32, 32), dtype=np.uint8)
        rows = np.concatenate([(fine % 2)[:, None], fine[:, None], pixels[part].reshape(len(fine), -1)], axis=1)
        rows[-1, 0] ^= torn
        files[f"{part}.bin"] = rows.tobytes()
    write_tar(path, {f"cifar-100-binary/{name}": content for name, content in files.items()})
    return pixels["train"]


class TestCifar100:
    def test_pictures_and_splits_are_those_of_the_archive(self, tmp_path: Path, crosstax) -> None:
        train = write_cifar(tmp_path / "c.tar.gz")
        words = ("data", "cifar100", tmp_path / "c.tar.gz", "--out", tmp_path / "out", "--per-leaf", 14)
        assert crosstax(*words)[0] == 0
        dataset = load_dataset(tmp_path / "out")
        assert dict(dataset.images.groupby("split").size()) == {"test": 8, "train": 48}
        assert dict(dataset.leaves["phrase"])["cattle"] == "cattle"
        key = "rose/train_00005.png"  # the second rose: rows 1, 5, 9, ...
        np.testing.assert_array_equal(np.asarray(Image.open(dataset.image_path(key))), train[5].transpose(1, 2, 0))
        pairs = {(row.leaf, row.hypernym) for row in dataset.pairs.itertuples()}
        assert pairs == {("cattle", "fish"), ("ray", "fish"), ("rose", "flower"), ("tulip", "flower")}

    def test_part_of_the_training_images_validates(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_cifar(tmp_path / "c.tar.gz")
        monkeypatch.setattr("cachegen.data.cifar100.VALIDATION", 5)
        dataset, _ = build_cifar100(tmp_path / "c.tar.gz", tmp_path / "out", per_leaf=12)
        assert dict(dataset.images.groupby("split").size()) == {"test": 8, "train": 32, "validation": 8}

    def test_what_is_no_whole_archive_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "c.tar.gz"
        write_cifar(path)
        with pytest.raises(DatasetError, match="--per-leaf"):
            build_cifar100(path, tmp_path / "out")
        write_cifar(path, torn=True)
        with pytest.raises(DatasetError, match="superclasses"):
            build_cifar100(path, tmp_path / "out", per_leaf=12)
        write_tar(path, {"train.bin": b"123"})
        with pytest.raises(DatasetError, match="binary version"):
            build_cifar100(path, tmp_path / "out")
        path.write_bytes(b"\x1f\x8bcut off")
        with pytest.raises(DatasetError, match="cannot be read"):
            build_cifar100(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


# words; what is above; gloss. Two senses of crane, and of bat one that no picture shows.
NOUNS: list[tuple[str, list[str], str]] = [
    ("entity", [], "that which is"),
    ("object physical_object", ["entity"], "a tangible thing"),
    ("animal", ["object"], "a living being"),
    ("bird", ["animal"], "with feathers"),
    ("bat", ["entity"], "a turn trying to get a hit"),
    ("bat chiropteran", ["animal"], "a flying mammal"),
    ("machine", ["object"], "a device"),
    ("crane", ["machine"], "lifts heavy things"),
    ("crane", ["bird"], "a wading bird"),
    ("owl", ["bird"], "a bird of the night"),
    ("lathe", ["machine"], "turns wood"),
]


def write_wordnet(folder: Path, version: str = "3.0") -> dict[str, str]:
    """WordNet's two noun files, in its format; returns gloss -> id."""
    folder.mkdir(exist_ok=True)
    head = f"  1 WordNet {version} Copyright 2006  \n"

    def lines(places: dict[str, str]) -> list[str]:
        made = []
        for words, above, gloss in NOUNS:
            named = words.split()
            up = [next(g for w, _, g in NOUNS if w.split()[0] == name) for name in above]
            pointers = " ".join([f"{len(up):03}", *(f"@ {places[g]} n 0000" for g in up)])
            lemmas = " ".join(f"{word} 0" for word in named)
            made.append(f"{places[gloss]} 03 n {len(named):02x} {lemmas} {pointers} | {gloss}  \n")
        return made

    places, start = {gloss: "00000000" for _, _, gloss in NOUNS}, len(head)
    for (_, _, gloss), line in zip(NOUNS, lines(places), strict=True):
        places[gloss], start = f"{start:08}", start + len(line)
    (folder / "data.noun").write_text(head + "".join(lines(places)))
    senses: dict[str, list[str]] = {}
    for words, _, gloss in NOUNS:
        for word in words.split():
            senses.setdefault(word, []).append(places[gloss])
    index = [f"{word} n {len(at)} 1 @ {len(at)} 0 {' '.join(at)}  \n" for word, at in sorted(senses.items())]
    (folder / "index.noun").write_text(head + "".join(index))
    return {gloss: f"n{place}" for gloss, place in places.items()}


class TestWordNet:
    def test_the_user_decides_between_senses_and_gets_a_taxonomy(self, tmp_path: Path, crosstax) -> None:
        ids = write_wordnet(tmp_path / "wn")
        for leaf in ("crane", "owls", "bat2", "lathe", ids["turns wood"]):
            (tmp_path / "images" / leaf).mkdir(parents=True)
        out = tmp_path / "taxonomy.csv"
        with pytest.raises(DatasetError, match="2 names"):
            build_taxonomy(tmp_path / "images", out, tmp_path / "wn")
        assert not out.exists()
        senses = rows_of(tmp_path / "taxonomy.senses.csv")
        assert {(row["leaf"], row["id"]) for row in senses if row["choice"]} == {
            ("bat2", ids["a flying mammal"]), ("crane", ids["lifts heavy things"]),
        }  # fmt: skip
        text = (tmp_path / "taxonomy.senses.csv").read_text()
        text = text.replace("crane,x,", "crane,,").replace(
            f"crane,,{ids['a wading bird']}", f"crane,x,{ids['a wading bird']}"
        )
        (tmp_path / "taxonomy.senses.csv").write_text(text)
        words = ("data", "taxonomy", tmp_path / "images", "--from", tmp_path / "wn", "--out", out, "--json")
        summary = json.loads(crosstax(*words)[1])
        assert (summary["leaves"], summary["version"]) == (5, "WordNet 3.0")
        found = {
            (row["leaf"], row["leaf_phrase"], row["number"], row["hypernym"], row["depth"]) for row in rows_of(out)
        }
        assert found == {
            ("crane", "a crane", "singular", "bird", "1"), ("crane", "a crane", "singular", "animal", "2"),
            ("owls", "owls", "plural", "bird", "1"), ("owls", "owls", "plural", "animal", "2"),
            ("bat2", "a bat", "singular", "animal", "2"), ("lathe", "a lathe", "singular", "machine", "1"),
            (ids["turns wood"], "a lathe", "singular", "machine", "1"),
        }  # fmt: skip

    def test_ids_are_of_one_version_and_must_exist(self, tmp_path: Path) -> None:
        ids = write_wordnet(tmp_path / "wn", "3.1")
        (tmp_path / "names.txt").write_text(f"owl\n{ids['turns wood']}\n")
        with pytest.raises(DatasetError, match=r"WordNet 3\.1"):
            build_taxonomy(tmp_path / "names.txt", tmp_path / "t.csv", tmp_path / "wn")
        write_wordnet(tmp_path / "wn")
        (tmp_path / "names.txt").write_text("owl\nn00000001\n")
        with pytest.raises(DatasetError, match="n00000001"):
            build_taxonomy(tmp_path / "names.txt", tmp_path / "t.csv", tmp_path / "wn")

    @pytest.mark.parametrize("mark", ["two", "no id"])
    def test_marks_that_say_nothing_are_refused(self, mark: str, tmp_path: Path) -> None:
        ids = write_wordnet(tmp_path / "wn")
        (tmp_path / "names.txt").write_text("crane\nowl\nbird\n")
        second = ids["a wading bird"] if mark == "two" else "bird"
        rows = [f"crane,x,{ids['lifts heavy things']},,"] * (mark == "two") + [f"crane,x,{second},,"]
        (tmp_path / "t.senses.csv").write_text("\n".join(["leaf,choice,id,words,gloss", *rows]))
        with pytest.raises(DatasetError, match=r"t\.senses\.csv:"):
            build_taxonomy(tmp_path / "names.txt", tmp_path / "t.csv", tmp_path / "wn")

    def test_a_missing_wordnet_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="wordnet-base"):
            open_wordnet(tmp_path)


def test_articles_and_depths() -> None:
    for noun in ("owl", "umbrella", "hour", "usher", "onion", "urn", "x-ray"):
        assert with_article(noun) == f"an {noun}"
    for noun in ("crow", "uniform", "unicycle", "ukulele", "European", "one-way street", "utensil", "user"):
        assert with_article(noun) == f"a {noun}"
    assert depths_of({"x": {"a", "b", "c"}, "y": {"a", "b"}, "z": {"c", "d"}}) == {"y": 1, "z": 1, "x": 2}


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "half").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:  # an empty folder will do
        (folder / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]
    with pytest.raises(DatasetError, match="is there already"), new_folder(tmp_path / "out"):
        pass


def test_two_that_build_a_folder_do_not_meet(tmp_path: Path) -> None:
    def meet() -> None:
        with new_folder(tmp_path / "out") as slow:
            (slow / "slow").touch()
            with new_folder(tmp_path / "out") as quick:
                (quick / "quick").touch()
            assert (slow / "slow").exists()

    with pytest.raises(WriteError):
        meet()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "quick"]
