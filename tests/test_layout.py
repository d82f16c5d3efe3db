"""Tables on the terminal: they keep to its width, a row to its line, and names apart."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from resect.jobs.lesion import LesionJob
from resect.jobs.source import Source
from resect.report import lesion
from resect.report.layout import least_width, print_table
from resect.runs.record import Record


def printed(width: int, *arguments: object, **more: object) -> list[str]:
    """The lines of a table on a terminal of so many columns."""
    console = Console(width=width, record=True, file=io.StringIO())
    print_table(console, *arguments, **more)  # type: ignore[arg-type]
    return console.export_text().splitlines()


@given(
    names=st.lists(st.text("abc.", min_size=1, max_size=60), min_size=1, max_size=6, unique=True),
    numbers=st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6),
    width=st.integers(40, 120),
)
def test_a_table_keeps_to_the_terminal(names: list[str], numbers: list[float], width: int) -> None:
    rows = [(f"{number:.2f}", name, "x") for name, number in zip(names, numbers, strict=False)]
    headings = ("loss change", "name", "kind of thing")
    lines = printed(width, headings, rows, names=("name",))
    rule = next(i for i, line in enumerate(lines) if set(line) == {"─"})
    body = lines[rule + 1 :]
    assert max(map(len, lines)) <= width
    assert body[-1] == ""
    assert len(body) == len(rows) + 1
    assert len({line.split()[1] for line in body[:-1]}) == len(names)
    assert least_width(headings, rows, ("name",)) <= width
    for (number, name, _), line in zip(rows, body, strict=False):
        shown = line.split()
        assert shown[0] == number
        assert name.endswith(shown[1].removeprefix("…").split(" #")[0])


def test_headings_wrap_only_where_they_must() -> None:
    rows = [("1.00", "a" * 20)]
    assert printed(80, ("count of it", "name"), rows, names=("name",))[0].split() == ["count", "of", "it", "name"]
    assert [line.split() for line in printed(28, ("count of it", "name"), rows, names=("name",))[:2]] == [
        ["count"],
        ["of", "it", "name"],
    ]


@pytest.fixture(scope="module")
def record() -> Record:
    job = LesionJob(Source("resect:resnet8", "digits", model_args={"width": 4}, limit=40), batch_size=20)
    return job.run()


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_a_lesion_has_one_line_and_the_interval_of_its_damage(record: Record, width: int) -> None:
    table = record.tables["lesions"].assign(
        name=[f"encoder.stages.{i}.transformer.layers.{i}.attention" for i in range(3)]
    )
    console = Console(width=width, record=True, file=io.StringIO())
    lesion.show(replace(record, tables={**record.tables, "lesions": table}), console)
    lines = console.export_text().splitlines()
    rule = next(i for i, line in enumerate(lines) if set(line) == {"─"})
    assert len(lines[rule]) <= width
    for i in range(3):
        row, damage = lines[rule + 1 + i], table["damage"][i]
        assert row.split()[0] == str(i)
        assert f"{damage * 100:.1f} [{table['damage_low'][i] * 100:.1f}, {table['damage_high'][i] * 100:.1f}]" in row
    assert lines[rule + 4] == ""
    assert ("There is no room for the intervals of: agreement, loss change." in "\n".join(lines)) == (width == 80)
