"""Figures of what varies by degree: ablation levels (paper figure 4), the dose of a shuffle, depth (figure 12)."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.conditions import LM_NAMES, arms_of, shown_runs
from analysis.dose import RESPONSE, dose_table
from analysis.drawing import COLOURS, GREY, INK, MARKERS, PERMUTED, STYLE, arm_grid, as_svg, grid, lm_legend, padded
from analysis.study import Study

SCORES = (("f1", "macro F1 (test)"), ("auc", "AUC of p(yes) (test)"))
# group, over: how its line looks, and its name
LINES: dict[tuple[str, str], tuple[dict[str, Any], str]] = {
    ("leaf", "all"): ({"ls": "-", "lw": 1.0, "alpha": 0.4, "marker": "."}, "leaves"),
    ("seen", "all"): ({"ls": (0, (1, 1.5)), "lw": 1.6, "marker": ""}, "seen hypernyms"),
    ("heldout", "all"): ({"ls": "-", "lw": 2.0, "ms": 6, "mec": "white"}, "held-out hypernyms"),
    ("heldout", "removed only"): ({"ls": (0, (4, 2)), "lw": 1.5, "ms": 6, "mfc": "white"}, "removed hypernyms only"),
}
DOSE_AXES = (
    ("dose", "leaves shuffled across categories (%)"),
    ("coherence_centred", "visual coherence, centred"),
    ("coherence", "visual coherence, the paper's"),
)


def curve_figures(study: Study) -> dict[str, str]:
    """Figures by file name, those that the study's runs allow; with several series or setups they are numbered."""
    series = [name for name in dict.fromkeys(study.runs["series"]) if (study.ablation["series"] == name).any()]
    doses = list(study.dose[["setup", "rule"]].drop_duplicates().itertuples(index=False, name=None))
    return {
        **{_numbered("ablation", n): ablation_figure(study, name) for n, name in enumerate(series)},
        **{_numbered("dose", n): dose_figure(study.dose, *cell) for n, cell in enumerate(doses)},
        **({} if study.depth.empty else {"depth.svg": depth_figure(study)}),
    }


def ablation_figure(study: Study, series: str) -> str:
    """Scores against the ablation level: a column per kind of ablation, a row per score and arm."""
    name = f"\n{series}" if study.ablation["series"].nunique() > 1 else ""
    curves = study.ablation[study.ablation["series"] == series]
    runs = study.runs[study.runs["series"] == series]
    arms = [arm for arm in arms_of(runs) if (curves["arm"] == arm).any()]
    kinds = sorted(curves["kind"].unique())
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(arms) * len(SCORES), len(kinds), 9.6 if len(kinds) > 1 else 6.4)
        for place, row in enumerate(axes):
            arm, (score, label) = arms[place // len(SCORES)], SCORES[place % len(SCORES)]
            for ax, kind in zip(row, kinds, strict=True):
                here = curves[(curves["arm"] == arm) & (curves["kind"] == kind)]
                _ablation_panel(ax, here, score)
                ax.set_title(f"{kind} ablation,\n{arm}" if score == "f1" else "", pad=8)
                ax.set_xlabel("leaves withheld (%)" if kind.startswith("random") else "hypernyms removed")
            row[0].set_ylabel(label + name)
            low = [ax.get_ylim()[0] for ax in row]
            for ax in row:  # one scale, so that kinds compare
                ax.set_ylim(min(low), 103 if score == "f1" else 1.03)
        _line_legend(figure, curves)
        return as_svg(figure)


def dose_figure(points: pd.DataFrame, setup: str, rule: str) -> str:
    """Held-out scores against the dose of an across shuffle and the coherence it leaves; dots are runs, lines means."""
    told = [value for field, value in (("setup", setup), ("rule", rule)) if points[field].nunique() > 1]
    name = "".join(f"\n{value}" for value in told)
    points = points[(points["setup"] == setup) & (points["rule"] == rule)]
    means = dose_table(points)
    coin = means.drop(columns=RESPONSE).groupby("dose").mean().reset_index()
    shown = [axis for axis in DOSE_AXES if points[axis[0]].notna().any()]
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(SCORES), len(shown), 9.6 if len(shown) > 1 else 6.4)
        for row, (score, label) in zip(axes, SCORES, strict=True):
            for ax, (x, xlabel) in zip(row, shown, strict=True):
                for lm_init, colour in COLOURS.items():
                    here = points[points["lm_init"] == lm_init]
                    curve = means[means["lm_init"] == lm_init].sort_values("dose")
                    marker = MARKERS[lm_init]
                    ax.plot(here[x], here[score], marker, color=colour, ms=4, mec="white", mew=0.5, alpha=0.55)
                    ax.plot(curve[x], curve[score], "-", color=colour, lw=1.8)
                    ax.plot(curve[x], curve[score], marker, color=colour, ms=7, mec="white")
                    if score == "f1":
                        ax.plot(curve[x], curve["permuted_f1"], "-", color=PERMUTED, lw=2, zorder=1)
                if score == "f1":
                    ax.plot(coin[x], coin["coin_f1"], color=GREY, lw=1.1, ls=(0, (5, 3)), zorder=0)
                else:
                    ax.axhline(0.5, color=GREY, lw=1.1, ls=(0, (5, 3)), zorder=0)
                if score == SCORES[-1][0]:
                    ax.set_xlabel(xlabel)
            row[0].set_ylabel("held-out " + label + name)
            _shared_y(row)
        _doses_named(axes[0], means, shown)
        _line_legend(figure, points.assign(group="", over=""), ("permuted", "coin"))
        return as_svg(figure)


