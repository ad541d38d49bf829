"""A study from picture files on: tiny random encoder, features extracted from drawn noise, one trained run."""

from pathlib import Path

import numpy as np
from PIL import Image
from small_study import FAMILIES, SETTINGS, article, word_tokenizer
from tiny import tiny_lm
from twins import save_hf, save_timm, save_twins

from cachegen.data.dataset import load_dataset
from cachegen.features.extract import extract
from engine.design.condition import Sweep
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep

LEAVES = {"bird": ["crow", "owl"], "tool": ["hammer", "saw"]}
IMAGES = 8
WORDS = [word for group in FAMILIES.items() for word in [group[0], *group[1]]]
WORDS += ["is", "are", "there", "a", "an", "yes", "no"]
PLAIN = {**SETTINGS, "output_scale": "none", "epochs": 1}


def write_pictures(root: Path) -> Path:
    """Pictures of several sizes, formats and colour modes, none of them square."""
    rng = np.random.default_rng(0)
    rows = ["leaf,leaf_phrase,number,hypernym,hypernym_phrase"]
    for hypernym, leaves in LEAVES.items():
        for leaf in leaves:
            rows.append(f"{leaf},{article(leaf)},singular,{hypernym},{article(hypernym)}")
            place = root / "images" / leaf
            place.mkdir(parents=True)
            for number in range(IMAGES):
                height, width = rng.integers(40, 90, 2)
                image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
                if number % 4 == 1:
                    image = image.convert("L")
                image.save(place / f"{number}.{('png', 'webp', 'jpg')[number % 3]}")
    (root / "taxonomy.csv").write_text("\n".join(rows) + "\n")
    return root


def write_lm(folder: Path, family: str = "qwen3") -> Path:
    tiny_lm(family).save_pretrained(folder)
    word_tokenizer(WORDS).save_pretrained(folder)
    return folder


def train_run(root: Path, encoder: Path, lm: Path, **fields) -> Path:
    """Extract and train one run with an encoder and an LM that exist; its directory."""
    dataset = root / "dataset"
    if not dataset.exists():
        write_pictures(dataset)
    store = root / "features.h5"
    if not store.exists():
        extract(load_dataset(dataset), str(encoder), store, device="cpu", batch=4)
    inputs = {"dataset": str(dataset), "features": str(store), "lm": str(lm)}
    (run,) = run_sweep(Sweep.expand([{**inputs, **PLAIN, **fields}], "test"), root / "runs", Execution(device="cpu"))
    return run


def save_encoder(kind: str, library: str, folder: Path) -> Path:
    """A tiny random encoder of `kind` in the format of `library`."""
    if library == "hf":
        save_hf(kind, folder)
        return folder
    save_twins(kind, folder)
    return folder / "timm"


__all__ = ["LEAVES", "save_encoder", "save_timm", "train_run", "write_lm", "write_pictures"]
