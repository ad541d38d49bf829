"""This machine: in process, or one worker process for each visible GPU where there are several."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing.queues import SimpleQueue

import torch

from cachegen.device import choose_device
from cachegen.errors import RunError
from cachegen.progress import progress_bar
from cachegen.workers import begin_worker
from engine.group import Opener
from engine.jobs import Executor, Job, in_this_process, longest_first


def local(workers: int | None = None) -> Executor:
    """Carry out jobs in this process, or in `workers` processes at once; None: as many as GPUs can be used."""

    def carry_out(jobs: Sequence[Job]) -> None:
        gpus = visible_gpus(jobs[0].device)
        count = min(len(jobs), workers or max(1, len(gpus)))
        if count == 1:
            in_this_process(jobs)
        else:
            _in_workers(longest_first(jobs), count, gpus)

    return carry_out


def visible_gpus(device: str) -> list[str]:
    """The GPUs that `device` may mean, as `CUDA_VISIBLE_DEVICES` names them."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def _in_workers(jobs: Sequence[Job], count: int, gpus: list[str]) -> None:
    """Let `count` processes take one job after the other; what stops one of them stops all."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    places: SimpleQueue[str | None] = context.SimpleQueue()
    for number in range(count):
        places.put(gpus[number % len(gpus)] if gpus else None)
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(count, context, _begin, (places,)) as pool:
        waiting = [pool.submit(_work, job) for job in jobs]
        try:
            with progress_bar(f"{count} workers", len(jobs), "jobs") as advance:
                for job in as_completed(waiting):
                    job.result()
                    advance(1)
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()  # a job goes on from its files
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise RunError(
                    "a worker process was killed, perhaps for want of memory; the same command goes on from its "
                    "checkpoint"
                ) from None
            raise


def _begin(places: "SimpleQueue[str | None]") -> None:
    """What a worker does first: also take a GPU of its own."""
    begin_worker()
    if (gpu := places.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


@cache
def _opener(device: str) -> Opener:
    """The one opener of a worker process, which keeps the LM from job to job."""
    return Opener(choose_device(device))


def _work(job: Job) -> None:
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    job.carry_out(_opener(job.device), 0.0)
