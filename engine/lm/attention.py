"""Attention of a packed row as plain matrix products, which is fastest on CPUs.

PyTorch's `scaled_dot_product_attention` works in small blocks there, and without AMX it multiplies bfloat16 matrices
at a fraction of the speed of a large product. Here one product covers all query heads of a key head, and gradients are
written into place, so that cutting the row into images costs no sums over zeros.

A product of bfloat16 matrices is summed in float32 but rounded when it is stored. Where that would cost precision,
the number that is subtracted next is subtracted *inside* the product, as a further column: the row's maximum from
the scores, so that rounding is small where the softmax is large, and the common part from the gradient of the
probabilities. Errors stay near those of `scaled_dot_product_attention` (tests/test_matmul_attention.py).

Shape letters as in `engine.lm.prefix_sharing`; R = H / G query heads share a key head, N images are in a part of the
row, L is the length of its texts (P or S). Scores are (N G, Q R L, keys): key heads are batches, the rest rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch


class RowLayout(Protocol):
    """What is read of `engine.lm.prefix_sharing.Layout`."""

    @property
    def images(self) -> int: ...
    @property
    def prefix(self) -> int: ...
    @property
    def suffix(self) -> int: ...

    def spans(self) -> Iterator[tuple[slice, slice, int]]: ...


def matmul_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: RowLayout, scale: float
) -> torch.Tensor:
    """query (1, H, T, E), key (1, G, T, E) and value (1, G, T, F) of a packed row -> (1, T, H, F)."""
    out: torch.Tensor = _MatmulAttention.apply(query, key, value, layout, scale)
    return out


class _MatmulAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: RowLayout, scale: float
    ) -> torch.Tensor:
        row = [x[0].transpose(0, 1) for x in (query, key, value)]  # (T, H or G, E): a token's heads side by side
        prefixes, buckets = _parts(layout, key.shape[1])
        out = query.new_empty(*row[0].shape[:2], value.shape[-1])
        q, k, v = (prefixes.take(x) for x in row)
        share = _over_itself(q, k, prefixes, scale)  # (N G, R P, P) probabilities
        prefixes.put(out, share @ v)
        # Prefixes are done; what follows only reads their k and v, so that an image's are computed once for all its Q.
        saved = [out, q, k, v, share]
        for part in buckets:
            q, own_k, own_v = (part.take(x) for x in row)
            share = _over_prefix_and_itself(q, k[part.prefixes], own_k, part, scale)
            on_prefix, on_self = part.split(share)
            # One softmax over P + S keys, two products: all Q questions with the prefix, each with itself.
            of_prefix = on_prefix @ v[part.prefixes]
            part.put(out, of_prefix.add_((on_self @ part.inside(own_v)).view_as(of_prefix)))
            saved += [q, own_k, own_v, share]
        ctx.save_for_backward(*saved)
        ctx.parts, ctx.scale = (prefixes, buckets), scale
        return out[None]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        out, q, k, v, share, *of_buckets = ctx.saved_tensors
        prefixes, buckets = ctx.parts
        grad, scale = grads[0][0], ctx.scale
        length, heads, width = out.shape
        grad_query, grad_key = (grad.new_empty(length, n, q.shape[-1]) for n in (heads, prefixes.groups))
        grad_value = grad.new_empty(length, prefixes.groups, width)

        # Softmax backward: grad of scores = share * (grad of share - c), with grad of share = g v' and c, per query and
        # head, the sum over all keys of share * (g v'). That is g . out, so that prefix and text need not be joined.
        grad_and_common = [grad, *_common(grad, out)]
        g, *off = map(prefixes.take, grad_and_common)
        grad_scores = _product_minus(g, v, off).mul_(share)
        prefixes.put(grad_query, _product(grad_scores, k, scale))
        grad_k, grad_v = _product(grad_scores.mT, q, scale), share.mT @ g
        for number, part in enumerate(buckets):
            q, own_k, own_v, share = of_buckets[4 * number : 4 * number + 4]
            on_prefix, on_self = part.split(share)
            g, *off = map(part.take, grad_and_common)
            to_prefix = _product_minus(g, v[part.prefixes], off).mul_(on_prefix)
            to_self = _product_minus(part.inside(g), part.inside(own_v), [part.inside(x) for x in off]).mul_(on_self)
            grad_q = _product(to_prefix, k[part.prefixes], scale)
            part.put(grad_query, grad_q.add_(_product(to_self, part.inside(own_k), scale).view_as(q)))
            part.put(grad_key, _product(to_self.mT, part.inside(q), scale))
            part.put(grad_value, on_self.mT @ part.inside(g))
            # An image's prefix is read by all its questions: their gradients add up.
            grad_k[part.prefixes] += _product(to_prefix.mT, q, scale)
            grad_v[part.prefixes] += on_prefix.mT @ g
        prefixes.put(grad_key, grad_k)
        prefixes.put(grad_value, grad_v)
        return *(x.transpose(0, 1)[None] for x in (grad_query, grad_key, grad_value)), None, None


def composed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RowLayout,
    scale: float,
    pattern: torch.Tensor | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """`matmul_attention` step by step, with what few families add to it; autograd follows.

    `pattern` (P + S, P + S): which keys of a prompt a query sees, if not all before it. `softcap`: scores x become
    softcap tanh(x / softcap). `sinks` (H,): a further score of each head, which takes its share and gives nothing.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    length, border = layout.prefix + layout.suffix, layout.images * layout.prefix
    if pattern is None:
        pattern = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()

    def shares(scores: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """(N, H, ..., keys) scores -> probabilities, summed in float32 or better."""
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill(~seen, -torch.inf)
        if sinks is not None:
            sink = sinks.to(scores.dtype).view(-1, *[1] * (scores.dim() - 2))
            scores = torch.cat([scores, sink.expand(*scores.shape[:-1], 1)], dim=-1)
        found = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        return found[..., : seen.shape[-1]].to(scores.dtype)

    def prefixes(x: torch.Tensor) -> torch.Tensor:
        """(1, H, T, X) -> (I, H, P, X)"""
        return x[0, :, :border].unflatten(1, (layout.images, layout.prefix)).transpose(0, 1)

    key_IHPE, value_IHPF = prefixes(key), prefixes(value)
    on_itself = prefixes(query) @ key_IHPE.mT * scale
    out = shares(on_itself, pattern[: layout.prefix, : layout.prefix]) @ value_IHPF
    outputs = [out.transpose(1, 2).flatten(0, 1)]  # (I P, H, F): row order again
    for images, tokens, questions in layout.spans():

        def texts(x: torch.Tensor, tokens: slice = tokens, questions: int = questions) -> torch.Tensor:
            """(1, H, T, X) -> (N, H, Q, S, X)"""
            return x[0, :, tokens].unflatten(1, (-1, questions, layout.suffix)).transpose(0, 1)

        q, own_k, own_v = texts(query), texts(key), texts(value)
        on_prefix = (q.flatten(2, 3) @ key_IHPE[images].mT).view(*q.shape[:-1], -1)
        scores = torch.cat([on_prefix, q @ own_k.mT], dim=-1) * scale
        on_prefix, on_self = shares(scores, pattern[layout.prefix :]).split([layout.prefix, layout.suffix], dim=-1)
        out = (on_prefix.flatten(2, 3) @ value_IHPF[images]).view(*q.shape[:-1], -1) + on_self @ own_v
        outputs.append(out.permute(0, 2, 3, 1, 4).flatten(0, 2))
    return torch.cat(outputs)[None]


@dataclass(frozen=True)
class _Part:
    """A part of the row: `questions` texts of `length` tokens for each of some images; prefixes count as one text."""

    images: slice
    tokens: slice
    questions: int
    length: int
    groups: int

    @property
    def prefixes(self) -> slice:
        """The prefixes of these images in what `take` gives for all prefixes."""
        return slice(self.images.start * self.groups, self.images.stop * self.groups)

    def take(self, row: torch.Tensor) -> torch.Tensor:
        """(T, H or G, X) -> (N G, Q R L or Q L, X), contiguous."""
        return self._by_image(row).permute(0, 3, 1, 4, 2, 5).reshape(self._batches, -1, row.shape[-1])

    def put(self, row: torch.Tensor, values: torch.Tensor) -> None:
        """Write values, in the order of `take`, to their places in `row`."""
        there = self._by_image(row)
        images, questions, length, groups, repeats, width = there.shape
        there.copy_(values.reshape(images, groups, questions, repeats, length, width).permute(0, 2, 4, 1, 3, 5))

    def inside(self, values: torch.Tensor) -> torch.Tensor:
        """(N G, Q R L, X) -> (N G Q, R L, X): every text by itself."""
        return values.reshape(self._batches * self.questions, -1, values.shape[-1])

    def split(self, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N G, Q R L, P + L) -> of the prefix (N G, Q R L, P), of the text itself (N G Q, R L, L)."""
        on_prefix, on_self = share.split([share.shape[-1] - self.length, self.length], dim=-1)
        return on_prefix, on_self.reshape(self._batches * self.questions, -1, self.length)

    @property
    def _batches(self) -> int:
        return (self.images.stop - self.images.start) * self.groups

    def _by_image(self, row: torch.Tensor) -> torch.Tensor:
        """(T, H or G, X) -> view (N, Q, L, G, R or 1, X)"""
        shape = (self.images.stop - self.images.start, self.questions, self.length, self.groups, -1, row.shape[-1])
        return row[self.tokens].view(shape)


def _parts(layout: RowLayout, groups: int) -> tuple[_Part, list[_Part]]:
    """The prefixes, and the suffixes of each bucket."""
    prefixes = _Part(slice(0, layout.images), slice(0, layout.images * layout.prefix), 1, layout.prefix, groups)
    return prefixes, [_Part(*span, layout.suffix, groups) for span in layout.spans()]


def _over_itself(q: torch.Tensor, k: torch.Tensor, part: _Part, scale: float) -> torch.Tensor:
    """Causal attention probabilities of texts over themselves: (N G, R L, E), (N G, L, E) -> (N G, R L, L)."""
    future = _future(part.length, q.shape[1] // part.length, q.dtype)
    off = [torch.baddbmm(future, q, k.mT).amax(-1, keepdim=True)] if _rounds(q) else []
    return torch.softmax(_product_minus(q, k, off, future, scale), dim=-1)


def _over_prefix_and_itself(
    q: torch.Tensor, prefix_k: torch.Tensor, own_k: torch.Tensor, part: _Part, scale: float
) -> torch.Tensor:
    """Attention probabilities (N G, Q R S, P + S) of suffixes over their image's prefix and, causally, themselves."""
    own_q, own_k = part.inside(q), part.inside(own_k)
    future = _future(part.length, own_q.shape[1] // part.length, q.dtype)
    off: list[torch.Tensor] = []
    if _rounds(q):
        largest = torch.baddbmm(future, own_q, own_k.mT).amax(-1).view(*q.shape[:2], 1)
        off = [torch.maximum(largest, (q @ prefix_k.mT).amax(-1, keepdim=True))]
    on_self = _product_minus(own_q, own_k, [part.inside(x) for x in off], future, scale)
    on_prefix = _product_minus(q, prefix_k, off, scale=scale)
    return torch.softmax(torch.cat([on_prefix, on_self.view(*q.shape[:2], -1)], dim=-1), dim=-1)


def _product_minus(
    left: torch.Tensor,
    right: torch.Tensor,
    off: Sequence[torch.Tensor],
    add: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """scale (left @ right.mT - sum of `off`) + `add`, rounded once; each of `off` is (B, rows of left, 1)."""
    if off:
        ones = right.new_full((*right.shape[:2], len(off)), -1)
        left, right = torch.cat([left, *off], dim=-1), torch.cat([right, ones], dim=-1)
    return _product(left, right.mT, scale) if add is None else torch.baddbmm(add, left, right.mT, alpha=scale)


def _product(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """scale (left @ right), rounded once."""
    return torch.baddbmm(left.new_empty(1, 1, 1), left, right, beta=0, alpha=scale)


def _common(grad: torch.Tensor, out: torch.Tensor) -> list[torch.Tensor]:
    """What the softmax's gradient takes off every entry of a row, sum(grad out); if rounded, with its rest."""
    exact = (grad.float() * out.float()).sum(-1, keepdim=True)
    if not _rounds(grad):
        return [exact.to(grad.dtype)]
    rounded = exact.to(grad.dtype)
    return [rounded, (exact - rounded.float()).to(grad.dtype)]


def _rounds(x: torch.Tensor) -> bool:
    """Whether products in this precision are stored with fewer digits than they are summed with."""
    return x.dtype.itemsize == 2


@lru_cache(maxsize=16)
def _future(length: int, repeats: int, dtype: torch.dtype) -> torch.Tensor:
    """(repeats * length, length): -inf where a key comes after the query."""
    return torch.full((length, length), -torch.inf, dtype=dtype).triu(1).repeat(repeats, 1)
