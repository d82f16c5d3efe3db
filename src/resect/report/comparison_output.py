"""A comparison on the terminal, as JSON, and as tables and figures in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resect.errors import RunError
from resect.files import write_text
from resect.report.comparison import Change, Summary, changes
from resect.report.comparison_figures import figures
from resect.report.finished_runs import Run, long_table
from resect.report.style import save_figure
from resect.report.tables import plain
from resect.report.words import NOTHING, decimal, large, percent, superscript
from resect.runs.folder import write_parquet

_TABLE, _NUMBERS = "comparison.parquet", "comparison.json"
_FIGURES = ("shares", "norms", "magnitudes")


def require_own_folder(folder: Path) -> None:
    """Raise RunError if a folder holds anything but an earlier comparison, which may be replaced."""
    own = {_TABLE, _NUMBERS, *(f"{name}.png" for name in _FIGURES)}
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} must be a folder for the comparison, but is a file. Choose another --out.")
    others = sorted(file.name for file in folder.glob("*") if file.name.removesuffix(".tmp") not in own)
    if others:
        raise RunError(
            f"{folder} must be empty or hold an earlier comparison, but holds other files ({others[0]}). "
            "Choose another --out."
        )


def write_comparison(runs: Sequence[Run], numbers: str, mass: float, folder: Path) -> None:
    """Write comparison.parquet, comparison.json and a PNG file a figure; figures of an earlier comparison go."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FIGURES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    write_parquet(folder / _TABLE, long_table(runs))
    for name, draw in figures(runs, mass).items():
        save_figure(draw, folder / f"{name}.png")
    write_text(folder / _NUMBERS, numbers + "\n")


def comparison_numbers(summaries: Sequence[Summary], mass: float) -> str:
    """Every run, and the first against every other, as JSON."""
    runs = [{name: plain(value) for name, value in asdict(summary).items()} for summary in summaries]
    return json.dumps({"mass": mass, "runs": runs, "changes": [asdict(c) for c in changes(summaries)]}, indent=2)


def print_comparison(summaries: Sequence[Summary], mass: float, console: Console) -> None:
    """A table with one row a run, then one line for the first run against every other."""
    sampled = any(summary.magnitude_range for summary in summaries)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold")
    held = f"{mass * 100:g} %"
    ranges = (f"{held} of\nshare", *([f"{held} of\ncount ×\nnorm"] if sampled else []))
    for heading in ("blocks", "layers", *ranges, "effective\ndepth", "effective\npaths"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(*map(Text, _cells(summary, sampled)))
    console.print(table, "")
    for change, other in zip(changes(summaries), summaries[1:], strict=True):
        console.print(Text(_sentence(summaries[0], other, change)), soft_wrap=True)
    for summary in summaries:
        if summary.known < summary.longest:
            console.print(Text(_truncation(summary)), soft_wrap=True)


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


def _sentence(first: Summary, other: Summary, change: Change) -> str:
    """The first run against another: what changed."""
    parts = []
    if first.share_range and other.share_range:
        parts.append(f"effective range {_range(first.share_range)} against {_range(other.share_range)} blocks")
    depths = f"{decimal(first.effective_depth, 1)} against {decimal(other.effective_depth, 1)} blocks"
    if first.longest != other.longest:
        here, there = percent(first.relative_depth, 0), percent(other.relative_depth, 0)
        depths += f" ({here} against {there} of the longest path)"
    parts.append(f"effective depth {depths}")
    ratio = large(abs(change.log2_effective_paths))
    times = "as many" if ratio == "1" else f"{ratio} times {'more' if change.log2_effective_paths > 0 else 'fewer'}"
    here, there = _power(first.log2_effective_paths), _power(other.log2_effective_paths)
    parts.append(f"effective paths {here} against {there}, {times}")
    return f"{first.run} against {other.run}: {'; '.join(parts)}."


def _truncation(summary: Summary) -> str:
    return (
        f"{summary.run}: lengths above {summary.known} were not measured; those up to it hold "
        f"{percent(summary.known_share)} of the gradient, and depth and effective paths are of them alone."
    )
