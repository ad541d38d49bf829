"""Figures 4, 6, 10 and 11 of the paper: scores over levels of ablation, by LM weights and by labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.beside_paper import Reference, References, references
from analysis.cells import LM_NAMES, Ablation, Cell, Line, Names, Setup, condition_of, lines_of, parts, where
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

PanelKey = tuple[Setup, Ablation]  # a series, and a method of ablation


@dataclass(frozen=True)
class Curves:
    """Rows of `Study.ablation` for one figure.

    by_weights: whether lines are named by the LM's weights, all on original labels; else by the labels.
    reference: series and method of ablation -> models of the paper, where its rules are those of the
    runs; beside: of all of them.
    """

    table: pd.DataFrame
    names: Names
    by_weights: bool
    reference: dict[PanelKey, Reference]
    beside: References

    @classmethod
    def of(cls, study: Study, chosen: Callable[[Cell], bool], by_weights: bool) -> "Curves":
        """The curves of the chosen cells, the full random ablation as the last level of systematic ones."""
        table = _with_full(where(study.ablation, chosen))
        series = {cell.setup.series for cell in table["cell"]}
        runs = where(study.runs, lambda cell: cell.setup.series in series)
        beside = references(runs, study.categories)
        found = {panel: own.iloc[0] for panel, own in parts(runs, _panel_of).items()}
        known = {panel: beside.of(run) for panel, run in found.items() if _as_published(run)}
        known_only = {panel: reference for panel, reference in known.items() if reference}
        return cls(table, study.names, by_weights, known_only, beside)

    @cached_property
    def panels(self) -> dict[PanelKey, pd.DataFrame]:
        """The rows of each series and method, in the order of the table."""
        return parts(self.table, _panel_of)

    @property
    def series(self) -> list[Setup]:
        return list(dict.fromkeys(series for series, _ in self.panels))

    @property
    def methods(self) -> list[Ablation]:
        return sorted({method for _, method in self.panels})

    @property
    def lines(self) -> list[Line]:
        return lines_of(self.table)

    def name(self, line: Line) -> str:
        """Of a line, for the legend."""
        lm_init, labels = line
        return LM_NAMES[lm_init] if self.by_weights else self.names.labels(labels)


def draw_curves(curves: Curves, score: str) -> Figure:
    """Lines are means over categories and runs, thin vertical lines the runs' extremes, open markers the paper's.

    Held-out hypernyms have a panel, and what was trained on (seen hypernyms and leaves) the one beside it. More than
    two kinds of ablation have a row each.
    """
    methods, aside = curves.methods, len(curves.methods) > 2
    rows = [(series, [method]) for series in curves.series for method in methods] if aside else []
    rows = rows or [(series, methods) for series in curves.series]
    with style():
        columns = 2 * (1 if aside else len(methods))
        figure, axes = grid(len(rows), columns, DOUBLE, height=1.75 if columns == 2 else 1.65)
        for row, (series, shown) in zip(axes, rows, strict=True):
            for place, method in enumerate(shown):
                for ax, group in zip(row[2 * place : 2 * place + 2], TITLES, strict=True):
                    _panel(ax, curves, (series, method), score, group)
                    ax.set_title(f"{curves.names.method(method).capitalize()}: {TITLES[group]}", fontsize=7.5)
                    ax.set_xlabel(LEVELS[method.kind])
            row[0].set_ylabel(SCORES[score])
            if len(curves.series) > 1:
                row_title(row[0], curves.names.series(series))
        for first in range(2):
            _one_scale(axes[:, first::2], score)
        legend(figure, _keys(curves, score))
    return figure


def curves_caption(curves: Curves, score: str) -> str:
    """How to read `draw_curves`."""
    measure = "macro F1" if score == "f1" else "AUC of p(yes)"
    text = f"Test {measure}, mean over categories and runs; thin vertical lines span the runs. Beside the held-out "
    text += "hypernyms stands what was trained on: seen hypernyms, and leaves as thin lines."
    if any(method.kind == "systematic" for method in curves.methods):
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
    for (series, method), rows in parts(chosen, _panel_of).items():
        unit = "%" if method.kind == "random" else "hypernyms"
        found, ends = parts(rows, condition_of), []
        for line in (line for line in curves.lines if line in found):
            curve = found[line].sort_values("ablation")
            first, last = curve.iloc[0], curve.iloc[-1]
            ends.append(
                f"{curves.name(line)} {number(first[score], decimals)} with {first['ablation']:g} {unit} withheld and "
                f"{number(last[score], decimals)} with {last['ablation']:g}"
            )
        named = f"{curves.names.method(method)} ablation", curves.names.series(series)
        where = ", ".join(part for part in named if part)
        said.append(f"{where[0].upper()}{where[1:]}, held-out hypernyms: {'; '.join(ends)}.")
    return " ".join(said)


def _panel_of(cell: Cell) -> PanelKey:
    return cell.setup.series, cell.ablation.method


def _as_published(run: pd.Series) -> bool:
    """Whether questions were withheld as for the paper's values: by leaf, and systematically those of Table 4."""
    listed = (run["removed_list"], run["removed_as_negative"]) == ("published", "keep")
    return bool(run["scope"] == "leaf" and (listed or run["ablation_kind"] == "random"))


