"""THINGS: names and phrases against the release, images from folders and encrypted zips, builds that resume."""

import csv
import functools
import hashlib
import http.server
import io
import json
import os
import re
import sys
import threading
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from encrypted_zip import encrypt, write_zip

import cachegen.things.archive as archive
from cachegen.common.errors import DatasetError
from cachegen.data.dataset import load_dataset
from cachegen.data.taxonomy import nested_phrases, read_taxonomy
from cachegen.things.archive import find_pictures, passwords_in
from cachegen.things.build import build_things, passwords_from
from cachegen.things.names import ARTICLES, HYPERNYMS, MASS, PLURAL_ONLY, RENAMED, leaf_form, leaf_number, leaf_phrase
from cachegen.things.pairs import LEFT_OUT, PAPER, SHA256, Counts, fetch_release, is_paper, read_pairs, taxonomy_text
from cachegen.things.zipcrypto import decrypt

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
PHRASE_FILE = REFERENCE / "release" / "data" / "llm-backbone-exp-data" / "minimal_pair_sentences.jsonl"
CATEGORY_FILE = REFERENCE / "category53_longFormat.tsv"
RESULTS = REFERENCE / "release" / "results"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="needs ../shared/reference")

CONCEPTS = {
    "bird": ["crow", "duck", "owl", "dodo"],
    "headwear": ["bandana", "beret", "tiara"],
    "tool": ["baton2", "hammer", "scissors"],
    "weapon": ["baton3", "scissors", "hammer", "axe"],
    "body part": ["ankle", "eye"],  # left out by the paper
}
LEAVES = ["axe", "bandanna", "baton2", "baton3", "beret", "crow", "dodo", "duck", "hammer", "owl", "scissors", "tiara"]
SMALL = Counts(leaves=12, phrases=11, pairs=14, hypernyms=4, images=12 * 12)
PASSWORD = b"open sesame"


def category_file(path: Path) -> Path:
    rows = [f"{hypernym}\t{concept}\t{concept}" for hypernym, concepts in CONCEPTS.items() for concept in concepts]
    path.write_text("\n".join(["category\tuniqueID\tWord", *rows, ""]))
    return path


def things(letters: str = "a-z", left_out: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Twelve files a concept in the layout of OSF's zip; their bytes are only counted and compared."""
    concepts = sorted({concept for concepts in CONCEPTS.values() for concept in concepts} | {"zebra"})
    rng = np.random.default_rng(0)
    names = [f"{concept}_{number:02}{'bs'[number > 1]}.jpg" for concept in concepts for number in range(1, 13)]
    contents = {name: rng.bytes(rng.integers(20, 200)) for name in names}
    return {
        f"object_images/{name.rpartition('_')[0]}/{name}": content
        for name, content in contents.items()
        if re.match(f"[{letters}]", name) and name not in left_out
    }


def unpacked(folder: Path, **choice) -> Path:
    for name, content in things(**choice).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def small(tmp_path):
    """Build the small THINGS from `images` into `out`."""
    taxonomy = category_file(tmp_path / "category53_long-format.tsv")

    def build(images, out="out", passwords=lambda: [PASSWORD], expected=SMALL, **more):
        return build_things(images, tmp_path / out, taxonomy=taxonomy, passwords=passwords, expected=expected, **more)

    return build


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(DatasetError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# The real taxonomy


@pytest.fixture(scope="module")
def real():
    if not REFERENCE.exists():
        pytest.skip("needs ../shared/reference")
    return read_pairs(PHRASE_FILE)


@needs_reference
def test_both_sources_give_the_papers_pairs(real, tmp_path):
    """The release's file, and the official one in its long and wide form, lead to the same bytes."""
    reference = pd.read_csv(REFERENCE / "things_pairs_2040.csv", keep_default_na=False)
    reference = reference.sort_values(["leaf_uniqueID", "hypernym_id"], ignore_index=True)
    assert (real["leaf"] == reference["leaf_uniqueID"]).all()
    assert (real["hypernym"] == reference["hypernym_id"]).all()
    assert (real["leaf_phrase"] == reference["leaf_np"]).all()
    assert (real["hypernym_phrase"] == reference["hyper_np"]).all()
    assert is_paper(real)
    found = [real["leaf"].nunique(), real["leaf_phrase"].nunique(), len(real), real["hypernym"].nunique()]
    assert found == [PAPER.leaves, PAPER.phrases, PAPER.pairs, PAPER.hypernyms]

    pd.testing.assert_frame_equal(read_pairs(CATEGORY_FILE), real)
    long = pd.read_csv(CATEGORY_FILE, sep="\t", keep_default_na=False)
    wide = pd.crosstab([long["uniqueID"], long["Word"]], long["category"]).reset_index()
    wide.to_csv(tmp_path / "wide.tsv", sep="\t", index=False)
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "wide.tsv"), real)

    changed = real.copy()
    changed.loc[7, "leaf_phrase"] = "an albatross"
    assert not is_paper(changed)


