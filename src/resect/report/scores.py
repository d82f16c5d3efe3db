"""Importance scores, side by side, with their intervals: on the terminal, and as a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from resect.figures import carriers, pruning
from resect.files import write_text
from resect.report.layout import print_table
from resect.report.parts import Figures, save_figures, say
from resect.report.study.page import templates
from resect.runs.record import Record
from resect.words import decimal, plural

_SHOWN = 60
_GAP = 2  # between columns
_WIDTH = 9  # of a column of correlations, whose heading wraps
_NAMED = 16  # of a column of names, the longest of which are cut
_TITLES = {
    "ranks": "Blocks ranked by every score",
    "correlations": "How far the scores agree",
    "windows": "How far windows of blocks turn the state",
}
_ABOUT = {
    "ranks": "One row a score; 1 is the block that matters least.",
    "correlations": "Spearman's rank correlation over blocks of every two scores.",
    "windows": "The angle between the state before and after so many consecutive blocks; grey where its shape changes.",
}


def show(record: Record, console: Console) -> None:
    """Print the scores with their intervals, how far they agree, and what each is."""
    names = _names(record)
    heads, rows = _headings(names), _rows(record, names)
    cells = list(zip(heads, *rows[:_SHOWN], strict=True))  # by column
    widths = [max(map(len, column)) for column in cells]
    for some in _beside(widths[2:], console.width - widths[0] - _GAP - min(widths[1], _NAMED)):
        columns = [0, 1, *(2 + i for i in some)]
        shown = [[row[i] for i in columns] for row in rows[:_SHOWN]]
        print_table(console, [heads[i] for i in columns], shown, names=["name"])
    if len(rows) > _SHOWN:
        say(console, f"{plural(len(rows) - _SHOWN, 'more row')}; --format json or --out DIR gives all.")
    together = record.tables["correlations"].set_index("score")
    for some in _beside([_WIDTH] * len(names), console.width - _NAMED) if len(names) > 1 else ():
        others = [names[i] for i in some]
        lines = [[_called(name), *(decimal(together[other][name]) for other in others)] for name in names]
        titles = ["rank correlation", *map(_called, others)]
        print_table(console, titles, lines, names=titles[:1])
    say(console, *(f"{_called(name)}: {said}" for name, said in record.found["meaning"].items()))
    say(console, "In brackets: 95 % intervals over samples.", "", record.found["summary"])


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png and report.html."""
    figures = _figures(record)
    place = save_figures(figures, folder)
    names = _names(record)
    values = {
        "record": record,
        "figures": [_shown(place / f"{name}.png", record) for name in figures],
        "headings": _headings(names),
        "rows": _rows(record, names),
    }
    page = folder / "report.html"
    write_text(page, templates().get_template("scores.html").render(**values, plural=plural))
    return page


def _names(record: Record) -> list[str]:
    return [name for name in record.found["meaning"] if name in record.tables["scores"]]


def _called(name: str) -> str:
    return name.replace("_", " ")


def _headings(names: Sequence[str]) -> list[str]:
    return ["block", "name", *map(_called, names)]


def _rows(record: Record, names: Sequence[str]) -> list[list[str]]:
    """One row a block: its number, its name, and every score with its interval."""
    return [
        [
            str(row["block"]),
            str(row["name"]),
            *(_cell(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))) for name in names),
        ]
        for row in record.tables["scores"].to_dict("records")
    ]


def _cell(value: float, low: float, high: float) -> str:
    """A score, with its interval where it has one."""
    known = np.isfinite([low, high]).all() and low < high
    return _number(value) + (f" [{_number(low, 2)}, {_number(high, 2)}]" if known else "")


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}".replace("-", "−") if np.isfinite(value) else "–"


def _beside(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns, as many at a time as there is room for."""
    tables: list[list[int]] = [[]]
    free = room
    for i, width in enumerate(widths):
        if tables[-1] and width + _GAP > free:
            tables.append([])
            free = room
        tables[-1].append(i)
        free -= width + _GAP
    return tables


def _figures(record: Record) -> Figures:
    table, names = record.tables["scores"], _names(record)
    figures: Figures = {"ranks": partial(carriers.ranks, table[names].rank())}
    if len(names) > 1:
        figures = {**figures, "correlations": partial(pruning.correlations, record.tables["correlations"])}
    for name in names:
        figures = {**figures, name: partial(carriers.blocks, table, column=name, label=_called(name), total=None)}
    if "windows" in record.tables:
        figures = {**figures, "windows": partial(pruning.windows, record.tables["windows"])}
    return figures


def _shown(file: Path, record: Record) -> dict[str, str]:
    """What a page shows of a figure."""
    name = file.stem
    return {
        "name": name,
        "title": _TITLES.get(name, _called(name)[:1].upper() + _called(name)[1:]),
        "source": "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode(),
        "what": "",
        "meaning": _ABOUT.get(name) or str(record.found["meaning"][name]),
    }
