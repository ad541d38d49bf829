"""LMs in other forms than a folder of transformers: a GGUF file of llama.cpp, an adapter (LoRA) to another LM.

Each is given a view: a small folder in the cache with its config.json and tokenizer in transformers' form, made once,
so that code which reads these reads any LM. `weights.json` in it says where the weights are.
"""

import contextlib
import copy
import importlib.util
import io
import mmap
import os
import shutil
import struct
import time
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from cachegen.common.errors import CrosstaxError, DatasetError, ModelError, WriteError, is_fault
from cachegen.common.files import (
    default_cache,
    digest_bytes,
    digest_file,
    give_own_modes,
    new_folder,
    read_json,
    reason_of,
    remedy_of,
    write_json,
)
from cachegen.common.hub import CHECKED, INDEX, MOST_CONFIG, SAFETENSORS, check_small_files, first_line, is_there
from cachegen.common.progress import quiet_transformers

WEIGHTS, KEPT = "weights.json", "kept.json"
MOST_KEPT = 2 * 2**30  # bytes of unpacked weights that a view keeps: of 0.5B, a minute of work for a slow core
ASIDE = ".unpacking-"  # begins the name of a folder in which weights are written
DAY = 86_400
RECIPE = "1"  # views of another recipe are made anew
GGUF = ".gguf"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# GGUF: formats and bytes of the types of metadata, by number; 8 is text, 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# Kinds of vocabulary whose texts begin with a first token in llama.cpp, also where the file does not say so.
BEGIN = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}
ROPE_FACTORS = "rope_freqs.weight"
SCALES = {("gemma2", 46), ("gemma3", 62)}  # the 27B: their queries are scaled by heads, as llama.cpp knows by depth


@dataclass(frozen=True)
class Source:
    """Where the weights of a view are: in a GGUF file, or those of the LM in `base` with an adapter merged in."""

    gguf: Path | None = None
    base: Path | None = None
    adapter: Path | None = None


def source_of(folder: Path) -> Source | None:
    """Where the weights of the LM in `folder` are, if it is a view; else None, they are in it."""
    if not (folder / WEIGHTS).is_file():
        return None
    try:
        return Source(**{name: Path(place) for name, place in read_json(folder / WEIGHTS, MOST_CONFIG).items()})
    except (TypeError, AttributeError):
        raise ModelError(f"{folder / WEIGHTS} is damaged; delete the folder {folder}, it is made again") from None


def _view(name: str, marks: list[str], source: dict[str, str], write: Any) -> Path:
    """A folder of the cache that `write(folder)` fills once for the same marks."""
    key = digest_bytes(*(mark.encode() for mark in [RECIPE, transformers.__version__, name, *marks]))[:12]
    folder = default_cache() / "lms" / f"{name[:80]}-{key}"
    if (folder / WEIGHTS).is_file():
        return folder
    try:
        with new_folder(folder) as aside:
            write(aside)
            write_json(aside / WEIGHTS, source)
            give_own_modes(aside)
    except (DatasetError, WriteError):
        if not (folder / WEIGHTS).is_file():  # another process was first
            raise
    return folder


def _state(path: Path) -> str:
    """What tells a file from what lay in its place before."""
    found = path.stat()
    return f"{os.path.realpath(path)} {found.st_size} {found.st_mtime_ns}"


# GGUF


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its weights: metadata (of arrays of text only the length), tensors as
    (shape, type, place in the file)."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def said(self, name: str) -> Any:
        """The value under the architecture's own name."""
        return self.metadata.get(f"{self.architecture}.{name}")


