"""Datasets: what is accepted, what is refused and how the refusal reads, what the digest covers."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cachegen.common.errors import DatasetError
from cachegen.data.dataset import load_dataset, load_dataset_of_runs
from cachegen.data.inspection import inspect_images
from cachegen.data.taxonomy import read_taxonomy

HEADER = "leaf,leaf_phrase,number,hypernym,hypernym_phrase"
ROWS = (
    "crow,a crow,singular,bird,a bird",
    "gull,a gull,singular,bird,a bird",
    "scissors,scissors,plural,tool,a tool",
    "saw,a saw,singular,tool,a tool",
)
LEAVES = ("crow", "gull", "saw", "scissors")


def build(root: Path, rows: tuple[str, ...] = ROWS, header: str = HEADER, leaves: tuple[str, ...] = LEAVES) -> Path:
    """A dataset of four images per leaf; files hold a few bytes, which loading never decodes."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "taxonomy.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    for leaf in leaves:
        (root / "images" / leaf).mkdir(parents=True)
        for number in range(4):
            (root / "images" / leaf / f"{leaf}_{number}.jpg").write_bytes(b"x" * (number + 1))
    return root


def with_depths(*depths: str) -> tuple[str, ...]:
    return tuple(f"{row},{depth}" for row, depth in zip(ROWS, depths, strict=True))


def refusal(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load_dataset(root)
    return str(caught.value)


def test_loads_sorted_tables(tmp_path: Path) -> None:
    dataset = load_dataset(build(tmp_path, with_depths("1", "1", "2", "2"), HEADER + ",depth"))
    assert list(dataset.leaves.index) == sorted(LEAVES)
    assert list(dataset.leaves.loc["scissors"]) == ["scissors", "plural", 4]
    assert list(dataset.hypernyms.loc["tool"]) == ["a tool", "singular", 2, 2]
    assert str(dataset.hypernyms["depth"].dtype) == "Int64"
    assert dataset.pairs.to_numpy().tolist() == [
        ["crow", "bird"],
        ["gull", "bird"],
        ["saw", "tool"],
        ["scissors", "tool"],
    ]
    assert dataset.images["key"].is_monotonic_increasing
    assert dataset.images["key"][0] == "crow/crow_0.jpg"
    assert len(dataset.images) == 16
    assert dataset.image_path("crow/crow_0.jpg").is_file()
    assert dataset.notes == ()
    assert "16 images of 4 leaves under 2 hypernyms" in dataset.summary()


def test_depth_is_optional(tmp_path: Path) -> None:
    assert load_dataset(build(tmp_path)).hypernyms["depth"].isna().all()


def test_tolerates_what_spreadsheets_write(tmp_path: Path) -> None:
    plain = load_dataset(build(tmp_path / "plain"))
    rows = [row.replace(",", " , ").replace("singular", "Singular") for row in ROWS]
    root = build(tmp_path / "spreadsheet")
    (root / "taxonomy.csv").write_bytes(("\ufeff" + "\r\n".join([HEADER, *rows, ",,,,", ""])).encode())
    assert load_dataset(root).digest == plain.digest


def test_uppercase_extensions_count_and_other_files_do_not(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "images" / "crow" / "late.JPEG").write_bytes(b"x")
    for stray in ("crow/readme.txt", "crow/._crow_0.jpg", "Thumbs.db"):
        (root / "images" / stray).write_bytes(b"x")
    dataset = load_dataset(root)
    assert "crow/late.JPEG" in set(dataset.images["key"])
    assert len(dataset.images) == 17
    (note,) = dataset.notes
    assert note.startswith("3 entries of images/ are not images")


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        ("crow,a crow,singular,bird,a bird", "taxonomy.csv:6", "already at taxonomy.csv:2"),
        ("crow,a raven,singular,tool,a tool", "taxonomy.csv:6", "phrase 'a raven', but 'a crow' at taxonomy.csv:2"),
        ("crow,a crow,plural,tool,a tool", "taxonomy.csv:6", "number 'plural', but 'singular'"),
        ("crow,a crow,singular,tool,the tool", "taxonomy.csv:6", "hypernym 'tool' has phrase 'the tool'"),
        ("crow,a crow,singular,,", "taxonomy.csv:6", "leaf 'crow' has no hypernym"),
        ("crow,a crow,singular,pet,a pet", "taxonomy.csv:6", "'pet' has fewer than two leaves"),
        ("../out,an out,singular,bird,a bird", "taxonomy.csv:6", "would leave"),
        ("/etc,an etc,singular,bird,a bird", "taxonomy.csv:6", "would leave"),
        ("a\\b,an ab,singular,bird,a bird", "taxonomy.csv:6", "would leave"),
        (".,a dot,singular,bird,a bird", "taxonomy.csv:6", "would leave"),
        (",a crow,singular,bird,a bird", "taxonomy.csv:6", "is empty"),
        ("Crow,a Crow,singular,bird,a bird", "taxonomy.csv:6", "collide"),
        ("owl,,singular,bird,a bird", "taxonomy.csv:6", "is empty or not printable"),
        ("owl,an owl,several,bird,a bird", "taxonomy.csv:6", "neither 'singular' nor 'plural'"),
        ("owl,an owl,singular,bird,a bird", "images/owl", "folder is missing"),
        ("owl,an owl,singular,bird,a bird,x", "taxonomy.csv:6", "6 cells where the header has 5"),
        ('owl,"an owl,singular,bird,a bird', "taxonomy.csv:6", "not readable CSV"),
    ],
)
def test_each_problem_is_named_with_its_place(tmp_path: Path, row: str, place: str, words: str) -> None:
    message = refusal(build(tmp_path, (*ROWS, row)))
    assert any(place in line and words in line for line in message.splitlines()), message


