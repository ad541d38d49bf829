"""Figure 3 of the paper: image encoders side by side, everything else equal."""

from collections.abc import Iterable

import pandas as pd

from analysis.beside_paper import References, references
from analysis.cells import encoder_names, last_part, setup_fields, short_name, shown_runs
from analysis.figures.main import LIFT, PANELS, Cell, cells_text, f1_limits, published_f1, strip
from analysis.figures.style import (
    DOUBLE,
    ENCODER_LOOKS,
    GREY,
    INK,
    Drawn,
    Look,
    NotDrawnError,
    grid,
    key,
    legend,
    level_lines,
    paper_keys,
    permuted_key,
    row_title,
    style,
)
from analysis.study import Study

OTHER_LOOKS = [Look(GREY, INK, marker) for marker in "<>hpd*"]  # of encoders that the paper does not have
GAP = 0.6  # between the encoders of one LM and the next, in dots
HEIGHT = 2.2  # inches


def encoder_figure(study: Study) -> Drawn:
    """Macro F1 of leaves and held-out hypernyms on original labels, the encoders side by side for each LM.

    Raises NotDrawnError unless two encoders were run with the same LM and settings.
    """
    runs = shown_runs(study.runs)
    runs = runs[(runs["arm"] == "original") & (runs["lm_init"] == "pretrained")]
    runs = runs.assign(settings=_settings(runs))
    runs = runs[runs.groupby(["settings", "lm"])["encoder"].transform("nunique") > 1]
    if runs.empty:
        raise NotDrawnError("Figure 3 needs runs on two image encoders with the same LM and settings.")
    names = runs["encoder"].map(encoder_names(runs["encoder"])) + (" " + runs["features"]).where(
        runs["features"] != "", ""
    )
    runs = runs.assign(eye=names)
    looks = _looks(names)
    beside = references(study.runs, study.categories).only_same
    settings = list(dict.fromkeys(runs["settings"]))
    said = []
    with style():
        figure, axes = grid(len(settings), len(PANELS), DOUBLE, height=HEIGHT)
        for row, setting in zip(axes, settings, strict=True):
            here = runs[runs["settings"] == setting]
            for ax, (group, title) in zip(row, PANELS, strict=True):
                scores = study.test(group).loc[here.index]
                cells: list[Cell] = []
                places: list[float] = []
                ticks: dict[float, str] = {}
                for lm, own in here.groupby("lm", sort=False):
                    start = places[-1] + 1 + GAP if places else 0.0
                    eyes = [
                        _cell(str(name), looks, eye, scores, group, beside)
                        for name, eye in own.groupby("eye", sort=False)
                    ]
                    cells += eyes
                    places += [start + place for place in range(len(eyes))]
                    ticks[(start + places[-1]) / 2] = last_part(lm)
                    said.append(cells_text(f"{title}, {last_part(lm)}", eyes, 1))
                lines = {"fair coin": scores["coin_f1"].mean(), "majority": scores["majority_f1"].mean()}
                level_lines(ax, lines, gap=7)
                strip(ax, cells, "{:.0f}", LIFT, places)
                ax.set_xticks(list(ticks), list(ticks.values()))
                ax.set_ylim(*f1_limits(cells, lines.values()))
                ax.set_title(title)
                ax.set_ylabel("macro F1 (test)")
            if len(settings) > 1:
                row_title(row[0], setting)
        handles = [key(name, look, ls="") for name, look in looks.items()]
        handles += [permuted_key(), *paper_keys(beside.name)]
        legend(figure, handles)
    caption = (
        "Macro F1 on test images with original labels, mean over categories, by encoder and LM. One dot per run, bar "
        "and number at their mean. Grey bars: the same runs’ answers permuted within each category. Lines: a fair "
        "coin, and the more frequent answer of each category, on these very questions."
    )
    return Drawn(figure, "Image encoders", caption + beside.caption, " ".join(said), "Figure 3")


def _cell(
    name: str, looks: dict[str, Look], runs: pd.DataFrame, scores: pd.DataFrame, group: str, beside: References
) -> Cell:
    values = scores.loc[runs.index]
    permuted = float(values["permuted_f1"].mean())
    return Cell(name, looks[name], values["macro_f1"], permuted, published_f1(runs, group, beside))


def _looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each encoder; those of the paper have their own."""
    others = iter(OTHER_LOOKS)
    return {name: ENCODER_LOOKS.get(name) or next(others, OTHER_LOOKS[-1]) for name in dict.fromkeys(names)}


def _settings(runs: pd.DataFrame) -> pd.Series:
    """Everything that must be equal for encoders to be compared, as text: what differs among `runs`."""
    fields = [name for name in setup_fields(runs) if name not in ("encoder", "features", "lm", "settings")]
    fields = [name for name in fields if runs[name].nunique(dropna=False) > 1]
    texts = pd.DataFrame({name: f"{name} " + runs[name].map(short_name) for name in fields}, index=runs.index)
    return texts.agg(", ".join, axis=1) if fields else pd.Series("", index=runs.index)
