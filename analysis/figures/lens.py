"""Not in the paper: what the LM makes of projected images, layer by layer (`crosstax lens`)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from analysis.cells import Names, condition_of, lines_of, parts, setup_of
from analysis.figures.style import (
    COIN_DASH,
    DOUBLE,
    GREY,
    SMALL,
    Drawn,
    NotDrawnError,
    coin_key,
    grid,
    key,
    legend,
    look_of,
    plot_line,
    row_title,
    style,
)
from analysis.inputs import picture_file
from analysis.lens import GROUP_WORDS
from analysis.study import Study
from analysis.words import number
from cachegen.data.images import read_image
from engine.runs.lens import read_lens

NEEDS = "Curves over layers need what `crosstax lens` writes beside the runs."
KIND_WORDS = {"leaf": "names of leaves", "hypernym": "names of hypernyms"}
PICTURES, PICTURE_PX = 4, 160


def lens_figure(study: Study) -> Drawn:
    """AUC of what each layer would answer: a row per setup, a panel per group of questions, a line per condition.

    Raises NotDrawnError where no run was read.
    """
    figure = _by_layer(study.lens_layers, study.names, "group", GROUP_WORDS, "AUC of the layer's answer")
    caption = (
        "The last norm and the head read each layer's state where the answer is due (logit lens); 0 is the embedding, "
        "the last layer gives the answer itself. AUC over all questions of a group; bands span the runs."
    )
    return Drawn(figure, "What each layer would answer", caption, _said(study.lens, study.names))


def lens_names_figure(study: Study) -> Drawn:
    """AUC of an image's own names by how near they are to its patches: a panel per kind of name, a line per condition.

    Raises NotDrawnError where no run was read.
    """
    table = study.lens_names
    table = table[table["about"] == "label"]
    figure = _by_layer(table, study.names, "kind", KIND_WORDS, "AUC by nearness")
    caption = (
        "States of patches at each layer beside those of names inside sentences, at whatever layer of the text a name "
        "is nearest (contextual lens, after LatentLens). AUC of the names of an image's label against all others by "
        "the cosine, less the name's mean over images; bands span the runs."
    )
    said = []
    for cell, here in parts(table[table["shown"].astype(bool)], lambda cell: cell).items():
        for kind, rows in here.groupby("kind", sort=False):
            areas = rows.set_index("layer")["auc"].astype(float)
            where = f"AUC {number(areas.iloc[-1], 2)} at the last layer, {number(areas.max(), 2)} at {areas.idxmax()}"
            said.append(f"{study.names.cell(cell)}, {KIND_WORDS[str(kind)]}: {where}.")
    return Drawn(figure, "Names near patches", caption, " ".join(said))


def _by_layer(table: pd.DataFrame, names: Names, column: str, panels: dict[str, str], ylabel: str) -> Figure:
    """`auc` of the headline over layers: a row per setup, a panel per value of `column`, a line per condition."""
    table = table[table["shown"].astype(bool)]
    if table.empty:
        raise NotDrawnError(NEEDS)
    known = [value for value in panels if (table[column] == value).any()]
    setups = parts(table, setup_of)
    with style():
        figure, axes = grid(len(setups), len(known), DOUBLE, shared=True, height=2.1)
        for row, (setup, here) in zip(axes, setups.items(), strict=True):
            for ax, value in zip(row, known, strict=True):
                for (lm_init, labels), curve in parts(here[here[column] == value], condition_of).items():
                    look, x = look_of(lm_init, labels), curve["layer"].astype(float)
                    plot_line(ax, x, curve["auc"], look, ms=2.6)
                    ax.fill_between(x, curve["auc_low"], curve["auc_high"], color=look.colour, alpha=0.15, lw=0)
                ax.axhline(0.5, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
                ax.set_title(panels[value].capitalize())
                ax.set_xlabel("layer")
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
                ax.tick_params(labelbottom=True)
            row[0].set_ylabel(ylabel)
            if len(setups) > 1:
                row_title(row[0], names.setup(setup))
        legend(figure, [*(key(names.key(*line), look_of(*line)) for line in lines_of(table)), coin_key("chance")])
    return figure


def _said(rises: pd.DataFrame, names: Names) -> str:
    """Where each condition's answers rise."""
    said = []
    for row in rises[rises["shown"].astype(bool)].to_dict("records"):
        where = f"half of it at layer {number(row['rise'])}" if row["n_risen"] else "no rise"
        said.append(f"{names.cell(row['cell'])}, {GROUP_WORDS[row['group']]}: AUC {number(row['auc'], 2)}, {where}.")
    return " ".join(said)


