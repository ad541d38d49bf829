"""Timing of extraction: photographs like those of THINGS, an encoder as it would be loaded, and honest seconds."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.models import save_for_hf

from cachegen.encoders import load_encoder
from engine.benchmark import extraction
from engine.benchmark.extraction import bench_extraction, photographs, random_encoder
from engine.benchmark.models import TINY_ENCODER, vision_model

CPU = torch.device("cpu")


def test_photographs_are_of_the_size_of_things_and_always_the_same(tmp_path: Path) -> None:
    first, again = (photographs(tmp_path / name, 3) for name in ("first", "again"))
    assert first.digest == again.digest
    paths = [first.image_path(key) for key in first.images["key"]]
    assert len({path.read_bytes() for path in paths}) == 3
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (800, 800), "RGB")
        assert 60_000 < path.stat().st_size < 250_000


def test_the_random_encoder_is_as_one_loaded_from_disk(tmp_path: Path) -> None:
    save_for_hf(vision_model("tiny"), str(tmp_path), model_args=TINY_ENCODER, safe_serialization=True)
    here, there = random_encoder("tiny", CPU, "float32"), load_encoder(str(tmp_path), "cpu")
    assert (here.n_patches, here.width, here.compute) == (there.n_patches, there.width, there.compute)
    own = {"encoder", "weights_digest", "left_out"}
    assert {k: v for k, v in here.attributes.items() if k not in own} == {
        k: v for k, v in there.attributes.items() if k not in own
    }
    size = here.transform.size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(here(pixels), there(pixels), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.std() > 0.1


def test_the_ratio_says_that_decoding_dominates_a_tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[tuple[int, int]] = []
    plain = extraction.extract

    def watched(*arguments, **options):
        summary = plain(*arguments, **options)
        stored.append((summary["encoded"], summary["batch"]))
        return summary

    monkeypatch.setattr(extraction, "extract", watched)
    result = bench_extraction("tiny", 16, 2)
    assert stored == [(16, 4)] * 3  # a round to warm up; every time all images, into a store of its own
    json.dumps(result)
    assert set(result) == {"bare", "extract", "decode", "ratio", "compute", "images", "batch", "cores"}
    assert (result["images"], result["batch"], result["compute"]) == (16, 4, "float32")
    assert 0 < result["bare"] < result["decode"]
    assert 0 < result["ratio"] < 0.5
    assert bench_extraction("tiny", 4, 1, compute="bfloat16")["compute"] == "bfloat16"
