"""`crosstax ask`: a finished run answers any question about any image; one that was trained to name ranks its names.

Images are read and encoded as in extraction, and rounded to the store's 16 bits. Prompts are built as in the run, and
all questions about an image share one pass. So a question of the test split gets the logits that the run saved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from cachegen.common.device import choose_device
from cachegen.common.errors import ConditionError, CrosstaxError, DatasetError, some
from cachegen.common.hub import is_there
from cachegen.data.images import DECODING, Decoding, read_image, unreadable_reason
from cachegen.encoders import Encoder
from cachegen.features.importing import find_keys
from cachegen.features.pooling import pool_patches
from engine.design.condition import Condition
from engine.design.questions import question_text
from engine.lm.language_model import FrozenLM, load_lm
from engine.lm.projector import Projector
from engine.lm.prompts import PromptTokens, tokenise, tokenise_names
from engine.runs.finished import FinishedRun, open_run
from engine.runs.places import Places
from engine.sweeps.plan import longest_row
from engine.training.batches import QuestionArrays
from engine.training.evaluation import evaluate
from engine.training.features import InMemory
from engine.training.naming import log_probabilities

BEST = 5  # names of a kind that are shown
AT_ONCE = 64  # pictures in one batch of the encoder


@dataclass(frozen=True)
class Asker:
    """A finished run with its models in memory; made by `open_asker`.

    encoder: None where features were imported or are of items. Those are then read from the run's store, by name.
    """

    run: FinishedRun
    encoder: Encoder | None
    lm: FrozenLM
    projector: Projector

    def taxonomy_questions(self) -> list[str]:
        """One question for each hypernym in the run's questions, in the run's wording."""
        questions = self.run.questions()
        hypernyms = questions[questions["kind"] == "hypernym"].drop_duplicates("category").sort_values("category")
        asked = zip(hypernyms["phrase"], hypernyms["number"], strict=True)
        return [question_text(self.run.tested, phrase, number) for phrase, number in asked]

    def unknown(self, questions: Sequence[str]) -> list[str]:
        """The questions that contain a word for which the LM has no token."""
        unknown = self.lm.tokenizer.unk_token_id
        return [text for text in questions if unknown is not None and unknown in self.lm.tokenizer(text)["input_ids"]]

    def ask(self, images: Sequence[Path], questions: Sequence[str], *, as_stored: bool = True) -> pd.DataFrame:
        """Ask every question about every image.

        Args:
            images: Image files, or names of images of the run's dataset ("crow/06.png" or "06.png"); without an encoder
                names of rows of the store, as `features import` understands them.
            questions: Questions in plain text; repeated ones are asked once.
            as_stored: Round features to the type of the feature store, as in training. False keeps float32.

        Returns:
            One row per image and question: image, question, p_yes, logit_yes, logit_no, mass. p_yes is the
            probability of yes among the two answers; mass is the probability of both among all tokens.

        Raises:
            DatasetError: An image cannot be read, or the store has none of this name.
            ConditionError: A prompt cannot be tokenised.
        """
        asked, images = list(dict.fromkeys(questions)), self._found(images)
        tokens = question_tokens(self.run.tested, self.lm.tokenizer, asked, self.lm.rows)
        rows = np.array([tokens.rows[text, "singular"] for text in asked], dtype=np.int64)
        arrays = QuestionArrays(
            image=np.repeat(np.arange(len(images)), len(asked)),
            suffix=np.tile(rows, len(images)),
            answer=np.zeros(len(images) * len(asked), dtype=bool),  # not known, and read by training only
        )
        answers = evaluate(
            self.projector,
            self.lm,
            self._features(images, as_stored),
            tokens,
            arrays,
            max_tokens=longest_row(self.lm.device),
            advance=lambda _: None,
        )
        answers.insert(0, "image", np.repeat([str(path) for path in images], len(asked)))
        answers.insert(1, "question", np.tile(asked, len(images)))
        difference = (answers["logit_no"] - answers["logit_yes"]).astype(float)
        answers.insert(2, "p_yes", expit(-difference))
        return answers

    def name(self, images: Sequence[Path]) -> pd.DataFrame:
        """Score every name of the study for every image, for a run of the task `name`.

        `images`: as for `ask`. One row per image and name: image, kind (leaf or hypernym), category,
        phrase, log_p, score. The score is log_p minus its mean over the run's test images for which it was computed.
        """
        test, images = self.run.names().query("split == 'test'"), self._found(images)
        known = test.groupby(["kind", "category", "phrase"], as_index=False)["log_p"].mean()
        named = zip(known["phrase"], known["kind"], strict=True)
        tokens = tokenise_names(self.run.condition, self.lm.tokenizer, named, self.lm.rows)
        table = known.merge(pd.DataFrame({"number": range(len(images))}), how="cross").sort_values(
            "number", kind="stable", ignore_index=True
        )
        number, rows = table["number"].to_numpy(), tokens.row_numbers(table)
        features = self._features(images)
        limit = longest_row(self.lm.device)
        log_p = log_probabilities(self.projector, self.lm, features, tokens, number, rows, max_tokens=limit)
        paths = np.array([str(path) for path in images], dtype=object)[number]
        return pd.DataFrame(
            {"image": paths, **table[["kind", "category", "phrase"]], "log_p": log_p, "score": log_p - table["log_p"]}
        )

    def _found(self, images: Sequence[Path]) -> list[Path]:
        """The images, with those of the run's dataset in place of names ("crow/06.png", "06.png") that no file has."""
        found = [Path(image) for image in images]
        if self.encoder is None or all(path.is_file() for path in found):
            return found
        try:
            dataset = self.run.dataset()
        except CrosstaxError:  # gone, or changed
            return found
        keys = find_keys([str(path) for path in found], dataset.images["key"].tolist())
        return [
            dataset.image_path(key) if key and not path.is_file() and f"/{key}".endswith(f"/{path}") else path
            for path, key in zip(found, keys, strict=True)
        ]

    def _features(self, images: Sequence[Path], as_stored: bool = True) -> InMemory:
        """The images' features, as the run's projector reads them."""
        if self.encoder is None:
            patches = stored_features(self.run, [str(path) for path in images])
        else:
            patches = encode_files(self.encoder, images, Decoding.of(self.run.features))
        if as_stored:
            patches = patches.to(getattr(torch, self.run.features["dtype"]))
        patches = pool_patches(patches, self.run.features, self.run.condition.pool)
        return InMemory(patches.to(self.lm.device))


