"""Numbers of the paper, for comparison only: Xu et al. (March 2026), three-seed means of macro F1.

Typed here: what the paper prints (`CELLS`, `MORE_CELLS`: 100 % ablation). In the two CSV files beside this module: what
its figures show, aggregated from the authors' public release; source and licence stand in their first lines.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd

PAPER = "Cross-Modal Taxonomic Generalization in (Vision-)Language Models, Xu et al., March 2026"
COIN = 48.3  # fair coin on the paper's test counts
MAJORITY = {"leaf": 38.9, "heldout": 39.2}
COHERENCE = {"original": 0.27, "across": 0.12}
SEED_SPREAD = 4.0
HYPERNYMS_PER_LEAF = {1: 627, 2: 426, 3: 122, 4: 41, 5: 5, 6: 1}  # Figure 8: number of hypernyms -> leaves

# The text-only probe, rank rule, as in Figure 7's x axis; recovered to the last question from the release's
# `coherence_backbone.csv`. The paper's overall numbers take all 16,903 questions together (it prints 88.5 for 1.7B);
# the means over hypernyms are over each hypernym's own items: its pairs with the negatives of their leaves.
PROBE_POOLED = {"Qwen3-0.6B": 78.5, "Qwen3-1.7B": 88.2}
PROBE_ITEMS = {"Qwen3-0.6B": 77.7, "Qwen3-1.7B": 85.9}
PROBE_POOLED_MAJORITY = 46.8
PROBE_NEGATIVES = {"distinct": 7296, "image-level": 14863}

ENCODERS = {  # as the paper names them -> how names of their weights begin, without the owner
    "DINOv2": ("vit_large_patch14_reg4_dinov2", "dinov2-with-registers-large"),
    "SigLIP": ("vit_so400m_patch14_siglip_224", "siglip-so400m-patch14-224"),
}
SCORE_KEYS = ["lm", "encoder", "lm_init", "shuffle", "kind", "ablation", "group"]


@dataclass(frozen=True)
class Published:
    """One cell of the paper: leaves (missing where not printed) and held-out hypernyms, macro F1 in 0..100."""

    lm: str
    lm_init: str
    shuffle: str
    leaf: float
    heldout: float
    encoder: str = "DINOv2"

    @property
    def model(self) -> str:
        return self.lm if self.encoder == "DINOv2" else f"{self.lm}, {self.encoder}"

    @property
    def condition(self) -> tuple[str, str]:
        return self.lm_init, self.shuffle


CELLS = (
    Published("Qwen3-0.6B", "pretrained", "original", 96.4, 74.1),
    Published("Qwen3-1.7B", "pretrained", "original", 95.5, 74.6),
    Published("Qwen3-0.6B", "pretrained", "across", 88.4, 46.4),
    Published("Qwen3-1.7B", "pretrained", "across", 83.4, 48.2),
    Published("Qwen3-0.6B", "pretrained", "within", 94.6, 73.6),
    Published("Qwen3-1.7B", "pretrained", "within", 95.0, 76.7),
    Published("Qwen3-0.6B", "random", "original", 85.2, 45.2),
    Published("Qwen3-1.7B", "random", "original", 84.4, 45.3),
)

# Other models, by the name of which a run here is recognised.
MORE_CELLS = (
    Published("Qwen3-0.6B", "pretrained", "original", 95.5, 67.8, "SigLIP"),
    Published("Qwen3-1.7B", "pretrained", "original", 97.7, 73.2, "SigLIP"),
    Published("Llama-3.2-1B", "pretrained", "original", 97.1, 74.5),
    Published("Llama-3.2-1B-Instruct", "pretrained", "original", 95.7, 74.1),
    Published("Qwen3-8B", "pretrained", "original", 96.8, 78.4),
    Published("Qwen3-8B", "pretrained", "across", math.nan, 50.0),
    Published("Qwen3-8B", "pretrained", "within", math.nan, 79.8),
)
FIRST = CELLS[0].lm, CELLS[0].encoder  # stands beside runs of models that the paper does not have


def paper_models(lm: object, encoder: object) -> tuple[str, str] | None:
    """The paper's names of a run's LM and encoder, such as ("Qwen3-0.6B", "DINOv2"); None unless it has both."""
    name, weights = (str(value).rstrip("/").rsplit("/", 1)[-1] for value in (lm, encoder))
    if name not in {cell.lm for cell in (*CELLS, *MORE_CELLS)} or "+" in weights or "@" in weights:
        return None
    known = (paper for paper, starts in ENCODERS.items() if weights.startswith(starts))
    return next(((name, paper) for paper in known), None)


@cache
def published_scores() -> pd.DataFrame:
    """What figures 3, 4, 6, 10, 11, 12 and Table 5 show, as far as it is public as numbers.

    Columns: `SCORE_KEYS` (kind random | systematic, ablation in percent or hypernyms, group heldout | seen | leaf;
    random ablation 100: all hypernym questions withheld), over (all | removed only), depth (missing: all depths), n
    (seeds x hypernyms), f1 and f1_sd in points. Cells that the paper only prints have n and f1_sd missing. Do not
    change the table: it is read once.
    """
    released = _read("published_scores.csv")
    printed = [
        (cell.lm, cell.encoder, cell.lm_init, cell.shuffle, "random", 100, group, "all", f1)
        for cell in (*CELLS, *MORE_CELLS)
        for group, f1 in (("leaf", cell.leaf), ("heldout", cell.heldout))
        if not math.isnan(f1)
    ]
    table = pd.concat([released, pd.DataFrame(printed, columns=[*SCORE_KEYS, "over", "f1"])], ignore_index=True)
    return table.drop_duplicates([*SCORE_KEYS, "over", "depth"], ignore_index=True)  # the release has more digits


def published_rows(by_depth: bool = False, **wanted: object) -> pd.DataFrame:
    """Rows of `published_scores` with these values of its columns: means over all depths, or one row per depth."""
    table = published_scores()
    table = table[table["depth"].notna() == by_depth]
    return table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]


@cache
def published_hypernyms() -> pd.DataFrame:
    """Figures 7 and 9, index hypernym (taxonomy name): leaves, coherence (mean cosine), and a column per LM.

    The LMs' columns are held-out macro F1 in points (100 % ablation, DINOv2, mean of three seeds). Do not change the
    table: it is read once.
    """
    return _read("published_hypernyms.csv").set_index("hypernym")


def _read(name: str) -> pd.DataFrame:
    with (files("analysis") / name).open(encoding="utf-8") as file:
        return pd.read_csv(file, comment="#")
