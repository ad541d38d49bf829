"""How the settings of these runs were searched."""

from typing import Any

import numpy as np

from analysis.page.page import Data, Page
from analysis.page.table import Column, table


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
        Column("outcome", lambda row: (row["state"], row["reason"]), "noted"),
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
