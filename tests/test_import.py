"""Features from elsewhere: whatever the file and the order of its rows, the same store; and mistakes in one line."""

import json
import re

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from small_study import write_dataset
from test_cli import last_json

from cachegen.common.errors import CrosstaxError, DatasetError, StoreError
from cachegen.data.dataset import load_dataset
from cachegen.features import importing
from cachegen.features.extract import extract
from cachegen.features.importing import find_keys, import_features
from cachegen.features.same_pictures import check_pictures
from cachegen.features.store import FeatureStore
from engine.design.condition import Sweep
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep
from engine.sweeps.sweep_file import default_fields

N, P, D = 20, 6, 5
NAMES = [f"item {number:02d}" for number in range(N)]
CPU = Execution(device="cpu")


@pytest.fixture
def values():
    """(N, P, D) float32 that float16 holds."""
    return np.random.default_rng(0).normal(size=(N, P, D)).astype(np.float16).astype(np.float32)


def save(path, values):
    """The array in a file of the kind that the suffix names; "x.f.npz": in Fortran order, compressed."""
    kind = path.suffix
    if kind == ".npy":
        np.save(path, values)
    elif kind == ".npz":
        write = np.savez_compressed if ".f." in path.name else np.savez
        write(path, features=np.asfortranarray(values) if ".f." in path.name else values, n=np.arange(3))
    elif kind == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("a/features", data=values, chunks=(3, *values.shape[1:]), compression="gzip")
            file["labels"] = np.arange(len(values))
    elif kind == ".safetensors":
        bits = torch.from_numpy(values)
        save_file({"features": bits.bfloat16() if ".b." in path.name else bits, "n": torch.zeros(3)}, path)
    elif values.ndim == 2:
        pd.DataFrame(values, columns=[f"d{n}" for n in range(values.shape[1])]).to_parquet(path)
    else:
        pd.DataFrame({"features": [[list(row) for row in each] for each in values]}).to_parquet(path)
    return path


def names_file(path, names):
    if path.suffix == ".txt":
        path.write_text("\n".join(names) + "\n")
    elif path.suffix == ".csv":
        pd.DataFrame({"number": range(len(names)), "key": names}).to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(names)))
    else:
        np.save(path, np.array(names))
    return path


