"""Pictures of every kind: what their files become, what is refused and how that reads, and what is said about them."""

import dataclasses
import io
import json
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
import transformers
from picture_study import LEAVES, save_encoder, train_run, write_lm, write_pictures
from PIL import Image, ImageOps
from run_folders import last_json
from test_ask import saved_and_asked
from timm.models import save_for_hf
from twins import SIDE, randomise, save_hf

from cachegen.common.errors import CrosstaxError, ModelError, StoreError
from cachegen.data.dataset import load_dataset
from cachegen.data.images import (
    SUFFIXES,
    UNREAD_SUFFIXES,
    Decoding,
    decode,
    read_image,
    unreadable_reason,
)
from cachegen.data.inspection import inspect_images
from cachegen.encoders import load_encoder
from cachegen.features.extract import extract
from cachegen.features.store import FeatureStore
from engine.ask import open_asker
from engine.sweeps.executors import in_this_process
from engine.sweeps.executors.extraction import extract_in_parts

GREY = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFFFF]], np.uint16)
WHITE = (255, 255, 255)


def encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def noise(size=(9, 7), mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, depth, colours, row, *chunks):
    """One row of a PNG of any depth and colour type, which Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *chunks, data, chunk(b"IEND", b"")])


def tiff(width, bits, row, order="<", **tags):
    """One row of grey in a TIFF; `tags` by name replace those of unsigned samples where black is 0."""
    known = {"photometric": 262, "sample_format": 339, "orientation": 274}
    entries = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 277: 1, 278: 1, 279: len(row)}
    entries |= {known[name]: value for name, value in tags.items()}
    entries[273] = 8 + 2 + 12 * (len(entries) + 1) + 4
    parts = [b"II*\0" if order == "<" else b"MM\0*", struct.pack(f"{order}IH", 8, len(entries))]
    parts += [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(entries.items())]
    return b"".join([*parts, struct.pack(f"{order}I", 0), row])


def pixels(content, decoding=None):
    image = (decode(content, decoding) if decoding else decode(content)).image
    assert image.mode == "RGB"
    return np.asarray(image)


# What ordinary pictures become has not changed


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, kind) for kind in ("PNG", "TIFF") for mode in ("1", "L", "P", "RGB", "RGBA", "LA")),
        *((mode, "JPEG") for mode in ("L", "RGB", "CMYK", "YCbCr")),
        *((mode, "TIFF") for mode in ("CMYK", "YCbCr", "LAB", "PA")),
        *((mode, kind) for kind in ("WEBP", "AVIF", "JPEG2000") for mode in ("RGB", "RGBA")),
        *(("RGB", kind) for kind in ("BMP", "DIB", "PPM", "GIF")),
    ],
)
def test_pictures_without_transparency_decode_as_before(mode, kind):
    source = noise() if mode != "PA" else noise().convert("P")
    content = encoded(source.convert(mode), kind)
    with Image.open(io.BytesIO(content)) as image:
        before = np.asarray(image.convert("RGB"))
    assert before.std() > 10
    np.testing.assert_array_equal(pixels(content), before)
    assert decode(content)[1:] == (False, False, False, False)


# Sixteen bits


DEEP = {
    "png": lambda: encoded(Image.fromarray(GREY), "PNG"),
    "tiff": lambda: encoded(Image.fromarray(GREY), "TIFF"),
    "tiff lzw": lambda: encoded(Image.fromarray(GREY), "TIFF", compression="tiff_lzw"),
    "tiff big endian": lambda: tiff(6, 16, GREY.astype(">u2").tobytes(), ">"),
    "jpeg 2000": lambda: encoded(Image.fromarray(GREY), "JPEG2000"),
    "pgm": lambda: b"P5 6 1 65535\n" + GREY.astype(">u2").tobytes(),
    "png, colour": lambda: png(6, 16, 2, np.repeat(GREY, 3).astype(">u2").tobytes()),
    "png, opaque": lambda: png(6, 16, 4, np.stack([GREY, GREY * 0 + 0xFFFF], -1).astype(">u2").tobytes()),
}


@pytest.mark.parametrize("kind", DEEP)
def test_sixteen_bits_are_scaled_not_clipped(kind):
    content = DEEP[kind]()
    for channel in range(3):
        assert pixels(content)[0, :, channel].tolist() == (GREY[0] >> 8).tolist()
    assert decode(content).deep


def test_tiff_says_what_its_numbers_mean():
    inverted = tiff(6, 16, GREY.tobytes(), photometric=0)
    assert pixels(inverted)[0, :, 0].tolist() == (255 - (GREY[0] >> 8)).tolist()
    twelve = tiff(2, 12, bytes([0xFF, 0xF8, 0x00]))
    assert pixels(twelve)[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize(
    "content",
    [
        lambda: encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
        lambda: encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        lambda: tiff(6, 16, GREY.tobytes(), sample_format=2),
        lambda: b"Pf\n6 1\n-1.0\n" + GREY.astype("<f4").tobytes(),
    ],
    ids=["32 bit", "float", "signed", "pfm"],
)
def test_pixels_without_a_white_are_refused_and_the_remedy_helps(content):
    with pytest.raises(ValueError, match="save it with 8 or 16 bit"):
        decode(content())
    with Image.open(io.BytesIO(content())) as image:
        values = np.asarray(image)
    again = encoded(Image.fromarray(values.astype(np.uint16)), "PNG")
    assert pixels(again)[0, :, 0].tolist() == (values[0].astype(int) % 2**16 >> 8).tolist()


# Transparency


def two_halves(mode="RGBA"):
    """Left half opaque, right half transparent, both of one colour underneath."""
    image = Image.new("RGBA", (4, 2), (200, 100, 50, 255))
    image.paste((200, 100, 50, 0), (2, 0, 4, 2))
    return image.convert(mode) if mode != "P" else image.quantize(4)


def trns(*values):
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


SEE_THROUGH = {
    **{
        f"{mode} {kind}": (lambda mode=mode, kind=kind, more=more: encoded(two_halves(mode), kind, **more))
        for mode, kind, more in (
            ("RGBA", "PNG", {}), ("RGBA", "TIFF", {}), ("RGBA", "WEBP", {"lossless": True}), ("RGBA", "GIF", {}),
            ("RGBA", "JPEG2000", {}), ("LA", "PNG", {}), ("LA", "TIFF", {}), ("P", "PNG", {}),
        )
    },
    "1 bit key": lambda: png(4, 1, 0, b"\x30", trns(1)),
    "2 bit key": lambda: png(4, 2, 0, b"\x5a", trns(2)),
    "4 bit key": lambda: png(4, 4, 0, b"\x55\x33", trns(3)),
    "8 bit key": lambda: png(4, 8, 0, b"\xfe\xfe\x07\x07", trns(7)),
    "16 bit key": lambda: png(4, 16, 0, struct.pack(">4H", 0x1235, 0x1235, 0x1234, 0x1234), trns(0x1234)),
    "colour key": lambda: png(4, 8, 2, bytes([1, 2, 3] * 2 + [4, 5, 6] * 2), trns(4, 5, 6)),
    "16 bit colour key": lambda: png(4, 16, 2, struct.pack(">12H", *[256] * 6, *[999, 7, 8] * 2), trns(999, 7, 8)),
    "one palette entry": lambda: png(4, 8, 3, b"\0\0\1\1", chunk(b"PLTE", bytes(range(6))), chunk(b"tRNS", b"\xff\0")),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEE_THROUGH)
def test_what_is_transparent_shows_the_background(kind):
    content = SEE_THROUGH[kind]()
    assert decode(content).transparent
    red = Decoding.ask("red", False)
    for decoding, ground in ((None, WHITE), (red, (255, 0, 0))):
        found = pixels(content, decoding)
        assert (found[:, 2:] == ground).all()
        assert (found[:, :2] == found[0, 0]).all()
        assert tuple(found[0, 0]) != ground
    np.testing.assert_array_equal(pixels(content)[:, :2], pixels(content, red)[:, :2])


def test_half_transparent_is_half_background():
    content = encoded(Image.new("RGBA", (1, 1), (0, 100, 200, 128)), "PNG")
    assert pixels(content)[0, 0].tolist() == pytest.approx([127, 177, 227], abs=1)


@pytest.mark.parametrize("colour", ["nocolour", "", "#12", "#11223344", "1" * 10_000])
def test_a_background_is_a_colour(colour):
    with pytest.raises(CrosstaxError, match="#RRGGBB"):
        Decoding.ask(colour, False)


# EXIF


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_turn_is_carried_out_when_asked_for(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(noise(), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        stored, upright = np.asarray(image.convert("RGB")), np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(pixels(content), stored)
    np.testing.assert_array_equal(pixels(content, Decoding(upright=True)), upright)
    assert decode(content).turned == (2 <= orientation <= 8)


def test_damaged_exif_costs_no_picture():
    content = encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(20))
    assert not decode(content).turned


# What is no picture


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found", "web page"),
        (b"\xef\xbb\xbf<HTML>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG"),
        (b'{"error": 404}', "JSON"),
        (b"Not found", "text"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe", "PostScript"),
        (b"8BPS\0\1", "Photoshop"),
        (b"PK\3\4", "archive"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "video"),
        (b"\xff\x0a\0", "JPEG XL"),
        (bytes(9000), "zero bytes"),
        *((encoded(noise((64, 64)), kind)[:30], kind) for kind in ("JPEG", "PNG", "WebP", "TIFF")),
        *((encoded(noise((64, 64)), kind)[:-300], "runcated") for kind in ("JPEG", "PNG", "GIF", "TIFF")),
        (encoded(noise((64, 64)), "WEBP")[:-300], "WebP that is damaged, or cut off"),
    ],
)
def test_what_is_no_picture_is_named(content, words):
    with pytest.raises(OSError, match=words) as caught:
        decode(content)
    reason = unreadable_reason(Path("a.jpg"), caught.value)
    assert words in reason
    assert "0x" not in reason  # an address would make the store's list of reasons another one each time
    assert reason.isprintable()


def test_a_file_of_many_bytes_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as handle:
        handle.truncate(2**40)
    with pytest.raises(ValueError, match="more than 1,073,741,824 bytes"):
        read_image(tmp_path / "a.png")


def test_a_large_picture_is_read_without_a_warning(recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    assert decode(encoded(noise((64, 64)), "PNG")).image.size == (64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError, match="more than 4,094 pixels; make it smaller"):
        decode(encoded(noise((64, 64)), "PNG"))


# Suffixes


def build(root, suffix=".png"):
    """Four leaves of six pictures, all different, all of them noise."""
    rows = ["leaf,leaf_phrase,number,hypernym,hypernym_phrase"]
    for place, (hypernym, leaf) in enumerate((top, leaf) for top, leaves in LEAVES.items() for leaf in leaves):
        rows.append(f"{leaf},a {leaf},singular,{hypernym},a {hypernym}")
        (root / "images" / leaf).mkdir(parents=True)
        for number in range(6):
            noise((40, 40), seed=10 * place + number).save(root / "images" / leaf / f"{number}{suffix}", "PNG")
    (root / "taxonomy.csv").write_text("\n".join(rows))
    return root


KINDS = {".jp2": "JPEG2000", ".j2k": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"}


@pytest.mark.parametrize("suffix", [*SUFFIXES, *map(str.upper, SUFFIXES)])
def test_every_suffix_is_taken_and_read(suffix, tmp_path):
    root = build(tmp_path)
    kind = Image.registered_extensions()[suffix.lower()]
    added = root / "images" / "crow" / f"added{suffix}"
    added.write_bytes(encoded(noise((40, 40), "1" if suffix.lower() == ".pbm" else "RGB", seed=99), kind))
    dataset = load_dataset(root)
    assert f"crow/added{suffix}" in set(dataset.images["key"])
    assert read_image(added).size == (40, 40)
    assert dataset.notes == ()
    added.write_bytes(encoded(noise((30, 20)), "PNG"))  # a suffix may lie
    assert read_image(added).size == (30, 20)


@pytest.mark.parametrize("suffix", ["jpg", "HEIC", ".tif"])
def test_pictures_that_are_not_read_are_counted_and_converting_them_helps(suffix, tmp_path):
    assert not set(SUFFIXES) & set(UNREAD_SUFFIXES)
    root = build(tmp_path)
    plain = load_dataset(root)
    for number, unread in enumerate([*UNREAD_SUFFIXES, ".HEIC"]):
        (root / "images" / "crow" / f"photo{number}{unread}").write_bytes(b"x")
    (root / "images" / "crow" / "Thumbs.db").write_bytes(b"x")
    dataset = load_dataset(root)
    counted, ignored = dataset.notes
    assert f"{len(UNREAD_SUFFIXES) + 1} images" in counted
    assert "2 .heic" in counted
    assert "1 .svg" in counted
    assert "Thumbs.db" in ignored
    assert dataset.digest == plain.digest
    noise((40, 40), seed=99).save(root / "images" / "crow" / "photo0.png")
    (root / "images" / "crow" / "photo0.heic").unlink()
    assert "1 .heic" in load_dataset(root).notes[0]
    assert len(load_dataset(root).images) == len(plain.images) + 1


def test_a_leaf_of_unread_pictures_only_says_so(tmp_path, crosstax):
    root = build(tmp_path)
    for path in (root / "images" / "owl").iterdir():
        path.rename(path.with_suffix(".heic"))
    code, _, message = crosstax("stats", root)
    assert code == 2
    assert "images/owl: 6 images are of kinds that are not read (6 .heic)" in message


# Through extraction and back


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_encoder("dinov2", "hf", tmp_path_factory.mktemp("encoder")))


def test_distinct_deep_pictures_have_distinct_features(encoder, tmp_path):
    root = build(tmp_path / "dataset")
    rng = np.random.default_rng(0)
    for path in (root / "images").rglob("*.png"):
        Image.fromarray(rng.integers(256, 2**16, (30, 30), dtype=np.uint16)).save(path)
    extract(load_dataset(root), encoder, tmp_path / "f.h5", device="cpu")
    store = FeatureStore.open(tmp_path / "f.h5")
    assert len(np.unique(store.pooled_patches.round(4), axis=0)) == 24


def strange(root):
    """Make pictures of the dataset transparent, deep or turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    rng = np.random.default_rng(1)
    for leaf in (root / "images").iterdir():
        for number, path in enumerate(sorted(leaf.iterdir())):
            if number % 3 == 0:
                Image.fromarray(rng.integers(0, 2**16, (50, 40), dtype=np.uint16)).save(path, "PNG")
            elif number % 3 == 1:
                image = noise((50, 40), "RGBA", seed=number)
                image.putalpha(noise((50, 40), "L", seed=number + 1))
                image.save(path, "PNG")
            else:
                noise((50, 40), seed=number).save(path, "JPEG", exif=exif)
    return root


