"""A logistic model of single answers: sensitivity and bias apart, beside the contrasts of d' and criterion.

For each confirmatory contrast of two cells, over their held-out test answers, with gold and condition at +0.5 and -0.5:

    said yes ~ gold * condition + (1 + gold * condition || category) + (1 + gold || label leaf) + (1 | image)
               + (1 + gold || run) + (1 + gold || label map)

The slope of gold is sensitivity in log odds (about 1.7 d'), its interaction with condition the difference in
sensitivity; the intercept with its sign turned is the criterion. Label maps are a factor where a cell has several that
are crossed with other seeds. Image has no slope for gold: an image is asked about a few hypernyms only. `glmer` tests
by z, which with a few runs is too ready to see a difference; here it is t with runs - 2 degrees of freedom. The
contrast decides all the same, and `alone` is what the model by itself would say. Its factors are crossed, which the
contrast's seeds x hypernyms are not.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import Cell
from analysis.statistics.contrasts import CONFIRMATORY, CRITERION, D_PRIME, EXPLORATORY, Contrast
from analysis.statistics.difference import MARGINS, judged
from analysis.statistics.laplace import Logistic, Term, fit_logistic
from analysis.statistics.robustness import Answers

MOST = 100_000  # answers, about 15 seconds of one core
TOO_MANY = f"Not fitted: a report models {MOST:,} answers at most; crosstax analyze --items fits all."
LOG_ODDS = 1.7  # of a logistic model, by unit of d' (of a probit one)
EFFECTS = {  # term -> what it is, its sign there, and the measure whose contrast decides
    "Intercept": ("criterion, mean of both", -1, ""),
    "gold": ("sensitivity, mean of both", 1, ""),
    "condition": ("criterion, difference", -1, CRITERION),
    "gold:condition": ("sensitivity, difference", 1, D_PRIME),
}
COLUMNS = [
    *("status", "setup", "above", "below", "effect", "group", "term", "estimate", "se", "z", "df"),
    *("p", "low", "high", "alone", "verdict", "n", "levels", "converged", "note"),
]


def item_table(contrasts: list[Contrast], runs: pd.DataFrame, answers: Answers, most: int = MOST) -> pd.DataFrame:
    """Four rows of fixed effects per confirmatory contrast of cells, then the standard deviations of random effects.

    Columns: status, setup, above, below; effect (what the term is), group (of a random effect), term; estimate in log
    odds with se, z, df (missing where z is taken as normal), p, low, high (95 %; of a standard deviation none); alone,
    verdict (see the module); n (answers), levels, converged, note. A model that could not be fitted is one row, the
    reason in its note. `most`: answers of all models together, in the order of the contrasts.
    """
    rows: list[dict[str, Any]] = []
    of_cell: dict[Cell, list[str]] = {}
    for run, cell in zip(map(str, runs.index), runs["cell"], strict=True):
        if run in answers:
            of_cell.setdefault(cell, []).append(run)
    left = most
    for c in contrasts:
        if c.status == CONFIRMATORY and c.kind == "contrast" and isinstance(c.other, Cell):
            about = {"status": EXPLORATORY, "setup": c.setup, "above": c.above, "below": c.below}
            here = answer_rows([of_cell[c.one], of_cell[c.other]], runs, answers)
            left -= len(here)
            found = _rows(c, here) if left >= 0 else iter([{"n": len(here), "note": TOO_MANY}])
            rows += [about | row for row in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def answer_rows(sides: list[list[str]], runs: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """Answers of two sides' runs: yes, gold and condition (+0.5, -0.5), category, leaf, image, run and map."""
    parts = []
    for condition, side in zip((0.5, -0.5), sides, strict=True):
        for run in side:
            asked, said = answers[run]
            category, leaf = asked.hypernyms[asked.hypernym], asked.leaves[asked.leaf]
            known = {"category": category, "leaf": leaf, "image": asked.image, "gold": asked.gold - 0.5}
            label_map = f"{condition} {runs['permutation'][run]}"
            parts.append(pd.DataFrame({"yes": said, **known}).assign(condition=condition, run=run, map=label_map))
    return pd.concat(parts, ignore_index=True)


def item_model(rows: pd.DataFrame) -> tuple[Logistic, list[Term]]:
    """The model of the module, on `answer_rows`; factors that these runs do not have are left out."""
    gold, condition = rows["gold"].to_numpy(float), rows["condition"].to_numpy(float)
    values = {"Intercept": np.ones(len(rows)), "gold": gold, "condition": condition, "gold:condition": gold * condition}
    terms = []
    for group, names in _groups(rows).items():
        level_n, levels = pd.factorize(rows[group])
        terms += [Term(group, name, values[name], level_n.astype(np.int64), len(levels)) for name in names]
    return fit_logistic(rows["yes"].to_numpy(bool), np.column_stack([*values.values()]), terms), terms


def _groups(rows: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Random effects: group -> terms."""
    of_side = rows.groupby("condition")[["run", "map"]].nunique()
    both = ("Intercept", "gold")
    found = {"category": tuple(EFFECTS), "leaf": both, "image": both[:1]}
    if (of_side["run"] > 1).any():
        found["run"] = both
    if ((of_side["map"] > 1) & (of_side["run"] > of_side["map"])).any():
        found["map"] = both
    return {group: names for group, names in found.items() if rows[group].nunique() > 1}


def _rows(c: Contrast, rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    said = rows.groupby(["condition", "gold"])["yes"].mean()
    if len(said) < len(EFFECTS) or said.isin((0, 1)).any():
        yield {"n": len(rows), "note": "Not fitted: one condition gives all questions of a right answer one answer."}
        return
    fitted, terms = item_model(rows)
    levels = ", ".join(f"{group} {rows[group].nunique()}" for group in dict.fromkeys(t.group for t in terms))
    note = "" if "run" in levels else "One run of each condition: with these seeds only."
    about = {"n": len(rows), "levels": levels, "converged": fitted.converged, "note": note}
    se = np.sqrt(np.diagonal(fitted.covariance_pp))
    df = rows["run"].nunique() - 2 if "run" in levels else np.inf
    for (term, (effect, sign, measure)), estimate, se_p in zip(EFFECTS.items(), fitted.beta_p, se, strict=True):
        margin = LOG_ODDS * MARGINS[measure or D_PRIME]
        test = judged(sign * float(estimate), float(se_p), df, margin=margin, unit="log odds")
        row = {"effect": effect, "term": term, "estimate": test.estimate, "se": test.se, "z": test.estimate / test.se}
        row |= {"df": df if np.isfinite(df) else np.nan, "p": test.p, "low": test.low, "high": test.high, **about}
        decided = c.by.get(measure)
        yield row | ({} if decided is None else {"alone": str(test.decision), "verdict": decided.difference.verdict})
    for random, sd in zip(terms, fitted.sds, strict=True):
        yield {"effect": "SD", "group": random.group, "term": random.name, "estimate": float(sd), **about}