def _with_full(table: pd.DataFrame) -> pd.DataFrame:
    """All hypernyms removed is the same as a random ablation of 100 %, so a systematic curve ends there."""
    curves = parts(table, lambda cell: cell.curve)
    full = {curve[:3]: own[own["ablation"] == 100] for curve, own in curves.items() if curve[3].kind == "random"}
    ends = []
    for (series, labels, lm_init, method), own in curves.items():
        end = full.get((series, labels, lm_init), table.iloc[:0])
        if method.kind == "random" or end.empty:
            continue
        asked = end[(end["group"] == "heldout") & (end["over"] == "all")]
        removed = round(asked["n_categories"].iloc[0])
        cell = Cell(replace(series, ablation=replace(method, amount=removed)), labels, lm_init)
        ends.append(
            end.assign(
                cell=pd.Series([cell] * len(end), index=end.index, dtype=object),
                kind=own["kind"].iloc[0],
                ablation=removed,
            )
        )
    return pd.concat([table, *ends], ignore_index=True)


def _panel(ax: Axes, curves: Curves, panel: PanelKey, score: str, group: str) -> None:
    """One method of ablation of one series: held-out hypernyms, or what was trained on."""
    table = curves.panels.get(panel, curves.table.iloc[:0])
    found = parts(table, condition_of)
    for line in (line for line in curves.lines if line in found):
        own = found[line].sort_values("ablation")
        look, name = look_of(*line), curves.name(line)
        all_of = own[own["over"] == "all"].set_index("group")
        shown: list[tuple[str, pd.DataFrame, dict[str, Any]]] = [(group, all_of.loc[all_of.index == group], {})]
        if group == "heldout":
            shown.append(("removed", own[own["over"] == "removed only"], REMOVED))
        else:
            shown.append(("leaf", all_of.loc[all_of.index == "leaf"], LEAF))
        for part, rows, changes in shown:
            if rows.empty:
                continue
            plot_line(ax, rows["ablation"], rows[score], look, label=f"{name}, {part}", **changes)
            ax.vlines(rows["ablation"], rows[f"{score}_low"], rows[f"{score}_high"], color=look.colour, lw=0.8)
            if score == "f1":
                _rings(ax, curves.reference.get(panel), line, panel[1].kind, part)
    if score == "f1" and group == "heldout":
        asked = table[(table["group"] == group) & (table["over"] == "all")]
        coin = asked.groupby("ablation")["coin_f1"].mean()
        ax.plot(coin.index, coin, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
    if score == "auc":
        ax.axhline(0.5, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
    if table[table["group"].isin(["seen", "leaf"] if group == "seen" else [group])].empty:
        ax.text(0.5, 0.5, "no such questions", transform=ax.transAxes, ha="center", color=GREY, fontsize=SMALL)
    if len(table):
        ax.set_xticks(ticks_apart(table["ablation"].unique(), 0.13))
        ax.set_xticks(table["ablation"].unique(), minor=True)
    ax.margins(x=0.09)


def _rings(ax: Axes, beside: Reference | None, line: Line, kind: str, part: str) -> None:
    """The paper's values of one curve; of other models or images only where the levels mean the same."""
    if beside is None or line[1].partial or (kind == "systematic" and not beside.same):
        return
    lm_init, labels = line
    group, over = ("heldout", "removed only") if part == "removed" else (part, "all")
    rows = published_rows(lm=beside.lm, encoder=beside.encoder, lm_init=lm_init, shuffle=labels.shuffle)
    rows = rows[(rows["group"] == group) & (rows["over"] == over)]
    shown = rows[rows["kind"] == kind]
    if kind == "systematic":
        full = rows[(rows["kind"] == "random") & (rows["ablation"] == 100)]
        shown = pd.concat([shown, full.assign(ablation=len(published_hypernyms()))])
    if len(shown):
        name = f"{lm_init} {labels.shuffle} {part}"
        plot_published(ax, shown["ablation"], shown["f1"], look_of(*line), name, *RINGS[part])


def _one_scale(axes: np.ndarray, score: str) -> None:
    """One y scale for all panels of a group; what was trained on has another one than what was held out."""
    low = min(ax.get_ylim()[0] for ax in axes.flat)
    for ax in axes.flat:
        ax.set_ylim(low, 103 if score == "f1" else 1.03)


def _keys(curves: Curves, score: str) -> list[Artist]:
    handles: list[Artist] = [key(curves.name(line), look_of(*line)) for line in curves.lines]
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


def _is_llama(cell: Cell) -> bool:
    return "llama" in cell.setup.lm.name.lower()


def ablation_figure(study: Study, score: str = "f1", llama: bool = False) -> Drawn:
    """Scores (f1 | auc) against the level of ablation on original labels.

    Figure 4 has all LMs but the Llamas, Figure 10 these. Raises NotDrawnError unless one was run at two levels.
    """
    paper, which = ("Figure 10", "a Llama") if llama else ("Figure 4", "an LM")
    curves = Curves.of(
        study, lambda cell: cell.labels.shuffle == "original" and _is_llama(cell) == llama, by_weights=True
    )
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
    """Scores (f1 | auc) of the pretrained LM against the level of ablation, a line for each whole shuffle.

    Figure 6 has all LMs but the Llamas, Figure 11 these. Raises NotDrawnError unless one was run with two kinds of
    labels at two levels each.
    """
    paper, which = ("Figure 11", "a Llama") if llama else ("Figure 6", "an LM")
    curves = Curves.of(
        study,
        lambda cell: cell.pretrained and not cell.labels.partial and _is_llama(cell) == llama,
        by_weights=False,
    )
    several = {panel for panel, rows in curves.panels.items() if len(lines_of(rows)) > 1}
    curves = replace(curves, table=where(curves.table, lambda cell: _panel_of(cell) in several))
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
