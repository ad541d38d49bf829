"""A release in the authors' layout with made-up numbers that give the paper's means, small enough for a test."""

import csv

import numpy as np
import pandas as pd

from analysis.published import CELLS, MORE_CELLS
from analysis.release.means import FIGURE_4
from analysis.release.scores import ENCODERS, LMS, TOY_HYPERNYMS
from cachegen.things.names import HYPERNYMS

SEEDS = (42, 218, 7)
RESULTS = "results/main-results"
MACRO = f"{RESULTS}/macro-f1s"
LABELS = {"original": "", "across": "-shuffled", "within": "-local-shuffled"}
LEAVES = [f"leaf {number}" for number in range(20)]
FAMILIES = {"Llama-3.2-1B": "llama", "Llama-3.2-1B-Instruct": "llama", "Qwen3-8B": "8b"}
SHUFFLE_TYPES = {"original": (0.27, 0.07), "shuffled": (0.12, 0.02), "local_shuffled": (0.27, 0.07)}


def code(names, value):
    return next(key for key, name in names.items() if name == value)


def run_names(lm, encoder="DINOv2", labels="", random=False, ablation=""):
    stem = f"align-{code(ENCODERS, encoder)}+{code(LMS, lm)}-things{ablation}{labels}"
    return [f"{stem}-{seed}{'-random' * random}" for seed in SEEDS]


def scores(rng, runs, categories, mean, spread=0.05):
    """Rows of run x category with exactly this mean (up to rounding errors), spread around it by category and run."""
    values = rng.normal(0, spread, len(categories)) + rng.normal(0, spread / 3, (len(runs), len(categories)))
    return pd.DataFrame(np.clip(mean + values - values.mean(), 0, 1), index=runs, columns=categories)


def write_f1(path, *tables):
    table = pd.concat(tables).rename_axis("run_name")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path)


def write_release(root, seed=0):
    """Write the release; returns its root."""
    rng = np.random.default_rng(seed)
    hypernyms = [row.f1_name for row in HYPERNYMS.values()]
    heldout, leaves = {}, {}
    for cell in (*CELLS, *MORE_CELLS):
        runs = run_names(cell.lm, cell.encoder, LABELS[cell.shuffle], cell.lm_init == "random")
        family = FAMILIES.get(cell.lm, "all")
        heldout.setdefault(family, []).append(scores(rng, runs, hypernyms, cell.heldout / 100))
        if np.isfinite(cell.leaf):
            leaves.setdefault(family, []).append(scores(rng, runs, LEAVES, cell.leaf / 100, spread=0.005))
    for amount, mean in FIGURE_4.items():
        runs = run_names("Qwen3-0.6B", ablation=f"+hyp-abl{amount}cat")
        heldout["all"].append(scores(rng, runs, hypernyms, mean / 100))
    for family, tables in heldout.items():
        write_f1(root / MACRO / f"{family}_unseen_f1_scores.csv", *tables)
    for family, tables in leaves.items():
        write_f1(root / MACRO / f"{family}_leaf_f1_scores.csv", *tables)
    seen = run_names("Qwen3-0.6B", ablation="+hyp-abl10")
    write_f1(root / MACRO / "all_seen_f1_scores.csv", scores(rng, seen, hypernyms, 0.9))
    _write_toy(root, rng)
    write_f1(root / MACRO / "all_hyp_guess_f1_scores.csv", scores(rng, ["test_hyp"], hypernyms, 0.392))
    write_f1(root / MACRO / "all_leaf_guess_f1_scores.csv", scores(rng, ["test"], LEAVES, 0.389))
    every = pd.concat([table for tables in heldout.values() for table in tables])
    write_f1(root / RESULTS / "all_unseen_f1_scores.csv", np.sqrt(every))
    _write_coherence(root, rng)
    _write_depths(root)
    return root


def change(path, row, column, value):
    """Replace one cell; `row` is the first cells of its line."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    found = [cells for cells in rows if ",".join(cells).startswith(f"{row},")]
    assert len(found) == 1, f"{len(found)} lines begin with {row}"
    found[0][rows[0].index(column)] = str(value)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _write_toy(root, rng):
    names = [HYPERNYMS[name].f1_name for name in TOY_HYPERNYMS]
    for arm, file, heldout, leaf in (
        ("cat-sampled", "cat_sampled", 0.575, 0.938),
        ("cat-shuffled", "cat", 0.515, 0.952),
    ):
        runs = [f"align-dinov2+500m-things-{arm}-{seed}" for seed in SEEDS]
        write_f1(root / MACRO / f"{file}_unseen_f1_scores.csv", scores(rng, runs, names, heldout))
        write_f1(root / MACRO / f"{file}_leaf_f1_scores.csv", scores(rng, runs, LEAVES, leaf, spread=0.005))
    guesses = ["test_hyp_cat_sampled", "test_hyp_cat_shuffled"]
    write_f1(root / MACRO / "catwise_hyp_guess_f1_scores.csv", scores(rng, guesses, names, 0.347, spread=0.01))


def _write_coherence(root, rng):
    rows, backbone = [], []
    for shuffle, (mean, sd) in SHUFFLE_TYPES.items():
        values = rng.normal(0, 1, len(HYPERNYMS))
        values = mean + sd * (values - values.mean()) / values.std(ddof=1)
        for hypernym, cosine in zip(HYPERNYMS.values(), values, strict=True):
            rows.append((shuffle, hypernym.coherence_name, cosine, 100))
            for lm in ("Qwen3-0.6B", "Qwen3-1.7B"):
                known = rng.uniform(0.6, 0.95)
                backbone.append((lm, hypernym.name, known, known, shuffle, hypernym.coherence_name, cosine))
    columns = ["model", "hypernym", "backbone_acc", "backbone_f1", "shuffle_type", "category", "avg_cosine"]
    pd.DataFrame(backbone, columns=columns).to_csv(root / "results/coherence_backbone.csv", index=False)
    visual = pd.DataFrame(rows, columns=["shuffle_type", "category", "avg_cosine", "n_images"])
    visual.to_csv(root / RESULTS / "visual_coherence_results.csv", index=False)


def _write_depths(root):
    table = pd.read_csv(root / MACRO / "all_unseen_f1_scores.csv", index_col="run_name")
    rows = []
    for lm in ("Qwen3-0.6B", "Qwen3-1.7B"):
        for depth in (1, 2, 3):
            columns = [row.f1_name for row in HYPERNYMS.values() if row.depth == depth]
            values = table.loc[run_names(lm), columns].to_numpy().ravel()
            sd = values.std(ddof=1)
            rows.append(("Held-Out Hypernyms", lm, depth, "Full", "FALSE", len(values), sd, 0.1, values.mean()))
    columns = ["experiment", "lm", "depth", "ablation_type", "random", "n", "sd", "conf", "acc"]
    pd.DataFrame(rows, columns=columns).to_csv(root / MACRO / "qwen3-depthwise.csv", index=False)
