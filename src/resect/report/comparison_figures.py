"""Figures of finished runs laid over each other by path length, in blocks and as a part of the longest path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from resect.report.comparison import effective_range
from resect.report.finished_runs import Run
from resect.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SETTINGS,
    SMALL,
    key,
    name_panel,
    shortened,
    whole_numbers,
)
from resect.report.words import superscript

# The first four lie far apart in lightness; any two at least 21 (CIE76) apart for every kind of colour blindness.
_COLOURS = (BLUE, ORANGE, INK, "#9aa2cb", GREEN, "#752408", "#d852e0", "#7a1fe0")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_VISIBLE = 2e-3  # of a run's highest value: less cannot be seen on a linear axis
_DEEPEST = 1e-12  # the lowest value on a log axis, as a part of the run's highest
_BELOW = 1e-20  # where no log axis reaches
_STRIP = 0.17  # inches at the top of a linear panel for the effective range of one run


@dataclass(frozen=True)
class _Panel:
    """What one panel shows of every run: a column of `Run.lengths`, in percent.

    Attributes:
        relative: lengths are parts of the longest path, not blocks.
        log: the axis is logarithmic; values are drawn without their sign, negative ones as hollow markers.
        normalised: values are parts of the run's largest.
    """

    column: str
    relative: bool
    log: bool
    normalised: bool = False

    def lengths(self, run: Run) -> pd.Series:
        """The lengths of which there are paths, as the x axis has them."""
        lengths = run.paths["length"].astype(float)
        return lengths * 100 / max(1, run.longest) if self.relative else lengths

    def values(self, run: Run, column: str | None = None) -> pd.Series:
        """The values of those lengths in percent; NaN where there is none."""
        values = run.paths[column or self.column]
        return values * 100 / (values.max() if self.normalised else 1.0)


def figures(runs: Sequence[Run], mass: float = 0.95) -> dict[str, Callable[[], Figure]]:
    """What draws every figure that the runs have data for, by name."""
    found: dict[str, Callable[[], Figure]] = {
        "shares": partial(share_figure, runs, mass),
        "norms": partial(norm_figure, runs),
    }
    if all("magnitude" in run.lengths for run in runs):
        found["magnitudes"] = partial(magnitude_figure, runs, mass)
    return found


def share_figure(runs: Sequence[Run], mass: float = 0.95) -> Figure:
    """Exact share of the gradient: linear and log (columns), by blocks and by part of the longest path (rows)."""
    return _weights(runs, "share", "share of the gradient (%)", mass)


def magnitude_figure(runs: Sequence[Run], mass: float = 0.95) -> Figure:
    """Count x magnitude of single paths (paper, Figure 6c), laid out as the shares."""
    return _weights(runs, "magnitude", "count × norm (% of the sum)", mass)


def norm_figure(runs: Sequence[Run]) -> Figure:
    """Norm of the summed gradient of all paths of a length, as a part of each run's largest, by blocks and by part."""
    figure, axes = _grid(runs, 1, 3.2)
    for ax, relative in zip(axes[0], (False, True), strict=True):
        panel = _Panel("norm", relative, log=True, normalised=True)
        _draw(ax, runs, panel)
        ax.set_ylabel("norm (% of the run's largest)")
        name_panel(ax, "log")
    return figure


def _weights(runs: Sequence[Run], column: str, label: str, mass: float) -> Figure:
    strip = _STRIP * len(runs)
    figure, axes = _grid(runs, 2, 2 * (2.7 + strip))
    for row, relative in zip(axes, (False, True), strict=True):
        for ax, log in zip(row, (False, True), strict=True):
            panel = _Panel(column, relative, log)
            _draw(ax, runs, panel)
            ax.set_ylabel(f"{label[:-1]}, without sign)" if log and column == "share" else label)
            name_panel(ax, "log" if log else "linear")
            if not log:
                _ranges(ax, runs, panel, mass)
    return figure


def _styled(runs: Sequence[Run]) -> Iterator[tuple[Run, str, str]]:
    """Each run with its colour and its marker."""
    return zip(runs, _COLOURS, _MARKERS, strict=False)