@pytest.mark.parametrize("keys", ["k.txt", "k.csv", "k.json", "k.npy"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.f.npz", "x.h5", "x.safetensors", "x.parquet"])
@pytest.mark.parametrize("vectors", [False, True])
def test_every_kind_of_file_in_any_order_gives_the_same_store(tmp_path, values, name, keys, vectors, monkeypatch):
    monkeypatch.setattr(importing, "BLOCK_BYTES", 8 * P * D * 3)  # blocks of three rows and more
    values = values[:, 0] if vectors else values
    order = np.random.default_rng(1).permutation(N)
    plain = tmp_path / "plain.h5"
    import_features(save(tmp_path / "x.npy", values), names_file(tmp_path / "k.txt", NAMES), plain, dtype="float16")
    shuffled = save(tmp_path / name, values[order])
    out = tmp_path / "out.h5"
    import_features(shuffled, names_file(tmp_path / keys, [NAMES[n] for n in order]), out, dtype="float16")
    one, two = FeatureStore.open(plain), FeatureStore.open(out)
    two.verify()
    expected = values.reshape(N, -1, D)
    assert two.keys == NAMES
    assert np.array_equal(two.patches, expected.astype(np.float16))
    np.testing.assert_allclose(two.pooled_patches, expected.mean(1), rtol=1e-6, atol=1e-6)
    assert two.digest == one.digest
    (tmp_path / "other.h5").unlink(missing_ok=True)  # control: other names for the same rows
    import_features(shuffled, names_file(tmp_path / "k.txt", NAMES), tmp_path / "other.h5", dtype="float16")
    assert FeatureStore.open(tmp_path / "other.h5").digest != one.digest


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_grid_is_kept(tmp_path, channels_first):
    values = np.random.default_rng(0).normal(size=(N, 2, 3, D)).astype(np.float32)
    saved = np.moveaxis(values, -1, 1) if channels_first else values
    file, keys = save(tmp_path / "x.npy", saved), names_file(tmp_path / "k.txt", NAMES)
    summary = import_features(file, keys, tmp_path / "out.h5", channels_first=channels_first)
    store = FeatureStore.open(tmp_path / "out.h5")
    assert summary["grid"] == store.attributes["grid"] == "2x3"
    expected = torch.from_numpy(values.reshape(N, 6, D)).bfloat16()
    assert torch.equal(store.patch_tensor(np.arange(N)), expected)
    flat = import_features(save(tmp_path / "y.npy", values.reshape(N, 6, D)), keys, tmp_path / "flat.h5")
    assert flat["digest"] != summary["digest"]  # pooling would differ


def test_16_bits_are_kept_as_they_are(tmp_path, values):
    keys = names_file(tmp_path / "k.txt", NAMES)
    half = import_features(save(tmp_path / "x.npy", values.astype(np.float16)), keys, tmp_path / "half.h5")
    assert half["dtype"] == "float16"
    brain = import_features(save(tmp_path / "x.b.safetensors", values), keys, tmp_path / "brain.h5")
    assert brain["dtype"] == "bfloat16"
    store = FeatureStore.open(tmp_path / "brain.h5")
    assert torch.equal(store.patch_tensor(np.arange(N)), torch.from_numpy(values).bfloat16())


def test_an_array_is_not_read_whole(tmp_path, monkeypatch):
    """The largest block that is taken at once is of the asked size."""
    monkeypatch.setattr(importing, "BLOCK_BYTES", 8 * P * D * 2)
    taken = []
    block = importing.Arrangement.block
    monkeypatch.setattr(
        importing.Arrangement, "block", lambda self, values: taken.append(len(values)) or block(self, values)
    )
    for name in ("x.npy", "x.npz", "x.h5", "x.safetensors"):
        file = save(tmp_path / name, np.ones((N, P, D), np.float32))
        import_features(file, names_file(tmp_path / "k.txt", NAMES), tmp_path / f"{name}.store")
    assert max(taken) == 2
    assert sum(taken) == 4 * N


def test_names_mean_keys_by_path_and_by_file_name():
    known = ["crow/crow_01.jpg", "crow/crow_02.jpg", "owl/owl_01.jpg", "owl/same.jpg", "crow/same.jpg", "a word"]
    said = {
        "crow/crow_01.jpg": "crow/crow_01.jpg",
        "/data/images/crow/crow_02.jpg": "crow/crow_02.jpg",
        "images\\owl\\owl_01.jpg": "owl/owl_01.jpg",
        "owl_01.jpg": "owl/owl_01.jpg",
        "crow_01": "crow/crow_01.jpg",
        "owl/same": "owl/same.jpg",
        "same.jpg": None,
        "raven.jpg": None,
        "a word": "a word",
    }
    assert dict(zip(said, find_keys(list(said), known), strict=True)) == said


@pytest.fixture
def pictures(tmp_path):
    return load_dataset(write_dataset(tmp_path / "birds", {"bird": ["crow", "owl"], "tool": ["saw", "axe"]}, images=3))


def test_pictures_are_matched_hashed_and_watched(tmp_path, pictures, crosstax):
    """File names without folders, and one row too many; a picture that changes later is noticed."""
    keys = list(pictures.images["key"])
    names = [key.rpartition("/")[2] for key in keys] + ["raven_01.png"]
    array = save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(len(names), 3)).astype(np.float32))
    listed, out = names_file(tmp_path / "file_names.txt", names), tmp_path / "out.h5"
    code, stdout, said = crosstax(
        "features", "import", array, "--keys", listed, "--dataset", pictures.root, "--out", out, "--json"
    )
    assert code == 0
    assert last_json(stdout)["superfluous"] == 1
    assert "1 rows" in said
    store = FeatureStore.open(out)
    assert store.keys == sorted(keys)
    assert check_pictures(pictures, store) == 0  # remembered from the import
    assert check_pictures(pictures, store, deep=True) == len(keys)
    pictures.image_path(keys[3]).write_bytes(b"another")
    with pytest.raises(StoreError, match=r"1 images .* have changed"):
        check_pictures(load_dataset(pictures.root), store)
    assert crosstax("doctor", "--features", out)[0] == 0
    with pytest.raises(CrosstaxError, match="exists"):
        import_features(array, listed, out, dataset=pictures)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda names: [*names[:-1], names[0]], ["1 occur twice", "1 of 12 images", "missing"]),
        (lambda names: ["raven.png", *names[1:]], ["1 of 12 images", "1 are of none (raven.png)"]),
        (lambda names: names[:-2], ["10 names", "12 rows"]),
    ],
)
def test_names_that_do_not_fit_are_counted_in_one_line(tmp_path, pictures, change, words):
    keys = list(pictures.images["key"])
    array = save(tmp_path / "x.npy", np.ones((12, 3), np.float32))
    listed = names_file(tmp_path / "k.txt", change(keys))
    with pytest.raises(StoreError) as error:
        import_features(array, listed, tmp_path / "out.h5", dataset=pictures)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*out.h5*"))