@needs_reference
def test_the_rule_names_every_concept_as_the_release_does(real):
    """All 1,222; the release's own phrases come from its sentences, so the two are independent."""
    reference = pd.read_csv(REFERENCE / "things_pairs_2040.csv", keep_default_na=False)
    reference = reference.drop_duplicates("leaf_uniqueID").set_index("leaf_uniqueID")
    forms = {leaf: leaf_form(leaf) for leaf in reference.index}
    assert len(forms) == 1222
    assert {leaf for leaf in forms if forms[leaf] != reference.at[leaf, "leaf_form"]} == set()
    assert {leaf for leaf in forms if leaf_phrase(forms[leaf]) != reference.at[leaf, "leaf_np"]} == set()
    plural = set((REFERENCE / "leaf_plural_only_28.txt").read_text().split("\n")) - {""}
    assert {form for form in forms.values() if leaf_number(form) == "plural"} == plural
    # No entry of the lexicon is idle.
    assert set(RENAMED) <= set(forms)
    assert set(ARTICLES) | PLURAL_ONLY | MASS <= set(forms.values())
    official = set(pd.read_csv(CATEGORY_FILE, sep="\t")["uniqueID"])
    assert len(LEFT_OUT) == 226
    assert official - set(forms) - {"bandana"} == LEFT_OUT