@pytest.mark.parametrize(
    "decoding",
    [None, Decoding("#204060", upright=True), Decoding(background=None)],
    ids=["default", "chosen", "before the attribute"],
)
def test_ask_decodes_as_the_store_says(decoding, encoder, tmp_path):
    root = strange(write_pictures(tmp_path / "dataset"))
    summary = extract(load_dataset(root), encoder, tmp_path / "features.h5", device="cpu", batch=4, decoding=decoding)
    assert summary["turned"] == 8
    if decoding and decoding.background is None:  # as stores were made once
        with h5py.File(tmp_path / "features.h5", "r+") as file:
            del file.attrs["decoding"]
    run = train_run(tmp_path, Path(encoder), write_lm(tmp_path / "lm"))
    saved, asked = saved_and_asked(open_asker(run, "cpu"))
    assert abs(asked - saved).max() < 1e-5


def test_stores_of_different_decodings_differ_only_where_pictures_do(encoder, tmp_path):
    root = build(tmp_path / "dataset")
    dataset = load_dataset(root)
    digests = {}
    for name in ("plain", "transparent"):
        if name == "transparent":
            two_halves().resize((40, 40)).save(root / "images" / "crow" / "0.png")
        for decoding in (Decoding(), Decoding("#000000"), Decoding(None)):
            out = tmp_path / f"{name}{decoding.background}.h5"
            extract(dataset, encoder, out, device="cpu", decoding=decoding)
            store = FeatureStore.open(out)
            assert Decoding.of(store.attributes) == decoding
            digests.setdefault(name, set()).add(store.digest)
    assert len(digests["plain"]) == 1
    assert len(digests["transparent"]) == 3


