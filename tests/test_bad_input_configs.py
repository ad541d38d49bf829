"""Sweep files, settings and command lines that are wrong: one line, exit code 2, nothing half-written."""

import json
import os

import pytest
from bad_input import Case, check, folder_there, ids, loop, remove, write
from bad_input.study import INPUTS

from cachegen.common.errors import CrosstaxError
from cachegen.common.files import read_json

SWEEP = "sweep mine.toml --out new --device cpu --threads 1"
PLACES = "".join(f"{name} = {json.dumps(value)}\n" for name, value in INPUTS.items())


def file(name, content, says):
    """A sweep file of this content."""
    return Case(name, lambda study: write(study / "mine.toml", content), SWEEP, says)


def grid(name, line, says):
    """A sweep file that would do but for one line."""
    return file(name, f"[[grid]]\n{PLACES}{line}\n", says)


def fifo(path):
    remove(path)
    os.mkfifo(path)


def place(name, how, says):
    return Case(name, lambda study: how(study / "mine.toml"), SWEEP, says)


FILES = [
    "a file that cannot be read",
    place("missing", remove, r"mine\.toml does not exist; check the path"),
    place("folder", folder_there, r"mine\.toml .*[Ii]s a directory"),
    place("loop", loop, r"mine\.toml .*symbolic links"),
    "content of another kind",
    file("empty", "", r"mine\.toml: grid 1: lm: Field required"),
    file("prose", "please run everything", "is not valid TOML"),
    file("json", "{}", "is not valid TOML"),
    file("utf-16", "[[grid]]\n".encode("utf-16"), "is not valid TOML: it is UTF-16; save it as UTF-8"),
    file("utf-16, no mark", "[[grid]]\n".encode("utf-16-le"), "is not valid TOML: .*UTF-16"),
    file("utf-32", "[[grid]]\n".encode("utf-32"), "is not valid TOML: .*UTF-"),
    file("latin-1", '\nabout = "crôw"\n'.encode("latin-1"), "is not valid TOML: .* in line 2 .*'ô' if it is Latin-1"),
    file("byte order mark", "\ufeff[[grid]]\r\nepoch = 1\r\n", "grid 1: epoch: "),
    file("NUL bytes", 'about = "a\0b"\n', "is not valid TOML"),
    place("pipe", fifo, r"mine\.toml is not valid TOML: it is no plain file"),
    place("device", lambda path: (remove(path), path.symlink_to("/dev/zero")), "it is no plain file"),
    "more than anybody writes",
    file("large", "# " + "x" * 2**20, "is not valid TOML: it has more than 1,048,576 bytes"),
    file("key of 50,000 parts", "a" + ".a" * 50_000 + " = 1", "is not valid TOML: it is nested"),
    file("table of 50,000 parts", "[" + "a." * 50_000 + "a]", "is not valid TOML: it is nested"),
    file("key of 50,000 parts within", "x = {" + "a." * 50_000 + "a = 1}", "is not valid TOML: it is nested"),
    file("key of 30 quoted parts", '"a"' + " . 'a'" * 30 + " = 1", "is not valid TOML: it is nested"),
    file(
        "tables in one another",
        "[[grid]]\nepochs = " + "{a = " * 30 + "1" + "}" * 30,
        "is not valid TOML: it is nested",
    ),
    file("number of 5,000 digits", "epochs = " + "9" * 5000, "is not valid TOML: a number has too many digits"),
    file("nested deep", "about = " + "[" * 100_000, "is not valid TOML"),
    file("nested deep, closed", "about = " + "[" * 5_000 + "]" * 5_000, "is not valid TOML"),
    file("key twice", "[[grid]]\nepochs = 1\nepochs = 2\n", "is not valid TOML"),
    file("cut", "[[grid]]\nepochs = [1, 2", "is not valid TOML"),
    "tables",
    file("unknown table", "[grids]\n", "unknown table 'grids'"),
    file("defaults are a number", "defaults = 3\n", r"mine\.toml: defaults: not a table"),
    file("defaults are a list", "[[defaults]]\n", r"mine\.toml: defaults: not a table"),
    file("grid is a table", "[grid]\n", r"mine\.toml: grid: not a list of tables"),
    file("grid is a text", 'grid = "all"\n', "grid: not a list of tables"),
    file("grid is numbers", "grid = [1, 2]\n", "grid: not a list of tables"),
    file("no grid", "grid = []\n", "no runs; add a "),
    "settings and includes",
    file("settings are a number", "settings = 3\n", "settings: not a text"),
    file("settings unknown", 'settings = "papr"\n', "there is no preset 'papr', did you mean 'paper'; presets are"),
    file("settings are a sweep", 'settings = "fig3"\n', "preset 'fig3' is a sweep, no settings"),
    file("settings out of the package", 'settings = "../../pyproject"\n', "there is no preset"),
    file("include is a text", 'include = "fig3"\n', "include: not a list of texts"),
    file("include is numbers", "include = [3]\n", "include: not a list of texts"),
    file("include unknown", 'include = ["fig99"]\n', "there is no preset 'fig99'"),
    file("include an absolute path", 'include = ["/etc/hosts"]\n', "there is no preset '/etc/hosts'"),
    "probes",
    file("probe is a number", "probe = 3\n", "probe: not a table"),
    file("probe without lm", "[probe]\n", r"\[probe\]: lm: "),
    file("probe of numbers", "[probe]\nlm = [1]\n", r"\[probe\]: lm\.0: "),
    file("probe with more", '[probe]\nlm = "lm"\nshots = 3\n', r"\[probe\]: shots: "),
    "fields of a wrong kind",
    grid(
        "unknown field",
        "epoch = 1",
        r"grid 1: epoch: there is no such field, did you mean 'epochs'; correct this field",
    ),
    grid("text for a number", 'epochs = "many"', "grid 1: epochs: "),
    grid("half an epoch", "epochs = 1.5", "grid 1: epochs: "),
    grid("yes for a number", "epochs = true", "grid 1: epochs: "),
    grid("no epochs", "epochs = 0", "grid 1: epochs: "),
    grid("negative seed", "run_seed = -1", "grid 1: run_seed: "),
    grid("date", "run_seed = 2026-01-01", "grid 1: run_seed: "),
    grid("table", "run_seed = {a = 1}", "grid 1: run_seed: "),
    grid("list in a list", "run_seed = [[1]]", "grid 1: run_seed: "),
    "numbers and texts beyond their bounds",
    grid("huge epochs", "epochs = 1000000000000000000000000", "grid 1: .*epochs is larger"),
    grid("huge batch", "batch = 1000000000000000000000000", "grid 1: .*batch is larger"),
    *(
        grid(f"{name} of 10 to the 12", f"{name} = {10**12}", f"{name} is larger")
        for name in ("epochs", "batch", "swap_leaves")
    ),
    *(
        grid(
            f"{name} of 120,000 characters",
            f'{name} = "{{image}}{{question}}{{phrase}}{"crow " * 24_000}"',
            f"{name} has ",
        )
        for name in ("template", "question_singular", "question_plural", "answer_yes", "answer_no")
    ),
    grid("empty answer", 'answer_no = " "', "answer_no is empty"),
    grid("huge seed", "data_seed = 1000000000000000000000000", "grid 1: .*data_seed is larger"),
    "texts, choices and floats",
    grid("number for a text", "template = 3", "grid 1: template: "),
    grid("number for a choice", "shuffle = 3", "grid 1: shuffle: "),
    grid("null for a choice", 'shuffle = ""', "grid 1: shuffle: "),
    *(
        grid(f"{name} {value}", f"{name} = {value}", f"grid 1: {name}: ")
        for name in ("learning_rate", "weight_decay", "warmup", "clip")
        for value in ("nan", "inf", "-inf", "-1")
    ),
    "fields that disagree",
    grid("ablation of 101 %", "ablation = 101", "grid 1: .*ablation is a percentage"),
    grid("template without question", 'template = "{image}"', "template lacks {question}"),
    grid("question without phrase", 'question_singular = "Is it?"', "question_singular lacks {phrase}"),
    grid("the same answers", 'answer_no = "Yes"', "answer_yes and answer_no are the same"),
    "crossed fields",
    grid("together is a number", "together = 3", "together: not a list of tables"),
    grid("together is numbers", "together = [1]", "together: not a list of tables"),
    grid(
        "more runs than anyone wants",
        "".join(f"{n} = {list(range(400))}\n" for n in ("run_seed", "data_seed", "permutation", "lm_seed")),
        "runs, more than",
    ),
    "inputs",
    grid("dataset twice in form", "encoder = 'x'", "has features and encoder; give one of them"),
    *(
        file(f"{name} {what}", f"[[grid]]\n{PLACES}".replace(f'{name} = "{INPUTS[name]}"', f"{name} = {value}"), says)
        for name in INPUTS
        for what, value, says in (
            ("is a number", "3", f"grid 1: {name}: not a text"),
            ("is too long", json.dumps("x" * 5000), r"mine\.toml: grid 1: |x{300}"),
        )
    ),
    *(
        file(
            f"{name} with NUL",
            f"[[grid]]\n{PLACES}".replace(f'= "{INPUTS[name]}"', '= "a\\u0000b"'),
            f"grid 1: {name} is no path|LM folder .* does not exist",
        )
        for name in INPUTS
    ),
    "control characters",
    file("override in a field", '[[grid]]\n"\u202esdeed" = 1\n', r"\\u202e"),
]


