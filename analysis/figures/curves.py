"""Figures 4, 6, 10 and 11 of the paper: scores over levels of ablation, by LM weights and by labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.beside_paper import Reference, References, references
from analysis.cells import arms_of, setup_names, shuffle_of
from analysis.figures.style import (
    COIN_DASH,
    DOUBLE,
    GREY,
    INK,
    SMALL,
    Drawn,
    Look,
    NotDrawnError,
    coin_key,
    grid,
    key,
    legend,
    look_of,
    paper_keys,
    plot_line,
    plot_published,
    row_title,
    style,
    ticks_apart,
)
from analysis.published import published_hypernyms, published_rows
from analysis.study import Study
from analysis.words import number

SCORES = {"f1": "macro F1 (test)", "auc": "AUC of p(yes) (test)"}
TITLES = {"heldout": "held-out", "seen": "trained on"}
LEVELS = {"random": "leaves withheld (%)", "systematic": "hypernyms removed"}
DOTTED = (0, (1, 2))
LEAF = {"lw": 0.7, "ms": 2, "alpha": 0.6}  # how leaves differ from seen hypernyms
RINGS = {"heldout": (6, DOTTED), "removed": (4.5, DOTTED), "seen": (6, DOTTED), "leaf": (4.5, "")}
REMOVED = {"lw": 0.9, "mfc": "white", "ms": 3.4}  # how removed hypernyms differ from all held-out ones

Line = tuple[str, str]  # lm_init, arm


@dataclass(frozen=True)
class Curves:
    """Rows of `Study.ablation` for one figure. lines: lm_init and arm -> name. names: series -> name for people.

    reference: series and kind -> models of the paper, where its rules are those of the runs; beside: of all of them.
    """

    table: pd.DataFrame
    lines: dict[Line, str]
    names: dict[str, str]
    reference: dict[tuple[str, str], Reference]
    beside: References

    @classmethod
    def of(cls, study: Study, lines: dict[Line, str], series: Sequence[str]) -> "Curves":
        """The curves of `lines` in `series`, the full random ablation as the last level of systematic ones."""
        table = study.ablation
        asked = pd.MultiIndex.from_frame(table[["lm_init", "arm"]]).isin(list(lines))
        table = _with_full(table[asked & table["series"].isin(series)])
        runs = study.runs[study.runs["series"].isin(table["series"])]
        beside = references(runs, study.categories)
        curves = runs.drop_duplicates(["series", "kind"])
        found = {(run["series"], run["kind"]): beside.of(run) for _, run in curves.iterrows() if _as_published(run)}
        return cls(
            table,
            lines,
            setup_names(study.runs, "series"),
            {curve: reference for curve, reference in found.items() if reference},
            beside,
        ).where(pd.Series(True, index=table.index))

    def where(self, rows: pd.Series) -> "Curves":
        """These rows only, and the lines that they have."""
        table = self.table[rows]
        present = set(zip(table["lm_init"], table["arm"], strict=True))
        return replace(self, table=table, lines={line: name for line, name in self.lines.items() if line in present})

    @property
    def series(self) -> list[str]:
        return list(dict.fromkeys(self.table["series"]))

    @property
    def kinds(self) -> list[str]:
        return sorted(self.table["kind"].unique())


def draw_curves(curves: Curves, score: str) -> Figure:
    """Lines are means over categories and runs, thin vertical lines the runs' extremes, open markers the paper's.

    Held-out hypernyms have a panel, and what was trained on (seen hypernyms and leaves) the one beside it. More than
    two kinds of ablation have a row each.
    """
    kinds, aside = curves.kinds, len(curves.kinds) > 2
    rows = [(series, [kind]) for series in curves.series for kind in kinds] if aside else []
    rows = rows or [(series, kinds) for series in curves.series]
    with style():
        columns = 2 * (1 if aside else len(kinds))
        figure, axes = grid(len(rows), columns, DOUBLE, height=1.75 if columns == 2 else 1.65)
        for row, (series, shown) in zip(axes, rows, strict=True):
            here = curves.table[curves.table["series"] == series]
            for place, kind in enumerate(shown):
                of_kind = here[here["kind"] == kind]
                for ax, group in zip(row[2 * place : 2 * place + 2], TITLES, strict=True):
                    _panel(ax, of_kind, curves, series, score, group)
                    ax.set_title(f"{kind.capitalize()}: {TITLES[group]}", fontsize=7.5)
                    ax.set_xlabel(LEVELS[_base(kind)])
            row[0].set_ylabel(SCORES[score])
            if len(curves.series) > 1:
                row_title(row[0], curves.names[series])
        for first in range(2):
            _one_scale(axes[:, first::2], score)
        legend(figure, _keys(curves, score))
    return figure


def series_of(study: Study, llama: bool) -> list[str]:
    """Series whose LM is a Llama, or those whose LM is none."""
    of_llama = study.runs["lm"].astype(str).str.contains("llama", case=False)
    return [str(name) for name in study.runs.loc[of_llama == llama, "series"].unique()]


def curves_caption(curves: Curves, score: str) -> str:
    """How to read `draw_curves`."""
    measure = "macro F1" if score == "f1" else "AUC of p(yes)"
    text = f"Test {measure}, mean over categories and runs; thin vertical lines span the runs. Beside the held-out "
    text += "hypernyms stands what was trained on: seen hypernyms, and leaves as thin lines."
    if any(_base(kind) == "systematic" for kind in curves.kinds):
        text += (
            " A systematic ablation withholds all hypernym questions of every leaf that has a removed hypernym, so its "
            "held-out mean takes in hypernyms that were kept; small hollow markers are means over the removed ones."
        )
    if score == "auc":
        return f"{text} Dashed: chance."
    return f"{text} Dashed: a fair coin on the held-out questions.{curves.beside.caption}"


def curves_text(curves: Curves, score: str) -> str:
    """First and last value of every held-out curve, in sentences."""
    said = []
    decimals = 1 if score == "f1" else 2
    chosen = curves.table[(curves.table["group"] == "heldout") & (curves.table["over"] == "all")]
    for (series, kind), rows in chosen.groupby(["series", "kind"], sort=False):
        unit = "%" if _base(str(kind)) == "random" else "hypernyms"
        ends = []
        for (lm_init, arm), name in curves.lines.items():
            curve = rows[(rows["lm_init"] == lm_init) & (rows["arm"] == arm)].sort_values("ablation")
            if len(curve):
                first, last = curve.iloc[0], curve.iloc[-1]
                ends.append(
                    f"{name} {number(first[score], decimals)} with {first['ablation']:g} {unit} withheld and "
                    f"{number(last[score], decimals)} with {last['ablation']:g}"
                )
        where = ", ".join(part for part in (f"{kind} ablation", curves.names[str(series)]) if part)
        said.append(f"{where[0].upper()}{where[1:]}, held-out hypernyms: {'; '.join(ends)}.")
    return " ".join(said)


def _base(kind: str) -> str:
    """random or systematic, whatever the variant."""
    return kind.split(" ")[0]


def _as_published(run: pd.Series) -> bool:
    """Whether questions were withheld as for the paper's values: by leaf, and systematically those of Table 4."""
    listed = (run["removed_list"], run["removed_as_negative"]) == ("published", "keep")
    return bool(run["scope"] == "leaf" and (listed or run["ablation_kind"] == "random"))


