"""Models, run directories, checkpoints, probes, release files and zips that are wrong: one line, exit code 2."""

import json
import pickle
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bad_input import Case, check, copy_of, cut, folder_there, ids, loop, remove, write
from bad_input.study import run_name, things_pictures
from encrypted_zip import write_zip
from few import few
from run_folders import seal
from safetensors.numpy import load_file, save, save_file

from engine.lm.projector import Projector
from engine.runs.directory import HASHED
from engine.sweeps.plan_file import read_plan
from engine.training.checkpoint import Checkpoint, write_checkpoint

DEEP = "[" * 100_000
PICKLE = pickle.dumps({"weight": np.zeros((4, 4))})


def header(size, text=b"{}"):
    """A safetensors file whose header claims `size` bytes."""
    return struct.pack("<Q", size) + text


def tensors(change):
    def how(path):
        values = load_file(path)
        change(values)
        save_file(values, path)

    return how


# What may be given as safetensors, and is none.
NO_TENSORS = {
    "empty": b"",
    "pickle": PICKLE,
    "torch zip": b"PK\3\4" + bytes(100),
    "text": b"weights",
    "header of an exabyte": header(2**60),
    "header longer than the file": header(10_000),
    "header no JSON": header(4, b"{{{{"),
    "header nested deep": header(100_000, DEEP.encode()),
    "shape of a terabyte": (lambda text: header(len(text), text))(
        b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    ),
    "numpy objects": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
}
# What may be given as JSON of an object, and is none.
NO_OBJECT = {
    "empty": "",
    "list": "[]",
    "null": "null",
    "number": "3",
    "huge number": "9" * 10_000,
    "cut": '{"a": ',
    "nested deep": DEEP,
    "utf-16": "{}".encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "NUL": b"\0\0\0\0",
    "pickle": PICKLE,
}

PROBE = 'probe dataset --lm lm --out new --device cpu --template "{question} {answer}" --answer-yes yes --answer-no no --phrasing "is there {leaf_noun} {hypernym_noun}"'  # noqa: E501
EXTRACT = "extract dataset --encoder encoder --out new.h5 --device cpu"


def model(name, place, how, says="", command=PROBE):
    """Something done to a file of the LM or the encoder."""
    return Case(name, lambda study: how(study / place), command, says or rf"\b{place.split('/')[0]}\b")


def encoder(name, place, how, says=""):
    return model(f"encoder {name}", f"encoder/{place}", how, says, EXTRACT)


def content(text):
    return lambda path: write(path, text)


def fields(**changed):
    def how(path):
        value = json.loads(path.read_text())
        for name, field in changed.items():
            if field is ...:
                del value[name]
            else:
                value[name] = field
        write(path, json.dumps(value))

    return how


def renamed(to):
    return lambda path: path.rename(path.with_name(to))


def index(weight_map):
    def how(path):
        path.unlink()
        write(path.with_name("model.safetensors.index.json"), json.dumps({"weight_map": weight_map}))

    return how


