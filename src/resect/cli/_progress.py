"""Progress bars with the time left, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resect.cli._console import console

Advance = Callable[[float], None]
Track = Callable[[str, float], Advance]


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Track]:
    """Give a function `track(what, total)` that opens a bar and returns the function that advances it."""
    if quiet:
        yield lambda what, total: lambda amount: None
        return
    columns = (
        TextColumn("{task.description:<34}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as progress:

        def track(what: str, total: float) -> Advance:
            task = progress.add_task(what, total=total)
            return lambda amount: progress.advance(task, amount)

        yield track
