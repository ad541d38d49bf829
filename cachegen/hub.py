"""Files of models: which hold the weights, and what to do when the Hugging Face hub does not give them."""

from pathlib import Path

from cachegen.errors import ModelError
from cachegen.files import read_json
from cachegen.offline import VARIABLE, offline

SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def advice(repository: str, error: BaseException) -> str:
    """What failed while `repository` was loaded and what to do about it, in one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
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
    return f"cannot be loaded ({first_line(error)}); check name, files and network, or give a local directory"


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory in transformers' format: one, or all shards that its index names.

    Raises `ModelError` if there are none or a shard is missing. Pickled weights are never read: unpickling runs code.
    """
    if (folder / SAFETENSORS).is_file():
        return [folder / SAFETENSORS]
    if not (folder / INDEX).is_file():
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
    return [folder / shard for shard in shards]
