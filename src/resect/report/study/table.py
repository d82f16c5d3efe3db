"""The answers as a table for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from resect.jobs.findings import Study
from resect.report.layout import table_of
from resect.report.study.answers import COMPARED, AnsweredQuestion, answers, comparison
from resect.words import plural

_WIDTH = 100


def answers_table(study: Study) -> Group:
    """The paper's four questions, answered in numbers for the network at hand; at most 100 columns, and good at 80."""
    subject = study.subject
    size = f"{plural(subject.blocks, subject.unit)}, {plural(subject.samples, 'sample')}"
    parts: list[Text | Table] = [Text(f"{subject.model} on {subject.data}: {size}", style="bold")]
    for answer in answers(study):
        parts += [Text(), Text(f"{answer.number}. {answer.question}", style="bold"), _limited(Text(answer.verdict))]
        if answer.measures:
            parts.append(_table(answer))
    if rows := comparison(study):
        parts.append(_comparison(rows))
    return Group(*parts)


def _limited(text: Text) -> Table:
    """A text that wraps at 100 columns, however wide the terminal is."""
    grid = Table.grid()
    grid.add_column(max_width=_WIDTH)
    grid.add_row(text)
    return grid


def _table(answer: AnsweredQuestion) -> Table:
    """Measures and values; where columns are few, the names of the measures give way first."""
    table = table_of()
    table.add_column("measure", max_width=46, overflow="fold")
    longest = max(len(measure.here) for measure in answer.measures)
    table.add_column("this network", style="bold", no_wrap=longest <= 34, max_width=34, overflow="fold")
    table.add_column("in the paper", style="dim", no_wrap=True)
    for measure in answer.measures:
        table.add_row(measure.what, Text(measure.here), measure.paper)
    return table


def _comparison(rows: list[tuple[str, ...]]) -> Table:
    table = table_of()
    longest = max(len(row[0]) for row in rows)
    table.add_column(COMPARED[0], no_wrap=longest <= 24, max_width=36, overflow="fold")
    for heading in COMPARED[1:]:
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
