"""Counts of questions at every ablation level (Tables 2 and 3), and what Figures 8 and 9 count."""

import json

import numpy as np
import pandas as pd
import pytest
from real_taxonomy import REFERENCE, needs_reference, write_real_taxonomy
from small_study import FAMILIES, write_dataset
from typer.testing import CliRunner

from cachegen.data.dataset import load_dataset
from engine.design.ablation import withhold
from engine.design.condition import Condition
from engine.design.questions import Categories
from engine.design.stats import count_tables, distributions, table_rows

# Table 2 (random) and Table 3 (systematic) of the paper: unseen test questions by level.
UNSEEN_RANDOM = {90: 15058, 70: 13402, 50: 10994, 30: 7568, 10: 2754}
LEAVES_AFFECTED = {90: 1148, 70: 976, 50: 768, 30: 513, 10: 170}
UNSEEN_SYSTEMATIC = {40: 13018, 30: 11460, 20: 8626, 10: 5608}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(write_dataset(tmp_path_factory.mktemp("stats")))


def test_every_level_counts_every_question_once(dataset):
    tables = count_tables(dataset, Condition())
    assert list(tables["random"]) == ["100", "90", "70", "50", "30", "10"]
    assert list(tables["systematic"]) == ["3", "2", "1"]  # of four hypernyms, and no published list
    for levels in tables.values():
        for counts in levels.values():
            assert counts["test"]["seen"] + counts["test"]["unseen"] == 12 * 2 * 2
            # A leaf has 5 training and 2 test images, and one hypernym.
            assert counts["train"] == 12 * 5 * 2 + 5 * counts["test"]["seen"] // 2
            assert counts["test"]["unseen"] == 4 * counts["leaves_affected"] == 4 * counts["mappings_withheld"]
    rows = table_rows(tables)
    assert len(rows) == 9
    assert (rows.groupby("ablation_kind")["train"].diff().dropna() >= 0).all()


def test_conditions_move_the_counts(dataset):
    whole = count_tables(dataset, Condition())["random"]["50"]
    other = count_tables(dataset, Condition(ablation_levels="independent", data_seed=3))["random"]["50"]
    assert whole["leaves_affected"] == other["leaves_affected"] == 2 + 1 + 1 + 1


def test_distributions_add_up(dataset):
    counted = distributions(dataset)
    assert counted["hypernyms_per_leaf"].to_dict("list") == {"hypernyms": [1], "leaves": [12]}
    table = counted["leaves_per_hypernym"].set_index("hypernym")
    assert table["leaves"].to_dict() == {name: len(leaves) for name, leaves in FAMILIES.items()}
    assert (table["images"] == 8 * table["leaves"]).all()


def test_the_command_prints_tables_and_writes_files(dataset, tmp_path):
    from cli import app

    result = CliRunner().invoke(app, ["stats", str(dataset.root), "scope=mapping", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    tables = json.loads(result.stdout.splitlines()[-1])["tables"]
    assert tables == json.loads((tmp_path / "questions.json").read_text())
    assert tables["random"]["100"]["test"] == {"leaf": 48, "seen": 0, "unseen": 48}
    assert len(pd.read_csv(tmp_path / "questions.csv")) == 9
    for figure in ("hypernyms_per_leaf.svg", "leaves_per_hypernym.svg"):
        assert (tmp_path / figure).read_text().startswith("<?xml")


@pytest.mark.slow
@needs_reference
def test_the_real_taxonomy_has_the_published_counts(tmp_path):
    """Test counts: exact where nothing is drawn, within the spread of the draw elsewhere."""
    dataset = load_dataset(write_real_taxonomy(tmp_path))
    tables = count_tables(dataset, Condition())
    assert tables["random"]["100"]["test"] == {"leaf": 9394, "seen": 0, "unseen": 15702}
    assert {int(n): t["test"]["unseen"] for n, t in tables["systematic"].items()} == UNSEEN_SYSTEMATIC
    # Where leaves are drawn: this draw's counts by plain arithmetic, then 40 more draws for their spread.
    known = Categories.of(dataset)
    per_leaf = pd.read_csv(REFERENCE / "test_images_per_leaf.csv", index_col=0)["n_test_images"]
    test_images = per_leaf[known.leaves].to_numpy()

    def counts(level, seed, scope="leaf"):
        condition = Condition(ablation=level, data_seed=seed, scope=scope)
        mappings = withhold(condition, known.members, known.hypernyms).mappings
        return 2 * int(mappings.sum(axis=1) @ test_images), int(mappings.any(axis=1).sum())

    for level, unseen in UNSEEN_RANDOM.items():
        here = tables["random"][str(level)]
        assert counts(level, 0) == (here["test"]["unseen"], here["leaves_affected"])
        draws = np.array([counts(level, seed) for seed in range(40)])
        distance = np.abs([unseen, LEAVES_AFFECTED[level]] - draws.mean(axis=0)) / draws.std(axis=0)
        assert (distance < 3).all()
        by_mapping = np.array([counts(level, seed, "mapping")[0] for seed in range(40)])
        assert abs(unseen - by_mapping.mean()) > 10 * by_mapping.std()  # the paper's text read literally is far away
