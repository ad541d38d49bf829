"""Every F1 of the authors' release in one long table, by what its run names say."""

import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis.release import files
from analysis.release.files import EXPERIMENTS, TAXONOMY_NAMES, AbsentError, ReleaseError, find, read_f1, read_table
from cachegen.things.names import HYPERNYMS

ENCODERS = {"dinov2": "DINOv2", "siglip": "SigLIP", "dinosiglip": "DINOv2+SigLIP"}
LMS = {
    "500m": "Qwen3-0.6B",
    "1b": "Qwen3-1.7B",
    "8b": "Qwen3-8B",
    "1b-llama": "Llama-3.2-1B",
    "1b-llama-chat": "Llama-3.2-1B-Instruct",
}
SHUFFLES = {
    "": "Original",
    "-shuffled": "Across-category",
    "-local-shuffled": "Within-category",
    "-cat-shuffled": "Swap",
    "-cat-sampled": "Original",
}
_PATTERN = re.compile(
    r"align-(?P<encoder>[^+]+)\+(?P<lm>.+?)-things"
    r"(?:\+hyp-abl(?P<amount>\d+)(?P<systematic>cat)?)?"
    r"(?P<labels>-shuffled|-local-shuffled|-cat-shuffled|-cat-sampled|)"
    r"-(?P<seed>\d+)(?P<random>-random)?"
)


@dataclass(frozen=True)
class RunName:
    """One run.

    encoder, lm: as the paper names them, else the release's own code. shuffle: Original | Across-category |
    Within-category | Swap. ablation: Full (all hypernym questions withheld) | Random (amount: percent of leaves) |
    Systematic (amount: number of hypernyms). toy: one of the ten-hypernym swap experiment or its control.
    """

    encoder: str
    lm: str
    random_lm: bool
    shuffle: str
    ablation: str
    amount: int
    seed: int
    toy: bool


def parse_run_name(name: str) -> RunName | None:
    """The run behind `name`; None where it is none of the study's."""
    found = _PATTERN.fullmatch(name)
    if found is None:
        return None
    amount, labels = found["amount"], found["labels"]
    return RunName(
        encoder=ENCODERS.get(found["encoder"], found["encoder"]),
        lm=LMS.get(found["lm"], found["lm"]),
        random_lm=found["random"] is not None,
        shuffle=SHUFFLES[labels],
        ablation="Full" if amount is None else "Systematic" if found["systematic"] else "Random",
        amount=100 if amount is None else int(amount),
        seed=int(found["seed"]),
        toy=labels.startswith("-cat-"),
    )


HELDOUT, SEEN, LEAVES = EXPERIMENTS
# Of the swap experiment and its control, by their taxonomy names; their files begin with "cat_".
TOY_HYPERNYMS = (
    "bird", "clothing accessory", "container", "dessert", "furniture", "medical equipment", "school supply",
    "vegetable", "vehicle", "weapon",
)  # fmt: skip


