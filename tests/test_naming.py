"""The task `name`: its tokens, losses and scores against the plainest computation, its questions, its candidates."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from picture_study import train_run
from run_folders import bytes_of, kill_on_call, killed
from tiny import STYLES, tiny_lm, tiny_tokenizer
from torch.nn import functional

from analysis.scores.naming import name_scores
from cachegen.common.errors import ConditionError
from cachegen.common.files import read_json
from cachegen.data.dataset import load_dataset
from engine.design.candidates import candidates_of
from engine.design.condition import Condition
from engine.design.questions import build_questions
from engine.lm.language_model import FrozenLM
from engine.lm.projector import new_projector
from engine.lm.prompts import PromptTokens, tokenise_names
from engine.lm.shape import lm_shape
from engine.runs.finished import open_run
from engine.runs.planned import Execution
from engine.sweeps.cost import Sizes, cost_of, question_counter, text_tokens
from engine.sweeps.sweep import run_sweep
from engine.training import group
from engine.training import loop as training
from engine.training.batches import QuestionArrays, pack
from engine.training.features import Features
from engine.training.naming import answers_of_names, log_probabilities, unconditional
from engine.transfer import evaluate_run

CPU = Execution(device="cpu")
WORDED = {"carrier_leaf": "is there {phrase} yes", "carrier_hypernym": "is there {phrase} no"}
NAMED = [("a crow", "leaf"), ("an image", "leaf"), ("scissors", "leaf"), ("a bird", "hypernym"), ("a crow", "hypernym")]
EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("hypernym", ["This is a picture of {phrase}.", "This is a type of {phrase}, yes."])
def test_tokens_of_a_sentence_are_those_of_the_whole_text(style: str, hypernym: str) -> None:
    condition = Condition(task="name", carrier_hypernym=hypernym)
    tokenizer = tiny_tokenizer(style)
    tokens = tokenise_names(condition, tokenizer, NAMED)
    for (phrase, kind), row in tokens.rows.items():
        ids, targets = tokens.suffixes[row, : tokens.lengths[row]], tokens.targets[row, : tokens.lengths[row]]
        sentence = (hypernym if kind == "hypernym" else condition.carrier_leaf).replace("{phrase}", phrase)
        joint = tokenizer("\n" + sentence)["input_ids"]
        assert [*tokens.prefix, *tokens.between, *ids, targets[-1]] == joint
        said = targets[targets >= 0]
        assert list(said) == joint[-len(said) :]
        end = hypernym[hypernym.index("}") + 1 :] if kind == "hypernym" else "."
        assert tokenizer.decode(said).strip() == phrase + end
    assert len(tokens.between) >= 3  # the image's own pass reads what all sentences begin with


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "{question}{image}"}, "before {question}"),
        ({"template": "{image}{question}", "carrier_leaf": "{phrase} is here"}, "put text before"),
        ({"carrier_leaf": "no slot"}, "needs {phrase}"),
    ],
)
def test_sentences_that_cannot_be_scored_are_refused(fields: dict, message: str) -> None:
    with pytest.raises((ConditionError, ValueError), match=message):
        tokenise_names(Condition(task="name", **fields), tiny_tokenizer("qwen"), NAMED)


class Plain:
    """Images, candidates and projectors of a tiny study; and log-probabilities by one forward for each candidate."""

    def __init__(self, study, between: int, dtype: torch.dtype = torch.float32) -> None:
        dataset = load_dataset(study.dataset)
        self.features = Features(study.features, list(dataset.images["key"]), torch.device("cpu"))
        self.lm = FrozenLM.wrap(tiny_lm("qwen3", dtype=dtype), None, torch.device("cpu"))
        rng = np.random.default_rng(0)
        self.sentences = [[*range(3, 3 + between), *rng.integers(1, 61, n).tolist()] for n in (3, 4, 6, 4, 2)]
        inputs = np.zeros((5, 5), dtype=np.int64)
        targets = np.full((5, 5), -1, dtype=np.int64)
        for row, ids in enumerate(self.sentences):
            own = ids[between:]
            inputs[row, : len(own) - 1], targets[row, : len(own) - 1] = own[:-1], own[1:]
        lengths = np.array([len(ids) - between - 1 for ids in self.sentences])
        shared = np.arange(3, 3 + between)
        self.tokens = PromptTokens(np.array([4]), inputs, lengths, {}, -1, -1, between=shared, targets=targets)
        self.between = between

    def projector(self, seed: int) -> torch.nn.Module:
        statistics = self.features.statistics(np.arange(50))
        return new_projector((self.features.width, self.lm.width), torch.float32, seed, statistics, None)

    def losses(self, projector: torch.nn.Module, image: int | None, row: int) -> torch.Tensor:
        """Cross-entropy of each token of a phrase, by Hugging Face's own forward."""
        seen = None if image is None else self.features.fetch(np.array([image]))
        return self.losses_after(projector, seen, row)

    def losses_after(self, projector: torch.nn.Module, patches: torch.Tensor | None, row: int) -> torch.Tensor:
        """The same after patches (1, P, V)."""
        ids = torch.tensor(self.sentences[row])
        seen = [] if patches is None else [projector(patches)[0].to(self.lm.dtype)]
        text = torch.cat([self.lm.embed(torch.tensor([4])), *seen, self.lm.embed(ids)])
        with self.lm.plain() as model:
            logits = model(inputs_embeds=text[None], use_cache=False).logits[0].float()
        wanted = ids[self.between + 1 :]
        return functional.cross_entropy(logits[-len(wanted) - 1 : -1], wanted, reduction="none")