def test_depth_and_columns_are_checked(tmp_path: Path) -> None:
    message = refusal(build(tmp_path / "depth", with_depths("1", "2", "two", "two"), HEADER + ",depth"))
    assert "taxonomy.csv:3: hypernym 'bird' has depth '2', but '1'" in message
    assert "taxonomy.csv:4: hypernym 'tool': depth 'two' is not a whole number" in message
    message = refusal(build(tmp_path / "columns", ("crow,a crow",), "leaf,leaf_phrase"))
    assert "taxonomy.csv:1: missing column number, hypernym, hypernym_phrase" in message
    assert "images/" not in message  # without a taxonomy, folders cannot be judged


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    rows = (*ROWS, "crow,a crow,several,bird,a bird", "owl,an owl,singular,pet,a pet")
    root = build(tmp_path, rows, leaves=(*LEAVES, "dodo", "owl"))
    for image in (root / "images" / "owl").iterdir():
        image.unlink()
    (root / "split.csv").write_text("key,split\ncrow/crow_0.jpg,train\ncrow/none.jpg,test\ncrow/crow_1.jpg,dev\n")
    lines = refusal(root).splitlines()
    assert "problems" in lines[0]
    for place in (
        "taxonomy.csv:6",
        "taxonomy.csv:7",
        "images/dodo",
        "images/owl",
        "split.csv:3",
        "split.csv:4",
        "split.csv:",
    ):
        assert sum(line.strip().startswith(f"{place}:" if place[-1] != ":" else place) for line in lines) >= 1, place


def test_one_problem_is_one_line(tmp_path: Path) -> None:
    message = refusal(build(tmp_path, leaves=(*LEAVES, "dodo")))
    assert message.count("\n") == 0
    assert "images/dodo: is no leaf" in message


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "taxonomy.csv").write_bytes(
        "\n".join([HEADER, ROWS[0], "café,a café,singular,bird,a bird"]).encode("latin-1")
    )
    assert "taxonomy.csv:3: byte 0xe9 is not UTF-8" in refusal(root)


