"""The lenses: states and scores are plain Hugging Face's, layer by layer; tables say what they are built to say."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from lm_families import tiny_of
from run_folders import bytes_in, places_of, sweep_file
from small_study import SETTINGS

import engine.lens
from analysis.cells import in_words
from analysis.figures.contents import FIGURES
from analysis.figures.style import NotDrawnError
from analysis.lens import read_lenses, rises
from analysis.predictions import load_sweep
from analysis.report.dictionary import describe_columns
from analysis.report.report import write_report
from analysis.study import measure
from cachegen.common.errors import ConditionError, ModelError
from engine.design.condition import checked
from engine.lens import ROLES, look, spread
from engine.lm import lens
from engine.lm.language_model import FrozenLM
from engine.lm.prompts import PromptTokens
from engine.runs.finished import open_run
from engine.runs.lens import FOLDER, TABLES, LensSettings, lens_problem, read_lens
from engine.runs.planned import Execution
from engine.training.batches import QuestionArrays
from engine.training.evaluation import layer_scores
from engine.transfer import run_folders

CPU, EPS = Execution(device="cpu"), 1e-5
FAMILIES = {"qwen3": "model.norm", "llama": "model.norm", "gpt2": "transformer.ln_f", "gemma3_text": "model.norm"}
SUFFIXES = np.array([[7, 8, 9, 10], [7, 11, 12, 0], [13, 0, 0, 0]])
TOKENS = PromptTokens(np.array([3, 4]), SUFFIXES, np.array([4, 3, 1]), {}, yes=20, no=21)
TARGETS = np.array([[-1, 20, 22, 21], [-1, 23, 21, -1], [24, -1, -1, -1]])
NAMES = PromptTokens(np.array([3]), SUFFIXES, np.array([4, 3, 1]), {}, -1, -1, between=np.array([4]), targets=TARGETS)
QUESTIONS = QuestionArrays(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 2]), np.ones(5, dtype=bool))


class Patches:
    """Two images of five patches, in place of `Features`."""

    patches = 5

    def __init__(self, lm):
        noise = torch.randn(2, 5, lm.width, generator=torch.Generator().manual_seed(1))
        self.values = noise * lm.embedding_rms

    def fetch(self, images):
        return self.values[images]


def plain_states(model, lm, tokens, image, row):
    """[(T, D)] of every layer, of one prompt alone, by Hugging Face."""
    embed = model.get_input_embeddings()
    text = [embed(torch.from_numpy(ids)) for ids in (tokens.prefix, tokens.between, tokens.suffixes[row])]
    whole = torch.cat([text[0], Patches(lm).values[image], *text[1:]])[: -(4 - tokens.lengths[row]) or None]
    output = model(inputs_embeds=whole[None], use_cache=False, output_hidden_states=True)
    return [states[0] for states in output.hidden_states]


@pytest.mark.parametrize("sharing", ["auto", "never"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_layers_are_those_of_hugging_face(family, sharing):
    """Scores of the logit lens, for both tasks, and the states of patches; not those of another question or layer."""
    plain = tiny_of(family)
    lm = FrozenLM.wrap(tiny_of(family), None, torch.device("cpu"), sharing)
    assert lm.way == ("shared" if sharing == "auto" else "unshared")
    norm, head = plain.get_submodule(FAMILIES[family]), plain.get_output_embeddings()
    finish, patches = lens.last_norm(lm), Patches(lm)
    for tokens in (TOKENS, NAMES):
        found = layer_scores(
            lambda x: x, lm, patches, tokens, QUESTIONS, finish, max_tokens=999, advance=lambda _: None
        )
        expected = np.empty_like(found)
        for number, (image, row) in enumerate(zip(QUESTIONS.image, QUESTIONS.suffix, strict=True)):
            states = plain_states(plain, lm, tokens, image, row)
            for layer, whole in enumerate(states):
                text = whole[-tokens.lengths[row] :]
                logits = head(text if layer == len(states) - 1 else norm(text)).float()
                if tokens.targets is None:
                    expected[layer, number] = logits[-1, 20] - logits[-1, 21]
                else:
                    said = torch.log_softmax(logits, -1)
                    targets = tokens.targets[row]
                    expected[layer, number] = sum(said[n, t] for n, t in enumerate(targets) if t >= 0)
        bound = EPS * max(1, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, atol=bound, rtol=0)
        assert np.abs(found - np.roll(expected, 1, axis=0)).max() > 100 * bound
        assert np.abs(found - np.roll(expected, 1, axis=1)).max() > 100 * bound
    ids = torch.tensor([[3, 4, *[-1] * 5]])
    prompt = torch.cat([lm.embed(ids[:, :2]), patches.values[:1]], dim=1)
    found = lm.plain_layers(prompt, ids)
    for layer, states in enumerate(plain_states(plain, lm, TOKENS, 0, 0)):
        torch.testing.assert_close(found[layer, 0], states[:7], atol=EPS * float(states.abs().max()), rtol=0)


def test_an_lm_whose_end_is_not_found_is_refused():
    lm = FrozenLM.wrap(tiny_of("qwen3"), None, torch.device("cpu"))
    lens.last_norm(lm)
    lm.decoder.register_forward_hook(
        lambda _, __, output: type(output)(last_hidden_state=output[0] + 1, hidden_states=[])
    )
    with pytest.raises(ModelError, match="last layer"):
        lens.last_norm(lm)


def test_nearest_tokens_and_names_are_those_of_the_plainest_loop(monkeypatch):
    lm = FrozenLM.wrap(tiny_of("gpt2"), None, torch.device("cpu"))
    vectors = torch.randn(6, lm.width, generator=torch.Generator().manual_seed(2))
    table = lm.embed(torch.arange(50))
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], table[None], dim=-1)
    monkeypatch.setattr(lens, "AT_ONCE", 700)  # blocks of a few tokens
    ids, values = lens.nearest_tokens(lm, vectors, 4, 50)
    np.testing.assert_array_equal(ids, cosines.topk(4).indices)
    np.testing.assert_allclose(values, cosines.topk(4).values, atol=EPS)
    names = torch.nn.functional.normalize(torch.randn(3, 7, lm.width), dim=-1)
    near, layers = lens.nearness(vectors, names)
    for n, vector in enumerate(vectors):
        for w in range(7):
            every = torch.nn.functional.cosine_similarity(vector[None], names[:, w], dim=-1)
            assert near[n, w] == pytest.approx(float(every.max()), abs=EPS)
            assert layers[n, w] == int(every.argmax())


# Runs

TOML = """
[[grid]]
shuffle = ["original", "across"]
task = ["verify", "name"]
carrier_leaf = "is there {phrase} yes"
carrier_hypernym = "is there {phrase} yes"
epochs = 1