@pytest.mark.parametrize("case", **ids(FILES))
def test_sweep_files(case, sound_study, tmp_path, crosstax, monkeypatch):
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


def tune(name, lines, says):
    return Case(name, lambda study: write(study / "mine.toml", f"[tune]\n{lines}\n[[grid]]\n{PLACES}"), TUNE, says)


TUNE = "tune mine.toml --out new --device cpu --threads 1"
HUGE = list(range(400))
TUNES = [
    "bounds",
    tune("trials", f"trials = {10**12}\n[tune.space]\nlearning_rate = {{low = 1e-4, high = 1e-2}}", "trials is larger"),
    tune("batch", f"trials = 1\nbatch = {10**12}\n[tune.space]\nepochs = [1, 2]", "batch is larger"),
    tune(
        "combinations",
        f'sampler = "grid"\n[tune.space]\nrun_seed = {HUGE}\ndata_seed = {HUGE}\nlm_seed = {HUGE}',
        "space: more than 100,000 combinations",
    ),
    tune("searched epochs", f"trials = 1\n[tune.space]\nepochs = [1, {10**12}]", "epochs is larger"),
    "nesting",
    tune("nested", "space = " + "{a = " * 50 + "1" + "}" * 50, "is not valid TOML: it is nested"),
]


@pytest.mark.parametrize("case", **ids(TUNES))
def test_tune_tables(case, sound_study, tmp_path, crosstax, monkeypatch):
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[" * 2000 + "]" * 2000, " " * 101, '{"a": ' + "9" * 5000, "pipe", "device"]
)
def test_json_is_bounded(content, tmp_path):
    """Before memory is taken, and without waiting for what has no end."""
    path = tmp_path / "plan.json"
    if content == "device":
        path.symlink_to("/dev/zero")
    elif content == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(content)
    with pytest.raises(CrosstaxError, match=r"plan\.json is not readable JSON") as caught:
        read_json(path, 100)
    assert "\n" not in str(caught.value)


