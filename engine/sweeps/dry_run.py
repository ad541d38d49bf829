"""What a sweep would run and cost, before anything is downloaded, extracted or trained; as data and in words."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cachegen.common.alternate import OPERATIONS, alternate, matrix_products, median, wait_for
from cachegen.common.device import best_dtype, choose_device, device_name, emulated
from cachegen.common.errors import CrosstaxError, StoreError, in_one_line
from cachegen.common.progress import progress_bar
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.features.pooling import pooled_count
from cachegen.features.same_pictures import check_pictures
from cachegen.features.store import FeatureStore
from engine.design.condition import SEEDS, Condition, Mark, marked
from engine.design.question_sets import QuestionSource, put_to
from engine.design.questions import build_questions
from engine.lm.loading import local_lm
from engine.lm.shape import lm_shape
from engine.sweeps.cost import (
    KNOWN_PATCHES,
    THINGS_IMAGES,
    Cost,
    Questions,
    Sizes,
    cost_of,
    question_counter,
    run_bytes,
    shares_prefixes,
    store_bytes,
    text_tokens,
)
from engine.sweeps.plan import once
from engine.sweeps.preflight import Preflight
from engine.sweeps.sweep_file import Wanted, timm_name
from engine.sweeps.timing import duration, measured_rate, read_events

# Shares of the rate of products that a GPU may reach. Counted for an H100 and a 0.6B LM: eager execution moves so much
# memory between products that a step takes five times as long as they do, a small card or a large LM less.
GPU_SHARES = (0.15, 0.6)
MANY = 200  # products to time


@dataclass(frozen=True)
class Forecast:
    """One run, what it costs (None: not known), and `notes` on what that rests on."""

    run: Wanted
    sizes: Sizes | None
    questions: Questions | None
    cost: Cost | None
    seconds: float | None
    notes: tuple[str, ...]


def dry_run(runs: Sequence[Wanted], out: Path, device: str, transfer: Sequence[QuestionSource] = ()) -> dict[str, Any]:
    """Forecast of a sweep as one JSON-ready object.

    `cells`: runs that differ in seeds only; `total`; `disk` (bytes); `rates`: by precision, operations per second (None
    until groups have finished), what they rest on, and on a GPU a model in their place; `lms`: for each LM whether the
    checks before a sweep could be made, and `problem`, what they found (`engine.sweeps.preflight`); `transfer`: for
    each [[transfer]] table the questions that all runs would be asked (None: not known) and a `problem`; `notes`. Sums
    are over runs whose cost is known.
    """
    rates = _rates({run.condition.dtype for run in runs}, out, device)
    opened, forecasts = _Opened(), []
    with progress_bar("count", len(runs), "runs") as advance:
        for run in runs:
            forecasts.append(_forecast(run, opened, rates[run.condition.dtype]["flops_per_second"]))
            advance(1)
    notes = Counter(note for forecast in forecasts for note in forecast.notes)
    return {
        "runs": len(runs),
        "cells": [cell | _sum(members) for cell, members in _cells(forecasts)],
        "total": _sum(forecasts),
        "disk": _disk(forecasts, opened),
        "rates": rates,
        "lms": _check_lms(runs, opened),
        "transfer": [_transfer(each, runs, opened) for each in transfer],
        "notes": [
            *(rate["note"] for rate in rates.values() if rate["note"]),
            *_check_stores(runs, opened),
            *(note if times == len(runs) else f"{note} ({times} runs)" for note, times in notes.items()),
        ],
    }


class _Opened:
    """What runs are about, as far as it is here, each opened once."""

    def __init__(self) -> None:
        self._dataset, self._store = once(load_dataset), once(lambda path: FeatureStore.open(path, allow_pending=True))
        self.lm, self.count = once(_local), question_counter()

    def dataset(self, run: Wanted) -> Dataset | None:
        here: Dataset | None = self._dataset(run.dataset) if run.dataset is not None and run.dataset.is_dir() else None
        return here

    def store(self, run: Wanted) -> FeatureStore | None:
        here: FeatureStore | None = self._store(run.features) if run.features and run.features.is_file() else None
        return here

    def patches(self, run: Wanted) -> tuple[int, int]:
        """Patches and width of a run's features, from the store or else from the encoder's name; zeros if not known."""
        if (store := self.store(run)) is not None:
            return store.patches.shape[1], store.patches.shape[2]
        return KNOWN_PATCHES.get(timm_name(run.encoder or "")[0], (0, 0))

    def pooled(self, run: Wanted) -> int:
        """Patches per image that the LM sees; 0 if not known. Raises `StoreError` if they cannot be pooled so."""
        patches, store = self.patches(run)[0], self.store(run)
        return pooled_count(store.attributes if store else {}, patches, run.condition.pool) if patches else 0


def _rates(dtypes: Iterable[str], out: Path, device: str) -> dict[str, dict[str, Any]]:
    """For each precision the rate of the groups that have finished in the sweep folder on this device, if any has.

    `modelled`: without such groups, and on a GPU, the lowest and the highest rate to expect.
    """
    chosen = choose_device(device)
    name, events = device_name(chosen), read_events(out)
    rates = {}
    for dtype in sorted(dtypes):
        rate = measured_rate(events, name, dtype)
        basis = f"measured on {name} in {dtype}, from finished groups in {out}"
        if rate is None:
            basis = (
                f"not known: no group has finished in {out} on {name} in {dtype}; train one with --limit 1 in place of "
                "--dry-run, then ask again"
            )
        note, modelled = emulated(chosen, dtype), None
        if chosen.type == "cuda" and dtype != best_dtype(chosen)[0]:
            note = f"{name} computes bfloat16 faster than {dtype}; --set dtype=auto takes it, for runs of other ids"
        if chosen.type == "cuda" and rate is None:
            modelled = [share * _products_rate(chosen, dtype) for share in GPU_SHARES]
        rates[dtype] = {"flops_per_second": rate, "basis": basis, "note": note, "modelled": modelled}
    return rates


def _products_rate(device: torch.device, dtype: str) -> float:
    """Operations per second of matrix products of that precision there, from some of them."""
    many = {"products": matrix_products(device, getattr(torch, dtype), MANY)}
    return MANY * OPERATIONS / median(alternate(many, 3, wait=wait_for(device)), "products")


def _check_lms(runs: Sequence[Wanted], opened: _Opened) -> dict[str, dict[str, Any]]:
    """For each LM the first problem that a sweep would find before it trains, as far as what is here tells."""
    preflight, found = Preflight(), dict[str, dict[str, Any]]()
    for run in runs:
        folder, problem = opened.lm(run.lm)
        known = found.setdefault(run.lm, {"checked": folder is not None or problem is not None, "problem": problem})
        if folder is None or known["problem"] is not None:
            continue
        try:
            preflight.check(folder, run.condition, opened.dataset(run), opened.pooled(run) or None)
        except Exception as error:
            known["problem"] = in_one_line(error)
    return found


def _transfer(asked: QuestionSource, runs: Sequence[Wanted], opened: _Opened) -> dict[str, Any]:
    """What one [[transfer]] table would ask: its name, questions about test images of all runs, and what is wrong."""

    @cache
    def count(dataset: Dataset | None, condition: Condition) -> int | None:
        if dataset is None or condition.subset == "swap":
            return None
        return len(put_to(build_questions(dataset, condition), asked.of(dataset, condition), dataset))

    try:
        counts = [count(opened.dataset(run), run.condition.model_copy(update={"run_seed": 0})) for run in runs]
    except CrosstaxError as error:
        return {"name": asked.called, "questions": None, "problem": str(error)}
    known = [each for each in counts if each is not None]
    return {"name": asked.called, "questions": sum(known) if len(known) == len(counts) else None, "problem": None}


def _check_stores(runs: Sequence[Wanted], opened: _Opened) -> list[str]:
    """A note for each feature store whose features are not those of the dataset's images."""
    notes = []
    for dataset, store in dict.fromkeys((opened.dataset(run), opened.store(run)) for run in runs):
        if dataset is not None and store is not None:
            try:
                check_pictures(dataset, store)
            except CrosstaxError as error:
                notes.append(f"would fail: {error}")
    return notes


