"""A tiny DINOv2-architecture encoder trained on a world's training images, without labels or text.

Objective: fill in masked patches (half of them) from the visible ones, as in masked image modelling; the pixel
decoder is thrown away. Saved as any Hugging Face vision model, with its image processor.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from cachegen.common.rng import generator, stream_seed
from cachegen.microworld.recipe import EncoderRecipe

PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def train_encoder(
    images: list[Path], recipe: EncoderRecipe, seed: int, advance: Callable[[int], None]
) -> tuple[Any, dict[str, float]]:
    """Train on the image files `images`; return (Dinov2Model in eval mode, facts about the training)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "encoder weights"))
        model = Dinov2Model(_config(recipe))
        decoder = nn.Sequential(
            nn.Linear(recipe.width, 2 * recipe.width),
            nn.GELU(),
            nn.Linear(2 * recipe.width, 3 * (recipe.patch_px // recipe.target_px) ** 2),
        )
    pixels_NCHW = load_pixels(images)
    patches = (recipe.image_px // recipe.patch_px) ** 2
    parameters = [*model.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    rng = generator(seed, "encoder batches")
    losses = []
    model.train()
    for _ in range(recipe.steps):
        rows = rng.choice(len(images), size=min(recipe.batch, len(images)), replace=False)
        mask_BP = torch.from_numpy(_masks(len(rows), patches, recipe.mask_share, rng))
        flip = torch.from_numpy(rng.random(len(rows)) < 0.5)
        x_BCHW = torch.where(flip[:, None, None, None], pixels_NCHW[rows].flip(-1), pixels_NCHW[rows])
        hidden_BPD = model(pixel_values=x_BCHW, bool_masked_pos=mask_BP).last_hidden_state[:, 1:]
        guess_MV = decoder(hidden_BPD[mask_BP])
        loss = nn.functional.mse_loss(guess_MV, _targets(x_BCHW, recipe)[mask_BP])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        advance(1)
    tail = max(1, recipe.steps // 10)
    return model.eval(), {"first_loss": losses[0], "last_loss": float(np.mean(losses[-tail:])), "images": len(images)}


def save_encoder(model: Any, recipe: EncoderRecipe, folder: Path) -> None:
    """Write model and processor so that AutoModel and AutoImageProcessor load them."""
    model.save_pretrained(folder)
    side = {"height": recipe.image_px, "width": recipe.image_px}
    BitImageProcessor(
        do_resize=True,
        size=side,
        resample=Image.Resampling.BICUBIC,
        do_center_crop=False,
        crop_size=side,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    ).save_pretrained(folder)


def _config(recipe: EncoderRecipe) -> Dinov2Config:
    return Dinov2Config(
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        image_size=recipe.image_px,
        patch_size=recipe.patch_px,
        use_mask_token=True,
    )


def load_pixels(images: list[Path]) -> torch.Tensor:
    """(N, 3, H, W) normalised float32 pixels."""
    pixels = []
    for path in images:
        with Image.open(path) as image:
            pixels.append(np.asarray(image, dtype=np.float32))
    return (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - PIXEL_MEAN) / PIXEL_STD


def _targets(x_BCHW: torch.Tensor, recipe: EncoderRecipe) -> torch.Tensor:
    """(B, P, V) what the decoder must say of each patch: its pixels, averaged over squares of `target_px`."""
    coarse = nn.functional.avg_pool2d(x_BCHW, recipe.target_px)
    side = recipe.patch_px // recipe.target_px
    return nn.functional.unfold(coarse, side, stride=side).transpose(1, 2)


def _masks(count: int, patches: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """(B, P) bool with the same number of hidden patches in every row."""
    return rng.random((count, patches)).argsort(axis=1) < round(share * patches)
