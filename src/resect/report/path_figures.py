"""Figures of the unravelled view: paths, shares of the gradient and norms, by path length (paper, Figure 6)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from resect.jobs.results import DepthAnswer, PathCurves
from resect.paths.measures import Effective
from resect.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE_BLUE,
    SMALL,
    axes_or_new,
    key,
    name_panel,
    whole_numbers,
)
from resect.report.words import percent, superscript

_DEEPEST = 1e-12  # the lowest value on a log axis, as a part of the highest
_VISIBLE = 2e-3  # of the gradient: less cannot be seen on a linear axis
_OVER_LAYERS = 38  # points, over the axis in layers
_SHARE_KEY = [("● exact", BLUE), ("■ count × norm", ORANGE), ("- - count × rms", GREEN)]


def _lengths(curves: PathCurves) -> tuple[pd.DataFrame, DepthAnswer]:
    """The lengths of which there are paths, and the effective ranges."""
    return curves.lengths[np.isfinite(curves.lengths["log2_paths"])], curves.depth


def counts_figure(curves: PathCurves, ax: Axes | None = None) -> Axes:
    """Which part of all paths each length has, linear, with the effective ranges."""
    ax = axes_or_new(ax)
    table, depth = _lengths(curves)
    ax.bar(table["length"], table["path_fraction"] * 100, color="#a9aeb5", width=0.8)
    ax.set_ylabel("paths of this length (% of all)")
    ax.set_ylim(0, float(table["path_fraction"].max()) * 100 * 1.4)
    _finish(ax, table, depth)
    name_panel(ax, "linear")
    key(ax, _range_key(depth))
    return ax


def counts_log_figure(curves: PathCurves, ax: Axes | None = None) -> Axes:
    """How many paths have each length, as a power of ten, with the effective ranges."""
    ax = axes_or_new(ax)
    table, depth = _lengths(curves)
    ax.plot(table["length"], table["log2_paths"] * np.log10(2), color=INK, marker=".", markersize=4)
    ax.set_ylabel("number of paths")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"10{superscript(round(value))}"))
    top = max(1.0, float(table["log2_paths"].max()) * np.log10(2)) * 1.4
    ax.set_ylim(-0.03 * top, top)
    _finish(ax, table, depth)
    name_panel(ax, "log")
    key(ax, _range_key(depth))
    return ax


def share_figure(curves: PathCurves, ax: Axes | None = None) -> Axes:
    """Share of the gradient by path length: exact, and by the paper's count x magnitude; linear."""
    ax = axes_or_new(ax, height=4.2)
    table, depth = _lengths(curves)
    shown = _visible(table)
    shares = shown[["share", "magnitude", "magnitude_rms"]] * 100
    ax.plot(shown["length"], shares["magnitude_rms"], color=GREEN, linestyle=(0, (4, 2)), linewidth=1.3)
    ax.plot(shown["length"], shares["magnitude"], color=ORANGE, marker="s", markersize=3.5)
    ax.plot(shown["length"], shares["share"], color=BLUE, marker="o", markersize=4, linewidth=1.8)
    ax.axhline(0, color=INK, linewidth=0.8)
    low, high = min(0.0, float(shares.min().min())), float(shares.max().max())
    ax.set_ylim(low - (high - low) * 0.05, high + (high - low) * 0.35)
    ax.set_ylabel("share of the gradient (%)")
    _finish(ax, shown, depth)
    _layers_axis(ax, table)
    name_panel(ax, "linear", above=_OVER_LAYERS)
    key(ax, _SHARE_KEY, above=_OVER_LAYERS)
    return ax


