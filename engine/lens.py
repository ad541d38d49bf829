"""`crosstax lens`: what the LM makes of projected patches, layer by layer, in finished runs.

Five tables for each run (`engine.runs.lens`): the answer that each layer would give, which names are nearest to the
patches, whether nearness tells an image's own names, what is nearest to each patch, and maps over a few pictures. The
runs' own files are not touched.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cachegen.common.device import choose_device, on_device
from cachegen.common.progress import progress_bar
from cachegen.common.rng import generator
from cachegen.data.dataset import Dataset
from cachegen.features.pooling import grid_of, pooled_grid
from engine.design.question_sets import noun_of
from engine.design.questions import Categories
from engine.lm.language_model import FrozenLM
from engine.lm.lens import last_norm, nearest_tokens, nearness, spelt, states_of_names
from engine.lm.projector import Projector
from engine.runs.f1 import auc
from engine.runs.finished import FinishedRun
from engine.runs.lens import ROLES, LensSettings, lens_problem, write_lens
from engine.runs.places import Places
from engine.runs.planned import Execution
from engine.sweeps.plan import longest_row
from engine.training.evaluation import Finish, layer_scores
from engine.training.group import Opener, Shared
from engine.transfer import OpenedInputs, Outcome, read_again

FIRST = (1, 5, 10)  # of the nearest, how many count
SHOWN = 3  # nearest ones that are listed for each patch
AT_ONCE = 8  # images
ABOUT = ("label", "image")  # whose names: of the leaf that an image is labelled as, or of the one it shows


def look(
    folders: Sequence[Path], settings: LensSettings, execution: Execution, given: Places | None = None
) -> list[Outcome]:
    """Read every run through the lenses, unless its tables are there and whole; in the order of the inputs they share.

    A run that cannot be read says why, and the others go on.
    """
    found = OpenedInputs(Opener(choose_device(execution.device)))
    reader: _Reader | None = None

    def read(run: FinishedRun) -> Iterator[None]:
        nonlocal reader
        if lens_problem(run.directory, settings) == "":
            return
        run.require_about(found.dataset(run), run.questions())
        dataset = found.spoken(run)
        run.weights  # noqa: B018 - a damaged projector is said before models are loaded
        shared, sentences = found.shared(run), settings.sentences(run.tested.question_singular)
        of = (shared.lm, dataset, sentences)
        if reader is None or any(one is not other for one, other in zip(reader.of, of, strict=True)):
            reader = None  # freed before the next is made
            reader = _Reader.new(*of)
        limit = execution.max_tokens or longest_row(shared.lm.device)
        write_lens(run.directory, settings, _tables(run, shared, reader, settings, limit))
        yield

    return read_again(folders, given, read, "not read")


@dataclass(frozen=True)
class _Reader:
    """What runs with one LM and dataset share. W names: leaves, then hypernyms.

    `names` (L + 1, W, D): their states in text. `roles` (leaves, W): what each name is to each leaf, as a place in
    `ROLES`, -1 where a name reads like a true one. `above`: for each leaf its hypernym with the fewest leaves.
    `tokens` (V): what tokens spell, `token_codes` and `name_codes` the same as numbers, -1 for a name that no single
    token spells.
    """

    of: tuple[FrozenLM, Dataset, tuple[str, ...]]
    known: Categories
    finish: Finish
    names: torch.Tensor
    roles: np.ndarray
    above: np.ndarray
    tokens: list[str]
    token_codes: np.ndarray
    name_codes: np.ndarray

    @classmethod
    def new(cls, lm: FrozenLM, dataset: Dataset, sentences: tuple[str, ...]) -> "_Reader":
        known = Categories.of(dataset)
        nouns = [noun_of(phrase) for phrase in known.phrases]
        names_LWD = states_of_names(lm, sentences, list(zip(known.phrases, nouns, strict=True)))
        tokens = spelt(lm)
        codes = pd.factorize(pd.Series([*tokens, *(noun.lower() for noun in nouns)]))[0]
        codes_V, codes_W = codes[: len(tokens)], codes[len(tokens) :]
        codes_W = np.where(np.isin(codes_W, codes_V), codes_W, -1)
        count, members = len(known.leaves), known.members
        above = np.where(members, members.sum(axis=0), count + 1).argmin(axis=1)
        role_LW = np.full(known.truth.shape, ROLES.index("other hypernym"))
        role_LW[:, :count] = np.where(above[:, None] == above, ROLES.index("sibling"), ROLES.index("other leaf"))
        role_LW[:, count:][members] = ROLES.index("hypernym")
        own = np.concatenate([np.eye(count, dtype=bool), members], axis=1)
        role_LW[:, :count][np.eye(count, dtype=bool)] = ROLES.index("leaf")
        role_LW[known.truth & ~own] = -1
        of = (lm, dataset, sentences)
        return cls(of, known, last_norm(lm), names_LWD, role_LW, above, tokens, codes_V, codes_W)


def _tables(
    run: FinishedRun, shared: Shared, reader: _Reader, settings: LensSettings, limit: int
) -> dict[str, pd.DataFrame]:
    """The five tables of a run."""
    lm, known, tokens = shared.lm, reader.known, shared.test_tokens
    projector = run.projector(lm.width, lm.dtype, lm.embedding_rms).to(lm.device)
    test = run.answers("test")
    about = test[["image", "key", "label_leaf", "image_leaf"]].drop_duplicates("image").reset_index(drop=True)
    chosen = about.iloc[spread(about["image_leaf"], settings.images)].reset_index(drop=True)
    asked = test[test["image"].isin(chosen["image"])].reset_index(drop=True)
    grid = _grid(run, shared.features.patches)
    words, nearest, maps = [], [], []
    near: dict[int, list[np.ndarray]] = {}
    with progress_bar(f"lens: {run.id[-8:]}", len(asked) + len(chosen), "questions and images") as advance:
        scores_LN = layer_scores(
            projector, lm, shared.features, tokens, shared.arrays(asked, tokens), reader.finish,
            max_tokens=limit, advance=advance,
        )  # fmt: skip
        for first in range(0, len(chosen), AT_ONCE):
            part = chosen.iloc[first : first + AT_ONCE]
            layers_LIPD = patch_layers(projector, lm, shared, part["image"].to_numpy())
            leaves = {name: known.leaf_numbers(part[f"{name}_leaf"]) for name in ABOUT}
            seen = [_by_embedding(lm, reader, layers_LIPD[0])]
            seen += [_by_names(reader, states_IPD, layer) for layer, states_IPD in enumerate(layers_LIPD)]
            for view in seen:
                words.append(_shares(view, reader, leaves))
                nearest.append(_listed(view, part))
                if view.values is None:
                    continue
                near.setdefault(view.layer, []).append(view.values.mean(axis=1))
                if first < settings.pictures:
                    shown = part.iloc[: settings.pictures - first]
                    maps.append(_mapped(view, reader, shown, leaves["label"][: len(shown)], grid))
            advance(len(part))
    return {
        "layers": _by_layer(asked, scores_LN),
        "words": _means(pd.concat(words, ignore_index=True)),
        "names": _names_told(near, reader, chosen),
        "nearest": pd.concat(nearest, ignore_index=True),
        "maps": pd.concat(maps, ignore_index=True) if maps else pd.DataFrame(columns=MAP_COLUMNS),
    }


MAP_COLUMNS = ["image", "key", "label_leaf", "layer", "kind", "name", "patch", "row", "column", "nearer"]


def spread(leaves: pd.Series, count: int) -> np.ndarray:
    """Places of `count` images of different leaves as far as there are: of every leaf one, then of every leaf two.

    The same for every run with these images, since the draws know nothing of it.
    """
    order = generator(0, "lens").permutation(len(leaves))
    turn = leaves.iloc[order].groupby(leaves.iloc[order]).cumcount().to_numpy()
    return order[np.argsort(turn, kind="stable")][:count]


def patch_layers(projector: Projector, lm: FrozenLM, shared: Shared, images: np.ndarray) -> torch.Tensor:
    """(L + 1, I, P, D) float32 states of the patches of images: no later token is seen there, so none is given."""
    with torch.no_grad():
        patches_IPD = projector(shared.features.fetch(images)).to(lm.dtype)
        text = on_device(shared.test_tokens.prefix, lm.device)
        before = lm.embed(text).expand(len(images), -1, -1)
        ids_IT = torch.cat([text, text.new_full((patches_IPD.shape[1],), -1)]).expand(len(images), -1)
        prompts = torch.cat([before, patches_IPD], dim=1)
        if lm.way == "single":
            parts = [lm.plain_layers(prompt, ids_IT[:1]) for prompt in prompts.split(1)]
            return torch.cat(parts, dim=1)[:, :, len(text) :].float()
        return lm.plain_layers(prompts, ids_IT)[:, :, len(text) :].float()


@dataclass(frozen=True)
class _View:
    """What is nearest to the patches of some images at one layer, by one lens.

    `words` (I, P, K): names or tokens, the nearest first; `cosines`, `near_layer` (I, P, K): how near, and at which
    layer of the text; `codes` (I, P, K) are equal to `wanted` (W,) where the n-th nearest is this name. `values`
    (I, P, W): of all names (contextual).
    """

    lens: str
    layer: int
    words: np.ndarray
    cosines: np.ndarray
    near_layer: np.ndarray
    codes: np.ndarray
    wanted: np.ndarray
    values: np.ndarray | None = None


def _by_embedding(lm: FrozenLM, reader: _Reader, patches_IPD: torch.Tensor) -> _View:
    """Nearest among the input embeddings of the whole vocabulary."""
    ids, cosines = nearest_tokens(lm, patches_IPD.flatten(0, 1), max(FIRST), len(reader.tokens))
    shape = (*patches_IPD.shape[:2], ids.shape[1])
    ids, cosines = ids.reshape(shape), cosines.reshape(shape)
    words, codes = np.array(reader.tokens, dtype=object)[ids], reader.token_codes[ids]
    return _View("embedding", 0, words, cosines, np.zeros(shape, int), codes, reader.name_codes)


def _by_names(reader: _Reader, states_IPD: torch.Tensor, layer: int) -> _View:
    """Nearest among the names' states in text, at whatever layer a name is nearest."""
    known = reader.known
    values, layers = nearness(states_IPD.flatten(0, 1), reader.names)
    values, layers = (each.reshape(*states_IPD.shape[:2], -1) for each in (values, layers))
    order = np.argsort(-values, axis=-1, kind="stable")[..., : max(FIRST)]
    words = np.array([*known.leaves, *known.hypernyms], dtype=object)[order]
    cosines, near_layer = (np.take_along_axis(each, order, axis=-1) for each in (values, layers))
    return _View("contextual", layer, words, cosines, near_layer, order, np.arange(values.shape[-1]), values)


