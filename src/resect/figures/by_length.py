"""What figures by path length share: curves without sign, logarithmic axes in percent, bands, ranges with numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from resect.figures.style import SMALL
from resect.words import superscript

DEEPEST = 1e-12  # the lowest value on a log axis, as a part of the highest
VISIBLE = 2e-3  # of the highest value: less cannot be seen on a linear axis
BELOW = 1e-300  # where no log axis reaches


def with_paths(lengths: pd.DataFrame) -> pd.DataFrame:
    """The lengths of which there are paths."""
    return lengths[np.isfinite(lengths["log2_paths"])] if "log2_paths" in lengths else lengths


def has_interval(table: pd.DataFrame, column: str) -> bool:
    """Whether there are intervals of the values in a column."""
    return f"{column}_low" in table and bool(table[f"{column}_low"].notna().any())


def band(ax: Axes, x: pd.Series, low: pd.Series, high: pd.Series, colour: str) -> None:
    """The interval of every length; on a log axis that of the value without sign, down to the axis if it holds 0."""
    log = ax.get_yscale() == "log"
    if log:
        sizes = pd.concat([low.abs(), high.abs()], axis=1)
        low, high = sizes.min(axis=1).where(np.sign(low) == np.sign(high), BELOW), sizes.max(axis=1)
    ax.fill_between(x, low, high, color=colour, alpha=0.1 if log else 0.2, linewidth=0)


def signed_curve(ax: Axes, x: pd.Series, y: pd.Series, colour: str, marker: str = "o") -> None:
    """Values without sign on a log axis: filled markers for positive ones, hollow ones for negative ones."""
    ax.plot(x, y.abs().where(y != 0), color=colour, linewidth=1.2)
    ax.plot(x[y > 0], y[y > 0], marker, color=colour, markersize=4)
    ax.plot(x[y < 0], -y[y < 0], marker, markerfacecolor="white", markeredgecolor=colour, markersize=4.3)


def percent_ticks(ax: Axes, lowest: float, highest: float) -> None:
    """At most nine ticks at whole powers of ten between two values in percent, on a logarithmic axis."""
    first, last = int(np.ceil(np.log10(lowest))), int(np.floor(np.log10(highest)))
    powers = np.arange(last, first - 1, -max(1, -(-(last - first + 1) // 9)))
    plain = {2: "100", 1: "10", 0: "1", -1: "0.1"}
    ax.set_yticks(10.0**powers, [plain.get(int(power), f"10{superscript(int(power))}") for power in powers])
    ax.yaxis.set_minor_locator(NullLocator())


def name_range(ax: Axes, ends: Sequence[float], level: float, text: str, colour: str) -> None:
    """The name of a range at a level of the axes, 0 to 1: at its right where there is room, else at its left, or on it.

    Args:
        ends: where the range begins and ends on the x axis.
    """
    start, end = ax.get_xlim()
    needed = (end - start) * 0.3
    place, align, shift = (ends[0] + ends[1]) / 2, "center", 0
    if end - ends[1] >= needed:
        place, align, shift = ends[1], "left", 6
    elif ends[0] - start >= needed:
        place, align, shift = ends[0], "right", -6
    ax.annotate(text, (place, level), xycoords=ax.get_xaxis_transform(), xytext=(shift, 0), textcoords="offset points",
                ha=align, va="center", fontsize=SMALL, color=colour,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"})  # fmt: skip
