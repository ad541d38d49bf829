"""On a machine with CUDA (`pytest -m gpu`): the runs of a CPU, and steps that no host waits for."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_lm
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.benchmark.work import Engine, Work
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep

pytestmark = pytest.mark.gpu

PATCHES, WIDTH, SUFFIX, VOCABULARY = 6, 20, 5, 61


def test_a_training_step_does_not_wait_for_the_gpu():
    device = torch.device("cuda")
    lm = FrozenLM.wrap(tiny_lm("qwen3"), None, device)
    work = Work.draw((2, 2, 3), 1, PATCHES, WIDTH, SUFFIX, VOCABULARY, device, torch.float32)
    projectors = [new_projector((WIDTH, lm.width), torch.float32, seed, None, None).to(device) for seed in range(2)]
    group = Engine(lm, projectors, max_tokens=10_000)
    group.train(work)  # what is made once, such as the optimizer's moments, may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        group.train(work)
        with pytest.raises(RuntimeError, match="synchroni"):  # negative control: this is noticed
            work.features.sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_kernels_take_all_of_a_step(dtype):
    """Else PyTorch would compute attention step by step, without a word."""
    device = torch.device("cuda")
    lm = FrozenLM.wrap(tiny_lm("qwen3").to(dtype), None, device)
    work = Work.draw((2, 2, 3), 1, PATCHES, WIDTH, SUFFIX, VOCABULARY, device, dtype)
    group = Engine(lm, [new_projector((WIDTH, lm.width), dtype, 0, None, None).to(device)], max_tokens=10_000)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        group.train(work)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_are_compiled_and_a_step_still_does_not_wait(dtype):
    """That they answer as eager ones do is checked when they are compiled; here, that they are kept."""
    device = torch.device("cuda")
    lm = FrozenLM.wrap(tiny_lm("qwen3").to(dtype), None, device)
    assert lm.compile_layers() == ""
    work = Work.draw((2, 2, 3), 1, PATCHES, WIDTH, SUFFIX, VOCABULARY, device, dtype)
    group = Engine(lm, [new_projector((WIDTH, lm.width), dtype, 0, None, None).to(device)], max_tokens=10_000)
    group.train(work)
    torch.cuda.set_sync_debug_mode("error")
    try:
        group.train(work)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_runs_on_a_gpu_are_those_of_a_cpu(small_study, tmp_path):
    """Up to rounding, which is far below what another seed changes."""
    sweep = small_study.sweep(run_seed=[1, 2])

    def weights(device):
        folders = run_sweep(sweep, tmp_path / device, Execution(device=device))
        return [
            torch.cat([w.flatten() for w in load_file(folder / "projector.safetensors").values()]) for folder in folders
        ]

    there, here = weights("cuda"), weights("cpu")
    between_seeds = (here[0] - here[1]).abs().max()
    assert between_seeds > 0.01
    for a, b in zip(there, here, strict=True):
        assert (a - b).abs().max() < 0.01 * between_seeds
