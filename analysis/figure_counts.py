"""Figures 8 and 9 of the paper for a study, from the dataset that its runs name (see `data_figures`)."""

import pandas as pd

from analysis.data_figures import hypernyms_per_leaf_figure, leaves_per_hypernym_figure, same_hypernyms
from analysis.drawing import Drawn, NotDrawnError
from analysis.study import Study


def hypernyms_figure(study: Study) -> Drawn:
    """Figure 8 of the first dataset of a study. Raises NotDrawnError where it cannot be found any more."""
    pairs = _pairs(study, "Figure 8")
    table = pairs["leaf"].value_counts().value_counts().sort_index().rename_axis("hypernyms").rename("leaves")
    return hypernyms_per_leaf_figure(table.reset_index(), same_hypernyms(pairs["hypernym"]))


def leaves_figure(study: Study) -> Drawn:
    """Figure 9 of the first dataset of a study. Raises NotDrawnError where it cannot be found any more."""
    table = _pairs(study, "Figure 9")["hypernym"].value_counts().rename_axis("hypernym").rename("leaves").reset_index()
    table = table.sort_values(["leaves", "hypernym"], ascending=[False, True], ignore_index=True)
    return leaves_per_hypernym_figure(table, same_hypernyms(table["hypernym"]))


def _pairs(study: Study, figure: str) -> pd.DataFrame:
    """Leaves with their hypernyms in the study's first dataset."""
    found = study.sweep.inputs.dataset(study.sweep.opened[str(study.runs.index[0])])
    if found is None:
        raise NotDrawnError(f"{figure} needs the dataset of the runs, which is not where they found it.")
    return found[1].pairs
