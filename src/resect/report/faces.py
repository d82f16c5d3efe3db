"""Every kind of run has a face: how its record looks on the terminal, and what is drawn of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from rich import box
from rich.console import Console
from rich.table import Table

from resect.errors import ResectError, RunError
from resect.runs.record import FILE, Record
from resect.words import duration

_KINDS = ("study", "lesion", "paths", "compare", "train", "evaluate")


class Face(Protocol):
    """The module of one verb."""

    def show(self, record: Record, console: Console) -> None:
        """Print the answers."""

    def draw(self, record: Record, folder: Path) -> Path | None:
        """Draw figures (and pages) into a run folder; returns what to look at, None if there is nothing."""


def _face(record: Record) -> Face:
    if record.kind not in _KINDS:
        raise RunError(f"the kind of a run must be one of {', '.join(_KINDS)}, got {record.kind!r}.")
    return cast(Face, import_module(f"resect.report.{record.kind}"))


def terminal(record: Record, console: Console) -> None:
    """Print the answers of a run."""
    _face(record).show(record, console)


def draw(record: Record, folder: Path) -> Path:
    """Draw a run into its folder.

    Raises:
        RunError: there is nothing to draw of its kind.
    """
    place = _face(record).draw(record, folder)
    if place is None:
        raise RunError(f"there is nothing to draw of a run of `resect {record.kind}`; `resect show` prints it.")
    return place


def listing(folder: Path, console: Console) -> None:
    """One line a run in `folder` and below it.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"`DIR` must be a folder, but {folder} is none.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "kind", "model", "data", "took"):
        table.add_column(name, justify="right" if name == "took" else "left", overflow="fold")
    broken = []
    files = [file for file in sorted(folder.rglob(FILE)) if file.is_file()]
    for file in files:
        try:
            record = Record.read(file.parent)
        except ResectError as error:
            broken.append(str(error))
            continue
        asked, seconds = record.asked, record.environment.get("seconds")
        what = [str(asked.get(name, "")) for name in ("model", "data")]
        took = "" if seconds is None else duration(seconds)
        table.add_row(str(file.parent.relative_to(folder)), record.kind, *what, took)
    if table.row_count:
        console.print(table)
    for sentence in broken:
        console.print(sentence, soft_wrap=True)
    if not files:
        console.print(f"There is no finished run in {folder}.", soft_wrap=True)
