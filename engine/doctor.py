"""`crosstax doctor`: what this machine has, and what the engine will use and why."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from cachegen.common.device import best_dtype, choose_device
from cachegen.common.errors import CrosstaxError, DatasetError, listing
from cachegen.common.files import default_cache
from cachegen.common.hub import offline
from cachegen.common.system import cores
from cachegen.data.dataset import load_dataset
from cachegen.data.images import Decoding
from cachegen.data.inspection import Inspection, inspect_images
from cachegen.features.same_pictures import check_pictures
from cachegen.features.store import FeatureStore
from engine.lm.language_model import load_lm
from engine.lm.loading import positions_of, resolve_lm
from engine.sweeps.plan import longest_row

GIB = 2**30


def examine() -> dict[str, str]:
    """Findings by name, in words."""
    device = choose_device("auto")
    return {
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, transformers {version('transformers')}, timm {version('timm')}",
        "device": _device(device),
        "threads": f"{torch.get_num_threads()} of {cores()} cores",
        "dtype": _dtype(device),
        "attention": _attention(device),
        "packed row": f"{longest_row(device):,} tokens at most, fewer where memory is short; change with --max-tokens",
        "memory": _memory(device),
        "worlds": _worlds(),
        "models": os.environ.get("HF_HOME", "~/.cache/huggingface") + (" (offline)" if offline() else ""),
    }


def examine_dataset(root: Path) -> tuple[str, Inspection | None]:
    """(summary, what was seen) of a sound dataset, all of whose pictures are decoded; raises `DatasetError`.

    Of items there is nothing to see.
    """
    dataset = load_dataset(root)
    if dataset.items:
        return dataset.summary(), None
    inspection = inspect_images(dataset)
    return f"{dataset.summary()}\n{inspection.text()}", inspection


def require_readable(root: Path, inspection: Inspection) -> None:
    """Raise `DatasetError` that lists the unreadable pictures."""
    if bad := inspection.unreadable:
        lines = [f"{root / 'images' / key} ({reason})" for key, reason in bad.items()]
        raise DatasetError(listing(f"{len(bad):,} unreadable images; repair, replace or remove them:", lines))


def examine_lm(name: str) -> dict[str, str]:
    """How the engine would run an LM on this machine, loaded as pretrained; raises `ModelError`."""
    device = choose_device("auto")
    dtype, _ = best_dtype(device)
    lm = load_lm(resolve_lm(name), "pretrained", 0, dtype, device)
    positions = positions_of(lm.model.config)
    return {
        "lm": f"{name}: {type(lm.model).__name__} of {lm.model.num_parameters() / 1e6:,.0f} M weights, in {dtype}",
        "questions": lm.described,
        "positions": "not said" if positions is None else f"{positions:,}",
    }


def examine_features(path: Path) -> str:
    """Summary of a sound feature store; raises `StoreError` that lists damaged rows."""
    store = FeatureStore.open(path)
    store.verify()
    images, patches, width = store.patches.shape
    made = f"{store.attributes['encoder']}, {store.attributes['layer']}, {store.attributes['dtype']}"
    if store.imported:
        source = store.attributes.get("source", "a file")
        return f"{path}: {images:,} rows x {patches} patches x {width} ({made} from {source}), sound"
    return (
        f"{path}: {images:,} images x {patches} patches x {width} ({made}), {len(store.unreadable)} unreadable, sound\n"
        f"decoding: {Decoding.of(store.attributes)}"
    )


def examine_pictures(root: Path, path: Path, deep: bool) -> str:
    """Whether a store's features are those of a dataset's pictures, all of which `deep` reads; raises `StoreError`."""
    dataset, store = load_dataset(root), FeatureStore.open(path)
    read, count = check_pictures(dataset, store, deep), len(dataset.images)
    if dataset.items or store.by_name:
        return f"{count:,} {dataset.noun} have a row in the store; they are known by name only"
    if store.sha256 is None:
        return f"names and sizes of {count:,} pictures are the store's; it does not know their content"
    return f"{count:,} pictures are those of the store: {read:,} by content, {count - read:,} by size and times"


def _worlds() -> str:
    try:
        return str(default_cache() / "worlds")
    except CrosstaxError as error:
        return str(error)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}; no CUDA device was found"


def _dtype(device: torch.device) -> str:
    """The precision a condition should ask for here; it is part of the condition, never chosen silently."""
    dtype, why = best_dtype(device)
    return f'{dtype} for large LMs: {why}; dtype = "auto" in a sweep file takes it (default float32)'


def _attention(device: torch.device) -> str:
    kernels = "matrix products" if device.type == "cpu" else "PyTorch's flash and efficient kernels (cuDNN's are off)"
    return f"shared image prefixes by {kernels}, checked at load against the LM's own"


def _memory(device: torch.device) -> str:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    if device.type != "cuda":
        return f"{total:.0f} GiB"
    free, all_of_it = torch.cuda.mem_get_info(device)
    return f"{total:.0f} GiB; GPU {free / GIB:.0f} of {all_of_it / GIB:.0f} GiB free"
