"""A training, read from its card, on the terminal."""

from __future__ import annotations

from rich.console import Console

from resect.measuring.meaning import Meaning
from resect.report.layout import print_table
from resect.report.parts import say
from resect.runs.record import Record
from resect.words import count, decimal, duration, percent, plural


def show(record: Record, console: Console) -> None:
    """Print the test error, how it was trained, and the curve."""
    asked, trained, meaning = record.asked, record.found, Meaning.of(record.found)
    samples = plural(trained["test_samples"], "sample")
    tested = f"{samples} of {asked['test_data']}{' that were held out of training' if asked.get('held_out') else ''}"
    say(
        console,
        f"{asked['model']}, {count(trained['parameters'])} parameters, trained on {asked['data']}: test "
        f"{meaning.error} {meaning.value(trained['test_error'])} on {tested}, "
        f"{duration(record.environment['seconds'])} of training.",
        f"Made by: {record.command}",
    )
    if curve := trained.get("curve"):
        rows = [
            (str(row["epoch"]), decimal(row["loss"], 3), _error(meaning, row["error"]), f"{row['seconds']:.0f}")
            for row in curve
        ]
        print_table(console, ("epoch", "loss", meaning.error, "seconds"), rows)


def _error(meaning: Meaning, error: float) -> str:
    return percent(error) if meaning.rate else meaning.value(error)
