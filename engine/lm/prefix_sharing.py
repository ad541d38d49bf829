"""One forward pass for all questions about an image, in any Hugging Face causal LM.

A step is packed into one row, [all prefixes | all suffixes]. Only the attention function knows about
images: it cuts the row by indexing, lets prefixes attend causally to themselves, and each suffix to its
image's prefix and to itself. Everything else in a decoder works token by token, so the result equals one
pass per question, and a NaN of one image or run cannot reach another.

Shape letters: I images, Q questions of one image, P prefix and S suffix tokens, H heads, G key/value
heads, E head width, D model width, T tokens of the row.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from cachegen.common.device import on_device
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
        counts = on_device(np.repeat([n for _, n in self.buckets], [n for n, _ in self.buckets]), device)
        image = torch.arange(self.images, device=device).repeat_interleave(counts, output_size=self.questions)
        prefix = image[:, None] * self.prefix + torch.arange(self.prefix, device=device)
        suffix = torch.arange(self.questions * self.suffix, device=device).view(-1, self.suffix)
        return torch.cat([prefix, self.images * self.prefix + suffix], dim=1)


# Biases of attention scores, by the number of an image's questions and the mask, which layers share; and those masks.
Biases = dict[tuple[int, int], tuple[torch.Tensor | None, torch.Tensor]]


class _Row(threading.local):
    """The row that this thread computes. Unlike a `ContextVar`, dynamo reads it before torch 2.14 too."""

    # Third, a tensor (images + 1, questions of each + 1) of no values, for the first bucket: sizes of tensors may
    # differ from row to row without a layer being compiled anew. Numbers of a layout may not, nor may a size of 1.
    packed: tuple[Layout, Biases | None, torch.Tensor]


_ROW = _Row()


@contextmanager
def packed_as(layout: Layout) -> Iterator[None]:
    """Inside, attention of `IMPLEMENTATION` reads rows by this layout; many families hand no arguments on to it."""
    _ROW.packed = (layout, {}, torch.empty([n + 1 for n in layout.buckets[0]], device="meta"))
    try:
        yield
    finally:
        del _ROW.packed


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
    layout = _ROW.packed[0]
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
    layout, biases, sizes = _ROW.packed
    if torch.compiler.is_compiling() and len(layout.buckets) == 1:
        layout, biases = Layout(((sizes.shape[0] - 1, sizes.shape[1] - 1),), layout.prefix, layout.suffix), None
    length = layout.prefix + layout.suffix
    unknown = sorted(name for name in set(others) - HARMLESS if others[name] is not None)
    if unknown or dropout or (attention_mask is not None and attention_mask.shape != (1, 1, length, length)):
        what = ", ".join(unknown) or ("dropout" if dropout else "a mask of its own")
        raise ModelError(f"{type(module).__name__} has {what} in attention")
    pattern = None if attention_mask is None else attention_mask[0, 0]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if softcap is None and s_aux is None and query.device.type != "cpu":
        return sdpa_attention(query, key, value, layout, scale, attention_mask, biases), None
    if softcap is None and s_aux is None and pattern is None:
        return matmul_attention(query, key, value, layout, scale), None
    return composed_attention(query, key, value, layout, scale, pattern, softcap, s_aux), None


def sdpa_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scale: float,
    mask: torch.Tensor | None = None,
    biases: Biases | None = None,
) -> torch.Tensor:
    """`matmul_attention` with PyTorch's fused kernels; `mask` (1, 1, P + S, P + S) of a prompt, `biases` of this row.

    R = H / G query heads read the same keys. Without a mask, and in 16 bits, the kernel takes that as it is. Else such
    heads stand one behind the other, as R times as many queries, so that no key is copied R times.
    """
    repeats = query.shape[1] // key.shape[1]
    counts = [images for images, _ in layout.buckets]
    # Tokens of all prefixes, and of each bucket's suffixes: cut at once, so that gradients are joined at once.
    sizes = [layout.images * layout.prefix, *(n * questions * layout.suffix for n, questions in layout.buckets)]

    def cut(x: torch.Tensor) -> list[torch.Tensor]:
        """(1, H, T, E) -> (images, H, tokens of each, E): of all prefixes, then of each bucket's suffixes."""
        parts = zip(x.squeeze(0).split(sizes, dim=1), [layout.images, *counts], strict=True)
        return [part.unflatten(1, (images, -1)).transpose(0, 1) for part, images in parts]

    def grouped(x: torch.Tensor) -> torch.Tensor:
        """(N, H, L, E) -> (N, G, R L, E)"""
        return x.unflatten(1, (-1, repeats)).flatten(2, 3)

    def in_row_order(x: torch.Tensor, heads: int = 1) -> torch.Tensor:
        """(N, G, R L, F) with R = `heads` -> (N L, G R, F)"""
        return x.unflatten(2, (heads, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)

    def bias(questions: int) -> torch.Tensor:
        """Of an image's questions; with 0 questions of its prefix."""
        if biases is not None and (known := biases.get((questions, id(mask)))) is not None:
            return known[1]
        seen = _seen(layout, questions, query.device, None if mask is None else mask.flatten(0, -2))
        made = _bias(seen, repeats, query.dtype)
        if biases is not None:
            biases[questions, id(mask)] = (mask, made)  # kept alive, so that no other mask has its id
        return made

    attend = functional.scaled_dot_product_attention
    (query_IHPE, *queries), (key_IGPE, *keys), (value_IGPF, *values) = (cut(x) for x in (query, key, value))
    if mask is None and (repeats == 1 or query.dtype.itemsize == 2):
        out = attend(query_IHPE, key_IGPE, value_IGPF, is_causal=True, scale=scale, enable_gqa=repeats > 1)
        outputs = [in_row_order(out)]
    else:
        out = attend(grouped(query_IHPE), key_IGPE, value_IGPF, attn_mask=bias(0), scale=scale)
        outputs = [in_row_order(out, repeats)]
    alone = len(counts) == 1
    of_prefixes = ([x] if alone else x.split(counts) for x in (key_IGPE, value_IGPF))
    for (_, questions), q, own_k, own_v, k, v in zip(layout.buckets, queries, keys, values, *of_prefixes, strict=True):
        # All questions of an image are one sequence of Q S queries: their prefix's keys, computed once above, are read
        # by all of them, and the bias (R Q S, P + Q S) keeps each question's own tokens from the others'.
        joint = torch.cat([k, own_k], dim=2), torch.cat([v, own_v], dim=2)
        out = attend(grouped(q), *joint, attn_mask=bias(questions), scale=scale)
        outputs.append(in_row_order(out, repeats))
    return torch.cat(outputs)[None]


def _seen(layout: Layout, questions: int, device: torch.device, pattern: torch.Tensor | None) -> torch.Tensor:
    """What the queries of an image's questions see: (Q S, P + Q S); without questions, those of its prefix: (P, P)."""
    if not questions:
        whole = torch.ones(layout.prefix, layout.prefix, dtype=torch.bool, device=device).tril()
        return whole if pattern is None else pattern[: layout.prefix, : layout.prefix]
    seen = _own_suffix_mask(questions, layout.prefix, layout.suffix, device)
    if pattern is None:
        return seen
    on_prefix, on_self = pattern[layout.prefix :].split([layout.prefix, layout.suffix], dim=1)
    return seen & torch.cat([on_prefix, on_self.repeat(1, questions)], dim=1).repeat(questions, 1)


def _own_suffix_mask(questions: int, prefix: int, suffix: int, device: torch.device) -> torch.Tensor:
    """(Q S, P + Q S) boolean: all of the prefix, and causally the own suffix only."""
    place = torch.arange(questions * suffix, device=device)
    own = (place[:, None] // suffix == place // suffix) & (place[:, None] >= place)
    return torch.cat([own.new_ones(len(own), prefix), own], dim=1)


def _bias(seen: torch.Tensor, repeats: int, dtype: torch.dtype) -> torch.Tensor:
    """(L, keys) -> (R L, keys): 0 where a key is seen, else -inf; what kernels would make of it in every layer.

    Rows begin at multiples of eight values, as kernels want them, and always have some beyond the keys: a compiled
    layer then has one case.
    """
    length, keys = seen.shape
    bias = torch.full((repeats, length, (keys // 8 + 1) * 8), -torch.inf, dtype=dtype, device=seen.device)
    return bias.flatten(0, 1)[:, :keys].masked_fill_(seen.repeat(repeats, 1), 0)


AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, pattern_of_a_prompt)