def _grid(runs: Sequence[Run], rows: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with two columns of axes, and above them the runs' names, where no data can lie."""
    names = [shortened(run.name) + (f" (lengths to {run.known})" if run.truncated else "") for run in runs]
    widths = [len(name) + 8 for name in names]  # with line and marker, in letters; 125 fit beside each other
    columns = len(runs) if sum(widths) <= 125 else max(1, 125 // max(widths))
    lines = -(-len(runs) // columns)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.2, height + 0.2 * lines + 0.1), layout="constrained", facecolor="white")
        axes = figure.subplots(rows, 2, squeeze=False)
        handles = [Line2D([], [], color=c, marker=m, markersize=5, linewidth=1.4) for _, c, m in _styled(runs)]
        legend = figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)  # a name may hold dollar signs
        text.set_text(name)
    return figure, axes


def _draw(ax: Axes, runs: Sequence[Run], panel: _Panel) -> None:
    """The curves of all runs, with axes that fit them."""
    if panel.log:
        ax.set_yscale("log")
    else:
        ax.axhline(0, color=INK, linewidth=0.8)
    for run, colour, marker in _styled(runs):
        _band(ax, run, panel, colour)
        x, y = panel.lengths(run), panel.values(run)
        if panel.log:
            _signed_curve(ax, x, y, colour, marker)
        else:
            seen = np.flatnonzero(y.abs() > y.abs().max() * _VISIBLE).tolist()  # no chain of markers along 0
            ax.plot(x, y, color=colour, marker=marker, markevery=seen, markersize=4, linewidth=1.4)
    _limit(ax, runs, panel)
    if panel.log:
        negative = any((panel.values(run) < 0).any() for run in runs)
        band = any(_interval(run, panel) for run in runs)
        key(ax, [("hollow: negative", INK)] * negative + [("bands: 95 % intervals", GREY)] * band)


def _signed_curve(ax: Axes, x: pd.Series, y: pd.Series, colour: str, marker: str) -> None:
    """Values without sign on a log axis: filled markers for positive ones, hollow ones for negative ones."""
    ax.plot(x, y.abs().where(y != 0), color=colour, linewidth=1.1)
    ax.plot(x[y > 0], y[y > 0], marker, color=colour, markersize=4)
    ax.plot(x[y < 0], -y[y < 0], marker, markerfacecolor="white", markeredgecolor=colour, markersize=4)


def _interval(run: Run, panel: _Panel) -> bool:
    """Whether a run has intervals of what a panel shows."""
    low = f"{panel.column}_low"
    return low in run.lengths and bool(run.lengths[low].notna().any())


def _band(ax: Axes, run: Run, panel: _Panel, colour: str) -> None:
    """The interval of every length; on a log axis that of the value without sign, down to the axis if it holds 0."""
    if not _interval(run, panel):
        return
    low, high = (panel.values(run, f"{panel.column}_{end}") for end in ("low", "high"))
    if panel.log:
        sizes = pd.concat([low.abs(), high.abs()], axis=1)
        low, high = sizes.min(axis=1).where(np.sign(low) == np.sign(high), _BELOW), sizes.max(axis=1)
    ax.fill_between(panel.lengths(run), low, high, color=colour, alpha=0.1 if panel.log else 0.2, linewidth=0)


def _limit(ax: Axes, runs: Sequence[Run], panel: _Panel) -> None:
    """Axes that end a little beyond the last length, and the lowest value, that can be seen."""
    part = _DEEPEST if panel.log else _VISIBLE
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
        _log_axis(ax, lowest, highest)
    else:
        lowest = min(0.0, *(float(panel.values(run).min()) for run in runs))
        ax.set_ylim(lowest - (highest - lowest) * 0.04, highest * 1.06)


def _log_axis(ax: Axes, lowest: float, highest: float) -> None:
    """A logarithmic axis in percent, with at most nine ticks at whole powers of ten."""
    ax.set_ylim(lowest / 3, highest * 3)
    first, last = int(np.ceil(np.log10(lowest / 3))), int(np.floor(np.log10(highest * 3)))
    powers = np.arange(last, first - 1, -max(1, -(-(last - first + 1) // 9)))
    plain = {2: "100", 1: "10", 0: "1", -1: "0.1"}
    ax.set_yticks(10.0**powers, [plain.get(int(power), f"10{superscript(int(power))}") for power in powers])
    ax.yaxis.set_minor_locator(NullLocator())


def _ranges(ax: Axes, runs: Sequence[Run], panel: _Panel, mass: float) -> None:
    """The effective range of each run, one below the other in a strip that is added above the data."""
    assert ax.figure is not None
    low, high = ax.get_ylim()
    part = _STRIP * len(runs) / (2.0 + _STRIP * len(runs))  # of the height of the axes, about
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= high])  # the strip has no scale
    ax.set_ylim(low, low + (high - low) / (1 - part))
    for i, (run, colour, marker) in enumerate(_styled(runs)):
        found = effective_range(run, panel.column, mass)
        if found is None:
            continue
        ends = [length * 100 / max(1, run.longest) if panel.relative else float(length) for length in found]
        level = 1 - part * (i + 0.5) / len(runs)
        ax.plot(ends, [level, level], color=colour, marker=marker, markersize=4.5, linewidth=1.6, clip_on=False,
                transform=ax.get_xaxis_transform())  # fmt: skip
        _name_range(ax, ends, level, panel)
    key(ax, [(f"at the top: lengths that hold {mass * 100:g} %", INK)])


def _name_range(ax: Axes, ends: Sequence[float], level: float, panel: _Panel) -> None:
    """The numbers of a range, at its right where there is room, else at its left, else on it."""
    start, end = ax.get_xlim()
    needed = (end - start) * 0.22
    place, align, shift = (ends[0] + ends[1]) / 2, "center", 0
    if end - ends[1] >= needed:
        place, align, shift = ends[1], "left", 6
    elif ends[0] - start >= needed:
        place, align, shift = ends[0], "right", -6
    numbers = [f"{value:.0f}" for value in ends]
    text = numbers[0] if numbers[0] == numbers[1] else " to ".join(numbers)
    ax.annotate(text + (" %" if panel.relative else ""), (place, level), xycoords=ax.get_xaxis_transform(),
                xytext=(shift, 0), textcoords="offset points", ha=align, va="center", fontsize=SMALL, color=INK,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"})  # fmt: skip
