"""Finished runs laid over each other by path length, in blocks and as a part of the longest path.

`runs` are the lengths of every run by its name, at most eight: one row a length 0..n, with `length`, `log2_paths`,
`share`, `norm`, and `magnitude` where paths were sampled; NaN where a length was not measured. Every figure is whole,
with several panels and one key for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resect.figures import by_length
from resect.figures.colours import BLUE, GREEN, GREY, INK, ORANGE
from resect.figures.marks import whole_numbers
from resect.figures.style import SETTINGS, Entry, head
from resect.words import shortened, span

Runs = Mapping[str, pd.DataFrame]
Ranges = Mapping[str, tuple[int, int] | None]  # lengths in blocks (low, high, inclusive) by the name of the run

# The first four lie far apart in lightness; any two at least 21 (CIE76) apart for every kind of colour blindness.
_COLOURS = (BLUE, ORANGE, INK, "#9aa2cb", GREEN, "#752408", "#d852e0", "#7a1fe0")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_LETTERS = 44  # of the name of a run
_STRIP = 0.17  # inches at the top of a linear panel for the effective range of one run


@dataclass(frozen=True)
class _Curve:
    """One run as all panels of a figure draw it.

    Attributes:
        label: its name, with the last length that was measured where that is not the longest.
        lengths: those of which there are paths, in blocks.
        values: of those lengths, in percent; NaN where there is none.
        interval: low and high ends of the values.
    """

    name: str
    label: str
    colour: str
    marker: str
    lengths: pd.Series
    values: pd.Series
    interval: tuple[pd.Series, pd.Series] | None

    @property
    def longest(self) -> int:
        """The length of the longest path."""
        return int(self.lengths.max())

    def places(self, lengths: pd.Series, relative: bool) -> pd.Series:
        """Where lengths lie on the x axis: in blocks, or in percent of the longest path."""
        return lengths * 100 / max(1, self.longest) if relative else lengths


def shares(runs: Runs, ranges: Ranges, mass: float = 0.95) -> Figure:
    """Exact share of the gradient: linear and log (columns), by blocks and by part of the longest path (rows).

    Args:
        ranges: the effective range of every run; None where it is not known.
        mass: what they hold, as a part of 1.
    """
    return _weights(runs, "share", "share of the gradient (%)", ranges, mass)


def magnitudes(runs: Runs, ranges: Ranges, mass: float = 0.95) -> Figure:
    """Count x magnitude of single paths (paper, Figure 6c), laid out as the shares."""
    return _weights(runs, "magnitude", "count × norm (% of the sum)", ranges, mass)


def norms(runs: Runs) -> Figure:
    """Norm of the summed gradient of all paths of a length, as a part of each run's largest, by blocks and by part."""
    curves = _curves(runs, "norm")
    figure, axes = _grid(curves, 1, 3.2)
    for ax, relative in zip(axes[0], (False, True), strict=True):
        entries = _draw(ax, curves, relative, log=True)
        ax.set_ylabel("norm (% of the run's largest)")
        head(ax, "log", entries)
    return figure


def _weights(runs: Runs, column: str, label: str, ranges: Ranges, mass: float) -> Figure:
    curves = _curves(runs, column)
    figure, axes = _grid(curves, 2, 2 * (2.7 + _STRIP * len(curves)))
    for (row, log), ax in np.ndenumerate(axes):
        entries = _draw(ax, curves, bool(row), bool(log))
        ax.set_ylabel(f"{label[:-1]}, without sign)" if log and column == "share" else label)
        if not log:
            _ranges(ax, curves, bool(row), ranges)
            entries.append((f"at the top: lengths that hold ≥ {mass * 100:g} %", INK))
        head(ax, "log" if log else "linear", entries)
    return figure


def _curves(runs: Runs, column: str) -> list[_Curve]:
    """A column of every run; norms become parts of the largest."""
    curves, labels = [], shortened(list(runs), _LETTERS)
    for (name, table), label, colour, marker in zip(runs.items(), labels, _COLOURS, _MARKERS, strict=False):
        known = int(np.flatnonzero(np.isfinite(table["share"]))[-1])
        table = by_length.with_paths(table)
        if known < table["length"].max():
            label += f" (lengths to {known})"
        whole = table[column].max() if column == "norm" else 1.0
        interval = None
        if by_length.has_interval(table, column):
            interval = (table[f"{column}_low"] * 100 / whole, table[f"{column}_high"] * 100 / whole)
        lengths = table["length"].astype(float)
        curves.append(_Curve(name, label, colour, marker, lengths, table[column] * 100 / whole, interval))
    return curves


