"""Several trainings side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from resect.errors import DivergedError, ResectError, RunError

if TYPE_CHECKING:  # which load torch
    from resect.jobs.train import TrainJob
    from resect.training.loop import Watch

_PATIENCE = 10.0  # seconds for a training to stop


def train_here(job: TrainJob, watch: Watch, diverged: Callable[[TrainJob], None]) -> None:
    """Train in this process; `diverged` takes a training whose loss is no longer finite, which then is no failure."""
    try:
        job.train(watch)
    except DivergedError:
        diverged(job)


def train_together(
    jobs: Sequence[TrainJob],
    watches: Sequence[Watch],
    shares: int,
    diverged: Callable[[TrainJob], None] | None = None,
) -> None:
    """Train side by side, each told to its watch.

    Args:
        shares: in how many the threads are divided: as many as there were at first, for the same bits when they go on.
        diverged: takes those whose loss is no longer finite, which then are no failures.

    Raises:
        RunError: some failed; the others went on to their end.
    """
    import torch

    spawn = multiprocessing.get_context("spawn")
    told = spawn.Queue()
    threads = max(1, torch.get_num_threads() // shares)
    processes = [spawn.Process(target=_train, args=(job, i, threads, told)) for i, job in enumerate(jobs)]
    for process in processes:
        process.start()
    failed: dict[int, str] = {}

    def fails(i: int, said: str, lost: bool) -> None:
        if lost and diverged:
            diverged(jobs[i])
        else:
            failed[i] = said

    try:
        _listen(processes, watches, told, fails)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_PATIENCE)
            process.kill()
            process.join()
    for i, process in enumerate(processes):
        if process.exitcode:
            failed.setdefault(i, f"its process ended with status {process.exitcode}.")
    if failed:
        raise RunError(" ".join(f"{jobs[i].out} is not trained: {said}" for i, said in sorted(failed.items())))


def _listen(
    processes: Sequence[SpawnProcess], watches: Sequence[Watch], told: Any, fails: Callable[[int, str, bool], None]
) -> None:
    """Hand on what the trainings tell until all have ended."""
    over = False
    while True:
        try:
            i, what, values = told.get(timeout=0.2)
        except queue.Empty:
            if over:
                return
            over = not any(process.is_alive() for process in processes)  # and once more, for its last words
            continue
        if what == "failed":
            fails(i, *values)
        else:
            getattr(watches[i], what)(*values)


def _train(job: TrainJob, number: int, threads: int, told: Any) -> None:
    import torch

    from resect.allocator import keep_freed_memory
    from resect.training.loop import Watch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and lets it leave no half of a file
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(threads)
    watch = Watch(
        begin=lambda *values: told.put((number, "begin", values)),
        step=lambda *values: told.put((number, "step", values)),
    )
    try:
        job.train(watch)
    except ResectError as error:
        told.put((number, "failed", (str(error), isinstance(error, DivergedError))))


def _end_with_parent() -> None:
    """End when the process that started this one is killed, before it could end it; trainings would go on unseen."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "another process started this one"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
