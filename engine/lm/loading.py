"""An LM on disk: where it lies, what kind it is, its digests, its tokenizer and its weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from cachegen.common.device import device_memory
from cachegen.common.errors import ModelError
from cachegen.common.files import digest_bytes, digest_file, expanded
from cachegen.common.hub import (
    advice,
    first_line,
    is_folder,
    is_there,
    looks_like_path,
    may_be_moved,
    missing,
    model_config,
    weight_files,
)
from cachegen.common.progress import quiet_transformers
from cachegen.common.random_init import random_init_lm
from engine.lm.packing import check_packing, packing_of, unpacked, unpacking
from engine.lm.prompts import encode
from engine.lm.shape import check_sizes, lm_shape
from engine.lm.views import (
    ADAPTER_WEIGHTS,
    GGUF,
    adapter_base,
    adapter_view,
    gguf_in,
    gguf_view,
    is_kept,
    keep_unpacked,
    load_gguf,
    merge,
    read_tokenizer,
    source_of,
    view_digests,
)

DOWNLOADED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
NOT_DOWNLOADED = ["*/*", "consolidated*"]  # the same weights again in other formats, up to twice the download
FLOATS = ("F64", "F32", "F16", "BF16")
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json",
)  # fmt: skip
POSITIONS = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model")


def resolve_lm(name: str) -> Path:
    """Local directory of an LM: `name` itself if it is a folder, else the Hugging Face snapshot of that id.

    A GGUF file, alone in its folder or named, or an adapter has a folder in the cache instead (`engine.lm.views`). Only
    what loading needs is downloaded. Raises `ModelError`, for a gated LM saying how to get access, and for a folder
    that holds something else than a whole causal LM, as far as its small files tell (see `model_config`).
    """
    if not name.strip():
        raise ModelError("LM: a name is missing; give a directory, a GGUF file or a Hugging Face id")
    folder = expanded(name)
    if not is_folder(folder):
        if folder.suffix == GGUF and folder.is_file():
            return _checked(gguf_view(folder))
        if hosted := hosted_gguf(name):
            return _checked(gguf_view(_download(*hosted)))
        if is_there(folder) or looks_like_path(name):
            raise missing(name, "LM")
        folder = _download(name)
    if gguf := gguf_in(folder):
        return _checked(gguf_view(gguf))
    if base := adapter_base(folder):
        try:
            return _checked(adapter_view(folder, resolve_lm(base)))
        except ModelError as error:
            if str(folder) in str(error):
                raise
            raise ModelError(f"the adapter in {folder} is for {base}: {error}") from None
    return _checked(folder)


def _checked(folder: Path) -> Path:
    """`folder` itself, unless what its config.json says is no causal LM that can be loaded: then `ModelError`."""
    config = model_config(folder, quantised=True)
    for part in (config, config.get("text_config") or {}):
        try:
            check_sizes(part)
        except ModelError as error:
            raise ModelError(f"{folder / 'config.json'}: {error}; download it again") from None
    _check_kind(folder, config)
    return folder


def hosted_gguf(name: str) -> tuple[str, str] | None:
    """(id, file) of a GGUF file on the Hugging Face hub, ORGANISATION/REPOSITORY/FILE.gguf."""
    parts = name.split("/")
    if len(parts) != 3 or not name.endswith(GGUF) or name.startswith((".", "/", "~")) or is_folder(Path(parts[0])):
        return None
    return "/".join(parts[:2]), parts[2]


def _download(name: str, file: str | None = None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        if file is not None:
            return Path(hf_hub_download(name, file))
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED, ignore_patterns=NOT_DOWNLOADED))
    except HFValidationError:
        raise missing(name, "LM") from None
    except Exception as error:  # the hub and what it loads with raise a dozen unrelated types
        if may_be_moved(name, error):
            raise missing(name, "LM") from None
        raise ModelError(f"LM {name} {advice(name, error)}") from None


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    """Raise `ModelError` for a model that is no causal LM of transformers' own, saying what it is."""
    kind, classes = config.get("model_type"), config.get("architectures") or []
    if not isinstance(kind, str) or not isinstance(classes, list):
        what = "an encoder of timm" if "architecture" in config else "of no model_type that its config.json would tell"
    elif kind not in CONFIG_MAPPING_NAMES and "auto_map" in config:
        what = f"a {kind}, which needs its maker's own code (auto_map in its config.json), and that is never run"
    elif kind not in CONFIG_MAPPING_NAMES:
        what = f"a {kind}, which this version of transformers does not know"
    elif config.get("is_encoder_decoder"):
        what = f"a {kind}, an encoder and a decoder, no causal LM"
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        what = f"a {kind}, no causal LM"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        what = f"a {kind}, which reads text in both directions, no causal LM"
    elif any(str(name).endswith(("Classification", "QuestionAnswering")) for name in classes):
        what = f"a classifier ({classes[0]}), no causal LM"
    else:
        return
    raise ModelError(f"the model in {folder} is {what}; choose another LM")


