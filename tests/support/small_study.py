"""A dataset, a feature store and an LM in real formats with random contents, made in a fraction of a second."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tiny import CONFIGS, tiny_lm
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cachegen.data.dataset import load_dataset
from cachegen.features.writer import open_writer
from engine.design.condition import Inputs, Sweep

FAMILIES = {
    "bird": ["crow", "owl", "robin", "duck"],
    "tool": ["hammer", "saw", "axe"],
    "vehicle": ["bus", "taxi", "van"],
    "toy": ["kite", "yo-yo"],
}
PLACEHOLDER = b"placeholder"
PLACEHOLDER_HASH = np.frombuffer(hashlib.sha256(PLACEHOLDER).digest(), np.uint8)
IMAGES, PATCHES, WIDTH = 8, 4, 16
SETTINGS = {
    "template": "{image} {question} ",
    "question_singular": "is there {phrase}",
    "question_plural": "are there {phrase}",
    "answer_yes": "yes",
    "answer_no": "no",
    "epochs": 2,
    "batch": 16,
    "learning_rate": 3e-3,
    "order": "images",
    "standardise": True,
    "output_scale": "embedding_rms",
}


@dataclass(frozen=True)
class SmallStudy:
    dataset: Path
    features: Path
    lm: Path

    @property
    def inputs(self) -> Inputs:
        return Inputs(dataset=self.dataset, features=self.features, lm=str(self.lm))

    def sweep(self, **fields) -> Sweep:
        """Runs on this study; list-valued fields are crossed."""
        inputs = {"dataset": str(self.dataset), "features": str(self.features), "lm": str(self.lm)}
        return Sweep.expand([{**inputs, **SETTINGS, **fields}], "test")


def article(word):
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def write_dataset(root, families=None, images=IMAGES):
    """Taxonomy and image folders; the files are placeholders, since features come from elsewhere."""
    rows = ["leaf,leaf_phrase,number,hypernym,hypernym_phrase"]
    for hypernym, leaves in (families or FAMILIES).items():
        for leaf in leaves:
            rows.append(f"{leaf},{article(leaf)},singular,{hypernym},{article(hypernym)}")
            (root / "images" / leaf).mkdir(parents=True, exist_ok=True)
            for number in range(images):
                (root / "images" / leaf / f"{leaf}_{number:02d}.png").write_bytes(PLACEHOLDER)
    (root / "taxonomy.csv").write_text("\n".join(rows) + "\n")
    return root


def write_features(path, dataset, unreadable=(), encoder="random"):
    """A store of standard normal features, rows marked unreadable on request."""
    keys = list(dataset.images["key"])
    attributes = {
        "encoder": encoder,
        "weights_digest": "0",
        "layer": "none",
        "image_size": 8,
        "transform": "none",
        "dtype": "bfloat16",
        "compute": "float32",
        "image_digest": dataset.image_digest,
        "batch": len(keys),
        "libraries": "none",
    }
    rng = np.random.default_rng(0)
    values = rng.standard_normal((len(keys), PATCHES, WIDTH), dtype=np.float32)
    pooled = values.mean(1)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    reasons = {keys.index(key): "made so" for key in unreadable}
    with open_writer(path, keys, PATCHES, WIDTH, attributes) as writer:
        writer.write(0, [bits, pooled, pooled], reasons, np.tile(PLACEHOLDER_HASH, (len(keys), 1)))
    return path


def word_tokenizer(words):
    vocabulary = {word: number for number, word in enumerate(["<unk>", *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def make_small_study(root: Path, family: str = "qwen3") -> SmallStudy:
    dataset = load_dataset(write_dataset(root / "dataset"))
    features = write_features(root / "features.h5", dataset)
    words = [word for group in FAMILIES.items() for word in [group[0], *group[1]]]
    assert len(words) + 8 < CONFIGS[family]().vocab_size
    lm = root / "lm"
    tiny_lm(family, num_hidden_layers=2).save_pretrained(lm)
    word_tokenizer([*words, "is", "are", "there", "a", "an", "yes", "no"]).save_pretrained(lm)
    return SmallStudy(dataset.root, features, lm)