@needs_reference
def test_one_table_has_every_name_of_the_hypernyms():
    reference = pd.read_csv(REFERENCE / "things_pairs_2040.csv", keep_default_na=False).drop_duplicates("hypernym_id")
    for row in reference.itertuples():
        names = HYPERNYMS[row.hypernym_id]
        assert (names.question, names.phrase) == (row.hyper_form, row.hyper_np)
    assert len(reference) == len(HYPERNYMS) == 53
    with (RESULTS / "main-results" / "macro-f1s" / "all_unseen_f1_scores.csv").open() as file:
        assert sorted(next(csv.reader(file))[1:]) == sorted(names.f1_name for names in HYPERNYMS.values())
    coherence = pd.read_csv(RESULTS / "main-results" / "visual_coherence_results.csv")
    assert set(coherence["category"]) == {names.coherence_name for names in HYPERNYMS.values()}
    # Three seeds of each hypernym are behind a published depth mean.
    depths = pd.read_csv(RESULTS / "main-results" / "macro-f1s" / "qwen3-depthwise.csv")
    depths = depths[depths["experiment"] == "Held-Out Hypernyms"].drop_duplicates("depth").set_index("depth")["n"]
    assert dict(depths // 3) == Counter(names.depth for names in HYPERNYMS.values())


@needs_reference
def test_what_is_known_to_be_ambiguous_is_flagged(real, tmp_path):
    (tmp_path / "taxonomy.csv").write_text(taxonomy_text(real))
    problems: list[str] = []
    taxonomy = read_taxonomy(tmp_path / "taxonomy.csv", problems)
    assert problems == []
    patterns = {
        "homonym": r"leaf '(\w+)' \(.*\) has the name or phrase of hypernym",
        "contains": r"leaf '(\w+)' contains the name of its own hypernym",
        "shared": r"leaves (.*) share the phrase",
        "nested": r"(\d+) leaf phrases end in another leaf's",
    }
    found = {
        name: [match[1] for note in taxonomy.notes if (match := re.match(pattern, note))]
        for name, pattern in patterns.items()
    }
    assert found == {
        "homonym": [
            *("bird", "candy", "container", "dessert", "drink", "fruit"),
            *("jewelry", "plant", "tool", "toy", "vegetable"),
        ],
        "contains": ["board_game", "candy_bar", "candy_cane", "cotton_candy", "star_fruit"],
        "shared": [
            *("baton2, baton3, baton4", "bracelet1, bracelet2", "button1, button2"),
            *("file1, file2", "juicer1, juicer2"),
        ],
        "nested": ["91"],
    }
    assert sum(map(len, found.values())) == len(taxonomy.notes)
    nested = nested_phrases(taxonomy.leaves)
    assert ("a measuring cup", "a cup") in nested
    assert ("a cup", "a measuring cup") not in nested


@needs_reference
def test_the_pinned_file_is_the_reference_copy():
    assert hashlib.sha256(PHRASE_FILE.read_bytes()).hexdigest() == SHA256


# Reading pairs


def test_small_category_file(tmp_path):
    pairs = read_pairs(category_file(tmp_path / "long.tsv"))
    assert sorted(set(pairs["leaf"])) == LEAVES
    rows = pairs.set_index(["leaf", "hypernym"])
    assert list(rows.loc[("bandanna", "headwear")]) == ["a bandanna", "singular", "headwear", "singular", 1]
    assert list(rows.loc[("scissors", "tool")]) == ["scissors", "plural", "a tool", "singular", 2]
    assert list(rows.loc[("axe", "weapon")])[:1] == ["an axe"]
    assert not is_paper(pairs)


SENTENCE = {
    "hyponym": "crow", "hypernym_pos": "bird", "phrasing_id": 2, "sentence_pos": "a crow is a bird",
    "hyponym_form": "crow", "hypernym_form_pos": "bird",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is neither the release's"),
        ("leaf,phrase\ncrow,a crow\n", "is neither the release's"),
        ("category\tuniqueID\tWord\nbirdie\tcrow\tcrow\n", ":2: 'birdie' is none of the 53 categories"),
        ("category\tuniqueID\tWord\nbird\tcrow\n", ":2: 2 cells where the header has 3"),
        ("category\tuniqueID\nbird\tcrow\nbird\tcrow\n", "'crow', 'bird' occurs twice"),
        ("uniqueID\tWord\tbird\ncrow\tcrow\tyes\n", ":2: column 'bird' has 'yes', neither 0 nor 1"),
        (json.dumps(SENTENCE) + "\n{broken", ":2: is no line of minimal_pair_sentences.jsonl"),
        (json.dumps({**SENTENCE, "hypernym_pos": None}), ":1: None is none of the 53 categories"),
        (json.dumps({**SENTENCE, "sentence_pos": "crows are birds"}), ":1: the sentence does not name 'crow'"),
        (json.dumps({**SENTENCE, "sentence_pos": 5}), ":1: is no line of"),
    ],
)
def test_a_file_of_something_else_is_refused_with_its_place(tmp_path, text, words):
    (tmp_path / "file").write_text(text)
    message = refusal(read_pairs, tmp_path / "file")
    assert words in message
    assert message.startswith(str(tmp_path / "file"))
    assert "\n" not in message


def test_phrase_file_wins_over_the_rule(tmp_path):
    (tmp_path / "file").write_text(json.dumps({**SENTENCE, "sentence_pos": "some crow is one bird"}) + "\n\n")
    assert list(read_pairs(tmp_path / "file").iloc[0])[:2] == ["crow", "some crow"]


