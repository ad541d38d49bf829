"""Taxonomies, pictures and feature stores that are wrong: one line, exit code 2, nothing half-written."""

import contextlib
import io
import os
import pickle
import socket
import struct
import zlib
from dataclasses import replace

import h5py
import numpy as np
import pytest
from bad_input import Case, check, cut, folder_there, ids, loop, remove, write
from bad_input.study import run_name
from PIL import Image

STATS = "stats dataset --out counted"
HEADER = "leaf,leaf_phrase,number,hypernym,hypernym_phrase"
EXTRACT = "extract dataset --encoder encoder --out new.h5 --device cpu"
# Extraction keeps the rows that it has finished, and says so.
EXTRACTED = r"^new\.h5"
# A sweep that has been planned says in its folder what stopped it; the same command goes on from there.
PLANNED = r"^new/(plan\.json|timing\.jsonl)$"
SWEEP = "sweep sweep.toml --out new --device cpu --threads 1"


def row(name, cells, says, header=HEADER, command=STATS):
    """A row more in the taxonomy, or (header given) another taxonomy with only this row."""

    def spoil(study):
        path = study / "dataset" / "taxonomy.csv"
        write(path, (path.read_text() if header == HEADER else header + "\n") + cells + "\n")

    return Case(name, spoil, command, says)


def table(name, content, says):
    return Case(name, lambda study: write(study / "dataset" / "taxonomy.csv", content), STATS, says)


def at(name, place, how, says, command=STATS, leaves="(?!)"):
    """Something done to one path of the study."""
    return Case(name, lambda study: how(study / place), command, says, leaves)


def split(name, change, says):
    def spoil(study):
        keys = sorted(f"{path.parent.name}/{path.name}" for path in (study / "dataset" / "images").glob("*/*"))
        lines = [f"{key},{'test' if number % 4 == 0 else 'train'}" for number, key in enumerate(keys)]
        write(study / "dataset" / "split.csv", change("\n".join(["key,split", *lines, ""])))

    return Case(name, spoil, STATS, says)


