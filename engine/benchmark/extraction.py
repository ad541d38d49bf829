"""Extraction against the bare encoder: what decoding and writing add to it."""

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from cachegen.common.rng import generator
from cachegen.common.system import cores
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.data.images import Transform, read_image
from cachegen.encoders import Compute, Encoder, choose_compute
from cachegen.encoders.layers import choose_layer
from cachegen.encoders.models import timm_layers
from cachegen.features.extract import extract
from engine.benchmark.alternate import alternate, median, ratio
from engine.benchmark.models import vision_model
from engine.sweeps.rate import wait_for

SIDE, QUALITY, NOISE = 800, 90, 5.0  # of the images of THINGS: about 800 x 800 px, a hundred or two kilobytes
LEAVES = ("one", "other")
CPU = torch.device("cpu")


def bench_extraction(
    model: str,
    images: int,
    rounds: int,
    *,
    batch: int | None = None,
    device: torch.device = CPU,
    compute: Compute | Literal["auto"] = "auto",
) -> dict[str, Any]:
    """Seconds per image of `extract` and of the encoder alone, in one alternating run, with random weights.

    "bare" is the encoder on pixels that lie on its device, in the batches and the precision of "extract", which is
    everything between a loaded encoder and a finished store: reading, decoding, encoding, writing, making the file.
    "decode" is one thread that only reads and decodes. "ratio" is bare / extract, at most 1 but for noise. `batch`: by
    default that of `crosstax extract`, or less so that there are four batches to overlap.
    """
    batch = batch or min(64, max(1, images // 4))
    encoder = random_encoder(model, device, choose_compute(compute, device))
    with tempfile.TemporaryDirectory() as folder:
        dataset = photographs(Path(folder), images)
        paths = [dataset.image_path(key) for key in dataset.images["key"]]
        transform = encoder.transform
        pixels = torch.stack([torch.from_numpy(transform(read_image(path))) for path in paths]).to(encoder.device)
        store = Path(folder) / "features.h5"

        def bare() -> None:
            for block in pixels.split(batch):
                encoder(block)

        def whole() -> None:
            store.unlink(missing_ok=True)
            extract(dataset, encoder, store, batch=batch)

        def decode() -> None:
            for path in paths:
                transform(read_image(path))

        ways = {"bare": bare, "extract": whole, "decode": decode}
        seconds = alternate(ways, rounds, wait=wait_for(device))
    return {name: median(seconds, name) / images for name in seconds} | {
        "ratio": ratio(seconds, "bare", "extract"),
        "compute": encoder.compute,
        "images": images,
        "batch": batch,
        "cores": cores(),
    }


def random_encoder(name: str, device: torch.device, compute: Compute) -> Encoder:
    """An encoder as `load_encoder` gives it, with random weights: "tiny", else DINOv2-L with registers at 224 px."""
    model = vision_model(name).to(device)
    patch, config = model.patch_embed, model.pretrained_cfg
    transform = Transform(patch.img_size[0], config["mean"], config["std"])
    with torch.inference_mode():
        vision = choose_layer(timm_layers(model, transform, "random"), name, None, device)
    return Encoder(f"random {name}", (vision,), device, vision.side**2, vision.width, compute)


def photographs(folder: Path, images: int) -> Dataset:
    """A dataset of made-up JPEG photographs: smooth colours under noise, which cost a decoder what photographs do."""
    for leaf in LEAVES:
        (folder / "images" / leaf).mkdir(parents=True)
    rows = ["leaf,leaf_phrase,number,hypernym,hypernym_phrase", *(f"{x},{x},singular,thing,a thing" for x in LEAVES)]
    (folder / "taxonomy.csv").write_text("\n".join(rows))
    rng = generator(0, "bench", "photographs")
    for number in range(images):
        colours = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        noisy = (smooth + rng.normal(0, NOISE, smooth.shape)).clip(0, 255).astype(np.uint8)
        leaf = LEAVES[number % len(LEAVES)]
        Image.fromarray(noisy).save(folder / "images" / leaf / f"{number:05}.jpg", quality=QUALITY)
    return load_dataset(folder)