@pytest.mark.parametrize("between", [0, 2])
def test_a_step_of_lockstep_has_the_loss_and_gradients_of_the_plain_loop(small_study, between: int) -> None:
    plain = Plain(small_study, between)
    rng = np.random.default_rng(1)
    parts = [QuestionArrays(rng.integers(0, 20, n), rng.integers(0, 5, n), np.ones(n, dtype=bool)) for n in (7, 12)]
    packed, looped = ([plain.projector(seed) for seed in (0, 1)] for _ in range(2))
    condition = small_study.sweep(task="name").runs[0][1]
    runs = [training.TrainingRun(None, condition, part, p) for part, p in zip(parts, packed, strict=True)]
    step = training._loader(runs, plain.features, plain.tokens, 60, plain.lm)([np.arange(7), np.arange(12)])
    assert len(step.rows) > 1
    losses = torch.zeros(2)
    for row, items in step.rows:
        loss, of_runs = training.step_loss(plain.lm, plain.tokens, step, row, packed, items, "vocabulary")
        loss.backward()
        losses += of_runs
    for number, (part, projector) in enumerate(zip(parts, looped, strict=True)):
        pairs = zip(part.image, part.suffix, strict=True)
        mean = torch.cat([plain.losses(projector, image, row) for image, row in pairs]).mean()
        mean.backward()
        assert losses[number].item() == pytest.approx(mean.item(), rel=1e-5)
    for a, b in zip(packed, looped, strict=True):
        for x, y in zip(a.parameters(), b.parameters(), strict=True):
            assert y.grad.abs().max() > 0
            assert (x.grad - y.grad).abs().max() <= 64 * EPS * y.grad.abs().max()
    other = zip(packed[0].parameters(), looped[1].parameters(), strict=True)
    assert all((x.grad - y.grad).abs().max() > 1e-3 * y.grad.abs().max() for x, y in other)


