"""One forward pass for all questions about an image, in any Hugging Face causal LM.

A step is packed into one row, [all prefixes | all suffixes]. Only the attention function knows about
images: it cuts the row by indexing, lets prefixes attend causally to themselves, and each suffix to its
image's prefix and to itself. Everything else in a decoder works token by token, so the result equals one
pass per question, and a NaN of one image or run cannot reach another.

Shape letters: I images, Q questions of one image, P prefix and S suffix tokens, H heads, G key/value
heads, E head width, D model width, T tokens of the row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from cachegen.common.errors import ModelError
from engine.lm.attention import composed_attention, matmul_attention

IMPLEMENTATION = "crosstax_prefix_sharing"

# What decoder layers of supported families pass along without any effect on the attention pattern here.
HARMLESS = {
    "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "is_causal",
    "sliding_window",  # the mask has it
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How one row is packed.

    `buckets`: consecutive groups (images, questions per image) of images with equally many questions, in row
    order. `prefix`, `suffix`: their lengths in tokens, P and S.
    """

    buckets: tuple[tuple[int, int], ...]
    prefix: int
    suffix: int

    @property
    def images(self) -> int:
        return sum(images for images, _ in self.buckets)

    @property
    def questions(self) -> int:
        return sum(images * questions for images, questions in self.buckets)

    def spans(self) -> Iterator[tuple[slice, slice, int]]:
        """Per bucket: its images, the tokens of its suffixes in the row, and the questions of each image."""
        image, start = 0, self.images * self.prefix
        for count, questions in self.buckets:
            stop = start + count * questions * self.suffix
            yield slice(image, image + count), slice(start, stop), questions
            image, start = image + count, stop

    def position_ids(self, device: torch.device) -> torch.Tensor:
        """(1, T) positions: every suffix continues from the end of its prefix."""
        prefix = torch.arange(self.prefix, device=device).repeat(self.images)
        suffix = torch.arange(self.prefix, self.prefix + self.suffix, device=device).repeat(self.questions)
        return torch.cat([prefix, suffix])[None]

    def answer_rows(self, lengths_Q: torch.Tensor) -> torch.Tensor:
        """(Q,) places in the row of each question's last token, where its answer is predicted."""
        # Suffixes are padded behind to S tokens, so that a question's last token stands at its own length.
        starts = self.images * self.prefix + self.suffix * torch.arange(self.questions, device=lengths_Q.device)
        return starts + lengths_Q - 1

    def prompts(self, device: torch.device) -> torch.Tensor:
        """(Q, P + S) places in the row of each question's whole prompt."""
        counts = torch.tensor([questions for images, questions in self.buckets for _ in range(images)], device=device)
        image = torch.arange(self.images, device=device).repeat_interleave(counts, output_size=self.questions)
        prefix = image[:, None] * self.prefix + torch.arange(self.prefix, device=device)
        suffix = torch.arange(self.questions * self.suffix, device=device).view(-1, self.suffix)
        return torch.cat([prefix, self.images * self.prefix + suffix], dim=1)


_LAYOUT: ContextVar[Layout] = ContextVar("layout of the row that is being computed")