def bad(kind):
    def write(folder, values):
        if kind == "nan":
            values[7, 2, 1] = np.nan
        elif kind == "large":
            values[7, 2, 1] = 1e6
        elif kind == "objects":
            values = np.array([{"a": 1}] * N)
            np.save(folder / "x.npy", values, allow_pickle=True)
            return folder / "x.npy"
        elif kind == "text":
            (folder / "x.h5").write_text("not HDF5")
            return folder / "x.h5"
        elif kind == "flat":
            values = values[:, 0, 0]
        elif kind == "pickle":
            (folder / "x.pkl").write_bytes(b"")
            return folder / "x.pkl"
        elif kind == "narrow":
            save_file({"x": torch.zeros(N, 4).to(torch.float8_e4m3fn)}, folder / "x.safetensors")
            return folder / "x.safetensors"
        elif kind == "misnamed":
            return save(folder / "x.npy", values).rename(folder / "x.npz")
        elif kind == "several":
            np.savez(folder / "x.npz", a=values, b=values)
            return folder / "x.npz"
        elif kind == "ragged":
            pd.DataFrame({"f": [[1.0] * (1 + n % 2) for n in range(N)]}).to_parquet(folder / "x.parquet")
            return folder / "x.parquet"
        elif kind == "cut":
            save(folder / "x.npy", values)
            content = (folder / "x.npy").read_bytes()
            (folder / "x.npy").write_bytes(content[: len(content) // 2])
            return folder / "x.npy"
        elif kind == "gone":
            return folder / "x.npy"
        return save(folder / "x.npy", values)

    return write


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", r"row 7 \(item 07\)"),
        ("large", r"row 7 \(item 07\)"),
        ("objects", "pickled"),
        ("text", "not readable"),
        ("flat", r"shape \(20,\)"),
        ("pickle", ".npy, .npz"),
        ("several", "holds a, b; give --array"),
        ("narrow", "type F8_E4M3; save them as"),
        ("misnamed", "no zip archive"),
        ("ragged", "differ in length"),
        ("cut", "not readable"),
        ("gone", "no such file"),
    ],
)
def test_what_is_wrong_with_an_array_is_one_line(tmp_path, values, kind, words, crosstax):
    array = bad(kind)(tmp_path, values)
    keys, out = names_file(tmp_path / "k.txt", NAMES), tmp_path / "out.h5"
    code, _, said = crosstax("features", "import", array, "--keys", keys, "--out", out, "--dtype", "float16")
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error")]
    with pytest.raises(StoreError, match=words):
        import_features(array, keys, out, dtype="float16")
    assert line
    assert not list(tmp_path.glob("*out.h5*"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("k.csv", b"key,n\na,1\n,2\n"),
        ("k.json", b'["a", "b\\u0000"]'),
        ("k.txt", b""),
        ("k.json", b'{"a": 1}'),
        ("k.json", b"[1, 2]"),
        ("k.csv", b"a,b\n1,2\n"),
        ("k.txt", b"\xff\xfe"),
    ],
)
def test_what_is_no_list_of_names_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    array = save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / name))):
        import_features(array, tmp_path / name, tmp_path / "out.h5")