def _local(lm: str) -> tuple[Path | None, str | None]:
    """Folder of an LM that is on this machine, or what is wrong with it."""
    try:
        return local_lm(lm), None
    except CrosstaxError as error:
        return None, str(error)


def _forecast(run: Wanted, opened: _Opened, rate: float | None) -> Forecast:
    questions, first = _questions(run, opened)
    sizes, others = _sizes(run, opened)
    notes = tuple(note for note in (first, *others) if note)
    if questions is None or sizes is None or not questions.trained:
        return Forecast(run, sizes, questions, None, None, notes)
    cost = cost_of(run.condition, questions, sizes)
    return Forecast(run, sizes, questions, cost, cost.flops / rate if rate else None, notes)


def _questions(run: Wanted, opened: _Opened) -> tuple[Questions | None, str]:
    if (dataset := opened.dataset(run)) is not None:
        if run.condition.subset == "swap" and run.condition.swap_rule == "coherence":
            return None, "questions not known: the swap chooses its leaves by their features"
        try:
            return opened.count(dataset, run.condition), ""
        except CrosstaxError as error:
            return None, f"would fail: {error}"
    missing = f"dataset {run.dataset} is not there" if run.dataset else "no dataset is given"
    published = Questions.published(run.condition)
    if published is None:
        return None, f"{missing}: the number of questions is not known"
    return published, f"{missing}: questions counted as in the paper's Tables 2 and 3 (THINGS, original labels)"