MODELS = [
    "weights of an LM",
    *(model(f"lm {name}", "lm/model.safetensors", content(text)) for name, text in NO_TENSORS.items()),
    "weights of an encoder",
    *(encoder(name, "model.safetensors", content(text)) for name, text in NO_TENSORS.items()),
    "config of an LM",
    *(model(f"lm config {name}", "lm/config.json", content(text)) for name, text in NO_OBJECT.items()),
    "config of an encoder",
    *(encoder(f"config {name}", "config.json", content(text)) for name, text in NO_OBJECT.items()),
    "tokenizer",
    *(model(f"lm tokenizer {name}", "lm/tokenizer.json", content(text)) for name, text in NO_OBJECT.items()),
    "processor",
    *(encoder(f"processor {name}", "preprocessor_config.json", content(text)) for name, text in NO_OBJECT.items()),
    "pickles",
    model(
        "lm a pickle only", "lm/model.safetensors", renamed("pytorch_model.bin"), "is a pickle|a pickle, which can run"
    ),
    encoder("a pickle only", "model.safetensors", renamed("pytorch_model.bin"), "a pickle, which can run code"),
    "weights that do not fit",
    model("lm no weights", "lm/model.safetensors", remove, "has no model.safetensors"),
    model("lm weights loop", "lm/model.safetensors", loop, "has no model.safetensors"),
    model("lm weights cut", "lm/model.safetensors", lambda path: cut(path, -100)),
    model("lm weights missing", "lm/model.safetensors", tensors(lambda v: v.pop("model.norm.weight")), "lacks weights"),
    model("lm weights of another width", "lm/config.json", fields(hidden_size=64)),
    model(
        "lm weights not finite",
        "lm/model.safetensors",
        tensors(lambda v: v["model.norm.weight"].fill(np.nan)),
        "not finite",
    ),
    model(
        "lm vocabulary too small",
        "lm/model.safetensors",
        tensors(lambda v: v.update({"model.embed_tokens.weight": np.zeros((5, 48), "f4")})),
    ),
    "shards",
    model(
        "lm shards out of the folder",
        "lm/model.safetensors",
        index({"a": "../../x.safetensors"}),
        "index.json is not an index",
    ),
    model("lm shards absolute", "lm/model.safetensors", index({"a": "/etc/passwd"}), "index.json is not an index"),
    model("lm shards numbers", "lm/model.safetensors", index({"a": 3}), "index.json is not an index"),
    model("lm shards none", "lm/model.safetensors", index([]), "index.json is not an index"),
    "kinds of LM",
    model("lm of unknown kind", "lm/config.json", fields(model_type="qwen99")),
    model("lm of no kind", "lm/config.json", fields(model_type=...)),
    model("lm that is an encoder", "lm/config.json", fields(model_type="dinov2")),
    model(
        "lm with code of its own",
        "lm/config.json",
        fields(model_type="own", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
    ),
    "sizes of an LM",
    model("lm of text layers", "lm/config.json", fields(num_hidden_layers="many")),
    model("lm of no heads", "lm/config.json", fields(num_attention_heads=0)),
    model("lm of billions of layers", "lm/config.json", fields(num_hidden_layers=10**9)),
    model("lm huge", "lm/config.json", fields(vocab_size=10**13)),
    "no folder",
    model("lm folder is a file", "lm", content("x")),
    model("lm folder is empty", "lm", folder_there, "lm has no config.json"),
    model("lm folder loops", "lm", loop),
    "kinds of encoder",
    encoder("of unknown kind", "config.json", fields(model_type="vit99")),
    encoder("that is an LM", "config.json", fields(model_type="qwen3"), "model type qwen3 is not supported"),
    encoder("with code of its own", "config.json", fields(model_type="own", auto_map={"AutoConfig": "evil.Config"})),
    encoder("architecture a path", "config.json", content('{"architecture": "../evil"}')),
    encoder("architecture a number", "config.json", content('{"architecture": 3}')),
    "sizes of an encoder",
    encoder("huge", "config.json", fields(hidden_size=2**40)),
    encoder("patch of no size", "config.json", fields(patch_size=0)),
    encoder("one block", "config.json", fields(num_hidden_layers=1)),
    "processor, its fields",
    encoder("no processor", "preprocessor_config.json", remove),
    encoder("processor without size", "preprocessor_config.json", fields(size=...)),
    encoder("processor of a huge size", "preprocessor_config.json", fields(size={"height": 10**7, "width": 10**7})),
    encoder("processor of no size", "preprocessor_config.json", fields(size={"height": 0, "width": 0})),
    encoder("processor of text", "preprocessor_config.json", fields(size="large")),
    encoder("processor without mean", "preprocessor_config.json", fields(image_mean=...)),
    encoder("processor with two means", "preprocessor_config.json", fields(image_mean=[0.5, 0.5])),
    encoder("processor with no deviation", "preprocessor_config.json", fields(image_std=[0, 0, 0])),
    "weights not finite",
    encoder(
        "weights not finite",
        "model.safetensors",
        tensors(lambda v: next(iter(v.values())).fill(np.nan)),
        "NaN or infinite",
    ),
]


@pytest.mark.parametrize("case", **ids(MODELS))
def test_models(case, sound_study, tmp_path, crosstax, monkeypatch):
    case = Case(case.name, case.spoil, case.command, case.says, r"^new\.h5")
    write(tmp_path / "evil.py", "raise SystemExit('code of a model was run')")
    monkeypatch.syspath_prepend(tmp_path)
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


def run_file(name, file, how, says, command="analyze runs --out new", sign=True):
    """Something done to one file of the finished run, whose DONE then vouches for it (`sign`)."""

    def spoil(study):
        run = study / "runs" / run_name(study)
        how(run / file)
        if sign and file != "DONE":
            seal(run)

    return Case(name, spoil, command, says)


ASK = 'ask RUN dataset/images/crow/0.png "is there a bird?" --device cpu'


def both(name, file, how, says, **more):
    """The same for who reads results, and for who asks the run again."""
    return [
        run_file(f"{name}, analysed", file, how, says, **more),
        run_file(f"{name}, asked", file, how, says, command=ASK, **more),
        run_file(f"{name}, evaluated", file, how, says, command="evaluate RUN --device cpu", **more),
    ]


def table(change):
    def how(path):
        change(pd.read_parquet(path)).to_parquet(path, index=False)

    return how


def inner(outer, **changed):
    def how(path):
        config = json.loads(path.read_text())
        for name, value in changed.items():
            if value is ...:
                del config[outer][name]
            else:
                config[outer][name] = value
        write(path, json.dumps(config))

    return how


def unplaced(**paths):
    """Another place in config.json, and none recorded beside it."""

    def how(path):
        inner("paths", **paths)(path)
        path.with_name("places.json").unlink()

    return how


ANY_RUN = r"config\.json|runs/encoder-lm"
RUNS = [
    "config that is no object",
    *(
        case
        for name, text in NO_OBJECT.items()
        for case in both(f"config {name}", "config.json", content(text), ANY_RUN)
    ),
    "fields of a config",
    *both("config of another schema", "config.json", fields(schema=99), "has schema 99, this version reads 1"),
    *both("config without condition", "config.json", fields(condition=...), ANY_RUN),
    *both("condition a text", "config.json", fields(condition="original"), ANY_RUN),
    *both("paths a list", "config.json", fields(paths=[]), ANY_RUN),
    *both("digests a number", "config.json", fields(digests=3), ANY_RUN),
    *both("shuffle unknown", "config.json", inner("condition", shuffle=["x"]), ANY_RUN),
    *both("lm a number", "config.json", inner("condition", lm_init=3), ANY_RUN),
    run_file("seed a text", "config.json", inner("condition", run_seed="seven"), ANY_RUN),
    "an edited config",
    *both("another seed", "config.json", inner("condition", run_seed=7), "was edited"),
    *both("another template", "config.json", inner("condition", template="{question}"), "was edited"),
    *both("another digest", "config.json", inner("digests", dataset="0"), "was edited"),
    *both("digest missing", "config.json", inner("digests", lm=...), "digests lacks an input"),
    *both("lm not named", "config.json", inner("condition", lm=...), "names no encoder or no lm"),
    *both("no Unicode", "config.json", inner("digests", dataset="\ud800"), "was edited"),
    "a config beyond its bounds",
    *both("learning rate NaN", "config.json", inner("condition", learning_rate=float("nan")), "learning_rate"),
    *both("config huge", "config.json", lambda path: path.open("ab").truncate(2**25), "larger than any"),
    *both("config a folder", "config.json", folder_there, r"config\.json|begun|no run", sign=False),
    "facts that a config lacks",
    run_file("store of text", "config.json", fields(store="x"), "store lacks a fact", command=ASK),
    run_file("store of no width", "config.json", inner("store", width="x"), "store lacks a fact", command=ASK),
    run_file("dataset not given", "config.json", unplaced(dataset=...), "--dataset", command="evaluate RUN"),
    run_file("lm out of reach", "config.json", unplaced(lm="/nowhere/lm"), "/nowhere/lm.*--lm", command="evaluate RUN"),
    "no config",
    run_file("config missing", "config.json", remove, r"config\.json", sign=False),
    run_file("config loops", "config.json", loop, r"config\.json", sign=False),
    run_file("config changed", "config.json", fields(note="x"), "changed after the run finished", sign=False),
    "DONE",
    *(case for name, text in NO_OBJECT.items() for case in both(f"DONE {name}", "DONE", content(text), r"DONE")),
    "hashes in DONE",
    run_file("DONE of numbers", "DONE", content(json.dumps(dict.fromkeys(HASHED, 3))), "DONE|changed after"),
    run_file("DONE reaches out", "DONE", fields(**{"../../sweep.toml": "0"}), r"DONE .*'\.\./\.\./sweep\.toml'"),
    run_file("DONE absolute", "DONE", fields(**{"/etc/passwd": "0"}), r"DONE .*'/etc/passwd'"),
    run_file("DONE wrong", "DONE", fields(**{"predictions.parquet": "0" * 64}), "changed after the run finished"),
    "tables that cannot be read",
    *(
        run_file(f"{file} {name}", f"{file}.parquet", content(text), rf"{file}\.parquet is not a readable table")
        for file in ("questions", "predictions")
        for name, text in (
            ("empty", b""),
            ("text", b"x"),
            ("pickle", PICKLE),
            ("magic only", b"PAR1PAR1"),
            ("footer of terabytes", b"PAR1\xff\xff\xff\x7fPAR1"),
        )
    ),
    run_file("predictions cut", "predictions.parquet", lambda path: cut(path, -20), "is not a readable table"),
    run_file(
        "predictions cut within",
        "predictions.parquet",
        lambda path: write(path, path.read_bytes()[:200] + path.read_bytes()[400:]),
        "predictions.parquet|questions",
    ),
    "questions",
    *(
        run_file(f"questions {name}, evaluated", "questions.parquet", how, says, command="evaluate RUN --device cpu")
        for name, how, says in (
            ("garbage", content(b"x"), "is not a readable table"),
            ("of lists", table(lambda t: t.assign(phrase=[["x"]] * len(t))), "column phrase is of type"),
            ("with gaps", table(lambda t: t.assign(phrase=t["phrase"].where(t.index > 3))), "column phrase has gaps"),
            ("of other images", table(lambda t: t.assign(image=t["image"] + 10**6)), "names other images"),
            ("of other words", table(lambda t: t.assign(phrase="a wug")), "a wug"),
        )
    ),
    "predictions",
    run_file("no logits", "predictions.parquet", table(lambda t: t.drop(columns="logit_no")), "with columns"),
    run_file(
        "logits of text",
        "predictions.parquet",
        table(lambda t: t.astype({"logit_yes": str})),
        r"predictions\.parquet .*logit_yes",
    ),
    run_file(
        "logits NaN",
        "predictions.parquet",
        table(lambda t: t.assign(logit_yes=np.nan)),
        "none of the 1 runs .* not finite",
    ),
    run_file(
        "logits infinite",
        "predictions.parquet",
        table(lambda t: t.assign(logit_no=np.inf)),
        "none of the 1 runs .* not finite",
    ),
    run_file("answers missing", "predictions.parquet", table(lambda t: t.iloc[1:]), "does not answer each"),
    run_file("answers twice", "predictions.parquet", table(lambda t: pd.concat([t, t])), "does not answer each"),
    run_file("no answers", "predictions.parquet", table(lambda t: t.iloc[:0]), "does not answer each"),
    run_file(
        "numbers of text", "predictions.parquet", table(lambda t: t.assign(question="x")), r"predictions\.parquet"
    ),
    "columns of questions",
    run_file("questions without split", "questions.parquet", table(lambda t: t.drop(columns="split")), "with columns"),
    run_file("no questions", "questions.parquet", table(lambda t: t.iloc[:0]), r"questions|does not answer"),
    run_file(
        "truth of text", "questions.parquet", table(lambda t: t.astype({"answer": str})), r"questions\.parquet .*answer"
    ),
    run_file(
        "split unknown",
        "questions.parquet",
        table(lambda t: t.assign(split="dev")),
        r"questions\.parquet|does not answer",
    ),
    "projectors",
    *(
        run_file(
            f"projector {name}", "projector.safetensors", content(text), "its projector cannot be read", command=command
        )
        for name, text in NO_TENSORS.items()
        for command in ("evaluate RUN --device cpu",)
    ),
    run_file(
        "projector of another width",
        "projector.safetensors",
        lambda path: save_file({k: np.zeros((3, 3), "f4") for k in load_file(path)}, path),
        "projector",
        command="evaluate RUN --device cpu",
    ),
    run_file(
        "projector asked",
        "projector.safetensors",
        content(save({"weight": np.zeros(3)})),
        "projector does not fit",
        command='ask RUN dataset/images/crow/0.png "is there a bird?" --device cpu',
    ),
    run_file(
        "projector not finite",
        "projector.safetensors",
        tensors(lambda v: [each.fill(np.nan) for each in v.values()]),
        "not finite",
        command='ask RUN dataset/images/crow/0.png "is there a bird?" --device cpu',
    ),
    "logs",
    run_file("log of no JSON", "metrics.jsonl", content("{step\n"), r"metrics\.jsonl", command="report runs --out new"),
    run_file("log of lists", "metrics.jsonl", content("[1]\n"), r"metrics\.jsonl", command="report runs --out new"),
    run_file(
        "log in utf-16",
        "metrics.jsonl",
        content("{}".encode("utf-16")),
        r"metrics\.jsonl",
        command="report runs --out new",
    ),
]


@pytest.mark.parametrize("case", **ids(RUNS))
def test_run_directories(case, sound_study, tmp_path, crosstax, monkeypatch):
    command = case.command.replace("RUN", f"runs/{run_name(sound_study)}")
    # Whole tables, written again by the same command, and neighbours, which are right for their store.
    leaves = r"^new/|^features\.h5\.neighbours/" if command.startswith("report") else "(?!)"
    case = Case(case.name, case.spoil, command, case.says, leaves)
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


RESUME = "sweep sweep.toml --out started --device cpu --threads 1"


def plan(name, how, says=r"started/plan\.json", command="status started"):
    return Case(f"plan {name}", lambda study: how(study / "started" / "plan.json"), command, says)


def group(**changed):
    def how(path):
        document = json.loads(path.read_text())
        document["groups"][0] |= changed
        write(path, json.dumps(document))

    return how


def written(step=1, log_sizes=(0,), runs=None, widths=None):
    """A checkpoint that is whole, and says something else than its group's would."""

    def how(path):
        lm, vision = load_file(path)["0.hidden.weight"].shape
        projector = Projector(widths or (vision, lm), torch.float32)
        (group,) = read_plan(path.parent)
        place = Checkpoint(path, runs or group.runs, group.max_tokens)
        write_checkpoint(place, [projector], torch.optim.AdamW(projector.parameters()), step, list(log_sizes))

    return how


CHECKPOINTS = {
    **{name: content(text) for name, text in NO_TENSORS.items()},
    "cut": lambda path: cut(path, -10),
    "without metadata": tensors(lambda _: None),
    "step negative": written(step=-1),
    "log sizes of two runs": written(log_sizes=(0, 0)),
    "log sizes negative": written(log_sizes=(-1,)),
    "log sizes beyond the log": written(log_sizes=(10**9,)),
    "step beyond the end": written(step=10**6),
    "weights of another shape": written(widths=(3, 3)),
    "another run's": written(runs=("another",)),
}


@pytest.mark.parametrize(
    "name", few(CHECKPOINTS, "empty", "without metadata", "log sizes beyond the log", "another run's")
)
def test_checkpoints(name, sound_study, tmp_path, crosstax, monkeypatch):
    """Nothing of it counts: its run has failed, with a way out that the next command takes."""
    home = copy_of(sound_study, tmp_path / "study")
    monkeypatch.chdir(home)
    run = home / "started" / run_name(home)
    CHECKPOINTS[name](run.parent / f"{run.name}.checkpoint.safetensors")
    code, _, err = crosstax(*RESUME.split())
    assert code == 1, err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("failed: ") and "skipped" not in line][1:]
    assert "checkpoint" in line
    assert "--retry-failed" in line
    code, _, err = crosstax(*RESUME.split(), "--retry-failed")
    assert code == 0, err
    finished = home / "runs" / run.name
    assert (run / "projector.safetensors").read_bytes() == (finished / "projector.safetensors").read_bytes()


