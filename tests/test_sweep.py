"""Sweeps of many runs: failures that stop nobody else, parts of a sweep, groups that fit into memory."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from run_folders import all_bytes, kill_on_call, killed
from small_study import write_features
from tiny import tiny_lm

from cachegen.common.errors import StoreError
from cachegen.data.dataset import load_dataset
from engine.design.condition import Condition, Inputs, Mark, Sweep, marked
from engine.lm.shape import lm_shape
from engine.runs.directory import RunDirectory
from engine.runs.planned import Execution, PlannedRun
from engine.sweeps import task as task_module
from engine.sweeps.cost import Sizes
from engine.sweeps.plan import MAX_GROUP, MAX_TOKENS, MIN_TOKENS, choose_sizes
from engine.sweeps.plan_file import read_plan
from engine.sweeps.sweep import run_sweep
from engine.sweeps.timing import read_events
from engine.training import group
from engine.training import loop as training

CPU = Execution(device="cpu")
IMPOSSIBLE = {"ablation_kind": "systematic", "removed_list": "published", "ablation": 10}


def together(*sweeps):
    return Sweep(runs=tuple(run for each in sweeps for run in each.runs))


def groups_of(out):
    return [list(each.runs) for each in read_plan(out)]


def killed_after_checkpoint(work, monkeypatch):
    """Run `work` in a fork that is killed after its third checkpoint."""
    with monkeypatch.context() as patch:
        kill_on_call(patch, training, "write_checkpoint", 3, after=True)
        killed(work)


def test_a_run_that_cannot_be_asked_fails_alone(small_study, tmp_path):
    good = small_study.sweep(shuffle=["original", "across"])
    mixed = together(small_study.sweep(**IMPOSSIBLE), good)
    folders = run_sweep(mixed, tmp_path / "mixed", CPU)
    assert len(groups_of(tmp_path / "mixed")) == 1
    failed, *others = map(RunDirectory, folders)
    assert failed.reason.startswith("ablation = 10 removes more than the 4 hypernyms")
    assert not failed.begun
    assert all(directory.done for directory in others)
    assert all_bytes(folders[1:]) == all_bytes(run_sweep(good, tmp_path / "good", CPU))


def test_failed_runs_are_skipped_and_tried_again_on_request(small_study, tmp_path, monkeypatch):
    mixed = together(small_study.sweep(), small_study.sweep(**IMPOSSIBLE))
    folders = run_sweep(mixed, tmp_path, CPU)
    before = groups_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(task_module, "run_group", lambda *args: pytest.fail("went on"))
        assert run_sweep(mixed, tmp_path, CPU) == folders
    assert groups_of(tmp_path) == before
    done = all_bytes(folders[:1])

    original = group.build_questions
    fixed = Condition.model_validate({"ablation": 50})
    monkeypatch.setattr(
        group,
        "build_questions",
        lambda dataset, condition, *rest: original(
            dataset, fixed if condition.removed_list == "published" else condition, *rest
        ),
    )
    run_sweep(mixed, tmp_path, CPU, retry_failed=True)
    assert RunDirectory(folders[1]).done
    assert groups_of(tmp_path) == [[folders[0].name], [folders[1].name]]
    assert all_bytes(folders[:1]) == done


def test_an_lm_that_cannot_answer_fails_its_own_runs_only(small_study, tmp_path):
    """The prompt is shared by a group: all of it fails, the next group goes on."""
    runs = together(small_study.sweep(answer_yes="certainly", run_seed=[1, 2]), small_study.sweep())
    *failed, good = map(RunDirectory, run_sweep(runs, tmp_path, CPU))
    assert ["no token of its own" in directory.reason for directory in failed] == [True, True]
    assert good.done


def test_runs_with_other_versions_of_their_inputs_are_told(small_study, tmp_path, capsys):
    """A second set of runs in the same folder is nothing that anybody should overlook."""
    dataset = shutil.copytree(small_study.dataset, tmp_path / "dataset")
    out, few = tmp_path / "runs", {"dataset": str(dataset), "epochs": 1, "batch": 96}
    (before,) = run_sweep(small_study.sweep(**few), out, CPU)
    assert run_sweep(small_study.sweep(**few), out, CPU) == [before]
    run_sweep(small_study.sweep(**few, run_seed=[1]), out, CPU)
    assert "version" not in capsys.readouterr().err
    taxonomy = dataset / "taxonomy.csv"
    taxonomy.write_text(taxonomy.read_text().replace("a crow", "the crow"))
    (after,) = run_sweep(small_study.sweep(**few), out, CPU)
    assert after != before
    assert f"{out} has runs (1) with conditions of this sweep and another dataset" in capsys.readouterr().err


def test_what_concerns_all_runs_stops_at_once(small_study, tmp_path):
    store = tmp_path / "store.h5"
    shutil.copy(small_study.features, store)
    runs = small_study.sweep(run_seed=[1, 2], features=str(store))
    store.unlink()
    with pytest.raises(StoreError, match="no feature store there"):
        run_sweep(runs, tmp_path / "runs", CPU)


def test_a_part_of_a_group_that_has_not_started_leaves_it(small_study, tmp_path, monkeypatch):
    whole = small_study.sweep(run_seed=[1, 2, 3])
    with monkeypatch.context() as patch:
        patch.setattr(task_module, "run_group", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_sweep(whole, tmp_path, CPU)
    (planned,) = groups_of(tmp_path)
    (folder,) = run_sweep(small_study.sweep(run_seed=2), tmp_path, CPU)
    assert groups_of(tmp_path) == [[planned[0], planned[2]], [folder.name]]
    assert not any((tmp_path / run).exists() for run in (planned[0], planned[2]))
    assert all(RunDirectory(folder).done for folder in run_sweep(whole, tmp_path, CPU))
    assert groups_of(tmp_path) == [[planned[0], planned[2]], [folder.name]]


def test_a_part_of_a_group_that_has_started_takes_all_of_it_along(small_study, tmp_path, monkeypatch, capsys):
    """Lockstep is part of the plan: the bytes are those of the sweep that was never interrupted."""
    whole = small_study.sweep(run_seed=[1, 2])
    reference = all_bytes(run_sweep(whole, tmp_path / "whole", CPU))
    out = tmp_path / "killed"
    every_step = Execution(device="cpu", checkpoint_seconds=0.0)
    killed_after_checkpoint(lambda: run_sweep(whole, out, every_step), monkeypatch)
    planned = groups_of(out)
    (folder,) = run_sweep(small_study.sweep(run_seed=2), out, CPU)
    assert groups_of(out) == planned
    assert all_bytes([out / run for run in planned[0]]) == reference
    assert folder.name == planned[0][1]
    assert "1 more runs go on" in capsys.readouterr().err


def test_a_member_that_never_began_stays_out_when_its_group_goes_on(small_study, tmp_path, monkeypatch):
    """Also when it is not asked for any more, and is the one the group is named after."""
    good = small_study.sweep(run_seed=[1, 2])
    mixed = together(small_study.sweep(**IMPOSSIBLE), good)
    reference = all_bytes(run_sweep(good, tmp_path / "whole", CPU))
    out = tmp_path / "killed"
    every_step = Execution(device="cpu", checkpoint_seconds=0.0)
    killed_after_checkpoint(lambda: run_sweep(mixed, out, every_step), monkeypatch)
    assert RunDirectory(out / groups_of(out)[0][0]).never_began
    assert all_bytes(run_sweep(good, out, CPU)) == reference
    assert len(groups_of(out)) == 1


def out_of_memory(times):
    """`run_group` that runs out of memory the first `times` times."""
    original, calls = task_module.run_group, []

    def wrapper(*args):
        calls.append((len(args[0]), args[4]))
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory")
        original(*args)

    return wrapper, calls


def test_out_of_memory_shortens_rows_then_halves_the_group(small_study, tmp_path, monkeypatch):
    wrapper, calls = out_of_memory(2)
    monkeypatch.setattr(task_module, "run_group", wrapper)
    folders = run_sweep(small_study.sweep(run_seed=[1, 2, 3]), tmp_path, Execution(device="cpu", max_tokens=1024))
    assert calls == [(3, 1024), (3, MIN_TOKENS), (1, MIN_TOKENS), (2, MIN_TOKENS)]
    assert all(RunDirectory(folder).done for folder in folders)
    assert [(len(each.runs), each.max_tokens) for each in read_plan(tmp_path)] == [(1, MIN_TOKENS), (2, MIN_TOKENS)]
    assert "out of memory with 3 runs" in read_plan(tmp_path)[0].why


def test_out_of_memory_never_changes_a_plan_that_bytes_depend_on(small_study, tmp_path, monkeypatch):
    """It fails after its first checkpoint, and the others go on; tried again, it begins anew in shorter rows."""
    runs = small_study.sweep(run_seed=[1, 2])
    both = together(runs, small_study.sweep(run_seed=3, lm_init="random"))
    every_step = Execution(device="cpu", checkpoint_seconds=0.0)
    killed_after_checkpoint(lambda: run_sweep(both, tmp_path, every_step), monkeypatch)
    before = (tmp_path / "plan.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(task_module, "run_group", out_of_memory(1)[0])
        *failed, other = map(RunDirectory, run_sweep(both, tmp_path, CPU))
    assert (tmp_path / "plan.json").read_bytes() == before
    assert ["out of memory" in directory.reason for directory in failed] == [True, True]
    assert other.done
    wrapper, calls = out_of_memory(0)
    with monkeypatch.context() as patch:
        patch.setattr(task_module, "run_group", wrapper)
        folders = run_sweep(both, tmp_path, CPU, retry_failed=True)
    assert calls == [(2, MAX_TOKENS // 2)]
    assert [event["from_step"] for event in read_events(tmp_path) if event["event"] == "begin"][-1] == 0
    shorter = Execution(device="cpu", max_tokens=MAX_TOKENS // 2, group_size=2)
    assert all_bytes(folders[:2]) == all_bytes(run_sweep(runs, tmp_path / "shorter", shorter))


def test_out_of_memory_on_a_gpu_goes_on_from_the_checkpoint_in_shorter_rows(small_study, tmp_path, monkeypatch):
    """There bytes depend on more than the plan."""
    for module in (task_module, training):
        monkeypatch.setattr(module, "keeps_bytes", lambda _: False)
    runs = small_study.sweep(run_seed=[1, 2])
    killed_after_checkpoint(
        lambda: run_sweep(runs, tmp_path, Execution(device="cpu", checkpoint_seconds=0.0)), monkeypatch
    )
    wrapper, calls = out_of_memory(1)
    monkeypatch.setattr(task_module, "run_group", wrapper)
    folders = run_sweep(runs, tmp_path, CPU)
    assert calls == [(2, MAX_TOKENS), (2, MAX_TOKENS // 2)]
    assert all(RunDirectory(folder).done for folder in folders)
    began = [event["from_step"] for event in read_events(tmp_path) if event["event"] == "begin"]
    assert began[0] == 0 < began[1] == began[2]


@pytest.mark.parametrize("field", marked(Mark.LM))
def test_runs_whose_lms_answer_differently_share_no_group(field):
    others = {"lm_init": "pretrained", "lm_seed": 1, "dtype": "bfloat16", "lm_sharing": "never"}
    inputs, one = Inputs(dataset=Path("d"), features=Path("f"), lm="m"), Condition(lm_init="random")
    other = one.model_copy(update={field: others[field]})
    assert PlannedRun(inputs, one, "e", {}).shares != PlannedRun(inputs, other, "e", {}).shares


def test_each_lm_is_loaded_once_and_stores_as_seldom_as_possible(small_study, tmp_path, monkeypatch):
    """Two LMs x two stores, written so that going in order would load each LM twice."""
    dataset, lm = load_dataset(small_study.dataset), tmp_path / "other_lm"
    store = write_features(tmp_path / "other.h5", dataset, unreadable=[dataset.images["key"][0]])
    shutil.copytree(small_study.lm, lm)
    tiny_lm("qwen3", seed=1).save_pretrained(lm)
    runs = small_study.sweep(features=[str(small_study.features), str(store)], lm=[str(small_study.lm), str(lm)])
    loaded = []
    for name in ("load_lm", "Features"):
        load = getattr(group, name)
        monkeypatch.setattr(
            group, name, lambda *args, name=name, load=load, **more: loaded.append(name) or load(*args, **more)
        )
    run_sweep(runs, tmp_path / "runs", CPU)
    assert len(read_plan(tmp_path / "runs")) == 4
    assert (loaded.count("load_lm"), loaded.count("Features")) == (2, 3)


def test_new_group_sizes_are_for_groups_that_have_not_started(small_study, tmp_path):
    run_sweep(small_study.sweep(run_seed=[1, 2]), tmp_path, CPU)
    run_sweep(small_study.sweep(run_seed=[1, 2, 3, 4]), tmp_path, Execution(device="cpu", group_size=1))
    assert [len(each.runs) for each in read_plan(tmp_path)] == [2, 1, 1]


def test_the_plan_says_what_was_chosen_and_why(small_study, tmp_path):
    run_sweep(small_study.sweep(), tmp_path, CPU)
    (chosen,) = read_plan(tmp_path)
    assert chosen.max_tokens == MAX_TOKENS
    assert chosen.why.startswith("cpu: ")
    assert "GiB" in chosen.why
    train, evaluate = chosen.work[0]
    assert train > evaluate > 0
    assert json.loads((tmp_path / "plan.json").read_text())["groups"][0]["runs"] == list(chosen.runs)


PAPER = {"patches": 256, "width": 1024, "prefix": 1, "suffix": 16}
BF16 = Condition(dtype="bfloat16")


def chosen_for(name, gib, condition=BF16):
    return choose_sizes(int(gib * 2**30), condition, 17_336, Sizes(lm_shape(name), **PAPER))[:2]


def test_sizes_follow_memory():
    assert chosen_for("Qwen/Qwen3-0.6B", 80) == (MAX_TOKENS, MAX_GROUP)
    assert chosen_for("Qwen/Qwen3-8B", 80) == (MAX_TOKENS, MAX_GROUP)  # the paper's largest, on one GPU
    tokens, together = zip(*(chosen_for("Qwen/Qwen3-8B", gib) for gib in (24, 26, 30, 40, 80)), strict=True)
    assert list(tokens) == sorted(tokens)
    assert tokens[0] < MAX_TOKENS
    assert together[0] < together[-1]  # not in between: a longer row comes first, and may leave less to runs
    assert min(together) >= 1
    assert min(tokens) >= 256 + 16  # an image and its questions always fit
    # Float32 takes twice the memory of bfloat16, so that no more fits.
    assert chosen_for("Qwen/Qwen3-1.7B", 16, Condition())[0] < chosen_for("Qwen/Qwen3-1.7B", 16)[0]


def test_planning_twice_gives_one_plan(small_study, tmp_path, monkeypatch):
    """Sizes depend on all memory there is, not on what is free at the moment."""
    monkeypatch.setattr(task_module, "run_group", lambda *args: None)
    runs = small_study.sweep(shuffle=["original", "across"], lm_init=["pretrained", "random"], run_seed=[1, 2])
    for out in (tmp_path / "one", tmp_path / "two"):
        run_sweep(runs, out, CPU)
    assert (tmp_path / "one" / "plan.json").read_bytes() == (tmp_path / "two" / "plan.json").read_bytes()
    assert [len(each.runs) for each in read_plan(tmp_path / "one")] == [4, 4]
