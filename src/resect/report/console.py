"""The answers as a table for the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from resect.report.words import QUESTIONS, measures
from resect.studies.results import Study

_WIDTHS = (44, 32, 20)


def answers_table(study: Study) -> Group:
    """The paper's four questions, answered in numbers for the network at hand; one table a question, 100 columns."""
    subject = study.subject
    title = f"{subject.model} on {subject.data}: {subject.blocks} {subject.unit}s, {subject.samples} samples"
    parts: list[Text | Table] = [Text(title, style="bold")]
    for question, rows in groupby(measures(study), key=lambda row: row[0]):
        table = Table(
            title=f"{question}. {QUESTIONS[question - 1]}", title_justify="left", title_style="bold", box=SIMPLE_HEAD
        )
        headings = ("measure", "this network", "ResNet-110, paper")
        for heading, width, style in zip(headings, _WIDTHS, ("", "bold", "dim"), strict=True):
            table.add_column(heading, style=style, max_width=width, min_width=width // 2, overflow="fold")
        for _, measure, value, paper in rows:
            table.add_row(measure, value, paper)
        parts.append(table)
    return Group(*parts)
