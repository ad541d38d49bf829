"""The house is as ARCHITECTURE.md draws it: who imports whom, what loads no torch, where the paper's parts are."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cachegen", "engine", "analysis", "commands")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
MAY_IMPORT = {  # from the bottom up; what stands further down may import what stands above it in its own package
    "cachegen": ("common", "data", "encoders", "features", "things", "pictograms", "microworld"),
    "engine": ("design", "lm", "runs", "training", "sweeps"),
    "analysis": (
        *("words", "published", "inputs", "cells", "tuning", "predictions", "lens", "statistics", "beside_paper"),
        *("scores", "probes", "transfer", "study", "items", "replicate", "figures", "report", "release"),
    ),
}
TOP = {"cachegen": (), "engine": ("cachegen",), "analysis": ("cachegen", "engine.design", "engine.runs"),
       "commands": ("cachegen", "engine", "analysis")}  # fmt: skip


def imports(module: str, *, lazy: bool = False) -> set[str]:
    """Modules of ours that a module imports, for its types too; with `lazy` those inside functions too."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    for_types = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    nodes = ast.walk(tree) if lazy else [*tree.body, *(node for block in for_types for node in block.body)]
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in FILES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in FILES}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imports(module) - {module} for module in FILES}
    assert sum(map(len, graph.values())) > 500  # the reader of imports reads them
    list(TopologicalSorter(graph).static_order())
    first, second = next((module, other) for module, others in graph.items() for other in others)
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph | {second: graph[second] | {first}}).static_order())


def upward(module: str, other: str) -> bool:
    """Whether `other` stands above `module`, which imports it."""
    package, _, rest = module.partition(".")
    owner, _, inner = other.partition(".")
    if owner != package:
        return not other.startswith(TOP[package])
    floors, here, there = MAY_IMPORT.get(package, ()), rest.split(".")[0], inner.split(".")[0]
    return here in floors and there not in floors[: floors.index(here) + 1]


def test_imports_point_downwards() -> None:
    assert [(module, other) for module in FILES for other in imports(module, lazy=True) if upward(module, other)] == []
    assert upward("cachegen.common.files", "cachegen.data.dataset")
    assert upward("analysis.cells", "engine.sweeps.plan")


def test_no_folder_is_too_full() -> None:
    counts: dict[str, int] = {}
    for module, path in FILES.items():
        if path.name != "__init__.py":
            counts[module.rpartition(".")[0]] = counts.get(module.rpartition(".")[0], 0) + 1
    assert {folder: count for folder, count in counts.items() if count > 15} == {}


def test_what_reads_loads_no_torch() -> None:
    modules = [name for name in FILES if name.startswith(("analysis", "engine.design", "engine.runs"))]
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
print([name for name in ("torch", "transformers", "timm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_papers_parts_have_files() -> None:
    """Tables 1-5, Figures 3-12, Algorithms 1 and 2 and sections 2-5 are each in the list, with files that exist."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text[text.index("## The paper, by file") : text.index("## A run, read top to bottom")]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    named: dict[str, list[str]] = {}
    for part, places in rows:
        files = re.findall(r"`([\w/.]+)`", places)
        assert files, part
        assert all((ROOT / file).exists() for file in files), places
        for kind, numbers in re.findall(r"(Section|Table|Figure|Algorithm)s? ([\d., and-]+)", part):
            for number in re.findall(r"\d+(?:\.\d)?", numbers):
                named.setdefault(kind, []).append(number)
    assert {*named["Table"]} == {str(number) for number in range(1, 6)}
    assert {*named["Figure"]} == {str(number) for number in range(3, 13)}
    assert {*named["Algorithm"]} == {"1", "2"}
    assert {number[0] for number in named["Section"]} >= {"2", "3", "4", "5"}


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for module, path in FILES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert places["Sweep"] == ["engine.design.condition"]  # the reader of classes reads them
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}