STARTED = [
    "plans",
    *(plan(name, content(text)) for name, text in NO_OBJECT.items()),
    "fields of a plan",
    plan("missing", remove, r"started: no sweep has started there"),
    plan("of another version", fields(schema=1), "was written by another version"),
    plan("without groups", fields(groups=...)),
    plan("of groups of text", fields(groups=["x"])),
    plan("with no runs", group(runs=[])),
    plan("with runs of numbers", group(runs=[1])),
    "names in a plan",
    plan("with runs out of the folder", group(runs=["../../evil"])),
    plan("with absolute runs", group(runs=["/tmp/evil"]), command=RESUME),
    "numbers in a plan",
    plan("with rows of text", group(max_tokens="many")),
    plan("with rows of nothing", group(max_tokens=0), command=RESUME),
    plan("with work of text", group(work=["much"])),
    plan("with too little work", group(work=[])),
    plan("with other rows, whole otherwise", group(max_tokens=600), command=RESUME),
]


@pytest.mark.parametrize("case", **ids(STARTED))
def test_started_sweeps(case, sound_study, tmp_path, crosstax, monkeypatch):
    case = Case(case.name, case.spoil, case.command, case.says, r"^started/timing\.jsonl$|" + case.leaves)
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


def probe(name, file, how, says=r"probe\.(parquet|json)"):
    return Case(name, lambda study: how(study / file), "analyze runs --out new --probe probe.parquet", says)


