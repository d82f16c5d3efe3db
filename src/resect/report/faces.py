"""Every kind of run has a face: how its record looks on the terminal, and what is drawn of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from rich.console import Console

from resect.errors import ResectError, RunError
from resect.report.layout import print_table
from resect.report.parts import say
from resect.runs.lock import locked
from resect.runs.record import FILE, Record
from resect.words import duration

_DRAWN = {  # what there is then
    "study": "report.html",
    "reproduce": "report.html",
    "multiplicity": "report.html",
    "robustness": "figures",
    "lesion": "figures",
    "scores": "report.html",
    "prune": "report.html",
    "paths": "figures",
    "compare": "figures",
}
_KINDS = (*_DRAWN, "train", "evaluate")


class Face(Protocol):
    """The module of one verb."""

    def show(self, record: Record, console: Console) -> None:
        """Print the answers."""

    def draw(self, record: Record, folder: Path) -> Path:
        """Draw figures (and pages) into a run folder; returns what to look at. Only those of _DRAWN have it."""


def _face(record: Record) -> Face:
    if record.kind not in _KINDS:
        raise RunError(f"the kind of a run must be one of {', '.join(_KINDS)}, got {record.kind!r}.")
    return cast(Face, import_module(f"resect.report.{record.kind}"))


def terminal(record: Record, console: Console) -> None:
    """Print the answers of a run, how its inputs were made and normalised, and what the capture took."""
    _face(record).show(record, console)
    if chosen := record.found.get("normalization"):
        say(console, f"Pixels, scaled to [0, 1], were normalised by mean/std {chosen['mean_std']}, {chosen['origin']}.")
    if prepared := record.found.get("prepared"):
        say(console, f"Files became inputs: {prepared}.")
    if took := record.environment.get("capture_seconds"):
        say(console, f"Captured in {duration(took)}.")


def draw(record: Record, folder: Path, *, again: bool = True) -> Path | None:
    """Draw a run into its folder, or leave what is drawn unless `again`; returns what to look at, if there is any."""
    face = _face(record)
    if record.kind not in _DRAWN:
        return None
    place = folder / _DRAWN[record.kind]
    if place.exists() and not again:
        return place
    with locked(folder, wait=True):
        return face.draw(record, folder)


def listing(folder: Path, console: Console) -> None:
    """One line a run in `folder` and below it.

    Raises:
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"`DIR` must be a folder, but {folder} is none.")
    names = ("run", "kind", "model", "data")
    rows, broken = [], []
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
        rows.append((str(file.parent.relative_to(folder)), record.kind, *what, took))
    if rows:
        print_table(console, (*names, "took"), rows, names=names)
    say(console, *broken)
    if not files:
        say(console, f"There is no finished run in {folder}.")
