"""The engine's own code on a GPU that is not there (`on_fake_gpu`): no tensor elsewhere, no step that a host waits for.

Launches are those of eager execution. Where they rise above the bounds here, an LM of the paper's sizes leaves more of
a GPU idle than it did.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from few import few

ROOT = Path(__file__).parents[1]
FAULTS = {"item": "value asked for", "index": "indexed from the host", "pageable": "not pinned", "device": "device"}
QUICK = ["pairs in bfloat16", "depth, bfloat16", *(f"fault: {name}" for name in FAULTS)]
SLOW = [
    *("unshared", "depth, float32"),
    *("plain", "text before, EOS behind", "streamed", "standardised, two answers", "three layers", "several rows"),
    *("windows", "other heads", "extract", "probe", "ask"),
]
TRAINED = {"pairs in bfloat16", *SLOW} - {"depth, float32", "extract", "probe", "ask"}
EACH = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
DEPTHS = {"depth, float32": 4700, "depth, bfloat16": 5000}
# Of a step of a group of two runs with three layers: launches, and bytes copied to the device.
MOST_LAUNCHES = {"several rows": 3700}
MOST_COPIED = {"streamed": 4000}


@pytest.fixture(scope="module")
def found(request):
    """What the chosen cases asked of the device, from one process for all of them."""
    chosen = {item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec")}
    cases = [name for name in (*QUICK, *SLOW) if name in chosen or name.startswith("fault")]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/support")))
    made = subprocess.run(
        [sys.executable, "-m", "on_fake_gpu", *cases],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return json.loads(made.stdout)


def of(cases):
    return [case for case in EACH if (case if isinstance(case, str) else case.values[0]) in cases]


@pytest.mark.parametrize("case", of(TRAINED))
def test_no_step_waits(found, case):
    """Nor does one after a checkpoint. What evaluation found is read once for each row, at the end."""
    steps, evaluated = found[case]["steps"], found[case]["evaluate"]
    assert found[case]["way"] == ("unshared" if case == "unshared" else "shared")
    assert len(steps) == 2
    for step in steps:
        assert step["waits"] == {}
        assert 350 < step["launches"] <= MOST_LAUNCHES.get(case, 920)
        assert 500 < step["copied"] <= MOST_COPIED.get(case, 2100)
    ((wait, rows),) = evaluated["waits"].items()
    assert "evaluation.py" in wait
    assert rows == (6 if case == "several rows" else 1)


@pytest.mark.parametrize("case", few(DEPTHS, "depth, bfloat16"))
def test_launches_of_a_step_of_28_layers(found, case):
    assert all(3000 < launches <= DEPTHS[case] for launches in found[case])


@pytest.mark.parametrize("case", of({"extract", "probe", "ask"}))
def test_what_else_runs_there_waits_for_its_answers_only(found, case):
    files = {"extract": [], "probe": ["probe.py"] * 2, "ask": ["ask.py", "evaluation.py"]}[case]
    waits = sorted(found[case]["waits"])
    assert found[case]["launches"] > 20
    assert len(waits) == len(files)
    assert all(any(name in wait for name in files) for wait in waits)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed(found, fault):
    """Negative controls, written into a step: a number asked for, an index or memory of the host, two devices."""
    case = found[f"fault: {fault}"]
    noticed = [case["error"]] if "error" in case else [list(step["waits"]) for step in case["steps"]]
    assert all(FAULTS[fault] in str(each) for each in noticed)
    assert ("error" in case) == (fault == "device")