def test_a_store_goes_on_as_it_was_begun(encoder, tmp_path, crosstax):
    root, out = build(tmp_path / "dataset"), tmp_path / "f.h5"
    words = ["extract", root, "--encoder", encoder, "--out", out, "--device", "cpu", "--batch", 4]
    code, _, message = crosstax(*words, "--part", "1/2", "--background", "Navy", "--json")
    assert code == 0, message
    code, _, message = crosstax(*words, "--background", "red")
    assert code == 2
    assert "decoded otherwise" in message
    code, written, message = crosstax(*words, "--json")
    assert code == 0
    assert "#000080" in message
    assert "#000080" in last_json(written)["decoding"]
    code, _, message = crosstax(*words[:5], tmp_path / "other.h5", "--device", "cpu", "--background", "red")
    assert code == 0  # the remedy
    with h5py.File(out, "r+") as file:
        file.attrs["decoding"] = "of a later version"
    with pytest.raises(StoreError, match="later version"):
        Decoding.of(FeatureStore.open(out).attributes)
    with h5py.File(out, "r+") as file:
        del file.attrs["decoding"]
    code, _, message = crosstax("doctor", "--features", out)
    assert code == 0
    assert "transparency dropped" in message


def test_extract_counts_turned_pictures_and_upright_helps(encoder, tmp_path, crosstax):
    root = strange(build(tmp_path / "dataset"))
    words = ["extract", root, "--encoder", encoder, "--device", "cpu", "--out"]
    code, _, message = crosstax(*words, tmp_path / "a.h5")
    assert code == 0
    assert "8 images are stored turned" in message
    assert "--upright" in message
    upright = {"encoder": encoder, "device": "cpu", "decoding": Decoding(upright=True)}
    extract_in_parts(load_dataset(root), tmp_path / "b.h5", upright, 2, in_this_process)
    code, _, message = crosstax(*words, tmp_path / "b.h5", "--upright")
    assert "stored turned" not in message
    first, second = (FeatureStore.open(tmp_path / name) for name in ("a.h5", "b.h5"))
    differ = {key for key, a, b in zip(first.keys, first.crc32, second.crc32, strict=True) if a != b}
    assert differ == {key for key in first.keys if read_image(root / "images" / key).size == (50, 40)} - {
        key for key in first.keys if decode((root / "images" / key).read_bytes()).transparent
    }


