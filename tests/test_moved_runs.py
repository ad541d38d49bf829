"""Runs that were moved, copied, renamed or edited: they work from anywhere, count once, or are refused."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from bad_input import listing
from few import few
from picture_study import PLAIN, save_encoder, write_lm, write_pictures
from run_folders import seal
from synthetic_sweep import World, id_of, mark_done, write_sweep
from twins import save_hf

from analysis.inputs import picture_file
from analysis.predictions import load_sweep
from cachegen.common.errors import RunError
from cachegen.data.dataset import load_dataset
from cachegen.features.extract import extract
from engine.design.condition import Sweep
from engine.runs.directory import HASHED, RunDirectory
from engine.runs.finished import open_run
from engine.runs.places import Places
from engine.runs.planned import Execution
from engine.sweeps.sweep import run_sweep

CPU = Execution(device="cpu")
QUESTION = "is there a bird?"
# Every command that opens a run: what follows its name, where RUN is the run, SWEEP its folder and IN the study.
COMMANDS = {
    "ask": ["RUN", "PICTURE", QUESTION, "--device", "cpu"],
    "ask --all": ["RUN", "PICTURE", "--all", "--device", "cpu"],
    "evaluate": ["RUN", "--device", "cpu"],
    "export": ["RUN", "OUT", "--device", "cpu"],
    "analyze": ["SWEEP", "--out", "OUT"],
    "report": ["SWEEP", "--out", "OUT"],
}
ASKING = ("ask", "ask --all", "export")  # need encoder and LM


def quick(*names):
    """Commands as parameters; the others are for `-m slow`: they share what opens runs, and take seconds."""
    return few(COMMANDS, *names)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study whose inputs were all given by relative paths; its results, from where it was made, are the reference."""
    root = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(root)
    try:
        study = Path("study")
        write_pictures(study / "dataset")
        save_encoder("dinov2", "hf", study / "encoder")
        write_lm(study / "lm")
        extract(load_dataset(study / "dataset"), "study/encoder", study / "features.h5", device="cpu", batch=4)
        inputs = {"dataset": "study/dataset", "features": "study/features.h5", "lm": "study/lm"}
        run_sweep(Sweep.expand([{**inputs, **PLAIN}], "test"), study / "runs", CPU)
    finally:
        os.chdir(before)
    return root / "study"