def _shares(view: _View, reader: _Reader, leaves: dict[str, np.ndarray]) -> pd.DataFrame:
    """Of each image, role and number: the share of its patches that have a name of this role among the first, in %.

    A mean over the role's names, so that roles with many and with few names can be compared.
    """
    rows = []
    for first in FIRST:
        hits_IPW = (view.codes[..., :first, None] == view.wanted).any(axis=2)
        share_IW = 100 * hits_IPW.mean(axis=1)
        for about, leaf_I in leaves.items():
            role_IW = np.where(view.wanted >= 0, reader.roles[leaf_I], -1)
            for place, role in enumerate(ROLES):
                own_IW = role_IW == place
                count_I = own_IW.sum(axis=1)
                share_I = (share_IW * own_IW).sum(axis=1) / np.where(count_I, count_I, np.nan)
                constants = (np.full(len(leaf_I), each) for each in (first, about, role))
                rows.append((share_I, count_I, *constants))
    columns = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    table = pd.DataFrame(dict(zip(("share", "names", "first", "about", "role"), columns, strict=True)))
    return table.assign(lens=view.lens, layer=view.layer)


def _means(words: pd.DataFrame) -> pd.DataFrame:
    """Means over images: lens, layer, about, role, first, share (percent of patches), names (mean number), images."""
    known = words.dropna(subset=["share"])
    keys = ["lens", "layer", "about", "role", "first"]
    means = known.groupby(keys, sort=False).agg(
        share=("share", "mean"), names=("names", "mean"), images=("share", "size")
    )
    return means.reset_index()


