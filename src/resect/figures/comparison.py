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

from resect.figures.by_length import (
    DEEPEST,
    VISIBLE,
    band,
    has_interval,
    name_range,
    percent_ticks,
    signed_curve,
    with_paths,
)
from resect.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SETTINGS,
    Entry,
    head,
    shortened,
    whole_numbers,
)

Runs = Mapping[str, pd.DataFrame]
Ranges = Mapping[str, tuple[int, int] | None]  # lengths in blocks (low, high, inclusive) by the name of the run

# The first four lie far apart in lightness; any two at least 21 (CIE76) apart for every kind of colour blindness.
_COLOURS = (BLUE, ORANGE, INK, "#9aa2cb", GREEN, "#752408", "#d852e0", "#7a1fe0")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_STRIP = 0.17  # inches at the top of a linear panel for the effective range of one run


@dataclass(frozen=True)
class _Run:
    """One run as it is drawn."""

    name: str
    lengths: pd.DataFrame
    colour: str
    marker: str

    @property
    def paths(self) -> pd.DataFrame:
        """The lengths of which there are paths."""
        return with_paths(self.lengths)

    @property
    def longest(self) -> int:
        """The length of the longest path."""
        return int(self.paths["length"].max())

    @property
    def label(self) -> str:
        """Its name, with the last length that was measured where that is not the longest."""
        known = int(np.flatnonzero(np.isfinite(self.lengths["share"]))[-1])
        return shortened(self.name) + (f" (lengths to {known})" if known < self.longest else "")


@dataclass(frozen=True)
class _Panel:
    """What one panel shows of every run: a column of its lengths, in percent.

    Attributes:
        relative: lengths are parts of the longest path, not blocks.
        log: the axis is logarithmic; values are drawn without their sign, negative ones as hollow markers.
        normalised: values are parts of the run's largest.
    """

    column: str
    relative: bool
    log: bool
    normalised: bool = False

    def lengths(self, run: _Run) -> pd.Series:
        """The lengths of which there are paths, as the x axis has them."""
        lengths = run.paths["length"].astype(float)
        return lengths * 100 / max(1, run.longest) if self.relative else lengths

    def values(self, run: _Run, column: str | None = None) -> pd.Series:
        """The values of those lengths in percent; NaN where there is none."""
        values = run.paths[column or self.column]
        return values * 100 / (values.max() if self.normalised else 1.0)


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
    drawn = _drawn(runs)
    figure, axes = _grid(drawn, 1, 3.2)
    for ax, relative in zip(axes[0], (False, True), strict=True):
        entries = _draw(ax, drawn, _Panel("norm", relative, log=True, normalised=True))
        ax.set_ylabel("norm (% of the run's largest)")
        head(ax, "log", entries)
    return figure


def _weights(runs: Runs, column: str, label: str, ranges: Ranges, mass: float) -> Figure:
    drawn = _drawn(runs)
    figure, axes = _grid(drawn, 2, 2 * (2.7 + _STRIP * len(drawn)))
    for row, relative in zip(axes, (False, True), strict=True):
        for ax, log in zip(row, (False, True), strict=True):
            panel = _Panel(column, relative, log)
            entries = _draw(ax, drawn, panel)
            ax.set_ylabel(f"{label[:-1]}, without sign)" if log and column == "share" else label)
            if not log:
                _ranges(ax, drawn, panel, ranges)
                entries.append((f"at the top: lengths that hold {mass * 100:g} %", INK))
            head(ax, "log" if log else "linear", entries)
    return figure


def _drawn(runs: Runs) -> list[_Run]:
    """Each run with its colour and its marker."""
    return [_Run(*each) for each in zip(runs, runs.values(), _COLOURS, _MARKERS, strict=False)]