PROBES = [
    "records",
    *(probe(f"record {name}", "probe.json", content(text)) for name, text in NO_OBJECT.items()),
    "fields of a record",
    probe("record missing", "probe.json", remove, "probe.json does not exist"),
    probe("record of another schema", "probe.json", fields(schema=2), "has schema 2, this version reads 1"),
    *(probe(f"record without {name}", "probe.json", fields(**{name: ...})) for name in ("lm_digest", "dataset_digest")),
    probe("record with a seed of text", "probe.json", fields(lm_seed="x", lm_init="random")),
    "tables that cannot be read",
    probe("table missing", "probe.parquet", remove),
    probe("table empty file", "probe.parquet", content(b"")),
    probe("table a pickle", "probe.parquet", content(PICKLE)),
    probe("table cut", "probe.parquet", lambda path: cut(path, -30)),
    "tables",
    probe("table without rows", "probe.parquet", table(lambda t: t.iloc[:0])),
    probe("table without logits", "probe.parquet", table(lambda t: t.drop(columns="logit_yes"))),
    probe("logits of text", "probe.parquet", table(lambda t: t.astype({"logit_yes": str}))),
    probe("logits NaN", "probe.parquet", table(lambda t: t.assign(logit_yes=np.nan))),
    probe("repeats negative", "probe.parquet", table(lambda t: t.assign(repeats=-1))),
]