# What doctor says of a dataset


def findings(crosstax, root):
    code, out, message = crosstax("doctor", "--dataset", root, "--json")
    return code, last_json(out)["images"], message


def test_doctor_finds_everything_and_its_advice_helps(tmp_path, crosstax):
    root = build(tmp_path)
    images = root / "images"
    code, found, message = findings(crosstax, root)
    assert code == 0
    assert not any(found["duplicates"].values())
    assert not any(value for name, value in found.items() if name != "duplicates")
    assert "all images can be read" in message

    (images / "crow" / "again.png").write_bytes((images / "crow" / "0.png").read_bytes())
    noise((40, 40), seed=1).save(images / "owl" / "same pixels.bmp")  # crow/1.png, as another file
    Image.new("L", (40, 40), 255).save(images / "saw" / "white.png")
    Image.new("RGB", (9, 9), "black").save(images / "saw" / "black.jpg")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(images / "saw" / "deep.png")
    two_halves().resize((40, 40)).save(images / "saw" / "clear.png")
    frames = [noise((40, 40), seed=70 + number) for number in range(2)]
    frames[0].save(images / "saw" / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 8
    noise((40, 40), seed=80).save(images / "saw" / "turned.jpg", exif=exif)
    code, found, message = findings(crosstax, root)
    assert code == 0
    assert found == {
        "unreadable": {},
        "duplicates": {
            "within_leaf": [["crow/0.png", "crow/again.png"]],
            "across_leaves": [["crow/1.png", "owl/same pixels.bmp"]],
            "across_split": [],
        },
        "flat": ["saw/black.jpg", "saw/white.png"],
        "small": ["saw/black.jpg"],
        "turned": ["saw/turned.jpg"],
        "transparent": ["saw/clear.png"],
        "deep": ["saw/deep.png"],
        "several": ["saw/moving.gif"],
    }
    assert "drawn split" in message
    for key in ("crow/0.png = crow/again.png", *(f"saw/{path.name}" for path in (images / "saw").glob("[a-z]*"))):
        assert key in message

    keys = load_dataset(root).images["key"]
    split = ["test" if key == "crow/again.png" else "train" for key in keys]
    (root / "split.csv").write_text("\n".join(["key,split", *map(",".join, zip(keys, split, strict=True))]))
    _, found, message = findings(crosstax, root)
    assert found["duplicates"]["across_split"] == [["crow/0.png", "crow/again.png"]]
    assert "drawn split" not in message

    (root / "split.csv").unlink()
    for name in ("crow/again.png", "owl/same pixels.bmp"):
        (images / name).unlink()
    _, found, _ = findings(crosstax, root)
    assert not any(found["duplicates"].values())


def test_doctor_lists_all_unreadable_pictures_and_twenty_lines(tmp_path, crosstax):
    root = build(tmp_path)
    paths = sorted((root / "images").rglob("*.png"))
    for path in paths[:-1]:
        path.write_bytes(b"<html>")
    code, found, message = findings(crosstax, root)
    assert code == 2
    assert len(found["unreadable"]) == 23
    error = message[message.index("error: ") :]
    assert "23 unreadable" in error
    assert "and 3 more" in error
    assert error.count("web page") == 20
    for path in paths[:-1]:
        path.unlink()
    assert inspect_images(load_dataset(build(tmp_path / "anew"))).unreadable == {}  # "replace them" helps


# What an encoder's own preprocessing says


PROCESSOR = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
RAW = {"image_mean": [110.0, 120.0, 130.0], "image_std": [50.0, 60.0, 70.0]}


@pytest.mark.parametrize("kind", ["BitImageProcessor", "SiglipImageProcessor", "ViTImageProcessor"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"do_rescale": False, **RAW},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 0.003921568859368563},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"do_convert_rgb": False},
        {"image_mean": 0.5, "image_std": 0.25},
        {"resample": 0},
        {"size": {"shortest_edge": SIDE}, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}},
    ],
    ids=lambda fields: ",".join(fields) or "plain",
)
def test_values_are_those_of_transformers(kind, fields, tmp_path):
    """On a picture of the right size already, where resizing and cropping do nothing."""
    square = {"do_center_crop": False} if kind == "BitImageProcessor" else {}
    if kind != "BitImageProcessor" and "do_center_crop" in fields:
        pytest.skip("has no crop")
    processor = {**PROCESSOR, **square, **fields, "image_processor_type": kind}
    save_hf("dinov2", tmp_path, processor)
    image = noise((SIDE, SIDE))
    ours = load_encoder(str(tmp_path), "cpu").transform(image)
    assert ours.std() > 0.1
    for backend in (f"{kind}Pil", kind):
        theirs = getattr(transformers, backend).from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * max(1, abs(ours).max()))