# The download


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local web server of `tmp_path`/www; yields (its address, the paths asked for)."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    (tmp_path / "www").mkdir()
    monkeypatch.setenv("CROSSTAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    httpd = http.server.HTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "www"))
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    httpd.server_close()


def test_download_is_checked_and_cached(tmp_path, server):
    address, asked = server
    content = b"phrases\n" * 1000
    (tmp_path / "www" / "file").write_bytes(content)
    cached = tmp_path / "cache" / "things" / "minimal_pair_sentences.jsonl"
    message = refusal(fetch_release, f"{address}/file", SHA256)
    assert "sent a file with SHA-256" in message
    assert "--taxonomy" in message
    assert not list((tmp_path / "cache").rglob("*.*"))  # neither the file nor a temporary one

    digest = hashlib.sha256(content).hexdigest()
    assert fetch_release(f"{address}/file", digest) == cached
    assert cached.read_bytes() == content
    asked.clear()
    fetch_release(f"{address}/file", digest)
    assert asked == []
    cached.write_bytes(content[:-1])
    fetch_release(f"{address}/file", digest)
    assert cached.read_bytes() == content


def test_no_network_says_what_to_fetch(tmp_path, server):
    address, _ = server
    old = tmp_path / "cache" / "things" / "minimal_pair_sentences.jsonl"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"an older file")
    for url in (f"{address}/missing", "http://127.0.0.1:9/file"):
        message = refusal(fetch_release, url, SHA256)
        assert url in message
        assert "--taxonomy" in message
        assert "\n" not in message
    assert old.read_bytes() == b"an older file"


# ZipCrypto


def test_shared_decryption_equals_pythons(tmp_path):
    rng = np.random.default_rng(1)
    files = {f"{number}.jpg": rng.bytes(length) for number, length in enumerate([5, 300, 0, 41, 300, 1, 299])}
    write_zip(tmp_path / "a.zip", files, PASSWORD)
    with zipfile.ZipFile(tmp_path / "a.zip") as reader:  # the referee: also says that the test's zips are sound
        assert {name: reader.read(name, PASSWORD) for name in files} == files
    entries = [encrypt(content, PASSWORD, 0) for content in files.values()]
    assert decrypt(entries, PASSWORD) == list(files.values())
    assert decrypt(entries[1:2], PASSWORD) == [files["1.jpg"]]
    assert decrypt(entries, b"open sesamE") != list(files.values())
    assert decrypt([b"short"], PASSWORD) == [b""]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open sesame\n", ["open sesame"]),
        ("Password for images_THINGS.zip: abc\n\nBy using it you accept the licence.\n", ["abc"]),
        ("Password: abc", ["abc", "Password: abc"]),
        ("the licence\nin two lines", []),
        ("", []),
    ],
)
def test_passwords_in_a_file(text, found):
    assert [word.decode() for word in passwords_in(text)] == found


# Building


def test_folder_and_encrypted_zip_make_the_same_dataset(tmp_path, small):
    write_zip(tmp_path / "images_THINGS.zip", things(), PASSWORD)
    from_zip, summary = small(tmp_path / "images_THINGS.zip", "zipped")
    assert summary["unpacked"] == 144
    assert (summary["leaves"], summary["phrases"], summary["pairs"], summary["hypernyms"]) == (12, 11, 14, 4)
    assert summary["differences"] == []
    assert not summary["partial"]
    assert summary["notes"] == [
        f"{tmp_path}/category53_long-format.tsv has as many pairs and phrases as the paper, but not the same ones"
    ]
    assert sorted(path.name for path in (tmp_path / "zipped").iterdir()) == [".lock", "images", "taxonomy.csv"]
    from_folder, summary = small(unpacked(tmp_path / "source"), "linked")
    assert summary["linked"] == 144
    assert from_folder.digest == from_zip.digest
    assert list(from_zip.leaves.index) == LEAVES
    for name, content in things().items():
        key = name.removeprefix("object_images/").replace("bandana/", "bandanna/")
        if key.partition("/")[0] in LEAVES:
            assert from_zip.image_path(key).read_bytes() == content
    assert not (tmp_path / "zipped" / "images" / "ankle").exists()


