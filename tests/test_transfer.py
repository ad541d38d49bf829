"""Question sets: answers are those of the run's own evaluation, kept beside sealed runs, scored like hypernyms."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_folders import bytes_in, places_of, sweep_file
from sklearn.metrics import f1_score, roc_auc_score
from small_study import SETTINGS

from analysis.predictions import load_sweep
from analysis.report.dictionary import describe_columns
from analysis.report.files import study_tables
from analysis.statistics.difference import difference, seeds_by_hypernyms
from analysis.study import measure
from analysis.transfer import transfer_groups
from cachegen.common.errors import ConditionError
from cachegen.data.dataset import load_dataset
from engine.design.condition import Condition
from engine.design.question_sets import (
    TRAINED,
    language,
    paraphrases,
    properties,
    put_to,
    question_source,
    read_question_set,
    taxonomy_pairs,
)
from engine.runs.finished import open_run
from engine.runs.planned import Execution
from engine.runs.transfer import answered
from engine.transfer import run_folders, transfer

CONDITION = Condition.model_validate(
    {name: SETTINGS[name] for name in ("template", "question_singular", "question_plural")}
)
WORDINGS = {"maker": "paraphrases", "phrasings": ["there is {phrase}"], "negations": ["is there no {noun}"]}
CPU = Execution(device="cpu")
TOML = """
[[grid]]
shuffle = ["original", "across"]
run_seed = [1, 2]
epochs = 1

