"""The Ray executor on real clusters of this machine: the same bytes as in process, also when a node dies.

Marked slow: each process of Ray imports PyTorch anew. Without a `finally` a cluster would outlive its test.
"""

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
from real_slurm import free_ports
from run_folders import begun, bytes_in, wait_for
from small_study import make_small_study
from test_executors import EVERY_STEP, PAIRS, planned

from cachegen.common.errors import ConditionError
from engine.runs.directory import RunDirectory
from engine.sweeps.executors import choose_executor
from engine.sweeps.executors.ray_cluster import ENVIRONMENT
from engine.sweeps.sweep import run_sweep

pytest.importorskip("ray", reason="the extra crosstax[ray] is not installed")
MEMORY = 100_000_000  # bytes of a node's object store, which jobs hardly use
SECONDS = 400  # an idle machine needs a tenth of it


@pytest.fixture
def disconnected():
    """Whatever happens, no connection to Ray and nothing started by it is left."""
    import ray

    try:
        yield
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_ray_started_for_the_command(small_study, disconnected, tmp_path):
    """The same bytes as in this process, from processes of their own; what stops one is one error here."""
    import ray

    runs = small_study.sweep(run_seed=[1, 2])
    run_sweep(runs, tmp_path / "local", PAIRS)
    run_sweep(runs, tmp_path / "ray", PAIRS, executor=choose_executor("ray", ray_address="local"))
    assert bytes_in(tmp_path / "ray") == bytes_in(tmp_path / "local") != {}
    workers = {event["by"].split()[-1] for event in begun(tmp_path / "ray")}
    assert len(workers) == 2
    assert str(os.getpid()) not in workers
    assert not ray.is_initialized()


@pytest.mark.slow
def test_inputs_that_are_gone_fail_their_runs(disconnected, tmp_path):
    study = make_small_study(tmp_path / "study")
    (task,) = planned(study.sweep(run_seed=[1]), tmp_path / "runs")
    study.features.unlink()
    choose_executor("ray", ray_address="local")([task])
    assert "no feature store there" in RunDirectory(tmp_path / "runs" / task.name).reason


def test_no_cluster_at_an_address(small_study, disconnected, tmp_path):
    """Said at once, where Ray itself would go on trying for minutes."""
    (port,) = free_ports(1)
    executor = choose_executor("ray", ray_address=f"127.0.0.1:{port}")
    with pytest.raises(ConditionError, match=rf"ray: no cluster at 127.0.0.1:{port} \(.*\); see --ray-address"):
        run_sweep(small_study.sweep(run_seed=[1]), tmp_path, PAIRS, executor=executor)


@pytest.mark.slow
def test_ctrl_c_stops_the_jobs(small_study, disconnected, tmp_path):
    """At once, and the same sweep goes on from their checkpoints, here without Ray."""
    runs = small_study.sweep(run_seed=[1], epochs=500)

    def interrupt():
        wait_for(lambda: list(tmp_path.glob("*.checkpoint.safetensors")), SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(runs, tmp_path, EVERY_STEP, executor=choose_executor("ray", ray_address="local"))
    (worker,) = [int(event["by"].split()[-1]) for event in begun(tmp_path)]
    wait_for(lambda: not Path(f"/proc/{worker}").exists())
    (left,) = planned(runs, tmp_path)
    assert not any(RunDirectory(tmp_path / run).over for run in left.group.runs)
    run_sweep(runs, tmp_path, PAIRS)
    first, second = [event["from_step"] for event in begun(tmp_path)]
    assert first == 0 < second


def patiently(start):
    """Ray gives a process half a minute to start, which may be too little on a busy machine."""
    for _ in range(2):
        with contextlib.suppress(Exception):
            return start()
    return start()


@pytest.fixture
def cluster(disconnected, monkeypatch):
    """A head without CPUs and two nodes with one each."""
    import ray
    from ray.cluster_utils import Cluster

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    size = {"object_store_memory": MEMORY, "include_dashboard": False}
    nodes = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size}))
    try:
        for _ in range(2):
            patiently(lambda: nodes.add_node(num_cpus=1, object_store_memory=MEMORY))
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def node_of(cluster, pid):
    """The node whose raylet started a process."""
    (node,) = [
        node
        for node in cluster.worker_nodes
        for raylet in node.all_processes["raylet"]
        if raylet.process.pid == parent_of(pid)
    ]
    return node


@pytest.mark.slow
def test_a_node_dies_in_the_middle_of_a_group(small_study, cluster, tmp_path):
    """Killed after the group's first checkpoint; another node goes on from there."""
    runs = small_study.sweep(run_seed=[1, 2], epochs=20)
    run_sweep(runs, tmp_path / "local", PAIRS)
    out, raised, hit = tmp_path / "ray", [], []

    def kill_one():
        try:
            wait_for(lambda: list(out.glob("*.checkpoint.safetensors")), SECONDS)
            (found, *_) = out.glob("*.checkpoint.safetensors")
            group = found.name.removesuffix(".checkpoint.safetensors")
            worker = next(int(event["by"].split()[-1]) for event in begun(out) if event["group"] == group)
            cluster.remove_node(node_of(cluster, worker), allow_graceful=False)
            hit.append(group)
        except BaseException as error:
            raised.append(error)

    killer = threading.Thread(target=kill_one)
    killer.start()
    run_sweep(runs, out, EVERY_STEP, executor=choose_executor("ray", ray_address=cluster.address))
    killer.join()
    assert raised == []
    assert bytes_in(out) == bytes_in(tmp_path / "local") != {}
    starts = [event["from_step"] for event in begun(out) if event["group"] == hit[0]]
    assert starts[0] == 0 < starts[1]
    first, second = (path.read_bytes() for path in out.glob("*/projector.safetensors"))
    assert first != second
