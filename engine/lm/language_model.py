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
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from cachegen.common.device import device_memory
from cachegen.common.errors import ModelError, is_fault
from cachegen.common.files import digest_bytes, digest_file, expanded
from cachegen.common.hub import (
    advice,
    first_line,
    is_folder,
    is_there,
    looks_like_path,
    may_be_moved,
    missing,
    model_config,
    weight_files,
)
from cachegen.common.progress import quiet_transformers
from cachegen.common.random_init import random_init_lm
from cachegen.common.rng import stream_seed
from engine.lm.prefix_sharing import IMPLEMENTATION, Layout
from engine.lm.prompts import encode
from engine.lm.shape import check_sizes, lm_shape

DOWNLOADED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
NOT_DOWNLOADED = ["*/*", "consolidated*"]  # the same weights again in other formats, up to twice the download
FLOATS = ("F64", "F32", "F16", "BF16")
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json",
)  # fmt: skip
POSITIONS = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length")
RMS_BLOCK = 2**26  # values: 256 MB in float32; smaller tables are one block
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model")


def resolve_lm(name: str) -> Path:
    """Local directory of an LM: `name` itself if it is a folder, else the Hugging Face snapshot of that id.

    Only what loading needs is downloaded. Raises `ModelError`, for a gated LM saying how to get access, and for a
    folder that holds something else than a whole causal LM, as far as its small files tell (see `model_config`).
    """
    if not name.strip():
        raise ModelError("LM: a name is missing; give a directory or a Hugging Face id")
    folder = expanded(name)
    if not is_folder(folder):
        if is_there(folder) or looks_like_path(name):
            raise missing(name, "LM")
        folder = _download(name)
    config = model_config(folder)
    for part in (config, config.get("text_config") or {}):
        try:
            check_sizes(part)
        except ModelError as error:
            raise ModelError(f"{folder / 'config.json'}: {error}; download it again") from None
    _check_kind(folder, config)
    return folder


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=DOWNLOADED, ignore_patterns=NOT_DOWNLOADED))
    except HFValidationError:
        raise missing(name, "LM") from None
    except Exception as error:  # the hub and what it loads with raise a dozen unrelated types
        if may_be_moved(name, error):
            raise missing(name, "LM") from None
        raise ModelError(f"LM {name} {advice(name, error)}") from None


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    """Raise `ModelError` for a model that is no causal LM of transformers' own, saying what it is."""
    kind, classes = config.get("model_type"), config.get("architectures") or []
    if not isinstance(kind, str) or not isinstance(classes, list):
        what = "an encoder of timm" if "architecture" in config else "of no model_type that its config.json would tell"
    elif kind not in CONFIG_MAPPING_NAMES and "auto_map" in config:
        what = f"a {kind}, which needs its maker's own code (auto_map in its config.json), and that is never run"
    elif kind not in CONFIG_MAPPING_NAMES:
        what = f"a {kind}, which this version of transformers does not know"
    elif config.get("is_encoder_decoder"):
        what = f"a {kind}, an encoder and a decoder, no causal LM"
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = f"a {kind}, no causal LM"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        what = f"a {kind}, which reads text in both directions, no causal LM"
    elif any(str(name).endswith(("Classification", "QuestionAnswering")) for name in classes):
        what = f"a classifier ({classes[0]}), no causal LM"
    else:
        return
    raise ModelError(f"the model in {folder} is {what}; choose another LM")


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


def load_config(folder: Path) -> Any:
    """The configuration of an LM as transformers reads it, without the weights. Raises `ModelError`."""
    quiet_transformers()
    try:
        # Said everywhere: where it is left open, transformers asks the user whether to run a model's own code.
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # configurations are checked nowhere: any type can come out of a damaged one
        raise ModelError(f"cannot load the LM in {folder}: {first_line(error)}; check its config.json") from None


def rows_of(config: Any) -> int | None:
    """How many tokens the LM of this configuration embeds."""
    return getattr(_text_config(config), "vocab_size", None)


def positions_of(config: Any) -> int | None:
    """How long a text the LM of this configuration was made for, if it says so."""
    text = _text_config(config)
    return next((value for name in POSITIONS if isinstance(value := getattr(text, name, None), int)), None)


def _text_config(config: Any) -> Any:
    """The part of a configuration that is about text, all of it in a plain LM; None if there are several."""
    try:
        return config.get_text_config()
    except ValueError:
        return None


