"""The third part of the page, a closer look: parts, answers, hypernyms, examples, taxonomy, training, tuning."""

from collections.abc import Callable
from typing import Any

import numpy as np

from analysis.cells import Cell
from analysis.items import Wording
from analysis.report.examples import pick_examples
from analysis.report.page import Data, Page
from analysis.report.result import GROUPS
from analysis.report.table import SETUP, Column, Table, table

LABELS = {"gold": "as labelled", "veridical": "as pictured"}


def parts(page: Page) -> Data | None:
    """One row per cell, kind of answer and part; None without held-out questions."""
    rows = page.study.heldout.to_dict("records")
    columns = [
        SETUP,
        page.condition,
        Column("right answer", lambda row: LABELS[row["labels"]], "text"),
        Column("hypernyms", "over", "text"),
        Column("their number", "n_categories", digits=0),
        Column("seeds", "n_seeds", digits=0),
        Column("F1", "f1"),
        Column("95 % interval", ("low", "high"), "between"),
        Column("bootstrap", ("boot_low", "boot_high"), "between"),
        Column("they hold over", "basis", "text"),
        Column("seeds, lowest to highest", ("seed_lowest", "seed_highest"), "between"),
        Column("permuted", "permuted_f1"),
    ]
    caption = (
        "Held-out macro F1 with two 95 % intervals: that of a model with crossed effects of seeds and hypernyms, and "
        "that of a bootstrap that draws both. “No homonyms”: hypernyms whose name no leaf has, so that no trained "
        "question names them."
    )
    return {"means": table("parts", caption, rows, columns, "heldout.csv")} if rows else None


def answering(page: Page) -> Data | None:
    """One row per cell and group of questions; None where nothing was answered."""
    rows = page.study.answering.to_dict("records")
    columns = [
        SETUP,
        page.condition,
        Column("questions", lambda row: GROUPS[row["group"]].lower(), "text"),
        Column("number", "n_questions", digits=0),
        Column("said yes", "yes_share", "percent", digits=0),
        Column("right answer is yes", "gold_yes_share", "percent", digits=0),
        Column("ties", "tie_share", "percent"),
        Column("probability off yes and no", "off_mass", "percent"),
        Column("in the worst run", "off_mass_worst", "percent"),
        Column("mostly off", "low_mass_share", "percent"),
        Column("calibration error", ("ece", "ece_low", "ece_high"), "range", digits=3),
    ]
    caption = (
        "Test questions, means over runs. “Mostly off”: questions on which yes and no together have less than half of "
        "the probability. Calibration error: expected distance, over questions, of p(yes) among yes and no from the "
        "share whose right answer is yes, in ten bins; mean over runs, lowest–highest."
    )
    return {"cells": table("answering", caption, rows, columns, "answers.csv")} if rows else None


LEVEL = 0.05


def hypernyms(page: Page) -> Data | None:
    """One row per hypernym, and one per comparison; None without held-out questions."""
    test = page.study.categories
    test = test[(test["split"] == "test") & (test["group"] == "heldout")]
    test = test.merge(page.shown["cell"], left_on="run_id", right_index=True)
    if test.empty:
        return None
    means = test.groupby(["cell", "category"])[["f1", "n_yes", "n_no"]].mean()
    known = {key: (row["f1"], row["n_yes"], row["n_no"]) for key, row in means.to_dict("index").items()}
    asked, names = set(test["cell"]), page.study.names

    def scores(cell: Cell) -> Callable[[str], tuple[float, float, float] | None]:
        return lambda name: known.get((cell, name))

    cells = (cell for cell in page.shown["cell"].unique() if cell in asked)
    columns = [Column(names.cell(cell), scores(cell), "counted") for cell in cells]
    caption = "Test macro F1 (mean over runs), with the numbers of yes / no questions below it."
    asked_about = sorted(test["category"].unique())
    return {
        "scores": table(
            "hypernyms", caption, asked_about, [Column("hypernym", str, "text"), *columns], "categories.csv"
        ),
        "tests": _tests(page),
    }


def _tests(page: Page) -> Table:
    """For how many hypernyms a comparison shows a difference once adjusted for their number."""
    rows = []
    for _, here in page.study.hypernyms.groupby("comparison_number", sort=False):
        setup, above, below = here[["setup", "above", "below"]].iloc[0]
        found = here[here["p_holm"] < LEVEL]
        lower = sorted(found.loc[found["difference"] < 0, "category"])
        row = {"setup": setup, "above": above, "below": below, "n": len(here), "tested": int(here["p"].notna().sum())}
        rows.append(
            row | {"higher": int((found["difference"] > 0).sum()), "lower": len(lower), "names": ", ".join(lower)}
        )
    columns = [
        SETUP,
        Column("comparison", lambda row: (row["above"], f"with {row['below']}"), "noted"),
        Column("hypernyms", "n", digits=0),
        Column("tested", "tested", digits=0),
        Column("higher", "higher", digits=0),
        Column("lower", "lower", digits=0),
        Column("lower for", "names", "prose"),
    ]
    caption = (
        f"Exploratory: number of hypernyms for which a difference is shown at {LEVEL:g} after Holm’s adjustment for "
        "their number. With its own permuted answers: z, from mean and SD under permutation, the SD of one run taken "
        "for the mean of runs; between conditions: Welch’s t over seeds, which with three seeds shows large "
        "differences only."
    )
    return table("hypernym-tests", caption, rows, columns, "hypernym_tests.csv")


def examples(page: Page) -> Data | None:
    """Examples drawn by a fixed seed; None without a run to take answers from."""
    picked = pick_examples(page.study)
    items = Wording(page.study).items
    return {"examples": picked, "compared": len(picked[0].panels) > 1, "items": items} if picked else None


FIGURES = ("hypernyms_per_leaf", "leaves_per_hypernym")


def taxonomy(page: Page) -> Data | None:
    """Present where the figures are."""
    names = [name for name in FIGURES if name in page.figures]
    return {"names": names} if names else None


def training(page: Page) -> Data | None:
    """Present where the runs kept a log; its figure is all there is."""
    return {} if "loss" in page.figures else None


def tuning(page: Page) -> Data | None:
    """Verdict and every trial; None where the runs are no trials of a tuning study."""
    found = page.study.tuning
    if found is None:
        return None
    groups = [name for name in found.trials if str(name).startswith("value_")]
    columns = [
        Column("trial", "number", digits=0),
        *(Column(name, _shown(name), "text") for name in found.searched),
        Column("epochs trained", "trained", digits=0),
        Column("runs", "n_runs", digits=0),
        Column("validation F1", "score", digits=2),
        *(Column(str(name).removeprefix("value_"), str(name), digits=2) for name in groups if len(groups) > 1),
        Column("outcome", ("state", "reason"), "noted"),
    ]
    rows = found.trials.astype({"trained": float, "score": float}).replace({None: np.nan}).to_dict("records")
    caption = f"Every trial: the means over its runs of macro F1 on {found.decided}, after its last training."
    return {
        "verdict": found.verdict,
        "exploratory": found.exploratory,
        "decided": found.decided,
        "prune": found.record["table"]["prune"],
        "table_of": found.record["table"],
        "trials": table("tuning", caption, rows, columns),
    }


def _shown(name: str) -> Any:
    return lambda row: f"{row[name]:g}" if isinstance(row[name], float) else str(row[name])
