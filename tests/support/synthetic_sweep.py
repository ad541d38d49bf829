"""Sweep folders with chosen answers, in the engine's schema but without the engine."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import inputs
from analysis.cells import base_lm
from cachegen.common.rng import generator
from engine.design.condition import Condition

FAMILIES = {
    "bird": ["crow", "gull", "heron", "wren", "duck", "swan"],
    "fish": ["trout", "carp", "eel", "pike", "perch", "cod"],
    "insect": ["ant", "wasp", "moth", "beetle", "cricket", "fly"],
    "vehicle": ["truck", "tram", "bus", "car", "van", "jeep"],
    "boat": ["canoe", "ferry", "yacht", "raft", "kayak", "barge"],
    "fruit": ["plum", "pear", "fig", "lime", "date", "kiwi"],
    "tree": ["oak", "pine", "elm", "birch", "maple", "cedar"],
    "tool": ["saw", "file", "drill", "axe", "hammer", "chisel"],
}
PARENTS = {
    **dict.fromkeys(["bird", "fish", "insect"], "animal"),
    **dict.fromkeys(["vehicle", "boat", "tool"], "artifact"),
    **dict.fromkeys(["fruit", "tree"], "plant"),
}
CONDITION = {
    "encoder": "/somewhere/worlds/demo-7/encoder",
    "lm": "/somewhere/worlds/demo-7/lm",
    "lm_init": "pretrained",
    "lm_seed": 0,
    "shuffle": "original",
    "across_rule": "paper",
    "within_rule": "deranged",
    "ablation": 100,
    "data_seed": 0,
    "run_seed": 0,
    "order": "images",
    "epochs": 6,
    "learning_rate": 0.003,
}


def phrase(name: str) -> str:
    """Noun phrase with its article."""
    return ("an " if name[0] in "aeiou" else "a ") + name


@dataclass
class World:
    """Leaves of FAMILIES with `per_leaf` images each; in every leaf the last quarter are test images.

    With `parents`, leaves are under their family (depth 1) and its parent (depth 2).
    """

    families: int = 8
    per_leaf: int = 12
    seed: int = 0
    parents: bool = False
    leaves: list[str] = field(init=False)
    family: dict[str, str] = field(init=False)
    images: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        chosen = dict(list(FAMILIES.items())[: self.families])
        self.family = {leaf: name for name, leaves in chosen.items() for leaf in leaves}
        self.leaves = sorted(self.family)
        split = ["train"] * (self.per_leaf * 7 // 10) + ["validation"]
        split += ["test"] * (self.per_leaf - len(split))
        self.images = pd.DataFrame(
            [(f"{leaf}/{leaf}_{n:02d}.png", leaf, split[n]) for leaf in self.leaves for n in range(self.per_leaf)],
            columns=["key", "leaf", "split"],
        )

    def own(self, leaf: str) -> list[str]:
        """Hypernyms of a leaf."""
        family = self.family[leaf]
        return [family, PARENTS[family]] if self.parents else [family]

    @cached_property
    def hypernyms(self) -> list[str]:
        """All hypernyms, sorted."""
        return sorted({name for leaf in self.leaves for name in self.own(leaf)})

    @property
    def dataset(self) -> Any:
        """What analysis uses of a `cachegen.data.dataset.Dataset`."""
        pairs = pd.DataFrame([(leaf, name) for leaf in self.leaves for name in self.own(leaf)])
        depth = [2 if name in PARENTS.values() else 1 for name in self.hypernyms] if self.parents else pd.NA
        hypernyms = pd.DataFrame({"depth": depth}, index=pd.Index(self.hypernyms, name="hypernym"), dtype="Int64")
        pairs.columns = pd.Index(["leaf", "hypernym"])
        leaves = self.images["leaf"].value_counts().rename("n_images").to_frame()
        tables = {"leaves": leaves, "hypernyms": hypernyms.assign(n_leaves=pairs["hypernym"].value_counts())}
        return SimpleNamespace(pairs=pairs, images=self.images, digest="dataset digest", **tables)

    def label_of(self, shuffle: str, shuffled: int = 100, permutation: int = 0) -> dict[str, str]:
        """Image leaf -> label leaf under a shuffle; a partial one moves the first leaves of a drawn order."""
        rng = generator(self.seed, "label", shuffle, *([permutation] if permutation else []))
        label_of = {leaf: leaf for leaf in self.leaves}
        if shuffle == "original":
            return label_of
        if shuffle == "across":
            drawn = rng.permutation(self.leaves).tolist()
            moved = drawn if shuffled == 100 else drawn[: round(len(drawn) * shuffled / 100)]
            return label_of | dict(zip(self.leaves if shuffled == 100 else sorted(moved), moved, strict=True))
        if shuffle == "swap":  # the two halves of the families exchange their leaves
            half = len(self.leaves) // 2
            by_family = sorted(self.leaves, key=lambda leaf: (self.family[leaf], leaf))
            return dict(zip(by_family, by_family[half:] + by_family[:half], strict=True))
        groups = pd.Series(self.family).groupby(pd.Series(self.family)).groups
        return {leaf: label for group in groups.values() for leaf, label in zip(group, np.roll(group, 1), strict=True)}

    def questions(self, shuffle: str, ablation: int, kind: str = "random", **labels: int) -> pd.DataFrame:
        """Question table; `labels` go to `label_of`.

        Random ablation withholds the hypernym questions of a share of the leaves; a systematic one removes the first
        hypernyms and withholds the questions of all leaves that have one of them.
        """
        rng = generator(self.seed, "negatives")
        label_of = self.label_of(shuffle, **labels)
        removed = self.hypernyms[:ablation] if kind == "systematic" else []
        order = generator(self.seed, "ablation").permutation(self.leaves).tolist()
        withheld = set(order[: len(order) * ablation // 100])
        if kind == "systematic":
            withheld = {leaf for leaf in self.leaves if set(self.own(leaf)) & set(removed)}
        others = {leaf: [x for x in self.leaves if x != leaf] for leaf in self.leaves}
        wrong = {leaf: [x for x in self.hypernyms if x not in self.own(leaf)] for leaf in self.leaves}
        rows = []
        for number, (key, leaf, split) in enumerate(self.images.itertuples(index=False)):
            label = label_of[leaf]
            asked = [("leaf", label, True), ("leaf", others[label][rng.integers(len(others[label]))], False)]
            for name in self.own(label):
                no = wrong[label][rng.integers(len(wrong[label]))]
                asked += [("hypernym", name, True), ("hypernym", no, False)]
            for about, category, answer in asked:
                seen = about == "leaf" or label not in withheld
                veridical = category in (leaf, *self.own(leaf))
                if split != "train" or seen:
                    rows.append(
                        (number, key, leaf, label, about, category, phrase(category), split, seen, answer, veridical)
                    )
        columns = ["image", "key", "image_leaf", "label_leaf", "kind", "category", "phrase", "split", "seen"]
        table = pd.DataFrame(rows, columns=[*columns, "answer", "veridical"])
        table.insert(0, "question", np.arange(len(table), dtype=np.int32))
        if kind == "systematic":  # older tables have no such column
            table["removed"] = (table["kind"] == "hypernym") & table["category"].isin(removed)
        return table.astype({"image": "int32"})

    def store(self, width: int = 16, coherent: float = 1.0) -> Any:
        """What analysis uses of a `FeatureStore`: vectors around a family direction plus a leaf direction."""
        rng = generator(self.seed, "features")
        directions = {name: rng.normal(size=width) for name in [*self.leaves, *self.hypernyms]}
        shared = {leaf: coherent * sum(directions[name] for name in self.own(leaf)) for leaf in self.leaves}
        means = np.array([shared[leaf] + directions[leaf] for leaf in self.images["leaf"]])
        patches = (means + rng.normal(size=means.shape) + 0.5).astype(np.float32)
        keys = self.images["key"].tolist()
        position = {key: row for row, key in enumerate(keys)}
        return SimpleNamespace(
            path=Path("no/such/folder/store.h5"),
            verify_pooled=lambda: None,
            pooled_patches=patches,
            pooled_all_tokens=patches * 2,
            sha256=None,
            digest="store digest",
            attributes={},
            rows=lambda wanted: np.array([position[key] for key in wanted]),
        )


@contextlib.contextmanager
def standing_in(world: World) -> Iterator[None]:
    """Whatever dataset and store a run names are those of the world."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "open_dataset", lambda *_: world.dataset)
        patch.setattr(inputs, "open_store", lambda *_: world.store())
        yield