def lens_maps_figure(study: Study) -> Drawn:
    """A few test pictures of the first original run, and how near their patches are to names at three layers.

    Raises NotDrawnError where no such run was read, or its pictures are gone.
    """
    run_id, maps = _mapped(study)
    if maps.empty:
        raise NotDrawnError(
            "Maps need what `crosstax lens` writes beside a run on original labels, and patches that are a grid."
        )
    run = study.sweep.opened[run_id]
    files = {key: picture_file(study.sweep.inputs, run, key) for key in dict.fromkeys(maps["key"])}
    shown = [key for key, file in files.items() if file is not None][:PICTURES]
    if not shown:
        raise NotDrawnError("Maps need the dataset's pictures as they were when the runs were trained.")
    layers = sorted({0, int(maps["layer"].max()) // 2, int(maps["layer"].max())})
    kinds = list(dict.fromkeys(maps["kind"]))
    most = float(maps.loc[maps["layer"].isin(layers), "nearer"].abs().max())
    with style():
        figure, axes = grid(len(shown), 1 + len(kinds) * len(layers), DOUBLE, height=DOUBLE / 7.2)
        image: AxesImage | None = None
        for row, picture in zip(axes, shown, strict=True):
            own, file = maps[maps["key"] == picture], files[picture]
            assert file is not None
            _show(row[0], file)
            row[0].set_title(str(own["label_leaf"].iloc[0]), fontsize=SMALL)
            panels = [(kind, layer) for kind in kinds for layer in layers]
            for ax, (kind, layer) in zip(row[1:], panels, strict=True):
                here = own[(own["kind"] == kind) & (own["layer"] == layer)]
                values = here.pivot(index="row", columns="column", values="nearer").to_numpy(float)
                image = ax.imshow(values, cmap="PuOr", vmin=-most, vmax=most)
                ax.set_title(f"{here['name'].iloc[0]}, {layer}", fontsize=SMALL)
        for ax in axes.flat:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
        assert image is not None
        figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, label="nearer than other names (cosine)")
    caption = (
        "Test pictures, and patch by patch the cosine with the name of the label (left) and of its narrowest hypernym "
        f"(right) less the mean over all leaves or hypernyms, at layers {', '.join(map(str, layers))}."
    )
    said = [f"{name}: {number(rows['nearer'].mean(), 3)} on average." for name, rows in _last(maps, shown)]
    return Drawn(figure, "Where in the picture", caption, " ".join(said))


def _mapped(study: Study) -> tuple[str, pd.DataFrame]:
    """The first shown run of a pretrained LM on original labels whose lens was read, and its maps over a grid."""
    for run_id in map(str, dict.fromkeys(study.lenses.layers["run_id"])):
        run = study.runs.loc[run_id]
        if run["shown"] and run["lm_init"] == "pretrained" and run["shuffle"] == "original":
            maps = read_lens(study.sweep.opened[run_id].directory.path, "maps")
            maps = maps[maps["row"] >= 0]
            if len(maps):
                return run_id, maps
    return "", pd.DataFrame(columns=["key"])


def _last(maps: pd.DataFrame, shown: list[str]) -> list[tuple[str, pd.DataFrame]]:
    last = maps[(maps["layer"] == maps["layer"].max()) & maps["key"].isin(shown)]
    return [(f"{leaf}, nearer to {name} at the last layer", rows) for (leaf, name), rows in last.groupby(
        ["label_leaf", "name"], sort=False)]  # fmt: skip


def _show(ax: Axes, file: Path) -> None:
    picture = read_image(file)
    picture.thumbnail((PICTURE_PX, PICTURE_PX))
    ax.imshow(np.asarray(picture))
