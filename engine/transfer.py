"""`crosstax transfer`: any questions put to finished runs, in shared passes; `crosstax evaluate`: their own again.

Runs with the same inputs are asked one after the other, and so open dataset, features and LM once. All questions about
an image share one pass. The runs' own files are not touched (`engine.runs.transfer`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cachegen.common.device import choose_device
from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.files import write_text
from cachegen.common.progress import progress_bar, tell
from cachegen.data.dataset import Dataset
from cachegen.features.same_pictures import check_pictures
from engine.ask import question_tokens
from engine.design.condition import Inputs
from engine.design.question_sets import QuestionSet, QuestionSource, put_to
from engine.runs.finished import FinishedRun, open_run
from engine.runs.places import Places
from engine.runs.planned import Execution, PlannedRun
from engine.runs.transfer import answers_path, answers_problem, write_answers
from engine.sweeps.plan import longest_row
from engine.training.batches import QuestionArrays
from engine.training.evaluation import evaluate
from engine.training.group import Opener, Shared
from engine.training.naming import KEYS, answers_of_names, log_probabilities


@dataclass(frozen=True)
class Outcome:
    """What became of a finished run: how much was asked or read `now`, and why it could not be (or None)."""

    run: Path
    now: int
    problem: str | None = None


def run_folders(places: Sequence[Path]) -> list[Path]:
    """Finished runs among these folders, each of which is a run or holds runs. Raises `RunError` if there are none."""
    found = []
    for place in places:
        inside = [place] if (place / "config.json").is_file() else sorted(path.parent for path in place.glob("*/DONE"))
        if not inside:
            raise RunError(f"no finished run in {place}; give the folder of a run, or a sweep folder with some")
        found += inside
    return list(dict.fromkeys(found))


def transfer(
    folders: Sequence[Path], asked: Sequence[QuestionSource], execution: Execution, given: Places | None = None
) -> list[Outcome]:
    """Ask every run every set, unless its answers are there and whole; in the order of the inputs they share.

    Args:
        folders: Folders of finished runs.
        asked: What is asked: files of questions, or makers.
        execution: Device and memory.
        given: Where inputs are now, if they have moved.

    Returns:
        One entry per run; `now` is how many sets it was asked. A run that cannot be asked says why, and the others go
        on.
    """
    found = OpenedInputs(Opener(choose_device(execution.device)))

    def ask(run: FinishedRun) -> Iterator[None]:
        for each in asked:
            questions = found.questions(each, run)
            if answers_problem(run.directory, answers_path(run.directory, questions)):
                _ask(run, questions, found, execution)
                yield

    return read_again(folders, given, ask, "not asked")


def read_again(
    folders: Sequence[Path], given: Places | None, read: Callable[[FinishedRun], Iterator[None]], failed: str
) -> list[Outcome]:
    """`read` of every run, in the order of the inputs they share; if it fails, others go on. A reason is told once.

    `read` yields whenever something is done, which counts even if it fails later.
    """
    results, reasons = [], Counter[str]()
    for run in sorted((open_run(folder, given) for folder in folders), key=by_inputs):
        path, now, problem = run.directory.path, 0, None
        try:
            for _ in read(run):
                now += 1
        except CrosstaxError as error:
            problem = str(error)
            if not reasons[problem]:
                tell(f"{failed}: {path.name}: {problem}")
            reasons[problem] += 1
        results.append(Outcome(path, now, problem))
    for reason, count in reasons.items():
        if count > 1:
            tell(f"{failed}, for the same reason: {count - 1} more ({reason})")
    return results


def by_inputs(run: FinishedRun) -> tuple[Any, ...]:
    """Runs sorted by this share inputs with the one before as often as they can."""
    c, digests = run.condition, run.config["digests"]
    lm = (digests["lm"], c.lm_init, c.lm_seed, c.dtype, c.lm_sharing)
    return (*lm, digests["dataset"], digests["store"], c.pool, run.id)


class OpenedInputs:
    """Inputs of runs, looked for once where their digests are the same: hashing an LM reads all of it."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._datasets: dict[str, Dataset] = {}
        self._spoken: dict[tuple[str, str], Dataset] = {}
        self._inputs: dict[Any, Inputs] = {}
        self._questions: dict[Any, QuestionSet] = {}

    def dataset(self, run: FinishedRun) -> Dataset:
        digest = run.config["digests"]["dataset"]
        if digest not in self._datasets:
            self._datasets[digest] = run.dataset()
        return self._datasets[digest]

    def spoken(self, run: FinishedRun) -> Dataset:
        """The dataset in the language of the run's test questions, made once."""
        language, digest = run.condition.test_language, run.config["digests"]["dataset"]
        if not language:
            return self.dataset(run)
        if (digest, language) not in self._spoken:
            self._spoken[digest, language] = self.dataset(run).spoken(language)
        return self._spoken[digest, language]

    def questions(self, asked: QuestionSource, run: FinishedRun) -> QuestionSet:
        """What is asked of runs with this dataset and wording, read or made once."""
        c = run.tested
        key = (asked, run.config["digests"]["dataset"], c.test_language, c.question_singular, c.question_plural)
        if key not in self._questions:
            self._questions[key] = asked.of(self.spoken(run), c)
        return self._questions[key]

    def shared(self, run: FinishedRun) -> Shared:
        digests = run.config["digests"]
        key = tuple(sorted(digests.items()))
        if key not in self._inputs:
            self._inputs[key] = Inputs(dataset=self.dataset(run).root, features=run.store.path, lm=run.lm[0])
        return self._opener.open(PlannedRun(self._inputs[key], run.condition, "", digests))