def _names_told(near: dict[int, list[np.ndarray]], reader: _Reader, chosen: pd.DataFrame) -> pd.DataFrame:
    """layer, about, kind (of the name), auc, images: how well nearness tells an image's own names from others.

    `near`: of each layer, (I, W) cosines of names, means over an image's patches. A name's mean over images is taken
    off first, since some names are near to everything. AUC over all pairs of an image and a name of the kind.
    """
    rows, count = [], len(reader.known.leaves)
    for layer, parts in near.items():
        values_IW = np.concatenate(parts)
        values_IW = values_IW - values_IW.mean(axis=0)
        for about in ABOUT:
            role_IW = reader.roles[reader.known.leaf_numbers(chosen[f"{about}_leaf"])]
            for kind, kin in (("leaf", slice(0, count)), ("hypernym", slice(count, None))):
                role, value = role_IW[:, kin].ravel(), values_IW[:, kin].ravel()
                counted, own = role >= 0, role == ROLES.index(kind)
                area = auc(np.zeros(counted.sum(), dtype=int), own[counted], value[counted], 1)[0]
                rows.append({"layer": layer, "about": about, "kind": kind, "auc": area, "images": len(values_IW)})
    return pd.DataFrame(rows)


def _listed(view: _View, part: pd.DataFrame) -> pd.DataFrame:
    """image, key, patch, lens, layer, place (1: nearest), name, near_layer, cosine."""
    shape = (*view.words.shape[:2], min(SHOWN, view.words.shape[2]))
    image, patch, place = (each.ravel() for each in np.indices(shape))
    cut = [each[..., :SHOWN].ravel() for each in (view.words, view.near_layer, view.cosines)]
    return pd.DataFrame(
        {
            "image": part["image"].to_numpy()[image],
            "key": part["key"].to_numpy()[image],
            "patch": patch,
            "lens": view.lens,
            "layer": view.layer,
            "place": place + 1,
            "name": cut[0].astype(str),
            "near_layer": cut[1],
            "cosine": cut[2].astype(np.float32),
        }
    )