@pytest.mark.parametrize("case", **ids(PROBES))
def test_probes(case, sound_study, tmp_path, crosstax, monkeypatch):
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


F1 = "release/results/main-results/macro-f1s/all_unseen_f1_scores.csv"


def release(name, how, says=r"all_unseen_f1_scores\.csv", file=F1):
    return Case(name, lambda study: how(study / file), "reanalyze release --out new", says)


def cell(text):
    """Put `text` in place of the first number of the table."""

    def how(path):
        lines = path.read_text().split("\n")
        cells = lines[1].split(",")
        write(path, "\n".join([lines[0], ",".join([cells[0], text, *cells[2:]]), *lines[2:]]))

    return how


RELEASES = [
    "folders",
    release("no folder", remove, "release is no folder", "release"),
    release("loop", loop, "release is no folder", "release"),
    release("nothing in it", folder_there, "release holds none of", "release"),
    "tables that cannot be read",
    release("empty", content("")),
    release("header only", lambda path: write(path, path.read_text().split("\n")[0] + "\n"), "has no rows"),
    release("cut", lambda path: cut(path, 3000), r"scores\.csv:\d+: "),
    release("utf-16", lambda path: write(path, path.read_text().encode("utf-16"))),
    release("latin-1", lambda path: write(path, path.read_bytes() + b"\xe9,1\n")),
    release("NULs", content(b"\0" * 5000)),
    release("pickle", content(PICKLE)),
    release("quote left open", lambda path: write(path, path.read_text() + '"x')),
    release("huge cell", lambda path: write(path, path.read_text() + "x" * 200_000)),
    release("folder", folder_there),
    release("loops", loop),
    "cells",
    *(
        release(f"number {text}", cell(text), r"scores\.csv:2: ")
        for text in ("nan", "inf", "-inf", "1.5", "-0.1", "high", "1e999", "0x1", "1_0", "٣", "=1+1")
    ),
    "rows and columns",
    release("column twice", lambda path: write(path, path.read_text().replace("animal", "bird", 1))),
    release(
        "run twice",
        lambda path: write(path, path.read_text() + path.read_text().split("\n")[1].rsplit(",", 1)[0] + ",0.123\n"),
        "two different rows",
    ),
]


