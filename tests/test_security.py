"""What the code may not do, read off its syntax trees; and names that would do harm, shown as names."""

import ast
import io
from pathlib import Path

import pytest

import cli

ROOT = Path(cli.__file__).parent
PACKAGES = ("cachegen", "engine", "analysis", "commands")
FILES = [ROOT / "cli.py", *sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.save", "torch.hub.load",
    "torch.hub.load_state_dict_from_url", "os.system", "os.popen", "tempfile.mktemp", "pandas.read_pickle",
    "pd.read_pickle", "zipfile.extractall", "shutil.unpack_archive",
}  # fmt: skip
FORBIDDEN_METHODS = {"to_pickle", "read_pickle", "extractall", "render_template_string"}
# Where models may be fetched from the hub, or made; elsewhere nobody loads one.
LOADERS = {
    "cachegen/encoders/models.py",
    "cachegen/encoders/preprocess.py",  # no model, its image processor
    "engine/lm/loading.py",
    "engine/lm/views.py",  # GGUF files and adapters
    "engine/export/tower.py",
    "engine/benchmark/models.py",
}
HUB = {"from_pretrained", "create_model", "snapshot_download", "hf_hub_download", "urlopen", "urlretrieve"}
DOWNLOADERS = {"cachegen/things/pairs.py", "cachegen/common/hub_files.py"}  # ask first, and check size and hash


def dotted(node):
    """The dotted name of what is called, "?" for what has none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


def problems(source, name):
    """What a file does that it may not, one line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        found += [f"imports {module}" for module in modules if module.split(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        called, last = dotted(node.func), dotted(node.func).rsplit(".", 1)[-1]
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        constant = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
        if called in FORBIDDEN_CALLS or last in FORBIDDEN_METHODS:
            found.append(f"calls {called}")
        if constant.get("shell") or constant.get("allow_pickle") or constant.get("trust_remote_code"):
            found.append(f"calls {called} with what is forbidden")
        if "trust_remote_code" in given and constant.get("trust_remote_code") is not False:
            found.append(f"calls {called} with trust_remote_code from elsewhere")
        if last in HUB and name not in LOADERS | DOWNLOADERS:
            found.append(f"calls {called}, which only {', '.join(sorted(LOADERS | DOWNLOADERS))} may")
        # PeftConfig reads a JSON file only, and passes on what it does not know.
        if last == "from_pretrained" and called != "PeftConfig.from_pretrained" and "nn.Embedding" not in called:
            safe = "use_safetensors" in given or "trust_remote_code" in given
            if not safe:
                found.append(f"calls {called} with neither use_safetensors nor trust_remote_code said")
            plain = any(kind in called for kind in ("Config", "Tokenizer", "ImageProcessor"))
            if not plain and constant.get("use_safetensors") is not True:
                found.append(f"calls {called} without use_safetensors=True")
    return found


def test_nothing_forbidden():
    names = [path.relative_to(ROOT).as_posix() for path in FILES]
    assert [(name, found) for name in names if (found := problems((ROOT / name).read_text("utf-8"), name))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval('1')",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(words, shell=True)",
        "pd.read_pickle(path)",
        "archive.extractall(folder)",
        "AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=True)",
        "AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=asked)",
        "AutoModel.from_pretrained(folder, trust_remote_code=False)",
        "AutoTokenizer.from_pretrained(folder)",
    ],
)
def test_the_check_sees(source):
    """Control: each of these would be found, in the very files where loading is allowed."""
    assert problems(source, "engine/lm/loading.py")


def test_the_hub_is_reached_from_its_modules_only():
    assert problems("snapshot_download('x')", "engine/ask.py")
    assert problems("snapshot_download('x')", "engine/lm/loading.py") == []
    assert len(FILES) > 100


NAMES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1}{0}$",
    "a $ b",
    "$_{",
    "_{x}^",
    "\\textbf{x}",
    "קורב",
    "ا" * 40,
    "w" * 400,
    "{{ 7 * 7 }}",
    "[red]bold[/red]",
]


@pytest.mark.parametrize("name", NAMES)
def test_figures_draw_names_as_they_are(name):
    """Mathtext would fail at drawing, or show something else; a drawing has no element of a name's own."""
    import io

    import matplotlib.pyplot as plt

    from analysis.figures.style import STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots()
        axes.barh([name, "crow"], [1, 2], label=name)
        axes.set_title(name)
        out = io.StringIO()
        figure.savefig(out, format="svg")
    text = out.getvalue()
    plt.close(figure)
    assert "<script" not in text
    assert "onerror=alert(1)>" not in text.replace("&gt;", "")


def test_a_hub_model_with_a_pickle_only_is_refused(monkeypatch):
    """Before timm is asked, which would take the pickle; the revision of the name counts."""
    import timm
    from huggingface_hub.errors import EntryNotFoundError

    from cachegen.common.errors import ModelError
    from cachegen.encoders.models import load_vision_model
    from cachegen.encoders.names import read_name

    asked = []

    def lacking(*arguments, **more):
        asked.append((*arguments, more["revision"]))
        raise EntryNotFoundError("404")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lacking)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("the pickle was asked for"))
    (name,) = read_name("hf-hub:org/vit@v2")
    with pytest.raises(ModelError, match="hf-hub:org/vit@v2: its weights are there as a pickle only"):
        load_vision_model(name)
    assert asked == [("org/vit", "model.safetensors", "v2")]


def test_a_large_answer_is_not_taken(tmp_path, monkeypatch):
    """A download ends after as many bytes as the pinned file has, and a wrong one leaves nothing behind."""
    import urllib.request

    from cachegen.common.errors import DatasetError
    from cachegen.things import pairs

    asked = []

    class Endless(io.BytesIO):
        def read(self, size=-1):
            asked.append(size)
            return bytes(size)

    monkeypatch.setenv("CROSSTAX_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Endless())
    with pytest.raises(DatasetError, match="sent a file with SHA-256"):
        pairs.fetch_release()
    assert asked == [pairs.SIZE + 1]
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
