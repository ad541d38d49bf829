"""`crosstax demo --real`: naming on pictures and with an LM of the real world, as much as fits into given minutes.

A trial on a few pictures measures how fast this machine encodes and trains. From that follows how many leaves, epochs
and seeds the study has; `plan.json` keeps the choice, so that the same command resumes.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cachegen.common.errors import ConditionError, RunError
from cachegen.common.files import expanded, read_json, write_json
from cachegen.common.hub import is_there, looks_like_path, offline
from cachegen.common.hub_files import HubFile, hub_files
from cachegen.common.progress import console
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.data.subset import build_subset, smaller
from cachegen.encoders import load_encoder
from cachegen.encoders.names import read_name
from cachegen.features.extract import extract
from cachegen.features.pooling import pooled_count
from cachegen.features.store import FeatureStore
from engine.lm.loading import DOWNLOADED, NOT_DOWNLOADED, hosted_gguf, resolve_lm
from engine.lm.shape import lm_shape
from engine.runs.planned import Execution
from engine.sweeps.cost import Sizes, cost_of, question_counter, text_tokens
from engine.sweeps.presets import load_preset
from engine.sweeps.sweep import run_all
from engine.sweeps.sweep_file import Wanted, complete, locate, read_sweep
from engine.sweeps.timing import duration, measured_rate, read_events

LM, ENCODER = "HuggingFaceTB/SmolLM2-135M", "facebook/dinov2-small"
ENCODER_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
PRESET = "pictograms"
IMAGES = 12  # of a leaf
TRIAL = {"leaves": 2, "images": 8}
TRIAL_HYPERNYMS = 3
LEAVES = (None, 12, 10, 8, 6, 5, 4, 3)  # of each hypernym, as many as fit; None: all
EPOCHS = (4, 3, 2)
RESERVE = 0.9  # of the time left is planned with: the report and what other programs take come on top


@dataclass(frozen=True)
class Plan:
    """What fits: leaves of each hypernym (None: all), epochs, run seeds of each condition, and seconds expected."""

    leaves: int | None
    epochs: int
    seeds: int
    seconds: float


@dataclass(frozen=True)
class Models:
    """An encoder and an LM, each a folder or an id of the hub, and the precision of the LM here."""

    encoder: str
    lm: str

    def downloads(self) -> list[HubFile]:
        """Files on the hub that these need, those in the local cache included; none where all is local or offline."""
        asked: list[tuple[str, Sequence[str], Sequence[str]]] = [
            (each.repository, ENCODER_FILES, ()) for each in read_name(self.encoder) if each.folder is None
        ]
        if (gguf := hosted_gguf(self.lm)) is not None:
            asked.append((gguf[0], (gguf[1],), ()))
        elif not (looks_like_path(self.lm) or is_there(expanded(self.lm))):
            asked.append((self.lm, DOWNLOADED, NOT_DOWNLOADED))
        return [] if offline() else [file for each in asked for file in hub_files(*each)]

    def runs(self, seeds: int = 3, **fields: Any) -> list[Wanted]:
        """Runs of the preset, of its first run seeds."""
        runs = read_sweep(load_preset(PRESET), None, {"lm": self.lm, "dtype": "auto"} | fields)
        kept = list(dict.fromkeys(run.condition.run_seed for run in runs))[:seeds]
        return [run for run in runs if run.condition.run_seed in kept]


@dataclass(frozen=True)
class Pace:
    """What this machine takes: seconds to encode a picture, operations per second, seconds to load an LM."""

    picture: float
    rate: float
    loading: float
    store: Path


def run_trial(whole: Dataset, models: Models, out: Path, execution: Execution) -> Pace:
    """Encode, train and evaluate one short run on a few pictures of the dataset."""
    size = whole.hypernyms["n_leaves"]
    few = list(size[size > 1].sort_values(kind="stable").index[:TRIAL_HYPERNYMS])
    shutil.rmtree(out, ignore_errors=True)  # half of an earlier one would tell nothing about time
    build_subset(whole.root, out / "dataset", few, **TRIAL)
    part, store = load_dataset(out / "dataset"), out / "features.h5"
    extracted = extract(part, load_encoder(models.encoder, execution.device), store)
    started = time.perf_counter()
    _train(models.runs(1, epochs=1)[:1], part.root, store, out / "runs", execution)
    seconds = time.perf_counter() - started
    events = read_events(out / "runs")
    rate = measured_rate(events)
    if rate is None:
        raise RunError(f"the sizes of {models.lm} are not known, so its time cannot be; use `crosstax sweep`")
    inside = sum(event["seconds"] for event in events if event["event"] == "end")
    return Pace(extracted["seconds"] / len(part.images), rate, max(0.0, seconds - inside), store)


def plans(whole: Dataset, models: Models, pace: Pace) -> Iterator[Plan]:
    """All that could be run, with the seconds that each would take; the first that fits is the best one.

    Many epochs come before many leaves, since hypernyms say nothing where leaves are not learned; these before seeds.
    """
    shape, store = lm_shape(str(resolve_lm(models.lm))), FeatureStore.open(pace.store)
    assert shape is not None
    _, patches, width = store.patches.shape
    runs = [run.condition for run in models.runs(1)]
    original, pooled = runs[0], pooled_count(store.attributes, patches, runs[0].pool)
    parts = {leaves: smaller(whole, leaves=leaves, images=IMAGES) for leaves in LEAVES}
    counts = {leaves: question_counter()(part, original) for leaves, part in parts.items()}  # of all labels nearly so
    for epochs in EPOCHS:
        condition = original.model_copy(update={"epochs": epochs})
        for leaves, part in parts.items():
            sizes = Sizes(shape, pooled, width, *text_tokens(condition, part))
            training = len(runs) * cost_of(condition, counts[leaves], sizes).flops / pace.rate
            for seeds in (3, 2, 1):
                loads = 1 + seeds  # the LM with its weights, and a random one for each seed
                encoding = pace.picture * len(part.images)
                yield Plan(leaves, epochs, seeds, encoding + seeds * training + loads * pace.loading)


def choose(whole: Dataset, models: Models, pace: Pace, seconds: float) -> Plan:
    """The first plan that fits into `seconds`. Raises `ConditionError` that says how many would be enough."""
    least = None
    for plan in plans(whole, models, pace):
        if plan.seconds <= RESERVE * seconds:
            return plan
        least = plan if least is None or plan.seconds < least.seconds else least
    assert least is not None
    raise ConditionError(
        f"the smallest study takes {duration(least.seconds)} here, and {duration(max(0, seconds))} are left; give more "
        f"--minutes, a smaller --lm, or a dataset of fewer hypernyms"
    )


def run_real(dataset: Path, models: Models, out: Path, minutes: float, execution: Execution) -> tuple[Path, Plan]:
    """Plan and carry out the study below `out`, keeping what is done; the folder of its runs, and the plan."""
    started = time.perf_counter()
    record, asked = out / "plan.json", {"dataset": str(dataset), **asdict(models), "minutes": minutes}
    whole = load_dataset(dataset)
    whole.require_pictures("`crosstax sweep --preset pictograms` takes them with their own features")
    if is_there(record):
        known = read_json(record)
        if known["asked"] != asked:
            raise RunError(f"{out} holds a study of other models, data or minutes; choose another --out")
        plan = Plan(**known["plan"])
    else:
        pace = run_trial(whole, models, out / "trial", execution)
        spent = time.perf_counter() - started
        console.print(
            f"[bold]trial[/] {spent:.0f} s: {1000 * pace.picture:.0f} ms to encode a picture, "
            f"{pace.rate:.1e} operations per second to train"
        )
        plan = choose(whole, models, pace, 60 * minutes - spent)
        write_json(record, {"asked": asked, "plan": asdict(plan)})
    if not is_there(out / "dataset"):
        build_subset(dataset, out / "dataset", leaves=plan.leaves, images=IMAGES)
    part = load_dataset(out / "dataset")
    console.print(
        f"[bold]chosen[/] {len(part.leaves)} of {len(whole.leaves)} leaves under {len(part.hypernyms)} hypernyms, "
        f"{len(part.images):,} pictures, {plan.epochs} epochs, {plan.seeds} seeds of 4 conditions: "
        f"about {duration(plan.seconds)}"
    )
    store = out / "features.h5"
    extract(part, models.encoder, store, device=execution.device)
    _train(models.runs(plan.seeds, epochs=plan.epochs), part.root, store, out / "runs", execution)
    return out / "runs", plan


def _train(runs: list[Wanted], dataset: Path, store: Path, out: Path, execution: Execution) -> None:
    run_all(complete(locate(runs, dataset, [store]), f"preset {PRESET}", [store]), out, execution)
