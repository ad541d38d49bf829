"""Sizes of a language model, from its config.json or, for the presets' models, from a table: no network, no weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen.common.errors import CrosstaxError, ModelError
from cachegen.common.files import expanded, read_json
from cachegen.common.hub import MOST_CONFIG, is_folder

# Architecture facts from the models' public config.json files.
KNOWN: dict[str, dict[str, int]] = {
    "Qwen/Qwen3-0.6B": {
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936,
    },
    "Qwen/Qwen3-1.7B": {
        "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 6144, "vocab_size": 151936,
    },
    "Qwen/Qwen3-8B": {
        "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936, "tie_word_embeddings": False,
    },
    "meta-llama/Llama-3.2-1B": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256,
    },
}  # fmt: skip
KNOWN["meta-llama/Llama-3.2-1B-Instruct"] = KNOWN["meta-llama/Llama-3.2-1B"]

PLAIN_MLP = {"gpt_neox", "gpt2", "gptj", "opt", "phi", "bloom"}  # two matrices; all others have a gate as third

# Model types whose questions cannot share an image's prefix: recurrent, convolutional, or with an attention, positions
# or a mask of their own. For estimates only; the check at load decides (`tests/test_all_families.py` compares them).
UNSHARED: frozenset[str] = frozenset(
    """
    axk2 bailing_hybrid bamba bart big_bird bigbird_pegasus blenderbot blenderbot-small bloom camembert codegen
    data2vec-text deepseek_v32 doge dots3_note_text falcon falcon_h1 falcon_mamba git glm_moe_dsa gpt_neo
    gpt_neox_japanese gptj granitemoehybrid hy_v4 inkling2_text inkling_mm_model inkling_text jamba kimi_linear
    kosmos-2.5 lfm2 lfm2_moe lfm3 lfm3_vl mamba mamba2 marian mbart megatron-bert minicpm_ocr minicpmv4_6 minicpmv4_7
    minimax minimax_m3_vl minimax_m3_vl_text mistral_large4 mpt mvp nemotron_h olmo_hybrid openai-gpt paligemma
    pegasus plbart qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next recurrent_gemma rembert roberta
    roberta-prelayernorm roformer rwkv trocr unlimited_ocr xglm xlm xlm-roberta xlm-roberta-xl xlnet xlstm zamba
    zamba2 zaya
    """.split()  # noqa: SIM905
)


# Names of sizes in the configurations of transformers' decoders -> what none of them comes near.
MOST = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 2**20),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2**12),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "head_dim"), 2**16),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), 2**24),
    "vocab_size": 2**26,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 2**36),
}


def check_sizes(config: Any) -> None:
    """Raise `ModelError` for a size in a config.json that is none, or so large that it would only fill the memory."""
    if not isinstance(config, dict):
        raise ModelError("it is no table")
    for name, most in MOST.items():
        values = config.get(name)
        for value in values if isinstance(values, list) else [] if values is None else [values]:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ModelError(f"{name} is {str(value)[:40]!r}, no whole number from 1 to {most:,}")


@dataclass(frozen=True)
class LMShape:
    """Widths of a decoder: D of the model, Q of all query heads, K of all key (or value) heads, M of the MLP.

    `shares`: whether questions are expected to share their image's prefix.
    """

    width: int
    layers: int
    heads: int
    query: int
    key: int
    mlp: int
    mlp_matrices: int
    vocabulary: int
    tied: bool
    shares: bool = True

    @property
    def attention_weights(self) -> int:
        """Weights of one block's attention projections."""
        return self.width * (2 * self.query + 2 * self.key)

    @property
    def mlp_weights(self) -> int:
        """Weights of one block's MLP."""
        return self.mlp_matrices * self.width * self.mlp

    @property
    def weights(self) -> int:
        """All weights but the few of norms and biases."""
        blocks = self.layers * (self.attention_weights + self.mlp_weights)
        return blocks + (1 if self.tied else 2) * self.vocabulary * self.width

    def activations(self, keys: int) -> int:
        """Values kept for the backward pass, for each token of a packed row (tests/test_cost.py measures them).

        Frozen weights keep no input of their products: what remains are the inputs of norms and residuals, queries,
        keys, values and attention output, what the gate of the MLP needs, and on a CPU the attention probabilities
        over `keys` tokens.
        """
        return self.layers * (4 * self.width + 6 * self.query + 4 * self.key + 3 * self.mlp + self.heads * keys)


def lm_shape(name: str) -> LMShape | None:
    """Shape of a local directory, of a Hugging Face id that is in the local cache, or of a known id; else None."""
    folder = expanded(name)
    path = folder / "config.json" if is_folder(folder) else _cached_config(name)
    if path is not None and path.is_file():
        try:
            config = read_json(path, MOST_CONFIG)
            check_sizes(config)
            return shape_of_config(config)
        except (CrosstaxError, KeyError, TypeError):
            return None
    return shape_of_config(KNOWN[name]) if name in KNOWN else None


def _cached_config(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def shape_of_config(config: dict[str, Any]) -> LMShape:
    """Shape from the entries of a config.json; raises `KeyError` if one is missing."""
    kind = config.get("model_type")
    if isinstance(text := config.get("text_config"), dict):  # a model of several parts
        config = text
    width = config["hidden_size"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    plain = kind in PLAIN_MLP
    return LMShape(
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        query=heads * head,
        key=(config.get("num_key_value_heads") or heads) * head,
        mlp=config.get("intermediate_size") or 4 * width,
        mlp_matrices=2 if plain else 3,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", True)),
        shares=kind not in UNSHARED,
    )