[[transfer]]
maker = "paraphrases"
phrasings = ["there is {phrase}"]
negations = ["is there no {noun}"]
"""


@pytest.fixture(scope="module")
def swept(small_study, tmp_path_factory):
    """Four runs, and the answers that their sweep file asked for."""
    from typer.testing import CliRunner

    from cli import app

    root = tmp_path_factory.mktemp("transfer")
    file = sweep_file(root / "sweep.toml", SETTINGS | places_of(small_study), TOML)
    words = ["sweep", str(file), "--out", str(root / "runs"), "--device", "cpu", "--threads", "1"]
    dry = CliRunner().invoke(app, [*words, "--dry-run", "--json"])
    forecast = json.loads(dry.stdout.splitlines()[-1])["transfer"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return root / "runs", forecast, done.output, words


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    found = dict(answered_tables(folder))
    assert found
    return found


def answered_tables(folder):
    for run in run_folders([folder]):
        for each, problem in answered(open_run(run).directory):
            assert not problem
            yield run.name, each.table()


def test_a_sweep_asks_its_questions_and_says_so_before(swept):
    runs, forecast, said, _ = swept
    found = tables(runs)
    assert len(found) == 4
    assert forecast == [{"name": "paraphrases", "questions": sum(map(len, found.values())), "problem": None}]
    assert "4 question sets asked" in said


def test_answers_are_those_of_the_runs_own_evaluation(swept):
    runs, *_ = swept
    for name, table in tables(runs).items():
        own = open_run(runs / name).answers("test").drop_duplicates(["image", "category"])
        logits = own.set_index(["image", "category"])[["logit_yes", "logit_no"]]
        for each, same in ((TRAINED, True), ("there is {phrase}", False)):
            asked = table[table["set"] == each].set_index(["image", "group"])
            both = logits.index.intersection(asked.index)
            assert len(both) > 20
            gap = np.abs(asked.loc[both, ["logit_yes", "logit_no"]].to_numpy() - logits.loc[both].to_numpy())
            assert (gap.max() < 1e-5) == same


def test_answers_follow_the_label_leaf_and_negations_are_flipped(swept, small_study):
    runs, *_ = swept
    pairs = set(load_dataset(small_study.dataset).pairs.itertuples(index=False, name=None))
    shuffled = 0
    for table in tables(runs).values():
        negated = table["set"].str.startswith("negated")
        assert 0 < negated.sum() < len(table)
        for of, leaf in (("answer", "label_leaf"), ("veridical", "image_leaf")):
            true = [pair in pairs for pair in zip(table[leaf], table["group"], strict=True)]
            np.testing.assert_array_equal(table[of].astype(bool), np.array(true) ^ negated)
        assert (table["kind"] == "heldout").all()
        shuffled += int((table["answer"] != table["veridical"]).sum())
    assert shuffled > 0


def test_what_is_there_is_kept_and_what_is_not_whole_is_asked_again(swept, small_study, tmp_path):
    runs, *_ = swept
    before = bytes_in(runs)
    asked = question_source("test", WORDINGS)
    folders = run_folders([runs])
    assert sum(each.now for each in transfer(folders, [asked], CPU)) == 0
    table = next((folders[0] / "transfer").glob("*.parquet"))
    content = table.read_bytes()
    for damage in (b"", content[:-9], None):
        table.unlink() if damage is None else table.write_bytes(damage)
        problems = [problem for _, problem in answered(open_run(folders[0]).directory)]
        assert all(problems)
        assert len(transfer_groups([("run", folders[0])])[1]) == len(problems)
        assert [each.now for each in transfer(folders[:1], [asked], CPU)] == [1]
        assert table.read_bytes() == content
    seal = table.with_suffix(".json")
    seal.write_text(json.dumps(json.loads(seal.read_text()) | {"run": "another training"}))
    assert [each.now for each in transfer(folders[:1], [asked], CPU)] == [1]
    # Other questions under the name take the place of the first.
    other = question_source("test", WORDINGS | {"negations": ["no there is {noun}"]})
    assert [each.now for each in transfer(folders[:1], [other], CPU)] == [1]
    assert not table.exists()
    assert [each.now for each in transfer(folders[:1], [asked], CPU)] == [1]
    assert table.read_bytes() == content
    assert bytes_in(runs) == before


def test_a_run_that_cannot_be_asked_is_said_and_the_others_go_on(swept, capsys):
    runs, *_ = swept
    folders = run_folders([runs])
    file = runs.parent / "one image.csv"
    key = open_run(folders[0]).answers("test")["key"].iloc[0]
    file.write_text(f"key,text,answer,group,set\n{key},is there a crow,yes,crow,mine\n")
    asked = [question_source("test", {"questions": file})]
    results = transfer(folders, asked, CPU)
    assert [each.problem for each in results] == [None] * 4
    (table,) = (t for t in (each.table() for each, _ in answered(open_run(folders[0]).directory)) if len(t) == 1)
    assert table["key"].item() == key
    assert table["veridical"].item()
    nowhere = file.with_name("nowhere.csv")
    nowhere.write_text("leaf,text,answer,group,set\nzebra,is there a crow,yes,crow,mine\n")
    capsys.readouterr()
    for path in (folders[0] / "transfer").glob("one image*"):
        path.unlink()
    results = transfer(folders[:3], [*asked, question_source("test", {"questions": nowhere})], CPU)
    assert all("no question" in str(each.problem) for each in results)
    assert sum(each.now for each in results) == 1  # what was asked before it failed
    assert capsys.readouterr().err.count("no question") == 2  # of the first, and of all others
    for folder in folders:
        for path in (folder / "transfer").glob("one image*"):
            path.unlink()


def test_scores_are_scikit_learns_and_differences_those_of_the_one_module(swept):
    runs, *_ = swept
    study = measure(load_sweep(runs))
    groups = study.transfer_groups.set_index(["run_id", "set", "category"])
    for name, table in tables(runs).items():
        for (each, group), rows in table.groupby(["set", "group"]):
            margin, at = rows["logit_yes"] - rows["logit_no"], groups.loc[(name, each, group)]
            assert at["f1"] == pytest.approx(100 * f1_score(rows["answer"], margin >= 0, average="macro"))
            veridical = rows["veridical"].astype(bool)
            assert at["veridical_f1"] == pytest.approx(100 * f1_score(veridical, margin >= 0, average="macro"))
            assert at["auc"] == pytest.approx(roc_auc_score(rows["answer"], margin))
    assert len(study.transfer) == 2 * 3
    cells = study.runs["cell"].astype(object)
    for _, row in study.transfer.iterrows():
        own = study.transfer_groups[
            study.transfer_groups["run_id"].isin(cells.index[[c == row["cell"] for c in cells]])
        ]
        own = own.assign(seed=own["run_id"].map(study.runs["run_seed"]))
        sides = [seeds_by_hypernyms(own[own["set"] == each], "f1") for each in (row["set"], TRAINED)]
        assert row["f1"] == pytest.approx(sides[0].to_numpy().mean())
        if row["set"] == TRAINED:
            assert np.isnan(row["change"])
        else:
            gap = difference(*sides)
            assert (row["change"], row["change_low"], row["change_p"]) == pytest.approx((gap.estimate, gap.low, gap.p))
            assert row["change_verdict"] == gap.verdict
    described = describe_columns(study_tables(study))  # raises for a column without a meaning
    assert {"transfer", "transfer_groups"} <= set(described["table"])


# Files of questions

HEAD = "leaf,text,answer,group,set\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leaf,text,answer,set\ncrow,is it,yes,a\n", "no column group"),
        (HEAD.replace(",", ";") + "crow;is it;yes;g;a\n", "semicolons"),
        ("text,answer,group,set\nis it,yes,g,a\n", "no column leaf or key"),
        ("leaf,colour,text,answer,group,set\ncrow,,is it,yes,g,a\n", "unknown column 'colour'"),
        (HEAD + "crow,is it,yes,g,a\ncrow,is it,maybe,g,a\n", "line 3 has an answer"),
        (HEAD + ",is it,yes,g,a\n", "line 2 names a leaf and a key"),
        (HEAD + "crow, ,yes,g,a\n", "line 2 has no text"),
        (HEAD + "crow,is it,yes,,a\n", "line 2 has no group"),
        (HEAD + "crow,is it,yes,g,\n", "line 2 has no set"),
        (HEAD + f"crow,{'a' * 200_000},yes,g,a\n", "characters"),
        (HEAD + "crow,is it,yes,g,a\ncrow,is it,no,g,a\n", "answered both yes and no"),
        (HEAD, "asks nothing"),
        ("\0", "no CSV|no column"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, text, message):
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(ConditionError, match=message) as caught:
        read_question_set(tmp_path / "q.csv", "q")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_digest_is_of_what_is_asked(tmp_path):
    rows = ["crow,is it,yes,g,a", "owl,is it,no,g,a"]
    digests = []
    for lines in (rows, rows[::-1], [*rows, rows[0]], [rows[0], "owl,is it,yes,g,a"]):
        (tmp_path / "q.csv").write_text(HEAD + "\n".join(lines) + "\n")
        digests.append(read_question_set(tmp_path / "q.csv", "q").digest)
    assert digests[0] == digests[1] == digests[2] != digests[3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give questions"),
        ({"maker": "paraphrases", "questions": "q.csv"}, "give questions"),
        ({"maker": "poems"}, "maker"),
        ({"maker": "properties"}, "needs table"),
        ({"maker": "language", "table": "t.csv"}, "question, with"),
        ({"maker": "paraphrases", "phrasings": ["is it"]}, "lacks"),
        ({"maker": "paraphrases", "wordings": ["is it"]}, "wordings"),
        ({"questions": "nowhere.csv"}, "does not exist"),
    ],
)
def test_a_table_of_a_sweep_file_that_is_wrong_is_one_line(fields, message):
    with pytest.raises(ConditionError, match=message) as caught:
        question_source("sweep.toml: transfer 1", fields)
    assert "\n" not in str(caught.value)


# Makers


@pytest.fixture(scope="module")
def dataset(small_study):
    return load_dataset(small_study.dataset)


def test_negatives_are_false_and_as_many(dataset):
    pairs = taxonomy_pairs(dataset, list(dataset.hypernyms.index))
    true = set(dataset.pairs.itertuples(index=False, name=None))
    assert [pair in true for pair in zip(pairs["leaf"], pairs["hypernym"], strict=True)] == pairs["answer"].tolist()
    assert pairs["answer"].mean() == 0.5
    assert not pairs.duplicated(["leaf", "hypernym"]).any()


def test_makers(dataset, tmp_path):
    names = tmp_path / "names.csv"
    names.write_text("hypernym,phrase,number\nbird,feathered animals,plural\ntool,an instrument,singular\n")
    made = paraphrases(dataset, CONDITION, ["{Is} {phrase} there"], ["{is} there no {noun}"], names).table
    texts = made.groupby("set")["text"].agg(set)
    assert {"is there a bird", "is there a toy"} <= texts[TRAINED]
    assert "is there no bird" in texts["negated: {is} there no {noun}"]
    assert texts["synonyms"] == {"are there feathered animals", "is there an instrument"}
    assert paraphrases(dataset, CONDITION).csv.startswith("leaf,text,answer,group,set\n")
    with pytest.raises(ConditionError, match="phrasings of your own"):
        paraphrases(dataset, CONDITION.model_copy(update={"question_singular": "a {phrase}"}))
    names.write_text("name,phrase\nbird,ein Vogel\ntool,ein Werkzeug\ncrow,eine Krähe\nbus,ein Bus\n")
    german = language(dataset, CONDITION, names, "gibt es {phrase}").table
    asked = german[german["set"] == "leaves: gibt es {phrase}"]
    assert asked.set_index(["leaf", "group"])["answer"].to_dict() == {
        ("crow", "crow"): True, ("bus", "bus"): True, ("crow", "bus"): False, ("bus", "crow"): False,
    }  # fmt: skip
    assert set(german.loc[german["set"] == "gibt es {phrase}", "group"]) == {"bird", "tool"}
    names.write_text("leaf,can it fly,is it made\ncrow,yes,no\nhammer,no,\n")
    asked = properties(dataset, names).table
    assert asked.set_index(["leaf", "group"])["answer"].to_dict() == {
        ("crow", "can it fly"): True, ("hammer", "can it fly"): False, ("crow", "is it made"): False,
    }  # fmt: skip
    names.write_text("leaf,can it fly\ndodo,no\n")
    with pytest.raises(ConditionError, match="dodo is no leaf"):
        properties(dataset, names)


def test_the_answer_about_the_image_is_missing_where_nothing_tells(swept, dataset, tmp_path):
    runs, *_ = swept
    (tmp_path / "q.csv").write_text(HEAD + "crow,can it fly,yes,fly,p\nowl,can it fly,yes,fly,p\n")
    asked = read_question_set(tmp_path / "q.csv", "q")
    questions = next(open_run(run).questions() for run in run_folders([runs]) if "across" in run.name)
    rows = put_to(questions, asked, dataset)
    told = rows["image_leaf"].isin(["crow", "owl"])
    assert rows["veridical"].isna().tolist() == (~told).tolist()
    assert not told.all()
    assert set(rows["kind"]) == {"new"}


def test_commands(swept, crosstax, tmp_path):
    runs, *_ = swept
    run, file = run_folders([runs])[0], tmp_path / "mine.csv"
    code, out, err = crosstax(
        "transfer", "make", "paraphrases", run, "--out", file, "--phrasing", "there is {phrase}", "--json"
    )
    assert code == 0, err
    assert set(json.loads(out)["sets"]) >= {TRAINED, "there is {phrase}"}
    words = ["transfer", "ask", runs, "--questions", file, "--device", "cpu", "--threads", "1", "--json"]
    code, out, err = crosstax(*words)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert len(result["runs"]) == 4
    assert {row["questions"] for row in result["scores"]} == {"mine"}
    assert crosstax("transfer", "ask", tmp_path, "--questions", file)[0] == 2
    for folder in run_folders([runs]):
        for path in (folder / "transfer").glob("mine-*"):
            path.unlink()


def test_a_sweep_whose_questions_fit_no_run_says_so_and_keeps_its_runs(swept, small_study, crosstax):
    runs, *_ = swept
    (runs.parent / "far.csv").write_text(HEAD + "zebra,is there a crow,yes,crow,mine\n")
    text = TOML.split("[[transfer]]")[0] + '[[transfer]]\nquestions = "far.csv"\n'
    file = sweep_file(runs.parent / "far.toml", SETTINGS | places_of(small_study), text)
    code, out, err = crosstax("sweep", file, "--out", runs, "--device", "cpu", "--threads", "1", "--json")
    result = json.loads(out.splitlines()[-1])
    assert code == 1, err
    assert (len(result["not_asked"]), result["failed"]) == (4, [])
    assert "--retry-failed" not in err