def answer_questions(asked: pd.DataFrame, strength: dict[str, float], no_bias: float, seed: int) -> pd.DataFrame:
    """Logits whose margin is strength[kind] (in SDs, on the gold side) plus noise, less a bias to yes."""
    rng = generator(seed, "answers")
    sign = np.where(asked["answer"], 1.0, -1.0)
    margin = sign * asked["kind"].map(strength).to_numpy() + rng.normal(size=len(asked))
    margin -= np.where(asked["kind"] == "hypernym", no_bias, 0)
    logits = {"logit_yes": margin.astype(np.float32), "logit_no": np.zeros(len(asked), np.float32)}
    return pd.DataFrame({"question": asked["question"].astype("int32"), **logits, "mass": np.float32(0.97)})


def write_run(
    folder: Path,
    name: str,
    condition: dict[str, Any],
    questions: pd.DataFrame,
    predictions: pd.DataFrame,
    paths: dict[str, str] | None = None,
    digest: str = "dataset digest",
    digests: dict[str, str] | None = None,
) -> Path:
    """One finished run directory, DONE included; it counts under its `id_of`, not under `name`."""
    place = folder / name
    place.mkdir(parents=True)
    known = {"dataset": digest, "store": "store digest", "lm": "lm digest", "tokenizer": "t"}
    about = {**CONDITION, **condition}
    if (lm := base_lm(about["lm"], about["lm_init"])) != CONDITION["lm"]:
        known["lm"] = f"digest of {lm}"
    digests = known | (digests or {})
    config = {"schema": 1, "digests": digests, "paths": paths or {}, "counts": {}}
    write_config(place, config | {"condition": {**CONDITION, **condition}})
    questions.to_parquet(place / "questions.parquet", index=False)
    predictions.to_parquet(place / "predictions.parquet", index=False)
    losses = [{"step": s, "loss": 0.7 * np.exp(-s / 60) + 0.05, "lr": 1e-3, "grad_norm": 1.0} for s in range(190)]
    (place / "projector.safetensors").write_bytes(b"")
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in losses))
    mark_done(place)
    return place