def read_header(path: Path) -> Header:
    """The header of a GGUF file, without transformers or the package gguf. Raises `ModelError`."""
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).header()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {reason_of(error)}; {remedy_of(error)}") from None
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is cut off or no GGUF file ({first_line(error)}); download it again") from None


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place = content, 0

    def header(self) -> Header:
        if self.content[:4] != b"GGUF":
            raise ValueError("it does not start with GGUF")
        self.place = 4
        version, tensors, entries = self.numbers("IQQ")
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}")
        metadata = {}
        for _ in range(entries):
            key = self.text()
            metadata[key] = self.value(self.numbers("I")[0])
        found = {}
        for _ in range(tensors):
            name = self.text()
            shape = self.numbers(f"{self.numbers('I')[0]}Q")[::-1]
            kind, offset = self.numbers("IQ")
            found[name] = shape, kind, offset
        alignment = metadata.get("general.alignment", 32)
        start = -(-self.place // alignment) * alignment
        if any(start + offset >= len(self.content) for _, _, offset in found.values()):
            raise ValueError("its weights end before the last of them")
        if "general.architecture" not in metadata:
            raise ValueError("it names no architecture")
        return Header(metadata, {name: (shape, kind, start + at) for name, (shape, kind, at) in found.items()})

    def numbers(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self.content, self.place)
        self.place += struct.calcsize("<" + form)
        return values

    def text(self) -> str:
        (length,) = self.numbers("Q")
        if self.place + length > len(self.content):
            raise ValueError("it ends inside a text")
        self.place += length
        return self.content[self.place - length : self.place].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind != 9:
            return self.numbers(NUMBERS[kind])[0]
        kind, count = self.numbers("IQ")
        if kind != 8:
            if count > len(self.content):
                raise ValueError("it ends inside an array")
            return list(self.numbers(f"{count}{NUMBERS[kind]}"))
        for _ in range(count):
            (length,) = self.numbers("Q")
            self.place += length
        return count


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder without other weights; `ModelError` if there are several."""
    found = sorted(path for path in folder.glob(f"*{GGUF}") if not path.name.startswith("mmproj"))
    if not found or (folder / SAFETENSORS).is_file() or (folder / INDEX).is_file():
        return None
    if len(found) > 1:
        raise ModelError(f"{folder} holds {len(found)} GGUF files, such as {found[0].name}; give the path of one")
    return found[0]


def gguf_view(path: Path) -> Path:
    """The view of a GGUF file. Raises `ModelError` for what transformers does not read, or not as llama.cpp does."""
    header = read_header(path)
    pieces = header.metadata.get("split.count") or 1
    if pieces > 1:
        raise ModelError(
            f"{path} is one of {pieces} pieces of a GGUF file, and transformers reads whole ones only; join them with "
            "llama.cpp's `llama-gguf-split --merge FIRST OUT.gguf`"
        )
    require_packages(f"{path} is a GGUF file, which", "gguf", "accelerate")
    source = {"gguf": os.path.realpath(path)}
    marks = [_state(path), version("gguf")]  # which unpacks
    return _view(path.stem, marks, source, lambda aside: _unpack(path, header, aside))


def require_packages(what: str, *packages: str) -> None:
    """Raise `ModelError` unless all of the packages can be imported; the first names the extra that installs them."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ModelError(f"{what} needs {' and '.join(missing)}; pip install 'crosstax[{packages[0]}]'")


def _unpack(path: Path, header: Header, aside: Path) -> None:
    """Write a file's configuration and tokenizer as transformers reads them, and what it overlooks."""
    quiet_transformers()
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    except Exception as error:  # of a file's own making: any type
        reason = first_line(error)
        if "not supported" in reason:
            reason = f"transformers does not read a GGUF of {header.architecture}"
        raise ModelError(f"cannot load the LM in {path}: {reason}; take its version with safetensors") from None
    said, bos = (header.metadata.get(f"tokenizer.ggml.{name}") for name in ("add_bos_token", "bos_token_id"))
    begins = said is None and bos is not None and header.metadata.get("tokenizer.ggml.pre") in BEGIN
    given = {"gguf_file": path.name, **({"add_bos_token": True} if begins else {})}
    tokenizer = read_tokenizer(path, path.parent, "take its version with safetensors", **given)
    _complete(path, header, config)
    config.save_pretrained(aside)
    tokenizer.save_pretrained(aside)


def read_tokenizer(place: Path, folder: Path, remedy: str, **given: Any) -> Any:
    """The tokenizer that transformers finds in `folder`; whatever it raises is a `ModelError` about `place`."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **given)
    except BaseException as error:
        if not is_fault(error):
            raise
        problem = first_line(error)[:200]
        raise ModelError(f"cannot load the tokenizer in {place}: {problem}; {remedy}") from None


def _complete(path: Path, header: Header, config: Any) -> None:
    """Put into `config` what transformers overlooks in a GGUF file; raise `ModelError` for what has no place there."""
    text, kind = config.get_text_config(), header.architecture
    if (kind, header.said("block_count")) in SCALES:
        text.query_pre_attn_scalar = text.hidden_size // text.num_attention_heads
    overlooked = []
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    for name in ("attention.key_length", "attention.value_length"):
        if isinstance(said := header.said(name), int) and said not in (head, getattr(text, "global_head_dim", head)):
            overlooked.append(f"{name} {said}")
    for name, field in (
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("attention.sliding_window", "sliding_window"),
    ):
        if (said := header.said(name)) and abs(said - (getattr(text, field, None) or 0)) > 1e-3 * said:
            overlooked.append(f"{name} {said}")
    scaling = header.said("rope.scaling.type")
    if scaling not in (None, "none") and "rope_scaling" not in vars(text) and kind != "gpt-oss":
        factor = header.said("rope.scaling.factor") or 1.0
        rope = text.rope_parameters
        if scaling == "linear" and kind == "gemma3":  # of its full attention only, as in llama.cpp
            rope["full_attention"] |= {"rope_type": "linear", "factor": factor}
        elif scaling == "linear" and "rope_type" in rope:
            rope |= {"rope_type": "linear", "factor": factor}
        elif factor != 1:
            overlooked.append(f"rope.scaling.type {scaling}")
    if ROPE_FACTORS in header.tensors and not _scale_positions(path, header, text):
        overlooked.append(ROPE_FACTORS)
    overlooked += [name for name in header.tensors if name.startswith("rope_factors")]
    for name in ("logit_scale", "embedding_scale", "residual_scale", "attention.scale", "attention.max_alibi_bias"):
        if header.said(name) not in (None, 0, 1):
            overlooked.append(name)
    if overlooked:
        raise ModelError(
            f"{path} has {overlooked[0]}, which transformers overlooks in a GGUF of {kind}, so its answers would "
            "differ; take its version with safetensors"
        )


def _scale_positions(path: Path, header: Header, text: Any) -> bool:
    """Put Llama 3's scaled positions into a configuration; False if the file's factors are not of their form."""
    shape, kind, place = header.tensors[ROPE_FACTORS]
    if kind != 0 or len(shape) != 1 or "rope_theta" not in (text.rope_parameters or {}):
        return False
    factors = np.fromfile(path, dtype="<f4", count=prod(shape), offset=place)
    before = dict(text.rope_parameters)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    plain = before["rope_theta"] ** -(torch.arange(0, head, 2, dtype=torch.float32) / head)
    text.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": before["rope_theta"],
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](text, torch.device("cpu"))
    return len(scaled) == len(factors) and torch.allclose(plain / torch.from_numpy(factors), scaled, rtol=1e-3, atol=0)


def load_gguf(path: Path, config: Any, precision: Any) -> tuple[Any, dict[str, Any]]:
    """A causal LM of `config` with a GGUF file's weights unpacked in `precision`, and what transformers says of it."""
    given = {}
    if hasattr(transformers, "GgufConfig"):  # some families' weights would stay packed, with kernels without gradients
        given["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with contextlib.redirect_stderr(io.StringIO()):  # a bar
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            config=config,
            dtype=precision,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            **given,
        )
    check_whole(path, model)
    if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
        quantizer.remove_quantization_config(model)  # which would forbid saving it
    return model, info


def keep_unpacked(model: Any, folder: Path) -> None:
    """Keep a GGUF file's unpacked weights in its view, for the next time: small ones, where there is room."""
    if model.dtype.itemsize < 4 or 4 * model.num_parameters() > MOST_KEPT:  # 16 bits would not give float32 again
        return
    own, model.config = model.config, copy.deepcopy(model.config)  # saving writes into it
    aside = folder / f"{ASIDE}{os.getpid()}"
    try:
        for left in folder.glob(f"{ASIDE}*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left, ignore_errors=True)
        model.save_pretrained(aside)
        digest = digest_file(aside / SAFETENSORS)
        (aside / SAFETENSORS).replace(folder / SAFETENSORS)
        give_own_modes(folder)
        write_json(folder / KEPT, {"sha256": digest})
    except Exception:  # whatever saving cannot do: the LM is loaded, and will be unpacked again
        if not is_kept(folder):  # by another process
            (folder / SAFETENSORS).unlink(missing_ok=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        model.config = own


def is_kept(folder: Path) -> bool:
    """Whether a view holds unpacked weights, and every byte of them is as it was."""
    try:
        return bool(read_json(folder / KEPT, MOST_CONFIG)["sha256"] == digest_file(folder / SAFETENSORS))
    except (CrosstaxError, OSError, KeyError, TypeError):
        return False


def check_whole(path: Path, model: Any) -> None:
    """Raise `ModelError` unless a model has as many numbers as the GGUF file that it was loaded from."""
    header, config = read_header(path), model.config.get_text_config()
    left = {ROPE_FACTORS} | ({"output.weight"} if config.tie_word_embeddings else set())
    beyond = {f"blk.{layer}." for layer in range(config.num_hidden_layers, header.said("block_count") or 0)}
    kept = {
        name: prod(shape)
        for name, (shape, _, _) in header.tensors.items()
        if name not in left and not name.startswith(tuple(beyond))
    }
    held = sum(values.numel() for values in model.parameters())
    if sum(kept.values()) != held:
        raise ModelError(
            f"{path} holds {sum(kept.values()):,} numbers, but transformers makes a model of {held:,}, so it is not "
            "read whole; take its version with safetensors"
        )


# Adapters


def adapter_base(folder: Path) -> str | None:
    """The name of the LM that the adapter in `folder` was made for; None if there is no adapter alone."""
    if not (folder / ADAPTER).is_file() or (folder / "config.json").is_file():
        return None
    try:
        about = read_json(folder / ADAPTER, MOST_CONFIG)
        base = about["base_model_name_or_path"]
        if not isinstance(base, str) or not base.strip():
            raise KeyError
    except (CrosstaxError, KeyError, TypeError):
        raise ModelError(
            f"{folder / ADAPTER} does not name the LM that its adapter is for (base_model_name_or_path); add it"
        ) from None
    near = folder / base
    return str(near) if not os.path.isabs(base) and not is_there(Path(base)) and near.is_dir() else base  # noqa: PTH117


def adapter_view(folder: Path, base: Path) -> Path:
    """The view of the adapter in `folder` to the LM in `base`. Raises `ModelError` for one that cannot be merged."""
    check_small_files(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{folder} has an adapter without {ADAPTER_WEIGHTS}; a pickled one can run code and is not read; load it "
            "where you trust it, and save it with save_pretrained"
        )
    require_packages(f"{folder} is an adapter, which", "peft")
    from peft import PeftConfig

    try:
        about = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # of a file's own making: any type
        raise ModelError(f"cannot load the adapter in {folder}: {first_line(error)}; save it again") from None
    if about.is_prompt_learning or about.peft_type in ("ADAPTION_PROMPT",):
        raise ModelError(
            f"the adapter in {folder} is {about.peft_type}, which adds tokens, not weights, and cannot be merged; take "
            "a LoRA, or the LM without it"
        )
    own = [path for pattern in CHECKED for path in folder.glob(pattern) if path.name != ADAPTER]
    tokenizer = folder if any(path.name.startswith(("tokenizer.", "vocab.")) for path in own) else base
    small = [path for pattern in CHECKED for path in sorted(tokenizer.glob(pattern))]
    small = [path for path in small if not path.name.endswith(".index.json") and path.name not in (ADAPTER, WEIGHTS)]
    files = [base / "config.json", *(path for path in small if path.name != "config.json")]

    def copy(aside: Path) -> None:
        for path in files:
            shutil.copyfile(path, aside / path.name)

    marks = [_state(path) for path in (*files, folder / ADAPTER)]
    source = {"base": os.path.realpath(base), "adapter": os.path.realpath(folder)}
    return _view(folder.resolve().name, marks, source, copy)


def merge(model: Any, folder: Path) -> Any:
    """`model` with the adapter in `folder` merged into its weights. Raises `ModelError` if it does not belong to it."""
    from peft import PeftConfig, PeftModel

    try:
        both = PeftModel(model, PeftConfig.from_pretrained(str(folder)))
        result = both.load_adapter(str(folder), "default", torch_device="cpu")
        unknown = [*result.unexpected_keys, *(name for name in result.missing_keys if both.prefix in name)]
        merged = both.merge_and_unload(safe_merge=True)
    except Exception as error:  # of any adapter's own code
        raise ModelError(
            f"cannot merge the adapter in {folder} into {type(model).__name__}: {first_line(error)[:300]}; check that "
            "it was made for this LM"
        ) from None
    if unknown:
        raise ModelError(
            f"the adapter in {folder} was made for another LM: {unknown[0]} has no place in {type(model).__name__}; "
            f"correct base_model_name_or_path in its {ADAPTER}"
        )
    return merged


def view_digests(source: Source) -> tuple[str, ...]:
    """Digests of the files that a view adds to its base."""
    files = [source.gguf] if source.gguf else [Path(source.adapter or "") / name for name in (ADAPTER, ADAPTER_WEIGHTS)]
    return tuple(digest_file(path) for path in files)
