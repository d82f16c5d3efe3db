"""Several trainings side by side, each in a process of its own, shown on one terminal."""

from __future__ import annotations

import multiprocessing
import os
import queue
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resect.errors import InputError, ResectError, RunError
from resect.training.recipe import Recipe

if TYPE_CHECKING:  # which load torch
    from resect.jobs.train import TrainJob
    from resect.training.loop import Watch

_PATIENCE = 10.0  # seconds for a training to stop
_FOLDERS = ("history", "logs")


def also_jobs(recipe: str, first: TrainJob, options: Mapping[str, Any], also: Sequence[str]) -> list[TrainJob]:
    """The first training, and for each text of `also` ("schedule=fixed-count,keep=23") the same with other settings.

    Each is written beside the first, with its settings in its name, and has a folder of its own in those of all.

    Raises:
        InputError: a setting is unknown, two trainings write to the same file, or a launcher started several processes.
    """
    from resect.jobs.source import slug
    from resect.jobs.train import TrainJob

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("`--also` must be left out where a launcher starts several processes for one training.")
    jobs = []
    for text in ("", *also):
        given = dict(part.partition("=")[::2] for part in re.split(r",(?=[\w-]+=)", text)) if text else {}
        changed = dict(_setting(*each, text) for each in given.items())
        out = first.out.with_stem("-".join([first.out.stem, *map(slug, given.values())]))
        folders = {name: Path(options[name]) / out.stem for name in _FOLDERS if options.get(name)}
        jobs.append(TrainJob.from_options(recipe, out, {**options, **folders, **changed}))
    if len({job.out for job in jobs}) < len(jobs):
        raise InputError(f"`--also` must name another network each time, got {' and '.join(also)}.")
    return jobs


def _setting(name: str, value: str, text: str) -> tuple[str, Any]:
    """A setting of the command, read as its option would be."""
    context = click.get_current_context()
    name = name.strip().replace("-", "_")
    option = next((option for option in context.command.params if option.name == name), None)
    if name not in (*Recipe.names(), "model") or option is None or not value:
        raise InputError(f"`--also` must be settings of a recipe, as in schedule=fixed-count,keep=23, got {text!r}.")
    return name, option.type_cast_value(context, value)


def train_together(jobs: Sequence[TrainJob], watches: Sequence[Watch], shares: int) -> None:
    """Train side by side, each told to its watch.

    Args:
        shares: in how many the threads are divided: as many as there were at first, for the same bits when they go on.

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
    try:
        _listen(processes, watches, told, failed)
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


def _listen(processes: Sequence[SpawnProcess], watches: Sequence[Watch], told: Any, failed: dict[int, str]) -> None:
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
            failed[i] = values[0]
        else:
            getattr(watches[i], what)(*values)


def _train(job: TrainJob, number: int, threads: int, told: Any) -> None:
    import torch

    from resect.allocator import keep_freed_memory
    from resect.training.loop import Watch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and lets it leave no half of a file
    keep_freed_memory()
    torch.set_num_threads(threads)
    watch = Watch(
        begin=lambda *values: told.put((number, "begin", values)),
        step=lambda *values: told.put((number, "step", values)),
    )
    try:
        job.train(watch)
    except ResectError as error:
        told.put((number, "failed", (str(error),)))
