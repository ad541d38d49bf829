"""This machine: in process, or one worker process for each visible GPU where there are several."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from cachegen.common.device import choose_device, visible_gpus, workers_each
from cachegen.common.errors import RunError
from cachegen.common.progress import progress_bar, tell
from cachegen.common.system import begin_worker
from engine.sweeps.executors import DIED, Executor, Job, in_this_process, longest_first
from engine.training.group import DeviceLostError, Opener


def local(workers: int | None = None) -> Executor:
    """Carry out jobs in this process, or in `workers` processes at once; None: as many as GPUs can be used."""

    def carry_out(jobs: Sequence[Job]) -> None:
        gpus = visible_gpus(jobs[0].device)
        count = min(len(jobs), workers or max(1, len(gpus)))
        if count > 1:
            _in_workers(longest_first(jobs), count, gpus)
            return
        try:
            in_this_process(jobs)
        except DeviceLostError as error:  # it answers another process, which goes on with what is left
            tell(str(error))
            _in_workers(jobs, 1, gpus)

    return carry_out


def _in_workers(jobs: Sequence[Job], count: int, gpus: list[str]) -> None:
    """Let `count` processes take one job after the other; what concerns all jobs stops all.

    Where one dies, as by the kernel for want of memory, the jobs that were under way are tried again, each alone, and
    given up if their process dies again; the others go on in fresh processes.
    """
    waiting = list(jobs)
    with progress_bar(f"{count} workers", len(jobs), "jobs") as advance:
        while waiting:
            waiting, suspects = _in_pool(waiting, min(count, len(waiting)), gpus, advance)
            for job in suspects:
                if _in_pool([job], 1, gpus, advance)[1]:
                    job.give_up(DIED)
                    advance(1)


def _in_pool(
    jobs: Sequence[Job], count: int, gpus: list[str], advance: Callable[[int], None]
) -> tuple[list[Job], list[Job]]:
    """Carry out jobs in `count` processes; those left when one of these died: not begun, and under way."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    places: SimpleQueue[tuple[int, str | None, int]] = context.SimpleQueue()
    together = workers_each(jobs[0].device, count)
    for number in range(count):
        places.put((number, gpus[number % len(gpus)] if gpus else None, together))
    doing = context.RawArray("q", [-1] * count)  # without a lock: who dies would keep it
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(count, context, _begin, (places, doing)) as pool:
        futures = {pool.submit(_work, number, job): job for number, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                future.result()
                advance(1)
        except BrokenProcessPool:
            left = [job for future, job in futures.items() if not future.done() or future.exception() is not None]
            under_way = [jobs[number] for number in doing if number >= 0]
            suspects = [job for job in left if job in under_way]
            if not suspects:  # no job's fault
                raise RunError("a worker process ended before it did anything; give the same command again") from None
            return [job for job in left if job not in suspects], suspects
        except BaseException:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()  # a job goes on from its files
            pool.shutdown(cancel_futures=True)
            raise
    return [], []


_place: tuple[int, Any, int] = (0, [-1], 1)
"""Of a worker process: its number, where it says which job it is doing, and how many share its GPU."""


def _begin(places: "SimpleQueue[tuple[int, str | None, int]]", doing: Any) -> None:
    """What a worker does first: also take a GPU of its own, or a share of one."""
    global _place
    begin_worker()
    number, gpu, together = places.get()
    _place = number, doing, together
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


@cache
def _opener(device: str) -> Opener:
    """The one opener of a worker process, which keeps the LM from job to job."""
    place = choose_device(device)
    if _place[2] > 1:
        torch.cuda.set_per_process_memory_fraction(1 / _place[2], place)
    return Opener(place)


def _work(number: int, job: Job) -> None:
    worker, doing, _ = _place
    doing[worker] = number
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(True)
    try:
        job.carry_out(_opener(job.device), 0.0)
    except DeviceLostError:
        os._exit(1)  # a fresh process goes on
    doing[worker] = -1
