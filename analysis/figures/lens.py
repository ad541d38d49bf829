"""Not in the paper: what the LM makes of projected images, layer by layer (`crosstax lens`)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from analysis.cells import Names, condition_of, lines_of, parts, setup_of
from analysis.figures.style import (
    COIN_DASH,
    DOUBLE,
    GREY,
    LOOKS,
    SMALL,
    Drawn,
    Look,
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

NEEDS = "It needs what `crosstax lens` writes beside the runs."
ROLE_LOOKS: dict[str, Look] = {
    "leaf": LOOKS["original"],
    "sibling": LOOKS["within"],
    "hypernym": LOOKS["random"],
    "other leaf": Look("#b4b4b4", "#8a8a8a", "o", (0, (1, 1))),
    "other hypernym": Look("#b4b4b4", "#8a8a8a", "D", (0, (6, 2))),
}
PICTURES, PICTURE_PX = 4, 160


def lens_figure(study: Study) -> Drawn:
    """AUC of what each layer would answer: a row per setup, a panel per group of questions, a line per condition.

    Raises NotDrawnError where no run was read.
    """
    table = study.lens_layers[study.lens_layers["shown"].astype(bool)]
    if table.empty:
        raise NotDrawnError(NEEDS)
    groups = [group for group in GROUP_WORDS if (table["group"] == group).any()]
    setups, names = parts(table, setup_of), study.names
    with style():
        figure, axes = grid(len(setups), len(groups), DOUBLE, shared=True, height=2.1)
        for row, (setup, here) in zip(axes, setups.items(), strict=True):
            for ax, group in zip(row, groups, strict=True):
                own = here[here["group"] == group]
                for (lm_init, labels), curve in parts(own, condition_of).items():
                    look = look_of(lm_init, labels)
                    plot_line(ax, curve["layer"], curve["auc"], look, ms=2.6)
                    ax.fill_between(
                        curve["layer"].astype(float), curve["auc_low"], curve["auc_high"], color=look.colour,
                        alpha=0.15, lw=0,
                    )  # fmt: skip
                ax.axhline(0.5, color=GREY, lw=0.8, ls=COIN_DASH, zorder=0)
                ax.set_title(GROUP_WORDS[group].capitalize())
                ax.set_xlabel("layer")
                ax.tick_params(labelbottom=True)
            row[0].set_ylabel("AUC of the layer's answer")
            if len(setups) > 1:
                row_title(row[0], names.setup(setup))
        legend(figure, [*(key(names.key(*line), look_of(*line)) for line in lines_of(table)), coin_key("chance")])
    caption = (
        "The last norm and the head read each layer's state where the answer is due (logit lens); 0 is the embedding, "
        "the last layer gives the answer itself. AUC over all questions of a group; bands span the runs."
    )
    return Drawn(figure, "What each layer would answer", caption, _said(study.lens, names))


def _said(rises: pd.DataFrame, names: Names) -> str:
    """Where each condition's answers rise."""
    said = []
    for row in rises[rises["shown"].astype(bool)].to_dict("records"):
        where = f"half of it at layer {number(row['rise'])}" if row["n_risen"] else "no rise"
        name = ", ".join(filter(None, [names.condition(row["cell"]), names.setup(row["cell"].setup)]))
        said.append(f"{name}, {GROUP_WORDS[row['group']]}: AUC {number(row['auc'], 2)}, {where}.")
    return " ".join(said)


def lens_names_figure(study: Study) -> Drawn:
    """Which names are nearest to patches, by layer: a panel per condition, a line per role of the name.

    Raises NotDrawnError where no run was read.
    """
    table = study.lens_words
    table = table[table["shown"].astype(bool) & (table["about"] == "label")] if len(table) else table
    table = table[(table["lens"] == "contextual") & (table["first"] == table["first"].min())]
    if table.empty:
        raise NotDrawnError(NEEDS)
    cells, names = parts(table, lambda cell: cell), study.names
    columns = min(len(cells), 4)
    with style():
        figure, axes = grid(-(-len(cells) // columns), columns, DOUBLE, shared=True, height=1.9)
        for ax, (cell, here) in zip(axes.flat, cells.items(), strict=False):
            for role, curve in here.groupby("role", sort=False):
                plot_line(ax, curve["layer"], curve["share"], ROLE_LOOKS[str(role)], ms=2.6)
            ax.set_title(names.condition(cell), fontsize=SMALL)
            ax.set_xlabel("layer")
            ax.tick_params(labelbottom=True)
        for ax in axes.flat[len(cells) :]:
            ax.set_axis_off()
        for row in axes:
            row[0].set_ylabel("patches nearest to it (%)")
        legend(figure, [key(role, look) for role, look in ROLE_LOOKS.items() if (table["role"] == role).any()])
    caption = (
        "States of patches at each layer beside the states of names inside sentences, at whatever layer of the text a "
        "name is nearest (contextual lens, after LatentLens): percent of patches whose nearest name is one name of "
        "this role. Roles are those of the label: its leaf, leaves beside it, its hypernyms, all others."
    )
    said = []
    for cell, here in cells.items():
        last = here[here["layer"] == here["layer"].max()]
        shares = [f"{row['role']} {number(row['share'])} %" for row in last.to_dict("records")]
        said.append(f"{names.condition(cell)}, last layer: {', '.join(shares)}.")
    return Drawn(figure, "Names nearest to patches", caption, " ".join(said))


def lens_maps_figure(study: Study) -> Drawn:
    """A few test pictures of the first original run, and how near their patches are to names at three layers.

    Raises NotDrawnError where no such run was read, or its pictures are gone.
    """
    run_id, maps = _mapped(study)
    if maps.empty:
        raise NotDrawnError(f"{NEEDS} Maps are of pictures whose patches are a grid, in a run on original labels.")
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