def long_phrase(length):
    def spoil(study):
        text = (study / "dataset" / "taxonomy.csv").read_text()
        write(study / "dataset" / "taxonomy.csv", text.replace("a crow", "a" * length))

    return spoil


def words(command, says, spoil=lambda study: None, leaves="(?!)"):
    return Case(command, spoil, command, says, leaves)


def long(name, command, says):
    return Case(f"long {name}", lambda study: None, command.replace("LONG", "a" * 120_000), says)


TRAIN = "train --dataset dataset --features features.h5 --lm lm --out new"
COMMANDS = [
    "commands that do not exist",
    words("fly", "No such command 'fly'"),
    words("sweep --fast", "No such option:? .?--fast"),
    "words missing or too many",
    words("sweep", "give a sweep file or --preset NAME"),
    words("sweep sweep.toml --preset fig3", "give a sweep file or --preset NAME"),
    words("sweep sweep.toml more.toml", "unexpected extra argument"),
    "options out of range",
    words(
        "sweep sweep.toml --out new --limit 0", "'--limit'.* greater than or equal to 1; see `crosstax sweep --help`"
    ),
    words("sweep sweep.toml --out new --limit many", "'--limit'.* valid integer"),
    words("sweep sweep.toml --out new --threads 0", "'--threads'.* greater than or equal to 1"),
    words("sweep sweep.toml --out new --threads -3", "'--threads'.* greater than or equal to 1"),
    words("sweep sweep.toml --out new --max-tokens 1e9", "'--max-tokens'.* valid integer"),
    words("sweep sweep.toml --out new --group-size 0", "'--group-size'.* greater than or equal to 1"),
    words("sweep sweep.toml --out new --executor cloud", "'--executor'.* 'cloud' is not one of"),
    "options that disagree",
    words("sweep sweep.toml --out new --slurm partition", "--slurm needs --executor slurm"),
    words("sweep sweep.toml --out new --only run_seed=99", "no run fits --only run_seed=99"),
    "fields on the command line",
    words("sweep sweep.toml --out new --set epochs", "'epochs' is not NAME=VALUE"),
    words("sweep sweep.toml --out new --set epochs=nan", "grid 1: epochs: "),
    words("sweep sweep.toml --out new --set epochs=[", "grid 1: epochs: "),
    "presets",
    words("sweep sweep.toml --out new --settings ../../x", "there is no preset '../../x'"),
    words("sweep --preset /etc/hosts", "there is no preset '/etc/hosts'"),
    words("sweep --preset ../presets/fig3", "there is no preset '../presets/fig3'"),
    words("presets ../presets/fig3", "there is no preset '../presets/fig3'"),
    "places that cannot be written",
    words("sweep sweep.toml --out sweep.toml", r"sweep\.toml"),
    words("sweep sweep.toml --out sweep.toml/below", r"sweep\.toml/below"),
    words(f"sweep sweep.toml --out {'x' * 300}", "x{300}"),
    "devices",
    words("sweep sweep.toml --out new --device gpu", "there is no device 'gpu'", leaves=r"^new/"),
    words('sweep sweep.toml --out new --device ""', "there is no device ''", leaves=r"^new/"),
    words("sweep sweep.toml --out new --device cpu:-1", "there is no device 'cpu:-1'", leaves=r"^new/"),
    words("sweep sweep.toml --out new --device meta", "device 'meta'", leaves=r"^new/"),
    "train",
    words("train --out new", "Missing option '--dataset'"),
    words(f"{TRAIN} epochs=1 epochs", "'epochs' is not NAME=VALUE"),
    words(f"{TRAIN} learning_rate=inf", "train: grid 1: learning_rate: "),
    words(f"{TRAIN} =1", "'=1' is not NAME=VALUE"),
    words(f"{TRAIN} answer_yes=", "answer_yes is empty"),
    Case("nested epochs", lambda study: None, f"{TRAIN} epochs={'[' * 5000}", "epochs: "),
    Case("epochs of 5,000 digits", lambda study: None, f"{TRAIN} epochs={'9' * 5000}", "epochs: "),
    words(f"{TRAIN} --settings nothing", "there is no preset 'nothing'"),
    "language models",
    words(f"{TRAIN} --lm /dev/null", "LM /dev/null is a file"),
    words(f"{TRAIN} --lm lm/model.safetensors", "LM lm/model.safetensors is a file; give the folder"),
    words(f"{TRAIN} --lm=~/nowhere-at-all", "LM folder /.*/nowhere-at-all does not exist"),
    words(f"{TRAIN} --lm ~nobody-at-all/lm", "LM folder ~nobody-at-all/lm does not exist"),
    words(f'{TRAIN} --lm " "', "LM: a name is missing"),
    words(f"{TRAIN} --lm ../lm/../../x", "x does not exist"),
    words(f'{TRAIN} --lm ""', "LM: a name is missing"),
    "extract",
    words("extract dataset --encoder encoder", "Missing option '--out'"),
    words("extract dataset --encoder encoder --out new.h5 --batch 0", "'--batch'.* greater than or equal to 1"),
    words("extract dataset --encoder encoder --out new.h5 --compute fp8", "'--compute'.* 'fp8' is not one of"),
    words("extract dataset --encoder encoder --out new.h5 --on-unreadable skip", "'skip' is not one of"),
    "encoders",
    words('extract dataset --encoder "" --out new.h5', "encoder: a name is missing"),
    words("extract dataset --encoder encoder+ --out new.h5", "encoder: a name is missing"),
    words("extract dataset --encoder ./nowhere --out new.h5", "encoder folder ./nowhere does not exist"),
    words("extract dataset --encoder no_such_vit --out new.h5", "encoder no_such_vit: timm has no such model"),
    words("extract dataset --encoder encoder@9 --out new.h5", "encoder@9"),
    words("extract dataset --encoder encoder@10 --out new.h5 --device cpu", "smaller than one patch"),
    "extract to where it cannot be",
    words("extract dataset --encoder encoder --out dataset --device cpu", "dataset"),
    words("extract dataset --encoder encoder --out sweep.toml/new.h5 --device cpu", "sweep.toml"),
    words("extract dataset --encoder encoder --out sweep.toml --device cpu", "sweep.toml: not a whole feature store"),
    "stats",
    words("stats dataset shuffle=none", "stats: shuffle: "),
    words("stats dataset --out sweep.toml", "sweep.toml"),
    words("stats dataset --out new", "the phrase has 1,001 characters; write at most 1,000", spoil=long_phrase(1001)),
    words("stats", "Missing argument .(dataset|DATASET)"),
    "evaluate",
    words("evaluate runs", "runs/config.json does not exist"),
    words("evaluate dataset", "dataset/config.json does not exist"),
    words("evaluate RUN --split dev", "'--split'.* 'dev' is not one of"),
    words("evaluate RUN --device cpu --out sweep.toml/x.parquet", "sweep.toml"),
    words("evaluate RUN --device cpu --out dataset", "dataset"),
    "ask",
    words("ask RUN", "Missing argument 'IMAGE"),
    words('ask RUN "is there a bird?"', "no image is given"),
    words("ask RUN dataset/images/crow/0.png", "nothing is asked"),
    words('ask RUN dataset/images/crow/0.png ""', "nothing is asked"),
    words('ask RUN dataset/images/crow/0.png "is there a bird?" --encoder lm', "encoder lm: model type qwen3"),
    "export",
    words("export RUN lm", "lm"),
    words("export RUN new --to gguf", "'--to'.* 'gguf' is not"),
    "probe",
    words("probe dataset --lm lm --lm encoder --out one.parquet", "one .parquet file holds one LM"),
    long("template", "probe dataset --lm lm --out new --template LONG{question}{answer}", "120,018 characters"),
    long("phrasing", "probe dataset --lm lm --out new --phrasing {leaf_noun}{hypernym_noun}LONG", "120,026 char"),
    long("question", 'ask RUN dataset/images/crow/0.png "is LONG?"', "a question of 120,004 characters"),
    words('probe dataset --lm lm --out new --phrasing "is it?"', "phrasing 'is it\\?' must name both"),
    words('probe dataset --lm lm --out new --phrasing "{leaf_noun} {hypernym_noun} {x}"', "field that does not exist"),
    words('probe dataset --lm lm --out new --phrasing "{leaf_noun.__class__} {hypernym_noun}"', "does not exist"),
    words('probe dataset --lm lm --out new --phrasing "{leaf_noun:>999999999} {hypernym_noun}"', "does not exist"),
    words("probe dataset --lm lm --out new --template {question}", "needs {question}, and {answer} at its end"),
    words("probe dataset --lm lm --out new --lm-seed -1", "'--lm-seed'.* greater than or equal to 0"),
    words("probe dataset --lm encoder --out new", "encoder"),
    "results",
    words("analyze dataset --out new", "no runs in dataset"),
    words("analyze sweep.toml --out new", "sweep.toml is not a folder"),
    words("analyze runs --out sweep.toml", "sweep.toml"),
    words("analyze runs --out new --probe nowhere.parquet", "nowhere.* does not exist"),
    words("report runs --out sweep.toml", "sweep.toml"),
    words("report runs --out new --world dataset", "dataset"),
    words("status dataset", "dataset: no sweep has started there"),
    "reanalyze",
    words("reanalyze dataset", "dataset holds none of"),
    words("reanalyze sweep.toml", "sweep.toml is no folder"),
    words("reanalyze release --out sweep.toml", "sweep.toml"),
    "bench",
    words("bench --layers 4,x", "4,x"),
    words("bench --layers 0", "0"),
    words("bench --ablation 50", "'--ablation'.* '50' is not one of"),
    "worlds",
    words("world --seed -1", "'--seed'.* greater than or equal to 0"),
    words("world --size smoke --cache sweep.toml", "sweep.toml"),
    words("world --size huge", "'--size'.* 'huge' is not one of"),
    words("world replicate --worlds 0", "'--worlds'.* greater than or equal to 1"),
    words("demo --threads x", "'--threads'.* valid integer"),
    "things",
    words("data things --images nowhere --taxonomy things/category.tsv --out new", "nowhere does not exist"),
    words("data things --images sweep.toml --taxonomy things/category.tsv --out new", "cannot be read as a zip"),
    words("data things --images things/images.zip --taxonomy sweep.toml --out new", "sweep.toml: is neither"),
    words("data things --images things/images.zip --taxonomy dataset --out new", "dataset cannot be read"),
    words("data things --images things/images.zip --taxonomy things/category.tsv --out new", "not the paper's data"),
    words(
        "data things --images things/images.zip --taxonomy things/category.tsv --out sweep.toml --partial",
        "sweep.toml is a file",
    ),
    "doctor",
    words("doctor --dataset nowhere", "dataset nowhere"),
    words("doctor --features nowhere", "nowhere: no feature store there"),
]


