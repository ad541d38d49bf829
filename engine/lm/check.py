"""The check at load: does a way of computing answers give what Hugging Face's own forward gives, prompt by prompt?

Two images with two questions of different length are packed into one row. Each question's logits, and their gradient
at every token of the row, are compared with one plain forward of that prompt alone. What must hold does not depend on
the precision of the LM:

- A token that a prompt does not hold has no gradient at all, and one that the plain forward sees has some. A leak
  through a mask, a state or a convolution is no rounding error, however small.
- What differs stays within a few times what the plain forward itself moves by when its input is rounded otherwise.
  This is measured in float32, for which the weights of an LM in 16 bits are widened for a moment (no bit is lost), if
  memory allows. So a wrong position is seen also where 16 bits would hide it.
- The same holds with the windows that a configuration names shortened to three tokens, which no short prompt would
  fill otherwise.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch

from cachegen.common.errors import ModelError
from cachegen.common.rng import stream_seed
from engine.lm.prefix_sharing import Layout

SLACK, DRAWS = 16, 3
WINDOWS = ("sliding_window", "attention_chunk_size")
PROMPTS = Layout(buckets=((2, 2),), prefix=5, suffix=4)
LENGTHS = (4, 3, 2, 4)


class Answering(Protocol):
    """What is asked here of `engine.lm.language_model.FrozenLM`."""

    model: Any
    decoder: Any
    device: torch.device
    width: int
    embedding_rms: float

    @property
    def rows(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def embed(self, ids: torch.Tensor) -> torch.Tensor: ...
    def answer_states(
        self, row_TD: torch.Tensor, layout: Layout, answer_rows_Q: torch.Tensor, ids_T: torch.Tensor
    ) -> torch.Tensor: ...
    def plain_logits(self, prompt_TD: torch.Tensor, ids_T: torch.Tensor) -> torch.Tensor: ...
    def vocabulary_logits(self, states_QD: torch.Tensor) -> torch.Tensor: ...
    def answer_logits(self, states_QD: torch.Tensor, yes: int, no: int) -> torch.Tensor: ...


class DifferentError(ModelError):
    """A way of computing answers is not what Hugging Face's own forward computes."""


def check(lm: Answering) -> None:
    """Raise `DifferentError` if `lm`, in its present way, answers otherwise than Hugging Face's own forward.

    Raises `ModelError` where that forward itself gives no numbers.
    """
    with torch.enable_grad(), _in_float32(lm):
        _compare_some(lm)
        with _short_windows(lm.decoder.config) as shortened:
            if shortened:
                _compare_some(lm)


def _compare_some(lm: Answering) -> None:
    """Three draws have a try: a fault shows in all of them, the kink of an activation or a tie of experts in few."""
    for draw in range(DRAWS - 1):
        with suppress(TooFarError):
            _compare(lm, draw)
            return
    _compare(lm, DRAWS - 1)


