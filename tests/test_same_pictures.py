"""Features count only for the pictures they were made from, and only as they were written."""

import errno
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from small_study import write_dataset
from test_extract import BATCH, SIDE, save_encoder

from cachegen.common.errors import StoreError
from cachegen.data.dataset import load_dataset
from cachegen.features import extract as extraction
from cachegen.features import same_pictures
from cachegen.features.extract import extract
from cachegen.features.same_pictures import check_pictures
from cachegen.features.store import PENDING, FeatureStore, times_path
from engine.design.condition import Condition
from engine.doctor import examine_features
from engine.sweeps.dry_run import dry_run
from engine.sweeps.sweep_file import Wanted
from engine.training.features import Features

CROW, GULL = "crow/crow_01.png", "gull/gull_02.png"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, encoder):
    """21 images, all of one size in bytes, and their store."""
    home, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    root = write_dataset(home / "dataset", {"thing": ["crow", "gull", "saw"]}, images=7)
    for path in sorted(root.glob("images/*/*.png")):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path, "BMP")
    assert len({path.stat().st_size for path in root.glob("images/*/*.png")}) == 1
    extract(load_dataset(root), encoder, home / "f.h5", batch=BATCH, device="cpu")
    return home


@pytest.fixture
def home(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "home"))


def check(home, deep=False, store="f.h5"):
    return check_pictures(load_dataset(home / "dataset"), FeatureStore.open(home / store), deep)


def picture(home, key):
    return home / "dataset" / "images" / key


