"""`crosstax doctor`: what this machine has, and what the engine will use and why."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cachegen.common.alternate import wait_for
from cachegen.common.device import best_dtype, choose_device, device_memory
from cachegen.common.errors import CrosstaxError, DatasetError, listing
from cachegen.common.files import default_cache
from cachegen.common.hub import offline
from cachegen.common.rng import stream_seed
from cachegen.common.system import cores
from cachegen.data.dataset import load_dataset
from cachegen.data.images import Decoding
from cachegen.data.inspection import Inspection, inspect_images
from cachegen.encoders import load_encoder
from cachegen.features.same_pictures import check_pictures
from cachegen.features.store import FeatureStore
from engine.design.condition import Condition
from engine.lm.language_model import FrozenLM, load_lm
from engine.lm.loading import positions_of, resolve_lm
from engine.lm.prefix_sharing import Layout
from engine.lm.prompts import PromptTokens, tokenise
from engine.lm.shape import lm_shape
from engine.sweeps.cost import Sizes
from engine.sweeps.plan import choose_sizes, longest_row

GIB = 2**30
PATCHES, WIDTH = 256, 1024  # of the paper's encoders
QUESTIONS = 8  # about the one image of a measured row


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
    """(summary, what was seen) of a sound dataset, all of whose images are decoded; raises `DatasetError`.

    Of items there is nothing to see.
    """
    dataset = load_dataset(root)
    if dataset.items:
        return dataset.summary(), None
    inspection = inspect_images(dataset)
    return f"{dataset.summary()}\n{inspection.text()}", inspection


def require_readable(root: Path, inspection: Inspection) -> None:
    """Raise `DatasetError` that lists the unreadable images."""
    if bad := inspection.unreadable:
        lines = [f"{root / 'images' / key} ({reason})" for key, reason in bad.items()]
        raise DatasetError(listing(f"{len(bad):,} unreadable images; repair, replace or remove them:", lines))


def examine_lm(name: str, encoder: str | None = None, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """How the engine would run an LM on this machine, and what it would see of an encoder's image; nothing is trained.

    `fields` of a condition, such as `template`, replace their defaults. `tokens_per_second`: measured on one packed
    row, forward and backward. Raises `ModelError`, also of the encoder, and `ConditionError`.
    """
    device = choose_device("auto")
    condition = Condition.of({"dtype": best_dtype(device)[0], **(fields or {})}, "--set")
    patches, width, image = PATCHES, WIDTH, f"{PATCHES} patches, as of the paper's encoders (give --encoder)"
    if encoder is not None:
        opened = load_encoder(encoder, "cpu")
        patches, width = opened.n_patches, opened.width
        image = f"{patches} patches of width {width}, from {encoder}"
    c = condition
    lm = load_lm(resolve_lm(name), c.lm_init, c.lm_seed, c.dtype, device, c.lm_sharing)
    found = {
        "lm": f"{name}: {type(lm.model).__name__} of {lm.model.num_parameters() / 1e6:,.0f} M weights, in {c.dtype}",
        "questions": lm.described,
        "image": image,
    }
    try:
        tokens = tokenise(condition, lm.tokenizer, [("a bird", "singular")], lm.rows)
    except CrosstaxError as error:
        return found | {"prompt": f"would fail: {error}"}
    text = len(tokens.prefix) + int(tokens.lengths.max())
    most = positions_of(lm.model.config)
    known = "does not say how many it has" if most is None else f"has {most:,}"
    few = most is not None and text + patches > most
    question_S = tokens.suffixes[0][: tokens.lengths[0]]
    row, seconds = _measured_row(lm, tokens, patches)
    shape = lm_shape(str(resolve_lm(name)))
    memory = "not known, its configuration has no sizes that are read here"
    if shape is not None:
        sizes = Sizes(shape, patches, width, len(tokens.prefix), int(tokens.lengths.max()))
        memory = choose_sizes(device_memory(device), condition, 0, sizes)[2]
    return found | {
        "prompt": f"{lm.tokenizer.decode(tokens.prefix)}[image: {patches} patches]{lm.tokenizer.decode(question_S)}",
        "answer": (
            f"read after {lm.tokenizer.decode(question_S[-1:])!r}: {condition.answer_yes!r} is token {tokens.yes} "
            f"({lm.tokenizer.decode([tokens.yes])!r}), {condition.answer_no!r} {tokens.no} "
            f"({lm.tokenizer.decode([tokens.no])!r})"
        ),
        "positions": f"{text + patches:,} for image and question; the LM {known}{': too few' if few else ''}",
        "LM memory": memory,
        "rate": f"{row / seconds:,.0f} tokens/s with gradients, measured on an image and {QUESTIONS} questions",
        "tokens_per_second": row / seconds,
    }


def _measured_row(lm: FrozenLM, tokens: PromptTokens, patches: int) -> tuple[int, float]:
    """Tokens of a row of one image, and seconds for its answers and their gradients at the image, the second time."""
    before, after = (torch.from_numpy(ids).to(lm.device) for ids in (tokens.prefix, tokens.suffixes[0]))
    layout = Layout(((1, QUESTIONS),), len(before) + patches, len(after))
    ends = layout.answer_rows(torch.full((QUESTIONS,), len(after), device=lm.device))
    none = torch.full((patches,), -1, device=lm.device)
    ids, wait, seconds = torch.cat([before, none, after.repeat(QUESTIONS)]), wait_for(lm.device), 0.0
    rng = torch.Generator().manual_seed(stream_seed(0, "doctor"))
    noise_PD = torch.randn(patches, lm.width, generator=rng) * lm.embedding_rms
    for _ in range(2):
        wait()
        started = time.perf_counter()
        image_PD = noise_PD.to(lm.device, lm.dtype).requires_grad_()
        row_TD = torch.cat([lm.embed(before), image_PD, lm.embed(after.repeat(QUESTIONS))])
        states = lm.answer_states(row_TD, layout, ends, ids)
        lm.answer_logits(states, tokens.yes, tokens.no).sum().backward()
        wait()
        seconds = time.perf_counter() - started
    return len(row_TD), seconds


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


def examine_encoder(name: str) -> str:
    """What is read of an encoder, and how images come to it; raises `ModelError` if it is refused."""
    encoder = load_encoder(name)
    said = encoder.attributes
    without = f", without its {said['left_out']}" if "left_out" in said else ""
    return (
        f"encoder {name}: {encoder.n_patches} patches x {encoder.width}, {said['layer']}, by {said['compute']}\n"
        f"images: {said['transform']}{without}"
    )


def examine_pictures(root: Path, path: Path, deep: bool) -> str:
    """Whether a store's features are those of a dataset's images, all of which `deep` reads; raises `StoreError`."""
    dataset, store = load_dataset(root), FeatureStore.open(path)
    read, count = check_pictures(dataset, store, deep), len(dataset.images)
    if dataset.items or store.by_name:
        return f"{count:,} {dataset.noun} have a row in the store; they are known by name only"
    if store.sha256 is None:
        return f"names and sizes of {count:,} images are the store's; it does not know their content"
    return f"{count:,} images are those of the store: {read:,} by content, {count - read:,} by size and times"


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
    products = ""
    if device.type == "cuda":
        whole = torch.get_float32_matmul_precision() == "highest"
        products = f"; products of float32 keep {'all digits' if whole else 'fewer digits (TF32)'}"
    return f'{dtype} for large LMs: {why}; dtype = "auto" in a sweep file takes it (default float32){products}'


def _attention(device: torch.device) -> str:
    kernels = "matrix products" if device.type == "cpu" else "PyTorch's flash and efficient kernels (cuDNN's are off)"
    return f"shared image prefixes by {kernels}, checked at load against the LM's own"


def _memory(device: torch.device) -> str:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    if device.type != "cuda":
        return f"{total:.0f} GiB"
    free, all_of_it = torch.cuda.mem_get_info(device)
    return f"{total:.0f} GiB; GPU {free / GIB:.0f} of {all_of_it / GIB:.0f} GiB free"
