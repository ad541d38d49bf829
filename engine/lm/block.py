"""Decoder blocks of Llama's form (Qwen, Mistral, ...) on a CPU, with fewer passes over memory than Hugging Face's own.

A block starts some 170 small operations there, forward and backward. Here it is two functions with the attention
between them: no weight takes a gradient, gradients are summed in place, and the last block goes on at the answers only.
Operations and their order are those of autograd, so results are the same bit for bit.

Shape letters: T tokens of the row, R answers, D model width, H heads (of queries, or of keys and values), E head width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.lm.prefix_sharing import shared_prefix_attention

Answers = Callable[[], tuple[torch.Tensor | None, int]]
FEW = 16  # products of three rows or fewer sum in another order than those of many


def fuse(blocks: Sequence[Any], answers: Answers, compute: Callable[[], Sequence[torch.Tensor]]) -> None:
    """Let `blocks` compute rows in float32 this way, if that leaves every bit of what `compute` gives.

    `answers`: the R places in the present row that are read of the last block, if not all, and the number of the row's
    tokens before the first text. Of R places, a fused last block gives (1, R, D) instead of (1, T, D).
    """
    own = compute()
    for block in blocks:
        block.forward = _forward(block, answers if block is blocks[-1] else lambda: (None, 0))
    try:
        same = all(map(torch.equal, own, compute()))
    except Exception:  # a block of another form: of any family's making
        same = False
    if not same:
        unfuse(blocks)


def unfuse(blocks: Sequence[Any]) -> dict[Any, Any]:
    """Give `blocks` their own forward again; returns what has been taken off each."""
    return {block: block.__dict__.pop("forward") for block in blocks if "forward" in block.__dict__}


def _forward(block: Any, answers: Answers) -> Callable[..., torch.Tensor]:
    own = block.forward

    def forward(x: torch.Tensor, **given: Any) -> torch.Tensor:
        rows, border = answers()
        border = 0 if rows is None else border
        if x.device.type != "cpu" or x.dtype != torch.float32 or (rows is not None and len(rows) < FEW):
            return own(x, **given)
        cos, sin = (each[0, :, None] for each in given["position_embeddings"])
        query, key, value, residual = _Heads.apply(x.squeeze(0), cos, sin, block, border)
        mask, scale = given.get("attention_mask"), block.self_attn.scaling
        query, key, value = (each.transpose(0, 1).unsqueeze(0) for each in (query, key, value))
        out, _ = shared_prefix_attention(
            block.self_attn, query, key, value, mask, scaling=scale, suffixes_only=border > 0
        )
        out = out.squeeze(0).flatten(1)
        if rows is not None:
            out, residual = out.index_select(0, rows), residual.index_select(0, rows)
        made: torch.Tensor = _Rest.apply(out, residual, block)
        return made.unsqueeze(0)

    return forward


class _Heads(torch.autograd.Function):
    """x (T, D) -> query, key (turned by their positions) and value (T, H, E), and x again, for the residual.

    Queries of tokens before `start` are zero.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, block: Any, start: int
    ) -> tuple[Any, ...]:
        attention = block.self_attn
        normed, root = _norm(x, block.input_layernorm)
        saved, made = [x, root, cos, sin], []
        for part, norm, first in _turned(attention, start):
            heads = _linear(normed[first:], part).unflatten(-1, (-1, attention.head_dim))
            if norm is not None:
                before = heads
                heads, own_root = _norm(heads, norm)
                saved += [before, own_root]
            made.append(_turn(heads, cos[first:], sin[first:]))
        ctx.save_for_backward(*saved)
        ctx.block, ctx.start = block, start
        if start:
            made[0] = torch.cat([made[0].new_zeros(start, *made[0].shape[1:]), made[0]])
        return *made, _linear(normed, attention.v_proj).unflatten(-1, (-1, attention.head_dim)), x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, root, cos, sin, *of_norms = ctx.saved_tensors
        attention, (query, key, value, total) = ctx.block.self_attn, grads
        summed = value.flatten(1) @ attention.v_proj.weight
        for turned, (part, norm, first) in reversed([*zip((query, key), _turned(attention, ctx.start), strict=True)]):
            grad = _turn_back(turned[first:], cos[first:], sin[first:])
            if norm is not None:
                own_root, heads = of_norms.pop(), of_norms.pop()
                grad = _norm_backward(None, grad.mul_(norm.weight), heads, own_root)
            summed[first:] += grad.flatten(1) @ part.weight
        summed.mul_(ctx.block.input_layernorm.weight)
        return _norm_backward(total.clone(), summed, x, root), None, None, None, None


class _Rest(torch.autograd.Function):
    """Heads' outputs (R, H E) and x (R, D) -> what the block gives (R, D)."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, x: torch.Tensor, block: Any) -> torch.Tensor:
        mlp = block.mlp
        x = _linear(out, block.self_attn.o_proj).add_(x)
        normed, root = _norm(x, block.post_attention_layernorm)
        gate, up = _linear(normed, mlp.gate_proj), _linear(normed, mlp.up_proj)
        open_gate = functional.silu(gate)
        ctx.save_for_backward(x, root, gate, up, open_gate)
        ctx.block = block
        return _linear(open_gate * up, mlp.down_proj).add_(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, root, gate, up, open_gate = ctx.saved_tensors
        block, (total,) = ctx.block, grads
        grad = total @ block.mlp.down_proj.weight
        to_up = (grad * open_gate) @ block.mlp.up_proj.weight
        to_gate = torch.ops.aten.silu_backward(grad.mul_(up), gate) @ block.mlp.gate_proj.weight
        grad = to_gate.add_(to_up).mul_(block.post_attention_layernorm.weight)
        total = _norm_backward(total.clone(), grad, x, root)
        return total @ block.self_attn.o_proj.weight, total, None


def _turned(attention: Any, start: int) -> list[tuple[nn.Linear, Any, int]]:
    """What makes queries and keys: products, norms, and the first token of each."""
    query, key = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))  # which Qwen3 has
    return [(attention.q_proj, query, start), (attention.k_proj, key, 0)]


def _linear(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    return functional.linear(x, layer.weight, layer.bias)


def _norm(x: torch.Tensor, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm of (..., D), and the factors (..., 1) before its weights."""
    root = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return (x * root).mul_(norm.weight), root


def _norm_backward(total: torch.Tensor | None, grad: torch.Tensor, x: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Add the gradient at the norm's input x to `total`; `grad` is that behind the root. Both are written over."""
    through_root = (grad * x).sum(-1, keepdim=True).mul_(-0.5).mul_(root.pow(3)).div_(x.shape[-1] / 2)
    total = grad.mul_(root) if total is None else total.add_(grad.mul_(root))
    return total.add_(x * through_root)


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (T, H, E): x cos + (-second half, first half) sin."""
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half] -= x[..., half:] * sin[..., :half]  # `addcmul` would round once only
    turned[..., half:] += x[..., :half] * sin[..., half:]
    return turned


def _turn_back(grad: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = grad.shape[-1] // 2
    back = grad * cos
    back[..., :half] += grad[..., half:] * sin[..., half:]
    back[..., half:] -= grad[..., :half] * sin[..., :half]
    return back
