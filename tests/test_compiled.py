"""Compiled decoder layers and the even rows that a GPU gets: the same answers and gradients, and few graphs.

Layers are compiled on a CPU, with the attention of GPUs. Bounds come from the data, as in `test_prefix_sharing`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from few import few
from run_folders import bytes_of, kill_on_call, killed
from test_prefix_sharing import ANSWER, IMAGE, PATCHES, WIDTH, remove_masks, study
from tiny import CONFIGS, tiny_lm

from engine.lm import prefix_sharing
from engine.lm.language_model import FrozenLM
from engine.lm.prefix_sharing import Layout
from engine.lm.projector import new_projector
from engine.runs.config import read_config
from engine.runs.directory import RunDirectory
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep
from engine.training import group, loop
from engine.training.batches import PADDING, pack
from engine.training.group import WORTH_COMPILING, worth_compiling
from engine.training.loop import Step, step_loss

CPU = torch.device("cpu")
SLACK = 8
ROWS = [(4, 2), (3, 2), (15, 1), (7, 4), (5, 3)]


@pytest.fixture(autouse=True)
def attention_of_gpus(monkeypatch):
    monkeypatch.setattr(prefix_sharing, "matmul_attention", prefix_sharing.sdpa_attention)
    yield
    torch.compiler.reset()


class Counted:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def answered(lm, images, questions, gradient=True):
    """Answer states of a row and their gradient at its tokens, float64."""
    layout = Layout(((images, questions),), 8, 4)
    rng = torch.Generator().manual_seed(0)
    row = torch.randn(images * 8 + images * questions * 4, lm.width, generator=rng).to(lm.dtype)
    ends = layout.answer_rows(torch.full((layout.questions,), 4))
    with torch.set_grad_enabled(gradient):
        row.requires_grad_(gradient)
        states = lm.answer_states(row * 1, layout, ends)
        weight = torch.randn(states.shape, generator=rng).to(states.dtype)
        found = [torch.autograd.grad((states * weight).sum(), row)[0]] if gradient else []
    return [x.detach().double() for x in (states, *found)]


def away(found, exact):
    return np.array([(a - b).abs().max().item() for a, b in zip(found, exact, strict=True)])


def models(family):
    compiled, eager, exact = (FrozenLM.wrap(tiny_lm(family), None, CPU) for _ in range(3))
    exact.model.double()
    return compiled, eager, exact


@pytest.mark.parametrize("family", few(CONFIGS, "qwen3"))
def test_rows_of_any_size_are_one_graph(family):
    """One with gradients, one without, and one for a row of a single image."""
    lm, eager, exact = models(family)
    backend = Counted()
    assert lm.compile_layers(backend) == ""
    assert lm.compiled
    backend.graphs = 0
    for sizes in ROWS:
        found = answered(lm, *sizes)
        assert (
            away(found, answered(exact, *sizes)) <= SLACK * away(answered(eager, *sizes), answered(exact, *sizes))
        ).all()
    with_gradients = backend.graphs
    assert 1 <= with_gradients <= 2  # the first is taken up twice
    for sizes in ROWS:
        answered(lm, *sizes, gradient=False)
    answered(lm, 1, 3)
    assert backend.graphs == with_gradients + 2


@pytest.mark.slow
def test_generated_kernels():
    """What inductor makes of a layer is as exact as eager execution, and fewer kernels than it starts."""
    from torch._inductor import config, metrics

    lm, eager, exact = models("qwen3")
    with config.patch({"cpp.simdlen": 1, "cpp.threads": 1, "compile_threads": 1, "force_disable_caches": True}):
        assert lm.compile_layers() == ""
        metrics.reset()
        for sizes in ROWS:
            found, right = answered(lm, *sizes), answered(exact, *sizes)
            assert (away(found, right) <= SLACK * away(answered(eager, *sizes), right)).all()
    assert 10 < metrics.generated_kernel_count < 80  # of a layer, forward and backward; 166 in eager execution


@pytest.mark.slow
def test_launches_of_a_step_of_28_layers():
    """In the code that inductor generates for CUDA; the last layer is not compiled. Control: none of them is."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (root, root / "tests", root / "tests/support")))
    made = subprocess.run(
        [sys.executable, "-m", "triton_launches"],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    found = json.loads(made.stdout)
    assert found["compiled"] > 20
    assert 500 < 27 * found["compiled"] + found["one"] <= 1500 < 27 * found["eager"] + found["one"]


@pytest.mark.parametrize("fault", ["mask", pytest.param("numbers", marks=pytest.mark.slow)])
def test_what_the_check_finds_wrong_is_not_kept(fault, monkeypatch):
    """Negative control: faults that compiling would bring in, and that eager execution does not have."""
    lm = FrozenLM.wrap(tiny_lm("qwen3"), None, CPU)
    before = answered(lm, 4, 2)

    def faulty(graph, inputs):
        monkeypatch.undo()
        monkeypatch.setattr(prefix_sharing, "matmul_attention", prefix_sharing.sdpa_attention)
        return graph.forward

    if fault == "mask":
        remove_masks(monkeypatch)
        problem = lm.compile_layers(faulty)
    else:

        def off(graph, inputs):
            return lambda *given: [x * 1.01 for x in graph(*given)]

        problem = lm.compile_layers(off)
    assert problem
    assert not lm.compiled
    assert torch.equal(answered(lm, 4, 2)[0], before[0])


class Fails(Counted):
    """A backend that cannot do what the check at load does not need: new graphs, or else any backward pass."""

    def __init__(self, fault="forward"):
        super().__init__()
        self.fault, self.later = fault, False

    def __call__(self, graph, inputs):
        if self.later and self.fault == "forward":
            raise RuntimeError("too much\nof it")

        def refuse(_):
            if self.later:
                raise RuntimeError("too much\nof it")

        def run(*given):
            found = graph.forward(*given)
            for each in found if self.fault == "backward" else ():
                if each.requires_grad:
                    each.register_hook(refuse)
            return found

        return run


def test_a_row_that_cannot_be_compiled_is_computed_as_before():
    """And says so: nothing runs eagerly while it is said to be compiled."""
    backend, lm, eager = Fails(), *(FrozenLM.wrap(tiny_lm("qwen3"), None, CPU) for _ in range(2))
    assert lm.compile_layers(backend) == lm.not_compiled == ""
    answered(lm, 4, 2)
    backend.later = True
    assert torch.equal(answered(lm, 4, 2)[0], answered(eager, 4, 2)[0])
    assert lm.compiled
    for found, right in zip(answered(lm, 1, 3), answered(eager, 1, 3), strict=True):
        assert torch.equal(found, right)
    assert not lm.compiled
    assert "too much" in lm.not_compiled


@pytest.fixture
def compiled_run(small_study, monkeypatch):
    """Train a run into a folder, with layers that compile for the check at load and, with a fault, not later."""

    def run(out, fault):
        backend, compile_layers = Fails(fault), FrozenLM.compile_layers

        def compiled(lm):
            problem = compile_layers(lm, backend)
            backend.later = True
            return problem

        with monkeypatch.context() as patch:
            patch.setattr(group, "worth_compiling", lambda *_: fault is not None)
            patch.setattr(FrozenLM, "compile_layers", compiled)
            (folder,) = run_sweep(small_study.sweep(epochs=1), out, Execution(device="cpu", checkpoint_seconds=0))
        assert not RunDirectory(folder).failed
        return folder

    return run


def test_a_run_says_that_it_was_compiled_in_part(compiled_run, tmp_path, monkeypatch):
    """Also when it is killed after the first step, with a checkpoint, and goes on with layers that compile."""
    plain = compiled_run(tmp_path / "plain", None)
    assert "compiled" not in read_config(plain)
    with monkeypatch.context() as patch:
        kill_on_call(patch, loop, "write_checkpoint", 1, after=True)
        killed(lambda: compiled_run(tmp_path / "runs", "forward"))
    folder = tmp_path / "runs" / plain.name
    assert read_config(folder)["compiled"] == "in part"
    assert compiled_run(tmp_path / "runs", "none") == folder
    backward = compiled_run(tmp_path / "backward", "backward")
    for run in (folder, backward):
        assert read_config(run)["compiled"] == "in part"
        found, right = bytes_of(run), bytes_of(plain)
        assert {name for name in found if found[name] != right[name]} == {"config.json"}  # graphs run as they are


@pytest.mark.parametrize("steps", [0, WORTH_COMPILING])
def test_a_cpu_never_compiles(steps):
    assert not worth_compiling(CPU, steps)
    assert worth_compiling(torch.device("cuda"), steps) == (steps > 0)


@pytest.mark.parametrize("max_tokens", [30, 60, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_even_rows_ask_everything_and_repeat_little(seed, max_tokens):
    rng = np.random.default_rng(seed)
    image, run = rng.integers(0, 9, 60), rng.integers(0, 2, 60)
    rows = pack(image, run, 2, 9, 2, max_tokens, even=True)
    assert sorted(np.concatenate([np.unique(row.question) for row in rows])) == list(range(60))
    assert any(len(row.question) > row.asked for row in rows) or max_tokens < 60
    for row in rows:
        ((images, questions),) = row.layout.buckets
        tokens = 9 * images + 2 * images * questions
        assert tokens <= max_tokens or images == 1
        assert tokens <= (1 + PADDING) * (9 * images + 2 * row.asked)
        assert np.bincount(row.question, row.share, 60)[row.question] == pytest.approx(1)
        assert (run[row.question] == row.run).all()


def losses(even):
    tokens, features = study()
    lm = FrozenLM.wrap(tiny_lm("qwen3"), None, CPU)
    projector = new_projector((WIDTH, lm.width), torch.float32, 0, None, lm.embedding_rms)
    weight = np.full(len(IMAGE), 1 / len(IMAGE), dtype=np.float32)
    step, total = Step(np.arange(len(IMAGE)), ANSWER, weight, []), 0.0
    rows = pack(IMAGE, np.zeros_like(IMAGE), 1, len(tokens.prefix) + PATCHES, 5, 10_000, even=even)
    for row in rows:
        items = [features[row.items[0]]]
        loss, _ = step_loss(lm, tokens, step, row, [projector], items, "vocabulary")
        loss.backward()
        total += loss.item()
    return total, [p.grad for p in projector.parameters()], [len(row.layout.buckets) for row in rows]


def test_even_rows_train_the_same():
    plain, even = losses(False), losses(True)
    assert even[0] == pytest.approx(plain[0], rel=1e-6)
    for a, b in zip(even[1], plain[1], strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert max(plain[2]) > 1 == max(even[2])