def open_asker(folder: Path, device: str = "auto", given: Places | None = None) -> Asker:
    """Load a finished run with its encoder and LM.

    Args:
        folder: Folder of the run.
        device: "auto", "cpu", "cuda", ...
        given: Where its encoder and LM are now, if they have moved.

    Raises:
        RunError: The run is not finished or has changed.
        ModelError: Its encoder or LM cannot be loaded.
        StoreError: The encoder is not the one its features were made with.
    """
    run, place = open_run(folder, given), choose_device(device)
    c = run.condition
    lm_folder = run.lm[1]
    vision = None if run.imported or run.items else run.encoder(device)
    if vision is None:
        run.store  # noqa: B018 - a store that is gone is said before models are loaded
    lm = load_lm(lm_folder, c.lm_init, c.lm_seed, c.dtype, place, c.lm_sharing)
    return Asker(run, vision, lm, run.projector(lm.width, lm.dtype, lm.embedding_rms).to(place))


def read_words(words: Sequence[str], questions: Sequence[str], everything: bool) -> tuple[list[Path], list[str]]:
    """(images, questions) of a command line: `words` are images, the last of them a question if it ends in "?".

    It is one in any case where nothing else says what to ask. Raises `ConditionError`.
    """
    images, asked = list(dict.fromkeys(words)), list(questions)
    nothing_else = not (asked or everything)
    if nothing_else and is_there(Path(images[-1])):
        raise ConditionError(
            'nothing is asked: end with a question in quotes, such as "Is there a bird in this image?", or give '
            "--question or --all"
        )
    if nothing_else or images[-1].rstrip().endswith("?"):
        asked = [images.pop(), *asked]
    if not images:
        raise ConditionError("no image is given; name one or more before the question")
    return [Path(image) for image in images], asked