def check_decoder(config: Any) -> None:
    """Raise `ModelError` for a model of several parts, of which the LM is one: it cannot share an image prefix."""
    if _text_config(config) is not config:
        raise ModelError(
            f"{(config.architectures or [config.model_type])[0]} is a model of several parts, not of text alone, and "
            "cannot share an image prefix; choose an LM of text alone"
        )
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if architecture is not None and not architecture._can_set_attn_implementation():
        raise ModelError(
            f"{architecture.__name__} has an attention of its own, which cannot share an image prefix; "
            "choose another LM"
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a directory of `save_pretrained`, without the weights.

    Raises `ModelError` if there is none, or none that says where in a text its tokens are.
    """
    load_config(folder)  # which the tokenizer reads too: what is wrong with it is no fault of the tokenizer's
    if not any(path.name in VOCABULARIES or path.suffix == ".tiktoken" for path in folder.iterdir()):
        raise ModelError(
            f"{folder} has no tokenizer (no tokenizer.json or other vocabulary); copy tokenizer.json and "
            "tokenizer_config.json there from where the model came from"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except BaseException as error:
        if not is_fault(error):
            raise
        problem = first_line(error)[:200]
        raise ModelError(f"cannot load the tokenizer in {folder}: {problem}; download its files again") from None
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} gives no offsets; add a tokenizer.json (a fast tokenizer)")
    if not encode(tokenizer, ["Is there a dog?"])["input_ids"][0]:
        raise ModelError(f"the tokenizer in {folder} makes no token of a question; download its files again")
    return tokenizer


def load_model(folder: Path, lm_init: str, lm_seed: int, dtype: str) -> tuple[Any, Any]:
    """A plain causal LM on the CPU and its tokenizer, from a directory of `save_pretrained`.

    With `lm_init = "random"` its weights are drawn for its configuration: always in float32, so that a seed gives the
    same model in either dtype, which takes 33 GB of host memory for 8B until they are cast. Saved weights are read in
    `dtype` at once (8B in bfloat16: 16 GB).
    """
    tokenizer, config = load_tokenizer(folder), load_config(folder)
    precision, missing_keys = getattr(torch, dtype), set()
    try:
        if lm_init == "random":
            _check_memory(folder)
            model = random_init_lm(config, lm_seed).to(precision)
        else:
            check_weights(folder)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=precision,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
            missing_keys = set(info["missing_keys"])
    except ModelError:
        raise
    except Exception as error:  # as above
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise ModelError(
                f"the LM in {folder} does not fit into memory ({first_line(error)}); choose a smaller LM, or bfloat16"
            ) from None
        reason = f"no {first_line(error)} is known" if isinstance(error, KeyError) else first_line(error)
        if "ignore_mismatched_sizes" in reason:  # transformers tells the sizes in a log of its own
            reason = "its weights have other shapes than its config.json says"
        raise ModelError(f"cannot load the LM in {folder}: {reason}; download config.json and weights again") from None
    if missing_keys:  # transformers would have filled them with random numbers
        raise ModelError(f"the LM in {folder} lacks weights, first {min(missing_keys)}; download or save it again")
    return model, tokenizer


def _check_memory(folder: Path) -> None:
    shape, memory = lm_shape(str(folder)), device_memory(torch.device("cpu"))
    if shape and 4 * shape.weights > memory:
        raise ModelError(
            f"random weights for the LM in {folder} take {4 * shape.weights / 2**30:,.0f} GiB in float32, this machine "
            f"has {memory / 2**30:,.0f}; choose a smaller LM"
        )


def check_weights(folder: Path) -> None:
    """Raise `ModelError` for weights that are cut off, or in a format of fewer bits; only their headers are read."""
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as tensors:
                dtypes = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{path} is cut off or damaged ({first_line(error)}); download it again") from None
        for name, dtype in dtypes.items():
            if name.endswith("weight") and dtype not in FLOATS:  # transformers would not know of its scales
                raise ModelError(
                    f"{path} holds {name} as {dtype}: it is quantised, which this engine does not run; take its "
                    "version in bfloat16 or float32"
                )


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
    """`resolve_lm` of what is on this machine, as a directory or in the Hugging Face cache; None if it is not."""
    if is_there(expanded(name)) or looks_like_path(name):
        return resolve_lm(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        snapshot = snapshot_download(name, allow_patterns=DOWNLOADED, local_files_only=True)
    except HFValidationError:
        raise missing(name, "LM") from None
    except Exception:  # of many types, all of which say that it is not in the cache
        return None
    return resolve_lm(snapshot)