@pytest.mark.parametrize(("number", "name"), [(0, "nearest"), (1, "lanczos"), (2, "bilinear"), (3, "bicubic")])
def test_the_filter_is_the_preprocessors(number, name, tmp_path):
    save_hf("siglip", tmp_path, PROCESSOR | {"resample": number, "image_processor_type": "SiglipImageProcessor"})
    image = noise((90, 70))
    encoder = load_encoder(str(tmp_path), "cpu")
    theirs = transformers.SiglipImageProcessorPil.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(encoder.transform(image), theirs[0], atol=1e-6)
    assert f"resize {SIDE}x{SIDE} {name}, /255" in encoder.attributes["transform"]


def test_what_a_file_leaves_open_its_class_decides(tmp_path):
    save_hf("dinov2", tmp_path, PROCESSOR | {"image_processor_type": "ViTImageProcessor"})
    assert "bilinear" in load_encoder(str(tmp_path), "cpu").attributes["transform"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"do_thumbnail": True}, "do_thumbnail"),
        ({"resample": 9}, "resample is 9"),
        ({"resample": "bicubic"}, "resample is 'bicubic'"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "three numbers"),
        ({"image_mean": ["a", "b", "c"]}, "three numbers"),
        ({"image_mean": None}, "three numbers"),
        ({"size": {"shortest_edge": 30, "longest_edge": 60}}, "append @SIZE"),
        ({"size": None}, "append @SIZE"),
        ({"size": {"height": "a", "width": "a"}}, "append @SIZE"),
    ],
)
def test_what_a_preprocessor_asks_for_in_vain_is_refused(fields, words, tmp_path):
    save_hf("dinov2", tmp_path, PROCESSOR | fields)
    with pytest.raises(ModelError) as caught:
        load_encoder(str(tmp_path), "cpu")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    if "@SIZE" in words:  # the remedy
        assert load_encoder(f"{tmp_path}@{SIDE}", "cpu").transform.size == SIDE


