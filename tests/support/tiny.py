"""Tiny language models and tokenizers in the manner of several families, with random weights, for tests."""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
    OlmoConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SIZE = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "max_position_embeddings": 128,
}
# Token ids that the configurations would set beyond a tiny vocabulary.
SPECIAL = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
CONFIGS = {
    "qwen3": lambda **size: Qwen3Config(**SIZE | {"num_key_value_heads": 2, "head_dim": 16} | size),
    "llama": lambda **size: LlamaConfig(**SIZE | {"num_key_value_heads": 2} | size),
    "gpt_neox": lambda **size: GPTNeoXConfig(**SIZE | size),
    "olmo": lambda **size: OlmoConfig(**SIZE | SPECIAL | size),
    "olmo2": lambda **size: Olmo2Config(**SIZE | SPECIAL | size),
}


def tiny_lm(family, seed=0, dtype=torch.float32, **size):
    """A causal LM of `family` with weights large enough that attention patterns matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(CONFIGS[family](**size)).to(dtype).eval()


# How each family splits text before merging, in our own words but to the same effect: letters may take one sign before
# them along (so that "?Yes" can become one token), or only a space (so that it cannot).
SIGN_AND_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SENTENCES = [
    "Is there a crow in this image?\nYes",
    "Are there scissors in this image?\nNo",
    "<image>\nIs there a bird in this image? Yes",
    "The answer is No.",
]
# style -> pre-tokenizer, first token of every text
STYLES = {
    "qwen": ("sign", None),
    "llama3": ("sign", "<|begin_of_text|>"),
    "gpt_neox": ("gpt2", None),
    "sentencepiece": ("words", "<s>"),  # Llama 2, Mistral 7B, Gemma
}


def tiny_tokenizer(style, eos_at_end=False, sentences=SENTENCES, vocabulary=420):
    """A byte-level BPE, or one over words marked with "▁" with bytes to fall back on, trained on a few sentences."""
    split, bos = STYLES[style]
    special = ["<|endoftext|>", *([bos] if bos else [])]
    tokenizer = Tokenizer(models.BPE(byte_fallback=split == "words"))
    if split == "words":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        # Merges never reach into the next word.
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        sentences = [sentence.replace("\n", " ") for sentence in sentences]
    elif split == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pattern = pre_tokenizers.Split(Regex(SIGN_AND_LETTERS), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pattern, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    if split != "words":
        tokenizer.decoder = decoders.ByteLevel()
    alphabet = [] if split == "words" else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(sentences * 20, trainer)
    template = " ".join([*([bos] if bos else []), "$A", *(["<|endoftext|>"] if eos_at_end else [])])
    if template != "$A":
        tokens = [(token, tokenizer.token_to_id(token)) for token in special[:2]]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token="<|endoftext|>")
