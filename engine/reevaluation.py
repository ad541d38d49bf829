"""`crosstax evaluate`: ask a finished run its own questions again, on any split or device."""

from pathlib import Path

import pandas as pd

from cachegen.common.device import choose_device
from cachegen.common.errors import RunError
from cachegen.common.progress import progress_bar
from cachegen.features.same_pictures import check_pictures
from engine.design.condition import Inputs
from engine.runs.finished import open_run
from engine.runs.places import Places
from engine.runs.planned import Execution, PlannedRun
from engine.sweeps.plan import longest_row
from engine.training.evaluation import evaluate
from engine.training.group import Opener
from engine.training.naming import KEYS, answers_of_names, log_probabilities


def evaluate_run(folder: Path, split: str, execution: Execution, given: Places | None = None) -> pd.DataFrame:
    """The run's questions of one split, with the answers' columns beside them; `given`: where its inputs are now.

    Raises `RunError` if the run is not whole, or its inputs are no longer the ones it was trained on.
    """
    run = open_run(folder, given)
    questions = run.questions()
    run.weights  # noqa: B018 - a damaged projector is said before models are loaded
    dataset = run.dataset()
    check_pictures(dataset, run.store)
    inputs = Inputs(dataset=dataset.root, features=run.store.path, lm=run.lm[0])
    digests = run.config["digests"]
    shared = Opener(choose_device(execution.device)).open(PlannedRun(inputs, run.condition, "", digests))
    run.require_about(dataset, questions)
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
