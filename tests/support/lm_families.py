"""A tiny model of every family of LMs that transformers has, made by shrinking its default configuration.

`python tests/support/lm_families.py` tries all of them, and writes their table into docs/models.md.
"""

import inspect
import re
import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

LAYERS, VOCABULARY = 4, 61
# Sizes, under all the names that configurations give them.
SIZES = {
    name: size
    for names, size in {
        "hidden_size n_embd d_model dim embedding_size word_embed_proj_dim emb_dim ple_embed_dim": 48,
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers": LAYERS,
        "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads": 4,
        "linear_num_value_heads linear_num_heads mamba_n_heads swa_num_attention_heads index_n_heads": 4,
        "num_key_value_heads num_kv_heads n_head_kv linear_num_key_heads swa_num_key_value_heads": 2,
        "num_global_key_value_heads depth num_experts_per_tok num_experts_per_token moe_topk moe_k": 2,
        "experts_per_token o_groups": 2,
        "head_dim attention_head_dim d_kv linear_key_head_dim linear_value_head_dim global_head_dim": 16,
        "swa_head_dim linear_head_dim index_head_dim q_lora_rank kv_lora_rank o_lora_rank hc_lowrank": 16,
        "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim mamba_d_ssm": 96,
        "moe_intermediate_size expert_ffn_hidden_size ffn_hidden_size d_inner intermediate_size_mlp": 32,
        "shared_expert_intermediate_size shared_intermediate_size moe_shared_expert_intermediate_size": 32,
        "num_experts num_local_experts n_routed_experts moe_num_experts laurel_rank index_topk": 4,
        "n_group num_expert_group topk_group moe_num_shared_experts n_shared_experts first_k_dense_replace": 1,
        "qk_rope_head_dim rotary_dim hidden_size_per_layer_input": 8,
        "v_head_dim swa_v_head_dim": 10,
        "qk_nope_head_dim": 12,
        "qk_head_dim": 20,
        "vocab_size vocab_size_per_layer_input ngram_vocab_size_base": VOCABULARY,
        "max_position_embeddings n_positions max_seq_len": 512,
        "sliding_window attention_chunk_size window_size": 6,
        "index_block_size index_topk_blocks keep_window_size": 4,
        "num_kv_shared_layers num_nextn_predict_layers pad_token_id bos_token_id eos_token_id": 0,
        "image_token_id image_token_index": 5,
        "audio_token_id": 6,
        "video_token_id": 7,
    }.items()
    for name in names.split()
} | {"initializer_range": 0.2}
# One entry for each layer: of those that the default has, one of each kind.
LISTS = [
    "layer_types", "layers_block_type", "mlp_layer_types", "attention_layers", "activation_sparsity_pattern",
    "no_rope_layers", "block_types",
]  # fmt: skip


def _each(names, more):
    return dict.fromkeys(names.split(), more)


class Whole(dict):
    """A configuration that is taken as it is."""


LATENT = {"num_key_value_heads": 4, "head_dim": 8}
ROTARY = {"rope_type": "default", "rope_theta": 1e4}
WINDOWS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * 2}
KDA = {"num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 4, "kda_layers": [1, 2, 3], "full_attn_layers": [4]}
# What the default configurations of some families need beside smaller sizes.
MORE = {
    **_each("axk1 axk2 deepseek_v3 deepseek_v32 glm_moe_dsa glm4_moe_lite longcat_flash minicpm3 youtu", LATENT),
    **_each("bailing_hybrid dots3_note_text", LATENT),
    "deepseek_v2": LATENT | {"num_experts_per_tok": 2},
    **_each("kimi_k25 mistral_large4 dots3_note", {"text_config": LATENT}),
    **_each(
        "glm4v glm46v glmga glm_ocr qwen2_vl qwen2_5_vl qwen2_5_omni_thinker",
        {"text_config": {"rope_parameters": ROTARY | {"mrope_section": [2, 2, 2]}}},
    ),
    "glm4v_moe": {"text_config": {"rope_parameters": ROTARY | {"mrope_section": [1, 1, 1]}}},
    **_each("paddleocr_vl cosmos3_edge", {"text_config": {"rope_parameters": ROTARY | {"mrope_section": [2, 3, 3]}}}),
    **_each("bert big_bird camembert electra ernie megatron-bert rembert roberta-prelayernorm", {"is_decoder": True}),
    **_each("roformer xlm-roberta bert-generation data2vec-text roberta roc_bert xmod", {"is_decoder": True}),
    "xlm-roberta-xl": {"is_decoder": True},
    **_each("falcon_h1 granitemoehybrid bamba", {"mamba_d_head": 24, "mamba_expand": 2}),
    **_each("lfm2 lfm2_moe", {"layer_types": ["conv", "full_attention"] * 2}),
    **_each("qwen2_moe smollm3 qwen2 qwen3 qwen3_moe", WINDOWS | {"use_sliding_window": True}),
    "mamba2": {"num_heads": 4, "head_dim": 24, "expand": 2, "n_groups": 1},
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 24, "n_groups": 1, "ssm_state_size": 16},
    "helium": {"head_dim": 12},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 12},
    "stablelm": {"partial_rotary_factor": 0.5},
    "mistral4": LATENT | {"rope_parameters": ROTARY},
    "kimi_linear": LATENT | {"linear_attn_config": KDA},
    "zaya": {"num_experts_per_tok": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local"], "local_attn_chunk_length": 4},
    "dbrx": {"attn_config": Whole(kv_n_heads=2, clip_qkv=8, rope_theta=1e4), "ffn_config": Whole(
        ffn_hidden_size=32, moe_num_experts=4, moe_top_k=2)},
    "cohere_compass_text": WINDOWS | {"rope_parameters": {"sliding_attention": ROTARY, "full_attention": ROTARY}},
    "xlm": {"causal": True},
}  # fmt: skip