def _sizes(run: Wanted, opened: _Opened) -> tuple[Sizes | None, list[str]]:
    notes = []
    folder, problem = opened.lm(run.lm)
    shape = lm_shape(str(folder or run.lm))
    if shape is None:
        notes.append(f"LM {run.lm}{'' if folder or problem else ' is not there'}: its sizes are not known")
    _, width = opened.patches(run)
    try:
        patches = opened.pooled(run)
    except StoreError as error:
        return None, [*notes, f"would fail: {error}"]
    if opened.store(run) is None:
        missing = f"store {run.features} is not there" if run.features else f"no features of {run.encoder} are given"
        notes.append(f"{missing}: sizes from the encoder's name" if patches else f"{missing}: sizes are not known")
    if shape is None or not patches:
        return None, notes
    sizes = Sizes(shape, patches, width, *text_tokens(run.condition, opened.dataset(run)))
    if not shares_prefixes(run.condition, sizes):
        notes.append(f"LM {run.lm}: every question is a prompt of its own, with the image anew")
    return sizes, notes


def _cells(forecasts: Sequence[Forecast]) -> list[tuple[dict[str, Any], list[Forecast]]]:
    """Runs that differ in seeds only, with the fields that tell their cell from the others."""
    members: dict[tuple[Any, ...], list[Forecast]] = {}
    for forecast in forecasts:
        run = forecast.run
        members.setdefault((run.encoder, run.lm, run.condition.model_copy(update=dict.fromkeys(SEEDS, 0))), []).append(
            forecast
        )
    conditions = [condition.model_dump() for _, _, condition in members]
    first = conditions[0]
    always = marked(Mark.HEADLINE)
    varying = [name for name in first if name in always or any(fields[name] != first[name] for fields in conditions)]
    return [
        ({"encoder": encoder, "lm": lm} | {name: getattr(condition, name) for name in varying}, found)
        for (encoder, lm, condition), found in members.items()
    ]


def _sum(forecasts: Sequence[Forecast]) -> dict[str, Any]:
    """Runs, how many of them are `known`, and the sums of these: steps, tokens, operations, seconds (None: none)."""
    known = [forecast for forecast in forecasts if forecast.cost]
    seconds = [forecast.seconds for forecast in known if forecast.seconds is not None]
    total: dict[str, Any] = {"runs": len(forecasts), "known": len(known)}
    if not known:
        return total | dict.fromkeys(("steps", "tokens", "flops", "seconds"))
    return total | {
        "steps": sum(run.questions.steps(run.run.condition) for run in known if run.questions),
        "tokens": round(sum(run.cost.tokens for run in known if run.cost)),
        "flops": float(f"{sum(run.cost.flops for run in known if run.cost):.4g}"),
        "seconds": round(sum(seconds), 3) if len(seconds) == len(known) else None,
    }


def _disk(forecasts: Sequence[Forecast], opened: _Opened) -> dict[str, int]:
    """Bytes of feature stores, LM weights (16 bit) and run directories; whatever is not known counts as nothing."""
    stores, lms = {}, {}
    for forecast in forecasts:
        run, sizes = forecast.run, forecast.sizes
        if sizes is not None:
            dataset = opened.dataset(run)
            images = len(dataset.images) if dataset else sum(THINGS_IMAGES.values())
            stores[run.dataset, run.features, run.encoder] = store_bytes(images, *opened.patches(run))
            lms[run.lm] = 2 * sizes.lm.weights
    runs = sum(run_bytes(f.run.condition, f.questions, f.sizes) for f in forecasts if f.questions and f.sizes)
    return {"features": sum(stores.values()), "models": sum(lms.values()), "runs": runs}