[lens]
images = 13
pictures = 2
"""
SETTINGS_USED = LensSettings(images=13, pictures=2)


@pytest.fixture(scope="module")
def swept(small_study, tmp_path_factory):
    """Four runs of both tasks, read as their sweep file asks."""
    from typer.testing import CliRunner

    from cli import app

    root = tmp_path_factory.mktemp("lens")
    file = sweep_file(root / "sweep.toml", SETTINGS | places_of(small_study), TOML)
    words = ["sweep", str(file), "--out", str(root / "runs"), "--device", "cpu", "--threads", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "4 runs read by layers" in done.output
    return root / "runs"


def test_the_last_layer_gives_the_answers_that_the_run_saved(swept):
    for folder in run_folders([swept]):
        run = open_run(folder)
        layers = read_lens(folder, "layers")
        last = layers[layers["layer"] == layers["layer"].max()].set_index("question")["score"]
        saved = run.answers("test").set_index("question").loc[last.index]
        margin = saved["logit_yes"] - saved["logit_no"]
        if run.condition.task == "name":
            margin = np.log(saved["mass"])
        np.testing.assert_allclose(last, margin, atol=EPS * 10)
        first = layers[layers["layer"] == 1].set_index("question").loc[last.index, "score"]
        assert np.abs(first - margin).max() > 1e-2
        assert layers["image"].nunique() == 13


def test_what_is_there_is_kept_and_what_is_not_whole_is_read_again(swept):
    before = bytes_in(swept)
    folders = run_folders([swept])
    assert sum(each.now for each in look(folders, SETTINGS_USED, CPU)) == 0
    table = folders[0] / FOLDER / "words.parquet"
    content = table.read_bytes()
    for damage in (lambda: table.write_bytes(b""), table.unlink):
        damage()
        assert lens_problem(open_run(folders[0]).directory)
        assert len(read_lenses([("run", folders[0])]).notes) == 1
    assert [each.now for each in look(folders[:1], SETTINGS_USED, CPU)] == [True]
    assert table.read_bytes() == content
    assert [each.now for each in look(folders[:1], LensSettings(images=5, pictures=0), CPU)] == [True]
    assert read_lens(folders[0], "layers")["image"].nunique() == 5
    assert read_lens(folders[0], "maps").empty
    assert [each.now for each in look(folders[:1], SETTINGS_USED, CPU)] == [True]
    assert bytes_in(swept) == before


def test_patches_that_are_names_are_found_and_follow_the_label(swept, monkeypatch, tmp_path):
    """Each patch is given the states of the label's name: every lens must say so, and of the image only by chance."""
    folder = next(each for each in run_folders([swept]) if "across" in each.name)
    run = open_run(folder)
    about = run.answers("test").drop_duplicates("image").set_index("image")["label_leaf"]
    made = {}

    def told(_, lm, shared, images):
        nouns = sorted(set(about))
        if "names" not in made:
            named = [(f"a {noun}", noun) for noun in nouns]
            made["names"] = lens.states_of_names(lm, SETTINGS_USED.sentences("is there {phrase}"), named)
            table = [lm.tokenizer.convert_tokens_to_ids(noun) for noun in nouns]
            made["names"][0] = lm.embed(torch.tensor(table))
        places = [nouns.index(about[image]) for image in images]
        return made["names"][:, places][:, :, None].expand(-1, -1, 4, -1).clone()

    monkeypatch.setattr(engine.lens, "patch_layers", told)
    assert look([folder], LensSettings(images=30), CPU)[0].problem is None
    words, names = read_lens(folder, "words"), read_lens(folder, "names")
    keys = ["lens", "layer", "about", "role", "first"]
    share = words.set_index(keys)["share"]
    assert set(words["role"]) == set(ROLES)
    for lens_of, layer in (("embedding", 0), ("contextual", 2)):
        assert share[lens_of, layer, "label", "leaf", 1] == 100
        assert share[lens_of, layer, "label", "other leaf", 1] == 0
        assert share[lens_of, layer, "image", "leaf", 1] < 30
    area = names.set_index(["layer", "about", "kind"])["auc"]
    assert area[2, "label", "leaf"] == 1
    assert area[2, "image", "leaf"] < 0.8
    nearest = read_lens(folder, "nearest")
    best = nearest[(nearest["lens"] == "embedding") & (nearest["place"] == 1)]
    assert (best["name"] == best["image"].map(about)).all()
    monkeypatch.undo()
    assert look([folder], SETTINGS_USED, CPU)[0].now


