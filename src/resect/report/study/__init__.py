"""A study: the four questions on the terminal, figures, and the page."""

from pathlib import Path

from rich.console import Console

from resect.jobs.findings import Study
from resect.report.parts import say
from resect.report.study.page import write_report
from resect.report.study.table import answers_table
from resect.runs.record import Record


def show(record: Record, console: Console) -> None:
    """Print the answers to the paper's four questions, and what could go, with the command that removes it."""
    study = Study.of(record)
    console.print(answers_table(study))
    if study.spared:
        said, command = study.spared
        say(console, "", said, *([f"To remove them: {command}"] if command else []))


def draw(record: Record, folder: Path) -> Path:
    """Write figures/* and report.html; returns the page."""
    return write_report(Study.of(record), folder)
