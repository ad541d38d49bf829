"""The frozen language model (paper section 3.2): any Hugging Face causal LM, with prefix sharing.

Only what the loss needs is computed: hidden states are gathered at the answer positions before the head, the
last block's MLP runs at those rows only, and no weight takes a gradient. At load, two images with two
questions each are compared with Hugging Face's own forward, one question at a time. If prefix sharing does
not pass, each question is a prompt of its own; if that does not pass either, the model is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from cachegen.common.errors import ModelError, is_fault
from cachegen.common.hub import first_line
from cachegen.common.rng import stream_seed
from engine.lm.check import NotFiniteError, check
from engine.lm.loading import load_model
from engine.lm.prefix_sharing import IMPLEMENTATION, Layout, packed_as

Way = Literal["shared", "unshared", "single"]
# Sizes in configurations of LMs whose attention picks tokens, or blocks of them, by rank.
RANKED = ("index_topk", "index_topk_blocks", "keep_window_size", "token_budget")
LOGITS_AT_ONCE = 2**25  # values: 128 MB in float32
RMS_BLOCK = 2**26  # values: 256 MB in float32; smaller tables are one block


@dataclass
class FrozenLM:
    """A causal LM that answers packed rows; made by `load_lm` or `FrozenLM.wrap`.

    `decoder`: the part of `model` from embeddings to final hidden states. `width`: D, the size of its embeddings;
    `embedding_rms`: root mean square of its input embeddings. `way`: "shared", one pass per row in which all questions
    read their image's prefix; or else, with the `reason` why it is not shared, "unshared": Hugging Face's own forward,
    one prompt per question, as a batch padded at the end; "single": one after the other. `compiled`: see
    `compile_layers`; `not_compiled`: why it is not, or not any more.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    decoder: Any
    width: int
    embedding_rms: float
    own_attention: Any
    way: Way = "shared"
    reason: str = ""
    prunes: bool = False
    compiled: bool = False
    not_compiled: str = ""
    _plain_head: bool = True
    _answer_rows: torch.Tensor | None = None
    _row_length: int = 0
    _watched: list[torch.Tensor] | None = None

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, device: torch.device, sharing: str = "auto") -> "FrozenLM":
        """Freeze `model` and take the first way of computing answers that passes the check at load.

        With `sharing = "never"` the shared one is not tried. Raises `ModelError` if no way passes.
        """
        name = type(model).__name__
        if model.get_output_embeddings() is None:
            raise ModelError(f"{name} has no output head to read answers from; choose another LM")
        if device.type == "cuda":
            torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape, and steps differ in theirs
        model = model.to(device).eval().requires_grad_(False)
        embeddings, decoder = model.get_input_embeddings(), _decoder(model)
        width, own_attention = embeddings.weight.shape[1], _attention(model.config)
        lm = cls(model, tokenizer, device, decoder, width, _root_mean_square(embeddings), own_attention)
        lm._plain_head = lm._applies_nothing_after_head()
        reasons = ["lm_sharing = never"] if sharing == "never" else []
        can_prune = lm._prune_last_block()
        tries: list[tuple[Way, bool]] = [("shared", True), ("shared", False)] if can_prune else [("shared", False)]
        for way, prunes in [*(tries if sharing == "auto" else []), ("unshared", False), ("single", False)]:
            if problem := (way != "single" and lm._by_rank()) or lm._problem(way, prunes):
                reasons.append(problem)
                continue
            lm.reason = "" if way == "shared" else reasons[len(tries) - 1 if sharing == "auto" else 0]
            return lm
        if problem := lm._own_problem():
            raise ModelError(
                f"{name} cannot read images: its own forward fails on embeddings instead of tokens, or gives them "
                f"no gradient ({problem}); choose another LM"
            )
        raise ModelError(f"{name} does not run here: {reasons[-1]}; choose another LM")

    def _by_rank(self) -> str:
        """Why prompts cannot be computed side by side if attention picks the tokens that rank highest; else empty.

        Which of two nearly equal tokens is picked hangs on the last bit, and so on the shape of a batch. Short prompts
        of the check at load may not show it.
        """
        named = [name for name in RANKED if getattr(self.decoder.config, name, None) is not None]
        return f"it attends to the tokens that rank highest ({named[0]})" if named else ""

    def _problem(self, way: Way, prunes: bool) -> str:
        """Take this way, and say what the check at load finds wrong with it; empty if nothing."""
        try:
            self._take(way, prunes)
            check(self)
        except (torch.OutOfMemoryError, NotFiniteError):
            raise  # no fault of the way
        except Exception as error:  # any family's code, called as it may not expect: any type
            if not is_fault(error):
                raise
            own = isinstance(error, ModelError)
            return first_line(error) if own else f"its own layers fail on several prompts at once ({first_line(error)})"
        return ""

    def _own_problem(self) -> str:
        """Why the model's own forward cannot take embeddings and give their gradient; empty if it can."""
        ids = torch.zeros(9, dtype=torch.long, device=self.device)
        try:
            with torch.enable_grad():
                self.plain_logits(self.embed(ids).detach().requires_grad_() * 1, ids).sum().backward()
        except Exception as error:  # any family's code
            return first_line(error)
        return ""

    @property
    def described(self) -> str:
        """How answers are computed, and why, in words."""
        if self.way == "shared":
            return "questions about an image share its prefix"
        alone = ", one after the other" if self.way == "single" else ""
        return f"every question is a prompt of its own{alone}, which takes longer ({self.reason})"

    @property
    def reads_tokens(self) -> bool:
        """Whether it embeds tokens in every layer anew, so that `answer_states` needs them."""
        return bool(getattr(self.decoder.config, "hidden_size_per_layer_input", None))

    @property
    def rows(self) -> int:
        """Number of tokens that it embeds; a tokenizer may have more, which no prompt can use."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(...,) token ids -> (..., D) input embeddings."""
        return self.model.get_input_embeddings()(ids)

    def answer_states(
        self,
        row_TD: torch.Tensor,
        layout: Layout,
        answer_rows_Q: torch.Tensor,
        ids_T: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Final hidden states (Q, D), after the last norm, where the answers of a packed row are predicted.

        `ids_T`: the row's tokens, -1 for an image's, for families that embed tokens in every layer anew.
        """
        if self.way != "shared":
            return self._states_of_prompts(row_TD, layout, answer_rows_Q, ids_T)
        if self.prunes:
            self._answer_rows, self._row_length = answer_rows_Q, len(row_TD)
        row_1TD = row_TD[None]
        if self.compiled:
            row_1TD = row_1TD.clone()  # a view would be another case, for which the first layer is compiled once more
        layers = None
        try:
            with packed_as(layout):
                layers = self._layers(
                    inputs_embeds=row_1TD,
                    position_ids=layout.position_ids(self.device),
                    # Without one, transformers takes positions that start again for texts packed its own way.
                    attention_mask=torch.ones(1, len(row_TD), dtype=torch.bool, device=self.device),
                    **self._per_layer(ids_T, row_TD),
                )
        except Exception as error:
            if not self.falls_back(error):
                raise
        finally:
            self._answer_rows = None
        if layers is None:  # here, where the error holds no memory
            return self.answer_states(row_TD, layout, answer_rows_Q, ids_T)
        return self._read([states[0].index_select(0, answer_rows_Q) for states in layers])

    def _states_of_prompts(
        self, row_TD: torch.Tensor, layout: Layout, answer_rows_Q: torch.Tensor, ids_T: torch.Tensor | None
    ) -> torch.Tensor:
        """`answer_states` of Q prompts (P + S tokens each) side by side; one that sees no later token needs no mask."""
        tokens_QL = layout.prompts(self.device)
        answers, border = answer_rows_Q - layout.images * layout.prefix, layout.prefix
        question, place = answers // layout.suffix, border + answers % layout.suffix

        def layers(tokens: torch.Tensor) -> list[torch.Tensor]:
            given = {} if ids_T is None else self._per_layer(ids_T[tokens], row_TD)
            return self._layers(inputs_embeds=row_TD[tokens], **given)

        if self.way == "unshared":
            return self._read([states[question, place] for states in layers(tokens_QL)])
        pairs = zip(question.tolist(), place.tolist(), strict=True)
        alone = [[states[:, -1] for states in layers(tokens_QL[None, q, : end + 1])] for q, end in pairs]
        return self._read([torch.cat(states) for states in zip(*alone, strict=True)])

    @contextmanager
    def watched(self) -> Iterator[list[torch.Tensor]]:
        """Inside, each call of `answer_states` adds (L + 1, Q, D): the states at its places in every layer.

        They are Hugging Face's `output_hidden_states`: the embeddings first, the last ones after the last norm.
        """
        self._watched = []
        try:
            yield self._watched
        finally:
            self._watched = None

    def _layers(self, **given: Any) -> list[torch.Tensor]:
        """What the decoder gives, (B, T, D): its final states; before them, while `watched`, those of each layer."""
        more = {} if self._watched is None else {"output_hidden_states": True}
        output = self.decoder(use_cache=False, **given, **more)
        return [*(output.hidden_states[:-1] if more else ()), output.last_hidden_state]

    def _read(self, layers: list[torch.Tensor]) -> torch.Tensor:
        """The last of these states (Q, D); all of them go to whoever watches."""
        if self._watched is not None:
            self._watched.append(torch.stack(layers))
        return layers[-1]

    def plain_logits(self, prompt_TD: torch.Tensor, ids_T: torch.Tensor) -> torch.Tensor:
        """(V,) float32 logits after a prompt, by the model's own forward."""
        given = self._per_layer(ids_T, prompt_TD)
        with self.plain() as model:
            return model(inputs_embeds=prompt_TD[None], use_cache=False, **given).logits[0, -1].float()

    def plain_layers(self, prompts_BTD: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
        """(L + 1, B, T, D): the states of prompts of one length in every layer, as `watched`, by its own forward."""
        given = self._per_layer(ids_BT, prompts_BTD)
        with self.plain(), self.watched():
            return torch.stack(self._layers(inputs_embeds=prompts_BTD, **given))

    def _per_layer(self, ids: torch.Tensor | None, row_TD: torch.Tensor) -> dict[str, torch.Tensor]:
        """Arguments of families that embed tokens in every layer: an image's patches count as padding, as in theirs."""
        if ids is None or not self.reads_tokens:
            return {}
        ids = ids[None] if ids.dim() == 1 else ids
        known = ids.where(ids >= 0, getattr(self.decoder.config, "pad_token_id", None) or 0)
        of = self.decoder.get_per_layer_inputs
        more = (None,) if "inputs_embeds" in signature(of).parameters else ()  # Gemma 4: without them, from the tokens
        return {"per_layer_inputs": of(known, *more).to(row_TD.dtype)}

    def vocabulary_logits(self, states_QD: torch.Tensor) -> torch.Tensor:
        """(Q, V) logits over the whole vocabulary, float32, from the head in its own dtype."""
        if self._plain_head:
            return self.model.get_output_embeddings()(states_QD).float()
        return self._own_logits(states_QD).float()

    def log_probabilities(self, states_ND: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        """(N,) float32 log-probability of each target token; logits are in memory for a block of rows at a time."""
        block = max(1, LOGITS_AT_ONCE // self.rows)
        found = [
            torch.log_softmax(self.vocabulary_logits(states), dim=-1).gather(1, target[:, None])[:, 0]
            for states, target in zip(states_ND.split(block), target_N.split(block), strict=True)
        ]
        return torch.cat(found)

    def answer_logits(self, states_QD: torch.Tensor, yes: int, no: int) -> torch.Tensor:
        """(Q, 2) logits of yes and no from the head's two rows in float32: bf16 logits near 20 step by 0.125."""
        head = self.model.get_output_embeddings()

        def rows(values: torch.Tensor) -> torch.Tensor:
            return torch.stack([values[yes], values[no]]).float()  # a list as index would make a GPU wait

        def two(states: torch.Tensor) -> torch.Tensor:
            bias = None if getattr(head, "bias", None) is None else rows(head.bias)
            return nn.functional.linear(states.float(), rows(head.weight), bias)

        if self._plain_head:
            return two(states_QD)
        with _instead(head, two):
            return self._own_logits(states_QD)

    def _own_logits(self, states_QD: torch.Tensor) -> torch.Tensor:
        """(Q, V) logits as the model makes them of final hidden states: with its scale, soft cap and the like."""
        states = states_QD[None]
        with _instead(self.decoder, lambda *_, **__: _Given(last_hidden_state=states)):
            return self.model(inputs_embeds=states, use_cache=False).logits[0]

    @torch.no_grad()
    def _applies_nothing_after_head(self) -> bool:
        """Whether logits are what the head gives. If it cannot be asked, the check at load will tell."""
        rng = torch.Generator().manual_seed(stream_seed(0, "head"))
        head = self.model.get_output_embeddings()
        width = getattr(self.decoder.config, "hidden_size", head.weight.shape[1])
        states = torch.randn(3, width, generator=rng).to(self.device, head.weight.dtype)
        try:
            own = self._own_logits(states)
        except Exception:  # any family's code
            return True
        return width == head.weight.shape[1] and torch.equal(own, head(states))

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> str:
        """Compile all blocks but the last, for rows of any length; returns why they are not, or empty.

        A block is one graph, attention included, in which the sizes of the row are variables. It is compiled once for
        all blocks that are alike, with gradients and without, and again for a row of one image. The last block, whose
        MLP sees other rows, is left as it is. What does not pass the check at load is not kept. A row that cannot be
        compiled later is computed as it was before, and so are all rows after it (see `falls_back`).
        """
        if self.compiled or self.way != "shared" or len(self._blocks()) < 2:
            return "" if self.compiled else self.reason or "its blocks are not found"
        from torch._functorch import config as functorch_config  # takes seconds

        self.compiled, self.not_compiled = True, ""
        for block in self._blocks()[:-1]:
            block.compile(dynamic=True, fullgraph=True, backend=backend)  # or else parts run as they are, unseen
        problem = "memory was short"
        try:
            with functorch_config.patch(donated_buffer=False):  # the check reads gradients of one pass several times
                problem = self._problem(self.way, self.prunes)
        finally:
            torch.compiler.reset()  # what was compiled for the check or for another LM counts in a limit
            if problem:
                self._give_up_compiling(problem)
        return self.not_compiled

    def falls_back(self, error: Exception) -> bool:
        """Whether a row that failed is to be computed again, by layers that are not compiled any more.

        What dynamo, inductor or their kernels raise for a row of a new kind can have any type.
        """
        if not self.compiled or isinstance(error, torch.OutOfMemoryError):
            return False
        self._give_up_compiling(first_line(error))
        return True

    def _give_up_compiling(self, why: str) -> None:
        self.compiled, self.not_compiled = False, why
        for block in self._blocks():
            block._compiled_call_impl = None

    def _blocks(self) -> list[nn.Module]:
        """The decoder's blocks; empty where they are not found."""
        depth = getattr(self.decoder.config, "num_hidden_layers", None)
        stacks = [m for m in self.decoder.children() if isinstance(m, nn.ModuleList) and len(m) == depth]
        return list(stacks[0]) if len(stacks) == 1 else []

    def _prune_last_block(self) -> bool:
        """Let the last block's MLP see the answer rows only, while `prunes`; its output elsewhere is never read.

        False for a decoder whose blocks are not found, or have no `mlp`.
        """
        mlp = getattr(self._blocks()[-1], "mlp", None) if self._blocks() else None
        if not isinstance(mlp, nn.Module):
            return False

        def select(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            return None if self._answer_rows is None else (inputs[0].index_select(1, self._answer_rows),)

        def spread(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if self._answer_rows is None:
                return None
            full = output.new_zeros(1, self._row_length, output.shape[-1])
            return full.index_copy(1, self._answer_rows, output)

        mlp.register_forward_pre_hook(select)
        mlp.register_forward_hook(spread)
        return True

    def _take(self, way: Way, prunes: bool) -> None:
        """Compute answers this way from now on."""
        self.way, self.prunes = way, prunes
        self.model.set_attn_implementation(IMPLEMENTATION if way == "shared" else self.own_attention)
        if way == "shared" and self.decoder.config._attn_implementation != IMPLEMENTATION:
            raise ModelError("it has an attention of its own")

    @contextmanager
    def plain(self) -> Iterator[Any]:
        """The model with Hugging Face's own attention, for reference computations."""
        if self.way == "shared":
            self.model.set_attn_implementation(self.own_attention)
        try:
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                yield self.model
        finally:
            if self.way == "shared":
                self.model.set_attn_implementation(IMPLEMENTATION)


def _attention(config: Any) -> str | dict[str, Any]:
    """The attention of a model, and of its parts if they are several, as `set_attn_implementation` takes it."""
    parts = {name: part for name in config.sub_configs if (part := getattr(config, name, None)) is not None}
    own = config._attn_implementation
    if own in (None, IMPLEMENTATION):  # wrapped before: what it had then is not known
        own = "eager"
    if own == "sdpa" and getattr(config, "attn_logit_softcapping", None):  # some versions of transformers let it
        own = "eager"  # leave out the caps
    return {"": own, **{name: _attention(part) for name, part in parts.items()}} if parts else own


class _Given(BaseModelOutputWithPast):
    """Output of a decoder; what a model of several parts looks for beside hidden states is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@torch.no_grad()
def _decoder(model: Any) -> Any:
    """The part of a model from embeddings to final hidden states: the innermost one that its forward calls."""
    called: list[Any] = []
    inner = [part for part in model.modules() if isinstance(part, PreTrainedModel) and part is not model]
    hooks = [part.register_forward_pre_hook(lambda part, _: called.append(part)) for part in inner]
    try:
        embeddings = model.get_input_embeddings()
        model(inputs_embeds=embeddings(torch.zeros(1, 2, dtype=torch.long, device=model.device)), use_cache=False)
    except Exception:  # of any family's making; the check at load calls it again, and says what is wrong
        return model.get_decoder()
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called else model.get_decoder()


@contextmanager
def _instead(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module` computes `forward` inside."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def load_lm(
    folder: Path, lm_init: str, lm_seed: int, dtype: str, device: torch.device, sharing: str = "auto"
) -> FrozenLM:
    """`load_model`, frozen on its device and ready for packed rows."""
    model, tokenizer = load_model(folder, lm_init, lm_seed, dtype)
    return FrozenLM.wrap(model, tokenizer, device, sharing)


@torch.no_grad()
def _root_mean_square(embeddings: Any) -> float:
    """Over the embeddings of all tokens, as the model gives them (Gemma scales its table).

    In float32 over blocks of the vocabulary: a float32 copy of an 8B's whole table would take 2.5 GB.
    """
    rows, width = embeddings.weight.shape
    ids = torch.arange(rows, device=embeddings.weight.device).split(max(1, RMS_BLOCK // width))
    means = torch.stack([embeddings(block).float().square().mean() for block in ids])
    shares = torch.tensor([len(block) / rows for block in ids], device=means.device)
    return (means * shares).sum().sqrt().item()