def flip(path, place=-1, times=True):
    """Change one byte of a file, or with `times=False` leave its time of modification as it was."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    if not times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap(one, other):
    content, times = one.read_bytes(), one.stat()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    for path in (one, other):
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace_folder(home):
    """All crows by gulls, with the times that a copy keeps."""
    for number in range(7):
        shutil.copy2(picture(home, f"gull/gull_{number:02}.png"), picture(home, f"crow/crow_{number:02}.png"))


def moved_there(home):
    shutil.copy2(picture(home, GULL), home / "gull")
    (home / "gull").rename(picture(home, CROW))


def link_to_gull(home):
    picture(home, CROW).unlink()
    picture(home, CROW).symlink_to(picture(home, GULL))


CHANGES = {
    "one byte": lambda home: flip(picture(home, CROW)),
    "one byte, old time": lambda home: flip(picture(home, CROW), times=False),
    "one byte, time of the epoch": lambda home: (flip(picture(home, CROW)), os.utime(picture(home, CROW), (0, 0))),
    "another size": lambda home: picture(home, CROW).write_bytes(picture(home, CROW).read_bytes() + b"more"),
    "another picture of equal size": lambda home: shutil.copy(picture(home, GULL), picture(home, CROW)),
    "another picture moved there": moved_there,
    "two that changed places": lambda home: swap(picture(home, CROW), picture(home, GULL)),
    "a leaf full of another's": replace_folder,
    "a link to another": link_to_gull,
    "emptied": lambda home: picture(home, CROW).write_bytes(b""),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_named_and_both_remedies_help(made, home, encoder, change):
    CHANGES[change](home)
    with pytest.raises(
        StoreError, match=r"crow/crow_0.\.png.*restore them, or extract them into a new store"
    ) as refused:
        check(home)
    assert ("gull/" in str(refused.value)) == (change == "two that changed places")
    with pytest.raises(StoreError, match="crow/crow_01"):  # it is not taken for the same the second time
        check(home)
    with pytest.raises(StoreError, match="crow/crow_01"):
        extract(load_dataset(home / "dataset"), encoder, home / "f.h5", batch=BATCH, device="cpu")
    again = load_dataset(home / "dataset")
    extract(again, encoder, home / "new.h5", batch=BATCH, device="cpu", on_unreadable="mark")
    assert check(home, store="new.h5") == 0
    shutil.rmtree(home / "dataset")
    shutil.copytree(made / "dataset", home / "dataset")
    assert check(home) == 21
    assert check(home) == 0


def test_pictures_are_read_only_where_they_look_otherwise(home):
    assert check(home) == 21  # a copy: its times are its own
    assert check(home) == 0
    os.utime(picture(home, CROW))
    assert check(home) == 1
    assert check(home) == 0
    picture(home, CROW).chmod(0o640)
    assert check(home) == 1
    os.utime(picture(home, CROW), ns=(0, 2**63 + 5))
    assert check(home) == 1
    assert check(home) == 0
    assert check(home, deep=True) == 21


def test_extraction_notes_what_it_reads(home, encoder):
    extract(load_dataset(home / "dataset"), encoder, home / "new.h5", batch=BATCH, device="cpu")
    assert check(home, store="new.h5") == 0
    assert (home / "new.h5").read_bytes() == (home / "f.h5").read_bytes()
    assert times_path(home / "new.h5").read_bytes() != times_path(home / "f.h5").read_bytes()


def test_what_looks_the_same_is_found_by_content(home, crosstax, monkeypatch):
    """As on a file system whose clock stands still: only `--deep` can tell."""
    check(home)
    status = picture(home, CROW).stat()
    flip(picture(home, CROW))
    look = same_pictures._look
    monkeypatch.setattr(same_pictures, "_look", lambda now: look(status if now.st_ino == status.st_ino else now))
    words = ("doctor", "--dataset", home / "dataset", "--features", home / "f.h5")
    assert crosstax(*words)[0] == 0
    code, _, err = crosstax(*words, "--deep")
    assert code == 2
    assert CROW in err


CACHES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "long": lambda path: path.write_bytes(path.read_bytes() * 9),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("no cache\n" * 99),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("spoil", CACHES)
def test_a_cache_that_tells_nothing_hides_nothing(home, spoil):
    check(home)
    CACHES[spoil](times_path(home / "f.h5"))
    assert check(home) == {"short": 18, "torn": 1, "long": 0}.get(spoil, 21)
    flip(picture(home, CROW), times=False)
    with pytest.raises(StoreError, match=CROW):
        check(home)


def test_the_cache_of_another_store_hides_nothing(home, encoder):
    """A store is made from changed pictures, and the old one put in its place: the looks are known, the hash is not."""
    flip(picture(home, CROW))
    extract(load_dataset(home / "dataset"), encoder, home / "new.h5", batch=BATCH, device="cpu")
    assert check(home, store="new.h5") == 0
    shutil.copy(home / "f.h5", home / "new.h5")
    with pytest.raises(StoreError, match=CROW):
        check(home, store="new.h5")


def test_a_part_of_the_pictures_is_enough_to_train_on(home, encoder):
    shutil.rmtree(home / "dataset" / "images" / "saw")
    taxonomy = home / "dataset" / "taxonomy.csv"
    taxonomy.write_text("".join(line for line in taxonomy.open() if not line.startswith("saw")))
    check(home)
    with pytest.raises(StoreError, match=r"7 images that .* lacks \(saw/saw_00\.png.*choose another --out"):
        extract(load_dataset(home / "dataset"), encoder, home / "f.h5", batch=BATCH, device="cpu")
    flip(picture(home, CROW))
    with pytest.raises(StoreError, match=CROW):
        check(home)


def test_a_picture_that_the_store_lacks_is_named(home, encoder):
    picture(home, CROW).rename(picture(home, "crow/crow_99.png"))
    for act in (
        lambda: check(home),
        lambda: extract(load_dataset(home / "dataset"), encoder, home / "f.h5", batch=BATCH),
    ):
        with pytest.raises(StoreError, match=r"has no image crow/crow_99\.png"):
            act()


def test_a_picture_that_changes_before_extraction_goes_on_is_named(home, encoder):
    with h5py.File(home / "f.h5", "r+") as file:
        file["done"][8:] = PENDING
    flip(picture(home, CROW))
    with pytest.raises(StoreError, match=CROW):
        extract(load_dataset(home / "dataset"), encoder, home / "f.h5", batch=BATCH, device="cpu")
    assert (FeatureStore.open(home / "f.h5", allow_pending=True).done == PENDING).sum() == 13
    flip(picture(home, CROW))
    flip(picture(home, "saw/saw_00.png"))  # nothing has been made of it
    extract(load_dataset(home / "dataset"), encoder, home / "f.h5", batch=BATCH, device="cpu")
    assert check(home) == 0


def as_earlier(path):
    """The store as earlier versions wrote it."""
    with h5py.File(path, "r+") as file:
        del file["sha256"], file["crc32_pooled"], file.attrs["decoding"]


def test_stores_of_earlier_versions_stay_readable_and_say_what_they_do_not_know(home, encoder, crosstax):
    digest = FeatureStore.open(home / "f.h5").digest
    as_earlier(home / "f.h5")
    store = FeatureStore.open(home / "f.h5")
    assert store.digest == digest
    store.verify()
    store.verify_pooled()
    assert check(home) == 0
    summary = extract(load_dataset(home / "dataset"), encoder, home / "f.h5", batch=BATCH, device="cpu")
    assert (summary["encoded"], summary["digest"]) == (0, digest)
    code, _, said = crosstax("doctor", "--dataset", home / "dataset", "--features", home / "f.h5", "--deep")
    assert code == 0
    assert "does not know their content" in said
    picture(home, CROW).write_bytes(b"another size")
    for act in (
        lambda: check(home),
        lambda: extract(load_dataset(home / "dataset"), encoder, home / "f.h5", batch=BATCH),
    ):
        with pytest.raises(StoreError, match=r"an earlier version made it.*extract them into a new store"):
            act()


def test_what_was_decoded_otherwise_is_not_gone_on_with(home, encoder):
    as_earlier(home / "f.h5")
    dataset = load_dataset(home / "dataset")
    assert extract(dataset, encoder, home / "f.h5", batch=BATCH, device="cpu")["encoded"] == 0  # it is finished
    with h5py.File(home / "f.h5", "r+") as file:
        file["done"][8:] = PENDING
    with pytest.raises(StoreError, match="differs in decoding"):
        extract(dataset, encoder, home / "f.h5", batch=BATCH, device="cpu")


def zero(file):
    file["patches"][...] = 0


def bit(name, *place):
    """The lowest bit of one value."""

    def spoil(file):
        value = np.atleast_1d(file[name][place])
        value.view(np.uint8)[0] ^= 1
        file[name][place] = value[0]

    return spoil


DAMAGE = {
    "all patches zero": zero,
    "a patch value": bit("patches", 1, 0, 0),
    "the last patch value": bit("patches", 20, 3, 15),
    "a mean over patches": bit("pooled_patches", 1, 3),
    "a mean over tokens": bit("pooled_all_tokens", 1, 0),
    "rows that changed places": lambda file: file["patches"].__setitem__(slice(0, 2), file["patches"][:2][::-1]),
    "a row of another": lambda file: file["patches"].__setitem__(1, file["patches"][2]),
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_rows_are_refused_when_they_are_read(home, damage, in_memory):
    import torch

    def read():
        keys = FeatureStore.open(home / "f.h5").keys
        features = Features(home / "f.h5", keys, torch.device("cpu"), in_memory=in_memory)
        return [features.fetch(np.array(block)) for block in ([20, 0], [1, 2, 1], range(21), [1])]

    assert len(read()) == 4
    with h5py.File(home / "f.h5", "r+") as file:
        DAMAGE[damage](file)
    with pytest.raises(StoreError, match="do not match their checksum"):
        read()


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_pooled_vectors_are_refused_without_reading_patches(home, damage, earlier):
    """A store of an earlier version has but one checksum for both."""
    if earlier:
        as_earlier(home / "f.h5")
    FeatureStore.open(home / "f.h5").verify_pooled()
    with h5py.File(home / "f.h5", "r+") as file:
        DAMAGE[damage](file)
    if earlier or "mean" in damage:
        with pytest.raises(StoreError, match="do not match their checksum"):
            FeatureStore.open(home / "f.h5").verify_pooled()
    else:
        FeatureStore.open(home / "f.h5").verify_pooled()


@pytest.mark.parametrize("place", [0, 7, 8, 31])
def test_a_damaged_hash_is_not_taken_for_a_changed_picture(home, place):
    check(home)
    with h5py.File(home / "f.h5", "r+") as file:
        file["sha256"][1, place] ^= 128
    with pytest.raises(StoreError, match=r"checksum.*crow/crow_01"):
        check(home)
    with pytest.raises(StoreError, match=r"1 rows do not match(?s:.*)crow/crow_01"):
        FeatureStore.open(home / "f.h5").verify()


def test_doctor_lists_damaged_rows_up_to_twenty(home):
    with h5py.File(home / "f.h5", "r+") as file:
        zero(file)
    with pytest.raises(StoreError, match="21 rows") as damaged:
        examine_features(home / "f.h5")
    assert str(damaged.value).splitlines()[1:] == [
        *(f"  {key}" for key in FeatureStore.open(home / "f.h5").keys[:20]),
        "  ... and 1 more",
    ]


SYSTEM = [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ENOENT]


@pytest.mark.parametrize("number", SYSTEM)
def test_a_picture_that_the_file_system_does_not_give_is_not_marked_as_unreadable(home, encoder, monkeypatch, number):
    """Nor is one that memory does not suffice for; the same command goes on once it is there."""
    plain = Path.open

    def failing(path, *mode, **more):
        if path.name == Path(GULL).name:
            raise OSError(number, os.strerror(number))
        return plain(path, *mode, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        with pytest.raises(StoreError, match=rf"{GULL} cannot be read: {os.strerror(number)}"):
            run(home, encoder, on_unreadable="mark")
        picture(home, GULL).touch()
        with pytest.raises(StoreError, match=rf"{GULL} cannot be read: {os.strerror(number)}"):
            check(home)
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "decode", lambda *_: bytearray(1 << 62))
        with pytest.raises(StoreError, match="not enough memory"):
            run(home, encoder, on_unreadable="mark")
    assert run(home, encoder, on_unreadable="mark")["unreadable"] == {}


def run(home, encoder, **options):
    return extract(load_dataset(home / "dataset"), encoder, home / "new.h5", batch=BATCH, device="cpu", **options)


def test_a_dry_run_says_that_pictures_have_changed(home, tmp_path):
    wanted = [Wanted(home / "dataset", home / "f.h5", None, "my/lm", Condition())]
    said = [note for note in dry_run(wanted, tmp_path / "runs", "cpu")["notes"] if "have changed" in note]
    assert said == []
    flip(picture(home, CROW), times=False)
    (said,) = (note for note in dry_run(wanted, tmp_path / "runs", "cpu")["notes"] if "have changed" in note)
    assert said.startswith("would fail: ")
    assert CROW in said