def _compare(lm: Answering, draw: int) -> None:
    rng = torch.Generator().manual_seed(stream_seed(draw, "self-check"))
    rows = lm.rows
    ids_QS = torch.randint(0, rows, (PROMPTS.questions, PROMPTS.suffix), generator=rng).to(lm.device)
    lengths_Q = torch.tensor(LENGTHS, device=lm.device)
    noise_IPD = torch.randn(PROMPTS.images, PROMPTS.prefix, lm.width, generator=rng)
    images_IPD = (noise_IPD * lm.embedding_rms).to(lm.device, lm.dtype)
    rounding = torch.randn(PROMPTS.prefix + PROMPTS.suffix, lm.width, generator=rng).sign().to(lm.device, lm.dtype)
    weight_V = torch.randn(rows, generator=rng).to(lm.device)
    border = PROMPTS.images * PROMPTS.prefix
    none_IP = torch.full((PROMPTS.images * PROMPTS.prefix,), -1, device=lm.device)

    row_TD = torch.cat([images_IPD.flatten(0, 1), lm.embed(ids_QS).flatten(0, 1)]).detach().requires_grad_()
    states = lm.answer_states(
        row_TD * 1, PROMPTS, PROMPTS.answer_rows(lengths_Q), torch.cat([none_IP, ids_QS.flatten()])
    )
    logits_QV = lm.vocabulary_logits(states)
    weight_V = weight_V[: logits_QV.shape[1]]
    two = lm.answer_logits(states, 1, 0).detach()

    for question, length in enumerate(LENGTHS):
        image = question // 2
        own = torch.arange(PROMPTS.prefix, device=lm.device) + image * PROMPTS.prefix
        text = torch.arange(length, device=lm.device) + border + question * PROMPTS.suffix
        places = torch.cat([own, text])
        ids = torch.cat([none_IP[: PROMPTS.prefix], ids_QS[question, :length]])

        def plain(x_TD: torch.Tensor, ids: torch.Tensor = ids) -> tuple[torch.Tensor, torch.Tensor]:
            x = x_TD.detach().requires_grad_()
            logits = lm.plain_logits(x * 1, ids)  # some families write into their input
            return logits.detach(), torch.autograd.grad((logits * weight_V).sum(), x)[0]

        x = row_TD.detach()[places]
        logits, grad = plain(x)
        if not logits.isfinite().all():
            raise NotFiniteError(lm)
        shift = x * rounding[: len(x)] * torch.finfo(lm.dtype).eps
        others = [plain(x + shift), plain(x - shift)]
        found = torch.autograd.grad((logits_QV[question] * weight_V).sum(), row_TD, retain_graph=True)[0]
        elsewhere = torch.ones(len(row_TD), dtype=torch.bool, device=lm.device)
        elsewhere[places] = False
        if found[elsewhere].any():
            raise DifferentError("a question's answer depends on other questions or images")
        if not torch.equal(found[places].any(-1), grad.any(-1)):
            raise DifferentError("a question's answer depends on other tokens of its prompt than it should")
        for what, shared, exact, moved in (
            ("answers", logits_QV[question].detach(), logits, [other[0] for other in others]),
            ("the two answers' logits", two[question], logits[[1, 0]], [other[0] for other in others]),
            ("gradients", found[places], grad, [other[1] for other in others]),
        ):
            scale = logits.abs().max() if what != "gradients" else grad.abs().max()
            noise = max(float((other - (grad if what == "gradients" else logits)).abs().max()) for other in moved)
            bound = SLACK * max(noise, float(torch.finfo(lm.dtype).eps * scale))
            difference = float((shared - exact).abs().max())
            if not difference <= bound:
                raise TooFarError(f"{what} differ from Hugging Face's own by {difference:.2g} (bound {bound:.2g})")


class TooFarError(DifferentError):
    """Numbers differ by more than the plain forward's own noise."""


class NotFiniteError(ModelError):
    """Hugging Face's own forward gives no numbers."""

    def __init__(self, lm: Answering) -> None:
        bad = [name for name, values in lm.model.named_parameters() if not values.isfinite().all()]
        what = f"weights that are not finite, first {bad[0]}" if bad else "answers that are not finite"
        super().__init__(
            f"the LM ({type(lm.model).__name__}) has {what}, with Hugging Face's own attention too; save or download "
            "it again"
        )


@contextmanager
def _in_float32(lm: Answering) -> Iterator[None]:
    """Weights in 16 bits are float32 inside, where both forms fit into memory."""
    narrow = [x for x in (*lm.model.parameters(), *lm.model.buffers()) if x.is_floating_point() and x.itemsize == 2]
    if 4 * sum(x.numel() for x in narrow) > 0.8 * _free_memory(lm.device):
        narrow = []
    kept = [x.data for x in narrow]
    try:
        for x in narrow:
            x.data = x.data.float()
        yield
    finally:
        for x, data in zip(narrow, kept, strict=True):
            x.data = data


def _free_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))


@contextmanager
def _short_windows(config: Any) -> Iterator[bool]:
    """Windows of three tokens inside; False if the configuration names none."""
    kept = {name: value for name in WINDOWS if isinstance(value := getattr(config, name, None), int)}
    try:
        for name in kept:
            setattr(config, name, 3)
        yield bool(kept)
    finally:
        for name, value in kept.items():
            setattr(config, name, value)