# Fields of a cell that have their place in the text, or say nothing beside it.
TOLD = {
    "encoder", "lm", "lm_init", "shuffle", "shuffled", "subset", "swap_rule", "ablation_kind", "ablation",
    "removed_list", "runs", "known", "steps", "tokens", "flops", "seconds",
}  # fmt: skip


def dry_run_text(forecast: dict[str, Any]) -> str:
    """Lines for people: under each encoder and LM one line for each kind of labels, its ablation levels together."""
    rows: list[tuple[str, str, str]] = []
    blocks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for cell in forecast["cells"]:
        models = f"{_last(cell['encoder'])} + {_last(cell['lm'])}"
        blocks.setdefault(models, {}).setdefault(_what(cell), []).append(cell)
    for models, kinds in blocks.items():
        rows.append((models, "", ""))
        rows += [(f"  {what}", _levels(cells), _numbers(cells)) for what, cells in kinds.items()]
    rows.append(("all", "", _numbers([forecast["total"]])))
    wide = [max((len(row[column]) for row in rows if row[2]), default=0) for column in (0, 1)]
    lines = [f"{row[0]:<{wide[0]}}  {row[1]:<{wide[1]}}  {row[2]}".rstrip() for row in rows]
    disk = {name: f"{size / 1e9:.2f} GB" for name, size in forecast["disk"].items()}
    lines.append(f"disk: features {disk['features']}, LM weights {disk['models']}, runs {disk['runs']}")
    for name, found in forecast["lms"].items():
        checked = (
            "passes the checks that need no weights" if found["checked"] else "not checked, it is not on this machine"
        )
        lines.append(f"LM {name}: " + (f"would fail: {found['problem']}" if found["problem"] else checked))
    for asked in forecast["transfer"]:
        number = "an unknown number of" if asked["questions"] is None else f"{asked['questions']:,}"
        problem = f"would fail: {asked['problem']}" if asked["problem"] else f"{number} questions about test images"
        lines.append(f"transfer {asked['name']}: {problem}")
    for dtype, rate in forecast["rates"].items():
        lines.append(f"time: {rate['basis']}")
        if rate["modelled"] is not None:
            flops = sum(cell["flops"] or 0 for cell in forecast["cells"] if cell.get("dtype", dtype) == dtype)
            least, most = (duration(flops / each) for each in reversed(rate["modelled"]))
            low, high = GPU_SHARES
            products = f"{rate['modelled'][1] / high / 1e12:.3g} TFLOP/s"
            lines.append(
                f"time, by a model that no card has confirmed: {least} to {most} in {dtype}, where a run reaches "
                f"{high:.0%} to {low:.0%} of the rate of products, just measured as {products}"
            )
    return "\n".join([*lines, *(f"note: {note}" for note in forecast["notes"])])


def _what(cell: dict[str, Any]) -> str:
    """Weights, labels, and every other field in which cells differ and that means something here."""
    if cell["subset"] == "swap":
        labels = "hypernyms swapped" if cell["shuffle"] == "swap" else "swap control"
    else:
        labels = cell["shuffle"] if cell["shuffled"] == 100 else f"{cell['shuffle']} {cell['shuffled']} %"
    rules = {"across_rule", "within_rule"} - {f"{cell['shuffle']}_rule"}
    other = [f"{name} {value}" for name, value in cell.items() if name not in TOLD | rules]
    weights = "random-init" if cell["lm_init"] == "random" else "pretrained"
    return ", ".join([weights, labels, *other])


def _levels(cells: Sequence[dict[str, Any]]) -> str:
    parts = []
    for kind, unit in (("random", "%"), ("systematic", "hypernyms")):
        if levels := sorted({cell["ablation"] for cell in cells if cell["ablation_kind"] == kind}):
            parts.append(f"{' '.join(map(str, levels))} {unit}")
    return "ablated: " + ", ".join(parts)


def _numbers(cells: Sequence[dict[str, Any]]) -> str:
    runs, known, tokens, flops = (
        sum(cell[name] or 0 for cell in cells) for name in ("runs", "known", "tokens", "flops")
    )
    text = f"{runs:>4} runs"
    if known:
        text += f"  {tokens:.1e} tokens  {flops:.1e} FLOP"
    seconds = [cell["seconds"] for cell in cells if cell["known"]]
    if seconds and None not in seconds:
        text += f"  {duration(sum(seconds)):>10}"
    if known < runs:
        text += f"  ({runs - known} of them not known)"
    return text


def _last(name: str | None) -> str:
    return (name or "?").rstrip("/").rsplit("/", 1)[-1]
