"""The first screen of the page: the finding, what it rests on, and the strongest objection that is left open."""

from collections.abc import Iterator

import numpy as np

from analysis.cells import Cell, short_name
from analysis.report.page import Data, Page, Row
from analysis.report.result import LEAF_FLOOR, condition_of, headline
from analysis.scores.yardsticks import CONTROLS
from analysis.statistics.contrasts import CONFIRMATORY, Contrast
from analysis.statistics.difference import OVER_BOTH, Decision, Difference
from analysis.tuning import EXPLORATORY

FEW_SEEDS = 3


def finding(page: Page) -> Data:
    """What the template of the whole page shows before all sections."""
    tuning = page.study.tuning
    return {
        "answer": answer(page.study.compared),
        "about": _about(page),
        "facts": _facts(page),
        "objection": next(objections(page)),
        "caution": [EXPLORATORY] if tuning is not None and tuning.exploratory else [],
        "verdict": headline(page.cells, page.study.compared),
        "left_out": page.study.sweep.inputs.left_out,
        "sweep": page.study.sweep.folder.name,
    }


def _about(page: Page) -> str:
    """Which setup the answer is about, where there are several."""
    setup = next((c.setup for c in page.study.compared), "")
    return f"These numbers are of {setup}; the figure shows the other setups too." if setup else ""


def answer(compared: list[Contrast]) -> list[str]:
    """The finding in two sentences, about the first setup: is there transfer, and does it survive other labels?"""
    fixed = [c for c in compared if (c.kind, c.status) == ("contrast", CONFIRMATORY)]
    if not fixed:
        return ["This study has no pretrained original or within run with held-out hypernyms, so it cannot answer."]
    first = fixed[0].one
    of_setup = [c for c in compared if c.kind == "contrast" and c.one.setup == first.setup]
    own = [c for c in of_setup if c.one == first]
    beside = [c for c in own if not isinstance(c.other, Cell) or not c.other.pretrained]
    said = ", and ".join(_apart(c.f1, "above", "below", _name(c)) for c in beside if np.isfinite(c.f1.estimate))
    labels = "" if first.labels.shuffle == "original" else " with labels shuffled within categories"
    reached = f"On held-out hypernyms the pretrained LM{labels} reaches an F1 of {own[0].means[0]:.1f}"
    sentences = [f"{reached}: {said}." if said else f"{reached}."]
    moved = [(c.other.labels.shuffle, c) for c in own if isinstance(c.other, Cell) and c.other.pretrained]
    if moved:
        told = [
            f"{c.means[1]:.1f} with labels shuffled {shuffle} categories ({_apart(c.f1, 'lower', 'higher')})"
            for shuffle, c in moved
        ]
        sentences.append(f"F1 is {' and '.join(told)}.")
    return sentences


def _name(c: Contrast) -> str:
    return "a random-init LM" if isinstance(c.other, Cell) else "the best of three simple baselines"


def _apart(difference: Difference, up: str, down: str, name: str = "") -> str:
    """A difference as a clause; `up` or `down` says which way it goes, from `name` where that is given."""
    limits = [] if difference.basis == OVER_BOTH else [difference.basis]
    if difference.decision is Decision.EQUIVALENT:
        said = f"equivalent{name and f' to {name}'} within {difference.margin:g} points"
    else:
        said = f"{abs(difference.estimate):.1f} points {up if difference.estimate > 0 else down}{name and f' {name}'}"
        if difference.decision is Decision.UNDECIDED:
            limits.insert(0, "undecided")
        elif difference.equivalent:
            limits.insert(0, f"though within {difference.margin:g}")
    return ", ".join([said, *limits])


