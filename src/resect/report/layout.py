"""Tables on the terminal: one style for all, and names cut to the room that the numbers leave."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resect.words import shortened

_GAP = 2  # between columns
_LEAST = 8  # of a name that is cut
Row = Sequence[str]


def table_of() -> Table:
    """An empty table in the style of all."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)


def print_table(
    console: Console,
    headings: Row,
    rows: Sequence[Row],
    *,
    names: Collection[str] = (),
    title: str = "",
    bold: Collection[int] = (),
) -> None:
    """Print rows below their headings, and an empty line: numbers to the right, names to the left.

    Args:
        headings: they wrap between words; cells may have lines.
        names: the headings of columns that may be cut.
        title: a sentence above.
        bold: the numbers of rows that stand out.
    """
    if title:
        console.print(Text(title, style="bold"))
    wide = _widths(headings, rows, str.splitlines)
    if _total(wide) > console.width:
        wide = _widths(headings, rows, str.split)
    _shrink(wide, [headings.index(name) for name in names], console.width)
    fits = _total(wide) <= console.width
    table = table_of()
    columns = [[row[i] for row in rows] for i in range(len(headings))]
    for i, heading in enumerate(headings):
        named = heading in names
        lines = Text(_wrapped(heading, wide[i]))
        table.add_column(lines, justify="left" if named else "right", no_wrap=fits, overflow="fold")
        if named:
            columns[i] = shortened(columns[i], wide[i])
    for number, row in enumerate(zip(*columns, strict=True)):
        table.add_row(*map(Text, row), style="bold" if number in bold else "")
    console.print(table, "")


def least_width(headings: Row, rows: Sequence[Row], names: Collection[str]) -> int:
    """How many columns of the terminal the table takes when its names are cut as far as they may be."""
    wide = _widths(headings, rows, str.split)
    _shrink(wide, [headings.index(name) for name in names], 0)
    return _total(wide)


def _widths(headings: Row, rows: Sequence[Row], parts: Callable[[str], list[str]]) -> list[int]:
    """Of every column: its longest line, or the longest part of its heading."""
    columns = [
        [*parts(heading), *(line for row in rows for line in row[i].split("\n"))] for i, heading in enumerate(headings)
    ]
    return [max(map(cell_len, column)) for column in columns]


def _shrink(wide: list[int], names: list[int], room: int) -> None:
    """Take from the widest names, one by one, what is too much."""
    while _total(wide) > room and (widest := max(names, key=wide.__getitem__, default=None)) is not None:
        if wide[widest] <= _LEAST:
            return
        wide[widest] -= 1


def _total(wide: list[int]) -> int:
    return sum(wide) + _GAP * (len(wide) - 1)


def _wrapped(heading: str, width: int) -> str:
    """A heading in lines of so many characters, broken between words."""
    lines = [""]
    for word in heading.split():
        line = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], line] if cell_len(line) <= width or not lines[-1] else [*lines, word]
    return "\n".join(lines)