def shrunk(config_class, **more):
    """A configuration of the class with small sizes; those nested in it as well."""
    parts, given = getattr(config_class, "sub_configs", {}), {}
    for name, value in config_class().to_dict().items():
        if isinstance(more.get(name), Whole):
            continue
        if name in parts or (isinstance(value, dict) and "model_type" in value):
            if value is not None:
                part = parts.get(name)
                known = inspect.isclass(part) and part.__name__ != "AutoConfig"
                given[name] = shrunk(part if known else CONFIG_MAPPING[value["model_type"]], **more.get(name, {}))
        elif name in LISTS and isinstance(value, list | tuple) and value:
            kinds = list(dict.fromkeys(value))[:LAYERS]
            given[name] = [kinds[place % len(kinds)] for place in range(LAYERS)]
        elif name in SIZES and (
            isinstance(value, int | float) or (value is None and name in ("pad_token_id", "head_dim"))
        ):
            given[name] = SIZES[name]
    raw = {name: dict(value) if isinstance(value, Whole) else value for name, value in more.items()}
    return config_class(
        **given | {name: value for name, value in raw.items() if name not in given or name not in parts}
    )


def families():
    """Names of all model types: causal LMs, and models of several parts around one."""
    return list(dict.fromkeys([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]))


def tiny_of(kind):
    """A float32 model of this type with random weights, large enough that attention patterns matter."""
    auto = AutoModelForCausalLM if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return auto.from_config(shrunk(CONFIG_MAPPING[kind], **MORE.get(kind, {}))).eval()


def takes_embeddings(model):
    """What the model's own forward has against embeddings in place of tokens; "" if nothing."""
    embeddings = model.get_input_embeddings()
    ids = torch.arange(9)[None]
    more = {}
    if hasattr(decoder := model.get_decoder(), "get_per_layer_inputs") and decoder.config.hidden_size_per_layer_input:
        more["per_layer_inputs"] = decoder.get_per_layer_inputs(ids)
    try:
        logits = model(inputs_embeds=embeddings(ids), use_cache=False, **more).logits
        return "" if logits.isfinite().all() else "no numbers"
    except Exception as error:
        return str(error).strip().splitlines()[0]


START, END = "<!-- families -->", "<!-- end of families -->"


def documented(page):
    """model type -> (way, why not shared) as docs/models.md has them."""
    rows = re.findall(r"^\| `([^`]+)` \| (\w[\w ]*) \|(.*)\|$", page.read_text().split(START)[1], re.MULTILINE)
    return {kind: (way, why.strip()) for kind, way, why in rows}


def examine(kind):
    """(way, reason) of one family."""
    from cachegen.common.errors import ModelError
    from engine.lm.language_model import FrozenLM

    try:
        model = tiny_of(kind)
    except Exception as error:
        return "not tried", f"no tiny configuration: {' '.join(str(error).split())[:90]}"
    try:
        if problem := takes_embeddings(model):
            return "refused", f"its own forward fails on embeddings: {problem[:90]}"
        lm = FrozenLM.wrap(model, None, torch.device("cpu"))
    except (ModelError, AttributeError, NotImplementedError) as error:
        return "refused", str(error)[:140]
    return {"shared": "shared", "unshared": "unshared", "single": "single"}[lm.way], lm.reason


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    page = Path(__file__).parents[2] / "docs" / "models.md"
    before, rest = page.read_text().split(START)
    known = documented(page)
    chosen = sys.argv[1:] or families()
    for kind in chosen:
        known[kind] = examine(kind)
        print(kind, *known[kind], flush=True)
        clean = {k: (way, re.sub(r"[|<>`]", "", why)) for k, (way, why) in known.items() if k in families()}
        rows = [f"| `{k}` | {way} | {why} |".replace("|  |", "| |") for k, (way, why) in sorted(clean.items())]
        table = "\n".join(["| model type | way | why |", "|---|---|---|", *rows])
        page.write_text(f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}")