def _facts(page: Page) -> list[tuple[str, str]]:
    """What the numbers rest on, name and fact."""
    runs = page.study.runs
    seeds = sorted({c.f1.n_seeds for c in page.study.compared if c.status == CONFIRMATORY})
    maps = runs.loc[runs["shuffle"] != "original", "map"].nunique()
    worlds = runs["dataset_digest"].nunique()
    models = [", ".join(short_name(name) for name in runs[kind].unique()) for kind in ("encoder", "lm")]
    hypernyms = sorted({c.f1.n_hypernyms for c in page.study.compared})
    asked = f"{hypernyms[0]}–{hypernyms[-1]}" if len(hypernyms) > 1 else str(*hypernyms)
    few = min((min(pair) for pair in seeds), default=0)
    return [
        ("runs", f"{len(runs)} in {len(page.every_cell)} condition{'s' * (len(page.every_cell) > 1)}"),
        ("seeds", f"{few} or more a condition" if len(set(sum(seeds, ()))) > 1 else f"{few} a condition"),
        ("held-out hypernyms", asked or "none"),
        ("label maps", f"{maps} shuffled" if maps else "the original one only"),
        ("worlds" if page.world else "datasets", str(worlds)),
        ("models", f"{models[0]} with {models[1]}"),
    ]


def objections(page: Page) -> Iterator[str]:
    """What the study cannot answer, the strongest first; the last one holds for every study."""
    study, cells = page.study, page.cells
    cell_of = {row["cell"]: row for row in cells}
    pretrained = [cell for cell in cell_of if cell.pretrained]
    if weak := [row for row in cells if row["cell"] in pretrained and _leaves(row) < LEAF_FLOOR]:
        worst = min(weak, key=_leaves)
        yield (
            f"The leaves themselves are not learned well (F1 {_leaves(worst):.1f} for {condition_of(worst)}). "
            "Where leaves are not learned, failing on hypernyms says little."
        )
    if all(cell_of_one.pretrained for cell_of_one in cell_of):
        yield "No random-init LM was run, so it is open whether what is known comes from the LM’s training on text."
    if not any(cell.labels.shuffle == "across" for cell in pretrained):
        yield "No labels were shuffled across categories, so it is open whether images alone give the answers."
    controls = [c for c in study.compared if c.other in CONTROLS and c.one.labels.shuffle == "original"]
    if not controls:
        yield "No control without an LM could be computed, so similar images alone might give the same answers."
    if beaten_not := [c for c in controls if c.one.pretrained and c.f1.decision is not Decision.ABOVE]:
        strong = max(beaten_not, key=lambda c: c.means[1])
        where = strong.setup and f", {strong.setup}"
        yield (
            f"A control without any LM, nearest neighbours among the images, reaches F1 {strong.means[1]:.1f}; "
            f"the pretrained LM beside it{where}: {strong.f1.verdict}. So similar images alone may explain the result."
        )
    if page.world is not None and study.runs["dataset_digest"].nunique() == 1:
        yield (
            "All of this is one small made-up world with tiny models. "
            "It cannot say whether photographs and large language models behave in the same way."
        )
    seeds = min((min(c.f1.n_seeds) for c in study.compared if c.status == CONFIRMATORY), default=0)
    if seeds < FEW_SEEDS:
        yield f"Some conditions have {seeds} seed{'s' * (seeds != 1)} only, so other seeds might give another answer."
    shuffled = study.runs.loc[study.runs["shuffle"] == "across"]
    if len(shuffled) and shuffled["map"].nunique() == 1:
        yield "All runs with shuffled labels share one label map, so another map might give another answer."
    if study.runs["lm"].nunique() == 1 or study.runs["encoder"].nunique() == 1:
        yield "Only one LM or one image encoder was run, so it is open whether others give the same answer."
    if (study.runs["task"] == "verify").all():
        yield "All questions are yes/no questions, so it is open whether a model would name the hypernym by itself."
    yield "Its categories are those of its taxonomy, so it is open whether others give the same answer."


def _leaves(row: Row) -> float:
    return float(row["leaf"]["macro_f1"]["mean"])