def test_shapes_follow_the_paper_and_what_is_left_out_is_recorded(tmp_path, crosstax):
    crop = {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
    save_hf("dinov2", tmp_path / "e", PROCESSOR | crop)
    encoder, plain = load_encoder(str(tmp_path / "e"), "cpu"), noise((90, 50))
    resized = plain.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(encoder.transform(plain), encoder.transform(resized))
    assert "centre crop" in encoder.attributes["left_out"]
    assert "crop" not in encoder.attributes["transform"]  # features do not depend on it
    code, _, message = crosstax(
        "extract", build(tmp_path / "d"), "--encoder", tmp_path / "e", "--out", tmp_path / "f.h5"
    )
    assert code == 0
    assert message.count("centre crop") == 1
    assert "centre crop" in FeatureStore.open(tmp_path / "f.h5").attributes["left_out"]


# timm's families


SMALL = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 4}
OF_14 = SMALL | {"img_size": 56}
# architecture -> arguments
FAMILIES = {
    "vit_tiny_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "deit3_small_patch16_224": SMALL,
    "vit_small_patch14_reg4_dinov2": OF_14,
    "vit_small_patch16_dinov3": SMALL,
    "vit_base_patch16_siglip_gap_224": SMALL,
    "vit_wee_patch16_reg1_gap_256": SMALL,
    "vit_relpos_small_patch16_224": SMALL,
    "beit_base_patch16_224": SMALL,
    "eva02_tiny_patch14_224": OF_14,
    "flexivit_small": SMALL,
    "convit_tiny": {**SMALL, "embed_dim": 12, "local_up_to_layer": 1},
    "cait_xxs24_224": SMALL,
    "xcit_nano_12_p16_224": SMALL,
}


