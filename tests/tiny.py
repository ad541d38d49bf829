"""Tiny language models of several families, with random weights, for tests."""

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, Qwen3Config

SIZE = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "qwen3": lambda: Qwen3Config(**SIZE, num_key_value_heads=2, head_dim=16),
    "llama": lambda: LlamaConfig(**SIZE, num_key_value_heads=2),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZE),
}


def tiny_lm(family, seed=0, dtype=torch.float32):
    """A causal LM of `family` with weights large enough that attention patterns matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(CONFIGS[family]()).to(dtype).eval()
