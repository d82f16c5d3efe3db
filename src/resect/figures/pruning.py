"""What removing units costs: the front of error against what is removed; how far scores agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from resect.figures.colours import BAR_GREY, BLUE, GREY, INK, ORANGE
from resect.figures.marks import heat_map, rate_axis, reference_line, whole_numbers
from resect.figures.style import SMALL, axes_or_new, head
from resect.words import decimal, percent

_PER_ROW = 64  # units
_DARK = 0.6  # correlations, on whose ground ink cannot be read


def front(
    table: pd.DataFrame, intact: float, ax: Axes | None = None, *, name: str = "error", rate: bool = True,
    budget: str = "remove", unit: str = "unit",
) -> Axes:  # fmt: skip
    """The error by how much is removed, from the intact network on, with the 95 % interval of its change.

    Args:
        table: one row a choice: `removed`, the parts that stay of `params`, `flops` and `latency`, `error` with
            `damage_low` and `damage_high`, or `loss` with those of `loss_change`.
        intact: the intact network's error (loss).
        name: of the error; rate: it is a fraction, drawn in per cent.
        budget: what is drawn to the right: remove, params, flops or latency.
    """
    ax, scale = axes_or_new(ax), 100 if rate else 1
    metric, change = ("error", "damage") if "damage" in table else ("loss", "loss_change")
    where = table["removed"] if budget == "remove" else (1 - table[budget]) * 100
    low, high = ((intact + table[f"{change}_{end}"]).clip(lower=0) * scale for end in ("low", "high"))
    if np.isfinite(low).any():
        ax.vlines(where, low, high, color=BAR_GREY, linewidth=1.6)
    joined = 1.6 if len(table) > 1 else 0  # a line to a single choice would tell of budgets that nobody looked at
    ax.plot(
        [0, *where],
        [intact * scale, *table[metric] * scale],
        color=BLUE,
        linewidth=joined,
        marker="o",
        markersize=4.5,
        clip_on=False,
    )
    drawn = [intact * scale, *table[metric] * scale, *low, *high]
    if rate:
        rate_axis(ax, drawn)
    else:
        ax.set_ylim(None, 1.08 * float(np.nanmax(drawn)) or 1.0)
    reference_line(ax, intact * scale, f"intact {percent(intact) if rate else f'{intact:.3g}'}")
    words = {"params": "parameters", "flops": "FLOPs"}
    gone = f"{unit}s removed" if budget == "remove" else f"{words.get(budget, budget)} saved (%)"
    ax.set(xlabel=gone, ylabel=f"{name} (%)" if rate else name, xlim=(0, float(where.max()) * 1.04 or 1))
    if budget == "remove":
        whole_numbers(ax)
    head(ax, "", [("● on samples that chose nothing", BLUE), ("| 95 % interval of the change", GREY)])
    return ax


def correlations(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Rank correlations of scores, a matrix.

    Args:
        table: `score`, and one column a score.
    """
    names = [str(name).replace("_", " ") for name in table["score"]]
    ax = axes_or_new(ax, height=1.8 + 0.42 * len(names), width=7.2)
    values = table.drop(columns="score").to_numpy(float)
    heat_map(ax, values, "Spearman's rank correlation", cmap="RdBu_r", vmin=-1, vmax=1, origin="upper")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "white" if abs(value) > _DARK else INK
            ax.text(j, i, decimal(value), ha="center", va="center", fontsize=SMALL, color=ink)
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right")
    ax.set_yticks(range(len(names)), names)
    head(ax, "how far scores agree on what matters")
    return ax


def windows(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The angle by which every window of consecutive blocks turns the state; grey where the shape changes.

    Args:
        table: `start`, `length`, `angular`.
    """
    ax = axes_or_new(ax, height=4.2)
    grid = np.full((int(table["length"].max()), int((table["start"] + table["length"]).max())), np.nan)
    grid[table["length"] - 1, table["start"]] = table["angular"]
    extent = (-0.5, grid.shape[1] - 0.5, 0.5, grid.shape[0] + 0.5)
    heat_map(ax, grid, "angle between the states / π", aspect="auto", extent=extent)
    ax.set(xlabel="first block of the window (its index)", ylabel="consecutive blocks")
    whole_numbers(ax)
    whole_numbers(ax, "y")
    head(ax, "how far windows of blocks turn the state")
    return ax


def units(table: pd.DataFrame, unit: str = "block", ax: Axes | None = None) -> Axes:
    """Units in order, those that go hollow.

    Args:
        table: one row a unit: `removed`.
    """
    per_row = -(-len(table) // -(-len(table) // _PER_ROW))
    rows = -(-len(table) // per_row)
    ax = axes_or_new(ax, height=0.9 + 0.5 * rows)
    for place, removed in enumerate(table["removed"]):
        x, y = place % per_row, -1.9 * (place // per_row)
        face, edge = ("white", ORANGE) if removed else (BLUE, BLUE)
        ax.add_patch(Rectangle((x + 0.1, y), 0.8, 1, facecolor=face, edgecolor=edge, linewidth=1.4))
        if per_row <= 25 or place % 5 == 0:
            ax.text(x + 0.5, y - 0.12, str(place), ha="center", va="top", fontsize=7.5)
    ax.set_xlim(-0.1, max(per_row, 14) + 0.1)
    ax.set_ylim(-1.9 * (rows - 1) - 0.9, 1.2)
    ax.axis("off")
    head(ax, "", [(f"■ {unit} that stays", BLUE), ("□ goes", ORANGE)])
    return ax