def _with_full(table: pd.DataFrame) -> pd.DataFrame:
    """All hypernyms removed is the same as a random ablation of 100 %, so a systematic curve ends there."""
    full = table[(table["kind"] == "random") & (table["ablation"] == 100)]
    if full.empty:
        return table
    number = full[(full["group"] == "heldout") & (full["over"] == "all")].set_index(["series", "arm", "lm_init"])
    keys = pd.MultiIndex.from_frame(full[["series", "arm", "lm_init"]])
    full = full.assign(ablation=number["n_categories"].round().astype(int).reindex(keys).to_numpy())
    ends = []
    for kind in (name for name in table["kind"].unique() if _base(name) == "systematic"):
        curve = table[table["kind"] == kind]
        known = pd.MultiIndex.from_frame(curve[["series", "arm", "lm_init"]].drop_duplicates())
        ends.append(full[keys.isin(known)].assign(kind=kind))
    return pd.concat([table, *ends], ignore_index=True)


def _panel(ax: Axes, table: pd.DataFrame, curves: Curves, series: str, score: str, group: str) -> None:
    """One kind of ablation of one series: held-out hypernyms, or what was trained on."""
    for (lm_init, arm), name in curves.lines.items():
        own = table[(table["lm_init"] == lm_init) & (table["arm"] == arm)].sort_values("ablation")
        look = look_of(lm_init, arm)
        all_of = own[own["over"] == "all"].set_index("group")
        parts: list[tuple[str, pd.DataFrame, dict[str, Any]]] = [(group, all_of.loc[all_of.index == group], {})]
        if group == "heldout":
            parts.append(("removed", own[own["over"] == "removed only"], REMOVED))
        else:
            parts.append(("leaf", all_of.loc[all_of.index == "leaf"], LEAF))
        for part, rows, changes in parts:
            if rows.empty:
                continue
            plot_line(ax, rows["ablation"], rows[score], look, label=f"{name}, {part}", **changes)
            ax.vlines(rows["ablation"], rows[f"{score}_low"], rows[f"{score}_high"], color=look.colour, lw=0.8)
            if score == "f1":
                kind = str(table["kind"].iloc[0])
                _rings(ax, curves.reference.get((series, kind)), (lm_init, arm), _base(kind), part)
    if score == "f1" and group == "heldout":
        asked = table[(table["group"] == group) & (table["over"] == "all")]
        coin = asked.groupby("ablation")["coin_f1"].mean()
        ax.plot(coin.index, coin, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
    if score == "auc":
        ax.axhline(0.5, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
    if table[table["group"].isin(["seen", "leaf"] if group == "seen" else [group])].empty:
        ax.text(0.5, 0.5, "no such questions", transform=ax.transAxes, ha="center", color=GREY, fontsize=SMALL)
    ax.set_xticks(ticks_apart(table["ablation"].unique(), 0.13))
    ax.set_xticks(table["ablation"].unique(), minor=True)
    ax.margins(x=0.09)


def _rings(ax: Axes, beside: Reference | None, line: Line, kind: str, part: str) -> None:
    """The paper's values of one curve; of other models or images only where the levels mean the same."""
    if beside is None or (kind == "systematic" and not beside.same):
        return
    lm_init, arm = line
    group, over = ("heldout", "removed only") if part == "removed" else (part, "all")
    rows = published_rows(lm=beside.lm, encoder=beside.encoder, lm_init=lm_init, shuffle=shuffle_of(arm))
    rows = rows[(rows["group"] == group) & (rows["over"] == over)]
    shown = rows[rows["kind"] == kind]
    if kind == "systematic":
        full = rows[(rows["kind"] == "random") & (rows["ablation"] == 100)]
        shown = pd.concat([shown, full.assign(ablation=len(published_hypernyms()))])
    if len(shown):
        name = f"{lm_init} {arm} {part}"
        plot_published(ax, shown["ablation"], shown["f1"], look_of(lm_init, arm), name, *RINGS[part])


def _one_scale(axes: np.ndarray, score: str) -> None:
    """One y scale for all panels of a group; what was trained on has another one than what was held out."""
    low = min(ax.get_ylim()[0] for ax in axes.flat)
    for ax in axes.flat:
        ax.set_ylim(low, 103 if score == "f1" else 1.03)


def _keys(curves: Curves, score: str) -> list[Artist]:
    handles: list[Artist] = [key(name, look_of(*line)) for line, name in curves.lines.items()]
    groups = set(curves.table["group"])
    plain_line = Look(INK, INK, "o")
    if "leaf" in groups:
        handles.append(key("leaves", plain_line, marker=".", **{k: v for k, v in LEAF.items() if k != "alpha"}))
    if (curves.table["over"] == "removed only").any():
        handles.append(key("removed hypernyms only", plain_line, **REMOVED))
    if score == "f1":
        handles += paper_keys(curves.beside.name)
    handles.append(coin_key("fair coin" if score == "f1" else "chance"))
    return handles


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