def _ask(run: FinishedRun, asked: QuestionSet, found: OpenedInputs, execution: Execution) -> None:
    """Put one set to one run, and write its answers."""
    dataset, questions = found.dataset(run), run.questions()
    run.require_about(dataset, questions)
    rows = put_to(questions, asked, dataset)
    run.weights  # noqa: B018 - a damaged projector is said before models are loaded
    shared = found.shared(run)
    lm = shared.lm
    texts = sorted(rows["text"].unique())
    tokens = question_tokens(run.tested, lm.tokenizer, texts, lm.rows)
    suffix = rows["text"].map({text: tokens.rows[text, "singular"] for text in texts}).to_numpy(np.int64)
    arrays = QuestionArrays(rows["image"].to_numpy(), suffix, rows["answer"].to_numpy())
    projector = run.projector(lm.width, lm.dtype, lm.embedding_rms).to(lm.device)
    limit = execution.max_tokens or longest_row(lm.device)
    with progress_bar(f"{asked.name}: {run.id[-8:]}", len(rows), "questions") as advance:
        answers = evaluate(projector, lm, shared.features, tokens, arrays, max_tokens=limit, advance=advance)
    write_answers(run.directory, asked, pd.concat([rows, answers], axis=1))


def evaluate_run(folder: Path, split: str, execution: Execution, given: Places | None = None) -> pd.DataFrame:
    """The run's questions of one split, with the answers' columns beside them; `given`: where its inputs are now.

    Raises `RunError` if the run is not whole, or its inputs are no longer the ones it was trained on.
    """
    run = open_run(folder, given)
    questions = run.questions()
    run.weights  # noqa: B018 - a damaged projector is said before models are loaded
    found = OpenedInputs(Opener(choose_device(execution.device)))
    dataset = found.dataset(run)
    check_pictures(dataset, run.store)
    run.require_about(dataset, questions)
    shared = found.shared(run)
    lm = shared.lm
    projector = run.projector(lm.width, lm.dtype, lm.embedding_rms).to(lm.device)
    asked = questions[questions["split"] == split].reset_index(drop=True)
    tokens = shared.tokens if split == "train" else shared.test_tokens
    try:
        arrays = shared.arrays(asked, tokens)
    except KeyError as error:
        raise RunError(f"{folder / 'questions.parquet'} asks {error}, not in its dataset; repeat the run") from None
    limit = execution.max_tokens or longest_row(lm.device)
    with progress_bar("evaluate", len(asked), "questions") as advance:
        read = (projector, lm, shared.features, tokens)
        if run.condition.task == "name":
            log_p = log_probabilities(*read, arrays.image, arrays.suffix, max_tokens=limit, advance=advance)
            answers = answers_of_names(asked, asked.assign(log_p=log_p).drop_duplicates(KEYS))
        else:
            answers = evaluate(*read, arrays, max_tokens=limit, advance=advance)
    return pd.concat([asked, answers], axis=1)


def write_question_set(run: Path, asked: QuestionSource, out: Path, given: Places | None = None) -> QuestionSet:
    """Write the questions that a maker has for runs like this one as CSV."""
    opened = open_run(run, given)
    dataset = opened.dataset().spoken(opened.condition.test_language)
    made = asked.of(dataset, opened.tested)
    write_text(out, made.csv)
    return made