@pytest.mark.parametrize("way", ["shared", "unshared"])
@pytest.mark.parametrize(("between", "max_tokens"), [(0, 4096), (2, 4096), (2, 25)])
def test_scores_are_those_of_one_candidate_at_a_time(small_study, between: int, max_tokens: int, way: str) -> None:
    """At 25 tokens a row holds three of an image's five candidates."""
    plain = Plain(small_study, between)
    if way == "unshared":
        plain.lm = FrozenLM.wrap(tiny_lm("qwen3"), None, torch.device("cpu"), "never")
    projector = plain.projector(0)
    image, row = (each.ravel() for each in np.meshgrid([7, 3, 9], np.arange(5), indexing="ij"))
    order = np.random.default_rng(2).permutation(len(image))
    image, row = image[order], row[order]
    found = log_probabilities(projector, plain.lm, plain.features, plain.tokens, image, row, max_tokens=max_tokens)
    with torch.no_grad():
        alone = [-plain.losses(projector, None, each).sum().item() for each in range(5)]
        expected = [-plain.losses(projector, i, r).sum().item() for i, r in zip(image, row, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - np.array(expected)[np.argsort(image, kind="stable")]).max() > 0.1  # other images' scores
    np.testing.assert_allclose(unconditional(projector, plain.lm, plain.tokens, 4096), alone, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_name_depends_on_its_image_alone_in_every_precision(small_study, dtype: torch.dtype) -> None:
    """No gradient at all at other images; numbers within a few times what the plain forward moves by."""
    plain = Plain(small_study, 2, dtype)
    projector = plain.projector(0)
    image, suffix = np.array([7, 3, 9, 3, 7]), np.arange(5)
    (row,) = pack(image, np.zeros(5, dtype=int), 1, plain.tokens.shared + plain.features.patches, 5, 4096)
    patches = plain.features.fetch(row.items[0]).float().requires_grad_()
    own = suffix[row.question]
    states = training.prompt_row(plain.lm, plain.tokens, row, [projector], [patches], own)
    question, _, target = training.named_tokens(plain.tokens, own)
    found = -plain.lm.log_probabilities(states, torch.from_numpy(target))
    for number, sentence in enumerate(own):
        one = int(np.flatnonzero(row.items[0] == image[row.question[number]])[0])
        alone = patches.detach()[one : one + 1].requires_grad_()
        expected = plain.losses_after(projector, alone, sentence)
        shift = torch.finfo(dtype).eps * alone.detach()
        moved = [plain.losses_after(projector, alone.detach() + way * shift, sentence) for way in (1, -1)]
        noise = max((each - expected).abs().max() for each in moved).clamp(min=torch.finfo(dtype).eps)
        mine = found[torch.from_numpy(question) == number]
        assert (mine - expected).abs().max() <= 16 * noise
        (gradient,) = torch.autograd.grad(mine.sum(), patches, retain_graph=True)
        (wanted,) = torch.autograd.grad(expected.sum(), alone)
        assert not gradient[torch.arange(len(patches)) != one].any()
        assert gradient[one].any(-1).equal(wanted[0].any(-1))
        assert wanted.any(-1).all()
    other = plain.losses_after(projector, patches.detach()[:1], own[-1])  # another image's is told apart
    assert (found[torch.from_numpy(question) == len(own) - 1] - other).abs().max() > 16 * noise


def test_both_tasks_are_scored_on_the_same_questions(small_study) -> None:
    dataset = load_dataset(small_study.dataset)
    for fields in ({}, {"ablation": 50, "scope": "mapping"}, {"shuffle": "across"}):
        verify, name = (build_questions(dataset, Condition(task=task, **fields)) for task in ("verify", "name"))
        trained = verify["split"] == "train"
        expected = verify[~trained | verify["answer"]].drop(columns="question").reset_index(drop=True)
        pd.testing.assert_frame_equal(name.drop(columns="question"), expected)
        assert list(name["question"]) == list(range(len(name)))


@pytest.mark.parametrize("limit", [100, 5])
def test_candidates_are_the_same_for_all_images_but_for_what_each_is_asked(small_study, limit: int) -> None:
    dataset = load_dataset(small_study.dataset)
    condition = Condition(task="name", shuffle="across", candidates=limit, data_seed=3)
    questions = build_questions(dataset, condition)
    found = candidates_of(dataset, condition, questions)
    asked = questions[questions["split"] != "train"]
    keys = ["image", "kind", "category", "answer", "veridical"]
    assert len(asked.merge(found, on=keys)) == len(asked)  # with the same answers
    assert not found.duplicated(["image", "kind", "category"]).any()
    kinds = found.groupby(["image", "kind"])
    assert set(kinds["answer"].sum()) == {1}  # this taxonomy has one hypernym for each leaf
    leaves, hypernyms = (kinds.size().xs(kind, level="kind") for kind in ("leaf", "hypernym"))
    assert set(hypernyms) == {4}
    assert set(leaves) == {12} if limit == 100 else set(leaves) <= {4, 5, 6}
    pd.testing.assert_frame_equal(found, candidates_of(dataset, condition, questions))


def test_a_score_is_relative_to_the_images_that_are_asked() -> None:
    questions = pd.DataFrame(
        {
            "image": [0, 1, 2, 0],
            "split": ["test", "test", "validation", "test"],
            "kind": "leaf",
            "category": list("aaab"),
        },
        index=[5, 6, 7, 8],
    )
    named = questions.assign(log_p=[-1.0, -3.0, -9.0, -2.0]).sample(frac=1, random_state=0)
    answers = answers_of_names(questions, named)
    assert list(answers.index) == [5, 6, 7, 8]
    assert answers["logit_yes"].tolist() == [1, -1, 0, 0]
    np.testing.assert_allclose(answers["mass"], np.exp([-1, -3, -9, -2]), rtol=1e-6)


@pytest.fixture(scope="module")
def runs(small_study, tmp_path_factory):
    """Two named runs in lockstep, and one of the task `verify`."""
    sweep = small_study.sweep(task=["name", "verify"], **WORDED)
    more = small_study.sweep(task="name", run_seed=8, **WORDED)
    out = tmp_path_factory.mktemp("names")
    name, verify, other = run_sweep(type(sweep)(runs=sweep.runs + more.runs), out, CPU)
    assert [len(group["runs"]) for group in read_json(out / "plan.json")["groups"]] == [2, 1]
    return name, verify, other


def names_and_bytes(folder):
    return {**bytes_of(folder), "names.parquet": (folder / "names.parquet").read_bytes()}


def test_runs_of_both_tasks_are_finished(runs) -> None:
    name, verify, _ = runs
    opened = open_run(name)
    assert "names.parquet" in opened.hashes
    assert not (verify / "names.parquet").exists()
    assert "-name-" in name.name
    answers, others = (open_run(folder).answers("test") for folder in (name, verify))
    assert answers[["image", "category"]].equals(others[["image", "category"]])
    named = opened.names()
    assert np.isfinite(named[["log_p", "log_p_alone"]]).all(axis=None)
    assert named.groupby("category")["log_p_alone"].nunique().max() == 1


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        pytest.param(training, "write_checkpoint", 7, id="in training"),
        pytest.param(group, "name_candidates", 2, id="between the runs' names"),
        pytest.param(group, "answers_of_names", 1, id="before names are written", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_has_the_same_bytes(small_study, runs, tmp_path, monkeypatch, module, name, number) -> None:
    sweep = small_study.sweep(task="name", run_seed=[0, 8], **WORDED)
    with monkeypatch.context() as patch:
        kill_on_call(patch, module, name, number)
        killed(lambda: run_sweep(sweep, tmp_path, replace(CPU, checkpoint_seconds=0.0)))
    assert not all((folder / "DONE").exists() for folder in tmp_path.glob("*-name-*"))
    first, second = map(names_and_bytes, run_sweep(sweep, tmp_path, CPU))
    assert (first, second) == (names_and_bytes(runs[0]), names_and_bytes(runs[2]))
    assert first["names.parquet"] != second["names.parquet"]


def test_lockstep_gives_the_names_of_a_run_alone(small_study, runs, tmp_path) -> None:
    (alone,) = run_sweep(small_study.sweep(task="name", **WORDED), tmp_path, CPU)
    assert alone.name == runs[0].name
    together, expected, other = (open_run(run).names() for run in (runs[0], alone, runs[2]))
    pd.testing.assert_frame_equal(together, expected, atol=1e-4)
    assert (together["log_p"] - other["log_p"]).abs().max() > 0.01


def test_evaluate_and_ask_give_the_scores_of_the_run(crosstax, picture_run, tmp_path) -> None:
    root = picture_run.parent.parent
    worded = {"carrier_leaf": "is there {phrase}", "carrier_hypernym": "is there {phrase}"}
    run = train_run(tmp_path, root / "encoder", root / "lm", task="name", **worded)
    saved = open_run(run).answers("test")
    again = evaluate_run(run, "test", CPU)
    np.testing.assert_allclose(again["logit_yes"], saved["logit_yes"], atol=1e-5)
    assert saved["logit_yes"].abs().max() > 0

    test = open_run(run).names().query("split == 'test'")
    image = tmp_path / "dataset" / "images" / saved["key"].iloc[0]
    code, out, error = crosstax("ask", run, image, "--device", "cpu", "--json")
    assert code == 0, error
    found = pd.DataFrame(json.loads(out)["images"][0]["answers"])
    own = test[test["image"] == saved["image"].iloc[0]]
    both = found.merge(own, on=["kind", "category"], suffixes=("", "_saved"))
    assert len(both) == len(found) == len(own)
    np.testing.assert_allclose(both["log_p"], both["log_p_saved"], atol=1e-5)
    mean = test.groupby(["kind", "category"])["log_p"].mean()
    expected = both["log_p"] - mean.loc[pd.MultiIndex.from_frame(both[["kind", "category"]])].to_numpy()
    np.testing.assert_allclose(both["score"], expected, atol=1e-5)
    code, _, error = crosstax("ask", run, image, "Is there a crow?", "--device", "cpu")
    assert code == 2
    assert "trained to name" in error
    assert crosstax("export", run, tmp_path / "model")[0] == 2


def test_the_best_of_all_names_is_counted_by_hand() -> None:
    """Two images of a, one of b; a third leaf competes; hypernyms of two depths do not compete with each other."""
    log_p = {"a": [-1.0, -5.0, -4.0], "b": [-3.0, -3.0, -1.0], "c": [-2.0, -2.0, -2.0]}
    above = {"x": [-1.0, -1.0, -3.0], "y": [-9.0, -9.0, -8.0]}
    true = {"a": [1, 1, 0], "b": [0, 0, 1], "c": [0, 0, 0], "x": [1, 1, 0], "y": [1, 1, 1]}
    shown = true | {"a": [1, 0, 1], "b": [0, 1, 0]}  # labels of the last two images are shuffled
    rows = [
        (image, "test", kind, name, true[name][image] == 1, shown[name][image] == 1, value)
        for kind, table in (("leaf", log_p), ("hypernym", above))
        for name, values in table.items()
        for image, value in enumerate(values)
    ]
    rows.append((0, "test", "leaf", "d", True, True, -0.1))  # a candidate of this image only: no name to compete with
    names = pd.DataFrame(rows, columns=["image", "split", "kind", "category", "answer", "veridical", "log_p"])
    groups = names[names["answer"]].assign(group=lambda t: np.where(t["kind"] == "leaf", "leaf", "heldout"))
    found = name_scores(names, groups, pd.DataFrame({"category": ["x", "y"], "depth": [1, 2]})).set_index("category")
    assert np.isnan(found["top1"].pop("d"))
    found = found.drop("d")
    assert found["top1"].to_dict() == {"a": 50, "b": 100, "x": 100, "y": 100}
    assert found["auc"].dropna().to_dict() == {"a": 0.5, "b": 1, "x": 1}
    assert found["auc_seen"].dropna().to_dict() == {"a": 1, "b": 0.25, "x": 1}
    assert found["n_candidates"].to_dict() == {"a": 3, "b": 3, "x": 1, "y": 1}


def test_a_forecast_counts_candidates_and_half_of_the_training(small_study) -> None:
    dataset, count = load_dataset(small_study.dataset), question_counter()
    verify, name = (count(dataset, Condition(task=task)) for task in ("verify", "name"))
    condition = Condition(task="name")
    assert (2 * name.trained, name.train_images) == (verify.trained, verify.train_images)
    assert name.evaluated == len(candidates_of(dataset, condition, build_questions(dataset, condition)))
    shape = lm_shape(str(small_study.lm))
    costs = [
        cost_of(c, n, Sizes(shape, 4, 16, *text_tokens(c, dataset)))
        for c, n in ((Condition(), verify), (condition, name))
    ]
    assert costs[1].train_tokens < 0.6 * costs[0].train_tokens
