"""What a run costs, on paper: tokens, floating-point operations and bytes, from sizes alone.

Counted is what the engine has to compute: products forward and, through the frozen LM, backward to its inputs only;
attention inside the shared prefixes and from each question to its image; the last block's MLP and the head at the
answers. Elementwise work is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import pandas as pd

from cachegen.data.dataset import Dataset
from engine.design.candidates import candidates_of
from engine.design.condition import Condition, Mark, marked
from engine.design.questions import build_questions, question_text
from engine.lm.shape import LMShape

# (image, question) pairs of the paper's THINGS set (Tables 2 and 3, original labels), where no dataset is at hand.
THINGS_IMAGES = {"train": 11_625, "validation": 1_014, "test": 4_697}
THINGS_EVALUATED = 2_028 + 3_380 + 9_394 + 15_702  # leaf and hypernym questions of validation and test
THINGS_HYPERNYMS = 53
THINGS_TRAINED = {
    "random": {100: 23_250, 90: 24_840, 70: 28_962, 50: 34_914, 30: 43_340, 10: 55_270},
    "systematic": {40: 29_892, 30: 33_800, 20: 40_730, 10: 48_214},
}

# (patches, width) of the presets' encoders, where no feature store is at hand.
KNOWN_PATCHES = {"vit_large_patch14_reg4_dinov2": (256, 1024), "vit_so400m_patch14_siglip_224": (256, 1152)}

CHARACTERS_OF_A_TOKEN = 4  # of English text, where no tokenizer is at hand
QUESTION_CHARACTERS = 51  # of THINGS' longest question, "Is there a piece of women's clothing in this image?"
PHRASE_CHARACTERS = 26  # of its longest phrase

# Bytes of a row in questions.parquet, predictions.parquet and metrics.jsonl, measured on THINGS' question tables.
ROW_BYTES = {"questions": 16, "predictions": 24, "metrics": 105}


@dataclass(frozen=True)
class Questions:
    """How much a run asks: questions and the images they are about, in training and in validation + test."""

    trained: int
    train_images: int
    evaluated: int
    evaluated_images: int

    @classmethod
    def of(cls, table: pd.DataFrame) -> Self:
        """Counts of a question table."""
        train = (table["split"] == "train").to_numpy()
        image = table["image"].to_numpy()
        trained, evaluated = image[train], image[~train]
        return cls(len(trained), len(set(trained.tolist())), len(evaluated), len(set(evaluated.tolist())))

    @classmethod
    def published(cls, condition: Condition) -> Self | None:
        """Counts on THINGS as in Tables 2 and 3, which shuffles move by a few; None for what they do not have."""
        whole = (condition.subset, condition.homonyms, condition.scope) == ("all", "keep", "leaf")
        trained = THINGS_TRAINED[condition.ablation_kind].get(condition.ablation)
        if not whole or trained is None:
            return None
        evaluated_images = THINGS_IMAGES["validation"] + THINGS_IMAGES["test"]
        if condition.task == "name":
            candidates = evaluated_images * (condition.candidates + THINGS_HYPERNYMS)
            return cls(trained // 2, THINGS_IMAGES["train"], candidates, evaluated_images)
        return cls(trained, THINGS_IMAGES["train"], THINGS_EVALUATED, evaluated_images)

    def steps(self, condition: Condition) -> int:
        """Optimizer steps."""
        return condition.epochs * -(-self.trained // condition.batch)

    def train_prefixes(self, condition: Condition) -> float:
        """Expected number of image prefixes over all steps: an image counts once in each batch that asks about it."""
        batches = -(-self.trained // condition.batch)
        if condition.order == "images":
            # An image is met twice where a batch ends inside it. To be verified, it has as many questions of either
            # answer, an even number.
            even = condition.task == "verify" and condition.batch % 2 == 0
            at_ends = min(1.0, (2 if even else 1) * self.train_images / self.trained)
            return condition.epochs * (self.train_images + (batches - 1) * (1 - at_ends))
        size = self.trained / batches
        met = self.train_images * (1 - (1 - 1 / self.train_images) ** size)
        return condition.epochs * batches * met


@dataclass(frozen=True)
class Sizes:
    """Sizes that decide a run's cost: the LM, patches and width of the features, and tokens of text.

    `prefix`: tokens of text that all questions about an image share, before it or after; `suffix`: the others after it,
    filled up to the longest question.
    """

    lm: LMShape
    patches: int
    width: int
    prefix: int
    suffix: int

    def projector_weights(self, condition: Condition) -> int:
        """Weights and biases of the projector."""
        first, rest = self.projector_layers(condition)
        inner = self.lm.width if condition.projector_layers == 2 else 4 * self.width + self.lm.width
        return first + rest + inner + self.lm.width

    def projector_layers(self, condition: Condition) -> tuple[int, int]:
        """Weights of the first layer, and of the others."""
        v, d = self.width, self.lm.width
        return (v * d, d * d) if condition.projector_layers == 2 else (v * 4 * v, 4 * v * d + d * d)


def shares_prefixes(condition: Condition, sizes: Sizes) -> bool:
    """Whether the questions about an image are expected to share its prefix."""
    return sizes.lm.shares and condition.lm_sharing == "auto"


@dataclass(frozen=True)
class Cost:
    """Tokens through the LM and floating-point operations of one run, in training and in evaluation."""

    train_tokens: float
    evaluated_tokens: float
    train_flops: float
    evaluated_flops: float

    @property
    def tokens(self) -> float:
        return self.train_tokens + self.evaluated_tokens

    @property
    def flops(self) -> float:
        return self.train_flops + self.evaluated_flops


def cost_of(condition: Condition, questions: Questions, sizes: Sizes) -> Cost:
    """Cost of one run."""
    trained = condition.epochs * questions.trained
    prefixes = questions.train_prefixes(condition)
    eos = 1 if condition.supervise == "answer_eos" else 0
    read = sizes.suffix if condition.task == "name" else 1  # places at which the head predicts a token
    train_tokens, forward, backward = _pass(prefixes, trained, sizes, condition, sizes.suffix + eos, answers=read + eos)
    tokens, answering, _ = _pass(
        questions.evaluated_images, questions.evaluated, sizes, condition, sizes.suffix, answers=read
    )
    return Cost(train_tokens, tokens, forward + backward, answering)


def _pass(
    images: float, questions: float, sizes: Sizes, condition: Condition, suffix: int, answers: int
) -> tuple[float, float, float]:
    """Tokens, and operations forward and backward, of `images` prefixes with `questions` suffixes.

    A product of n weights with a vector costs 2 n.
    """
    lm, prefix = sizes.lm, sizes.prefix + sizes.patches
    shared = shares_prefixes(condition, sizes)
    images = images if shared else questions  # each question reads the image anew
    tokens = images * prefix + questions * suffix
    read = questions * answers
    last = read if shared else tokens  # of the last block's MLP
    blocks = tokens * (lm.layers * lm.attention_weights + (lm.layers - 1) * lm.mlp_weights) + last * lm.mlp_weights
    products = 2 * (blocks + read * lm.vocabulary * lm.width)
    pairs = images * prefix * (prefix + 1) / 2 + questions * suffix * (prefix + (suffix + 1) / 2)
    attention = 4 * lm.layers * lm.query * pairs
    first, rest = sizes.projector_layers(condition)
    projector = 2 * images * sizes.patches * (first + rest)
    to_weights_and_inputs = 2 * images * sizes.patches * (first + 2 * rest)  # features take no gradient
    return (tokens, products + attention + projector, products + 2 * attention + to_weights_and_inputs)


def text_tokens(condition: Condition, dataset: Dataset | None = None) -> tuple[int, int]:
    """Tokens that all questions share and those that they do not, for the longest one, guessed from characters."""
    before, mark, after = condition.template.partition("{image}")
    if not mark:  # the image follows the first token
        before, after = "", condition.template
    first = _tokens(len(before)) if mark else 1
    if condition.task == "name":
        carriers = {"leaf": condition.carrier_leaf, "hypernym": condition.carrier_hypernym}
        opening, _, end = max(carriers.values(), key=len).partition("{phrase}")
        phrase = PHRASE_CHARACTERS
        if dataset is not None:
            phrase = max(len(name) for table in (dataset.leaves, dataset.hypernyms) for name in table["phrase"])
        shared = len(after.partition("{question}")[0]) + len(opening)
        if len(set(carriers.values())) > 1:  # what differs is not shared
            shared, phrase = len(after.partition("{question}")[0]), phrase + len(opening)
        return first + _tokens(shared), _tokens(phrase + len(end))
    longest = QUESTION_CHARACTERS
    if dataset is not None:
        asked = pd.concat([table[["phrase", "number"]] for table in (dataset.leaves, dataset.hypernyms)])
        longest = max(len(question_text(condition, *names)) for names in asked.itertuples(index=False, name=None))
    return first, _tokens(len(after) - len("{question}") + longest)


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_OF_A_TOKEN)


def question_counter() -> Callable[[Dataset, Condition], Questions]:
    """A function that counts the questions of a condition on a dataset, once for all conditions that ask the same.

    It raises what `build_questions` raises.
    """
    known: dict[tuple[str, str], Questions] = {}

    def count(dataset: Dataset, condition: Condition) -> Questions:
        key = (dataset.digest, condition.model_dump_json(include={*marked(Mark.ASKED)}))
        if key not in known:
            known[key] = _asked(dataset, condition)
        return known[key]

    return count


def _asked(dataset: Dataset, condition: Condition) -> Questions:
    """What is computed: of names, every candidate."""
    table = build_questions(dataset, condition)
    counts = Questions.of(table)
    if condition.task == "verify":
        return counts
    return replace(counts, evaluated=len(candidates_of(dataset, condition, table)))


def store_bytes(images: int, patches: int, width: int) -> int:
    """Bytes of a feature store: 16-bit patches and two pooled float32 vectors an image."""
    return images * width * (2 * patches + 8)


def run_bytes(condition: Condition, questions: Questions, sizes: Sizes) -> int:
    """Bytes of a finished run directory."""
    asked = questions.trained + questions.evaluated
    rows = ROW_BYTES["questions"] * asked + ROW_BYTES["predictions"] * questions.evaluated
    return rows + ROW_BYTES["metrics"] * questions.steps(condition) + 4 * sizes.projector_weights(condition)