def test_missing_parts(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert "taxonomy.csv" in message
    assert "images: cannot be read" in message
    (tmp_path / "empty" / "images").mkdir(parents=True)
    assert "images: is empty" in refusal(tmp_path / "empty")


def test_file_names_are_checked(tmp_path: Path) -> None:
    root = build(tmp_path)
    (root / "images" / "crow" / "CROW_0.jpg").write_bytes(b"x")
    (root / "images" / "gull" / "two\nlines.jpg").write_bytes(b"x")
    (root / "images" / "saw" / "gone.jpg").symlink_to(tmp_path / "nothing")
    message = refusal(root)
    assert "images/crow: files 'CROW_0.jpg' and 'crow_0.jpg' collide" in message
    assert "images/gull: file name 'two\\nlines.jpg' has control characters" in message
    assert "images/saw: cannot be read" in message


def test_kept_and_noted(tmp_path: Path) -> None:
    rows = (
        *ROWS,
        "baton2,a baton,singular,tool,a tool",
        "baton3,a baton,singular,toy,a toy",
        "bird,a bird,singular,toy,a toy",
        "saw_tool,a saw tool,singular,tool,a tool",
        "tooling,a tooling,singular,tool,a tool",
    )
    root = build(tmp_path, rows, leaves=(*LEAVES, "baton2", "baton3", "bird", "saw_tool", "tooling"))
    (root / "images" / "gull" / "gull_0.jpg").unlink()
    for image in sorted((root / "images" / "bird").iterdir())[1:]:
        image.unlink()
    dataset = load_dataset(root)
    assert dataset.homonyms == {"bird"}
    assert dataset.notes == (
        "leaves baton2, baton3 share the phrase 'a baton'",
        "leaf 'bird' (a bird) has the name or phrase of hypernym 'bird'",
        "leaf 'saw_tool' contains the name of its own hypernym 'tool'",
        "leaf 'bird' has only 1 image, which is tested and not trained unless split.csv says otherwise",
        "leaf 'gull' has only 3 images",
    )


def test_split_fixes_every_image(tmp_path: Path) -> None:
    root = build(tmp_path)
    keys = load_dataset(root).images["key"]
    split = pd.DataFrame({"key": keys, "split": ["train", "validation", "test", "train"] * 4})
    split[::-1].to_csv(root / "split.csv", index=False)
    dataset = load_dataset(root)
    assert dataset.images["split"].tolist() == split["split"].tolist()
    assert "8 train, 4 validation, 4 test" in dataset.summary()
    split[1:].to_csv(root / "split.csv", index=False)
    assert "1 images have no row: crow/crow_0.jpg" in refusal(root)
    pd.concat([split, split[:1]]).to_csv(root / "split.csv", index=False)
    assert "split.csv:18: 'crow/crow_0.jpg' occurs twice" in refusal(root)


def test_digest_covers_content_and_not_row_order(tmp_path: Path) -> None:
    first = load_dataset(build(tmp_path / "a"))
    assert load_dataset(build(tmp_path / "b", ROWS[::-1])).digest == first.digest
    renamed = load_dataset(build(tmp_path / "c", tuple(row.replace("a crow", "the crow") for row in ROWS)))
    assert renamed.digest != first.digest
    assert renamed.image_digest == first.image_digest  # features do not depend on names
    (tmp_path / "b" / "images" / "crow" / "crow_0.jpg").write_bytes(b"longer")
    resized = load_dataset(tmp_path / "b")
    assert resized.digest != first.digest
    assert resized.image_digest != first.image_digest
    keys = first.images["key"]
    pd.DataFrame({"key": keys, "split": "train"}).to_csv(tmp_path / "a" / "split.csv", index=False)
    assert load_dataset(tmp_path / "a").digest != first.digest


def test_inspection_names_the_unreadable(tmp_path: Path) -> None:
    root = build(tmp_path)
    for path in (root / "images").rglob("*.jpg"):
        Image.new("RGB", (8, 8), "red").save(path)
    assert inspect_images(load_dataset(root)).unreadable == {}
    damaged = root / "images" / "gull" / "gull_2.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    (root / "images" / "saw" / "saw_1.jpg").write_bytes(b"not an image")
    problems = inspect_images(load_dataset(root)).unreadable
    assert list(problems) == ["gull/gull_2.jpg", "saw/saw_1.jpg"]
    assert "UnidentifiedImageError" in problems["saw/saw_1.jpg"]
    assert str(root) not in problems["saw/saw_1.jpg"]


def test_loading_imports_no_torch() -> None:
    code = "import sys, cachegen.data.dataset; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.text('crow,"\n\r;\t\0é', max_size=60)).map(
            lambda lines: "\n".join([HEADER, *ROWS, *lines]).encode()
        ),
    )
)
def test_no_taxonomy_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "taxonomy.csv"
    path.write_bytes(content)
    problems: list[str] = []
    taxonomy = read_taxonomy(path, problems)
    assert all(problem.startswith("taxonomy.csv:") for problem in problems)
    assert problems or (taxonomy.hypernyms["n_leaves"] >= 2).all()


