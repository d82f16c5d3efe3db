"""What figures put on their axes: whole numbers, blocks, lines of reference, matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from resect.figures.colours import GREY, INK, PALE_GREY
from resect.figures.style import SMALL, figure_of


def whole_numbers(ax: Axes, axis: str = "x") -> None:
    """Ticks of an axis at whole numbers only."""
    getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True))


def bar_places(table: pd.DataFrame) -> np.ndarray:
    """Where the bar of every row stands: at its `block`, if each has one of its own, else at its number."""
    if "block" in table and table["block"].is_unique:
        return table["block"].to_numpy(int)
    return np.arange(len(table))


def block_axis(ax: Axes, blocks: Sequence[int]) -> None:
    """An x axis of bars, each at the index of its block."""
    ax.grid(visible=False, axis="x")
    whole_numbers(ax)
    if len(blocks) <= 15:
        ax.set_xticks(list(blocks))
    first, last = (min(blocks), max(blocks)) if len(blocks) else (0, 0)
    margin = max(0.7, (7 - last + first) / 2)  # a single bar does not fill the page
    ax.set_xlim(first - margin, last + margin)


def reference_line(ax: Axes, value: float, label: str) -> None:
    """A dashed horizontal line with its name at the right end, on a ground that keeps it readable over data."""
    ax.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=2.5)
    if label:
        ground = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
        ax.annotate(label, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 4.5), textcoords="offset points",
                    ha="right", va="bottom", color=INK, fontsize=SMALL, bbox=ground, zorder=4)  # fmt: skip


def rate_axis(ax: Axes, values: Sequence[float]) -> None:
    """A y axis of per cent around some values: from 0, unless all lie so far above that they would look alike."""
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    low, high = (found.min(), found.max()) if len(found) else (0.0, 0.0)
    start = 0.0 if low < 2 * (high - low) + 10 else max(0.0, low - max(high - low, 2.0))
    ax.set_ylim(start, high + 0.08 * (high - start) if high > start else start + 1.0)


def heat_map(ax: Axes, values: np.ndarray, label: str, *, shrink: float = 1.0, **options: Any) -> Colorbar:
    """A matrix in colours, from the bottom up, with a bar that says what they mean; NaN is grey."""
    image = ax.imshow(values, **{"origin": "lower", "interpolation": "nearest", "cmap": "viridis", **options})
    ax.grid(visible=False)
    ax.set_facecolor(PALE_GREY)
    ax.spines[:].set_visible(False)
    bar = figure_of(ax).colorbar(image, ax=ax, shrink=shrink, label=label)
    bar.ax.grid(visible=False)
    bar.outline.set_visible(False)
    return bar


def block_map(ax: Axes, values: np.ndarray, label: str, norm: Normalize) -> Colorbar:
    """A matrix over pairs of blocks, red above zero and blue below."""
    bar = heat_map(ax, values, label, shrink=0.9, cmap="RdBu_r", norm=norm)
    ax.set(xlabel="block (its index)", ylabel="block (its index)")
    whole_numbers(ax)
    whole_numbers(ax, "y")
    return bar