def lm_digests(folder: Path, lm_init: str) -> dict[str, str]:
    """Digests of the LM (weights and configuration; for a random-init LM its configuration) and of its tokenizer."""
    source = source_of(folder)
    if source is not None and source.gguf is not None:
        return dict.fromkeys(("lm", "tokenizer"), *view_digests(source))
    weights = weight_files(folder) if lm_init == "pretrained" and source is None else []
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    lm = digest_bytes(*(digest_file(path).encode() for path in [folder / "config.json", *weights]))
    if source is not None and source.base is not None:
        lm = lm_digests(source.base, lm_init)["lm"]
        if lm_init == "pretrained":
            lm = digest_bytes(*(part.encode() for part in (lm, *view_digests(source))))
    return {
        "lm": lm,
        "tokenizer": digest_bytes(*(digest_file(path).encode() for path in tokenizer)),
    }


def load_config(folder: Path) -> Any:
    """The configuration of an LM as transformers reads it, without the weights. Raises `ModelError`."""
    quiet_transformers()
    try:
        # Said everywhere: where it is left open, transformers asks the user whether to run a model's own code.
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # configurations are checked nowhere: any type can come out of a damaged one
        raise ModelError(f"cannot load the LM in {folder}: {first_line(error)}; check its config.json") from None


def rows_of(config: Any) -> int | None:
    """How many tokens the LM of this configuration embeds."""
    return getattr(_text_config(config), "vocab_size", None)


def positions_of(config: Any) -> int | None:
    """How long a text the LM of this configuration was made for, if it says so."""
    text = _text_config(config)
    return next((value for name in POSITIONS if isinstance(value := getattr(text, name, None), int)), None)


def _text_config(config: Any) -> Any:
    """The part of a configuration that is about text, all of it in a plain LM; None if there are several."""
    try:
        return config.get_text_config()
    except ValueError:
        return None


