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
from engine.design.questions import spoken
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
from engine.sweeps.plan import once


class Preflight:
    """The checks, each carried out once for runs that have LM, prompt and data in common."""

    def __init__(self) -> None:
        self._dataset, self._store, self._lm = once(load_dataset), once(FeatureStore.open), once(resolve_lm)
        self._config, self._weights, self._tokenizer = once(load_config), once(check_weights), once(load_tokenizer)
        self._tokens = once(_tokens)

    def problem(self, run: PlannedRun) -> BaseException | None:
        """What is wrong with the LM or the prompt of a run's group; None if nothing is found."""
        try:
            dataset, store = self._dataset(run.inputs.dataset), self._store(run.inputs.features)
            patches = pooled_count(store.attributes, store.patches.shape[1], run.condition.pool)
            self.check(self._lm(run.inputs.lm), run.condition, dataset, patches)
        except BaseException as error:
            if not is_fault(error):
                raise
            return error
        return None

    def check(self, folder: Path, condition: Condition, dataset: Dataset | None, patches: int | None) -> None:
        """Raise what is wrong with the LM in `folder`, or with this prompt; what is None is left out."""
        c, config = condition, self._config(folder)
        if c.lm_init == "pretrained":
            self._weights(folder)
        prompt = Condition(**c.model_dump(include={"task", "supervise", *marked(Mark.PROMPT)}))
        for split in ("train", "test")[: 1 + (c.train_language != c.test_language)]:
            tokens = self._tokens(prompt, split, self._tokenizer(folder), dataset, rows_of(config))
            _check_positions(folder, positions_of(config), tokens, patches)


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
