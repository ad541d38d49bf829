"""Tiny models of every vision type that transformers and timm have, and the table of what becomes of them.

`python tests/support/every_encoder.py docs/encoders.md` writes the table anew.
"""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from timm.models._registry import _module_to_models
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from cachegen.common.errors import ModelError
from cachegen.common.hub import SAFETENSORS
from cachegen.encoders import Encoder, load_encoder

MAPPINGS = (
    auto.MODEL_FOR_IMAGE_MAPPING_NAMES,
    auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_BACKBONE_MAPPING_NAMES,
    auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
)
TYPES = sorted({*(t for names in MAPPINGS for t in names), *(t for t in auto.MODEL_MAPPING_NAMES if "vision" in t)})
SIDE, DEPTH = 64, 3
SMALL = {
    "hidden_size": 48, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 12,
    "intermediate_size": 96, "mlp_dim": 96, "image_size": SIDE, "patch_size": 16, "vocab_size": 99, "depth": DEPTH,
    "projection_dim": 16, "num_heads": 4, "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "embed_dim": 48,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "max_num_patches": 16,
    "decoder_intermediate_size": 16, "max_position_embeddings": 40, "num_patches": 16, "aux_hidden_size": 48,
}  # fmt: skip
STAGES = ("depths", "hidden_sizes", "embed_dims", "stage_channels", "block_repeats", "num_block_repeats")
OF_STAGES: dict[str, Any] = {"image_size": 224}  # as they are, with one block in each stage


def tiny_config(model_type: str) -> Any:
    """The smallest configuration that can be made of a type's defaults without knowing the type."""
    return _shrunk(CONFIG_MAPPING[model_type])


def _shrunk(kind: Any, given: Any = None) -> Any:
    default = given if given is not None else kind()
    parts = {name: getattr(default, name, None) for name in getattr(kind, "sub_configs", {})}
    fields: dict[str, Any] = {
        name: _shrunk(type(part), part)
        for name, part in parts.items()
        if isinstance(part, transformers.PreTrainedConfig)
    }
    staged = any(isinstance(getattr(default, name, None), list | tuple) for name in STAGES)
    if staged and isinstance(getattr(default, "depths", None), list | tuple):
        fields["depths"] = [1] * len(default.depths)
    for name, value in {} if staged else SMALL.items():
        if type(getattr(default, name, None)) is int:
            fields[name] = value
    if isinstance(getattr(default, "image_size", None), list | tuple) and not staged:
        fields["image_size"] = [SIDE, SIDE]
    known = default.to_dict()
    for name in known:
        if name.endswith("_token_id") and type(known[name]) is int:
            fields[name] = 1
    return kind(**fields)


def save_tiny(model_type: str, folder: Path) -> Any:
    """A random model of this type in `folder`, and the model."""
    config = tiny_config(model_type)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    for parameter in model.parameters():  # some are zero, which would hide mistakes
        parameter.data += 0.02 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    sides = (getattr(part, "image_size", None) for part in (getattr(config, "vision_config", None), config))
    sides = (side[0] if isinstance(side, list | tuple) else side for side in sides)
    side = next((side for side in sides if type(side) is int), 224)
    side = min(side, 256)
    processor = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


# One architecture for each module of timm, mostly its smallest.
TIMM = [
    "beit_base_patch16_224", "halonet_h1", "mobileone_s1", "cait_xxs24_224", "coat_tiny", "convit_tiny",
    "convmixer_768_32", "convnext_zepto_rms", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s",
    "cspnext_tiny", "davit_tiny", "deepseek_vit_412m", "deit_tiny_patch16_224", "densenet121", "dla46x_c",
    "dpn48b", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientnet_lite0",
    "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224", "fasternet_t0",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050", "hardcorenas_b",
    "hgnetv2_b0", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "iformer_t", "inception_next_atto",
    "ens_adv_inception_resnet_v2", "adv_inception_v3", "inception_v4", "lcnetv2_small", "levit_128s",
    "lowformer_b0", "test_mambaout", "maxvit_pico_rw_256", "poolformerv2_s12", "gmlp_ti16_224", "lcnet_035",
    "mobilenetv5_base", "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_parfac_gap", "nasnetalarge",
    "jx_nest_tiny", "nextvit_small", "nf_regnet_b0", "pit_ti_224", "pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m",
    "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m1", "res2next50", "resnest14d", "gluon_resnet18_v1b",
    "resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18", "sequencer2d_s", "shvit_s1", "skresnet18",
    "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_tiny_window16_256",
    "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11",
    "visformer_tiny", "test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos", "samvit_base_patch16_224",
    "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p",
    "xcit_nano_12_p8_224",
]  # fmt: skip
TOO_LARGE = {"depth_pro", "gemma3n_vision", "perceiver"}  # by their defaults


def modules_of(names: list[str]) -> set[str]:
    """The modules of timm that these architectures are in."""
    return {module for module, models in _module_to_models.items() if set(names) & set(models)}


def save_tiny_timm(name: str, folder: Path) -> Any:
    """A random model of this architecture in `folder`, with few narrow blocks where it takes that, and the model."""
    torch.manual_seed(0)
    for arguments in ({"embed_dim": 48, "depth": DEPTH, "num_heads": 4}, {}):
        try:
            model = timm.create_model(name, num_classes=0, **arguments).eval()
            break
        except (TypeError, ValueError, AssertionError, RuntimeError):
            continue
    save_config_for_hf(model, folder / "config.json", model_args=arguments)
    save_file({key: tensor.clone().contiguous() for key, tensor in model.state_dict().items()}, folder / SAFETENSORS)
    return model


def try_all(kinds: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """(library, type or architecture, what became of it) of each."""
    for library, name in kinds:
        yield library, name, what_becomes_of(library, name)


def what_becomes_of(library: str, name: str) -> str:
    """ "accepted: layer", or "refused: why"; or that a tiny one cannot be made."""
    if name in TOO_LARGE:
        return "not tried: large by its defaults"
    with tempfile.TemporaryDirectory() as folder:
        try:
            (save_tiny if library == "transformers" else save_tiny_timm)(name, Path(folder))
        except Exception as error:
            why = re.sub(
                r" Model type should be one of.*| You can .*|<class '[\w.]*\.(\w+)'>",
                r"\1",
                str(error).strip().split("\n")[0],
            )
            return f"not tried: no tiny one is made ({type(error).__name__}: {why[:120]})"
        try:
            encoder: Encoder = load_encoder(folder, "cpu")
        except ModelError as error:
            return "refused: " + str(error).removeprefix(f"encoder {folder}: ")
    return f"accepted: {encoder.models[0].layer}"


ALL = [*(("transformers", name) for name in TYPES), *(("timm", name) for name in TIMM)]
MARK = "<!-- made by tests/support/every_encoder.py -->"


def table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| library | type or architecture | what becomes of it |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {library} | `{name}` | {what.replace('|', '/')} |" for library, name, what in rows)]
    )


if __name__ == "__main__":
    page = Path(sys.argv[1])
    transformers.logging.set_verbosity_error()
    rows = list(try_all(ALL))
    before = page.read_text().partition(MARK)[0]
    versions = f"transformers {transformers.__version__}, timm {timm.__version__}"
    page.write_text(f"{before}{MARK}\n\nWith {versions}:\n\n{table(rows)}\n")
