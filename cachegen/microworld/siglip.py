"""A tiny SigLIP-architecture encoder: an encoder that has seen language, as the paper's SigLIP has.

Image and text tower are trained together with the sigmoid loss (Zhai et al. 2023, "Sigmoid loss for language image
pre-training") on captions of the training images. A caption names the leaf or one of its hypernyms ("there is a
crow", "there is an animal"); a pair of the batch counts as matching whenever the caption is true of the image.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel

from cachegen.common.files import write_text
from cachegen.common.rng import generator, stream_seed
from cachegen.microworld.encoder import PIXEL_MEAN, PIXEL_STD, load_pixels
from cachegen.microworld.lexicon import Lexicon
from cachegen.microworld.recipe import SiglipRecipe

CAPTION_TOKENS = 4


class Captions:
    """True captions of leaves, as text: for each leaf one that names it and one per hypernym of it."""

    def __init__(self, lexicon: Lexicon) -> None:
        phrases = [*(leaf.phrase for leaf in lexicon.leaves), *(hypernym.phrase for hypernym in lexicon.hypernyms)]
        self.texts = [f"there is {phrase}" for phrase in phrases]
        itself = np.eye(len(lexicon.leaves), dtype=bool)
        above = [[leaf.name in hypernym.leaves for hypernym in lexicon.hypernyms] for leaf in lexicon.leaves]
        self.true_of = np.hstack([itself, np.array(above)])  # (leaves, captions) bool
        self.leaf_number = {leaf.name: number for number, leaf in enumerate(lexicon.leaves)}

    def draw(self, leaves: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(B,) one caption of each leaf (B,): half of the time its name, else one of its hypernyms."""
        by_name = rng.random(len(leaves)) < 0.5
        hypernyms = self.true_of[leaves, len(self.leaf_number) :]
        place = (rng.random(len(leaves)) * hypernyms.sum(axis=1)).astype(int)
        nth = (np.cumsum(hypernyms, axis=1) > place[:, None]).argmax(axis=1)
        return np.where(by_name, leaves, len(self.leaf_number) + nth)


def train_siglip(
    images: list[Path],
    lexicon: Lexicon,
    tokenizer: PreTrainedTokenizerFast,
    recipe: SiglipRecipe,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[Any, dict[str, float]]:
    """Train on the image files `images/<leaf>/*` and their captions; return (SiglipModel in eval mode, facts)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "siglip weights"))
        model = SiglipModel(_config(recipe, tokenizer)).train()
    with torch.no_grad():  # temperature 10 as in the paper; the bias suits the share of true pairs here
        model.logit_scale.fill_(np.log(10.0))
        model.logit_bias.fill_(-3.0)
    pixels_NCHW = load_pixels(images)
    captions = Captions(lexicon)
    tokens_CT = torch.tensor(tokenizer(captions.texts)["input_ids"])
    leaf_N = np.array([captions.leaf_number[path.parent.name] for path in images])
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    rng = generator(seed, "siglip batches")
    losses = []
    for _ in range(recipe.steps):
        rows = rng.choice(len(images), size=min(recipe.batch, len(images)), replace=False)
        said = captions.draw(leaf_N[rows], rng)
        x_BCHW = _vary(pixels_NCHW[rows], recipe.shift_px, rng)
        logits_BB = model(input_ids=tokens_CT[said], pixel_values=x_BCHW).logits_per_text
        sign_BB = torch.from_numpy(np.where(captions.true_of[leaf_N[rows]][:, said].T, 1.0, -1.0)).float()
        loss = -nn.functional.logsigmoid(sign_BB * logits_BB).mean(dim=1).sum() / len(rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        advance(1)
    tail = max(1, recipe.steps // 10)
    facts = {"first_loss": losses[0], "last_loss": float(np.mean(losses[-tail:])), "images": len(images)}
    return model.eval(), facts


def save_siglip(model: Any, tokenizer: PreTrainedTokenizerFast, recipe: SiglipRecipe, folder: Path) -> None:
    """Write both towers, image processor and tokenizer, as Hugging Face's SigLIP checkpoints have them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(
        size={"height": recipe.image_px, "width": recipe.image_px},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    ).save_pretrained(folder)


def write_captions(images: list[Path], lexicon: Lexicon, path: Path) -> None:
    """Write the captions that training draws from: one row (image key, caption) per image and true caption."""
    captions = Captions(lexicon)
    rows = ["key,caption"]
    for image in images:
        leaf = image.parent.name
        true = captions.true_of[captions.leaf_number[leaf]].nonzero()[0]
        rows += [f"{leaf}/{image.name},{captions.texts[number]}" for number in true]
    write_text(path, "\n".join(rows) + "\n")


def _config(recipe: SiglipRecipe, tokenizer: PreTrainedTokenizerFast) -> SiglipConfig:
    width = {"hidden_size": recipe.width, "intermediate_size": 4 * recipe.width, "num_attention_heads": recipe.heads}
    return SiglipConfig(
        text_config=width
        | {
            "num_hidden_layers": recipe.text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CAPTION_TOKENS,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.eos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config=width
        | {"num_hidden_layers": recipe.layers, "image_size": recipe.image_px, "patch_size": recipe.patch_px},
    )


def _vary(x_BCHW: torch.Tensor, shift_px: int, rng: np.random.Generator) -> torch.Tensor:
    """Mirror half of the images, and move each by up to `shift_px` pixels, edges repeated."""
    count, _, side, _ = x_BCHW.shape
    flip = torch.from_numpy(rng.random(count) < 0.5)
    flipped = torch.where(flip[:, None, None, None], x_BCHW.flip(-1), x_BCHW)
    padded = nn.functional.pad(flipped, [shift_px] * 4, mode="replicate")
    down, right = torch.from_numpy(rng.integers(0, 2 * shift_px + 1, size=(2, count, 1)))
    rows, columns = down + torch.arange(side), right + torch.arange(side)
    return padded[torch.arange(count)[:, None, None, None], torch.arange(3)[None, :, None, None],
                  rows[:, None, :, None], columns[:, None, None, :]]  # fmt: skip
