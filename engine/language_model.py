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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from cachegen.errors import CrosstaxError, ModelError
from cachegen.files import digest_bytes, digest_file
from cachegen.hub import advice, first_line, weight_files
from cachegen.progress import quiet_transformers
from cachegen.random_init import random_init_lm
from cachegen.rng import stream_seed
from engine.prefix_sharing import IMPLEMENTATION, Layout

DOWNLOADED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
NOT_DOWNLOADED = ["*/*", "consolidated*"]  # the same weights again in other formats, up to twice the download
RMS_BLOCK = 2**26  # values: 256 MB in float32; smaller tables are one block
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model")


def resolve_lm(name: str) -> Path:
    """Local directory of an LM: `name` itself if it is a folder, else the Hugging Face snapshot of that id.

    Only what loading needs is downloaded. Raises `ModelError`, for a gated LM saying how to get access.
    """
    if not name:
        raise ModelError("LM: a name is missing; give a directory or a Hugging Face id")
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError(f"{name} has no config.json; give a directory written by save_pretrained")
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED, ignore_patterns=NOT_DOWNLOADED))
    except HFValidationError:
        raise ModelError(f"LM folder {name} does not exist; check the path, or give a Hugging Face id") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"LM {name} {advice(name, error)}") from None


def lm_digests(folder: Path, lm_init: str) -> dict[str, str]:
    """Digests of the LM (weights and configuration; for a random-init LM its configuration) and of its tokenizer."""
    weights = weight_files(folder) if lm_init == "pretrained" else []
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return {
        "lm": digest_bytes(*(digest_file(path).encode() for path in [folder / "config.json", *weights])),
        "tokenizer": digest_bytes(*(digest_file(path).encode() for path in tokenizer)),
    }


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
        model = model.to(device).eval().requires_grad_(False)
        if not model._can_set_attn_implementation():
            raise ModelError(
                f"{type(model).__name__} has an attention of its own, which cannot share an image prefix; "
                "choose another LM"
            )
        model.set_attn_implementation(IMPLEMENTATION)
        embeddings = model.get_input_embeddings()
        lm = cls(model, tokenizer, device, embeddings.weight.shape[1], _root_mean_square(embeddings), prunes=False)
        lm._prune_last_block()
        try:
            lm._self_check()
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{type(model).__name__} does not run with a shared image prefix "
                f"({first_line(error)}); choose another LM"
            ) from error
        return lm

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
        if not difference <= bound:
            raise ModelError(
                f"{name}: answers with a shared image prefix differ from Hugging Face's own by {difference:.2g} "
                f"(bound {bound:.2g}); this architecture cannot be used, choose another LM"
            )


def load_lm(folder: Path, lm_init: str, lm_seed: int, dtype: str, device: torch.device) -> FrozenLM:
    """`load_model`, frozen on its device and ready for packed rows."""
    model, tokenizer = load_model(folder, lm_init, lm_seed, dtype)
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} gives no offsets; add a tokenizer.json (a fast tokenizer)")
    return FrozenLM.wrap(model, tokenizer, device)


def load_model(folder: Path, lm_init: str, lm_seed: int, dtype: str) -> tuple[Any, Any]:
    """A plain causal LM on the CPU and its tokenizer, from a directory of `save_pretrained`.

    With `lm_init = "random"` its weights are drawn for its configuration: always in float32, so that a seed gives the
    same model in either dtype, which takes 33 GB of host memory for 8B until they are cast. Saved weights are read in
    `dtype` at once (8B in bfloat16: 16 GB).
    """
    quiet_transformers()
    precision, missing = getattr(torch, dtype), set()
    try:
        # Said everywhere: where it is left open, transformers asks the user whether to run a model's own code.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if lm_init == "random":
            model = random_init_lm(AutoConfig.from_pretrained(folder, trust_remote_code=False), lm_seed).to(precision)
        else:
            weight_files(folder)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=precision,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
            missing = set(info["missing_keys"])
    except ModelError:
        raise
    except Exception as error:  # configurations are checked nowhere: any type can come out of a damaged one
        raise ModelError(f"cannot load the LM in {folder}: {first_line(error)}; check the directory") from None
    if missing:  # transformers would have filled them with random numbers
        raise ModelError(f"the LM in {folder} lacks weights, first {sorted(missing)[0]}; download or save it again")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the LM embeds {rows}; they do not belong together"
        )
    return model, tokenizer


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


def local_lm(name: str) -> Path | None:
    """Folder of an LM that is on this machine, as a directory or in the Hugging Face cache; None if it is not.

    Raises `ModelError` for a directory that holds none.
    """
    if Path(name).expanduser().is_dir():
        return resolve_lm(str(Path(name).expanduser()))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED, local_files_only=True))
    except HFValidationError:
        raise ModelError(f"LM folder {name} does not exist; check the path, or give a Hugging Face id") from None
    except Exception:  # of many types, all of which say that it is not in the cache
        return None


def causal_config(folder: Path) -> Any:
    """Configuration of a causal LM. Raises `ModelError` for any other model."""
    quiet_transformers()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    except CrosstaxError:
        raise
    except Exception as error:  # configurations are checked nowhere: any type can come out of a damaged one
        raise ModelError(f"{folder / 'config.json'} cannot be used: {first_line(error)}; check the directory") from None
    if architecture is None:
        raise ModelError(f"{folder} is a model of type {config.model_type}, which is no causal LM; choose another LM")
    if not architecture._can_set_attn_implementation():
        raise ModelError(
            f"{architecture.__name__} in {folder} has an attention of its own, which cannot share an image prefix; "
            "choose another LM"
        )
    for name in ("num_hidden_layers", "vocab_size"):
        if type(getattr(config, name, None)) is not int or getattr(config, name) < 1:
            what = "the text-only version of it" if hasattr(config, "text_config") else "another LM"
            raise ModelError(f"{architecture.__name__} in {folder} has no {name} as a text LM has it; choose {what}")
    return config


def fast_tokenizer(folder: Path) -> Any:
    """Tokenizer of an LM. Raises `ModelError` if there is none, or one without offsets."""
    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded: {first_line(error)}; add the tokenizer's files"
        ) from None
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} gives no offsets; add a tokenizer.json (a fast tokenizer)")
    if not len(tokenizer):
        raise ModelError(f"the tokenizer in {folder} has no tokens; add the tokenizer's files (tokenizer.json)")
    return tokenizer
