"""No command touches the network unless its purpose is to download, and --offline forbids even that."""

import os
import socket
import sys

import pytest
from bad_input import copy_of
from bad_input.study import run_name

from cachegen.common.hub import VARIABLE


@pytest.fixture
def connections(monkeypatch, tmp_path):
    """Every attempt to reach the network, each refused; models come from an empty cache."""
    import huggingface_hub.constants

    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments[-1] if arguments else None)
        raise OSError("no network in this test")

    for place, name in (
        (socket.socket, "connect"),
        (socket.socket, "connect_ex"),
        (socket, "create_connection"),
        (socket, "getaddrinfo"),
    ):
        monkeypatch.setattr(place, name, refuse)
    monkeypatch.setenv("CROSSTAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # What --offline sets is put back behind the test.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv(VARIABLE, "0")
    return tried


COMMANDS = (
    "doctor --dataset dataset --features features.h5",
    "stats dataset",
    "extract dataset --encoder encoder --out new.h5 --device cpu",
    "presets",
    "sweep --preset fig6 --dataset dataset --dry-run",
    "sweep sweep.toml --out new --device cpu --threads 1",
    "status new",
    "evaluate RUN --device cpu",
    "ask RUN dataset/images/crow/0.png --all --device cpu",
    "data things --images things/images.zip --taxonomy things/category.tsv --out new-things --partial",
)


@pytest.mark.parametrize(
    "first", [(), pytest.param(("--offline",), marks=pytest.mark.slow)], ids=["as usual", "offline"]
)
def test_a_study_on_local_files_needs_no_network(crosstax, connections, sound_study, tmp_path, monkeypatch, first):
    monkeypatch.chdir(copy_of(sound_study, tmp_path / "study"))
    for command in COMMANDS:
        words = command.replace("RUN", f"runs/{run_name(sound_study)}").split()
        code, _, err = crosstax(*first, *words)
        assert code == 0, f"{command}: {err}"
        assert connections == [], command
    assert os.environ[VARIABLE] == ("1" if first else "0")


@pytest.mark.slow
def test_results_and_exports_need_no_network(crosstax, connections, sound_study, tmp_path, monkeypatch):
    monkeypatch.chdir(copy_of(sound_study, tmp_path / "study"))
    for command in (
        "analyze runs --out results",
        "report runs --out report",
        "reanalyze release",
        "world --size smoke",
    ):
        code, _, err = crosstax(*command.split())
        assert code == 0, f"{command}: {err}"
    assert connections == []


DOWNLOADS = {
    "lm": ("train --dataset dataset --features features.h5 --lm nobody/nothing --out new", "nobody/nothing"),
    "probed lm": ("probe dataset --lm nobody/nothing --out new", "nobody/nothing"),
    "encoder of transformers": ("extract dataset --encoder nobody/nothing --out new.h5", "nobody/nothing"),
    "encoder of timm": (
        "extract dataset --encoder vit_small_patch14_dinov2.lvd142m --out new.h5",
        "timm/vit_small_patch14_dinov2.lvd142m",
    ),
    "encoder of timm on the hub": ("extract dataset --encoder timm/vit_nothing --out new.h5", "timm/vit_nothing"),
    "pairs": ("data things --images things/images.zip --out new", "minimal_pair_sentences.jsonl"),
}


@pytest.mark.parametrize(("command", "named"), DOWNLOADS.values(), ids=list(DOWNLOADS))
@pytest.mark.parametrize("how", ["option", "variable"])
def test_offline_says_what_to_fetch(crosstax, connections, sound_study, tmp_path, monkeypatch, command, named, how):
    monkeypatch.chdir(copy_of(sound_study, tmp_path / "study"))
    if how == "variable":
        monkeypatch.setenv(VARIABLE, "1")
        monkeypatch.setattr(sys.modules["huggingface_hub"].constants, "HF_HUB_OFFLINE", True)
    code, out, err = crosstax(*(["--offline"] if how == "option" else []), *command.split())
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, out, len(errors)) == (2, "", 1), err
    assert named in errors[0]
    assert "nothing is downloaded (--offline or HF_HUB_OFFLINE)" in errors[0]
    assert "fetch" in errors[0]
    assert connections == []


def test_without_offline_the_same_does_try(crosstax, connections, sound_study, tmp_path, monkeypatch):
    """Control: what is forbidden above would be seen."""
    monkeypatch.chdir(copy_of(sound_study, tmp_path / "study"))
    code, _, err = crosstax("data", "things", "--images", "things/images.zip", "--out", "new")
    assert code == 2
    assert "cannot download" in err
    assert connections
