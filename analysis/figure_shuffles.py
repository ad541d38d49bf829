"""Figures 6 and 11 of the paper: original, across- and within-category labels over the levels of ablation."""

from analysis.conditions import arms_of
from analysis.curves import Curves, curves_caption, curves_text, draw_curves, series_of
from analysis.drawing import Drawn, NotDrawnError
from analysis.study import Study


def shuffle_figure(study: Study, score: str = "f1", llama: bool = False) -> Drawn:
    """Scores (f1 | auc) of the pretrained LM against the level of ablation, a line for each arm with whole shuffles.

    Figure 6 has all LMs but the Llamas, Figure 11 these. Raises NotDrawnError unless one was run with two kinds of
    labels at two levels each.
    """
    paper, which = ("Figure 11", "a Llama") if llama else ("Figure 6", "an LM")
    whole = study.runs[~study.runs["partial"]]
    curves = Curves.of(study, {("pretrained", arm): arm for arm in arms_of(whole)}, series_of(study, llama))
    curves = curves.where(curves.table.groupby(["series", "kind"])["arm"].transform("nunique") > 1)
    if curves.table.empty:
        raise NotDrawnError(
            f"{paper} needs runs of {which} with original and with shuffled labels at two or more levels of ablation."
        )
    return Drawn(
        draw_curves(curves, score),
        "Ablation curves: original and shuffled labels",
        f"Pretrained LM. {curves_caption(curves, score)}",
        curves_text(curves, score),
        paper if score == "f1" else "",
    )
