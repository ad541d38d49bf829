"""The names among which every validation and test image's is chosen, for the task `name`.

The question table is the one of the task `verify`: the same images are asked about the same categories, so that both
tasks are scored on the same questions. Beside these, every image has more candidates here, for the choice among all.
"""

import numpy as np
import pandas as pd

from cachegen.common.rng import generator
from cachegen.data.dataset import Dataset
from engine.design.condition import Condition
from engine.design.questions import Categories


def candidates_of(dataset: Dataset, condition: Condition, questions: pd.DataFrame) -> pd.DataFrame:
    """One row per validation or test image and candidate: image, split, kind, category, phrase, answer, veridical.

    Candidates are all hypernyms of the study, and its leaves: where these are more than `condition.candidates`, as many
    that are drawn once for all images, and an image's own leaf. Whatever `questions` ask of an image is among them.
    `answer`: it is true of the label leaf; `veridical`: of the image's own. Categories that are true of the label leaf
    but not asked as such (another folder with the same phrase) are left out.
    """
    known = Categories.of(dataset)
    n_leaves = len(known.leaves)
    names = pd.Index([*(("leaf", name) for name in known.leaves), *(("hypernym", name) for name in known.hypernyms)])
    asked = questions[questions["split"] != "train"]
    column = names.get_indexer(pd.MultiIndex.from_frame(asked[["kind", "category"]]))
    images, row = np.unique(asked["image"].to_numpy(), return_inverse=True)
    first = asked.drop_duplicates("image").sort_values("image")
    image_leaf, label_leaf = (known.leaf_numbers(first[name]) for name in ("image_leaf", "label_leaf"))

    columns = np.unique(column)
    leaves = columns[columns < n_leaves]
    if len(leaves) > condition.candidates:
        rng = generator(condition.data_seed, "candidates")
        drawn = rng.permutation(n_leaves)
        leaves = drawn[np.isin(drawn, leaves)][: condition.candidates - 1]
    offered = np.isin(np.arange(len(names)), [*leaves, *columns[columns >= n_leaves]])
    own = np.zeros((n_leaves, len(names)), dtype=bool)  # (L, L + H): true of a label and asked as such
    own[np.arange(n_leaves), np.arange(n_leaves)] = True
    own[:, n_leaves:] = known.members
    # (I, L + H): own leaves are always asked about, by the question that is answered yes.
    chosen = np.broadcast_to(offered, (len(images), len(names))) & ~(known.truth & ~own)[label_leaf]
    chosen[row, column] = True
    place, column = np.nonzero(chosen)
    kinds, categories = (np.array(names.get_level_values(level), dtype=object) for level in (0, 1))
    return pd.DataFrame(
        {
            "image": images[place].astype(np.int32),
            "split": first["split"].to_numpy(dtype=object)[place],
            "kind": kinds[column],
            "category": categories[column],
            "phrase": known.phrases[column],
            "answer": own[label_leaf[place], column],
            "veridical": known.truth[image_leaf[place], column],
        }
    )
