"""`resect report`, `resect show` and `resect ls`: runs that are over, read back from their folders."""

from __future__ import annotations

from pathlib import Path

import click

from resect.cli._options import format_option
from resect.cli._terminal import console, wrote
from resect.cli._terminal import show as show_record
from resect.errors import RunError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Draw the figures, and of a study the page, of the finished RUN again from its folder."""
    from resect.report.faces import draw
    from resect.runs.record import Record

    record = Record.read(run)
    place = draw(record, run)
    if place is None:
        raise RunError(f"there is nothing to draw of a run of `resect {record.kind}`; `resect show` prints it.")
    wrote(place)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@format_option
def show(run: Path, output: str) -> None:
    """Print the answers of the finished RUN, a folder or a model card."""
    from resect.runs.record import Record

    show_record(Record.read(run), output)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"), metavar="[DIR]")
def ls(folder: Path) -> None:
    """List the runs in DIR (runs/ by default) and in the folders in it."""
    from resect.report.faces import listing

    listing(folder, console())
