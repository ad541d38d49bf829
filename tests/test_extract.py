"""Extraction: right rows, same bytes however it was interrupted, and nothing replaced in silence."""

import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from test_system import LINUX_ONLY

from cachegen.common.errors import ModelError, RunError, StoreError
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.data.images import Transform, read_image
from cachegen.encoders import Encoded, Encoder, load_encoder
from cachegen.features import extract as extraction
from cachegen.features.extract import BLOCKS_AHEAD, BLOCKS_BEHIND, extract
from cachegen.features.store import DONE, FEATURES, PENDING, UNREADABLE, FeatureStore, reasons_path, row_checksum
from cachegen.features.writer import open_writer

SIDE, BATCH = 28, 4
LEAVES = ("crow", "gull", "saw")
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def save_encoder(folder: Path, seed: int = 0, scale: float = 1.0) -> str:
    torch.manual_seed(seed)
    config = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        patch_size=14,
        image_size=SIDE,
        layerscale_value=scale,
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    processor = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """21 images of 3 leaves, in every colour mode a folder may hold: blocks of 4, and one of 1 at the end."""
    root = tmp_path / "dataset"
    rng = np.random.default_rng(0)
    root.mkdir()
    rows = [f"{leaf},a {leaf},singular,thing,a thing" for leaf in LEAVES]
    (root / "taxonomy.csv").write_text("\n".join(["leaf,leaf_phrase,number,hypernym,hypernym_phrase", *rows]))
    for leaf in LEAVES:
        (root / "images" / leaf).mkdir(parents=True)
        for number, mode in enumerate(MODES):
            noise = Image.fromarray(rng.integers(0, 256, (20 + number, 33, 3), dtype=np.uint8))
            suffix = "jpg" if mode in ("RGB", "CMYK") else "png"
            noise.convert("RGB" if mode == "LA" else mode).save(root / "images" / leaf / f"{leaf}_{number}.{suffix}")
    return load_dataset(root)


def run(dataset: Dataset, encoder: str | Encoder, out: Path, **options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"batch": BATCH, "workers": 2, "device": "cpu"}
    return extract(dataset, encoder, out, **defaults | options)


