"""Figure 7 of the paper: held-out F1 against visual coherence, by hypernym; and against the LM's text probe."""

import pandas as pd

from analysis.beside_paper import references
from analysis.conditions import shown_runs
from analysis.drawing import Drawn, NotDrawnError
from analysis.published import published_hypernyms
from analysis.scatter import arm_scatter, scatter_text, setup_scatter
from analysis.study import Study, coherence_points

DOTS = "One dot per held-out hypernym, pretrained LM, mean over runs; the line is fitted by least squares."


def coherence_figure(study: Study, centred: bool = True) -> Drawn:
    """Held-out F1 of the pretrained LM against coherence, a dot per hypernym, a panel per arm.

    Centred, or as the paper defines it (Figure 7). Where all embeddings share one large direction, plain cosines are
    all close to 1 whatever the images show. Raises NotDrawnError without coherence.
    """
    points = coherence_points(study)
    if points.empty:
        raise NotDrawnError("Figure 7 needs the feature store and the dataset of the runs, for visual coherence.")
    runs = shown_runs(study.runs)
    if centred:
        figure = arm_scatter(points, runs, "centred", "visual coherence, centred")
        caption = f"{DOTS} Coherence is centred: the mean of all training images is subtracted first."
        alt = scatter_text(points, runs, "centred")
        return Drawn(figure, "Held-out F1 against visual coherence, centred", caption, alt)
    points = points[points["arm"] == "original"]
    if points.empty:
        raise NotDrawnError("Figure 7 needs runs on original labels.")
    rings = _published(runs, study.categories)
    figure = setup_scatter(points, runs, "all_pairs", "visual coherence (mean cosine)", rings)
    caption = f"Original labels. {DOTS} Coherence is the mean cosine of all pairs of a hypernym’s training images."
    if len(rings):
        caption += " Open markers: the paper’s hypernyms, means of three seeds; dotted: the line fitted to them."
    alt = scatter_text(points, runs, "all_pairs")
    return Drawn(figure, "Held-out F1 against visual coherence", caption, alt, "Figure 7")


def text_figure(study: Study) -> Drawn:
    """Held-out F1 of the pretrained LM against its text probe's, drawn like coherence.

    Raises NotDrawnError without probes.
    """
    points = study.text[study.text["lm_init"] == "pretrained"]
    if points.empty:
        raise NotDrawnError("Held-out F1 against text knowledge needs the text probes of the runs' LMs (--probe).")
    runs = shown_runs(study.runs)
    figure = arm_scatter(points, runs, "text_f1", "text probe, macro F1")
    caption = f"{DOTS} Text: macro F1 of the probe, mean over phrasings."
    alt = scatter_text(points, runs, "text_f1")
    return Drawn(figure, "Held-out F1 against what the LM knows in text", caption, alt)


def _published(runs: pd.DataFrame, categories: pd.DataFrame) -> pd.DataFrame:
    """The paper's hypernyms beside our original labels at 100 %: columns setup, category, all_pairs, f1.

    Only beside runs of the paper's own models and images: coherence has another scale with others.
    """
    table, beside = published_hypernyms(), references(runs, categories).only_same
    full = runs[(runs["arm"] == "original") & (runs["ablation_kind"] == "random") & (runs["ablation"] == 100)]
    parts = [pd.DataFrame(columns=["setup", "category", "all_pairs", "f1"])]
    for _, run in full.drop_duplicates("setup").iterrows():
        reference = beside.of(run)
        if reference and reference.encoder == "DINOv2" and reference.lm in table:
            rows = table.rename(columns={"coherence": "all_pairs", reference.lm: "f1"})[["all_pairs", "f1"]]
            parts.append(rows.rename_axis("category").reset_index().assign(setup=run["setup"]))
    return pd.concat(parts, ignore_index=True)