def depth_figure(study: Study) -> str:
    """Held-out F1 by depth of the hypernym: means over hypernyms with 95 % intervals, a panel per arm."""
    table, runs = study.depth, shown_runs(study.runs)
    depths = sorted(table["depth"].unique())
    several = table[["setup", "arm"]].drop_duplicates().shape[0] > 1
    with matplotlib.rc_context(STYLE):
        figure, panels = arm_grid(table, runs, 9.6 if several else 5.4, "depth", "held-out macro F1")
        for ax, setup, arm in panels:
            here = table[(table["setup"] == setup) & (table["arm"] == arm)]
            present = [name for name in COLOURS if (here["lm_init"] == name).any()]
            for place, lm_init in enumerate(present):
                cell = here[here["lm_init"] == lm_init]
                x = cell["depth"].map(depths.index) + 0.2 * (place - (len(present) - 1) / 2)
                ax.vlines(x, cell["f1_low"], cell["f1_high"], color=COLOURS[lm_init], lw=1.6)
                ax.plot(x, cell["f1"], MARKERS[lm_init], color=COLOURS[lm_init], ms=7, mec="white")
                ax.plot(x, cell["permuted_f1"], "_", color=PERMUTED, ms=14, mew=3, zorder=1)
            ax.set_title(arm)
            counts = here.groupby("depth")["n_hypernyms"].max().reindex(depths).fillna(0).astype(int)
            for depth, n in enumerate(counts):
                ax.text(
                    depth, 0.02, f"n = {n}", transform=ax.get_xaxis_transform(), ha="center", fontsize=8, color=GREY
                )  # fmt: skip
            ax.set_xticks(range(len(depths)), map(str, depths))
            ax.set_xlim(-0.6, len(depths) - 0.4)
            ax.tick_params(axis="x", length=0)
        low, high = padded(pd.concat([table[name] for name in ("f1", "f1_low", "f1_high", "permuted_f1")]), 0.05)
        panels[0][0].set_ylim(max(low, 0), min(high, 104))
        lm_legend(figure, runs, permuted=True)
        return as_svg(figure)


def _numbered(name: str, number: int) -> str:
    return f"{name}.svg" if number == 0 else f"{name}-{number + 1}.svg"


def _ablation_panel(ax: Axes, curves: pd.DataFrame, score: str) -> None:
    for (group, over), (style, _) in LINES.items():
        rows = curves[(curves["group"] == group) & (curves["over"] == over)]
        for lm_init, colour in COLOURS.items():
            curve = rows[rows["lm_init"] == lm_init].sort_values("ablation")
            if curve.empty:
                continue
            look = {"marker": MARKERS[lm_init], "color": colour, **style}
            ax.plot(curve["ablation"], curve[score], **look)
            if group == "heldout":
                ax.vlines(
                    curve["ablation"], curve[f"{score}_low"], curve[f"{score}_high"], color=colour, lw=1, alpha=0.6
                )
            if score == "f1" and (group, over) == ("heldout", "all"):
                ax.plot(curve["ablation"], curve["permuted_f1"], color=PERMUTED, lw=2, zorder=1)
                ax.plot(curve["ablation"], curve["coin_f1"], color=GREY, lw=1.1, ls=(0, (5, 3)), zorder=0)
    if score == "auc":
        ax.axhline(0.5, color=GREY, lw=1.1, ls=(0, (5, 3)), zorder=0)
    levels = np.sort(curves["ablation"].unique())
    ax.set_xticks(levels if len(levels) <= 8 else levels[:: -(-len(levels) // 8)])


def _line_legend(figure: Figure, curves: pd.DataFrame, greys: tuple[str, ...] = ("permuted", "coin")) -> None:
    """LMs by colour, then lines by style, above the panels."""
    handles = [
        Line2D([], [], marker=MARKERS[name], color=colour, mec="white", ms=8, lw=2.2, label=LM_NAMES[name])
        for name, colour in COLOURS.items()
        if (curves["lm_init"] == name).any()
    ]
    asked = set(zip(curves["group"], curves["over"].astype(str), strict=True))
    for key, (style, name) in LINES.items():
        if key in asked:
            handles.append(Line2D([], [], label=name, **{"color": INK, "marker": "o", **style}))
    if "permuted" in greys:
        handles.append(Line2D([], [], color=PERMUTED, lw=2, label="answers permuted"))
    if "coin" in greys:
        handles.append(Line2D([], [], color=GREY, lw=1.1, ls=(0, (5, 3)), label="coin"))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.8, fontsize=9)


def _doses_named(axes: np.ndarray, means: pd.DataFrame, shown: list[tuple[str, str]]) -> None:
    """Doses beside the means where the x axis is not the dose."""
    first = means["lm_init"].iloc[0]
    for ax, (x, _) in zip(axes, shown, strict=True):
        if x != "dose":
            ax.margins(x=0.18)  # room for the names
            for row in means[means["lm_init"] == first].itertuples():
                ax.annotate(
                    f"{row.dose} %", (getattr(row, x), row.f1), xytext=(-6, 4), textcoords="offset points",
                    ha="right", fontsize=8, color=GREY,
                )  # fmt: skip


def _shared_y(axes: np.ndarray) -> None:
    """One y scale for the panels of a row."""
    limits = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
