"""Models from the Hugging Face hub: what a folder holds, working offline, and advice when a download fails."""

import contextlib
import json
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

from cachegen.common.errors import ModelError
from cachegen.common.files import expanded, read_bounded, read_json

VARIABLE = "HF_HUB_OFFLINE"


def go_offline() -> None:
    """Keep this process and those it starts off the network."""
    os.environ[VARIABLE] = "1"
    if "huggingface_hub" in sys.modules:  # it has read the variable already
        sys.modules["huggingface_hub"].constants.HF_HUB_OFFLINE = True


def offline() -> bool:
    """Whether downloads are forbidden; every download checks this first."""
    return os.environ.get(VARIABLE, "").upper() in ("1", "ON", "YES", "TRUE")


SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MOST_FILE = 2**28  # bytes of any small file; the largest tokenizer.json have a sixth
MOST_CONFIG = 2**24  # bytes of a config.json; the largest, with names of 21,000 classes, have a tenth
# Weights in formats of others, by what their files are called -> what they are.
OTHERS = {
    "*.gguf": "llama.cpp's GGUF",
    "*.ggml": "llama.cpp's GGML",
    "consolidated*": "the maker's own format",
    "tf_model*.h5": "TensorFlow's format",
    "flax_model*": "Flax's format",
    "*.onnx": "ONNX",
    "onnx/*.onnx": "ONNX",
    "openvino_model.*": "OpenVINO's format",
    "rust_model.ot": "rust-bert's format",
    "*.mlpackage": "Core ML's format",
}
UNREACHED = ("ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError", "ReadTimeout", "NetworkError")
CHECKED = ("*.json", "*.txt", "*.model", "*.jinja")  # small files that models are loaded from


def advice(repository: str, error: BaseException) -> str:
    """What failed while `repository` was loaded and what to do about it, in one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    chain = _chain(error)
    if offline() and any(isinstance(each, LocalEntryNotFoundError | OfflineModeIsEnabled) for each in chain):
        return (
            f"is not on this machine, and nothing is downloaded (--offline or {VARIABLE}): fetch it once where there "
            f"is a network (`hf download {repository}`), or give a local directory"
        )
    if any(isinstance(each, GatedRepoError) or "gated repo" in str(each).lower() for each in chain):
        return (
            f"is gated: accept its licence at https://huggingface.co/{repository}, then `hf auth login` or set HF_TOKEN"
        )
    if any(isinstance(each, RepositoryNotFoundError) for each in chain):
        return (
            f"is not at https://huggingface.co/{repository}, or it is private: check the id, or `hf auth login` or set "
            "HF_TOKEN to an account that may read it"
        )
    if any(type(each).__name__ in UNREACHED for each in chain):
        return (
            f"is no folder here, and the Hugging Face hub cannot be reached ({first_line(error)}); check the path, or "
            f"fetch it where there is a network (`hf download {repository}`)"
        )
    return f"cannot be loaded ({first_line(error)}); check name, files and network, or give a local directory"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it came from."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def may_be_moved(name: str, error: BaseException) -> bool:
    """Whether a name that the hub does not know was meant as a folder, since its parent folder exists."""
    strange = ("RepositoryNotFoundError", *UNREACHED)
    around = name.rpartition("/")[0]
    return is_folder(Path(around or "/nowhere")) and any(type(each).__name__ in strange for each in _chain(error))


def is_folder(path: Path) -> bool:
    """Whether a folder is there; unlike Path's own, no error for a name that is too long or has a NUL."""
    return os.path.isdir(path)  # noqa: PTH112


def is_there(path: Path) -> bool:
    """Whether a file or folder is there, with as few errors."""
    return os.path.exists(path)  # noqa: PTH110


def looks_like_path(name: str) -> bool:
    """Whether a name was meant as a path: no id on the hub has such a form."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1


def missing(name: str, what: str) -> ModelError:
    """The error of a `name` that stands for no folder, naming a file for what it is."""
    path = expanded(name)
    if is_there(path):
        kind = next((f" in {kind}" for pattern, kind in OTHERS.items() if path.match(pattern)), "")
        return ModelError(
            f"{what} {name} is a file{kind}; give the folder of a model in transformers' format (config.json, "
            f"{SAFETENSORS})"
        )
    if page := re.match("https?://(?:huggingface.co|hf.co)/([^/]+/[^/?#]+)", name):
        return ModelError(f"{what} {name} is the address of a page; give the id in it, {page[1]}")
    return ModelError(f"{what} folder {name} does not exist{_near(path)}; check the path, or give a Hugging Face id")


def _near(path: Path) -> str:
    """The folder beside a path that is none, whose name differs in case, blanks or the like."""
    with contextlib.suppress(OSError, ValueError):
        around = [other for other in sorted(path.parent.iterdir()) if _bare(other) == _bare(path) and other.is_dir()]
        return f", but {str(around[0])!r} does" if around else ""
    return ""


def _bare(path: Path) -> str:
    """The letters and digits of a name, in whatever case and Unicode form."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKD", path.name)).casefold()


