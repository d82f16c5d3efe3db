"""What a verb shows of its record, and writes beside it."""

from __future__ import annotations

from pathlib import Path

import click

from resect.cli._console import console
from resect.report.faces import draw, terminal
from resect.runs.record import Record, finished


def show(record: Record, output: str) -> None:
    """Print a record as JSON, or as its tables and sentences."""
    if output == "json":
        click.echo(record.json(), nl=False)
    else:
        terminal(record, console())


def was_finished(out: Path | None) -> bool:
    """Whether a run folder holds a finished run with its pictures, so that nothing is left to do."""
    return out is not None and finished(out) and (out / "figures").is_dir()


def close(record: Record, out: Path | None, output: str, *, before: bool, quiet: bool) -> None:
    """Draw a run into its folder, unless that was done before; show it, and say where it lies."""
    if out and not before:
        draw(record, out)
    show(record, output)
    if out and not quiet:
        console(stderr=True).print(f"Tables and figures: {out}", soft_wrap=True)
