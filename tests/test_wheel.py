"""The wheel holds every package and data file, and works where the repository is not."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the tracked sources, so that no build folder appears in the repository."""
    work = tmp_path_factory.mktemp("wheel")
    sources = work / "sources"
    sources.mkdir()
    for name in ("cachegen", "engine", "analysis", "commands", "cli.py", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, sources / name], check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work / "dist", sources]
    subprocess.run(command, check=True, capture_output=True)
    return next((work / "dist").glob("*.whl"))


def test_the_wheel_lists_every_module_and_data_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("cachegen", "engine", "analysis", "commands"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(ROOT)) in names
    assert {"cli.py", "commands/runs.py"} <= set(names)
    assert not any(name.startswith("tests/") for name in names)


def test_an_installed_wheel_answers_and_finds_its_data_files(wheel, tmp_path):
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, target], check=True)
    code = (
        "import importlib.resources, cli, analysis.report.report, cachegen.microworld.recipe, engine.design.condition\n"
        "assert all(str(m.__file__).startswith(HERE) for m in (cli, analysis.report.report, engine.design.condition))\n"
        "assert (importlib.resources.files('analysis') / 'report' / 'templates' / 'report.html').is_file()\n"
        "from engine.sweeps.presets import load_preset, preset_names\n"
        "from engine.sweeps.sweep_file import read_sweep\n"
        "assert {'paper', 'release', 'fast', 'fig6', 'grid'} <= set(preset_names())\n"
        "assert len(read_sweep(load_preset('fig6'))) == 108\n"
    )
    code = f"import sys; HERE = {str(target)!r}; sys.path.insert(0, HERE)\n" + code
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path)