LATIN = "crow,a crôw,singular,bird,a bird\n".encode("latin-1")
TAXONOMIES = [
    "a file that cannot be read",
    at("no folder", "dataset", remove, r"taxonomy\.csv: cannot be read \(No such file"),
    at("folder is a file", "dataset", lambda path: write(path, "x"), r"cannot be read \(Not a directory"),
    at("taxonomy missing", "dataset/taxonomy.csv", remove, r"taxonomy\.csv: cannot be read \(No such file"),
    at("taxonomy is a folder", "dataset/taxonomy.csv", folder_there, r"taxonomy\.csv: cannot be read \(Is a directory"),
    at("taxonomy loops", "dataset/taxonomy.csv", loop, r"taxonomy\.csv: cannot be read \(Too many levels"),
    at(
        "taxonomy is a pipe",
        "dataset/taxonomy.csv",
        lambda path: (remove(path), os.mkfifo(path)),
        "is no plain file; a pipe or device",
    ),
    at(
        "taxonomy is a device",
        "dataset/taxonomy.csv",
        lambda p: (remove(p), p.symlink_to("/dev/zero")),
        "no plain file",
    ),
    "content of another kind",
    at("taxonomy cut", "dataset/taxonomy.csv", lambda path: cut(path, 130), r"taxonomy\.csv:\d"),
    table("empty", "", r"taxonomy\.csv:1: missing column leaf, leaf_phrase"),
    table("header only", HEADER + "\n", "has no usable rows"),
    table("utf-16", (HEADER + "\n").encode("utf-16"), "byte 0xff is not UTF-8; save the file as UTF-8"),
    table("utf-32 without mark", (HEADER + "\n").encode("utf-32-le"), r"taxonomy\.csv:1: has NUL bytes"),
    table("latin-1", HEADER.encode() + b"\n" + LATIN, r"taxonomy\.csv:2: byte 0xf4 is not UTF-8"),
    table("gzip", b"\x1f\x8b\x08\0\0\0\0\0", "is not UTF-8"),
    table("pickle", pickle.dumps({"leaf": "crow"}), r"taxonomy\.csv:\d"),
    table("not the columns", "a;b;c\n1;2;3\n", "missing column leaf"),
    table("column twice", HEADER + ",leaf\n", "a column occurs twice"),
    table("quote left open", HEADER + '\n"crow,a crow,singular,bird,a bird\n', "not readable CSV"),
    table("huge cell", HEADER + "\n" + "x" * 200_000 + ",a,singular,b,b\n", "field larger than field limit"),
    table("only NULs", b"\0" * 10_000, r"taxonomy\.csv:1: has NUL bytes"),
    "cells",
    row("cells missing", "crow,a crow", "2 cells where the header has 5; fill in the row"),
    row("comma not quoted", "crow,a crow, black,singular,bird,a bird", "6 cells where the header has 5"),
    "ids that leave the folder",
    row("parent as leaf", "../crow,a crow,singular,bird,a bird", r"leaf id '\.\./crow' would leave or hide"),
    row("dots as leaf", "..,a crow,singular,bird,a bird", r"leaf id '\.\.' would leave or hide"),
    row("absolute path as leaf", "/etc,a crow,singular,bird,a bird", "leaf id '/etc' would leave or hide"),
    row("backslash in leaf", "..\\crow,a crow,singular,bird,a bird", "would leave or hide"),
    row("hidden leaf", ".crow,a crow,singular,bird,a bird", r"leaf id '\.crow' would leave or hide"),
    row("NUL in leaf", "cr\0w,a crow,singular,bird,a bird", r"taxonomy\.csv:6: has NUL bytes"),
    "control characters",
    row("terminal codes in leaf", "cr\x1b[31mow,a crow,singular,bird,a bird", r"'cr\\x1b\[31mow' has control char"),
    row("right-to-left override in leaf", "cr\u202eow,a crow,singular,bird,a bird", r"'cr\\u202eow' has control"),
    row("isolate in hypernym", "crow,a crow,singular,b\u2067ird,a bird", r"'b\\u2067ird' has control"),
    row("line separator in leaf", "cr\u2028ow,a crow,singular,bird,a bird", r"'cr\\u2028ow' has control"),
    row("parent as hypernym", "crow,a crow,singular,../../bird,a bird", r"hypernym id '\.\./\.\./bird' would leave"),
    "values",
    row("no leaf", ",a crow,singular,bird,a bird", "leaf id '' is empty"),
    row("no hypernym", "crow,a crow,singular,,a bird", "leaf 'crow' has no hypernym"),
    row("no phrase", "dodo,,singular,bird,a bird", "phrase '' is empty or not printable"),
    row("override in phrase", "crow,a \u202ecrow,singular,bird,a bird", "crow' has phrase .* make them agree"),
    row("number is a number", "crow,a crow,1,bird,a bird", "number '1', but 'singular'"),
    "rows that disagree",
    row("phrases disagree", "crow,the crow,singular,tool,a tool", "phrase 'the crow', but 'a crow'"),
    row("pair twice", "crow,a crow,singular,bird,a bird", "the pair 'crow', 'bird' is already at"),
    row("one leaf only", "crow,a crow,singular,corvid,a corvid", "'corvid' has fewer than two leaves"),
    "folders that disagree with the taxonomy",
    row("leaf without folder", "dodo,a dodo,singular,bird,a bird", "images/dodo: folder is missing"),
    row("very long leaf", "d" * 5000 + ",a dodo,singular,bird,a bird", "images/ddd.*folder is missing"),
    row("same but for case", "Crow,a crow,singular,bird,a bird", "'crow' and 'Crow' collide but for case"),
    *(
        row(f"depth {depth}", f"crow,a crow,singular,bird,a bird,{depth}", "dataset has ", f"{HEADER},depth")
        for depth in ("nan", "inf", "-1", "1.5", "1e9", "99999999", "٣")
    ),
    "folders of images",
    at("images missing", "dataset/images", remove, "images: cannot be read"),
    at("images are a file", "dataset/images", lambda path: write(path, "x"), "images: cannot be read"),
    at("images empty", "dataset/images", folder_there, "images: is empty"),
    at("images loop", "dataset/images", loop, "images: cannot be read"),
    at("leaf folder loops", "dataset/images/crow", loop, "images/crow: folder is missing"),
    at("leaf folder empty", "dataset/images/crow", folder_there, "images/crow: has no images"),
    at("folder of no leaf", "dataset/images/dodo", folder_there, r"images/dodo: is no leaf of taxonomy\.csv"),
    at("picture loops", "dataset/images/crow/0.png", loop, r"images/crow: cannot be read \(Too many"),
    at(
        "picture leads nowhere",
        "dataset/images/crow/9.png",
        lambda path: path.symlink_to("gone"),
        "images/crow: cannot",
    ),
    at(
        "control code in a file name",
        "dataset/images/crow/\x07.png",
        lambda path: write(path, "x"),
        "control characters",
    ),
    at("override in a file name", "dataset/images/crow/\u202egnp.png", lambda path: write(path, "x"), "control char"),
    "splits",
    at("split is a folder", "dataset/split.csv", folder_there, r"split\.csv: cannot be read"),
    split("split in utf-16", lambda text: text.encode("utf-16"), r"split\.csv:1: byte 0xff is not UTF-8"),
    split("split without rows", lambda _: "key,split\n", r"split\.csv: has no usable rows"),
    split(
        "split with another word", lambda text: text.replace("crow/0.png,test", "crow/0.png,dev"), "'dev' is none of"
    ),
    split("split row missing", lambda text: text.replace("crow/0.png,test\n", ""), "1 images have no row: crow/0.png"),
    split("split row twice", lambda text: text + "crow/0.png,test\n", "'crow/0.png' occurs twice"),
    split("split leaves the folder", lambda text: text + "../../etc/passwd,test\n", "is no image of this dataset"),
]