NFC, NFD = "caf\u00e9", "cafe\u0301"
NEAR = [
    ("Crow", "crow", "case"),
    ("crow", "CROW", "case"),
    ("crow ", "crow", "blanks at its ends"),
    ("\u00a0crow", "crow", "blanks at its ends"),
    ("sea\u00a0lion", "sea lion", "blanks, underscores or hyphens"),
    ("sea_lion", "sea lion", "blanks, underscores or hyphens"),
    ("sea lion", "sea\u2013lion", "blanks, underscores or hyphens"),
    ("cro\u200bw", "crow", "cannot be seen"),
    (NFD.upper(), NFC, "Unicode form and case"),
    (os.fsdecode(b"caf\xe9"), NFC, "not UTF-8"),
]


def with_leaf(leaf: str) -> tuple[str, ...]:
    return tuple(row.replace("crow,a crow", f"{leaf},a crow") for row in ROWS)


@pytest.mark.parametrize(("folder", "leaf", "but"), NEAR)
def test_a_near_miss_is_one_problem_whose_remedy_helps(tmp_path: Path, folder: str, leaf: str, but: str) -> None:
    root = build(tmp_path, with_leaf(leaf), leaves=(leaf, *LEAVES[1:]))
    keys = load_dataset(root).images["key"]
    (root / "split.csv").write_text("key,split\n" + "".join(f"{key},train\n" for key in keys), encoding="utf-8")
    (root / "images" / leaf).rename(root / "images" / folder)
    message = refusal(root)
    assert message.count("\n") == 0
    assert repr(leaf) in message
    assert f"{but};" in message
    (root / "images" / folder).rename(root / "images" / leaf)
    assert leaf in load_dataset(root).leaves.index


def test_a_near_miss_of_a_leaf_that_has_its_folder_is_moved_there(tmp_path: Path) -> None:
    root = build(tmp_path, leaves=(*LEAVES, "Crow"))
    assert "move its images to images/crow" in refusal(root)
    for image in (root / "images" / "Crow").iterdir():
        image.rename(root / "images" / "crow" / f"other_{image.name}")
    (root / "images" / "Crow").rmdir()
    assert len(load_dataset(root).images) == 20


def test_swapped_columns_are_named(tmp_path: Path) -> None:
    swapped = HEADER.replace("leaf,leaf_phrase", "leaf_phrase,leaf")
    message = refusal(build(tmp_path, header=swapped))
    assert message.count("swap the two columns") == 3  # of scissors both are the same
    (tmp_path / "taxonomy.csv").write_text("\n".join((HEADER, *ROWS)))
    load_dataset(tmp_path)


@pytest.mark.parametrize(("folder", "leaf"), [(NFD, NFC), (NFC, NFD)])
def test_names_of_another_unicode_form_are_the_same(tmp_path: Path, folder: str, leaf: str) -> None:
    root = build(tmp_path, with_leaf(leaf), leaves=(folder, *LEAVES[1:]))
    keys = [f"{name}/{name}_{number}.jpg" for name in (leaf, *LEAVES[1:]) for number in range(4)]
    (root / "split.csv").write_text("key,split\n" + "".join(f"{key},train\n" for key in keys), encoding="utf-8")
    dataset = load_dataset(root)
    assert set(dataset.images["leaf"]) == {leaf, *LEAVES[1:]}
    assert dataset.leaves.loc[leaf, "n_images"] == 4
    assert all(dataset.image_path(key).is_file() for key in dataset.images["key"])
    assert any("Unicode form" in note for note in dataset.notes)


def test_many_problems_are_twenty_lines_and_a_count(tmp_path: Path) -> None:
    root = build(tmp_path)
    for number in range(632):
        (root / "images" / f"extra{number}").mkdir()
    (root / "images" / "saw").rename(root / "images" / "Saw")
    lines = refusal(root).splitlines()
    assert len(lines) == 22
    assert max(map(len, lines)) < 500
    assert "633" in lines[0]
    assert "613 more" in lines[-1]
    assert "but for case" in lines[1]  # what can be mended comes before what is merely there