def write_config(place: Path, config: dict[str, Any]) -> None:
    """Write config.json, with the id of the run that has this condition and these digests."""
    fields = dict(config["condition"])
    encoder, lm = fields.pop("encoder"), fields.pop("lm")
    run_id = Condition.of(fields, "test").run_id(encoder, lm, config["digests"])
    (place / "config.json").write_text(json.dumps(config | {"run_id": run_id}))


def id_of(place: Path) -> str:
    """The run in a folder."""
    return str(json.loads((place / "config.json").read_text())["run_id"])


def mark_done(place: Path) -> None:
    """Write DONE with the hashes of what lies there."""
    names = sorted(path.name for path in place.iterdir() if path.name != "DONE")
    hashes = {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in names}
    (place / "DONE").write_text(json.dumps(hashes))


def write_probe(path: Path, world: World, strength: float, drop: int = 0, **record: Any) -> Path:
    """A text probe about all pairs of a world but the first `drop`, with margins `strength` SDs on the gold side."""
    pairs = [(leaf, name, name in world.own(leaf)) for leaf in world.leaves for name in world.hypernyms]
    table = pd.concat(
        [
            pd.DataFrame(pairs[drop:], columns=["leaf", "hypernym", "answer"]).assign(phrasing=form, repeats=1)
            for form in range(2)
        ],
        ignore_index=True,
    )
    rng = generator(world.seed, "probe")
    margin = np.where(table["answer"], 1.0, -1.0) * strength + rng.normal(size=len(table))
    ranks = {"rank_yes": np.where(margin >= 0, 0, 1), "rank_no": np.where(margin >= 0, 1, 0)}
    table.assign(logit_yes=margin, logit_no=0.0, **ranks).to_parquet(path, index=False)
    about = {"schema": 1, "lm": "lm", "lm_digest": "lm digest", "dataset_digest": "dataset digest"}
    path.with_suffix(".json").write_text(json.dumps({**about, "lm_init": "pretrained", "lm_seed": 0, **record}))
    return path


CELLS = {
    ("pretrained", "original"): (1.6, 1.1, 0.0),
    ("pretrained", "across"): (1.4, 0.1, 0.1),
    ("pretrained", "within"): (1.6, 1.2, 0.0),
    ("random", "original"): (1.3, 0.0, 0.9),
}


def write_sweep(
    folder: Path,
    world: World,
    cells: dict[tuple[str, str], tuple[float, float, float]] = CELLS,
    seeds: tuple[int, ...] = (0, 1, 2),
    paths: dict[str, str] | None = None,
    digest: str = "dataset digest",
    digests: dict[str, str] | None = None,
    **condition: Any,
) -> Path:
    """A sweep with one run per cell and seed; a cell's values are (leaf strength, hypernym strength, bias to no)."""
    labels = {name: condition[name] for name in ("shuffled", "permutation") if name in condition}
    kind = condition.get("ablation_kind", "random")
    for (lm_init, shuffle), (leaf, hypernym, bias) in cells.items():
        questions = world.questions(shuffle, condition.get("ablation", 100), kind, **labels)
        asked = questions[questions["split"] != "train"]
        for seed in seeds:
            lm_seed = seed if lm_init == "random" else 0
            about = {"lm_init": lm_init, "shuffle": shuffle, "run_seed": seed, "lm_seed": lm_seed, **condition}
            if shuffle == "swap":
                about["subset"] = "swap"
            strength = {"leaf": leaf * (1 + 0.03 * seed), "hypernym": hypernym * (1 + 0.03 * seed)}
            number = len(list(folder.glob("*"))) if folder.exists() else 0
            predictions = answer_questions(asked, strength, bias, 1000 * number + seed)
            tag = "".join("-" + str(value).split("/")[-1] for value in condition.values())
            tag += "".join("-" + value for value in (digests or {}).values())
            name = f"{lm_init}-{shuffle}-r{seed}{tag}"
            write_run(folder, name, about, questions, predictions, paths, digest, digests)
    return folder
