"""Figures of who carries the gradient: blocks, pairs of blocks, single paths; and how that changes over training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.ticker import MaxNLocator

from resect.paths.participation import Participation
from resect.report.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE_BLUE,
    PALE_GREY,
    SMALL,
    axes_or_new,
    key,
    name_panel,
    whole_numbers,
)

_NAMED = 30  # blocks, of which every name can be read


def blocks_figure(found: Participation, ax: Axes | None = None) -> Axes:
    """The share of the gradient through every block, with its 95 % interval."""
    ax = axes_or_new(ax)
    table = found.table
    ax.bar(table["block"], table["share"] * 100, color=BLUE, width=0.8)
    ax.vlines(table["block"], table["share_low"] * 100, table["share_high"] * 100, color=INK, linewidth=1)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(ylabel="gradient through the block (%)", xlim=(-0.7, len(table) - 0.3))
    _block_axis(ax, found.names)
    name_panel(ax, "each block")
    key(ax, [(f"sum: effective depth, {found.effective_depth:.2f} blocks", INK)])
    return ax


def pairs_figure(found: Participation, ax: Axes | None = None) -> Axes:
    """Share through both of two blocks less the product of their shares, in percentage points."""
    ax = axes_or_new(ax, height=5.6)
    values = found.interaction * 100
    largest = max(float(np.abs(values).max()), 1e-9)
    norm = TwoSlopeNorm(0, -largest, largest)
    image = ax.imshow(values, cmap="RdBu_r", norm=norm, interpolation="nearest", origin="lower")
    ax.grid(visible=False)
    ax.set(xlabel="block", ylabel="block")
    whole_numbers(ax)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True))
    assert ax.figure is not None
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
    bar.set_label("share through both − product of the shares (points)")
    name_panel(ax, "pairs: red together, blue one or the other")
    return ax


def strongest_figure(table: pd.DataFrame, blocks: int, ax: Axes | None = None) -> Axes:
    """Which blocks each of the strongest paths goes through, with its norm as a part of the whole gradient's."""
    ax = axes_or_new(ax, height=1.3 + 0.22 * len(table))
    ranks = range(len(table))
    for rank, chosen in zip(ranks, table["blocks"], strict=True):
        ax.plot([-0.5, blocks - 0.5], [rank, rank], color=PALE_GREY, linewidth=1, zorder=1)
        ax.scatter(chosen, [rank] * len(chosen), marker="s", s=26, color=BLUE, zorder=2)
        relative = table["relative"].iloc[rank]
        share = table["share"].iloc[rank]
        ax.text(blocks + 0.02 * blocks, rank, f"{relative:.3f}   {share * 100:+.2f} %", va="center", fontsize=SMALL)
    ax.text(blocks + 0.02 * blocks, -1.0, "norm    share", va="center", fontsize=SMALL, color=GREY)
    ax.set(xlim=(-1, blocks * 1.2), ylim=(len(table) - 0.4, -1.6), xlabel="block (a square: through its branch)")
    ax.set_yticks(ranks, [str(rank + 1) for rank in ranks])
    ax.set_ylabel("path, strongest first")
    ticks = MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True).tick_values(0, blocks - 1)
    ax.set_xticks([tick for tick in ticks if 0 <= tick < blocks])
    ax.grid(visible=False)
    name_panel(ax, "the strongest single paths")
    key(ax, [("norm: part of the whole gradient's", INK)])
    return ax


def training_figure(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Effective depth, effective range and effective number of paths over checkpoints."""
    ax = axes_or_new(ax)
    place = np.arange(len(table))
    lowest = np.maximum(table["low"] - 0.5, 0)
    ax.fill_between(place, lowest, table["high"] + 0.5, color=PALE_BLUE, linewidth=0, step="mid")
    ax.plot(place, table["effective_depth"], color=BLUE, marker="o", markersize=4)
    ax.plot(place, table["log2_effective_paths"], color=ORANGE, marker="s", markersize=4)
    ax.set(xlabel="checkpoint", ylabel="blocks; bits", xlim=(-0.6, len(table) - 0.4))
    shown = place[:: max(1, -(-len(table) // 12))]
    ax.set_xticks(shown, [_short(table["checkpoint"].iloc[i]) for i in shown])
    name_panel(ax, "over training")
    key(ax, [("● effective depth", BLUE), ("▬ effective range", "#7f9dbf"), ("■ log2 effective paths", ORANGE)])
    return ax


def _short(name: str) -> str:
    return name if len(name) <= 10 else f"…{name[-9:]}"


def _block_axis(ax: Axes, names: tuple[str, ...]) -> None:
    """Names under the bars where they can be read, numbers else."""
    if len(names) <= _NAMED and max(map(len, names)) * len(names) <= 110:
        ax.set_xticks(range(len(names)), names)
        return
    ax.set_xlabel("block")
    whole_numbers(ax)