def _grid(runs: Sequence[_Run], rows: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with two columns of axes, and above them the runs' names, where no data can lie."""
    names = [run.label for run in runs]
    widths = [len(name) + 8 for name in names]  # with line and marker, in letters; 125 fit beside each other
    columns = len(runs) if sum(widths) <= 125 else max(1, 125 // max(widths))
    lines = -(-len(runs) // columns)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.2, height + 0.2 * lines + 0.1), layout="constrained", facecolor="white")
        axes = figure.subplots(rows, 2, squeeze=False)
        handles = [Line2D([], [], color=r.colour, marker=r.marker, markersize=5, linewidth=1.4) for r in runs]
        legend = figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)  # a name may hold dollar signs
        text.set_text(name)
    return figure, axes


def _draw(ax: Axes, runs: Sequence[_Run], panel: _Panel) -> list[Entry]:
    """The curves of all runs, with axes that fit them; gives the key of their marks."""
    if panel.log:
        ax.set_yscale("log")
    else:
        ax.axhline(0, color=INK, linewidth=0.8)
    for run in runs:
        x, y = panel.lengths(run), panel.values(run)
        if has_interval(run.lengths, panel.column):
            low, high = (panel.values(run, f"{panel.column}_{end}") for end in ("low", "high"))
            band(ax, x, low, high, run.colour)
        if panel.log:
            signed_curve(ax, x, y, run.colour, run.marker)
        else:
            seen = np.flatnonzero(y.abs() > y.abs().max() * VISIBLE).tolist()  # no chain of markers along 0
            ax.plot(x, y, color=run.colour, marker=run.marker, markevery=seen, markersize=4, linewidth=1.4)
    _limit(ax, runs, panel)
    if not panel.log:
        return []
    negative = any((panel.values(run) < 0).any() for run in runs)
    bands = any(has_interval(run.lengths, panel.column) for run in runs)
    return [("hollow: negative", INK)] * negative + [("bands: 95 % intervals", GREY)] * bands


def _limit(ax: Axes, runs: Sequence[_Run], panel: _Panel) -> None:
    """Axes that end a little beyond the last length, and the lowest value, that can be seen."""
    part = DEEPEST if panel.log else VISIBLE
    curves = [(panel.lengths(run), panel.values(run).abs()) for run in runs]
    seen = [(x[y > y.max() * part], y[y > y.max() * part]) for x, y in curves]
    lowest, highest = min(float(y.min()) for _, y in seen), max(float(y.max()) for _, y in seen)
    last = max(float(x.max()) for x, _ in seen)
    margin = max(0.7, 0.02 * last)
    if not panel.relative:
        whole_numbers(ax)
    end = 100.0 if panel.relative else max(run.longest for run in runs)
    ax.set_xlim(-margin, min(end, last + margin) + margin)
    ax.set_xlabel("path length (% of the longest path)" if panel.relative else "path length (blocks)")
    if panel.log:
        ax.set_ylim(lowest / 3, highest * 3)
        percent_ticks(ax, lowest / 3, highest * 3)
    else:
        lowest = min(0.0, *(float(panel.values(run).min()) for run in runs))
        ax.set_ylim(lowest - (highest - lowest) * 0.04, highest * 1.06)


def _ranges(ax: Axes, runs: Sequence[_Run], panel: _Panel, ranges: Ranges) -> None:
    """The effective range of each run, one below the other in a strip that is added above the data."""
    low, high = ax.get_ylim()
    part = _STRIP * len(runs) / (2.0 + _STRIP * len(runs))  # of the height of the axes, about
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= high])  # the strip has no scale
    ax.set_ylim(low, low + (high - low) / (1 - part))
    for i, run in enumerate(runs):
        within = ranges[run.name]
        if within is None:
            continue
        ends = [length * 100 / max(1, run.longest) if panel.relative else float(length) for length in within]
        level = 1 - part * (i + 0.5) / len(runs)
        ax.plot(ends, [level, level], color=run.colour, marker=run.marker, markersize=4.5, linewidth=1.6,
                clip_on=False, transform=ax.get_xaxis_transform())  # fmt: skip
        numbers = [f"{value:.0f}" for value in ends]
        text = numbers[0] if numbers[0] == numbers[1] else " to ".join(numbers)
        name_range(ax, ends, level, text + (" %" if panel.relative else ""), INK)
