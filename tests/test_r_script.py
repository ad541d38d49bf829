"""The R script of a study's models: every model and column is there, and its brackets close. R itself is not asked."""

import re

import pandas as pd
import pytest
from synthetic_sweep import CELLS, World, write_sweep

from analysis.predictions import load_sweep
from analysis.statistics.r_script import r_script, write_r
from analysis.study import measure


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_sweep(tmp_path_factory.mktemp("sweep"), World(families=6, per_leaf=8), CELLS)
    return measure(load_sweep(folder))


def closes(script):
    """Whether brackets close, outside comments and strings."""
    open_ones = []
    for line in script.splitlines():
        for char in re.sub(r"\"[^\"]*\"", "", line.partition("#")[0]):
            if char in "([{":
                open_ones.append(char)
            elif char in ")]}" and (not open_ones or open_ones.pop() + char not in ("()", "[]", "{}")):
                return False
    return not open_ones


def test_every_model_is_in_the_script_with_its_rows(study, tmp_path):
    path = write_r(study.fitted, tmp_path)
    script, data = path.read_text(), pd.read_csv(path.with_name("data.csv"))
    fitted = [model for each in study.fitted for model in (each, each.reduced) if model and model.model]
    assert len(fitted) >= 4
    assert re.findall(r"lmer\((f1 ~ .*), data = rows_\d+, REML", script) == [each.formula for each in fitted]
    assert data["model"].nunique() == len(fitted)
    for number, each in enumerate(fitted, 1):
        rows = data[data["model"] == number]
        assert len(rows) == each.model.n
        named = set(re.findall(r"[a-z_]+\d?", re.sub(r"f1|C\(|contr\.sum", "", each.formula))) | {"f1"}
        assert named <= set(rows.dropna(axis=1).columns)
        assert rows["f1"].sum() == pytest.approx(each.model.data["f1"].sum())
        assert all(f'"{name}"' in script for name in named)
    assert closes(script)
    assert not closes(script.replace("))", ")"))
    assert "emmeans(model_1" in script


def test_without_models_there_is_a_script_all_the_same():
    script, data = r_script([])
    assert closes(script)
    assert list(data) == ["model"]
