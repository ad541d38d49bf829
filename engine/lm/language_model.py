"""The frozen language model (paper section 3.2): any Hugging Face causal LM, with prefix sharing.

Only what the loss needs is computed: hidden states are gathered at the answer positions before the head, the
last block's MLP runs at those rows only, and no weight takes a gradient. At load, two images with two
questions each are compared with Hugging Face's own forward, one question at a time; beyond the bound the
model is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cachegen.common.errors import ModelError
from cachegen.common.hub import (
    first_line,
)
from cachegen.common.rng import stream_seed
from engine.lm.loading import check_decoder, load_model
from engine.lm.prefix_sharing import IMPLEMENTATION, Layout

RMS_BLOCK = 2**26  # values: 256 MB in float32; smaller tables are one block


@dataclass
class FrozenLM:
    """A causal LM that takes packed rows; made by `load_lm` or `FrozenLM.wrap`.

    `width`: D, the size of its embeddings; `embedding_rms`: root mean square of its input embeddings.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    width: int
    embedding_rms: float
    prunes: bool
    _answer_rows: torch.Tensor | None = None
    _row_length: int = 0

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, device: torch.device) -> "FrozenLM":
        """Freeze `model`, install prefix sharing and pruning, and check both against the plain forward."""
        check_decoder(model.config)
        model = model.to(device).eval().requires_grad_(False)
        model.set_attn_implementation(IMPLEMENTATION)
        try:
            embeddings = model.get_input_embeddings()
            lm = cls(model, tokenizer, device, embeddings.weight.shape[1], _root_mean_square(embeddings), prunes=False)
            lm._prune_last_block()
            lm._self_check()
        except torch.OutOfMemoryError:
            raise  # no fault of the architecture
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{type(model).__name__} does not run with a shared image prefix "
                f"({first_line(error)}); choose another LM"
            ) from error
        return lm

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

    def answer_states(self, row_TD: torch.Tensor, layout: Layout, answer_rows_Q: torch.Tensor) -> torch.Tensor:
        """Final hidden states (Q, D), after the last norm, where the answers of a packed row are predicted."""
        self._answer_rows, self._row_length = answer_rows_Q, len(row_TD)
        try:
            output = self.model.base_model(
                inputs_embeds=row_TD[None],
                position_ids=layout.position_ids(self.device),
                use_cache=False,
                layout=layout,
            )
        finally:
            self._answer_rows = None
        return output.last_hidden_state[0].index_select(0, answer_rows_Q)

    def vocabulary_logits(self, states_QD: torch.Tensor) -> torch.Tensor:
        """(Q, V) logits over the whole vocabulary, float32, from the head in its own dtype."""
        return self.model.get_output_embeddings()(states_QD).float()

    def answer_logits(self, states_QD: torch.Tensor, yes: int, no: int) -> torch.Tensor:
        """(Q, 2) logits of yes and no from the head's two rows in float32: bf16 logits near 20 step by 0.125."""
        head = self.model.get_output_embeddings()

        def rows(values: torch.Tensor) -> torch.Tensor:
            return torch.stack([values[yes], values[no]]).float()  # a list as index would make a GPU wait

        bias = None if head.bias is None else rows(head.bias)
        return nn.functional.linear(states_QD.float(), rows(head.weight), bias)

    def _prune_last_block(self) -> None:
        """Let the last block's MLP see the answer rows only; its output elsewhere is never read.

        A decoder whose blocks are not found, or have no `mlp`, runs unpruned (`prunes` stays False).
        """
        depth = self.model.config.num_hidden_layers
        stacks = [m for m in self.model.base_model.children() if isinstance(m, nn.ModuleList) and len(m) == depth]
        mlp = getattr(stacks[0][-1], "mlp", None) if len(stacks) == 1 else None
        if not isinstance(mlp, nn.Module):
            return

        def select(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
            return None if self._answer_rows is None else (inputs[0].index_select(1, self._answer_rows),)

        def spread(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if self._answer_rows is None:
                return None
            full = output.new_zeros(1, self._row_length, output.shape[-1])
            return full.index_copy(1, self._answer_rows, output)

        mlp.register_forward_pre_hook(select)
        mlp.register_forward_hook(spread)
        self.prunes = True

    @contextmanager
    def plain(self) -> Iterator[Any]:
        """The model with Hugging Face's own attention, for reference computations."""
        self.model.set_attn_implementation("sdpa")
        try:
            yield self.model
        finally:
            self.model.set_attn_implementation(IMPLEMENTATION)

    @torch.no_grad()
    def _self_check(self) -> None:
        """Compare two images x two questions of different length with one plain pass each; refuse beyond the bound."""
        rng = torch.Generator().manual_seed(stream_seed(0, "self-check"))
        layout = Layout(buckets=((2, 2),), prefix=5, suffix=4)
        ids_QS = torch.randint(0, self.model.config.vocab_size, (4, 4), generator=rng).to(self.device)
        lengths_Q = torch.tensor([4, 3, 2, 4], device=self.device)
        images_IPD = (torch.randn(2, 5, self.width, generator=rng) * self.embedding_rms).to(self.device, self.dtype)
        row_TD = torch.cat([images_IPD.flatten(0, 1), self.embed(ids_QS).flatten(0, 1)])
        name = type(self.model).__name__
        shared = self.vocabulary_logits(self.answer_states(row_TD, layout, layout.answer_rows(lengths_Q)))
        with self.plain() as model:
            rows = [
                torch.cat([images_IPD[q // 2], self.embed(ids_QS[q, : lengths_Q[q]])])[None] for q in range(len(ids_QS))
            ]
            plain = torch.stack([model(inputs_embeds=row, use_cache=False).logits[0, -1].float() for row in rows])
        # Half of the dtype's digits: rounding stays far below, a wrong mask or position far above.
        bound = torch.finfo(self.dtype).eps ** 0.5 * plain.abs().max().item()
        difference = (shared - plain).abs().max().item()
        if not plain.isfinite().all():
            bad = [each for each, values in self.model.named_parameters() if not values.isfinite().all()]
            what = f"weights that are not finite, first {bad[0]}" if bad else "answers that are not finite"
            raise ModelError(
                f"the LM ({name}) has {what}, in {str(self.dtype)[6:]} and with Hugging Face's own attention too; save "
                "or download it again" + ("" if self.dtype is torch.float32 else ', or take dtype = "float32"')
            )
        if not difference <= bound:
            raise ModelError(
                f"{name}: answers with a shared image prefix differ from Hugging Face's own by {difference:.2g} "
                f"(bound {bound:.2g}); this architecture cannot be used, choose another LM"
            )


def load_lm(folder: Path, lm_init: str, lm_seed: int, dtype: str, device: torch.device) -> FrozenLM:
    """`load_model`, frozen on its device and ready for packed rows."""
    model, tokenizer = load_model(folder, lm_init, lm_seed, dtype)
    return FrozenLM.wrap(model, tokenizer, device)


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
