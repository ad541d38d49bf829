"""`python -m on_fake_gpu CASE...`: the engine's own code on a GPU that is not there; prints what it asked for, as JSON.

In a process of its own, since the fake device stays registered.
"""

import contextlib
import json
import sys
import tempfile
import types
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fake_gpu import DEVICE, FakeGpu, cuda_attention
from picture_study import save_encoder
from small_study import SETTINGS, word_tokenizer
from tiny import SIZE, SPECIAL, tiny_lm
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes
from transformers import MistralConfig

from cachegen.common import device as devices
from cachegen.common.random_init import random_init_lm
from cachegen.encoders.encoder import load_encoder
from engine import ask as asking
from engine.design.condition import Condition
from engine.lm import prefix_sharing, probe
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.lm.prompts import PromptTokens
from engine.training import checkpoint, evaluation, loop
from engine.training.batches import QuestionArrays

WIDTH, PATCHES, SUFFIX = 20, 6, 5

# Attention as on CUDA, and loading in this thread: another one would know nothing of the fake device.
prefix_sharing.functional = types.SimpleNamespace(scaled_dot_product_attention=cuda_attention)
loop.prefetched = evaluation.prefetched = lambda items, load: map(load, items)


class Directory:
    """The part of a run directory that training writes to."""

    log_size = 10**9

    def __init__(self, number):
        self.path = Path(f"run{number}")

    def append_metrics(self, lines):
        return len(list(lines))

    def cut_metrics(self, size):
        pass


class StopError(Exception):
    pass


class Held:
    """A signal that waits after so many steps, so that a checkpoint is written and training ends."""

    def __init__(self, steps=None):
        self.steps, self.waiting = steps, False

    def count(self, steps):
        self.waiting = steps == self.steps

    def deliver(self):
        if self.waiting:
            raise StopError


class Features:
    """Features on the device, or streamed to it."""

    def __init__(self, images, streamed):
        self.patches, self.images = PATCHES, images
        where = "cpu" if streamed else DEVICE
        self.memory = torch.empty(images, PATCHES, WIDTH, dtype=torch.bfloat16, device=where)

    def fetch(self, images):
        if self.memory.device == DEVICE:
            return self.memory.index_select(0, devices.on_device(images, DEVICE))
        return devices.on_device(torch.empty(len(images), *self.memory.shape[1:], dtype=torch.bfloat16), DEVICE)


def save_fake(tensors, metadata):
    here = {name: tensor.cpu() for name, tensor in tensors.items()}
    with _disable_current_modes():
        return save(
            {name: torch.zeros(x.shape, dtype=x.dtype) if isinstance(x, FakeTensor) else x for name, x in here.items()},
            metadata=metadata,
        )


def load_fake(content):
    with _disable_current_modes():
        sizes = {name: (x.shape, x.dtype) for name, x in load(content).items()}
    return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in sizes.items()}


save, load = checkpoint.save, checkpoint.load
checkpoint.save, checkpoint.load = save_fake, load_fake


class Study:
    """A lockstep group on the fake device; its LM has passed the check at load on the CPU."""

    def __init__(self, *, family="qwen3", layers=3, dtype="float32", runs=2, images=8, asked=2.5, batch=10, prefix=0,
                 streamed=False, standardise=False, sharing="auto", max_tokens=10_000, suffix=SUFFIX, steps=2,
                 **fields):  # fmt: skip
        precision = getattr(torch, dtype)
        lm = FrozenLM.wrap(_lm(family, layers), None, torch.device("cpu"), sharing)
        self.way, self.max_tokens = lm.way, max_tokens
        lm.model.to(precision)
        rng = np.random.default_rng(0)
        low = int(asked)
        image = np.repeat(np.arange(images), np.where(rng.random(images) < asked - low, low + 1, low))[: steps * batch]
        eos = 3 if fields.get("supervise") == "answer_eos" else None
        self.tokens = PromptTokens(
            np.arange(prefix), rng.integers(0, 50, (40, suffix)), rng.integers(2, suffix + 1, 40), {}, 1, 2, eos
        )
        self.gpu = FakeGpu()
        self.projectors = [
            new_projector((WIDTH, lm.width), precision, seed, torch.ones(2, WIDTH) if standardise else None, 1.0)
            for seed in range(runs)
        ]
        with self.gpu:
            self.gpu.place(lm.model)
            lm.device = DEVICE
            for projector in self.projectors:
                self.gpu.place(projector)
            self.lm, self.features = lm, Features(images, streamed)
        self.runs = []
        for seed, projector in enumerate(self.projectors):
            condition = {"epochs": 1, "batch": batch, "run_seed": seed, "dtype": dtype, "order": "images"} | fields
            questions = QuestionArrays(image, rng.integers(0, 40, len(image)), rng.random(len(image)) < 0.5)
            self.runs.append(loop.TrainingRun(Directory(seed), Condition.of(condition, "x"), questions, projector))

    def train(self, path, held):
        """What each step asked of the device, without what is done around it: restore, log and checkpoint."""
        steps = []

        def advance(count):
            steps.append(self.gpu.counts())
            held.count(len(steps) - 1)
            self.gpu.clear()

        with self.gpu, torch.autograd.set_multithreading_enabled(False):
            self.gpu.clear()
            with contextlib.suppress(StopError):
                loop.train_group(
                    self.runs, self.lm, self.features, self.tokens, path, max_tokens=self.max_tokens,
                    checkpoint_seconds=1e9, advance=advance, held=held,
                )  # fmt: skip
        return steps[1:]

    def evaluate(self):
        with self.gpu:
            self.gpu.clear()
            evaluation.evaluate(
                self.projectors[0], self.lm, self.features, self.tokens, self.runs[0].questions,
                max_tokens=self.max_tokens, advance=lambda _: None,
            )  # fmt: skip
            return self.gpu.counts()