def check_small_files(folder: Path) -> None:
    """Raise `ModelError` for a folder of the hub's cache, pointers of Git LFS, web pages, pipes, or endless files."""
    if instead := _in_cache(folder):
        raise ModelError(f"{folder} is a folder of the Hugging Face cache; give {instead}")
    for path in sorted(path for pattern in CHECKED for path in folder.glob(pattern)):
        _refuse_pointer(path)
        if path.is_file() and (size := path.stat().st_size) > MOST_FILE:
            raise ModelError(f"{path} has {size:,} bytes, more than {MOST_FILE:,}; download it again, or move it away")


def model_config(folder: Path, quantised: bool = False) -> dict[str, Any]:
    """The config.json of a folder that a model can be loaded from, as far as its files tell before any is loaded.

    Raises `ModelError` that says what the folder is instead: what `check_small_files` finds, an adapter or a model with
    one, weights in another format, a quantised checkpoint (with `quantised`, one of transformers' own form is none).
    """
    check_small_files(folder)
    if adapters := sorted(
        path.name for pattern in ("adapter_config.json", "adapter_model*") for path in folder.glob(pattern)
    ):
        base = (folder / SAFETENSORS).is_file() or (folder / INDEX).is_file()
        raise ModelError(
            f"{folder} has an adapter (LoRA or another of PEFT) {'beside its weights' if base else 'only, no model'}: "
            f"{adapters[0]}; merge it (merge_and_unload, then save_pretrained) and give the merged model"
            + (", or move the files adapter_* away to have the model without it" if base else "")
        )
    if not (folder / "config.json").is_file():
        other = f"is {_format(folder)}" if _format(folder) else "has no config.json"
        raise ModelError(f"{folder} {other}; give a directory written by save_pretrained")
    try:
        config = json.loads(read_bounded(folder / "config.json", MOST_CONFIG))
        if not isinstance(config, dict):
            raise ValueError("it is no table")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder} has no readable config.json ({first_line(error)}); download it again") from None
    for part in (config, config.get("text_config")):
        for field in ("quantization_config", "quantization"):
            if isinstance(part, dict) and part.get(field) is not None:
                if quantised and field == "quantization_config" and isinstance(part[field], dict):
                    continue
                method = part[field].get("quant_method") if isinstance(part[field], dict) else None
                raise ModelError(
                    f"{folder} is quantised ({field} in its config.json{f': {method}' if method else ''}), which this "
                    "engine does not run; take its version in bfloat16 or float32"
                )
    return config


def _in_cache(folder: Path) -> str:
    """What to give instead of a folder of the hub's cache that holds a model's files further down; else empty."""
    if (folder / "config.json").is_file():
        return ""
    for root in (folder, folder.parent):
        if root.name.startswith("models--") and (root / "snapshots").is_dir():
            found = " or ".join(map(str, sorted((root / "snapshots").iterdir())))
            return f"the model in it, {found}" if found else "another, no model is in it"
    ids = sorted(path.name.removeprefix("models--").replace("--", "/") for path in folder.glob("models--*"))
    return f"the id of a model in it, such as {ids[0]}" if ids else ""


def _refuse_pointer(path: Path) -> None:
    """Raise `ModelError` if a file only stands for the one that Git LFS would fetch, or is a page about it."""
    if not path.is_file():
        if is_there(path) and not path.is_dir():
            raise ModelError(f"{path} is no plain file; a pipe or device may have no end, copy it to a file")
        return
    with path.open("rb") as handle:
        start = handle.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{path} is a pointer of Git LFS, not the file itself; run `git lfs pull` there, or download it"
        )
    if start.startswith((b"<!doctype html", b"<html")):
        raise ModelError(f"{path} is a web page, not the file it should be; download the file itself")


def _format(folder: Path) -> str:
    """In what format a folder without safetensors has its weights, with the file that says so; else empty."""
    for pattern, kind in OTHERS.items():
        if found := sorted(folder.glob(pattern)):
            return f"a model in {kind} ({found[0].name})"
    if (folder / "model_index.json").is_file():
        return "a pipeline of diffusers (model_index.json)"
    return ""


def first_line(error: BaseException) -> str:
    """What an error says, as far as one line goes; with the next one where the first only announces it."""
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory in transformers' format: one, or all shards that its index names.

    Raises `ModelError` if there are none or a shard is missing. Pickled weights are never read: unpickling runs code.
    """
    if (folder / SAFETENSORS).is_file():
        _refuse_pointer(folder / SAFETENSORS)
        return [folder / SAFETENSORS]
    if not (folder / INDEX).is_file():
        if other := _format(folder):
            raise ModelError(
                f"{folder} is {other}, which is not read; take its version for transformers, with {SAFETENSORS}"
            )
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        if pickled:
            raise ModelError(
                f"{folder} has its weights in {pickled[0]} only, a pickle, which can run code and is not read; take a "
                f"version with {SAFETENSORS}, or convert it where you trust it (load it, then save_pretrained)"
            )
        raise ModelError(f"{folder} has no {SAFETENSORS}; download it whole or save it again")
    try:
        shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        if not shards or any(Path(shard).name != shard for shard in shards):
            raise ValueError  # another folder's files are not this model's
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(f"{folder / INDEX} is not an index of shards beside it; download it again") from None
    for shard in shards:
        if not (folder / shard).is_file():
            raise ModelError(f"{folder} lacks {shard}, which its {INDEX} names; download it again")
        _refuse_pointer(folder / shard)
    return [folder / shard for shard in shards]
