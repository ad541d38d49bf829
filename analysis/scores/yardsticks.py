"""What the held-out scores of a run are measured against, on exactly its questions.

- `knn` and `knn_whitened`, the control without an LM, in the two spaces of `scores.neighbours`: the share of an
  image's nearest training images *of other leaves* whose label is of the hypernym. It knows the taxonomy of all other
  leaves, which the projector was never told, and no language: what it answers can be had by looking alike. It cannot
  answer leaf questions. See `matched_votes` for a trap in leaving the own leaf out.
- `oracle`, the rule "if crow then bird": the nearest leaf by its mean training image (whitened), the image's own leaf
  included, then the taxonomy. It knows both halves, so it is no control; it errs where leaves are taken for others.
- `composition`, "the run's own leaf answers x the LM's own text answers": what a run would score if its two halves were
  simply put together. Of the leaves, a run was only asked about the true one and one wrong one of each image; the
  composition knows no others, so it has more information than the run. Needs the LM's text probe.

Each gives a margin per question: yes from zero on, and AUC is over the margins.

Legend: Q images, N training images, L leaves, H hypernyms, K neighbours.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.predictions import derive_answers
from analysis.scores.baselines import add_baselines
from analysis.scores.coherence import LabelMap
from analysis.scores.f1 import Numbered, homonyms, measure_categories
from analysis.scores.neighbours import SPACES, Neighbourhoods, Numbers, memberships
from cachegen.common.rng import generator
from cachegen.data.dataset import Dataset

Array = NDArray[np.float64]

CONTROLS = ("knn", "knn_whitened")
VISUAL = (*CONTROLS, "oracle")  # read off features and labels; the same for all runs that ask the same questions


@dataclass(frozen=True)
class Eye:
    """What the features say of every asked image under one label map.

    votes: margins (Q, H) of each control, the share of neighbours of other leaves that are of the hypernym, less its
    threshold; nearest (Q, L) and rule (Q, H): margins of the oracle for leaves and hypernyms. `images`, `leaves` and
    `hypernyms` number the rows and columns.
    """

    images: pd.Index
    leaves: pd.Index
    hypernyms: pd.Index
    votes: dict[str, Array]
    nearest: NDArray[np.floating]
    rule: NDArray[np.floating]

    def margins(self, name: str, questions: pd.DataFrame) -> Array:
        """Margin of one of `VISUAL` for every question; NaN where it has no answer."""
        row = self.images.get_indexer(pd.Index(questions["key"]))
        is_leaf = questions["kind"].to_numpy(str) == "leaf"
        margin = np.full(len(questions), np.nan)
        answers = [(~is_leaf, self.hypernyms, self.votes.get(name, self.rule))]
        if name == "oracle":
            answers.append((is_leaf, self.leaves, self.nearest))
        for asked, names, values in answers:
            column = names.get_indexer(pd.Index(questions["category"]))
            known = asked & (column >= 0) & (row >= 0)
            margin[known] = values[row[known], column[known]]
        return margin


def look(found: dict[str, Neighbourhoods], images: LabelMap, dataset: Dataset) -> Eye:
    """Margins of the controls and of the oracle for all asked images, under the label map `images`."""
    leaves, label_n = np.unique(images.images["label_leaf"].to_numpy(str), return_inverse=True)
    hypernyms, member_LH = memberships(dataset, leaves)
    whitened = found["whitened"]
    label_of = images.images.drop_duplicates("image_leaf").set_index("image_leaf")["label_leaf"]
    label_q = pd.Index(leaves).get_indexer(pd.Index(label_of.reindex(whitened.asked_leaves)))
    votes = {}
    for control, space in zip(CONTROLS, SPACES, strict=True):
        here = found[space]
        votes_NH = matched_votes(here.train_other, here.k, label_n, label_n, member_LH, hypernyms)
        threshold_H = fair_thresholds(votes_NH, member_LH[label_n], here.k)
        votes[control] = matched_votes(here.asked, here.k, label_n, label_q, member_LH, hypernyms) - threshold_H
    order = np.argsort(label_n, kind="stable")  # every leaf has images, so each has its run of rows
    centroid_LD = np.add.reduceat(whitened.units_train[order], np.searchsorted(label_n[order], range(len(leaves))))
    centroid_LD /= np.linalg.norm(centroid_LD, axis=1, keepdims=True)
    similarity_LQ = (centroid_LD @ whitened.units_asked.T).astype(np.float32)
    nearest_Q = similarity_LQ.argmax(axis=0)
    return Eye(
        pd.Index(whitened.asked_keys),
        pd.Index(leaves),
        pd.Index(hypernyms),
        votes,
        _above_the_rest(similarity_LQ).T,
        np.stack([_gap(similarity_LQ, nearest_Q, inside_L) for inside_L in member_LH.T], axis=1),
    )


def matched_votes(
    neighbours_QM: NDArray[np.integer],
    k: int,
    label_n: NDArray[np.integer],
    label_q: NDArray[np.integer],
    member_LH: NDArray[np.bool_],
    hypernyms: list[str],
) -> Array:
    """Share (Q, H) of an image's `k` nearest neighbours that are of each hypernym, two leaves left out.

    `neighbours_QM`: numbers of training images of other leaves, nearest first; `label_n`, `label_q`: leaf number of
    every training and every asked image. To leave out the own leaf alone would give answers away, backwards: the
    hypernym would be short of a leaf exactly where the answer is yes, and with features that tell nothing AUC would
    fall far below 0.5. So for every image and hypernym one leaf inside and one outside are left out: the own one, and
    one drawn by a fixed seed on the other side. Without information the votes are then alike for yes and no.
    """
    labels_QM = label_n[neighbours_QM]
    nearest_QK = labels_QM[:, :k]
    votes_QH = member_LH[nearest_QK].sum(axis=1) / k  # of those without the partner among their nearest
    for column, name in enumerate(hypernyms):
        inside_L = member_LH[:, column]
        rng = generator(0, "yardsticks", name)
        drawn = [
            rng.choice(side, len(label_q)) if len(side) else np.full(len(label_q), -1)
            for side in (np.flatnonzero(inside_L), np.flatnonzero(~inside_L))
        ]
        partner_Q = np.where(inside_L[label_q] & (label_q >= 0), drawn[1], drawn[0])
        rows = np.flatnonzero((nearest_QK == partner_Q[:, None]).any(axis=1))
        kept_RM = labels_QM[rows] != partner_Q[rows, None]
        counted_RM = kept_RM & (np.cumsum(kept_RM, axis=1, dtype=np.int32) <= k)
        votes_QH[rows, column] = (counted_RM & inside_L[labels_QM[rows]]).sum(axis=1) / k
    return votes_QH


def fair_thresholds(votes_NH: Array, own_NH: NDArray[np.bool_], k: int) -> Array:
    """Share of neighbours (H,) from which the control says yes: where right yeses plus right noes are most.

    Chosen on training images, leaves left out as they are for test images. A fixed 0.5 would be no fair
    opponent: of a small category few other images exist, so the control would always say no. Questions come half yes,
    half no, whatever the size of the category, which is what equal weight to both answers stands for. Where several
    thresholds k'/k do equally well, their middle.
    """
    counts_NH = np.rint(votes_NH * k).astype(int)
    size = own_NH.shape[1]
    cells = (np.arange(size) * 2 + own_NH) * (k + 1) + counts_NH
    table_H2K = np.bincount(cells.ravel(), minlength=size * 2 * (k + 1)).reshape(size, 2, k + 1)
    at_least = table_H2K[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]  # images with at least so many votes
    share = at_least / np.maximum(at_least[:, :, :1], 1)
    gain = np.round(share[:, 1] - share[:, 0], 12)[:, 1:]  # thresholds 1/k .. k/k
    best = gain == gain.max(axis=1, keepdims=True)
    first, last = best.argmax(axis=1) + 1, k - best[:, ::-1].argmax(axis=1)
    middle: Array = (first + last) / (2 * k)
    return middle


def composed_margins(answers: pd.DataFrame, text: pd.Series) -> Array:
    """Margin of the composition for every question of `SavedRuns.answers`; NaN of leaves, and where text is silent.

    `text`: the LM's margin for (leaf, hypernym), from its probe. A hypernym question is answered yes when, for one of
    the leaves the run was asked about in this image, the run says yes to the leaf and the LM says that such a leaf is
    of the hypernym: the margin is the larger, over leaves, of the smaller of the two. A pair of a *wrong* leaf that
    the probe did not ask about counts as no; where the probe lacks the pair of the true leaf, there is no answer.
    """
    margin = np.full(len(answers), np.nan)
    asked = answers.reset_index(drop=True)
    is_leaf = asked["kind"].to_numpy(str) == "leaf"
    said = asked.loc[is_leaf, ["key", "category", "margin"]].rename(columns={"category": "leaf", "margin": "seen_as"})
    wanted = asked.loc[~is_leaf, ["key", "category", "label_leaf"]].reset_index(names="row")
    pairs = wanted.merge(said.drop_duplicates(["key", "leaf"]), on="key", how="inner")
    known = text.reindex(pd.MultiIndex.from_frame(pairs[["leaf", "category"]])).to_numpy(float)
    own = (pairs["leaf"] == pairs["label_leaf"]).to_numpy(bool)
    pairs = pairs.assign(both=np.fmin(pairs["seen_as"], np.where(np.isnan(known), -np.inf, known)))
    silent = pairs.loc[own & np.isnan(known), "row"].to_numpy(int)
    best = pairs.groupby("row")["both"].max()
    margin[best.index.to_numpy(int)] = np.maximum(best.to_numpy(float), -1e6)  # a finite "no"
    margin[silent] = np.nan
    return margin


def measure_yardstick(questions: pd.DataFrame, margin: Array) -> pd.DataFrame:
    """`measure_categories` with baselines for a yardstick's margins on a run's questions, unanswered ones left out."""
    answered = np.isfinite(margin)
    answers = derive_answers(questions[answered].assign(logit_yes=margin[answered], logit_no=0.0))
    return add_baselines(measure_categories(answers, Numbered.of(answers, homonyms(questions))))


def _above_the_rest(similarity_LQ: NDArray[np.float32]) -> NDArray[np.float32]:
    """Similarity less the largest of the other leaves: positive for the nearest leaf only."""
    if len(similarity_LQ) < 2:
        return np.zeros_like(similarity_LQ)
    second, first = np.partition(similarity_LQ, (-2, -1), axis=0)[-2:]
    rest: NDArray[np.float32] = similarity_LQ - np.where(similarity_LQ == first, second, first)
    return rest


def _gap(similarity_LQ: NDArray[np.float32], nearest_Q: Numbers, inside_L: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(Q,) largest similarity inside less the largest outside; cosines are never below -1. `nearest_Q`: nearest leaf.

    Nearly all leaves are outside. Where the nearest leaf is one of them it is the largest; only the other images are
    looked through.
    """
    outside_Q = similarity_LQ[nearest_Q, np.arange(len(nearest_Q))]
    columns = np.flatnonzero(inside_L[nearest_Q])
    outside_Q[columns] = similarity_LQ[np.ix_(~inside_L, columns)].max(axis=0, initial=-1.0)
    gap: NDArray[np.float32] = similarity_LQ[inside_L].max(axis=0, initial=-1.0) - outside_Q
    return gap
