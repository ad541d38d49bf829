"""Figure 12 of the paper: held-out F1 by depth of the hypernym."""

import pandas as pd
from matplotlib.axes import Axes

from analysis.beside_paper import references
from analysis.cells import Line, Names, Setup, condition_of, lines_of, parts, setup_of, shown_runs
from analysis.figures.style import (
    GREY,
    PERMUTED,
    SMALL,
    Drawn,
    Look,
    NotDrawnError,
    key,
    legend,
    look_of,
    padded,
    paper_keys,
    permuted_key,
    plot_published,
    style,
    wrapped,
)
from analysis.published import published_rows
from analysis.study import Study
from analysis.words import number

WIDTH = 0.72  # of all cells of one depth, in depths


def depth_figure(study: Study) -> Drawn:
    """Held-out F1 by depth of the hypernym: means over hypernyms with 95 % intervals, a panel per setup.

    Raises NotDrawnError where no taxonomy of the study has hypernyms of two depths.
    """
    table, runs = study.depth, shown_runs(study.runs)
    if table.empty:
        raise NotDrawnError("Figure 12 needs a taxonomy whose `depth` column gives hypernyms of two depths.")
    beside, names = references(runs, study.categories), study.names
    setups, runs_of = parts(table, setup_of), parts(runs, setup_of)
    lines, depths = lines_of(table), sorted(table["depth"].unique())
    rings: dict[Setup, pd.DataFrame] = {}
    for setup in setups:
        run = runs_of[setup].iloc[0]
        if (reference := beside.of(run)) and (run["ablation_kind"], run["ablation"]) == ("random", 100):
            rows = published_rows(by_depth=True, lm=reference.lm, encoder=reference.encoder)
            rings[setup] = rows[rows["depth"].isin(depths)]
    drawn = [rows["f1"].astype(float) for rows in rings.values()]
    with style():
        figure, axes = wrapped(len(setups), 2.1, "held-out macro F1")
        for ax, (setup, here) in zip(axes, setups.items(), strict=True):
            own = parts(here, condition_of)
            for place, line in enumerate(lines_of(here)):
                lm_init, labels = line
                shift = WIDTH * ((place + 0.5) / len(own) - 0.5)
                look = look_of(*line)
                _points(ax, own[line]["depth"].map(depths.index) + shift, own[line], look)
                if setup not in rings or labels.partial:
                    continue
                of_setup = rings[setup]
                paper = of_setup[(of_setup["lm_init"] == lm_init) & (of_setup["shuffle"] == labels.shuffle)]
                if len(paper):
                    x = paper["depth"].map(depths.index) + shift
                    plot_published(ax, x, paper["f1"], look, f"{lm_init} {labels.shuffle}")
            _axis(ax, depths, here)
            ax.set_title(names.setup(setup))
            ax.set_xlabel("depth")
        shown = [*(table[name] for name in ("f1", "f1_low", "f1_high", "permuted_f1")), *drawn]
        low, high = padded(pd.concat(shown), 0.1)
        axes[0].set_ylim(low, min(high, 104))
        handles = [key(names.key(*line), look_of(*line), ls="") for line in lines]
        legend(figure, [*handles, permuted_key(), *paper_keys(beside.name * any(map(len, drawn)))])
    caption = (
        "Held-out macro F1, mean over the n hypernyms of one depth (1: directly above the leaves) of the mean over "
        "runs, with 95 % intervals over seeds and hypernyms. Grey bars: the same answers permuted."
    )
    return Drawn(
        figure,
        "Held-out F1 by depth of the hypernym",
        caption + beside.caption * any(map(len, drawn)),
        _text(table, lines, names),
        "Figure 12",
    )


def _points(ax: Axes, x: pd.Series, cell: pd.DataFrame, look: Look) -> None:
    ax.vlines(x, cell["f1_low"], cell["f1_high"], color=look.colour, lw=1.2)
    ax.plot(x, cell["f1"], look.marker, color=look.colour, mec=look.ink, mew=0.5)
    ax.plot(x, cell["permuted_f1"], "_", color=PERMUTED, ms=8, mew=2.4, zorder=1)


def _axis(ax: Axes, depths: list[int], cells: pd.DataFrame) -> None:
    counts = cells.groupby("depth")["n_hypernyms"].max().reindex(depths).fillna(0).astype(int)
    for depth, n in enumerate(counts):
        ax.text(
            depth, 0.02, f"n = {n}", transform=ax.get_xaxis_transform(), ha="center", fontsize=SMALL, color=GREY
        )  # fmt: skip
    ax.set_xticks(range(len(depths)), map(str, depths))
    ax.set_xlim(-0.55, len(depths) - 0.45)
    ax.tick_params(axis="x", length=0)


def _text(table: pd.DataFrame, lines: list[Line], names: Names) -> str:
    said = []
    for setup, here in parts(table, setup_of).items():
        own = parts(here, condition_of)
        for line in (line for line in lines if line in own):
            means = [f"{number(f1)} at depth {depth}" for depth, f1 in own[line][["depth", "f1"]].to_numpy()]
            name = ", ".join(filter(None, [names.key(*line), names.setup(setup)]))
            said.append(f"{name[0].upper()}{name[1:]}: {', '.join(means)}.")
    return " ".join(said)
