"""Figures 4 and 10 of the paper: pretrained against random-init LM over random and systematic ablation."""

from analysis.curves import Curves, curves_caption, curves_text, draw_curves, series_of
from analysis.drawing import Drawn, NotDrawnError
from analysis.study import Study

LINES = {("pretrained", "original"): "pretrained LM", ("random", "original"): "random-init LM"}


def ablation_figure(study: Study, score: str = "f1", llama: bool = False) -> Drawn:
    """Scores (f1 | auc) against the level of ablation on original labels.

    Figure 4 has all LMs but the Llamas, Figure 10 these. Raises NotDrawnError unless one was run at two levels.
    """
    paper, which = ("Figure 10", "a Llama") if llama else ("Figure 4", "an LM")
    curves = Curves.of(study, LINES, series_of(study, llama))
    if curves.table.empty:
        raise NotDrawnError(f"{paper} needs runs of {which} on original labels at two or more levels of ablation.")
    return Drawn(
        draw_curves(curves, score),
        "Ablation curves: pretrained and random-init LM",
        f"Original labels. {curves_caption(curves, score)}",
        curves_text(curves, score),
        paper if score == "f1" else "",
    )