def test_several_zips_and_layouts(tmp_path, small):
    parts = tmp_path / "parts"
    parts.mkdir()
    write_zip(parts / "object_images_A-C.zip", things("a-c"), PASSWORD)
    write_zip(parts / "object_images_D-K.zip", things("d-k"), None)
    extra = {"__MACOSX/object_images/owl/._owl_01b.jpg": b"x", "object_images_CC0/owl.jpg": b"x"}
    write_zip(parts / "object_images_L-Z.zip", things("l-z") | extra, b"another")
    write_zip(parts / "again.zip", things("o"), None)  # the same owls twice do no harm
    whole, summary = small(parts, "parts-out", passwords=lambda: [PASSWORD, b"another"])
    assert summary["unpacked"] == 144
    deep, _ = small(unpacked(tmp_path / "deep" / "THINGS" / "Main").parents[1], "deep-out")
    assert deep.digest == whole.digest
    direct, _ = small(unpacked(tmp_path / "direct") / "object_images", "direct-out")
    assert direct.digest == whole.digest

    write_zip(parts / "again.zip", {"object_images/owl/owl_01b.jpg": b"another owl"}, None)
    assert re.search(r"owl/owl_01b.jpg is found twice, in .*again.zip and .*L-Z.zip", refusal(small, parts, "twice"))
    write_zip(tmp_path / "nested.zip", {"parts/object_images_A-C.zip": b"PK"}, None)
    assert "a zip of zips: unpack it once" in refusal(small, tmp_path / "nested.zip", "nested")
    (tmp_path / "broken.zip").write_bytes(b"not a zip")
    assert "download it again" in refusal(small, tmp_path / "broken.zip", "broken")
    assert "does not exist" in refusal(small, tmp_path / "nothing", "nothing")


def test_links_where_possible_else_copies(tmp_path, small, monkeypatch):
    source = unpacked(tmp_path / "source")
    crow = source / "object_images" / "crow" / "crow_01b.jpg"
    annexed = crow.rename(tmp_path / "annexed")  # as git-annex and DataLad keep them
    crow.symlink_to(annexed)
    linked, _ = small(source, "linked")
    assert linked.image_path("owl/owl_01b.jpg").samefile(source / "object_images" / "owl" / "owl_01b.jpg")
    assert not linked.image_path("crow/crow_01b.jpg").is_symlink()

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copied, summary = small(source, "copied")
    assert summary["copied"] == 144
    assert copied.digest == linked.digest
    assert not copied.image_path("owl/owl_01b.jpg").samefile(source / "object_images" / "owl" / "owl_01b.jpg")
    _, summary = small(source, "copied")
    assert summary["present"] == 144
    crow.unlink()
    crow.symlink_to(tmp_path / "gone")
    assert "crow_01b.jpg cannot be read" in refusal(small, source, "dangling")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_stopped_build_goes_on(tmp_path, small, monkeypatch, zipped):
    source = tmp_path / "a.zip"
    if zipped:
        write_zip(source, things(), PASSWORD)
    else:
        source = unpacked(tmp_path / "source")
    whole, _ = small(source, "whole")
    monkeypatch.setattr(archive, "BATCH", 10)
    rename, left = archive._rename, 50

    def stop_after_50(temporary, target):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        rename(temporary, target)

    monkeypatch.setattr(archive, "_rename", stop_after_50)
    with pytest.raises(KeyboardInterrupt):
        small(source)
    assert not (tmp_path / "out" / "taxonomy.csv").exists()
    assert (tmp_path / "out" / ".unpacking" / "picture").exists()
    monkeypatch.setattr(archive, "_rename", rename)
    there = sorted((tmp_path / "out" / "images").glob("*/*"))
    assert len(there) == 50
    # What a power cut may leave: right length, wrong bytes (as another file: a link's bytes are the original's).
    length = there[7].stat().st_size
    there[7].unlink()
    there[7].write_bytes(bytes(length))
    there[8].unlink()
    resumed, summary = small(source)
    assert summary["present"] == 48
    assert resumed.digest == whole.digest
    for key in whole.images["key"]:
        assert resumed.image_path(key).read_bytes() == whole.image_path(key).read_bytes()
    assert not (tmp_path / "out" / ".unpacking").exists()


