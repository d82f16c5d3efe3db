"""A comparison of runs, on the terminal and in figures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from resect.figures import comparison
from resect.jobs.compare import Summary
from resect.report.layout import print_table
from resect.report.parts import Figures, save_figures, say
from resect.runs.record import Record
from resect.words import NOTHING, decimal, large, percent, power_of_two, span


def draw(record: Record, folder: Path) -> Path:
    """Write figures/*.png; the one that an earlier comparison may have, and this one may not, goes."""
    (folder / "figures" / "magnitudes.png").unlink(missing_ok=True)
    return save_figures(_figures(record), folder)


def _figures(record: Record) -> Figures:
    """Every figure that the runs have data for."""
    mass, table = record.found["mass"], record.tables["comparison"]
    runs, shares, magnitudes = {}, {}, {}
    for row in record.found["runs"]:
        name = row["run"]
        runs[name] = table[table["run"] == name].reset_index(drop=True).dropna(axis=1, how="all")
        shares[name], magnitudes[name] = row["share_range"], row["magnitude_range"]
    figures = {"shares": partial(comparison.shares, runs, shares, mass), "norms": partial(comparison.norms, runs)}
    if all("magnitude" in lengths for lengths in runs.values()):
        figures["magnitudes"] = partial(comparison.magnitudes, runs, magnitudes, mass)
    return figures


def show(record: Record, console: Console) -> None:
    """Print a table with one row a run, then one line for the first run against every other."""
    summaries = [Summary(**row) for row in record.found["runs"]]
    sampled = any(summary.magnitude_range for summary in summaries)
    held = f"{record.found['mass'] * 100:g} %"
    ranges = (f"{held} of share", *([f"{held} of count × norm"] if sampled else []))
    headings = ("run", "blocks", "layers", *ranges, "effective depth", "effective paths, at most")
    rows = [_cells(summary, sampled) for summary in summaries]
    print_table(console, headings, rows, names=("run",))
    for row, other in zip(record.found["changes"], summaries[1:], strict=True):
        say(console, _sentence(summaries[0], other, row["log2_effective_paths"]))
    for summary in summaries:
        if summary.known < summary.longest:
            say(
                console,
                f"{summary.run}: lengths above {summary.known} were not measured; those up to it hold "
                f"{percent(summary.known_share)} of the gradient, and depth and effective paths are of them alone.",
            )


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
        f"{power_of_two(summary.log2_effective_paths)} of {power_of_two(summary.log2_paths)}",
    )


def _range(ends: tuple[int, int] | None) -> str:
    return span(*ends) if ends else NOTHING


def _sentence(first: Summary, other: Summary, gained: float) -> str:
    """The first run against another: what changed."""
    parts = []
    if first.share_range and other.share_range:
        parts.append(f"effective range {_range(first.share_range)} against {span(*other.share_range, 'block')}")
    depths = f"{decimal(first.effective_depth, 1)} against {decimal(other.effective_depth, 1)} blocks"
    if first.longest != other.longest:
        here, there = percent(first.relative_depth, 0), percent(other.relative_depth, 0)
        depths += f" ({here} against {there} of the longest path)"
    parts.append(f"effective depth {depths}")
    ratio = large(abs(gained))
    times = "as many" if ratio == "1" else f"{'more' if gained > 0 else 'fewer'} by a factor of {ratio}"
    here, there = power_of_two(first.log2_effective_paths), power_of_two(other.log2_effective_paths)
    parts.append(f"effective paths at most {here} against {there}, {times}")
    return f"{first.run} against {other.run}: {'; '.join(parts)}."