@pytest.fixture
def study(made, tmp_path, monkeypatch):
    """A copy of the study elsewhere, while the folder it was made in is gone; the working directory is a third one."""
    home = Path(shutil.copytree(made, tmp_path / "moved" / "deep", symlinks=True))
    made.rename(made.with_name("gone"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield home
    made.with_name("gone").rename(made)


def run_of(study: Path) -> Path:
    (run,) = (done.parent for done in (study / "runs").glob("*/DONE"))
    return run


def give(crosstax, command, study, *more, run=None, out="out"):
    """Give a command about the study; its JSON."""
    run = run or run_of(study)
    picture = next(iter(sorted(Path(study).rglob("crow/0.png"))), study)
    names = {"RUN": run, "SWEEP": run.parent, "PICTURE": picture, "OUT": study.parent / out}
    words = [names.get(word, word) for word in COMMANDS[command]]
    code, printed, error = crosstax(command.split()[0], *words, "--json", *more)
    return code, printed, error


def works(crosstax, command, study, *more, **how):
    code, printed, error = give(crosstax, command, study, *more, **how)
    assert code == 0, error
    assert "LEFT OUT" not in error
    result = json.loads(printed.splitlines()[-1])
    if command in ("analyze", "report"):
        assert not [note for note in result.get("notes", []) if "left out" in note]
    if command == "report":
        assert result["yardsticks"]
    return result


def refused(crosstax, command, study, *more, **how):
    code, printed, error = give(crosstax, command, study, *more, **how)
    assert (code, printed) == (2, ""), error
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    return error[error.index("error: ") :]


def edit(run: Path, change) -> None:
    config = json.loads((run / "config.json").read_text())
    change(config)
    (run / "config.json").write_text(json.dumps(config))
    seal(run)


# --- from anywhere


@pytest.mark.parametrize("command", quick("ask --all", "evaluate", "export"))
def test_a_study_that_moved_as_a_whole_is_found_beside_its_run(command, study, crosstax):
    before = listing(study)
    works(crosstax, command, study)
    assert listing(study) == before  # nothing is written beside the run, which may be read-only


@pytest.mark.parametrize("command", quick("ask", "evaluate"))
def test_where_it_was_made_the_working_directory_does_not_matter(command, made, tmp_path, monkeypatch, crosstax):
    """Also of a run that was moved away alone, under another name."""
    monkeypatch.chdir(tmp_path)
    place = Path(shutil.copytree(run_of(made), tmp_path / "sweep" / "my best run"))
    picture = shutil.copytree(made / "dataset" / "images" / "crow", tmp_path / "crow")
    assert picture.is_dir()
    works(crosstax, command, tmp_path, run=place)
    assert list(load_sweep(place.parent).runs.index) == [run_of(made).name]


@pytest.mark.parametrize("kind", ["symlink", "relative"])
def test_a_run_is_found_through_a_link_and_from_inside(kind, study, crosstax, monkeypatch, tmp_path):
    run = run_of(study)
    if kind == "symlink":
        place = tmp_path / "link"
        place.symlink_to(run)
    else:
        monkeypatch.chdir(run)
        place = Path()
    works(crosstax, "evaluate", study, run=place)


@pytest.fixture
def scattered(study, tmp_path):
    """The run here, and each of its inputs somewhere else."""
    places = {}
    for name in ("dataset", "features.h5", "lm", "encoder"):
        place = tmp_path / "elsewhere" / f"its {name}"
        place.parent.mkdir(exist_ok=True)
        places[f"--{name.split('.')[0]}"] = (study / name).rename(place)
    return places


NEEDED = {
    **dict.fromkeys(ASKING, ("--lm", "--encoder")),
    "evaluate": ("--dataset", "--features", "--lm"),
    **dict.fromkeys(("analyze", "report"), ("--dataset", "--features")),
}


@pytest.mark.parametrize("command", quick("ask", "evaluate"))
def test_options_say_where_inputs_are_now(command, study, scattered, crosstax, tmp_path):
    """The first message names an option; following each message in turn is enough."""
    shutil.copytree(scattered["--dataset"] / "images" / "crow", study / "crow")
    given: list[object] = []
    for _ in NEEDED[command]:
        code, _, error = give(crosstax, command, study, *given)
        assert code == (0 if command in ("analyze", "report") else 2)
        assert code == 0 or error.count("\n") == 1
        option = next(option for option in NEEDED[command] if option in error.split() or f"{option})" in error)
        assert option not in given
        given += [option, scattered[option]]
        shutil.rmtree(tmp_path / "moved" / "out", ignore_errors=True)
    works(crosstax, command, study, *given)


@pytest.mark.parametrize("command", ["evaluate", "ask", "analyze"])
def test_what_is_given_counts_only_with_the_digest_of_the_run(command, study, scattered, crosstax, tmp_path):
    shutil.copytree(scattered["--dataset"] / "images" / "crow", study / "crow")
    others = {
        "--dataset": write_pictures(tmp_path / "other"),
        "--features": tmp_path / "other.h5",
        "--lm": write_lm(tmp_path / "llama", "llama"),
        "--encoder": tmp_path / "wide",
    }
    next((tmp_path / "other" / "images").glob("*/*")).write_bytes(b"x")
    save_hf("dinov2", others["--encoder"], mlp_ratio=2)
    other = load_dataset(write_pictures(tmp_path / "again"))
    extract(other, str(others["--encoder"]), others["--features"], device="cpu", batch=4)
    for option in NEEDED[command]:
        given = {name: scattered[name] for name in NEEDED[command]} | {option: others[option]}
        error = refused(crosstax, command, study, *[word for pair in given.items() for word in pair])
        assert option in error


def test_one_store_of_several_is_taken_by_its_digest(study, scattered, crosstax, tmp_path):
    dataset, features, other = scattered["--dataset"], scattered["--features"], tmp_path / "other.h5"
    save_hf("dinov2", tmp_path / "wide", mlp_ratio=2)
    extract(load_dataset(dataset), str(tmp_path / "wide"), other, device="cpu", batch=4)
    assert load_sweep(study / "runs", [dataset], [features]).inputs.left_out == ()
    with pytest.raises(RunError, match=r"other\.h5: no run was made with it"):
        load_sweep(study / "runs", [dataset], [features, other])


@pytest.mark.usefixtures("no_models")
def test_what_is_left_out_is_said_loudly_in_overview_and_report(study, scattered, crosstax):
    for command in ("analyze", "report"):
        code, _, error = give(crosstax, command, study)
        assert code == 0
        assert "LEFT OUT" in error
        assert "--features" in error
    page = (study.parent / "out" / "index.html").read_text()
    assert page.index("Left out.") < page.index("What this study cannot answer.")
    assert "--dataset" in page


def test_another_dataset_at_the_old_place_is_passed_over(study, made):
    """The old place has been used for something else meanwhile."""
    write_pictures(made / "dataset")
    (made / "dataset" / "images" / "crow" / "0.png").write_bytes(b"x")
    try:
        assert open_run(run_of(study)).dataset().root == study / "dataset"
        (study / "dataset" / "images" / "crow" / "0.png").write_bytes(b"x")
        with pytest.raises(RunError, match="its dataset has changed"):
            open_run(run_of(study)).dataset()
    finally:
        shutil.rmtree(made)


def test_config_is_the_same_bytes_wherever_a_run_is_made(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made.parent)
    config = json.loads((run_of(made) / "config.json").read_text())
    inputs = {**config["paths"], **PLAIN}
    (again,) = run_sweep(Sweep.expand([inputs], "test"), tmp_path / "other place", CPU)
    for name in (*HASHED, "DONE"):
        assert (again / name).read_bytes() == (run_of(made) / name).read_bytes()
    places = json.loads((again / "places.json").read_text())
    assert places["run"] == str(again)
    assert places["encoder"] == str(made / "encoder")


# --- runs without places.json


@pytest.mark.parametrize("command", quick("ask", "evaluate"))
@pytest.mark.parametrize("cwd", ["where it was made", "elsewhere"])
def test_inputs_without_recorded_places_are_looked_for_from_here_and_upwards(
    command, cwd, study, crosstax, monkeypatch
):
    (run_of(study) / "places.json").unlink()
    home = study.rename(study.with_name("study"))  # their paths begin with study/
    if cwd == "where it was made":
        monkeypatch.chdir(home.parent)
    works(crosstax, command, home)


def test_a_field_that_a_run_lacks_stands_at_its_default(study):
    run = run_of(study)
    edit(run, lambda config: [config["condition"].pop(name) for name in ("scope", "homonyms", "swap_leaves")])
    opened = open_run(run)
    assert (opened.id, opened.condition.scope, opened.condition.swap_leaves) == (run.name, "leaf", 20)


# --- seals


@pytest.mark.parametrize("command", ["ask", "evaluate", "export", "analyze"])
@pytest.mark.parametrize("name", [*HASHED, "DONE"])
def test_one_flipped_byte_of_any_sealed_file_is_refused(command, name, study, crosstax):
    path = run_of(study) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert run_of(study).name in refused(crosstax, command, study)
    assert not (study.parent / "out").exists()


def inverted(run: Path) -> None:
    table = pd.read_parquet(run / "questions.parquet")
    table.assign(answer=~table["answer"]).to_parquet(run / "questions.parquet", index=False)


EDITS = {
    "template": lambda config: config["condition"].update(template="{image} {question} so "),
    "shuffle": lambda config: config["condition"].update(shuffle="across"),
    "learning rate": lambda config: config["condition"].update(learning_rate=0.5),
    "lm": lambda config: config["condition"].update(lm="Qwen/Qwen3-8B"),
    "digest of the LM": lambda config: config["digests"].update(lm="0" * 64),
    "run id": lambda config: config.update(run_id="another-run"),
}


@pytest.mark.parametrize("command", ["ask", "evaluate", "export", "analyze"])
@pytest.mark.parametrize("change", EDITS)
def test_an_edit_that_is_sealed_again_is_another_run(command, change, study, crosstax):
    run = run_of(study)
    edit(run, EDITS[change])
    assert "was edited" in refused(crosstax, command, study, run=run)


@pytest.mark.parametrize("command", ["evaluate", "analyze"])
def test_inverted_answers_are_refused(command, study, crosstax):
    inverted(run_of(study))
    assert "questions.parquet changed" in refused(crosstax, command, study)


# --- a run counts once

WORLD = World(families=2, per_leaf=4)


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "sweep", WORLD, {("pretrained", "original"): (1.5, 1.0, 0.0)}, seeds=(0, 1))


@pytest.mark.parametrize("how", ["copy", "upper case", "symlink", "sorted before", "two"])
def test_copies_of_a_run_count_once(how, sweep):
    run = sweep / "pretrained-original-r0"
    names = {"upper case": [run.name.upper()], "sorted before": ["a"], "two": ["x", "y"]}.get(how, [f"{run.name}-copy"])
    for name in names:
        (sweep / name).symlink_to(run) if how == "symlink" else shutil.copytree(run, sweep / name)
    loaded = load_sweep(sweep)
    assert sorted(loaded.runs.index) == sorted({id_of(sweep / each) for each in (run, "pretrained-original-r1")})
    assert len(loaded.copies) == len(names)
    assert loaded.failed.empty


@pytest.mark.usefixtures("no_models")
def test_copies_are_listed_in_overview_and_report(sweep, crosstax, tmp_path):
    shutil.copytree(sweep / "pretrained-original-r0", sweep / "copy")
    code, out, error = crosstax("analyze", sweep, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert (json.loads(out)["runs"], json.loads(out)["copies"]) == (2, 1)
    assert "not counted again" in " ".join(error.split())
    crosstax("report", sweep, "--out", tmp_path / "report")
    assert "counts once" in (tmp_path / "report" / "index.html").read_text()


def test_the_folder_that_bears_its_id_comes_before_its_copies(sweep):
    run = sweep / "pretrained-original-r0"
    own = run.rename(sweep / id_of(run))
    shutil.copytree(own, sweep / "a")
    assert load_sweep(sweep).opened[own.name].directory.path == own


def test_a_copy_with_other_answers_is_told(sweep):
    run = sweep / "pretrained-original-r0"
    other = Path(shutil.copytree(run, sweep / "z"))
    table = pd.read_parquet(other / "predictions.parquet")
    table.assign(logit_no=table["logit_no"] + 1).to_parquet(other / "predictions.parquet", index=False)
    mark_done(other)
    assert load_sweep(sweep).copies["reason"].str.contains("other answers").tolist() == [True]


def test_a_run_of_another_sweep_counts(sweep, tmp_path):
    other = write_sweep(tmp_path / "other", WORLD, {("pretrained", "across"): (1.5, 1.0, 0.0)}, seeds=(0,))
    (run,) = other.iterdir()
    shutil.copytree(run, sweep / "taken over")
    loaded = load_sweep(sweep)
    assert len(loaded.runs) == 3
    assert loaded.copies.empty


def test_another_run_under_a_planned_name_is_not_taken_for_it(made, tmp_path, monkeypatch):
    """Its hashes are right; what is right is not the run that was asked for."""
    monkeypatch.chdir(made.parent)
    config = json.loads((run_of(made) / "config.json").read_text())
    asked = Sweep.expand([{**config["paths"], **PLAIN, "run_seed": 7}], "test")
    (honest,) = run_sweep(asked, tmp_path / "honest", CPU)
    foreign = tmp_path / "foreign" / honest.name
    shutil.copytree(run_of(made), foreign)
    assert not RunDirectory(foreign).done
    (again,) = run_sweep(asked, tmp_path / "foreign", CPU)
    assert again == foreign
    assert (again / "predictions.parquet").read_bytes() == (honest / "predictions.parquet").read_bytes()


# --- fused encoders, ids of hubs, and imports


def test_places_of_fused_encoders_and_ids(tmp_path, monkeypatch):
    from engine.design.condition import Inputs
    from engine.runs.places import absolute_places, candidates

    monkeypatch.chdir(tmp_path)
    for name in ("a/enc", "b+c"):
        (tmp_path / name).mkdir(parents=True)
    inputs = Inputs(dataset=Path("d"), features=Path("f.h5"), lm="Qwen/Qwen3-0.6B")
    for encoder, place in {
        "a/enc@384+vit_large.x@384": f"{tmp_path}/a/enc@384+vit_large.x@384",
        "b+c": f"{tmp_path}/b+c",
        "local-dir:a/enc": f"local-dir:{tmp_path}/a/enc",
        "org/name": "org/name",
    }.items():
        places = absolute_places(Path("runs/r"), inputs, encoder)
        assert places["encoder"] == place
        assert places["lm"] == inputs.lm
        run = tmp_path / "runs" / "r"
        run.mkdir(parents=True, exist_ok=True)
        (run / "places.json").write_text(json.dumps(places))
        moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved", dirs_exist_ok=True)
        assert place.replace(str(tmp_path), str(moved)) in candidates(moved / "runs" / "r", "encoder", encoder)
    (run / "places.json").write_text("[" * 100_000)
    assert candidates(run, "lm", "lm")  # hints that cannot be read are none


def test_given_places_reach_the_run(made):
    run = open_run(run_of(made), Places(dataset=made / "dataset", features=made / "features.h5", lm=str(made / "lm")))
    assert run.dataset().root == made / "dataset"
    assert run.lm[1] == made / "lm"


def test_a_damaged_dataset_is_to_be_restored_not_corrected(crosstax, study):
    """What `extract` would have one do with it, as dropping a row, would make it another dataset."""
    copy = shutil.copytree(study / "dataset", study / "copy")
    picture = next((study / "dataset").rglob("crow/0.png"))
    content = picture.read_bytes()
    shutil.rmtree(picture.parent)
    for more in ((), ("--dataset", str(study / "dataset"))):
        error = refused(crosstax, "evaluate", study, *more)
        assert "needs its dataset as it was in training; restore it, or give an unchanged copy with --dataset" in error
    works(crosstax, "evaluate", study, "--dataset", str(copy))
    shutil.copytree(copy / "images" / "crow", picture.parent)
    assert picture.read_bytes() == content
    works(crosstax, "evaluate", study)


def test_the_report_shows_no_picture_that_the_run_was_not_asked_about(made, tmp_path):
    """One of the same name and size, under a dataset that has moved here since."""
    study = shutil.copytree(made, tmp_path / "study")
    sweep = load_sweep(study / "runs")
    (run,) = sweep.opened.values()
    key = str(run.answers("test")["key"].iloc[0])
    file = picture_file(sweep.inputs, run, key)
    assert file == study / "dataset" / "images" / key
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    assert picture_file(sweep.inputs, run, key) is None