def test_what_is_missing_is_named(tmp_path, small):
    gone = tuple(
        f"{leaf}_{number:02}{'bs'[number > 1]}.jpg" for leaf in ("dodo", "axe", "owl") for number in range(1, 13)
    )
    source = unpacked(tmp_path / "source", left_out=(*gone, "crow_05s.jpg", "beret_12s.jpg"))
    (source / "object_images" / "duck" / "copy of duck.jpg").write_bytes(b"x")
    message = refusal(small, source)
    assert message.splitlines()[1:] == [
        "  3 of 12 folders are missing or without images: axe, dodo, owl",
        "  2 folders have fewer than 12 images, the least in THINGS: beret (11), crow (11)",
        "  106 images, 38 fewer than the paper's 144",
        "  numbers skipped in the names of the images of 1 folders: crow (05)",
    ]
    assert "--partial" in message
    assert not (tmp_path / "out").exists()

    partial, summary = small(source, partial=True)
    assert summary["partial"]
    assert len(summary["differences"]) == 4
    assert summary["notes"] == ["1 files are not named as in THINGS and were left out: duck/copy of duck.jpg"]
    assert set(partial.leaves.index) == set(LEAVES) - {"axe", "dodo", "owl"}
    assert set(partial.hypernyms.index) == {"bird", "headwear", "tool", "weapon"}
    assert len(partial.images) == 106
    unpacked(source)
    assert "of an earlier partial one" in refusal(small, source)
    (tmp_path / "out" / "taxonomy.csv").unlink()
    assert len(small(source)[0].images) == 144


def test_a_partial_build_drops_hypernyms_with_one_leaf(tmp_path, small):
    source = unpacked(tmp_path / "source", letters="a-d")  # of the tools and headwear only baton2, bandana and beret
    assert "hammer, owl, scissors, tiara" in refusal(small, source)
    dataset, _ = small(source, partial=True)
    assert dict(dataset.pairs.groupby("hypernym").size()) == {"bird": 3, "headwear": 2, "weapon": 2}
    assert "baton2" not in dataset.leaves.index
    assert "no hypernym has two leaves" in refusal(
        small, unpacked(tmp_path / "few", letters="h-n"), "few", partial=True
    )


def test_too_many_images_and_wrong_counts(tmp_path, small):
    source = unpacked(tmp_path / "source")
    (source / "object_images" / "owl" / "owl_13s.jpg").write_bytes(b"x")
    assert "145 images, 1 more than the paper's 144" in refusal(small, source)
    message = refusal(small, source, expected=PAPER)
    assert "the taxonomy has 12 leaves, the paper's 1,222" in message
    assert "145 images, 17,191 fewer than the paper's 17,336" in message


def test_out_that_holds_something_else(tmp_path, small):
    source = unpacked(tmp_path / "source")
    (tmp_path / "out" / "images" / "owl").mkdir(parents=True)
    (tmp_path / "out" / "images" / "owl" / "mine.jpg").write_bytes(b"x")
    assert "holds 1 files that are not of this dataset: owl/mine.jpg" in refusal(small, source)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "taxonomy.csv").write_text("leaf\n")
    assert "is that of another dataset" in refusal(small, source, "other")
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(small, source, "file")
    assert (tmp_path / "other" / "taxonomy.csv").read_text() == "leaf\n"


def test_no_room_is_said_before_anything_is_written(tmp_path, small, monkeypatch):
    import cachegen.things.build as build

    write_zip(tmp_path / "a.zip", things(), PASSWORD)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda _: build.shutil._ntuple_diskusage(100, 100, 100))
    assert re.search(r"needs .* GB, 0.0 GB are free", refusal(small, tmp_path / "a.zip"))
    assert not (tmp_path / "out").exists()
    assert small(unpacked(tmp_path / "source"))[1]["linked"] == 144  # links need none


# Zips that are not what OSF serves


