"""A training, read from its card, on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from resect.runs.record import Record
from resect.words import count, decimal, duration, percent, plural


def show(record: Record, console: Console) -> None:
    """Print the test error, how it was trained, and the curve."""
    asked, found = record.asked, record.found
    console.print(
        f"{asked['model']}, {count(found['parameters'])} parameters, trained on {asked['data']}: test error "
        f"{percent(found['test_error'], 2)} on {plural(found['test_samples'], 'sample')} of {asked['test_data']}, "
        f"{duration(record.environment['seconds'])} of training.",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"Made by: {record.command}", soft_wrap=True, highlight=False)
    if not found.get("curve"):
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("epoch", "loss", "error", "seconds"):
        table.add_column(name, justify="right")
    for row in found["curve"]:
        table.add_row(str(row["epoch"]), decimal(row["loss"], 3), percent(row["error"]), f"{row['seconds']:.0f}")
    console.print(table)


def draw(record: Record, folder: Path) -> None:
    """There is nothing to draw."""