@contextmanager
def packed_as(layout: Layout) -> Iterator[None]:
    """Inside, attention of `IMPLEMENTATION` reads rows by this layout; many families hand no arguments on to it."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def pattern_of_a_prompt(
    *,
    mask_function: Callable[..., Any],
    device: torch.device,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    **_: Any,
) -> torch.Tensor | None:
    """What transformers asks for where a model makes its mask: here (1, 1, P + S, P + S), of one prompt by itself.

    So a window or a chunk is the model's own rule, counted in a prompt's positions, not in the row's. None: causal.
    """
    layout = _LAYOUT.get()
    length = layout.prefix + layout.suffix
    if allow_is_causal_skip and (local_size is None or length <= local_size):
        return None
    if use_vmap:
        raise ModelError("it has a mask that is no rule of positions")
    place, first = torch.arange(length, device=device), torch.zeros(1, dtype=torch.long, device=device)
    seen = mask_function(first, first, place[:, None], place[None, :])
    return torch.broadcast_to(seen, (length, length))[None, None]


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a packed row: query (1, H, T, E), key (1, G, T, E), value (1, G, T, F) -> (1, T, H, F).

    `attention_mask` is what `pattern_of_a_prompt` gave. The accepted arguments are a closed list: anything else
    (position biases, sparse indices) would change the result silently, so it raises `ModelError`.
    """
    layout = _LAYOUT.get()
    length = layout.prefix + layout.suffix
    unknown = sorted(name for name in set(others) - HARMLESS if others[name] is not None)
    if unknown or dropout or (attention_mask is not None and attention_mask.shape != (1, 1, length, length)):
        what = ", ".join(unknown) or ("dropout" if dropout else "a mask of its own")
        raise ModelError(f"{type(module).__name__} has {what} in attention")
    pattern = None if attention_mask is None else attention_mask[0, 0]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if softcap is None and s_aux is None and query.device.type != "cpu":
        return sdpa_attention(query, key, value, layout, scale, pattern), None
    if softcap is None and s_aux is None and pattern is None:
        return matmul_attention(query, key, value, layout, scale), None
    return composed_attention(query, key, value, layout, scale, pattern, softcap, s_aux), None


def sdpa_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scale: float,
    pattern: torch.Tensor | None = None,
) -> torch.Tensor:
    """`matmul_attention` with PyTorch's fused kernels; `pattern` as in `composed_attention`."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    border = layout.images * layout.prefix  # tokens before it are prefixes, behind it suffixes

    def prefixes(x: torch.Tensor) -> torch.Tensor:
        """(1, H, T, E) -> (I, H, P, E)"""
        return x[0, :, :border].unflatten(1, (layout.images, layout.prefix)).transpose(0, 1)

    key_IHPE, value_IHPE = prefixes(key), prefixes(value)
    own = {"is_causal": True} if pattern is None else {"attn_mask": pattern[: layout.prefix, : layout.prefix]}
    out_IHPE = functional.scaled_dot_product_attention(prefixes(query), key_IHPE, value_IHPE, scale=scale, **own)
    outputs = [out_IHPE.transpose(1, 2).reshape(border, *out_IHPE.shape[1::2])]  # (I P, H, E): row order again
    for images, tokens, questions in layout.spans():

        def suffixes(x: torch.Tensor, images: slice = images, tokens: slice = tokens) -> torch.Tensor:
            """(1, H, T, E) -> (images of this bucket, H, Q S, E)"""
            return x[0, :, tokens].unflatten(1, (images.stop - images.start, -1)).transpose(0, 1)

        # All questions of an image are one sequence of Q S queries: their prefix's keys, computed once above, are read
        # by all of them, and the mask (Q S, P + Q S) keeps each question's own tokens from the others'.
        mask = _own_suffix_mask(questions, layout.prefix, layout.suffix, query.device)
        if pattern is not None:
            on_prefix, on_self = pattern[layout.prefix :].split([layout.prefix, layout.suffix], dim=1)
            mask = mask & torch.cat([on_prefix, on_self.repeat(1, questions)], dim=1).repeat(questions, 1)
        out = functional.scaled_dot_product_attention(
            suffixes(query),
            torch.cat([key_IHPE[images], suffixes(key)], dim=2),
            torch.cat([value_IHPE[images], suffixes(value)], dim=2),
            attn_mask=mask,
            scale=scale,
        )
        outputs.append(out.transpose(1, 2).reshape(-1, *out.shape[1::2]))
    return torch.cat(outputs)[None]


@lru_cache(maxsize=64)
def _own_suffix_mask(questions: int, prefix: int, suffix: int, device: torch.device) -> torch.Tensor:
    """(Q S, P + Q S) boolean: all of the prefix, and causally the own suffix only."""
    causal = torch.ones(suffix, suffix, dtype=torch.bool, device=device).tril()
    own = torch.block_diag(*[causal] * questions).bool()
    return torch.cat([torch.ones(len(own), prefix, dtype=torch.bool, device=device), own], dim=1)


AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, pattern_of_a_prompt)