def _grid(curves: Sequence[_Curve], rows: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with two columns of axes, and above them the runs' names, where no data can lie."""
    names = [curve.label for curve in curves]
    widths = [len(name) + 8 for name in names]  # with line and marker, in letters; 125 fit beside each other
    columns = len(curves) if sum(widths) <= 125 else max(1, 125 // max(widths))
    lines = -(-len(curves) // columns)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.2, height + 0.2 * lines + 0.1), layout="constrained", facecolor="white")
        axes = figure.subplots(rows, 2, squeeze=False)
        handles = [Line2D([], [], color=c.colour, marker=c.marker, markersize=5, linewidth=1.4) for c in curves]
        legend = figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)  # a name may hold dollar signs
        text.set_text(name)
    return figure, axes


def _draw(ax: Axes, curves: Sequence[_Curve], relative: bool, log: bool) -> list[Entry]:
    """All curves, with axes that fit them; gives the key of their marks.

    Args:
        relative: lengths are parts of the longest path, not blocks.
        log: the axis is logarithmic; values are drawn without their sign, negative ones as hollow markers.
    """
    if log:
        ax.set_yscale("log")
    else:
        ax.axhline(0, color=INK, linewidth=0.8)
    for curve in curves:
        x, y = curve.places(curve.lengths, relative), curve.values
        if curve.interval:
            by_length.band(ax, x, *curve.interval, curve.colour)
        if log:
            by_length.signed_curve(ax, x, y, curve.colour, curve.marker)
        else:
            seen = np.flatnonzero(y.abs() > y.abs().max() * by_length.VISIBLE).tolist()  # no chain of markers along 0
            ax.plot(x, y, color=curve.colour, marker=curve.marker, markevery=seen, markersize=4, linewidth=1.4)
    _limit(ax, curves, relative, log)
    if not log:
        return []
    negative = any((curve.values < 0).any() for curve in curves)
    bands = any(curve.interval for curve in curves)
    return [("hollow: negative", INK)] * negative + [("bands: 95 % intervals", GREY)] * bands


def _limit(ax: Axes, curves: Sequence[_Curve], relative: bool, log: bool) -> None:
    """Axes that end a little beyond the last length, and the lowest value, that can be seen."""
    part = by_length.DEEPEST if log else by_length.VISIBLE
    last, lowest, highest = 0.0, np.inf, 0.0
    for curve in curves:
        sizes = curve.values.abs()
        seen = sizes[sizes > sizes.max() * part]
        last = max(last, float(curve.places(curve.lengths, relative)[seen.index].max()))
        lowest, highest = min(lowest, float(seen.min())), max(highest, float(seen.max()))
    margin = max(0.7, 0.02 * last)
    if not relative:
        whole_numbers(ax)
    end = 100.0 if relative else max(curve.longest for curve in curves)
    ax.set_xlim(-margin, min(end, last + margin) + margin)
    ax.set_xlabel("path length (% of the longest path)" if relative else "path length (blocks)")
    if log:
        ax.set_ylim(lowest / 3, highest * 3)
        by_length.percent_ticks(ax, lowest / 3, highest * 3)
    else:
        lowest = min(0.0, *(float(curve.values.min()) for curve in curves))
        highest = max(highest, *(float(curve.interval[1].max()) for curve in curves if curve.interval), 0.0)
        ax.set_ylim(lowest - (highest - lowest) * 0.04, highest * 1.06)


def _ranges(ax: Axes, curves: Sequence[_Curve], relative: bool, ranges: Ranges) -> None:
    """The effective range of each run, one below the other in a strip that is added above the data."""
    low, high = ax.get_ylim()
    part = _STRIP * len(curves) / (2.0 + _STRIP * len(curves))  # of the height of the axes, about
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= high])  # the strip has no scale
    ax.set_ylim(low, low + (high - low) / (1 - part))
    for i, curve in enumerate(curves):
        within = ranges[curve.name]
        if within is None:
            continue
        ends = curve.places(pd.Series(within, dtype=float), relative).tolist()
        level = 1 - part * (i + 0.5) / len(curves)
        ax.plot(ends, [level, level], color=curve.colour, marker=curve.marker, markersize=4.5, linewidth=1.6,
                clip_on=False, transform=ax.get_xaxis_transform())  # fmt: skip
        text = span(round(ends[0]), round(ends[1])) + (" %" if relative else "")
        by_length.name_range(ax, ends, level, text, INK)
