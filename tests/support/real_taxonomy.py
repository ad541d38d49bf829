"""The paper's taxonomy as a dataset of empty images, for checkouts with ../shared beside them."""

import csv
from pathlib import Path

import pandas as pd
import pytest

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.exists(), reason="the reference taxonomy is not beside this checkout"
)


def write_real_taxonomy(root, files=None):
    """1,222 leaves with the real numbers of test images: 4 n - 2 files give n of them, unless `files` says how many."""
    pairs = pd.read_csv(REFERENCE / "things_pairs_2040.csv")
    if files is None:
        files = 4 * pd.read_csv(REFERENCE / "test_images_per_leaf.csv", index_col=0)["n_test_images"] - 2
    for leaf, count in files.items():
        (root / "images" / leaf).mkdir(parents=True)
        for number in range(count):
            (root / "images" / leaf / f"{number:02d}.jpg").write_bytes(b"x")
    with (root / "taxonomy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["leaf", "leaf_phrase", "number", "hypernym", "hypernym_phrase"])
        for row in pairs[["leaf_uniqueID", "leaf_np", "hypernym_id", "hyper_np"]].itertuples(index=False):
            writer.writerow([row[0], row[1], "singular", row[2], row[3]])
    return root
