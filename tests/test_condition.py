"""Conditions: run ids that stay, sweep files, and errors that name file and field."""

from itertools import chain
from typing import get_args

import pytest

from cachegen.common.errors import ConditionError
from engine.design.condition import SEEDS, Condition, Mark, Only, Sweep, marked, parse_settings, variants
from engine.sweeps.sweep_file import complete, read_sweep

DIGESTS = {"dataset": "d", "store": "s", "lm": "l", "tokenizer": "t"}
# Published names: a change here breaks the folders of every user.
PINNED = {
    "vit_large_patch14_reg4_d-qwen3_0_6b-pretrained-original-a100-d0-r0-d8b25068": {},
    "vit_large_patch14_reg4_d-qwen3_0_6b-pretrained-across-a100-d0-r42-d582810d": {"shuffle": "across", "run_seed": 42},
    "vit_large_patch14_reg4_d-qwen3_0_6b-random3-original-a100-d0-r0-291d088a": {"lm_init": "random", "lm_seed": 3},
    "vit_large_patch14_reg4_d-qwen3_0_6b-pretrained-original-a50-d9-r0-4f715ce7": {"ablation": 50, "data_seed": 9},
    "vit_large_patch14_reg4_d-qwen3_0_6b-pretrained-original-a100-d0-r0-11872af2": {
        "dtype": "bfloat16",
        "order": "images",
    },
}


def run_id(condition, digests=DIGESTS):
    return condition.run_id("vit_large_patch14_reg4_dinov2.lvd142m", "Qwen/Qwen3-0.6B", digests)


def test_run_ids_are_pinned():
    assert [run_id(Condition(**fields)) for fields in PINNED.values()] == list(PINNED)


def test_everything_scientific_moves_the_id_and_paths_do_not():
    base = run_id(Condition())
    assert run_id(Condition(learning_rate=1e-3)) != base
    assert run_id(Condition(), DIGESTS | {"store": "other"}) != base
    elsewhere = Condition().run_id("/data/vit_large_patch14_reg4_dinov2.lvd142m", "/models/Qwen3-0.6B", DIGESTS)
    assert elsewhere == base


def test_fields_of_another_task_are_not_in_the_id():
    own, other = {"carrier_leaf": "It is {phrase}.", "candidates": 7}, {"answer_yes": "yes", "loss": "answers"}
    assert run_id(Condition(**own)) == run_id(Condition())
    naming = run_id(Condition(task="name"))
    assert naming == run_id(Condition(task="name", **other)) != run_id(Condition())
    assert len({naming, *(run_id(Condition(task="name", **{name: value})) for name, value in own.items())}) == 3


def test_a_sweep_file_crosses_its_lists_and_resolves_paths(tmp_path):
    (tmp_path / "lm").mkdir()
    file = tmp_path / "sweep.toml"
    file.write_text(
        '[defaults]\ndataset = "data"\nfeatures = ["a.h5", "b.h5"]\nlm = ["lm", "Qwen/Qwen3-0.6B"]\n'
        '[[grid]]\nshuffle = ["original", "across"]\nrun_seed = [42, 218, 7]\n'
        '[[grid]]\nlm_init = "random"\nlm = "lm"\nrun_seed = 42\n'
    )
    sweep = complete(read_sweep(file), "here")
    assert len(sweep.runs) == 2 * 2 * 2 * 3 + 2
    assert {inputs.lm for inputs, _ in sweep.runs} == {str(tmp_path / "lm"), "Qwen/Qwen3-0.6B"}
    assert sweep.runs[0][0].dataset == tmp_path / "data"
    assert len({condition.run_seed for _, condition in sweep.runs}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[grid]]\nshuffle = 'accross'", r"sweep.toml: grid 1: shuffle: .*original.*across"),
        ("[[grid]]\nlearning_rat = 1", r"grid 1: learning_rat: there is no such field"),
        ("[[grid]]\nablation = -1", r"ablation: .*greater than or equal to 0"),
        ("[[grid]]\nablation = 110", r"ablation is a percentage when ablation_kind is random"),
        ("[[grid]]\nremoved_as_negative = 'never'", "need ablation_kind = 'systematic'"),
        ("[[grid]]\nshuffled = 50", "needs shuffle = 'across'"),
        ("[[grid]]\nshuffle = 'swap'", "needs subset = 'swap'"),
        ("[[grid]]\nsubset = 'swap'\nshuffle = 'across'", "goes with shuffle = 'swap'"),
        ("[[grid]]\nsupervise = 'answer_eos'\nloss = 'answers'", "EOS is neither answer"),
        ("[[grid]]\ntemplate = 'hello'", r"template lacks \{question\}"),
        ("[[grid]]\nanswer_no = 'Yes'", "are the same"),
        ("[[grid", "not valid TOML"),
        ("[grids]\n", "unknown table 'grids'"),
    ],
)
def test_mistakes_in_a_sweep_file(tmp_path, text, message):
    file = tmp_path / "sweep.toml"
    file.write_text('defaults = {dataset = "d", features = "f", lm = "l"}\n' + text)
    with pytest.raises(ConditionError, match=message):
        read_sweep(file)


def test_missing_inputs_and_files_are_named(tmp_path):
    with pytest.raises(ConditionError, match="grid 1: dataset: Field required"):
        Sweep.expand([{"features": "f", "lm": "l"}], "here")
    with pytest.raises(ConditionError, match=r"none.toml does not exist"):
        read_sweep(tmp_path / "none.toml")


def test_settings_are_read_as_toml_or_text():
    settings = [
        "shuffle=across",
        "run_seed=[1, 2]",
        "learning_rate=1e-3",
        "standardise=true",
        "template={image} {question}",
    ]
    values = parse_settings(settings)
    assert values == {"shuffle": "across", "run_seed": [1, 2], "learning_rate": 1e-3, "standardise": True,
                      "template": "{image} {question}"}  # fmt: skip
    for wrong in ("shuffle", "shufle=across"):
        with pytest.raises(ConditionError, match="is not NAME=VALUE"):
            parse_settings([wrong])


def test_every_field_is_marked_with_what_it_is_about() -> None:
    parts = [marked(mark) for mark in (Mark.LM, Mark.ASKED, Mark.PROMPT, Mark.TRAINED)]
    assert sorted(chain(*parts)) == sorted(Condition.model_fields)  # each once
    assert all(parts)
    assert {name for name in Condition.model_fields if name.endswith("seed")} <= set(SEEDS)
    assert len(set(SEEDS)) == len(SEEDS)


def test_lists_follow_from_marks() -> None:
    assert SEEDS == ["data_seed", "permutation", "run_seed", "lm_seed"]
    assert marked(Mark.HEADLINE) == ["lm_init", "shuffle", "shuffled", "subset", "ablation_kind", "ablation"]
    assert variants("ablation_kind", "random") == ["ablation_levels", "scope"]
    assert variants("ablation_kind", "systematic") == [
        "removed_list",
        "removed_as_negative",
        "ablation_levels",
        "scope",
    ]
    assert variants("shuffle", "original") == []
    for name, field in Condition.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Only):  # a misspelt field or value would silently be no variant of anything
                assert set(mark.values) <= set(get_args(Condition.model_fields[mark.field].annotation)), name
