"""Who carries the gradient, and who the metrics: blocks, pairs, single paths; and how that changes in training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.ticker import MaxNLocator

from resect.figures.colours import BAR_GREY, BLUE, DIM_BLUE, GREY, INK, ORANGE, PALE_BLUE, PALE_GREY
from resect.figures.marks import block_axis, block_map, heat_map, whole_numbers
from resect.figures.style import SMALL, axes_or_new, head, points_across
from resect.words import shortened

_NAMED = 30  # blocks, of which every name can be read
_LETTERS = 125  # of all names beside each other, with the gaps between them
_LEGIBLE = 9  # letters, to which a name may be cut
_NUMBERS = 105  # points, of the numbers beside a path


def shapley(table: pd.DataFrame, metric: str = "error", ax: Axes | None = None, *, unit: str | None = None) -> Axes:
    """What each block contributes to a metric, with intervals, and what deleting the block alone costs.

    Args:
        table: `block`, and of the metric its Shapley value, `..._low`, `..._high` and `..._alone`.
        unit: of the metric; None for an error rate in points, a loss in nats, and all else as it is.
    """
    ax = axes_or_new(ax)
    scale = 100 if metric == "error" and unit is None else 1
    unit = unit or {"error": "points of error", "loss": "nats"}.get(metric, metric)
    value, low, high, alone = (table[f"{metric}{end}"] * scale for end in ("", "_low", "_high", "_alone"))
    ax.bar(table["block"], value, color=BLUE, width=0.75)
    words = [("■ Shapley value", BLUE), ("– deleted alone", INK)]
    if np.isfinite(low).any():
        ax.vlines(table["block"], low, high, color=ORANGE, linewidth=1.3)
        words.insert(1, ("| 95 % interval", ORANGE))
    ax.plot(table["block"], alone, "_", color=INK, markersize=9, markeredgewidth=1.6)
    ax.axhline(0, color=INK, linewidth=0.8)
    block_axis(ax, table["block"].tolist())
    ax.set(xlabel="block (its index)", ylabel=f"contribution ({unit})")
    head(ax, f"contributions: {value.sum():.1f} {unit} in all".replace("-", "−"), words)
    return ax


def blocks(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    column: str = "share",
    label: str = "gradient through the block (%)",
    total: str | None = "effective depth",
) -> Axes:
    """A value of every block, the share of the gradient by default, with its 95 % interval.

    Args:
        table: `block`, `name`, and `column` with `..._low` and `..._high`.
        label: of the vertical axis; a label that ends in (%) shows fractions as per cent.
        total: what the sum of all values is, in blocks; None if it is nothing.
    """
    ax, scale = axes_or_new(ax), 100 if label.endswith("(%)") else 1
    value, low, high = (table[name] * scale for name in (column, f"{column}_low", f"{column}_high"))
    ax.bar(table["block"], value, color=BLUE, width=0.8)
    entries = [(f"sum: {total}, {table[column].sum():.2f} blocks", INK)] if total else []
    if np.isfinite(low).any():
        ax.vlines(table["block"], low, high, color=BAR_GREY, linewidth=1.3)
        entries.insert(0, ("| 95 % interval", GREY))
    ax.axhline(0, color=INK, linewidth=0.8)
    block_axis(ax, table["block"].tolist())
    ax.set(xlabel="block (its index)", ylabel=label)
    names, room = list(table["name"]), _LETTERS // len(table) - 2
    if len(names) <= _NAMED and (room >= _LEGIBLE or max(map(len, names)) <= room):
        ax.set_xticks(table["block"], shortened(names, max(room, _LEGIBLE)))
        ax.set_xlabel("block")
    head(ax, "each block", entries)
    return ax


def pairs(interaction: np.ndarray, ax: Axes | None = None) -> Axes:
    """Share through both of two blocks less the product of their shares, (n, n), in percentage points."""
    ax = axes_or_new(ax, height=5.6, width=7.2)
    largest = max(float(np.abs(interaction).max()) * 100, 1e-9)
    norm = TwoSlopeNorm(0, -largest, largest)
    block_map(ax, interaction * 100, "share through both − product of the shares (points)", norm)
    head(ax, "pairs: red together, blue one or the other")
    return ax


def strongest(table: pd.DataFrame, blocks: int | None = None, ax: Axes | None = None) -> Axes:
    """Which blocks each of the strongest paths goes through, with its norm as a part of the whole gradient's.

    Args:
        table: one row a path, the strongest first: `blocks`, `relative`, `share`.
        blocks: how many the network has; by default as many as the paths reach.
    """
    ax = axes_or_new(ax, height=1.4 + 0.22 * len(table))
    count = blocks or 1 + max((block for chosen in table["blocks"] for block in chosen), default=0)
    ranks = range(len(table))
    for rank, chosen, relative, share in zip(ranks, table["blocks"], table["relative"], table["share"], strict=True):
        ax.plot([-0.5, count - 0.5], [rank, rank], color=PALE_GREY, linewidth=1, zorder=1)
        ax.scatter(chosen, [rank] * len(chosen), marker="s", s=26, color=BLUE, zorder=2)
        numbers = f"{relative:.3f}   {share * 100:+.2f} %".replace("-", "−")
        ax.text(count - 0.3, rank, numbers, va="center", fontsize=SMALL)
    ax.text(count - 0.3, -1.0, "norm    share", va="center", fontsize=SMALL, color=GREY)
    end = (count + 0.7) / max(0.3, 1 - _NUMBERS / points_across(ax)) - 1
    ax.set(xlim=(-1, end), ylim=(len(table) - 0.4, -1.6), xlabel="block (its index)")
    ax.set_yticks(ranks, [str(rank + 1) for rank in ranks])
    ax.set_ylabel("path, strongest first")
    ticks = MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True).tick_values(0, count - 1)
    ax.set_xticks([tick for tick in ticks if 0 <= tick < count])
    ax.grid(visible=False)
    words = [("■ through its branch", BLUE), ("norm: part of the whole gradient's", GREY)]
    head(ax, "the strongest single paths found", words)
    return ax


def training(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Effective depth, effective range and effective number of paths over checkpoints.

    Args:
        table: one row a `checkpoint`: `low`, `high`, `effective_depth`, `log2_effective_paths`.
    """
    ax = axes_or_new(ax)
    place = np.arange(len(table))
    ax.fill_between(
        place, np.maximum(table["low"] - 0.5, 0), table["high"] + 0.5, color=PALE_BLUE, linewidth=0, step="mid"
    )
    ax.plot(place, table["effective_depth"], color=BLUE, marker="o", markersize=4)
    ax.plot(place, table["log2_effective_paths"], color=ORANGE, marker="s", markersize=4)
    ax.set(xlabel="checkpoint", ylabel="blocks; bits", xlim=(-0.6, len(table) - 0.4))
    names = shortened(list(table["checkpoint"]), 10)
    fit = max(1, int(points_across(ax) / (7 * max(map(len, names)) + 10)))
    shown = place[:: -(-len(table) // fit)]
    ax.set_xticks(shown, [names[i] for i in shown])
    words = [
        ("● effective depth (blocks)", BLUE),
        ("▬ effective range (blocks)", DIM_BLUE),
        ("■ log2 effective paths, at most (bits)", ORANGE),
    ]
    head(ax, "over training", words)
    return ax


def ranks(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The rank of every block by several scores: one row a score, dark for what matters least.

    Args:
        table: one row a block, one column a score.
    """
    ax = axes_or_new(ax, height=1.2 + 0.4 * table.shape[1])
    heat_map(ax, table.T.to_numpy(), "rank", aspect="auto", origin="upper")
    ax.set(xlabel="block (its index)")
    ax.set_yticks(range(table.shape[1]), [str(name).replace("_", " ") for name in table])
    whole_numbers(ax)
    head(ax, "blocks ranked by importance, 1 least")
    return ax
