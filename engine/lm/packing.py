"""Quantised checkpoints in transformers' form (quantization_config): unpacked into plain numbers at load.

So gradients pass through any of them, and everything after the load is as for an LM in bfloat16 or float32. What
transformers cannot unpack it may still compute with, and the check at load tells whether gradients pass.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

from cachegen.common.errors import ModelError
from cachegen.common.hub import first_line


def packing_of(config: Any) -> dict[str, Any] | None:
    """How the checkpoint of this configuration is quantised, as it says itself; None if it is not."""
    parts = (config, getattr(config, "text_config", None))
    return next((found for part in parts if (found := getattr(part, "quantization_config", None)) is not None), None)


def unpacking(config: Any) -> Any:
    """`config`, asking transformers to unpack weights while it reads them, where it can."""
    config = copy.deepcopy(config)
    if isinstance(packing := packing_of(config), dict):
        packing["dequantize"] = True
    return config


def check_packing(folder: Path, config: Any) -> bool:
    """Whether the checkpoint in `folder` is quantised; raises `ModelError` if transformers cannot load it here."""
    packing = packing_of(config)
    if packing is None:
        return False
    method = packing.get("quant_method") if isinstance(packing, dict) else None
    four_or_eight = isinstance(packing, dict) and (packing.get("load_in_4bit") or packing.get("load_in_8bit"))
    try:
        if not four_or_eight and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
            raise ValueError("transformers does not know this method")
        quantizer = AutoHfQuantizer.from_config(packing_of(unpacking(config)), pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
    except Exception as error:  # of many libraries, in whatever way they say that they are not here
        raise ModelError(
            f"{folder} is quantised (quantization_config in its config.json: {method}), and cannot be loaded here: "
            f"{first_line(error)}; else take its version in bfloat16 or float32, or a GGUF file"
        ) from None
    return True


def unpacked(model: Any, precision: torch.dtype) -> Any:
    """`model`, read from a quantised checkpoint, with plain numbers of `precision` where transformers can unpack them.

    It leaves what was not packed in the checkpoint's own precision, or in that of the scales.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not getattr(quantizer.quantization_config, "dequantize", False):
        try:
            model = model.dequantize()
        except NotImplementedError:
            return model
    elif quantizer is not None:
        quantizer.remove_quantization_config(model)
    lists = (getattr(model, f"_keep_in_fp32_modules{end}", None) or () for end in ("", "_strict"))
    names = [name for each in lists for name in each]
    for name, values in model.named_parameters():
        if values.is_floating_point() and not any(part in name for part in names):
            values.data = values.data.to(precision)
    return model
