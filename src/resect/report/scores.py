"""Importance scores, side by side, on the terminal and in figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from resect.figures import carriers, pruning
from resect.report.layout import print_table
from resect.report.parts import Figures, save_figures, say
from resect.runs.record import Record
from resect.words import decimal, plural

_SHOWN = 60
_WIDTH = 13  # of a column


def show(record: Record, console: Console) -> None:
    """Print the scores, how far they agree, and what each is."""
    table, meaning = record.tables["scores"], record.found["meaning"]
    names = [name for name in meaning if name in table]
    for some in _beside(names, console):
        rows = [[str(row["block"]), str(row["name"]), *(_cell(row[name]) for name in some)] for row in _rows(table)]
        print_table(console, ["block", "name", *(name.replace("_", " ") for name in some)], rows, names=["name"])
    if len(table) > _SHOWN:
        say(console, f"{plural(len(table) - _SHOWN, 'more row')}; --format json or --out DIR gives all.")
    together = record.tables["correlations"].set_index("score")
    for some in _beside(names, console) if len(names) > 1 else ():
        cells = [[name.replace("_", " "), *(decimal(together[other][name]) for other in some)] for name in names]
        headings = ["rank correlation", *(name.replace("_", " ") for name in some)]
        print_table(console, headings, cells, names=headings[:1])
    say(console, *(f"{name.replace('_', ' ')}: {said}" for name, said in meaning.items()), "", record.found["summary"])


def _beside(names: Sequence[str], console: Console) -> list[Sequence[str]]:
    """The names, as many at a time as a table of this width has room for."""
    room = max((console.width - 2 * _WIDTH) // _WIDTH, 1)
    return [names[start : start + room] for start in range(0, len(names), room)]


def _rows(table: pd.DataFrame) -> list[dict[str, object]]:
    return table.head(_SHOWN).to_dict("records")  # type: ignore[return-value]  # columns have names


def _cell(value: object) -> str:
    return f"{value:.3g}".replace("-", "−") if isinstance(value, float) and np.isfinite(value) else "–"


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png."""
    table, names = record.tables["scores"], list(record.found["meaning"])
    figures: Figures = {"ranks": partial(carriers.ranks, table[names].rank())}
    if len(names) > 1:
        figures = {**figures, "correlations": partial(pruning.correlations, record.tables["correlations"])}
    if "windows" in record.tables:
        figures = {**figures, "windows": partial(pruning.windows, record.tables["windows"])}
    return save_figures(figures, folder)