def save_small(folder, name, **arguments):
    model = timm.create_model(name, num_classes=0, **arguments).eval()
    randomise(model)
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_patch_of_the_grid_is_there_and_nothing_else(name, tmp_path):
    arguments = FAMILIES[name]
    model = save_small(tmp_path, name, **arguments)
    encoder = load_encoder(str(tmp_path), "cpu")
    x = torch.randn(2, 3, arguments["img_size"], arguments["img_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        *_, patches, _ = model.forward_intermediates(x, output_fmt="NLC", norm=False, intermediates_only=True)
    assert encoder.n_patches == patches.shape[1] == 16
    assert float((encoder(x).patches - patches).abs().max()) < 1e-5 * float(patches.abs().max())


def test_a_store_that_lacks_a_patch_is_not_gone_on_with(tmp_path):
    """As older versions made them of CaiT and XCiT: all else about them is the same."""
    save_small(tmp_path / "e", "cait_xxs24_224", **SMALL)
    encoder, dataset = load_encoder(str(tmp_path / "e"), "cpu"), load_dataset(build(tmp_path / "d"))
    read = encoder.models[0].read
    older = dataclasses.replace(encoder.models[0], read=lambda x: (read(x)[0][:, 1:], read(x)[1]))
    older = dataclasses.replace(encoder, models=(older,), n_patches=15)
    extract(dataset, older, tmp_path / "f.h5", batch=4, part=(1, 2))
    with pytest.raises(StoreError, match=r"15 patches .* gives 16"):
        extract(dataset, encoder, tmp_path / "f.h5", batch=4)
    extract(dataset, encoder, tmp_path / "other.h5", batch=4)
    assert FeatureStore.open(tmp_path / "other.h5").patches.shape == (24, 16, 48)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", SMALL | {"img_size": (64, 96)}),
    ],
)
def test_models_without_one_row_of_patches_are_refused(name, arguments, tmp_path):
    if not timm.is_model(name):
        pytest.skip("not in this version of timm")
    save_small(tmp_path, name, **arguments)
    with pytest.raises(ModelError, match="choose a") as caught:
        load_encoder(str(tmp_path), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"interpolation": "bilinear"}, "bilinear, /255"),
        ({"interpolation": "random"}, None),
        ({"mean": [0.1, 0.2, 0.3]}, "mean 0.1,0.2,0.3"),
        ({"mean": [0.5]}, None),
        ({"std": [0, 1, 1]}, None),
    ],
)
def test_a_pretrained_cfg_is_honoured_or_refused(fields, words, tmp_path):
    save_small(tmp_path, "vit_tiny_patch16_224", **SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= fields
    (tmp_path / "config.json").write_text(json.dumps(config))
    if words is None:
        with pytest.raises(ModelError, match=next(iter(fields)) if "interpolation" in fields else "three numbers"):
            load_encoder(str(tmp_path), "cpu")
    else:
        attributes = load_encoder(str(tmp_path), "cpu").attributes
        assert words in attributes["transform"]
        assert "crop" in attributes["left_out"]


def test_members_of_a_fused_encoder_share_a_filter_and_keep_their_scale(tmp_path):
    for name, fields in (("a", {}), ("b", {"resample": 2}), ("c", {"do_rescale": False, **RAW})):
        save_hf("dinov2", tmp_path / name, PROCESSOR | fields)
    with pytest.raises(ModelError, match="bicubic and bilinear"):
        load_encoder(f"{tmp_path / 'a'}+{tmp_path / 'b'}", "cpu")
    fused, alone = (load_encoder(name, "cpu") for name in (f"{tmp_path / 'a'}+{tmp_path / 'c'}", str(tmp_path / "c")))
    image = noise((90, 70))
    both, one = (each(torch.from_numpy(each.transform(image))[None]).patches for each in (fused, alone))
    assert float((both[..., -one.shape[-1] :] - one).abs().max()) < 1e-3 * float(one.abs().max())