def reads_pictures(config: Any) -> bool:
    """Whether the LM is part of a model with a vision tower, as which its weights were saved."""
    kind, classes = config.model_type, config.architectures or []
    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    return whole is not None and (whole in classes or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a directory of `save_pretrained`, without the weights.

    Raises `ModelError` if there is none, or none that says where in a text its tokens are.
    """
    load_config(folder)  # which the tokenizer reads too: what is wrong with it is no fault of the tokenizer's
    if not any(path.name in VOCABULARIES or path.suffix == ".tiktoken" for path in folder.iterdir()):
        raise ModelError(
            f"{folder} has no tokenizer (no tokenizer.json or other vocabulary); copy tokenizer.json and "
            "tokenizer_config.json there from where the model came from"
        )
    tokenizer = read_tokenizer(folder, folder, "download its files again")
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} gives no offsets; add a tokenizer.json (a fast tokenizer)")
    if not encode(tokenizer, ["Is there a dog?"])["input_ids"][0]:
        raise ModelError(f"the tokenizer in {folder} makes no token of a question; download its files again")
    return tokenizer


def load_model(folder: Path, lm_init: str, lm_seed: int, dtype: str) -> tuple[Any, Any]:
    """A plain causal LM on the CPU and its tokenizer, from a directory of `save_pretrained`.

    With `lm_init = "random"` its weights are drawn for its configuration: always in float32, so that a seed gives the
    same model in either dtype, which takes 33 GB of host memory for 8B until they are cast. Saved weights are read in
    `dtype` at once (8B in bfloat16: 16 GB).
    """
    tokenizer, config = load_tokenizer(folder), load_config(folder)
    precision, missing_keys = getattr(torch, dtype), set[str]()
    try:
        if lm_init == "random" and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise ModelError(
                f"the LM in {folder} is part of a {config.model_type}, and cannot have random weights; choose "
                "another LM"
            )
        if lm_init == "random":
            _check_memory(folder)
            model = random_init_lm(config, lm_seed).to(precision)
        else:
            check_weights(folder)
            model, missing_keys = _pretrained(folder, config, precision)
    except ModelError:
        raise
    except Exception as error:  # as above
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise ModelError(
                f"the LM in {folder} does not fit into memory ({first_line(error)}); choose a smaller LM, or bfloat16"
            ) from None
        reason = f"no {first_line(error)} is known" if isinstance(error, KeyError) else first_line(error)
        if "ignore_mismatched_sizes" in reason:  # transformers tells the sizes in a log of its own
            reason = "its weights have other shapes than its config.json says"
        raise ModelError(f"cannot load the LM in {folder}: {reason}; download config.json and weights again") from None
    if missing_keys:  # transformers would have filled them with random numbers
        raise ModelError(f"the LM in {folder} lacks weights, first {min(missing_keys)}; download or save it again")
    return model, tokenizer


def _pretrained(folder: Path, config: Any, precision: torch.dtype) -> tuple[Any, set[str]]:
    """The LM with its saved weights, unpacked and merged, and the names of those that are not there."""
    source = source_of(folder)
    if source is not None and source.base is not None and source.adapter is not None:
        model, missing_keys = _pretrained(source.base, load_config(source.base), precision)
        return merge(model, source.adapter), missing_keys
    if source is not None and source.gguf is not None and not is_kept(folder):
        model, info = load_gguf(source.gguf, config, precision)
        keep_unpacked(model, folder)
    else:
        auto = AutoModelForImageTextToText if reads_pictures(config) else AutoModelForCausalLM
        model, info = auto.from_pretrained(
            folder,
            config=unpacking(config),
            dtype=precision,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    if packing_of(config):
        model = unpacked(model, precision)
    return model, set(info["missing_keys"])


def _check_memory(folder: Path) -> None:
    shape, memory = lm_shape(str(folder)), device_memory(torch.device("cpu"))
    if shape and 4 * shape.weights > memory:
        raise ModelError(
            f"random weights for the LM in {folder} take {4 * shape.weights / 2**30:,.0f} GiB in float32, this machine "
            f"has {memory / 2**30:,.0f}; choose a smaller LM"
        )


def check_weights(folder: Path) -> None:
    """Raise `ModelError` for weights that are cut off or that cannot be unpacked; only their headers are read."""
    source = source_of(folder)
    if source is not None and source.base is not None:
        check_weights(source.base)
    packed = check_packing(folder, load_config(folder)) if source is None else False
    adapters = [source.adapter / ADAPTER_WEIGHTS] if source is not None and source.adapter else []
    for path in weight_files(folder) if source is None else adapters:
        try:
            with safe_open(path, "pt") as tensors:
                dtypes = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{path} is cut off or damaged ({first_line(error)}); download it again") from None
        for name, dtype in dtypes.items():
            if name.endswith("weight") and dtype not in FLOATS and not packed:  # without known scales
                raise ModelError(
                    f"{path} holds {name} as {dtype}: it is quantised, which this engine does not run; take its "
                    "version in bfloat16 or float32"
                )


def local_lm(name: str) -> Path | None:
    """`resolve_lm` of what is on this machine, as a directory or in the Hugging Face cache; None if it is not."""
    hosted = hosted_gguf(name)
    if is_there(expanded(name)) or (looks_like_path(name) and not hosted):
        base = adapter_base(expanded(name)) if is_folder(expanded(name)) else None
        return None if base is not None and local_lm(base) is None else resolve_lm(name)
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        if hosted:
            return resolve_lm(hf_hub_download(*hosted, local_files_only=True))
        snapshot = snapshot_download(name, allow_patterns=DOWNLOADED, local_files_only=True)
    except HFValidationError:
        raise missing(name, "LM") from None
    except ModelError:
        raise
    except Exception:  # of many types, all of which say that it is not in the cache
        return None
    return local_lm(snapshot)