def test_a_study_has_its_tables_and_figures(swept):
    study = measure(load_sweep(swept))
    assert not study.notes
    tables = {name: in_words(getattr(study, name)) for name in ("lens", "lens_layers", "lens_names", "lens_words")}
    assert set(describe_columns(tables)["table"]) == {*tables, "columns"}  # raises for a column without a meaning
    layers = read_lenses([("run", run_folders([swept])[0])]).layers
    run = run_folders([swept])[0].name
    cell = study.runs.at[run, "cell"]
    own = study.lens_layers[[each == cell for each in study.lens_layers["cell"]]]
    expected = layers.set_index(["group", "layer"])["auc"]
    found = own.set_index(["group", "layer"])["auc"]
    np.testing.assert_allclose(found, expected[found.index])
    for name in ("lens", "lens_names"):
        assert FIGURES[name](study).alt
    with pytest.raises(NotDrawnError):  # placeholders are no pictures
        FIGURES["lens_maps"](study)


@pytest.mark.usefixtures("no_models")
def test_maps_and_the_section_of_the_report(picture_run, tmp_path, monkeypatch):
    drawn = {name: FIGURES[name] for name in ("main", "lens", "lens_names", "lens_maps")}
    monkeypatch.setattr("analysis.figures.contents.FIGURES", drawn)
    shutil.copytree(picture_run.parents[1], tmp_path / "study")
    (run,) = run_folders([tmp_path / "study" / "runs"])
    assert look([run], LensSettings(images=4, pictures=2), CPU)[0].problem is None
    maps = read_lens(run, "maps")
    assert (maps.groupby(["key", "layer", "kind"])["patch"].nunique() == maps["patch"].nunique()).all()
    assert (maps["row"] * (maps["column"].max() + 1) + maps["column"] == maps["patch"]).all()
    write_report(load_sweep(run.parent), tmp_path / "report", world=None, seconds={})
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert 'id="lens"' in page
    assert {path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")} == set(drawn)
    assert {path.stem for path in (tmp_path / "report").glob("lens*.csv")} == {
        *("lens", "lens_layers", "lens_names", "lens_words")
    }


def test_where_answers_rise():
    areas = {"steep": [0.5, 0.5, 0.9], "early": [0.95, 0.9, 0.9], "fell": [0.9, 0.5, 0.9], "none": [0.5, 0.5, 0.55]}
    table = pd.DataFrame(
        [
            {"run_id": name, "group": "leaf", "layer": n, "auc": a}
            for name, own in areas.items()
            for n, a in enumerate(own)
        ]
    )
    found = rises(table.sample(frac=1, random_state=0)).set_index("run_id")["rise"]
    assert found[["steep", "early", "fell"]].tolist() == pytest.approx([1.5, 0, 1.5])
    assert np.isnan(found["none"])


def test_images_are_spread_over_leaves():
    leaves = pd.Series(["crow"] * 9 + ["owl"] * 2 + ["bus"])
    for count, most in ((3, 1), (5, 2), (12, 9), (99, 9)):
        places = spread(leaves, count)
        assert len(set(places)) == len(places) == min(count, 12)
        assert leaves.iloc[places].value_counts().max() == most
    assert set(spread(leaves, 3)) < set(spread(leaves, 5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"images": 0}, "images"), ({"carriers": ["a bird"]}, "needs"), ({"picture": 3}, "picture")],
)
def test_wrong_settings_are_one_line(fields, message):
    with pytest.raises(ConditionError, match=message) as caught:
        checked(LensSettings, fields, "sweep.toml: [lens]")
    assert "\n" not in str(caught.value)


def test_command(swept, crosstax, tmp_path):
    words = ["lens", swept, "--images", 13, "--pictures", 2, "--device", "cpu", "--threads", "1", "--json"]
    code, out, err = crosstax(*words)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert len(result["runs"]) == 4
    assert {row["group"] for row in result["scores"]} == {"leaf", "heldout"}
    assert crosstax("lens", tmp_path)[0] == 2
    assert crosstax("lens", swept, "--carrier", "bird")[0] == 2
    folder = run_folders([swept])[0] / FOLDER
    assert {path.name for path in folder.iterdir()} == {"lens.json", *(f"{name}.parquet" for name in TABLES)}