@pytest.mark.parametrize("case", **ids(COMMANDS))
def test_command_lines(case, sound_study, tmp_path, crosstax, monkeypatch):
    from bad_input.study import run_name

    case = Case(
        case.name, case.spoil, case.command.replace("RUN", f"runs/{run_name(sound_study)}"), case.says, case.leaves
    )
    check(case, sound_study, tmp_path / "study", crosstax, monkeypatch)


@pytest.mark.slow
def test_a_sound_study_passes_what_the_cases_break(sound_study, tmp_path, crosstax, monkeypatch):
    """Control: the same commands answer 0 where nothing is broken."""
    from bad_input import copy_of
    from bad_input.study import run_name

    monkeypatch.chdir(copy_of(sound_study, tmp_path / "study"))
    run = f"runs/{run_name(sound_study)}"
    for command in (
        "stats dataset --out counted",
        "extract dataset --encoder encoder --out new.h5 --device cpu",
        "sweep sweep.toml --out new --device cpu --threads 1",
        "sweep sweep.toml --out started --device cpu --threads 1",
        f"evaluate {run} --device cpu",
        f"ask {run} dataset/images/crow/0.png --all --device cpu",
        "status started",
        "analyze runs --out results --probe probe.parquet",
        "reanalyze release",
        "doctor --features features.h5 --dataset dataset",
        "data things --images things/images.zip --taxonomy things/category.tsv --out things-out --partial",
    ):
        code, _, err = crosstax(*command.split())
        assert code == 0, f"{command}: {err}"