class Release:
    """A checkout of the authors' release, any subset of its files. Opening it raises ReleaseError if it has none.

    Tables are read when first asked for; what is absent raises AbsentError, what is malformed ReleaseError.
    """

    def __init__(self, root: Path) -> None:
        self.root = files.open_release(root)
        self.foreign: set[str] = set()  # run names that are none of the study's, left out
        self._scores: dict[str, pd.DataFrame] = {}

    def scores(self, experiment: str) -> pd.DataFrame:
        """One row per run and category of "Held-Out Hypernyms", "Seen Hypernyms" or "Leaves".

        Columns: run_name, the fields of `RunName`, category (a hypernym's name in the taxonomy, or a leaf's), f1 in
        0..1; cells that the release leaves empty are left out.
        """
        if experiment not in self._scores:
            pattern = _pattern(experiment)
            paths = sorted(self.root.glob(pattern))
            if not paths:
                raise AbsentError(pattern)
            tables = [self._long(table) for table in self._apart(paths, experiment)]
            self._scores[experiment] = pd.concat(tables, ignore_index=True)
        return self._scores[experiment]

    def runs(self, experiment: str, **wanted: object) -> pd.DataFrame:
        """The rows of `scores` with these values of `RunName`, the swap experiment left out unless it is asked for.

        Raises AbsentError where there are none.
        """
        scores = self.scores(experiment)
        wanted = {"toy": False} | wanted
        chosen = scores[(scores[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        if chosen.empty:
            weights = {True: "random-init", False: "pretrained"}
            asked = [weights[bool(value)] if name == "random_lm" else str(value) for name, value in wanted.items()]
            raise AbsentError(f"no run of {', '.join(asked[1:])} in {_pattern(experiment, bool(wanted['toy']))}")
        return chosen

    def lms(self, experiment: str, **wanted: object) -> list[str]:
        """The LMs of `runs`, sorted; none where there are no such runs."""
        try:
            return sorted(self.runs(experiment, **wanted)["lm"].unique())
        except AbsentError:
            return []

    @cached_property
    def weighted(self) -> pd.DataFrame:
        """Support-weighted F1 of held-out hypernyms: run_name (index) x hypernym, in 0..1."""
        return read_f1(find(self.root, files.WEIGHTED), HYPERNYMS)

    @cached_property
    def copied(self) -> frozenset[str]:
        """Runs whose held-out values under macro-f1s/ are those of the support-weighted file, every single one.

        Where classes are uneven the two measures differ, so such a row is no macro F1. None without that file.
        """
        try:
            weighted = self.weighted.reset_index().melt("run_name", var_name="category", value_name="weighted")
            runs = self.runs(HELDOUT)
        except AbsentError:
            return frozenset()
        both = runs.merge(weighted, on=["run_name", "category"])
        same = (both["f1"] == both["weighted"]).groupby(both["run_name"]).all()
        return frozenset(same.index[same])

    def rest_on_weighted(self, rows: pd.DataFrame) -> bool:
        """Whether any of these `runs` is support-weighted and not macro F1."""
        return not self.copied.isdisjoint(rows["run_name"])

    def notes(self) -> tuple[str, ...]:
        """What a reader of any mean must know, once the scores were read."""
        notes = []
        if self.foreign:
            notes.append(f"Left out, since their names are none of the study's: {', '.join(sorted(self.foreign))}.")
        if self.copied:
            lms = sorted({run.lm for name in self.copied if (run := parse_run_name(name))})
            notes.append(
                f"{len(self.copied)} runs under {files.MACRO} have the very values of {files.WEIGHTED}, so their means "
                f"are support-weighted and not macro F1: {', '.join(lms)}."
            )
        return tuple(notes)

    @cached_property
    def backbone(self) -> pd.DataFrame:
        """The LM's own score and the visual coherence of each hypernym.

        Columns: lm, hypernym (taxonomy name), shuffle_type (original | shuffled | local_shuffled), backbone_f1 (text
        probe, macro F1 in 0..1), avg_cosine.
        """
        path = find(self.root, files.BACKBONE)
        words, numbers = ["model", "hypernym", "shuffle_type", "category"], ["backbone_f1", "avg_cosine"]
        table = read_table(path, words, numbers, ["model", "hypernym", "shuffle_type"], between=(-1, 1))
        table["hypernym"] = taxonomy_names(path, table["hypernym"])
        return table.rename(columns={"model": "lm"}).drop(columns="category")

    def _apart(self, paths: list[Path], experiment: str) -> list[pd.DataFrame]:
        """Tables of run_name x category, each run once."""
        seen: dict[str, tuple[Path, pd.Series]] = {}
        tables = []
        for path in paths:
            toy = path.name.startswith("cat_")
            names = None if experiment == LEAVES else TOY_HYPERNYMS if toy else tuple(HYPERNYMS)
            table = read_f1(path, names)
            again = [name for name in table.index if name in seen]
            for name in again:
                other, row = seen[name]
                if not row.equals(table.loc[name]):
                    raise ReleaseError(f"run {name} has different values in {other} and {path}; remove one of them")
            seen |= {name: (path, table.loc[name]) for name in table.index}
            tables.append(table.drop(index=again))
        return tables

    def _long(self, table: pd.DataFrame) -> pd.DataFrame:
        runs = {name: parse_run_name(name) for name in table.index}
        self.foreign |= {name for name, run in runs.items() if run is None}
        rows = [{"run_name": name} | asdict(run) for name, run in runs.items() if run is not None]
        known = pd.DataFrame(rows, columns=["run_name", *(field.name for field in fields(RunName))])
        cells = table.loc[known["run_name"]].rename_axis("run_name").reset_index()
        return known.merge(cells.melt("run_name", var_name="category", value_name="f1").dropna(subset="f1"))


def _pattern(experiment: str, toy: bool = False) -> str:
    return f"{files.MACRO}/{'cat' if toy else ''}*_{EXPERIMENTS[experiment]}_f1_scores.csv"


def taxonomy_names(path: Path, forms: pd.Series) -> pd.Series:
    """Hypernyms under whatever name the release has for them -> their names in the taxonomy. Raises ReleaseError."""
    unknown = sorted(set(forms) - set(TAXONOMY_NAMES))
    if unknown:
        raise ReleaseError(f"{path}: {unknown[0]!r} is no hypernym of the paper; get the file again")
    return forms.map(TAXONOMY_NAMES)
