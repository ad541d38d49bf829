"""A tuning study as `crosstax tune` recorded it: its trials, the best one, and what mattered.

Schema of `tune.json`: see `sweeps.tune.record`. Of the runs in such a folder, analysis reads those of the best trial
only: test answers of other trials are read by nothing.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cachegen.common.errors import RunError
from cachegen.common.files import read_json

SCHEMA = 1
FILE = "tune.json"
EXPLORATORY = "EXPLORATORY: answers on unseen hypernyms decided in tuning, so no result on them is confirmatory."
DECIDED = {
    "seen": "validation questions on leaves and seen hypernyms",
    "unseen": "validation questions on unseen hypernyms",
}
STATES = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Tuning:
    """What `tune.json` says: `record` as it is there."""

    record: dict[str, Any]

    @property
    def exploratory(self) -> bool:
        return bool(self.record["exploratory"])

    @property
    def searched(self) -> list[str]:
        """The searched fields."""
        return list(self.record["table"]["space"])

    @property
    def decided(self) -> str:
        """What decided, in words."""
        return DECIDED[self.record["table"]["objective"]]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial: number, state, trained (epochs) and score of its last rung (missing where it has none),
        `value_<group>`, n_runs, reason, and a column for each searched field."""
        rows = []
        for trial in self.record["trials"]:
            last = trial["rungs"][-1] if trial["rungs"] else {"epochs": None, "value": None, "groups": {}, "runs": []}
            groups = {f"value_{group}": value for group, value in last["groups"].items()}
            rows.append(
                {"number": trial["number"], "state": trial["state"], "trained": last["epochs"], "score": last["value"]}
                | groups
                | {"n_runs": len(last["runs"]), "reason": trial["reason"] or "", **trial["params"]}
            )
        return pd.DataFrame(rows)

    @property
    def complete(self) -> pd.DataFrame:
        return self.trials[self.trials["state"] == "complete"]

    @property
    def best(self) -> dict[str, Any] | None:
        """number, value and params of the best trial; None while none is complete."""
        found: dict[str, Any] | None = self.record["best"]
        return found

    @property
    def importance(self) -> dict[str, float]:
        """Field -> share, most important first; empty with too few complete trials."""
        shares: dict[str, float] = self.record["importance"] or {}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @property
    def runs(self) -> frozenset[str]:
        """Runs of the best trial, trained to the end; none while no trial is complete."""
        if self.best is None:
            return frozenset()
        return frozenset(self.record["trials"][self.best["number"]]["rungs"][-1]["runs"])

    @property
    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        counts = [f"{(self.trials['state'] == state).sum()} {state}" for state in STATES]
        if self.best is None:
            return f"{len(self.trials)} trials ({', '.join(counts)})."
        chosen = ", ".join(f"{name} = {value}" for name, value in self.best["params"].items())
        text = (
            f"Best of {len(self.trials)} trials ({', '.join(counts)}): trial {self.best['number']}, macro F1 "
            f"{self.best['value']:.1f} on {self.decided}, with {chosen}."
        )
        return f"{EXPLORATORY} {text}" if self.exploratory else text


def read_tuning(folder: Path) -> Tuning | None:
    """The tuning study whose trials are in a sweep folder; None if there is none."""
    if not (folder / FILE).is_file():
        return None
    record = read_json(folder / FILE)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise RunError(
            f"{folder / FILE} was written by another version of crosstax; delete it, or tune again elsewhere"
        )
    return Tuning(record)
