"""What can be said about an LM and a prompt before anything is loaded: no weights, no GPU, no network.

A sweep asks before it queues a group, a dry run about whatever is on this machine.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from cachegen.dataset import Dataset, load_dataset
from cachegen.errors import ModelError
from cachegen.store import FeatureStore
from engine.condition import Condition
from engine.group import is_fault
from engine.language_model import causal_config, fast_tokenizer, resolve_lm
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
            if not is_fault(error):
                raise
            return error
        return None

    def check(self, folder: Path, condition: Condition, dataset: Dataset | None, patches: int | None) -> None:
        """Raise what is wrong with the LM in `folder`, or with this prompt; what is None is left out."""
        c = condition
        prompt = (c.template, c.question_singular, c.question_plural, c.answer_yes, c.answer_no, c.supervise)
        root = None if dataset is None else dataset.root
        config = self._once(("config", folder), lambda: causal_config(folder))
        tokenizer = self._once(("tokenizer", folder), lambda: fast_tokenizer(folder))
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


def _asked(dataset: Dataset | None) -> list[tuple[str, str]]:
    """Every (phrase, number) of a study; one that stands for any without a dataset."""
    if dataset is None:
        return [("a bird", "singular")]
    asked = pd.concat([table[["phrase", "number"]] for table in (dataset.leaves, dataset.hypernyms)])
    return list(asked.itertuples(index=False, name=None))


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
