"""Models of the benchmark: the paper's sizes with random weights, since speed does not depend on what they know."""

from typing import Any

import timm
import torch
from transformers import LlamaConfig, PretrainedConfig, Qwen3Config

from cachegen.common.rng import stream_seed
from engine.lm.shape import KNOWN
from engine.sweeps.cost import KNOWN_PATCHES

LMS = {"0.6b": "Qwen/Qwen3-0.6B", "1.7b": "Qwen/Qwen3-1.7B", "llama-1b": "meta-llama/Llama-3.2-1B"}
ENCODER = "vit_large_patch14_reg4_dinov2"
# The microworld's LM, and an encoder of the microworld's size.
TINY_LM = {
    "vocab_size": 250, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
}  # fmt: skip
TINY_ENCODER = {"img_size": 48, "patch_size": 12, "embed_dim": 96, "depth": 3, "num_heads": 4}
SUFFIX = {"tiny": 4, "paper": 14}  # tokens: category and answer mark; "\nIs there a ... in this image?\n"


def bench_lm_config(name: str, layers: int | None = None) -> PretrainedConfig:
    """A new configuration object (transformers keeps the attention implementation in it), of other depth if asked."""
    sizes = {"tie_word_embeddings": True} | (TINY_LM if name == "tiny" else KNOWN[LMS[name]])
    if layers is not None:
        sizes["num_hidden_layers"] = layers
    return (LlamaConfig if name.startswith("llama") else Qwen3Config)(**sizes)


def step_sizes(name: str) -> tuple[int, int, int]:
    """Patches of an image, width of the features and suffix tokens that go with an LM."""
    if name == "tiny":
        return (TINY_ENCODER["img_size"] // TINY_ENCODER["patch_size"]) ** 2, TINY_ENCODER["embed_dim"], SUFFIX["tiny"]
    return *KNOWN_PATCHES[ENCODER], SUFFIX["paper"]


def vision_model(name: str) -> Any:
    """Encoder that goes with an LM: DINOv2-L with registers at 224 px, or one of the microworld's size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(0, "bench", "encoder"))
        if name == "tiny":
            model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **TINY_ENCODER)
        else:
            model = timm.create_model(ENCODER, pretrained=False, num_classes=0, img_size=224)
    return model.eval().requires_grad_(False)