def break_after(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    """The encoder stops as with Ctrl-C after this many blocks."""
    calls = iter(range(1000))
    plain = Encoder.__call__

    def interrupted(self: Encoder, pixels: torch.Tensor) -> Encoded:
        if next(calls) == blocks:
            raise KeyboardInterrupt
        return plain(self, pixels)

    monkeypatch.setattr(Encoder, "__call__", interrupted)


def test_each_row_is_its_own_image(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    summary = run(dataset, encoder, tmp_path / "f.h5")
    store = FeatureStore.open(tmp_path / "f.h5")
    store.verify()
    assert store.keys == dataset.images["key"].tolist()
    assert store.attributes["image_digest"] == dataset.image_digest
    assert {name: summary[name] for name in ("images", "encoded", "unreadable", "shape", "batch", "digest")} == {
        "images": 21,
        "encoded": 21,
        "unreadable": {},
        "shape": [21, 4, 16],
        "batch": BATCH,
        "digest": store.digest,
    }
    json.dumps(summary)
    model = load_encoder(encoder, "cpu")
    for row, key in enumerate(store.keys):
        alone = model(torch.from_numpy(model.transform(read_image(dataset.image_path(key))))[None])
        np.testing.assert_allclose(store.pooled_patches[row], alone.pooled_patches[0], atol=1e-5)
        np.testing.assert_allclose(store.pooled_all_tokens[row], alone.pooled_all_tokens[0], atol=1e-5)
        patches = store.patch_tensor(np.array([row]))[0]
        torch.testing.assert_close(patches, alone.patches[0].bfloat16(), rtol=0.01, atol=1e-5)
    assert len(np.unique(store.pooled_patches.round(4), axis=0)) == 21  # else any row would pass for any other


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_bits_are_those_of_a_plain_loop(
    dataset: Dataset, encoder: str, tmp_path: Path, compute: Any, device: str
) -> None:
    """Decode, encode and round one block after another: threads, pinned memory and copies beside it change nothing."""
    model = load_encoder(encoder, device, compute)
    run(dataset, model, tmp_path / "f.h5")
    store = FeatureStore.open(tmp_path / "f.h5")
    for start in range(0, 21, BATCH):
        keys = store.keys[start : start + BATCH]
        pixels = np.stack([model.transform(read_image(dataset.image_path(key))) for key in keys])
        encoded = model(torch.from_numpy(pixels))
        parts = [encoded.patches.bfloat16().cpu().view(torch.uint16), *(part.cpu() for part in encoded[1:])]
        for name, part in zip(FEATURES, parts, strict=True):
            assert part.numel() > 0
            np.testing.assert_array_equal(getattr(store, name)[start : start + len(keys)], part.numpy())
        for row, key in enumerate(keys):
            assert store.crc32[start + row] == row_checksum(key, [part.numpy()[row] for part in parts])


def test_bytes_do_not_depend_on_workers(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    for workers in (1, 5):
        run(dataset, encoder, tmp_path / f"{workers}.h5", workers=workers)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "5.h5").read_bytes()


def test_bytes_do_not_depend_on_what_only_linux_has(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dataset, encoder, tmp_path / "linux.h5")
    for name in LINUX_ONLY:
        monkeypatch.delattr(os, name)
    run(dataset, encoder, tmp_path / "macos.h5")
    assert (tmp_path / "macos.h5").read_bytes() == (tmp_path / "linux.h5").read_bytes()


@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_interrupted_and_resumed_equals_uninterrupted(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    run(dataset, encoder, tmp_path / "whole.h5")
    out = tmp_path / "resumed.h5"
    with monkeypatch.context() as patch:
        break_after(patch, blocks)
        with pytest.raises(KeyboardInterrupt):
            run(dataset, encoder, out)
    done = FeatureStore.open(out, allow_pending=True).done
    assert done.tolist() == [DONE] * blocks * BATCH + [PENDING] * (21 - blocks * BATCH)
    assert run(dataset, encoder, out, batch=7)["encoded"] == 21 - blocks * BATCH  # membership of blocks stays
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def hold_first_write(monkeypatch: pytest.MonkeyPatch, until: threading.Event) -> None:
    """The first block's rows do not reach the disk before `until` is set, which must not take long."""
    calls = itertools.count()
    plain = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        if next(calls) == 0:
            assert until.wait(20), "the encoder waits for the disk"
        plain(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)


def on_call(monkeypatch: pytest.MonkeyPatch, do: Callable[[int], None]) -> None:
    """Call `do(number of the block)` when the encoder is given a block."""
    numbers = itertools.count()
    plain = Encoder.__call__

    def watched(self: Encoder, pixels: torch.Tensor) -> Encoded:
        do(next(numbers))
        return plain(self, pixels)

    monkeypatch.setattr(Encoder, "__call__", watched)


def test_the_encoder_goes_on_while_rows_are_written_but_not_without_bound(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, begun = threading.Event(), []

    def note(number: int) -> None:
        begun.append(number)
        if number == BLOCKS_BEHIND:
            # The last block that fits in memory; a little later the first is let go, and none has begun till then.
            threading.Timer(0.2, lambda: (begun.append(-1), ahead.set())).start()

    on_call(monkeypatch, note)
    hold_first_write(monkeypatch, ahead)
    run(dataset, encoder, tmp_path / "f.h5")
    assert begun == [*range(BLOCKS_BEHIND + 1), -1, *range(BLOCKS_BEHIND + 1, 6)]
    FeatureStore.open(tmp_path / "f.h5").verify()


def test_ctrl_c_keeps_the_blocks_that_were_encoded(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dataset, encoder, tmp_path / "whole.h5")
    out = tmp_path / "f.h5"
    with monkeypatch.context() as patch:
        pressed = threading.Event()

        def press(number: int) -> None:
            if number == BLOCKS_BEHIND:
                pressed.set()
                raise KeyboardInterrupt

        on_call(patch, press)
        hold_first_write(patch, pressed)
        with pytest.raises(KeyboardInterrupt):
            run(dataset, encoder, out)
    kept = BLOCKS_BEHIND * BATCH
    assert FeatureStore.open(out, allow_pending=True).done.tolist() == [DONE] * kept + [PENDING] * (21 - kept)
    assert run(dataset, encoder, out)["encoded"] == 21 - kept
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize("failing", [0, 1, 4])
def test_a_failed_write_stops_the_run_at_once_and_nothing_is_written_behind_it(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    run(dataset, encoder, tmp_path / "whole.h5")
    out = tmp_path / "f.h5"
    begun: list[int] = []
    threads = set(threading.enumerate())
    with monkeypatch.context() as patch:
        calls = itertools.count()
        plain = os.fdatasync

        def fdatasync(descriptor: int) -> None:
            if next(calls) == 2 * failing:  # each block: once for its rows, once for its flags
                raise OSError(errno.EIO, "Input/output error")
            plain(descriptor)

        patch.setattr(os, "fdatasync", fdatasync)
        on_call(patch, begun.append)
        with pytest.raises(StoreError, match=r"cannot write .*f\.h5: Input/output error; finished rows are kept"):
            run(dataset, encoder, out)
    kept = failing * BATCH
    assert FeatureStore.open(out, allow_pending=True).done.tolist() == [DONE] * kept + [PENDING] * (21 - kept)
    assert len(begun) <= failing + 1 + BLOCKS_BEHIND
    assert set(threading.enumerate()) <= threads
    assert run(dataset, encoder, out)["encoded"] == 21 - kept
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_the_first_block_that_fails_is_the_one_reported(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block 2 has an unreadable image, and block 0 turns out not to be written: as without threads, 0 is named."""
    damaged = dataset.image_path(dataset.images["key"][9])
    damaged.write_bytes(damaged.read_bytes()[:60])

    def fdatasync(_: int) -> None:
        time.sleep(0.3)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(StoreError, match="Input/output error"):
            run(dataset, encoder, tmp_path / "f.h5")
    with pytest.raises(StoreError, match="unreadable"):
        run(dataset, encoder, tmp_path / "f.h5")


def test_progress_counts_rows_that_are_on_the_disk(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, counted, durable = tmp_path / "f.h5", [0], []

    @contextlib.contextmanager
    def progress_bar(_label: str, total: int, _unit: str) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            counted.append(counted[-1] + count)
            durable.append(int((FeatureStore.open(out, allow_pending=True).done == DONE).sum()))

        yield advance
        assert counted[-1] == total

    monkeypatch.setattr(extraction, "progress_bar", progress_bar)
    run(dataset, encoder, out)
    assert durable == counted[1:] == [4, 8, 12, 16, 20, 21]


def test_a_writer_that_was_closed_touches_no_file(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    """A thread that outlives the store (Ctrl-C, again and again) must not write where its descriptor now leads."""
    model = load_encoder(encoder, "cpu")
    attributes = model.attributes | {"dtype": "bfloat16", "image_digest": "", "batch": 1, "libraries": ""}
    with open_writer(tmp_path / "f.h5", ["a"], 4, 16, attributes) as writer:
        pass
    (tmp_path / "other").write_bytes(b"precious")
    with (tmp_path / "other").open("rb+") as _:  # most likely the same number
        rows = [np.zeros((1, 4, 16), np.uint16), np.zeros((1, 16), np.float32), np.zeros((1, 16), np.float32)]
        with pytest.raises(StoreError, match="Bad file descriptor"):
            writer.write(0, rows, {}, np.zeros((1, 32), np.uint8))
    assert (tmp_path / "other").read_bytes() == b"precious"


def test_second_run_encodes_nothing_and_touches_nothing(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.h5"
    first = run(dataset, encoder, out)
    before = out.read_bytes(), out.stat().st_mtime_ns
    break_after(monkeypatch, 0)
    second = run(dataset, encoder, out)
    assert second["encoded"] == 0
    assert second["digest"] == first["digest"]
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before


def test_unreadable_image_stops_the_run_and_is_named(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    damaged = dataset.image_path(dataset.images["key"][9])
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(StoreError, match=rf"{damaged.name}: unreadable \(.*--on-unreadable mark"):
        run(dataset, encoder, tmp_path / "f.h5")
    assert FeatureStore.open(tmp_path / "f.h5", allow_pending=True).done.sum() == 8


def test_unreadable_image_is_marked_and_changes_no_other_row(
    dataset: Dataset, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dataset, encoder, tmp_path / "clean.h5")
    clean = FeatureStore.open(tmp_path / "clean.h5")
    keys = dataset.images["key"].tolist()
    # Same size, so that it is the same image set; then a bomb by lowering Pillow's limit below one image's pixels.
    garbled = dataset.image_path(keys[9])
    garbled.write_bytes(b"?" * garbled.stat().st_size)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 33 * 26 // 2 - 1)
    summary = run(dataset, encoder, tmp_path / "f.h5", on_unreadable="mark")
    assert list(summary["unreadable"]) == [keys[6], keys[9], keys[13], keys[20]]
    assert summary["unreadable"][keys[9]] == "UnidentifiedImageError: the file is a text"
    assert summary["unreadable"][keys[6]].startswith("DecompressionBombError: it claims more than ")
    store = FeatureStore.open(tmp_path / "f.h5")
    bad = np.isin(np.arange(21), [6, 9, 13, 20])
    assert store.done.tolist() == np.where(bad, UNREADABLE, DONE).tolist()
    np.testing.assert_array_equal(store.patches[~bad], clean.patches[~bad])
    np.testing.assert_array_equal(store.crc32[~bad], clean.crc32[~bad])
    assert not store.patches[bad].any()
    assert store.digest != clean.digest


def test_other_images_encoder_or_dtype_are_refused(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    run(dataset, encoder, out)
    other = save_encoder(tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match="differs in weights_digest"):
        run(dataset, other, out)
    with pytest.raises(StoreError, match="differs in dtype"):
        run(dataset, encoder, out, dtype="float16")
    with pytest.raises(StoreError, match=r"differs in compute \(compute: float32 there, bfloat16 autocast now\)"):
        run(dataset, encoder, out, compute="bfloat16")
    (dataset.root / "images" / "crow" / "new.png").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"no image crow/new\.png"):
        run(load_dataset(dataset.root), encoder, out)


def test_features_that_are_not_finite_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    broken = save_encoder(tmp_path / "nan", scale=float("nan"))
    with pytest.raises(ModelError, match=r"encoder .*nan: its features are NaN or infinite"):  # before any picture
        run(dataset, broken, tmp_path / "nan.h5")
    large = save_encoder(tmp_path / "large", scale=1e7)
    run(dataset, large, tmp_path / "large.h5")
    with pytest.raises(StoreError, match="infinite float16 features"):
        run(dataset, large, tmp_path / "large16.h5", dtype="float16")
    assert not FeatureStore.open(tmp_path / "large16.h5", allow_pending=True).done.any()


def test_decoding_stays_a_bounded_number_of_blocks_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Path] = []

    def decode(path: Path, *_: Any) -> extraction.DecodedFile:
        begun.append(path)
        return extraction.DecodedFile(None, False, bytes(32), [0] * 3)

    monkeypatch.setattr(extraction, "_decode", decode)
    slices = [range(start, start + BATCH) for start in range(0, 400, BATCH)]
    paths = [Path(str(row)) for row in range(400)]
    transform = Transform(2, (0, 0, 0), (1, 1, 1))
    blocks = extraction._decoded(slices, paths, transform, workers=8, pinned=False)
    assert next(blocks).start == 0
    time.sleep(0.05)
    assert BATCH <= len(begun) <= (BLOCKS_AHEAD + 1) * BATCH
    assert [block.start for block in blocks] == [rows.start for rows in slices[1:]]
    assert sorted(begun) == sorted(paths)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05])
def test_killed_process_loses_at_most_its_block(dataset: Dataset, encoder: str, tmp_path: Path, delay: float) -> None:
    """SIGKILL at an arbitrary moment after the store exists; what is resumed has the bytes of an undisturbed run."""
    run(dataset, encoder, tmp_path / "whole.h5", batch=1)
    out = tmp_path / "killed.h5"
    code = (
        "import sys, torch; from pathlib import Path\n"
        "torch.set_num_threads(1); torch.set_flush_denormal(True)\n"  # as this process: both can move last bits
        "from cachegen.data.dataset import load_dataset; from cachegen.features.extract import extract\n"
        "extract(load_dataset(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), batch=1, workers=2, device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(dataset.root), encoder, str(out)])
    while not out.exists() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    FeatureStore.open(out, allow_pending=True).verify()
    run(dataset, encoder, out, batch=1)
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


FORK = multiprocessing.get_context("fork")  # importing what an encoder needs takes longer than all the rest


@dataclass
class PartProcess:
    """A process that waits for `go`, encodes its part, and after `blocks` blocks says `there` until it is killed."""

    out: Path
    part: tuple[int, int]
    blocks: int
    go: Any = field(default_factory=FORK.Event)
    there: Any = field(default_factory=FORK.Event)

    def start(self, dataset: Dataset, encoder: str) -> Any:
        def work() -> None:
            torch.set_num_threads(1)
            plain, calls = Encoder.__call__, iter(range(99))

            def watched(model: Encoder, pixels: torch.Tensor) -> Encoded:
                if next(calls) == self.blocks:
                    self.there.set()
                    time.sleep(600)
                return plain(model, pixels)

            Encoder.__call__ = watched  # type: ignore[method-assign]
            self.go.wait()
            run(dataset, encoder, self.out, workers=1, on_unreadable="mark", part=self.part)

        process = FORK.Process(target=work, daemon=True)
        process.start()
        return process


def test_parts_by_several_processes_give_the_bytes_of_one(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    """Three processes begin at once with no store there; the second is killed, the others go on, it is resumed.

    6 blocks: 2 for each part. Two parts meet an unreadable image, so that all write to one list of reasons.
    """
    for number in (3, 13, 20):
        damaged = dataset.image_path(dataset.images["key"][number])
        damaged.write_bytes(b"?" * damaged.stat().st_size)
    whole, out = tmp_path / "whole.h5", tmp_path / "f.h5"
    run(dataset, encoder, whole, on_unreadable="mark")
    parts = [PartProcess(out, (i, 3), blocks=1 if i == 2 else 99) for i in (1, 2, 3)]
    processes = [part.start(dataset, encoder) for part in parts]
    for part in parts:
        part.go.set()
    assert parts[1].there.wait(60)
    for refused in ((2, 3), None):
        with pytest.raises(RunError, match=rf"pid {processes[1].pid}, part 2/3"):
            run(dataset, encoder, out, part=refused)
    processes[1].kill()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL, 0]
    pending = np.flatnonzero(FeatureStore.open(out, allow_pending=True).done == PENDING).tolist()
    assert pending in (list(range(8, 16)), list(range(12, 16)))  # its first block may have reached the disk
    assert out.read_bytes() != whole.read_bytes()
    again = run(dataset, encoder, out, part=(2, 3), on_unreadable="mark")
    facts = {name: again[name] for name in ("part", "rows", "encoded", "pending", "digest")}
    digest = FeatureStore.open(whole).digest
    assert facts == {"part": "2/3", "rows": [8, 16], "encoded": len(pending), "pending": 0, "digest": digest}
    assert out.read_bytes() == whole.read_bytes()
    assert reasons_path(out).read_bytes() == reasons_path(whole).read_bytes()


def test_parts_one_after_another_and_more_parts_than_blocks(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    """The batch of whoever made the store holds, so that parts agree on their rows whatever they were given."""
    run(dataset, encoder, tmp_path / "whole.h5")
    out = tmp_path / "f.h5"
    last = run(dataset, encoder, out, part=(9, 9))
    assert (last["rows"], last["encoded"], last["pending"], last["digest"]) == ([20, 21], 1, 20, None)
    with pytest.raises(StoreError, match="20 of 21 images are not extracted yet"):
        FeatureStore.open(out)
    rows = [run(dataset, encoder, out, part=(i, 9), batch=7)["rows"] for i in range(1, 9)]
    assert [row for start, stop in rows for row in range(start, stop)] == list(range(20))
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_blocks_that_are_cut_elsewhere_are_other_blocks(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    """Negative control for `equal bytes`: a store in blocks of 1 differs, in its recorded batch at the least."""
    for batch in (1, BATCH):
        run(dataset, encoder, tmp_path / f"{batch}.h5", batch=batch)
    assert (tmp_path / "1.h5").read_bytes() != (tmp_path / f"{BATCH}.h5").read_bytes()


def test_a_fused_encoder_fills_a_store_that_names_both(dataset: Dataset, encoder: str, tmp_path: Path) -> None:
    """Decoding threads resize once, each model normalises for itself; another order or member is another store."""
    other = save_encoder(tmp_path / "other", seed=1)
    processor = json.loads((tmp_path / "other" / "preprocessor_config.json").read_text())
    (tmp_path / "other" / "preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": [0.1] * 3}))
    out = tmp_path / "f.h5"
    assert run(dataset, f"{encoder}+{other}", out)["shape"] == [21, 4, 32]
    fused = FeatureStore.open(out)
    for start, name in ((0, encoder), (16, other)):
        run(dataset, name, tmp_path / f"{start}.h5")
        alone = FeatureStore.open(tmp_path / f"{start}.h5")
        for feature in ("patches", "pooled_patches", "pooled_all_tokens"):
            np.testing.assert_array_equal(getattr(fused, feature)[..., start : start + 16], getattr(alone, feature))
        assert alone.attributes["transform"] in fused.attributes["transform"]
    with pytest.raises(StoreError, match="differs in weights_digest"):
        run(dataset, f"{other}+{encoder}", out)
    with pytest.raises(StoreError, match="differs in weights_digest"):
        run(dataset, encoder, tmp_path / "16.h5")