def test_many_notes_are_twenty_lines_and_a_count(tmp_path: Path) -> None:
    leaves = [f"leaf{number}" for number in range(99)]
    root = build(tmp_path, tuple(f"{leaf},a {leaf}x,singular,bird,a bird" for leaf in leaves), leaves=tuple(leaves))
    for leaf in leaves:
        (root / "images" / leaf / f"{leaf}_0.jpg").unlink()
    dataset = load_dataset(root)
    assert len(dataset.notes) == 99
    lines = dataset.summary().splitlines()
    assert sum("has only 3 images" in line for line in lines) == 20
    assert "79 more" in lines[-1]


@pytest.mark.parametrize("name", ["leaf", "phrase"])
def test_a_very_long_cell_does_not_fill_the_screen(tmp_path: Path, name: str) -> None:
    long = "c" * 120_000
    row = f"{long},a crow,singular,bird,a bird" if name == "leaf" else f"owl,{long},singular,bird,a bird"
    assert max(map(len, refusal(build(tmp_path, (*ROWS, row))).splitlines())) < 500


PLAIN = "\n".join((HEADER, *ROWS)) + "\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace(HEADER, HEADER.title()),
        PLAIN.replace(HEADER, "Leaf, Leaf phrase , NUMBER,hypernym,Hypernym Phrase"),
        PLAIN.replace("\n", ",,\n"),
        PLAIN.replace("\n", ",,\n").replace(HEADER + ",,", HEADER),
        PLAIN.replace(HEADER, HEADER + ",,"),
        PLAIN.replace(HEADER, HEADER.replace("_", "-")),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "\n\n" + PLAIN,
        "\ufeff\ufeff" + PLAIN,
        PLAIN.replace("singular", "Singular "),
    ],
    ids=[
        "capitals",
        "blanks",
        "empty columns",
        "empty cells",
        "empty names",
        "hyphens",
        "mark",
        "windows",
        "old mac",
        "blank lines",
        "two marks",
        "cells",
    ],
)
def test_a_table_that_loses_nothing_is_read_as_it_is_meant(tmp_path: Path, text: str) -> None:
    plain = load_dataset(build(tmp_path)).digest
    (tmp_path / "taxonomy.csv").write_bytes(text.encode())
    assert load_dataset(tmp_path).digest == plain


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PLAIN.replace(",", ";"), "semicolons"),
        (PLAIN.replace(HEADER, HEADER.replace("leaf,", '"leaf",')).replace(",", ";"), "semicolons"),
        (PLAIN.replace(",", "\t").replace("Leaf", "leaf"), "tabs"),
        (PLAIN.replace(",", " | "), "bars"),
        ("sep=;\n" + PLAIN.replace(",", ";"), "'sep=;'"),
        ("sep=,\n" + PLAIN, "'sep=,'"),
        (PLAIN.partition("\n")[2], f"put the line {HEADER} above it"),
        (PLAIN.encode("utf-16"), "UTF-16"),
        (PLAIN.encode("utf-16-le"), "UTF-16"),
        (PLAIN.replace("a crow", "a cr\u00f4w").encode("cp1252"), "'\u00f4'"),
        (PLAIN.replace("a gull", '"a gull'), "taxonomy.csv:3: "),
        (PLAIN.replace("a crow", "a\u00a0crow"), "NO-BREAK SPACE"),
        (PLAIN.replace("singular", "1"), "singular"),
        (PLAIN.replace(HEADER, HEADER + ",depth").replace("bird\n", 'bird,"1,5"\n'), "digits only"),
        (PLAIN.replace("a crow", "a " + "very " * 300 + "black crow"), "1,000"),
        (PLAIN.replace("a bird\n", "a bird,x\n"), "6 cells"),
        (PLAIN.replace("\n", ",,x\n").replace(",,x", ",,", 1), "column without a name"),
        (PLAIN.replace("\n", ",plural\n").replace("plural", "hypernym_nunber", 1), "write hypernym_number, or drop it"),
        (LFS, "git lfs pull"),
        (PLAIN + "owl,an owl,singular,Bird,a bird\ncrow,a crow,singular,Bird,a bird\n", "'bird' and 'Bird' collide"),
    ],
)
def test_a_wrong_table_is_named_as_what_it_is(tmp_path: Path, content: str | bytes, says: str) -> None:
    root = build(tmp_path)
    (root / "taxonomy.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert says in refusal(root)


@pytest.mark.parametrize("name", ["taxonomy.csv", "split.csv"])
@pytest.mark.parametrize("how", ["pipe", "device", "large", "nowhere"])
def test_a_file_without_end_is_not_read_and_a_link_to_nothing_not_passed_over(
    tmp_path: Path, name: str, how: str
) -> None:
    root = build(tmp_path)
    path = root / name
    path.unlink(missing_ok=True)
    if how == "nowhere":
        path.symlink_to("nowhere.csv")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as handle:
            handle.truncate(2**40)
    assert f"{name}: " in refusal(root)


@pytest.mark.parametrize("how", ["pipe", "device", "large", "nowhere", "circle"])
def test_no_picture_without_end_is_opened_and_every_such_file_is_named(tmp_path: Path, how: str) -> None:
    root = build(tmp_path)
    for path in (root / "images" / "crow" / "a.png", root / "images" / "gull" / "b.png"):
        if how == "pipe":
            os.mkfifo(path)
        elif how == "large":
            with path.open("wb") as handle:
                handle.truncate(2**40)
        else:
            path.symlink_to({"device": "/dev/zero", "nowhere": "nowhere.png", "circle": path.name}[how])
    said = refusal(root).splitlines()
    assert next(place for place in said if "a.png" in place).startswith("  images/crow: ")
    assert next(place for place in said if "b.png" in place).startswith("  images/gull: ")
    assert len(said) == 3
    for path in root.glob("images/*/[ab].png"):
        path.unlink()
    load_dataset(root)


def test_columns_that_are_swapped_are_asked_about(tmp_path: Path) -> None:
    root = build(tmp_path)
    assert not any("swapped" in note for note in load_dataset(root).notes)
    text = (root / "taxonomy.csv").read_text()
    (root / "taxonomy.csv").write_text(text.replace(",hypernym,hypernym_phrase", ",hypernym_phrase,hypernym"))
    assert any("'a bird' has the phrase 'bird'; are the two columns swapped?" in n for n in load_dataset(root).notes)


@pytest.mark.parametrize(
    "written",
    [r"crow\crow_0.jpg", "images/crow/crow_0.jpg", "/data/x/images/crow/crow_0.jpg", "./crow/crow_0.jpg",
     r"C:\data\images\crow\crow_0.jpg", "crow_0.jpg", "Crow/crow_0.JPG", "crow/crow_0.png", "crow_0", "crow/crow_0"],
)  # fmt: skip
def test_a_key_that_is_another_form_of_one_is_told_the_right_one(tmp_path: Path, written: str) -> None:
    root = build(tmp_path)
    keys = [f"{leaf}/{leaf}_{number}.jpg" for leaf in LEAVES for number in range(4)]
    text = "key,split\n" + "".join(f"{key},train\n" for key in keys)
    (root / "split.csv").write_text(text.replace("\ncrow/crow_0.jpg", f"\n{written}"))
    line = next(line for line in refusal(root).splitlines() if "split.csv:2:" in line)
    assert "'crow/crow_0.jpg'" in line


def test_a_split_whose_columns_are_swapped_is_named_as_that(tmp_path: Path) -> None:
    root = build(tmp_path)
    rows = [f"{key},train\n" for key in load_dataset(root).images["key"]]
    (root / "split.csv").write_text("split,key\n" + "".join(rows))
    assert "split.csv:2: 'train' is no image of this dataset; swap the names" in refusal(root)
    (root / "split.csv").write_text("key,split\n" + "".join(rows))  # the remedy
    load_dataset(root)


@pytest.mark.parametrize("lacking", ["train", "test"])
def test_a_split_of_which_runs_cannot_be_made_is_refused_for_them(tmp_path: Path, lacking: str) -> None:
    root = build(tmp_path)
    other = {"train": "test", "test": "train"}[lacking]
    keys = load_dataset(root).images["key"]
    rows = [f"{key},{other}\n" for key in keys]
    (root / "split.csv").write_text("key,split\n" + "".join(rows))
    load_dataset(root)  # features and text probes need no split
    with pytest.raises(DatasetError, match=f"split.csv has no image for {lacking};"):
        load_dataset_of_runs(root)
    rows[0] = f"{keys[0]},{lacking}\n"
    (root / "split.csv").write_text("key,split\n" + "".join(rows))
    assert load_dataset_of_runs(root).digest == load_dataset(root).digest
