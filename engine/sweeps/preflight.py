"""What can be said about an LM and a prompt before anything is loaded: no weights, no GPU, no network.

A sweep asks before it queues a group, a dry run about whatever is on this machine.
"""

from pathlib import Path
from typing import Any

from cachegen.common.errors import ModelError, is_fault
from cachegen.data.dataset import Dataset, load_dataset
from cachegen.features.pooling import pooled_count
from cachegen.features.store import FeatureStore
from engine.design.condition import Condition, Mark, marked
from engine.design.languages import spoken
from engine.lm.loading import (
    check_weights,
    load_config,
    load_tokenizer,
    positions_of,
    resolve_lm,
    rows_of,
)
from engine.lm.prompts import PromptTokens, prompt_tokens, tokenise, tokenise_names
from engine.runs.planned import PlannedRun


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
            patches = pooled_count(store.attributes, store.patches.shape[1], c.pool)
            self.check(self._once(("lm", inputs.lm), lambda: resolve_lm(inputs.lm)), c, dataset, patches)
        except BaseException as error:
            if not is_fault(error):
                raise
            return error
        return None

    def check(self, folder: Path, condition: Condition, dataset: Dataset | None, patches: int | None) -> None:
        """Raise what is wrong with the LM in `folder`, or with this prompt; what is None is left out."""
        c = condition
        prompt = (c.task, c.supervise, *(getattr(c, name) for name in marked(Mark.PROMPT)))
        root = None if dataset is None else dataset.root
        config = self._once(("config", folder), lambda: load_config(folder))
        if c.lm_init == "pretrained":
            self._once(("weights", folder), lambda: check_weights(folder))
        tokenizer = self._once(("tokenizer", folder), lambda: load_tokenizer(folder))
        for split in ("train", "test")[: 1 + (c.train_language != c.test_language)]:
            key = ("tokens", folder, root, prompt, split)
            tokens = self._once(key, lambda split=split: _tokens(c, split, tokenizer, dataset, rows_of(config)))
            _check_positions(folder, positions_of(config), tokens, patches)

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


def _tokens(
    condition: Condition, split: str, tokenizer: Any, dataset: Dataset | None, rows: int | None
) -> PromptTokens:
    """Tokens of a study's split; without a dataset of one phrase that stands for any."""
    if dataset is not None:
        said, condition = spoken(dataset, condition, split)
        return prompt_tokens(condition, tokenizer, said, rows)
    if condition.task == "name":
        return tokenise_names(condition, tokenizer, [("a crow", "leaf"), ("a bird", "hypernym")], rows)
    return tokenise(condition, tokenizer, [("a bird", "singular")], rows)


def _check_positions(folder: Path, most: int | None, tokens: PromptTokens, patches: int | None) -> None:
    """Raise `ModelError` if the LM has too few positions.

    Also for rotary positions, which can be computed beyond what an LM was trained for, but mean nothing there.
    """
    text = tokens.shared + int(tokens.lengths.max()) + (tokens.eos is not None)
    needed = text + (patches or 0)
    if most is not None and needed > most:
        raise ModelError(
            f"the LM in {folder} has {most:,} positions, and a question takes {needed:,}: {patches or 0:,} patches and "
            f"{text:,} tokens of text; choose an LM with more, an encoder with fewer patches, or a larger pool"
        )
