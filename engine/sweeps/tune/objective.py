"""What decides a trial: macro F1 on validation questions about leaves and seen hypernyms, and on nothing else.

Test questions, and validation questions on unseen hypernyms unless the study says so, are dropped from the question
table *before* predictions are read, and only the predictions of what is left are read. So no other answer can move a
value or a later suggestion.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cachegen.common.errors import RunError
from engine.runs.f1 import confusion_counts, macro_f1
from engine.runs.tables import LOGITS, read_run_table

Objective = Literal["seen", "unseen"]


def decisive(questions: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """Columns question, group (leaf, seen or unseen), category and answer of the questions that may decide."""
    kind = np.where(questions["kind"] == "leaf", "leaf", np.where(questions["seen"], "seen", "unseen"))
    wanted = ("unseen",) if objective == "unseen" else ("leaf", "seen")
    kept = (questions["split"] == "validation") & np.isin(kind, wanted)
    return questions.assign(group=kind).loc[kept, ["question", "group", "category", "answer"]].reset_index(drop=True)


def run_scores(folder: Path, objective: Objective) -> dict[str, float]:
    """Mean macro F1 over categories (0..100) of each group that decides, of a finished run.

    Empty where a logit is not finite. Raises `RunError` where the run has no question that decides.
    """
    columns = ["question", "kind", "category", "split", "seen", "answer"]
    asked = decisive(read_run_table(folder / "questions.parquet", columns), objective)
    if asked.empty:
        what = "unseen hypernyms" if objective == "unseen" else "leaves or seen hypernyms"
        raise RunError(
            f"{folder}: no validation question on {what} is there to decide; give each leaf at least 10 images, or "
            "withhold less (ablation)"
        )
    decided = [("question", "in", asked["question"].tolist())]
    answers = read_run_table(folder / "predictions.parquet", ["question", *LOGITS], filters=decided)
    answered = asked.merge(answers.drop_duplicates("question"), on="question", how="left")
    logits = answered[LOGITS].to_numpy(float)
    if not np.isfinite(logits).all():
        return {}
    said_yes = logits[:, 0] >= logits[:, 1]
    return {
        str(group): _mean_macro_f1(rows["category"], rows["answer"].to_numpy(bool), said_yes[rows.index])
        for group, rows in answered.groupby("group")
    }


def _mean_macro_f1(category: pd.Series, gold: np.ndarray, said: np.ndarray) -> float:
    """Mean macro F1 over categories, in 0..100."""
    codes, names = pd.factorize(category)
    return float(100 * macro_f1(confusion_counts(codes, gold, said, len(names))).mean())
