"""The languages that a run's questions are put in: training questions in one, all others perhaps in another.

A dataset says how a language names its categories, and how it words a question and its answers (`languages/XX.csv`).
"""

from typing import Any

from cachegen.data.dataset import Dataset
from engine.design.condition import Condition


def language_of(condition: Condition, split: str) -> str:
    """The language of a split's questions; "" is that of the taxonomy and of the condition's own wording."""
    return condition.train_language if split == "train" else condition.test_language


def spoken(dataset: Dataset, condition: Condition, split: str) -> tuple[Dataset, Condition]:
    """Dataset and condition with the phrases and the wording of a split's questions.

    Raises `DatasetError` if the dataset lacks the language.
    """
    language = language_of(condition, split)
    if not language:
        return dataset, condition
    said = dataset.spoken(language)
    return said, condition.model_copy(update=dict(dataset.languages[language].wording))


def recorded(condition: Condition, config: dict[str, Any]) -> Condition:
    """The condition with the wording of its test questions, as a finished run has recorded it."""
    return condition.model_copy(update=config.get("test_wording", {}))
