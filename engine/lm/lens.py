"""Lenses: what the LM's states say before its last layer, and what projected patches are near to.

- Logit lens (nostalgebraist 2020): the last norm and the head, on the states of an earlier layer.
- Embedding lens: the input embeddings nearest to a patch, by cosine over the vocabulary.
- Contextual lens (LatentLens: Krojer et al. 2026, arXiv 2602.00462): the states of names inside sentences, layer by
  layer, nearest to the states of a patch. Theirs compares with single words of a large corpus; here the states of a
  name are means over a few sentences, so that all names have as many.

Shapes: L layers (0: embeddings), N vectors, W names, V vocabulary, K nearest, D width, B prompts, T tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cachegen.common.errors import ModelError
from engine.lm.language_model import FrozenLM
from engine.lm.prompts import encode, refuse_beyond, refuse_phrases

AT_ONCE = 2**24  # cosines in memory: 64 MB
TEXTS = 64  # sentences in a batch


@torch.no_grad()
def last_norm(lm: FrozenLM) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the decoder does to the states (..., D) of its last block before its head reads them: a norm, mostly.

    Raises `ModelError` for a decoder whose blocks or whose end is not found.
    """
    depth = getattr(lm.decoder.config, "num_hidden_layers", None)
    stacks = [part for part in lm.decoder.children() if isinstance(part, nn.ModuleList) and len(part) == depth]
    called: list[tuple[nn.Module, Any]] = []
    parts = [part for part in lm.decoder.children() if not isinstance(part, nn.ModuleList)]
    parts += [block for stack in stacks for block in stack]
    hooks = [part.register_forward_hook(lambda part, _, output: called.append((part, output))) for part in parts]
    ids = torch.arange(3, device=lm.device)[None]
    try:
        final = lm.plain_layers(lm.embed(ids), ids)[-1]
    finally:
        for hook in hooks:
            hook.remove()
    blocks = [place for place, (part, _) in enumerate(called) if any(part is block for s in stacks for block in s)]
    after = [part for part, _ in called[blocks[-1] + 1 :]] if blocks else []

    def finish(states: torch.Tensor) -> torch.Tensor:
        for part in after:
            states = part(states)
        return states

    if blocks:
        output = called[blocks[-1]][1]
        states = output[0] if isinstance(output, tuple) else output
        if states.shape[:-1] == final.shape[:-1] and torch.allclose(finish(states), final, rtol=1e-4, atol=1e-5):
            return finish
    raise ModelError(
        f"{type(lm.model).__name__}: what its decoder does after the last layer is not found, so its layers cannot be "
        "read; the lens needs another LM"
    )


@torch.no_grad()
def nearest_tokens(lm: FrozenLM, vectors_ND: torch.Tensor, count: int, known: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, cosines), (N, count) each: of the first `known` tokens those whose input embeddings are nearest."""
    vectors_ND = functional.normalize(vectors_ND.float(), dim=-1)
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    for ids in torch.arange(known, device=lm.device).split(max(count, AT_ONCE // max(len(vectors_ND), lm.width))):
        cosines = vectors_ND @ functional.normalize(lm.embed(ids).float(), dim=-1).T
        top = cosines.topk(min(count, len(ids)), dim=-1)
        found = (ids[top.indices], top.values)
        if best is not None:
            both = [torch.cat(pair, dim=-1) for pair in zip(best, found, strict=True)]
            order = both[1].topk(min(count, both[1].shape[-1]), dim=-1).indices
            found = (both[0].gather(-1, order), both[1].gather(-1, order))
        best = found
    assert best is not None
    return best[0].cpu().numpy(), best[1].cpu().numpy()


def spelt(lm: FrozenLM) -> list[str]:
    """What each token spells, without spaces around it and in small letters: "crow" of " crow", "Crow" and "crow"."""
    known = min(lm.rows, len(lm.tokenizer))
    return [text.strip().lower() for text in lm.tokenizer.batch_decode([[token] for token in range(known)])]


@torch.no_grad()
def states_of_names(lm: FrozenLM, carriers: Sequence[str], names: Sequence[tuple[str, str]]) -> torch.Tensor:
    """(L + 1, W, D) unit vectors: the states of each name's last token, layer by layer, as means over carriers.

    `names`: (phrase, noun) of each; `carriers`: sentences with {phrase} or {noun}. A mean is over unit vectors, so
    that no sentence counts more. Raises what `engine.lm.prompts` raises.
    """
    texts, ends = [], []
    for carrier in carriers:
        before = carrier.partition("{phrase}" if "{phrase}" in carrier else "{noun}")[0]
        for phrase, noun in names:
            texts.append(carrier.replace("{phrase}", phrase).replace("{noun}", noun))
            ends.append(len(before) + len(phrase if "{phrase}" in carrier else noun))
    refuse_phrases(lm.tokenizer, texts)
    encoded = encode(lm.tokenizer, texts, return_offsets_mapping=True)
    ids: list[list[int]] = encoded["input_ids"]
    refuse_beyond(lm.tokenizer, lm.rows, ids)
    # The first token that reaches the name's end: what comes later in the sentence it cannot see.
    last = [
        next(place for place, (_, stop) in enumerate(offsets) if stop >= end)
        for offsets, end in zip(encoded["offset_mapping"], ends, strict=True)
    ]
    found = []
    size = 1 if lm.way == "single" else TEXTS
    for first in range(0, len(ids), size):
        part = ids[first : first + size]
        ids_BT = torch.zeros(len(part), max(map(len, part)), dtype=torch.long, device=lm.device)
        for row, own in enumerate(part):
            ids_BT[row, : len(own)] = torch.tensor(own, device=lm.device)
        layers_LBTD = lm.plain_layers(lm.embed(ids_BT), ids_BT)
        rows = torch.arange(len(part), device=lm.device)
        found.append(layers_LBTD[:, rows, torch.tensor(last[first : first + size], device=lm.device)].float())
    states_LXD = functional.normalize(torch.cat(found, dim=1), dim=-1)
    means_LWD = states_LXD.unflatten(1, (len(carriers), len(names))).mean(dim=1)
    return functional.normalize(means_LWD, dim=-1)


@torch.no_grad()
def nearness(states_ND: torch.Tensor, names_LWD: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, W) cosine of each state with each name at the layer where it is nearest, and (N, W) that layer."""
    states_ND = functional.normalize(states_ND.float(), dim=-1)
    found = []
    for part in states_ND.split(max(1, AT_ONCE // names_LWD[..., 0].numel())):
        found.append(torch.einsum("nd,lwd->nlw", part, names_LWD).max(dim=1))
    values, layers = (torch.cat([part[place] for part in found]) for place in (0, 1))
    return values.cpu().numpy(), layers.cpu().numpy()