def _mapped(
    view: _View, reader: _Reader, part: pd.DataFrame, leaf_I: np.ndarray, grid: tuple[int, int] | None
) -> pd.DataFrame:
    """How much nearer each patch is to the label's name, or to that of its narrowest hypernym, than to others."""
    assert view.values is not None
    known, count = reader.known, len(reader.known.leaves)
    rows = []
    about = part[["image", "key", "label_leaf"]].to_dict("records")
    for number, (image, leaf) in enumerate(zip(about, leaf_I, strict=True)):
        values_PW = view.values[number]
        patch = np.arange(len(values_PW))
        kinds = (("leaf", slice(0, count), leaf), ("hypernym", slice(count, None), count + reader.above[leaf]))
        for kind, kin, own in kinds:
            table = pd.DataFrame({"patch": patch, "nearer": values_PW[:, own] - values_PW[:, kin].mean(axis=1)})
            table = table.assign(**{str(column): value for column, value in image.items()}, layer=view.layer)
            table["row"], table["column"] = (-1, -1) if grid is None else (patch // grid[1], patch % grid[1])
            rows.append(table.assign(kind=kind, name=[*known.leaves, *known.hypernyms][own]))
    return pd.concat(rows, ignore_index=True)[MAP_COLUMNS]


def _by_layer(asked: pd.DataFrame, scores_LN: np.ndarray) -> pd.DataFrame:
    """A row for each layer and question: what was asked, layer (0: embeddings), score."""
    group = np.where(asked["kind"] == "leaf", "leaf", np.where(asked["seen"], "seen", "heldout"))
    columns = ["question", "image", "key", "label_leaf", "image_leaf", "category", "answer", "veridical"]
    table = asked[columns].assign(group=group)
    return pd.concat(
        [table.assign(layer=layer, score=scores_N) for layer, scores_N in enumerate(scores_LN)], ignore_index=True
    )


def _grid(run: FinishedRun, patches: int) -> tuple[int, int] | None:
    """Rows and columns of a run's patches; None where they are not known, or of no picture."""
    if run.items:
        return None
    pool, attributes = run.condition.pool, run.features
    grid = pooled_grid(attributes, attributes["patches"], pool) if pool > 1 else grid_of(attributes, patches)
    return grid if grid is not None and grid[0] * grid[1] == patches else None
