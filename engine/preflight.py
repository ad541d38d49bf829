"""What can be said about an LM and a prompt before anything is loaded: no weights, no GPU, no network.

A sweep asks before it queues a group, a dry run about whatever is on this machine.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from cachegen.dataset import Dataset, load_dataset
from cachegen.errors import CrosstaxError, ModelError
from cachegen.hub import first_line
from cachegen.progress import quiet_transformers
from cachegen.store import FeatureStore
from engine.condition import Condition
from engine.language_model import DOWNLOADED, resolve_lm
from engine.plan import PlannedRun
from engine.prompts import PromptTokens, tokenise

POSITIONS = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length")


class Preflight:
    """The checks, each carried out once for runs that have LM, prompt and data in common."""

    def __init__(self) -> None:
        self._opened: dict[Any, Any] = {}

    def problem(self, run: PlannedRun) -> BaseException | None:
        """What is wrong with the LM or the prompt of a run's group; None if nothing is found."""
        inputs, c = run.inputs, run.condition
        try:
            dataset = self._once(("dataset", inputs.dataset), lambda: load_dataset(inputs.dataset))
            store = self._once(("store", inputs.features), lambda: FeatureStore.open(inputs.features))
            self.check(self._once(("lm", inputs.lm), lambda: resolve_lm(inputs.lm)), c, dataset, store.patches.shape[1])
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            return error
        return None

    def check(self, folder: Path, condition: Condition, dataset: Dataset | None, patches: int | None) -> None:
        """Raise what is wrong with the LM in `folder`, or with this prompt; what is None is left out."""
        c = condition
        prompt = (c.template, c.question_singular, c.question_plural, c.answer_yes, c.answer_no, c.supervise)
        root = None if dataset is None else dataset.root
        config = self._once(("config", folder), lambda: _config(folder))
        tokenizer = self._once(("tokenizer", folder), lambda: _tokenizer(folder))
        tokens = self._once(("tokens", folder, root, prompt), lambda: tokenise(c, tokenizer, _asked(dataset)))
        _check_sizes(folder, config, tokens, patches)

    def _once(self, key: Any, open_it: Any) -> Any:
        """What is opened once; so is a failure known."""
        if key not in self._opened:
            try:
                self._opened[key] = open_it()
            except Exception as error:
                self._opened[key] = error
        if isinstance(found := self._opened[key], Exception):
            raise found
        return found


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


def _asked(dataset: Dataset | None) -> list[tuple[str, str]]:
    """Every (phrase, number) of a study; one that stands for any without a dataset."""
    if dataset is None:
        return [("a bird", "singular")]
    asked = pd.concat([table[["phrase", "number"]] for table in (dataset.leaves, dataset.hypernyms)])
    return list(asked.itertuples(index=False, name=None))


def _config(folder: Path) -> Any:
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


def _tokenizer(folder: Path) -> Any:
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


def _check_sizes(folder: Path, config: Any, tokens: PromptTokens, patches: int | None) -> None:
    """Raise `ModelError` if the LM has too few positions, or no embeddings of these tokens.

    Also for rotary positions, which can be computed beyond what an LM was trained for, but mean nothing there.
    """
    ids = [*tokens.prefix.tolist(), *tokens.suffixes.ravel().tolist(), tokens.yes, tokens.no, tokens.eos or 0]
    if max(ids) >= config.vocab_size:
        raise ModelError(
            f"the tokenizer in {folder} makes token {max(ids)} of the prompt, the LM embeds {config.vocab_size}; they "
            "do not belong together"
        )
    most = next((value for name in POSITIONS if isinstance(value := getattr(config, name, None), int)), None)
    text = len(tokens.prefix) + int(tokens.lengths.max()) + (tokens.eos is not None)
    needed = text + (patches or 0)
    if most is not None and needed > most:
        raise ModelError(
            f"the LM in {folder} has {most:,} positions, and a question takes {needed:,}: {patches or 0:,} patches and "
            f"{text:,} tokens of text; choose an LM with more, or an encoder with fewer patches"
        )
