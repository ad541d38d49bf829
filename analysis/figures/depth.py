"""Figure 12 of the paper: held-out F1 by depth of the hypernym."""

import pandas as pd
from matplotlib.axes import Axes

from analysis.beside_paper import references
from analysis.cells import CELL, arms_of, setup_names, setups_of, shown_runs
from analysis.figures.style import (
    GREY,
    INIT_LOOKS,
    PERMUTED,
    SMALL,
    Drawn,
    Look,
    NotDrawnError,
    cell_name,
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
    beside, names = references(runs, study.categories), setup_names(runs)
    setups = [setup for setup in setups_of(runs) if (table["setup"] == setup).any()]
    present = set(zip(table["lm_init"], table["arm"], strict=True))
    cells = [(lm_init, arm) for arm in arms_of(runs) for lm_init in INIT_LOOKS if (lm_init, arm) in present]
    depths = sorted(table["depth"].unique())
    rings = pd.DataFrame(columns=["setup", "lm_init", "arm", "depth", "f1"])
    for setup in setups:
        run = runs[runs["setup"] == setup].iloc[0]
        if (reference := beside.of(run)) and (run["ablation_kind"], run["ablation"]) == ("random", 100):
            rows = published_rows(by_depth=True, lm=reference.lm, encoder=reference.encoder)
            rings = pd.concat([rings, rows.rename(columns={"shuffle": "arm"}).assign(setup=setup)[rings.columns]])
    rings = rings[rings["depth"].isin(depths)]
    with style():
        figure, axes = wrapped(len(setups), 2.1, "held-out macro F1")
        for ax, setup in zip(axes, setups, strict=True):
            here = table[table["setup"] == setup]
            own = [cell for cell in cells if cell in set(zip(here["lm_init"], here["arm"], strict=True))]
            for place, (lm_init, arm) in enumerate(own):
                shift = WIDTH * ((place + 0.5) / len(own) - 0.5)
                look = look_of(lm_init, arm)
                cell = here[(here["lm_init"] == lm_init) & (here["arm"] == arm)]
                paper = rings[(rings["setup"] == setup) & (rings["lm_init"] == lm_init) & (rings["arm"] == arm)]
                _points(ax, cell["depth"].map(depths.index) + shift, cell, look)
                if len(paper):
                    x = paper["depth"].map(depths.index) + shift
                    plot_published(ax, x, paper["f1"], look, f"{lm_init} {arm}")
            _axis(ax, depths, here)
            ax.set_title(names[setup])
            ax.set_xlabel("depth")
        shown = [*(table[name] for name in ("f1", "f1_low", "f1_high", "permuted_f1")), rings["f1"].astype(float)]
        low, high = padded(pd.concat(shown), 0.1)
        axes[0].set_ylim(low, min(high, 104))
        handles = [key(cell_name(*cell), look_of(*cell), ls="") for cell in cells]
        legend(figure, [*handles, permuted_key(), *paper_keys(beside.name * bool(len(rings)))])
    caption = (
        "Held-out macro F1, mean over the n hypernyms of one depth (1: directly above the leaves) of the mean over "
        "runs, with 95 % intervals over hypernyms. Grey bars: the same answers permuted."
    )
    return Drawn(
        figure,
        "Held-out F1 by depth of the hypernym",
        caption + beside.caption * bool(len(rings)),
        _text(table, cells, names),
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


def _text(table: pd.DataFrame, cells: list[tuple[str, str]], names: dict[str, str]) -> str:
    said = []
    means_of = dict(iter(table.groupby(CELL)))
    for setup, (lm_init, arm) in ((s, cell) for s in names for cell in cells if (s, cell[1], cell[0]) in means_of):
        means = [
            f"{number(f1)} at depth {depth}" for depth, f1 in means_of[setup, arm, lm_init][["depth", "f1"]].to_numpy()
        ]
        name = ", ".join(filter(None, [cell_name(lm_init, arm), names[setup]]))
        said.append(f"{name[0].upper()}{name[1:]}: {', '.join(means)}.")
    return " ".join(said)