def test_a_table_names_its_own_rows(tmp_path):
    table = pd.DataFrame({"word": NAMES, "x": np.arange(N) / 8, "y": np.arange(N) / 4}, index=range(5, 5 + N))
    table.to_parquet(tmp_path / "vectors.parquet")
    import_features(tmp_path / "vectors.parquet", None, tmp_path / "out.h5", dtype="float16")
    store = FeatureStore.open(tmp_path / "out.h5")
    assert store.keys == NAMES
    assert np.array_equal(store.patches[:, 0].astype(float), table[["x", "y"]].to_numpy())


def test_a_run_on_imported_features_predicts_as_on_the_original_store(small_study, tmp_path):
    """The same features under the same keys, shuffled, through an array; without pictures and with them."""
    original = FeatureStore.open(small_study.features)
    order = np.random.default_rng(0).permutation(len(original.keys))
    array = save(tmp_path / "x.npy", original.patch_tensor(order).float().numpy())
    keys = names_file(tmp_path / "k.txt", [original.keys[row] for row in order])
    (run,) = run_sweep(small_study.sweep(), tmp_path / "runs", CPU)
    for dataset in (None, load_dataset(small_study.dataset)):
        out = tmp_path / f"{dataset is None}.h5"
        import_features(array, keys, out, dataset=dataset)
        (other,) = run_sweep(small_study.sweep(features=str(out)), tmp_path / out.stem, CPU)
        for name in ("questions.parquet", "predictions.parquet", "projector.safetensors"):
            assert (run / name).read_bytes() == (other / name).read_bytes()
    turned = names_file(tmp_path / "turned.txt", [original.keys[row] for row in order[::-1]])  # control
    import_features(array, turned, tmp_path / "turned.h5")
    (other,) = run_sweep(small_study.sweep(features=str(tmp_path / "turned.h5")), tmp_path / "turned", CPU)
    assert (run / "predictions.parquet").read_bytes() != (other / "predictions.parquet").read_bytes()


def test_items_cannot_be_encoded(tmp_path, pictures):
    (pictures.root / "items.csv").write_text("item,leaf\na,crow\n")
    with pytest.raises(DatasetError, match="images/ too"):
        load_dataset(pictures.root)
    for file in sorted(pictures.root.glob("images/**/*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (pictures.root / "images").rmdir()
    (pictures.root / "items.csv").write_text("item,leaf\na/1.wav,crow\nb,owl\nc,saw\nd,axe\n")
    with pytest.raises(DatasetError, match="features import"):
        extract(load_dataset(pictures.root), "none", tmp_path / "out.h5")


@pytest.mark.slow
def test_the_microworld_gives_the_same_predictions_through_an_array(smoke_world, tmp_path):
    """Extracted as float16, saved as .npy in another order, and imported under the pictures' names alone."""
    dataset = load_dataset(smoke_world.dataset)
    extract(dataset, str(smoke_world.encoder), tmp_path / "features.h5", dtype="float16", device="cpu")
    store = FeatureStore.open(tmp_path / "features.h5")
    order = np.random.default_rng(0).permutation(len(store.keys))
    array = save(tmp_path / "x.npy", store.patch_tensor(order).numpy())
    keys = names_file(tmp_path / "file_names.txt", [store.keys[row].rpartition("/")[2] for row in order])
    assert import_features(array, keys, tmp_path / "imported.h5", dataset=dataset)["dtype"] == "float16"
    inputs = {"dataset": str(smoke_world.dataset), "lm": str(smoke_world.lm), **default_fields("microworld")}
    grid = inputs | {"epochs": 1, "features": [str(tmp_path / "features.h5"), str(tmp_path / "imported.h5")]}
    one, two = run_sweep(Sweep.expand([grid], "test"), tmp_path / "runs", CPU)
    for name in ("questions.parquet", "predictions.parquet", "projector.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
