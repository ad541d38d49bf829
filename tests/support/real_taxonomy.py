"""The paper's taxonomy as a dataset of items, for checkouts with ../shared beside them."""

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
    items = [(f"{leaf}/{number:02d}.jpg", leaf) for leaf, count in files.items() for number in range(count)]
    pd.DataFrame(items, columns=["item", "leaf"]).to_csv(root / "items.csv", index=False)
    pairs = pairs.rename(columns={"leaf_uniqueID": "leaf", "leaf_np": "leaf_phrase", "hypernym_id": "hypernym"})
    pairs = pairs.rename(columns={"hyper_np": "hypernym_phrase"}).assign(number="singular")
    columns = ["leaf", "leaf_phrase", "number", "hypernym", "hypernym_phrase"]
    pairs[columns].to_csv(root / "taxonomy.csv", index=False)
    return root