def share_log_figure(curves: PathCurves, ax: Axes | None = None) -> Axes:
    """The same on a logarithmic axis; hollow markers are negative shares, drawn at their size without sign."""
    ax = axes_or_new(ax, height=4.2)
    table, depth = _lengths(curves)
    ax.set_yscale("log")
    deep = table[(table["share"].abs() > _DEEPEST) | (table["magnitude"] > _DEEPEST)]
    size = deep["share"].abs().where(deep["share"] != 0)
    ax.plot(deep["length"], deep["magnitude"].where(deep["magnitude"] > 0) * 100, color=ORANGE, marker="s",
            markersize=3.5)  # fmt: skip
    rms = deep["magnitude_rms"].where(deep["magnitude_rms"] > 0)
    ax.plot(deep["length"], rms * 100, color=GREEN, linestyle=(0, (4, 2)), linewidth=1.3)
    ax.plot(deep["length"], size * 100, color=BLUE, linewidth=1.2)
    positive, negative = deep[deep["share"] > 0], deep[deep["share"] < 0]
    ax.plot(positive["length"], positive["share"] * 100, "o", color=BLUE, markersize=4)
    ax.plot(negative["length"], -negative["share"] * 100, "o", markerfacecolor="white", markeredgecolor=BLUE,
            markersize=4.5)  # fmt: skip
    values = pd.concat([size, deep["magnitude"]]).to_numpy(float)
    lowest = max(float(np.nanmin(np.where(values > 0, values, np.nan))), _DEEPEST)
    _log_limits(ax, lowest * 100)
    _finish(ax, deep, depth)
    ax.set_ylabel("share of the gradient (%), without sign")
    _layers_axis(ax, table)
    name_panel(ax, "log", above=_OVER_LAYERS)
    key(ax, _SHARE_KEY + ([("○ negative", BLUE)] if len(negative) else []), above=_OVER_LAYERS)
    return ax


def norm_figure(curves: PathCurves, ax: Axes | None = None) -> Axes:
    """Norm of the gradient by path length, linear; each curve as a part of its own largest value."""
    ax = axes_or_new(ax)
    table, _ = _lengths(curves)
    together, single = table["norm"] / table["norm"].max(), table["path_norm"] / table["path_norm"].max()
    seen = table["length"][(together > 0.01) | (single > 0.01)]
    shown = table["length"] <= int(seen.max()) + 2
    ax.plot(table["length"][shown], single[shown] * 100, color=ORANGE, marker="s", markersize=3.5)
    ax.plot(table["length"][shown], together[shown] * 100, color=BLUE, marker="o", markersize=4)
    ax.set(xlabel="path length (blocks)", ylabel="norm (% of the curve's largest)", ylim=(0, 105))
    whole_numbers(ax)
    name_panel(ax, "linear")
    key(ax, [("● all paths together", BLUE), ("■ one path, mean", ORANGE)])
    return ax


def norm_log_figure(curves: PathCurves, ax: Axes | None = None) -> Axes:
    """Norm of the gradient by path length, logarithmic, in the gradient's own unit."""
    ax = axes_or_new(ax)
    table, _ = _lengths(curves)
    ax.set_yscale("log")
    styles: tuple[tuple[str, dict[str, Any]], ...] = (
        ("path_norm_rms", {"color": GREEN, "linestyle": (0, (4, 2)), "linewidth": 1.3}),
        ("path_norm", {"color": ORANGE, "marker": "s", "markersize": 3}),
        ("norm", {"color": BLUE, "marker": "o", "markersize": 3.5}),
    )
    for name, style in styles:
        ax.plot(table["length"], table[name].where(table[name] > 0), **style)
    ax.set(xlabel="path length (blocks)", ylabel="norm of the loss gradient (nats per unit)")
    whole_numbers(ax)
    name_panel(ax, "log")
    key(ax, [("● together", BLUE), ("■ one path, mean", ORANGE), ("- - rms", GREEN)])
    return ax


def _visible(table: pd.DataFrame) -> pd.DataFrame:
    """The lengths up to a little beyond the last that can be seen on a linear axis."""
    seen = table[(table["share"].abs() > _VISIBLE) | (table["magnitude"] > _VISIBLE)]
    return table[table["length"] <= int(seen["length"].max()) + 2]


