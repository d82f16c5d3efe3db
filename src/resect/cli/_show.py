"""What verbs have in common: they do a job, draw its run, and show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resect.cli._console import console
from resect.cli._progress import progress_bars
from resect.jobs.job import Job
from resect.report.faces import draw, terminal
from resect.runs.record import Record, finished


def do(job: Job, out: Path | None, *, output: str, quiet: bool, **_: Any) -> None:
    """Do a job, draw its run into its folder, show it, and say where it lies; what was done before is only shown."""
    before = out is not None and finished(out)
    with progress_bars(quiet) as track:
        record = job.run(out, track)
    place = draw(record, out, again=False) if out else None
    show(record, output)
    if out and not quiet:
        done = "Done before, nothing was done again" if before else f"{record.environment['seconds']:.0f} s"
        console(stderr=True).print(f"{done}. See {place or out}", soft_wrap=True)


def show(record: Record, output: str) -> None:
    """Print a record as JSON, or as its tables and sentences."""
    if output == "json":
        click.echo(record.json(), nl=False)
    else:
        terminal(record, console())
