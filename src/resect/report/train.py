"""A training, read from its card, on the terminal."""

from __future__ import annotations

from rich.console import Console

from resect.report.layout import print_table
from resect.report.parts import say
from resect.runs.record import Record
from resect.words import count, decimal, duration, percent, plural


def show(record: Record, console: Console) -> None:
    """Print the test error, how it was trained, and the curve."""
    asked, trained = record.asked, record.found
    say(
        console,
        f"{asked['model']}, {count(trained['parameters'])} parameters, trained on {asked['data']}: test error "
        f"{percent(trained['test_error'], 2)} on {plural(trained['test_samples'], 'sample')} of {asked['test_data']}, "
        f"{duration(record.environment['seconds'])} of training.",
        f"Made by: {record.command}",
    )
    if curve := trained.get("curve"):
        rows = [
            (str(row["epoch"]), decimal(row["loss"], 3), percent(row["error"]), f"{row['seconds']:.0f}")
            for row in curve
        ]
        print_table(console, ("epoch", "loss", "error", "seconds"), rows)