def _finish(ax: Axes, table: pd.DataFrame, depth: DepthAnswer) -> None:
    """The x axis, and the effective ranges of both measures as brackets in the free room at the top."""
    last = max(float(table["length"].max()), depth.by_share.high, depth.by_magnitude.high)
    ax.set_xlim(-0.7, last + 0.7)
    ax.set_xlabel("path length (blocks)")
    whole_numbers(ax)
    share, magnitude = depth.by_share, depth.by_magnitude
    ax.axvspan(share.low - 0.5, share.high + 0.5, facecolor=PALE_BLUE, linewidth=0, alpha=0.45, zorder=0.4)
    for edge in (magnitude.low - 0.5, magnitude.high + 0.5):
        ax.axvline(edge, color=ORANGE, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0.6)
    _bracket(ax, share, depth.mass, BLUE, 0.95)
    _bracket(ax, magnitude, depth.mass, ORANGE, 0.86)


def _range_key(depth: DepthAnswer) -> list[tuple[str, str]]:
    mass = percent(depth.mass, 0)
    return [(f"{mass} of the exact share", BLUE), ("of count × norm", ORANGE)]


def _bracket(ax: Axes, found: Effective, mass: float, colour: str, level: float) -> None:
    """A range of lengths with its numbers: beside it where there is room, else on it."""
    left, right = found.low - 0.5, found.high + 0.5
    transform = ax.get_xaxis_transform()
    ax.plot([left, left, right, right], [level - 0.025, level, level, level - 0.025], color=colour, linewidth=1.6,
            transform=transform)  # fmt: skip
    start, end = ax.get_xlim()
    needed = (end - start) * 0.25
    place, align, shift = (left + right) / 2, "center", 0
    if end - right >= needed:
        place, align, shift = right, "left", 5
    elif left - start >= needed:
        place, align, shift = left, "right", -5
    numbers = f"{found.low} to {found.high}" if found.low != found.high else f"{found.low}"
    ax.annotate(f"{percent(mass, 0)}: {numbers}", (place, level), xycoords=transform, xytext=(shift, 0),
                textcoords="offset points", ha=align, va="center", fontsize=SMALL, color=colour,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"})  # fmt: skip


def _log_limits(ax: Axes, lowest: float) -> None:
    """A logarithmic axis in percent from `lowest`, with ticks up to 100 % and room above for the brackets."""
    ax.set_ylim(lowest / 3, 100 * (100 / lowest) ** 0.3 * 3)
    first = int(np.floor(np.log10(lowest)))
    powers = np.arange(2, first - 1, -max(1, -(-(3 - first) // 8)))
    plain = {2: "100", 1: "10", 0: "1"}
    ax.set_yticks(10.0**powers, [plain.get(int(power), f"10{superscript(int(power))}") for power in powers])
    ax.yaxis.set_minor_locator(NullLocator())


def _layers_axis(ax: Axes, table: pd.DataFrame) -> None:
    """A second axis on top in weight layers, where the mean path of every length has equally many a block."""
    some = table[table["length"] > 0]
    per_block = some["layers"].to_numpy(float) / some["length"].to_numpy(float)
    if not len(per_block) or per_block[0] <= 0 or np.ptp(per_block) > 1e-6 * per_block[0]:
        return
    factor = float(per_block[0])
    top = ax.secondary_xaxis("top", functions=(partial(np.multiply, factor), partial(np.multiply, 1 / factor)))
    last = factor * ax.get_xlim()[1]
    ticks = MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True).tick_values(0, last)
    top.set_xticks([tick for tick in ticks if tick <= last])
    top.set_xlabel("path length (layers)", color=GREY)
    top.tick_params(labelcolor=GREY, color="#aeb3ba")
    top.spines["top"].set_color("#aeb3ba")