def test_wrong_or_no_password(tmp_path, small, monkeypatch):
    write_zip(tmp_path / "a.zip", things(), PASSWORD)
    message = refusal(small, tmp_path / "a.zip", passwords=lambda: [b"guess", b"second guess"])
    assert message == f"{tmp_path}/a.zip: wrong password; the right one is in password_images.txt at osf.io/jum2f"
    assert not list((tmp_path / "out").rglob("*.jpg"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert "--password-file" in refusal(passwords_from, None)
    monkeypatch.setenv("CROSSTAX_THINGS_PASSWORD", "from outside")
    assert passwords_from(None) == [b"from outside"]
    assert "cannot be read" in refusal(passwords_from, tmp_path / "nothing.txt")
    (tmp_path / "empty.txt").write_text("\n")
    assert "holds no password" in refusal(passwords_from, tmp_path / "empty.txt")


def test_suspicious_zips_are_refused(tmp_path, small):
    owl = "object_images/owl/owl_01b.jpg"
    for number, name in enumerate(("../../owl/owl_01b.jpg", "/tmp/owl/owl_01b.jpg", "c:\\owl\\owl_01b.jpg")):
        write_zip(tmp_path / f"{number}.zip", {name: b"x"}, None)
        assert "would leave the folder" in refusal(small, tmp_path / f"{number}.zip")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as writer:
        entry = zipfile.ZipInfo(owl)
        entry.external_attr = 0o120777 << 16
        writer.writestr(entry, "/etc/passwd")
    assert "is a symbolic link" in refusal(small, tmp_path / "link.zip")
    write_zip(tmp_path / "large.zip", {owl: b"x"}, None, owl_01b=2**31)
    assert "declares 2,147,483,648 bytes" in refusal(small, tmp_path / "large.zip")
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as writer:
        writer.writestr(owl, b"x")
    assert "unpack the zip with 7-Zip" in refusal(small, tmp_path / "lzma.zip")
    assert not (tmp_path / "out").exists()


def test_damaged_entries_are_not_kept(tmp_path, small):
    """A flipped byte, a length that is a lie (a bomb that declares little), and a file that ends too soon."""
    files = things()
    write_zip(tmp_path / "a.zip", files, None)
    content = (tmp_path / "a.zip").read_bytes()
    place = content.index(b"owl_05s.jpg") + 30
    (tmp_path / "flipped.zip").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert "owl/owl_05s.jpg is damaged" in refusal(small, tmp_path / "flipped.zip", "flipped")
    assert not (tmp_path / "flipped" / "images" / "owl" / "owl_05s.jpg").exists()
    bomb = bytes(50_000_000)
    write_zip(tmp_path / "bomb.zip", files | {"object_images/owl/owl_05s.jpg": bomb}, None, owl_05s=100)
    tracemalloc.start()
    assert "is damaged" in refusal(small, tmp_path / "bomb.zip", "bomb")
    assert tracemalloc.get_traced_memory()[1] < len(bomb) / 2  # never inflated beyond what it declares
    tracemalloc.stop()
    assert not (tmp_path / "bomb" / "images" / "owl" / "owl_05s.jpg").exists()
    (tmp_path / "header.zip").write_bytes(content.replace(b"PK\3\4", b"PK\0\0"))
    assert "cut off or damaged" in refusal(small, tmp_path / "header.zip", "header")


def test_find_pictures_ignores_other_concepts(tmp_path):
    pictures, notes = find_pictures(unpacked(tmp_path), {"owl", "bandanna"})
    assert [picture.key for picture in pictures][:1] == ["bandanna/bandana_01b.jpg"]
    assert len(pictures) == 24
    assert notes == []


# The command


def test_command(crosstax, tmp_path):
    write_zip(tmp_path / "a.zip", things(), PASSWORD)
    (tmp_path / "password_images.txt").write_bytes(b"Read this first.\nPassword of a.zip: opens\n")
    words = ["data", "things", "--images", tmp_path / "a.zip", "--taxonomy", category_file(tmp_path / "c.tsv")]
    words += ["--password-file", tmp_path / "password_images.txt", "--out", tmp_path / "out", "--json"]
    code, out, err = crosstax(*words)
    assert (code, out) == (2, "")
    assert "the taxonomy has 12 leaves, the paper's 1,222" in err
    code, out, err = crosstax(*words, "--partial")
    assert (code, err.count("\n")) == (2, 1)
    assert "wrong password" in err
    assert "opens" not in err
    (tmp_path / "password_images.txt").write_bytes(PASSWORD + b"\n")
    code, out, err = crosstax(*words, "--partial")
    assert code == 0
    assert PASSWORD.decode() not in out + err
    assert "images: 144 unpacked" in err
    assert "not the paper's data: the taxonomy has 12 leaves" in err
    summary = json.loads(out)
    assert (summary["images"], summary["partial"]) == (144, True)
    assert summary["digest"] == load_dataset(tmp_path / "out").digest


def test_command_without_images_explains_how_to_get_them(crosstax):
    code, out, err = crosstax("data", "things")
    assert (code, out) == (2, "")
    for words in ("osf.io/jum2f", "licence", "password_images.txt", "--taxonomy"):
        assert words in err
