"""A comparison of runs, on the terminal and in figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resect.figures import comparison
from resect.jobs.compare import Summary, effective_range
from resect.report.saving import save_figure
from resect.runs.record import Record
from resect.words import NOTHING, decimal, large, percent, superscript

_FIGURES = ("shares", "norms", "magnitudes")


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png; those of an earlier comparison go."""
    figures = folder / "figures"
    for name in _FIGURES:
        (figures / f"{name}.png").unlink(missing_ok=True)
    for name, figure in _figures(record).items():
        save_figure(figure, figures / f"{name}.png")
    return figures


def _figures(record: Record) -> dict[str, Callable[[], Figure]]:
    """What draws every figure that the runs have data for, by name."""
    mass, table = record.found["mass"], record.tables["comparison"]
    names = [row["run"] for row in record.found["runs"]]
    groups = {name: table[table["run"] == name].reset_index(drop=True).dropna(axis=1, how="all") for name in names}

    def ranges(column: str) -> dict[str, tuple[int, int] | None]:
        return {name: effective_range(lengths, column, mass) for name, lengths in groups.items()}

    drawn: dict[str, Callable[[], Figure]] = {
        "shares": lambda: comparison.shares(groups, ranges("share"), mass),
        "norms": lambda: comparison.norms(groups),
    }
    if all("magnitude" in lengths for lengths in groups.values()):
        drawn["magnitudes"] = lambda: comparison.magnitudes(groups, ranges("magnitude"), mass)
    return drawn


def show(record: Record, console: Console) -> None:
    """Print a table with one row a run, then one line for the first run against every other."""
    summaries = [_summary(row) for row in record.found["runs"]]
    sampled = any(summary.magnitude_range for summary in summaries)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold")
    held = f"{record.found['mass'] * 100:g} %"
    ranges = (f"{held} of\nshare", *([f"{held} of\ncount ×\nnorm"] if sampled else []))
    for heading in ("blocks", "layers", *ranges, "effective\ndepth", "effective\npaths"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(*map(Text, _cells(summary, sampled)))
    console.print(table, "")
    for row, other in zip(record.found["changes"], summaries[1:], strict=True):
        console.print(Text(_sentence(summaries[0], other, row["log2_effective_paths"])), soft_wrap=True)
    for summary in summaries:
        if summary.known < summary.longest:
            console.print(Text(_truncation(summary)), soft_wrap=True)


def _summary(row: dict[str, object]) -> Summary:
    return Summary(**row)  # type: ignore[arg-type]  # as Summary wrote it, ranges as lists


def _cells(summary: Summary, sampled: bool) -> tuple[str, ...]:
    """One row of the table."""
    parallel = "" if summary.longest == summary.blocks else f" (path {summary.longest})"
    return (
        summary.run,
        f"{summary.blocks}{parallel}",
        f"{summary.layers:g}",
        _range(summary.share_range),
        *([_range(summary.magnitude_range)] if sampled else []),
        f"{decimal(summary.effective_depth, 1)} ({percent(summary.relative_depth, 0)})",
        f"{_power(summary.log2_effective_paths)} of {_power(summary.log2_paths)}",
    )


def _power(exponent: float) -> str:
    return f"2{superscript(round(exponent, 1))}"


def _range(found: tuple[int, int] | None) -> str:
    if found is None:
        return NOTHING
    return str(found[0]) if found[0] == found[1] else f"{found[0]} to {found[1]}"


def _sentence(first: Summary, other: Summary, gained: float) -> str:
    """The first run against another: what changed."""
    parts = []
    if first.share_range and other.share_range:
        parts.append(f"effective range {_range(first.share_range)} against {_range(other.share_range)} blocks")
    depths = f"{decimal(first.effective_depth, 1)} against {decimal(other.effective_depth, 1)} blocks"
    if first.longest != other.longest:
        here, there = percent(first.relative_depth, 0), percent(other.relative_depth, 0)
        depths += f" ({here} against {there} of the longest path)"
    parts.append(f"effective depth {depths}")
    ratio = large(abs(gained))
    times = "as many" if ratio == "1" else f"{ratio} times {'more' if gained > 0 else 'fewer'}"
    here, there = _power(first.log2_effective_paths), _power(other.log2_effective_paths)
    parts.append(f"effective paths {here} against {there}, {times}")
    return f"{first.run} against {other.run}: {'; '.join(parts)}."


def _truncation(summary: Summary) -> str:
    return (
        f"{summary.run}: lengths above {summary.known} were not measured; those up to it hold "
        f"{percent(summary.known_share)} of the gradient, and depth and effective paths are of them alone."
    )
