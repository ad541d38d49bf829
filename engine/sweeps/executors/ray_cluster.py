"""A Ray cluster: one task of it for each job, in a process of its own.

A task whose node dies is started again on another one, and goes on from the job's files, such as the group's
checkpoint; one whose process dies twice is given up. All nodes have to see the same files, with the same Python
environment, as on a Slurm cluster.
"""

import contextlib
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cachegen.common.errors import ConditionError, CrosstaxError
from cachegen.common.progress import progress_bar, tell
from cachegen.common.system import cores
from engine.sweeps.executors import DIED, Executor, Job, longest_first, missing_package, run_elsewhere, wants_gpu

RETRIES = 100  # of a job whose node dies; each time it has got further
CRASHES = 1  # of a job whose process dies, for which the job may be to blame
PLASMA = 100_000_000  # bytes of the object store of a Ray started here: jobs pass files, not objects
GRACE = 30.0  # seconds that jobs have to stop by themselves
PASSED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # and no tokens
STARTS = 3  # Ray gives a node half a minute to start, which a busy machine may need more than once
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else each worker warns about it
    "RAY_gcs_server_port_wait_time_s": "300",  # like the next, for busy machines; seconds
    "RAY_worker_register_timeout_seconds": "600",
}


def ray_cluster(address: str | None = None) -> Executor:
    """Carry out jobs on the Ray cluster at `address`.

    None: on that of `RAY_ADDRESS`, or one that runs on this machine, or else on one started here for the time being,
    as "local" always does. Raises `ConditionError` without Ray, and where no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise missing_package("ray", "ray") from None

    def carry_out(jobs: Sequence[Job]) -> None:
        with _connected(ray, address, max(job.threads for job in jobs)):
            submitted: dict[Any, Job] = {}
            submit = _submitter(ray, jobs)
            try:
                submitted |= {submit(job): job for job in longest_first(jobs)}
                _follow(ray, submitted, submit)
            except BaseException:
                _cancel(ray, list(submitted))
                raise

    return carry_out


@contextlib.contextmanager
def _connected(ray: Any, address: str | None, cpus: int) -> Iterator[None]:
    """Be connected to a cluster, which is started here where there is none; one that is connected already is used."""
    if ray.is_initialized():
        yield
        return
    os.environ.update(ENVIRONMENT)
    paths = [str(Path(__file__).resolve().parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables["PYTHONPATH"] = os.pathsep.join(paths)
    always = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": {"env_vars": variables}}
    named = address or os.environ.get("RAY_ADDRESS")
    try:
        if named == "local":
            _start(ray, max(cpus, cores()), always)
        elif named:
            _knock(named)
            ray.init(named, **always)
        else:
            try:
                ray.init("auto", **always)
            except ConnectionError:  # none runs here
                _start(ray, max(cpus, cores()), always)
    except Exception as error:  # Ray's are of a dozen types, and plain ones among them
        reason = " ".join(str(error).split())
        raise ConditionError(f"ray: no cluster at {named or 'this machine'} ({reason}); see --ray-address") from None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Ray says that a node has died
            yield
    finally:
        ray.shutdown()


def _start(ray: Any, cpus: int, always: dict[str, Any]) -> None:
    """Start a cluster of this machine alone."""
    for left in reversed(range(STARTS)):
        try:
            ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=PLASMA, **always)
            return
        except Exception:
            if not left:
                raise
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise `OSError` at once if no process listens at HOST:PORT; Ray would try for minutes. Other forms are Ray's."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _submitter(ray: Any, jobs: Sequence[Job]) -> Callable[[Job], Any]:
    """A function that gives Ray a job and returns its future.

    A GPU is asked for where one is wanted, with --device auto only if the cluster has any.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = any(node.get("GPU", 0) for node in nodes)

    def needs(job: Job) -> tuple[int, int]:
        return job.threads, int(wants_gpu(job) and (gpus or job.device != "auto"))

    for cpu, gpu in dict.fromkeys(map(needs, jobs)):
        if not any(node.get("CPU", 0) >= cpu and node.get("GPU", 0) >= gpu for node in nodes):
            asked = f"{cpu} CPUs" + (" and a GPU" if gpu else "")
            tell(f"waiting for a node with {asked}; the cluster has none now (--threads, --device)")
    carry_out = ray.remote(max_retries=0, max_calls=1)(run_elsewhere)

    def submit(job: Job) -> Any:
        cpu, gpu = needs(job)
        return carry_out.options(num_cpus=cpu, num_gpus=gpu, name=job.name).remote(job)

    return submit


def _follow(ray: Any, submitted: dict[Any, Job], submit: Callable[[Job], Any]) -> None:
    """Return when all are over; those whose node or process dies are submitted again. Raises what stops the first."""
    died: Counter[str] = Counter()
    with progress_bar("Ray", len(submitted), "jobs") as advance:
        while submitted:
            (over,), _ = ray.wait(list(submitted), num_returns=1)
            job = submitted.pop(over)
            try:
                ray.get(over)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                while isinstance(cause, ray.exceptions.RayTaskError):
                    cause = cause.cause
                if isinstance(cause, CrosstaxError):
                    raise cause from None
                raise
            except ray.exceptions.RayError as error:
                died[job.name] += 1
                if died[job.name] <= (RETRIES if isinstance(error, ray.exceptions.NodeDiedError) else CRASHES):
                    submitted[submit(job)] = job
                    continue
                job.give_up(DIED)
            advance(1)


def _cancel(ray: Any, submitted: Sequence[Any]) -> None:
    """Stop what has not ended: each job by Ctrl-C, so that it may save its state, and by force if it does not."""
    with contextlib.suppress(ray.exceptions.RayError):
        for force, seconds in ((False, GRACE), (True, GRACE)):
            _, left = ray.wait(list(submitted), num_returns=len(submitted), timeout=0)
            for job in left:
                ray.cancel(job, force=force)
            ray.wait(list(submitted), num_returns=len(submitted), timeout=seconds if left else 0)
