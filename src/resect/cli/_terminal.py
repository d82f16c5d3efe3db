"""The terminal: what verbs have in common. They do a job with progress bars, draw its run, and show it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resect.cli._process import stop_if_interrupted, when_interrupted
from resect.words import duration, plural, shortened

if TYPE_CHECKING:  # help does without, and reading a run without torch
    from rich.console import Console

    from resect.jobs.job import Advance, Job, Track
    from resect.runs.record import Record

_TITLE = 30  # characters of what a bar is about


def console(*, stderr: bool = False) -> Console:
    """A console that shows names as they are: `x[b].safetensors` is no markup, and `py:m:net` no emoji."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Track]:
    """Give a function `track(what, total)` that opens a bar and returns the function that advances it."""
    if quiet:
        yield lambda what, total: lambda amount: stop_if_interrupted()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    columns = (
        TextColumn(f"{{task.description:<{_TITLE}}}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(None, table_column=Column(ratio=1, max_width=40)),  # which takes what numbers leave
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("left", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console(stderr=True), expand=True) as progress:

        def track(what: str, total: float) -> Advance:
            task, done = progress.add_task(shortened([what], _TITLE)[0], total=total), 0.0

            def advance(amount: float) -> None:
                nonlocal done
                stop_if_interrupted()
                done += amount
                # Floats that sum to just less than a whole number would be shown as the one below.
                progress.update(task, completed=total if isclose(done, total) else done)

            return advance

        try:
            yield track
        except Exception:  # an error is all that is left to see
            for bar in progress.task_ids:
                progress.update(bar, visible=False)
            raise


def do(job: Job, out: Path | None, *, output: str, quiet: bool) -> None:
    """Do a job, draw its run into its folder, show it, and say where it lies; what was done before is only shown."""
    from resect.report.faces import draw

    before = _written(out)
    when_interrupted(lambda: kept(out))
    with progress_bars(quiet) as track:
        record = job.run(out, track)
    done = _written(out) != before
    place = draw(record, out, again=done) if out else None
    show(record, output)
    if out and not quiet:
        if done:
            wrote(place or out, duration(record.environment["seconds"]))
        else:
            wrote(place or out, "before, nothing was done again")


def _written(out: Path | None) -> int | None:
    """When the record of a run folder was written; None if there is none."""
    from resect.runs.record import FILE, finished

    return (out / FILE).stat().st_mtime_ns if out and finished(out) else None


def wrote(place: Path, how: str = "") -> None:
    """Say where the results lie: the last line of every verb that writes some."""
    console(stderr=True).print(f"Wrote {place}{f' ({how})' if how else ''}.", soft_wrap=True, highlight=False)


def kept(out: Path | None) -> str:
    """What is left of a run that is interrupted."""
    if out is None:
        return "Nothing is kept; in a run folder, --out RUN, the same command would go on where it stopped."
    pieces = [*out.rglob("parts/*.npz"), *out.rglob("networks/*.safetensors")]  # of its own, and of runs inside it
    trainings = [*out.rglob("networks/*.checkpoint"), *out.rglob("networks/*.diverged.json")]
    if not pieces and not trainings:
        return "No piece of work was finished, so nothing is kept: the same command starts anew."
    kept = plural(len(pieces) + len(trainings), "finished piece")
    return f"{out} keeps {kept} of work: the same command goes on from there; only the piece at hand is lost."


def show(record: Record, output: str) -> None:
    """Print a record as JSON, or as its tables and sentences; then, on standard error, what it warns of."""
    if output == "json":
        click.echo(record.json(), nl=False)
    else:
        from resect.report.faces import terminal

        terminal(record, console())
    for warning in record.warnings:
        console(stderr=True).print(f"warning: {warning}", style="yellow", soft_wrap=True, highlight=False)