@pytest.mark.parametrize("case", **ids(RELEASES))
def test_releases(case, sound_study, tmp_path, crosstax, monkeypatch):
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


OWL = "object_images/crow/crow_09b.jpg"


def zipped(name, how, says):
    command = "data things --images things/images.zip --taxonomy things/category.tsv --out new --partial"
    leaves = r"^new/(images/|\.unpacking)"  # what is whole stays, and the same command goes on
    return Case(name, lambda study: how(study / "things" / "images.zip"), command, says, leaves)


def entry(name, data=b"x", **about):
    """One more entry; `about` are fields of its ZipInfo."""

    def how(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
            for each, bytes_ in things_pictures().items():
                writer.writestr(each, bytes_)
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for field, value in about.items():
                setattr(info, field, value)
            writer.writestr(info, data)

    return how


def lying(size):
    """An entry that declares `size` bytes and holds 20 MB."""
    return lambda path: write_zip(path, things_pictures() | {OWL: bytes(20_000_000)}, None, crow_09b=size)


def taxonomy(name, text, says):
    case = zipped(name, lambda path: write(path.with_name("category.tsv"), text), says)
    return Case(case.name, case.spoil, case.command, says)


LONG = "category\tuniqueID\tWord\n"
ZIPS = [
    "no zip",
    zipped("empty", content(b""), r"images\.zip cannot be read as a zip"),
    zipped("text", content(b"images"), r"images\.zip cannot be read as a zip"),
    zipped("folder", folder_there, r"images\.zip holds no image of THINGS"),
    zipped("loop", loop, r"images\.zip does not exist"),
    zipped("cut", lambda path: cut(path, -30), r"images\.zip cannot be read as a zip"),
    zipped("entries cut out", lambda path: write(path, path.read_bytes()[300:]), "images.zip"),
    zipped(
        "directory of nonsense",
        lambda path: write(path, path.read_bytes().replace(b"PK\1\2", b"PK\1\xff")),
        r"images\.zip cannot be read",
    ),
    zipped("no pictures", lambda path: write_zip(path, {"readme.txt": b"x"}, None), "holds no image of THINGS"),
    "names that leave the folder",
    zipped("parent in a name", entry("../../crow/crow_09b.jpg"), "would leave the folder"),
    zipped("absolute name", entry("/tmp/crow/crow_09b.jpg"), "would leave the folder"),
    zipped("drive in a name", entry("c:\\crow\\crow_09b.jpg"), "would leave the folder"),
    zipped("override in a name", entry("object_images/crow/crow\u202e_09b.jpg"), "would leave|left out|crow"),
    "entries",
    zipped("link", entry(OWL, b"/etc/passwd", external_attr=(stat.S_IFLNK | 0o777) << 16), "is a symbolic link"),
    "sizes",
    zipped("bomb that says so", entry(OWL, bytes(70 * 2**20)), "declares 73,400,320 bytes"),
    zipped("bomb that lies", lying(100), "crow/crow_09b.jpg is damaged"),
    zipped("lie of gigabytes", lying(2**32 - 2), "declares 4,294,967,294 bytes"),
    "packing",
    zipped("packed in another way", entry(OWL, compress_type=zipfile.ZIP_LZMA), "unpack the zip with 7-Zip"),
    zipped(
        "same picture twice",
        lambda path: (
            entry("a/crow/crow_09b.jpg")(path),
            zipfile.ZipFile(path, "a").writestr("b/crow/crow_09b.jpg", b"yy"),
        ),
        "is found twice",
    ),
    zipped(
        "wrong checksum",
        lambda path: write(path, path.read_bytes().replace(b"PK\3\4", b"PK\0\0")),
        "is cut off or damaged",
    ),
    zipped(
        "encrypted without password",
        lambda path: write_zip(path, things_pictures(), b"secret"),
        "protected by a password",
    ),
    "taxonomies",
    taxonomy("taxonomy empty", "", "category.tsv: is neither"),
    taxonomy("taxonomy latin-1", (LONG + "bird\tcr\xf4w\tx\n").encode("latin-1"), "category.tsv cannot be read"),
    taxonomy("taxonomy utf-16", LONG.encode("utf-16"), "category.tsv cannot be read"),
    taxonomy("taxonomy with cells missing", LONG + "bird\n", "category.tsv:2: 1 cells"),
    taxonomy("taxonomy with another hypernym", LONG + "gods\tzeus\tx\n", "category.tsv:2: 'gods' is none of the 53"),
    taxonomy("taxonomy with a path as leaf", LONG + "bird\t../../evil\tx\n", r"category.tsv:2: .*'\.\./\.\./evil'"),
    taxonomy("taxonomy with an absolute leaf", LONG + "bird\t/tmp/evil\tx\n", r"category.tsv:2: .*'/tmp/evil'"),
    taxonomy(
        "taxonomy with a pair twice", LONG + "bird\tcrow\tx\nbird\tcrow\tx\n", "the pair 'crow', 'bird' occurs twice"
    ),
    taxonomy("taxonomy with a huge cell", LONG + "bird\t" + "c" * 200_000 + "\tx\n", "category.tsv"),
    "phrases",
    taxonomy("phrases of numbers", "{}\n", "category.tsv:1: is no line of"),
    taxonomy(
        "phrases of text leaves",
        json.dumps(
            {
                "phrasing_id": 2,
                "hyponym": 3,
                "hypernym_pos": [],
                "hyponym_form": 1,
                "hypernym_form_pos": 2,
                "sentence_pos": "a is b",
            }
        ),
        "category.tsv:1: is no line of",
    ),
    taxonomy("phrases nested deep", '{"a":' + DEEP, "category.tsv:1: is no line of"),
]


@pytest.mark.parametrize("case", **ids(ZIPS))
def test_zips_of_things(case, sound_study, tmp_path, crosstax, monkeypatch):
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)
    assert not list(Path(tmp_path).rglob("evil*"))
