"""A tiny model of every causal LM family that transformers has, made from its default configuration by shrinking."""

import inspect

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

LAYERS, VOCABULARY = 4, 61
# Sizes by the names that configurations give them.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "linear_num_value_heads", "mamba_n_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv", "linear_num_key_heads"), 2),
    **dict.fromkeys(("swa_num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "d_kv", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("global_head_dim", "swa_head_dim", "mamba_d_head"), 16),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 96),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size", "d_inner"), 32),
    **dict.fromkeys(("intermediate_size_mlp", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "moe_num_shared_experts", "n_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10, "qk_head_dim": 20, "swa_v_head_dim": 10, "rotary_dim": 8,
    "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128, "initializer_range": 0.2,
    "sliding_window": 6, "attention_chunk_size": 6, "window_size": 6,
    "laurel_rank": 4, "num_kv_shared_layers": 0, "first_k_dense_replace": 1,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "index_topk": 4, "index_n_heads": 4, "index_head_dim": 16,
    "num_nextn_predict_layers": 0, "image_token_id": 5, "audio_token_id": 6, "video_token_id": 7, "image_token_index": 5,
}  # fmt: skip
LATENT = {"num_key_value_heads": 4, "head_dim": 8}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
# What a family's default configuration needs beside smaller sizes.
MORE = {
    **dict.fromkeys(
        ("axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa",
         "glm4_moe_lite", "longcat_flash", "minicpm3", "youtu", "mistral4", "dots3_note", "dots3_note_text"), LATENT),
    **dict.fromkeys(("kimi_k25", "mistral_large4", "glm5_next"), {"text_config": LATENT}),
    **dict.fromkeys(
        ("glm4v", "glmga", "glm46v", "paddleocr_vl", "qwen2_vl", "qwen2_5_vl", "glm_ocr", "glm4v_moe",
         "qwen2_5_omni_thinker", "cosmos3_edge"), {"text_config": {"rope_parameters": MROPE}}),
    **dict.fromkeys(
        ("bert", "big_bird", "camembert", "electra", "ernie", "megatron-bert", "rembert", "roberta-prelayernorm",
         "roformer", "xlm-roberta", "bert-generation", "data2vec-text", "roberta", "roc_bert", "xlm-roberta-xl", "xmod",
         "reformer"), {"is_decoder": True}),
    **dict.fromkeys(("falcon_h1", "granitemoehybrid", "bamba"), {"mamba_d_head": 24, "mamba_n_heads": 4, "mamba_expand": 2}),
    "mamba2": {"num_heads": 4, "head_dim": 24, "expand": 2, "n_groups": 1},
    "helium": {"head_dim": 12},
    "stablelm": {"partial_rotary_factor": 0.5},
    "mistral4": {"num_key_value_heads": 4, "head_dim": 20, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "deepseek_v2": LATENT | {"num_experts_per_tok": 2},
    "kimi_linear": LATENT | {"linear_attn_config": {"num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 4, "kda_layers": [1, 2, 3], "full_attn_layers": [4]}},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 12},
    "zaya": {"num_experts_per_tok": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "dots1": {"n_routed_experts": 4},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 4},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
}  # fmt: skip
LISTS = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "attention_layers",
    "activation_sparsity_pattern",
    "no_rope_layers",
    "block_types",
    "layers_types",
    "hybrid_override_pattern",
    "attn_layer_indices",
)


def shrunk(config_class, **more):
    """A configuration of the class with small sizes; nested ones too."""
    default = config_class().to_dict()
    given = {}
    subs = getattr(config_class, "sub_configs", {})
    for name, value in default.items():
        if name in subs or (isinstance(value, dict) and "model_type" in value):
            sub = subs.get(name)
            sub = (
                CONFIG_MAPPING[value["model_type"]]
                if sub is None or not inspect.isclass(sub) or sub.__name__ == "AutoConfig"
                else sub
            )
            given[name] = shrunk(sub, **more.get(name, {}))
        elif (
            name in SIZES
            and isinstance(value, int | float | type(None))
            and not (value is None and name not in ("pad_token_id", "head_dim"))
        ):
            given[name] = SIZES[name]
    lists = {}
    for name in LISTS:
        value = default.get(name)
        if isinstance(value, (list, tuple)) and value:
            lists[name] = one_of_each(list(value))
    given |= lists | {k: v for k, v in more.items() if k not in subs}
    return config_class(**given)


def one_of_each(values):
    """LAYERS entries that hold every kind of layer that `values` has, in order."""
    kinds = list(dict.fromkeys(values)) if all(isinstance(v, str | int | float) for v in values) else values
    kinds = kinds[:LAYERS]
    return [kinds[i % len(kinds)] for i in range(LAYERS)]


def kinds_of_lm():
    """model_type -> class name, of causal LMs and of models of several parts around one."""
    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) | {
        k: v
        for k, v in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()
        if k not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    }


def tiny(kind, seed=0, **more):
    config = shrunk(CONFIG_MAPPING[kind], **MORE.get(kind, {}) | more)
    auto = AutoModelForCausalLM if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return auto.from_config(config).eval()