@pytest.mark.parametrize("case", **ids(TAXONOMIES))
def test_taxonomies_and_folders(case, sound_study, tmp_path, crosstax, monkeypatch):
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


def png(width, height, rows=b""):
    """A PNG that declares this size in 8 bit RGB, with whatever rows it has."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg(size=(40, 30)):
    image = io.BytesIO()
    Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)).save(image, "JPEG")
    return image.getvalue()


def webp(width, height):
    """The first bytes of a lossless WebP of this size."""
    bits = (width - 1) | (height - 1) << 14
    body = b"WEBPVP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", bits) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
FILES = {
    "empty": b"",
    "text": b"a crow",
    "web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "pickle": pickle.dumps(np.zeros((8, 8, 3))),
    "numpy": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "png cut": png(40, 30, bytes(121 * 30))[:60],
    "png without rows": png(40, 30),
    "png with a wrong checksum": png(40, 30, bytes(121 * 30)).replace(b"IHDR\0\0\0\x28", b"IHDR\0\0\0\x29"),
    "png of no size": png(0, 0),
    "png bomb": png(100_000, 100_000, bytes(100_000)),
    "png of two billion pixels a side": png(2**31 - 1, 2**31 - 1),
    "jpeg cut": jpeg()[:-200],
    "jpeg bomb": jpeg().replace(b"\0\x1e\0\x28", b"\xff\xff\xff\xff", 1),
    "webp bomb": webp(16384, 16384),
    "gif bomb": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;",
    "postscript": POSTSCRIPT,
    "tiff bomb": b"II*\0\x08\0\0\0\x02\0\0\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f\x01\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0",  # noqa: E501
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
}
PICTURE = "dataset/images/crow/0.png"
PICTURES = [
    "extracted",
    *(
        at(f"extract {name}", PICTURE, lambda path, content=content: write(path, content), r"crow/0\.png: unreadable")
        for name, content in FILES.items()
    ),
    "asked about",
    *(
        at(
            f"ask {name}",
            "asked.png",
            lambda path, content=FILES[name]: write(path, content),
            r"asked\.png: unreadable",
        )
        for name in ("empty", "png bomb", "postscript", "web page")
    ),
    "asked about no file",
    at("ask a folder", "asked.png", folder_there, "asked.png: no such image file"),
    at("ask a loop", "asked.png", loop, "asked.png: no such image file"),
    at("ask nothing", "asked.png", remove, "asked.png: no such image file"),
]


@pytest.mark.parametrize("case", **ids(PICTURES))
def test_pictures(case, sound_study, tmp_path, crosstax, monkeypatch):
    from bad_input.study import run_name

    command = EXTRACT
    if case.name.startswith("ask"):
        command = f'ask runs/{run_name(sound_study)} asked.png "is there a bird?"'
    case = Case(case.name, case.spoil, command, case.says, EXTRACTED)
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


def hdf5(change, mode="r+"):
    def how(path):
        with h5py.File(path, mode) as file:
            change(file)

    return how


def replaced(name, **how):
    def change(file):
        del file[name]
        file.create_dataset(name, **how)

    return hdf5(change)


def linked(name, link):
    def change(file):
        del file[name]
        file[name] = link

    return hdf5(change)


def attribute(name, value):
    def change(file):
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return hdf5(change)


def infinite(path):
    with h5py.File(path, "r+") as file:
        file["patches"][...] = 0x7F80
        file["pooled_patches"][...] = np.nan


def pickled(file):
    del file["patches"]
    file["patches"] = np.void(pickle.dumps(np.zeros((32, 4, 8))))


def reasons(content):
    return lambda path: write(path.with_name("features.h5.unreadable.jsonl"), content)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n"


def pipe(path):
    remove(path)
    os.mkfifo(path)


def listening(path):
    remove(path)
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):  # long paths are refused
        server.bind(path.name)


def link_to(target):
    def how(path):
        remove(path)
        path.symlink_to(target)

    return how


NOT_WHOLE = r"features\.h5: not a whole feature store.+; (copy it again, or )?delete it and extract again"
N = 32
STORES = [
    "no file of HDF5",
    at("missing", "features.h5", remove, "features.h5: no feature store there"),
    at("empty", "features.h5", lambda path: write(path, b""), "an empty file"),
    at("text", "features.h5", lambda path: write(path, "features"), "no HDF5 file"),
    at("pickle", "features.h5", lambda path: write(path, pickle.dumps([1])), "no HDF5 file"),
    at("folder", "features.h5", folder_there, "is a folder"),
    at("pipe", "features.h5", pipe, "pipe or device"),
    at("socket", "features.h5", listening, "pipe or device"),
    at("endless zeros", "features.h5", link_to("/dev/zero"), "pipe or device"),
    at("link to nothing", "features.h5", link_to("nothing"), "no feature store there"),
    at("git-lfs pointer", "features.h5", lambda path: write(path, LFS), "Git LFS pointer.*git lfs pull"),
    at("loop", "features.h5", loop, "grid 1: features is no path|no feature store there"),
    "cut",
    at("half", "features.h5", lambda path: cut(path, path.stat().st_size // 2), NOT_WHOLE),
    at("last byte missing", "features.h5", lambda path: cut(path, -1), NOT_WHOLE),
    at("header only", "features.h5", lambda path: cut(path, 96), NOT_WHOLE),
    "attributes",
    at("empty hdf5", "features.h5", hdf5(lambda _: None, "w"), "store schema none, this version reads 1"),
    at("another schema", "features.h5", attribute("schema", 2), "store schema 2, this version reads 1"),
    at("schema is text", "features.h5", attribute("schema", "one"), "store schema one, this"),
    at("schema is a list", "features.h5", attribute("schema", [1, 1]), NOT_WHOLE),
    *(
        at(f"without {name}", "features.h5", attribute(name, None), f"attribute {name} is missing")
        for name in ("weights_digest", "layer", "transform", "dtype", "image_digest", "encoder", "batch")
    ),
    at("dtype unknown", "features.h5", attribute("dtype", "int4"), NOT_WHOLE),
    at("dtype is a number", "features.h5", attribute("dtype", 16), NOT_WHOLE),
    at("dtype of other bits", "features.h5", attribute("dtype", "float16"), NOT_WHOLE),
    at("batch is text", "features.h5", attribute("batch", "many"), NOT_WHOLE),
    at("batch is zero", "features.h5", attribute("batch", 0), NOT_WHOLE),
    at("layer is an array", "features.h5", attribute("layer", np.arange(3)), NOT_WHOLE),
    at("layer is missing data", "features.h5", attribute("layer", h5py.Empty("f")), NOT_WHOLE),
    at("encoder is not UTF-8", "features.h5", attribute("encoder", np.bytes_(b"\xff\xfe")), NOT_WHOLE),
    at("encoder has terminal codes", "features.h5", attribute("encoder", "\x1b[2J\u202e"), NOT_WHOLE),
    *(
        at(f"no {name}", "features.h5", hdf5(lambda file, name=name: file.pop(name)), NOT_WHOLE)
        for name in ("key", "done", "crc32", "patches", "pooled_patches")
    ),
    "arrays",
    at("a group for an array", "features.h5", hdf5(lambda f: (f.pop("key"), f.create_group("key"))), NOT_WHOLE),
    at("too few rows", "features.h5", replaced("patches", data=np.zeros((N - 1, 4, 8), "<u2")), NOT_WHOLE),
    at("flat patches", "features.h5", replaced("patches", data=np.zeros((N, 32), "<u2")), NOT_WHOLE),
    at("scalar patches", "features.h5", replaced("patches", data=np.uint16(3)), NOT_WHOLE),
    at("zero patches", "features.h5", replaced("patches", shape=(N, 0, 8), dtype="<u2"), NOT_WHOLE),
    at("double patches", "features.h5", replaced("patches", data=np.zeros((N, 4, 8))), NOT_WHOLE),
    at("text patches", "features.h5", replaced("patches", data=np.full((N, 4, 8), b"x")), NOT_WHOLE),
    at("pooled of another width", "features.h5", replaced("pooled_patches", data=np.zeros((N, 3), "<f4")), NOT_WHOLE),
    at("pickled patches", "features.h5", hdf5(pickled), NOT_WHOLE),
    at(
        "chunked patches",
        "features.h5",
        replaced("patches", data=np.zeros((N, 4, 8), "<u2"), chunks=(1, 4, 8)),
        NOT_WHOLE,
    ),
    "absurd sizes",
    at("absurd rows", "features.h5", replaced("patches", shape=(10**12, 4, 8), dtype="<u2"), NOT_WHOLE),
    at("absurd width", "features.h5", replaced("patches", shape=(N, 4, 10**15), dtype="<u2"), NOT_WHOLE),
    at("absurd keys", "features.h5", replaced("key", shape=(10**12,), dtype="S8", chunks=(1024,)), NOT_WHOLE),
    at("absurd flags", "features.h5", replaced("done", shape=(10**13,), dtype="u1"), NOT_WHOLE),
    at(
        "compressed bomb",
        "features.h5",
        replaced("done", shape=(10**12,), dtype="u1", chunks=(2**20,), compression=9),
        NOT_WHOLE,
    ),
    "keys and flags",
    at("keys are numbers", "features.h5", replaced("key", data=np.arange(N)), NOT_WHOLE),
    at("keys are objects", "features.h5", replaced("key", data=["a"] * N, dtype=h5py.string_dtype()), NOT_WHOLE),
    at("keys not UTF-8", "features.h5", replaced("key", data=np.array([b"\xff%d" % i for i in range(N)])), NOT_WHOLE),
    at("keys all the same", "features.h5", replaced("key", data=np.array([b"crow/0.png"] * N)), NOT_WHOLE),
    at(
        "keys of other pictures",
        "features.h5",
        replaced("key", data=np.array([b"%05d" % i for i in range(N)])),
        "has no image",
    ),
    at("unknown flags", "features.h5", replaced("done", data=np.full(N, 7, "u1")), NOT_WHOLE),
    at("flags of another type", "features.h5", replaced("done", data=np.full(N, np.nan)), NOT_WHOLE),
    at(
        "not finished", "features.h5", replaced("done", data=np.zeros(N, "u1")), "32 of 32 images are not extracted yet"
    ),
    "data elsewhere",
    at("link out of the file", "features.h5", linked("patches", h5py.ExternalLink("/etc/passwd", "/x")), NOT_WHOLE),
    at("link in a circle", "features.h5", linked("patches", h5py.SoftLink("/patches")), NOT_WHOLE),
    at(
        "data in another file",
        "features.h5",
        replaced("patches", shape=(N, 4, 8), dtype="<u2", external=[("/etc/passwd", 0, 2048)]),
        NOT_WHOLE,
    ),
    "reasons",
    at("reasons are no JSON", "features.h5", reasons("{crow"), NOT_WHOLE),
    at("reasons in utf-16", "features.h5", reasons("{}".encode("utf-16")), NOT_WHOLE),
    at("reasons are a list", "features.h5", reasons("[1]\n"), NOT_WHOLE),
    at("reasons without a key", "features.h5", reasons('{"reason": "none"}\n'), NOT_WHOLE),
    at("reasons nested deep", "features.h5", reasons("[" * 100_000), NOT_WHOLE),
]


@pytest.mark.parametrize("case", **ids(STORES))
def test_stores(case, sound_study, tmp_path, crosstax, monkeypatch):
    case = Case(case.name, case.spoil, SWEEP, case.says, PLANNED)
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


def flipped(name, row, place=0):
    """One bit of a row changed, as by a disk."""

    def change(file):
        values = file[name][row]
        values.reshape(-1).view(np.uint8)[place] ^= 1
        file[name][row] = values

    return hdf5(change)


def same_size(study):
    """Another picture of the same number of bytes."""
    picture = study / PICTURE
    picture.write_bytes(picture.read_bytes()[:-1] + b"?")


def damaged(name, how, command="evaluate RUN --device cpu", says="do not match their checksum"):
    return at(name, "features.h5", how, says, command)


DOCTOR = "doctor --features features.h5"
BOTH = f"{DOCTOR} --dataset dataset"
ANALYZE = "analyze runs --out new"
CHANGED = r"features\.h5: 1 images of .*dataset have changed"
USED = [
    "rows, used",
    damaged("patches zero", hdf5(lambda f: f["patches"].__setitem__(..., 0))),
    damaged("a bit of a patch", flipped("patches", 3)),
    damaged("a bit of a pooled vector", flipped("pooled_patches", 3)),
    "rows, analysed",
    damaged("a bit of a pooled vector, analysed", flipped("pooled_patches", 3), ANALYZE),
    damaged("a bit of the other pooled vector, analysed", flipped("pooled_all_tokens", 9, 5), ANALYZE),
    damaged("a bit of a hash, analysed", flipped("sha256", 9, 31), ANALYZE),
    damaged("a bit of a hash, examined", flipped("sha256", 9, 31), DOCTOR),
    "pictures, trained",
    Case("picture changed, trained", same_size, SWEEP, CHANGED, PLANNED),
    "pictures, elsewhere",
    Case("picture changed, evaluated", same_size, "evaluate RUN --device cpu", CHANGED),
    Case("picture changed, extracted", same_size, EXTRACT.replace("new", "features"), CHANGED),
    Case("picture changed, examined", same_size, BOTH, CHANGED),
    Case("picture changed, examined in full", same_size, f"{BOTH} --deep", CHANGED),
    "nothing to compare",
    damaged("nothing to compare", hdf5(lambda _: None), f"{DOCTOR} --deep", "give --dataset and --features"),
]


@pytest.mark.parametrize("case", **ids(USED))
def test_stores_whose_rows_or_pictures_changed(case, sound_study, tmp_path, crosstax, monkeypatch):
    case = replace(case, command=case.command.replace("RUN", f"runs/{run_name(sound_study)}"))
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


CHECKED = [
    "examined",
    at("infinite", "features.h5", infinite, "32 rows do not match their checksum", DOCTOR),
    at(
        "row of another picture",
        "features.h5",
        hdf5(lambda f: f["crc32"].__setitem__(3, 1)),
        "1 rows do not match",
        DOCTOR,
    ),
    "bombs",
    at(
        "doctor finds a bomb",
        PICTURE,
        lambda path: write(path, FILES["png bomb"]),
        "1 unreadable images",
        "doctor --dataset dataset",
    ),
    "resumed",
    at(
        "resumed with another encoder",
        "features.h5",
        attribute("weights_digest", "0"),
        "differs in weights_digest",
        EXTRACT.replace("new", "features"),
    ),
    at(
        "resumed over text",
        "features.h5",
        lambda path: write(path, "features"),
        "no HDF5 file",
        EXTRACT.replace("new", "features"),
    ),
]


@pytest.mark.parametrize("case", **ids(CHECKED))
def test_what_else_reads_data(case, sound_study, tmp_path, crosstax, monkeypatch):
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)