def names_pictures(folder: Path) -> bool:
    """Whether a run was trained to name, so that it ranks names and answers no question."""
    return bool(open_run(folder).condition.task == "name")


def read_pictures(words: Sequence[str], questions: Sequence[str]) -> list[Path]:
    """The images of a command line that asks a run to name. Raises `ConditionError` for a question."""
    if asked := [*questions, *(word for word in words if word.rstrip().endswith("?"))]:
        raise ConditionError(f"this run was trained to name, and answers no question ({asked[0]!r}); give images only")
    return [Path(word) for word in dict.fromkeys(words)]


def names_text(names: pd.DataFrame) -> str:
    """A table per image: the best names of either kind, with scores."""
    blocks = []
    for image, table in names.groupby("image", sort=False):
        best = [own.nlargest(BEST, "score") for _, own in table.groupby("kind", sort=False)]
        lines = [f"  {row.score:+6.2f}  {row.phrase} ({row.kind})" for row in pd.concat(best).itertuples()]
        blocks.append("\n".join([f"{image}: log-probability of a name, minus its mean over the test images", *lines]))
    return "\n".join(blocks)


def answers_text(answers: pd.DataFrame, ranked: bool) -> str:
    """A table per image: p(yes) and question, the most probable first if `ranked`."""
    blocks = []
    for image, table in answers.groupby("image", sort=False):
        if ranked:
            table = table.sort_values("p_yes", ascending=False, kind="stable")
        lines = [
            f"  {p_yes:6.1%}  {question}" for p_yes, question in zip(table["p_yes"], table["question"], strict=True)
        ]
        blocks.append("\n".join([f"{image}: p(yes)", *lines]))
    return "\n".join(blocks)


def answers_json(answers: pd.DataFrame) -> list[dict[str, Any]]:
    """Per image: its path and a record of each question or name."""
    columns = [column for column in answers if column != "image"]
    return [
        {"image": image, "answers": table[columns].to_dict("records")}
        for image, table in answers.groupby("image", sort=False)
    ]


def question_tokens(
    condition: Condition, tokenizer: Any, questions: Sequence[str], rows: int | None = None
) -> PromptTokens:
    """Tokens of free text put in place of {question} in the run's template; rows are (text, "singular")."""
    if not questions or not all(text.strip() for text in questions):
        raise ConditionError('nothing is asked; give a question such as "Is there a bird in this image?"')
    free = condition.model_copy(update={"question_singular": "{phrase}"})
    return tokenise(free, tokenizer, [(text, "singular") for text in questions], rows)


def encode_files(encoder: Encoder, images: Sequence[Path], decoding: Decoding = DECODING) -> torch.Tensor:
    """(I, P, V) float32 features of image files, as extraction computes them before rounding."""
    pixels = torch.stack([torch.from_numpy(_pixels(encoder, Path(path), decoding)) for path in images])
    return torch.cat([encoder(block).patches for block in pixels.split(AT_ONCE)])


def stored_features(run: FinishedRun, names: Sequence[str]) -> torch.Tensor:
    """(I, P, V) features of rows of a run's store, in its type."""
    keys = find_keys(names, run.store.keys)
    if lost := [name for name, key in zip(names, keys, strict=True) if key is None]:
        raise DatasetError(
            f"{run.store.path}: has nothing called {some(lost)}; its names are like {some(run.store.keys)}"
        )
    return run.store.patch_tensor(run.store.rows([key for key in keys if key is not None]))


def _pixels(encoder: Encoder, path: Path, decoding: Decoding) -> np.ndarray:
    if not path.is_file():
        raise DatasetError(f"{path}: no such image file, and not the name of one image of the run; check the path")
    try:
        return encoder.transform(read_image(path, decoding))
    except Exception as error:  # Pillow raises a dozen unrelated types on damaged files
        raise DatasetError(
            f"{path}: unreadable as an image ({unreadable_reason(path, error)}); give another file"
        ) from None