def _lm(family, layers):
    if family != "mistral":
        return tiny_lm(family, num_hidden_layers=layers)
    window = {"sliding_window": 6, "num_key_value_heads": 2, "num_hidden_layers": layers}
    return random_init_lm(MistralConfig(**SIZE | SPECIAL | window), 0)


def study(**given):
    """Training to a checkpoint and on from it, then evaluation."""
    study = Study(**given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        steps = study.train(path, Held(1)) + study.train(path, Held())
    return {"way": study.way, "steps": steps, "evaluate": study.evaluate()}


def depth(dtype):
    """Launches of a step of 16 images with two questions each, from two depths: all layers ask for the same."""
    short, deep = (
        study(layers=layers, runs=1, images=32, asked=2, batch=32, steps=2, suffix=16, dtype=dtype)["steps"]
        for layers in (2, 3)
    )
    return [low["launches"] + 26 * (high["launches"] - low["launches"]) for low, high in zip(short, deep, strict=True)]


def faulty(fault):
    """Training with a fault in it, or the error that it ends in."""
    right = loop.step_loss, loop.on_device

    def asks(*arguments):
        loss, losses = right[0](*arguments)
        return loss * (1 + 0 * loss.item()), losses

    def from_the_host(*arguments):
        loss, losses = right[0](*arguments)
        return loss, losses[torch.zeros(len(losses), dtype=torch.long)]

    def elsewhere(*arguments):
        loss, losses = right[0](*arguments)
        return loss + torch.ones(1), losses

    try:
        loop.step_loss = {"item": asks, "index": from_the_host, "device": elsewhere}.get(fault, loop.step_loss)
        if fault == "pageable":
            loop.on_device = lambda values, device: torch.as_tensor(values).to(device, non_blocking=True)
        return study(runs=1)
    except RuntimeError as error:
        return {"error": str(error)}
    finally:
        loop.step_loss, loop.on_device = right


def extract():
    """One block of pictures, as far as features in the device's memory."""
    torch.autocast = lambda *_, **__: contextlib.nullcontext()  # for which the fake device has no rules
    gpu = FakeGpu()
    with tempfile.TemporaryDirectory() as folder:
        encoder = load_encoder(str(save_encoder("dinov2", "hf", Path(folder) / "encoder")), "cpu")
    with gpu:
        for vision in encoder.models:
            gpu.place(vision.model)
        size = encoder.transform.size
        pixels = torch.zeros(4, 3, size, size).pin_memory()
        gpu.clear()
        found = replace(encoder, device=DEVICE)(pixels)
        assert all(part.device == DEVICE for part in found)
        return gpu.counts()


def ask():
    """Two questions about three pictures whose features are stored."""
    asked = Study()
    asked.lm.tokenizer = word_tokenizer(["is", "there", "a", "crow", "saw", "yes", "no"])
    condition = Condition.of(SETTINGS, "x")
    run = types.SimpleNamespace(condition=condition, tested=condition, features={"dtype": "bfloat16"})
    asking.stored_features = lambda _, names: torch.zeros(len(names), PATCHES, WIDTH, dtype=torch.bfloat16)
    asker = asking.Asker(run, None, asked.lm, asked.projectors[0])
    with asked.gpu:
        asked.gpu.clear()
        answers = asker.ask([Path("1"), Path("2"), Path("3")], ["is there a crow", "is there a saw"])
        assert len(answers) == 6
        return asked.gpu.counts()


def ask_text():
    """The probe's prompts of two lengths."""
    model, gpu = tiny_lm("qwen3"), FakeGpu()
    with gpu, torch.no_grad():
        gpu.place(model)
        type(model).device = property(lambda _: DEVICE)
        probe.ask(model, probe.ProbeTokens([[1, 2, 3]] * 4 + [[1, 2]] * 3, [5, 6], [7]), 64, lambda _: None)
        return gpu.counts()


VARIANTS = {
    "plain": {},
    "pairs in bfloat16": {"order": "pairs", "dtype": "bfloat16"},
    "text before, EOS behind": {"prefix": 2, "supervise": "answer_eos"},
    "streamed": {"streamed": True, "dtype": "bfloat16"},
    "standardised, two answers": {"standardise": True, "loss": "answers"},
    "three layers": {"projector_layers": 3},
    "several rows": {"max_tokens": 40},
    "unshared": {"sharing": "never"},
    "windows": {"family": "mistral"},
    "other heads": {"family": "gpt_neox"},
}
CASES = {
    **{name: partial(study, **given) for name, given in VARIANTS.items()},
    **{f"depth, {dtype}": partial(depth, dtype) for dtype in ("float32", "bfloat16")},
    **{f"fault: {fault}": partial(faulty, fault) for fault in ("item", "index", "device", "pageable")},
    "extract": extract,
    "probe": ask_text,
    "ask": ask,
}

if __name__ == "__main__":
    print(json.dumps({name: CASES[name]() for name in sys.argv[1:] or CASES}))
