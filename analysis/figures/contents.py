"""All figures of a study by name, those of the paper among them, each ready for a page and for files.

    figures = draw_figures(study)
    figures.drawn["ablation"].write(folder, "ablation")   # .svg, .pdf and .png
    figures.absent["depth"]                               # why there is none

| paper | name |
|---|---|
| Figure 3 | encoders |
| Figures 4, 10 | ablation, ablation_llama |
| Figures 6, 11 | shuffles, shuffles_llama |
| Figure 7 | coherence_plain |
| Figures 8, 9 | hypernyms_per_leaf, leaves_per_hypernym |
| Figure 12 | depth |
| Table 5 | main |
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from analysis.figures.coherence import coherence_figure, text_figure
from analysis.figures.counts import hypernyms_figure, leaves_figure
from analysis.figures.curves import ablation_figure, shuffle_figure
from analysis.figures.depth import depth_figure
from analysis.figures.dose import dose_figure
from analysis.figures.encoders import encoder_figure
from analysis.figures.lens import lens_figure, lens_maps_figure, lens_names_figure
from analysis.figures.loss import loss_figure
from analysis.figures.main import auc_figure, headline_figure, main_figure
from analysis.figures.sensitivity import sensitivity_figure
from analysis.figures.style import Drawn, NotDrawnError
from analysis.figures.tuning import tuning_figure
from analysis.figures.yardsticks import yardstick_figure
from analysis.items import Wording
from analysis.study import Study
from cachegen.common.progress import progress_bar

FIGURES: dict[str, Callable[[Study], Drawn]] = {
    "main": main_figure,
    "headline": headline_figure,
    "auc": auc_figure,
    "sensitivity": sensitivity_figure,
    "encoders": encoder_figure,
    "ablation": ablation_figure,
    "ablation_auc": partial(ablation_figure, score="auc"),
    "shuffles": shuffle_figure,
    "shuffles_auc": partial(shuffle_figure, score="auc"),
    "yardsticks": yardstick_figure,
    "coherence": coherence_figure,
    "coherence_plain": partial(coherence_figure, centred=False),
    "text": text_figure,
    "hypernyms_per_leaf": hypernyms_figure,
    "leaves_per_hypernym": leaves_figure,
    "ablation_llama": partial(ablation_figure, llama=True),
    "shuffles_llama": partial(shuffle_figure, llama=True),
    "depth": depth_figure,
    "dose": dose_figure,
    "lens": lens_figure,
    "lens_names": lens_names_figure,
    "lens_maps": lens_maps_figure,
    "loss": loss_figure,
    "tuning": tuning_figure,
}


@dataclass(frozen=True)
class Figures:
    """drawn: name -> figure, in the order of `FIGURES`. absent: name -> a sentence on which runs it would need."""

    drawn: dict[str, Drawn]
    absent: dict[str, str]


def draw_figures(study: Study, drawn_now: Callable[[str, Drawn], None] = lambda *_: None) -> Figures:
    """Draw every figure that the runs of a study allow.

    Args:
        study: The study, from `measure`.
        drawn_now: Called with name and figure as soon as a figure is drawn.

    Returns:
        `drawn`: each figure by name; `absent`: why a figure is missing, by name.
    """
    drawn: dict[str, Drawn] = {}
    absent: dict[str, str] = {}
    wording = Wording(study)
    with progress_bar("draw", len(FIGURES), "figures") as advance:  # much is computed when a figure first asks for it
        for name, draw in FIGURES.items():
            try:
                figure = draw(study)
                drawn[name] = figure.said(wording) if wording.items else figure
            except NotDrawnError as why:
                absent[name] = wording(str(why))
            else:
                drawn_now(name, drawn[name])
            advance(1)
    return Figures(drawn, absent)
